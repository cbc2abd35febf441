"""Packets -> UDP: one sendmmsg(2) for many, compiled."""

from typing import Any

import numpy as np

from fabric.compiled import kernel
from fabric.native import MSG_DONTWAIT, sendmmsg

HEADER_WORDS = 8
"""64-bit words of a struct mmsghdr: name, name length, iovec, their number, control, its length, flags, sent."""


@kernel
def send(descriptor: int, headers: Any, vectors: Any, lengths: Any, first: int, stop: int) -> int:
    """Send packets ``first`` to ``stop`` (exclusive); return how many the operating system refused.

    ``headers`` is int64[n, 8] (struct mmsghdr), ``vectors`` int64[n, 2] (struct iovec), ``lengths`` int64[n].
    A packet is refused when a buffer is full or the network is away; those after it are tried all the same.
    """
    for i in range(first, stop):
        vectors[i, 1] = lengths[i]
    refused = 0
    at = first
    while at < stop:
        done = sendmmsg(descriptor, headers[at:].ctypes.data, stop - at, MSG_DONTWAIT)
        if done < 0:
            refused += 1
            done = 1
        at += done
    return refused


def warm_up() -> None:
    """Compile or load the entry kernel with the array types of the live path."""
    send(-1, np.zeros((1, HEADER_WORDS), np.int64), np.zeros((1, 2), np.int64), np.zeros(1, np.int64), 0, 0)
