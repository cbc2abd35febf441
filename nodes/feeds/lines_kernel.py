"""`recvmmsg` in compiled code: many datagrams into one preallocated buffer with one system call.

Source: Linux manual page recvmmsg(2); struct layouts of 64-bit Linux.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from fabric.compiled import waiting_kernel
from fabric.native import EAGAIN, EINTR, MMSG_HEADER_BYTES, MSG_DONTWAIT, errno, recvmmsg

# Byte offsets in struct mmsghdr, as columns of int64 or int32.
_IOV_ADDRESS = 16 // 8
_IOV_COUNT = 24 // 8
_FLAGS = 48 // 4
_LENGTH = 56 // 4
MSG_TRUNC = 0x20


def new_headers(buffer: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The ``mmsghdr`` records and the ``iovec``s that point into the rows of ``buffer[packets, bytes]``.

    Both hold raw addresses: they are good only as long as ``buffer``, and ``iovec`` must be kept with the headers.
    """
    packets, size = buffer.shape
    iovecs = np.empty((packets, 2), np.int64)
    iovecs[:, 0] = buffer.ctypes.data + np.arange(packets) * size
    iovecs[:, 1] = size
    headers = np.zeros((packets, MMSG_HEADER_BYTES // 8), np.int64)
    headers[:, _IOV_ADDRESS] = iovecs.ctypes.data + np.arange(packets) * 16
    headers[:, _IOV_COUNT] = 1
    return headers, iovecs


@waiting_kernel
def receive(fd: int, headers: Any, first: int, lengths: Any, truncated: Any) -> int:
    """Take what waits on a socket into slots ``first`` and up, without blocking; return how many datagrams.

    Their lengths go to ``lengths``; one that was longer than its slot is counted in ``truncated[0]``. Returns the
    negative errno when the socket has failed.
    """
    room = headers.shape[0] - first
    if room == 0:
        return 0
    taken = recvmmsg(fd, headers.ctypes.data + first * MMSG_HEADER_BYTES, room, MSG_DONTWAIT, 0)
    if taken < 0:
        failed = errno()
        return 0 if failed == EAGAIN or failed == EINTR else -failed
    fields = headers.view(np.int32)
    for i in range(first, first + taken):
        lengths[i] = fields[i, _LENGTH]
        truncated[0] += (fields[i, _FLAGS] & MSG_TRUNC) != 0
    return taken


def warm_up() -> None:
    """Compile or load the receiver with the live array types; reads from no socket (descriptor -1)."""
    headers, _ = new_headers(np.zeros((1, 1), np.uint8))
    receive(-1, headers, 0, np.zeros(1, np.int64), np.zeros(1, np.int64))
