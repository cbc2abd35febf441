"""Messages of an ITCH daily file -> MoldUDP64 packets, compiled (pure): so that a file is read like a capture.

A file is {length u16, message} and nothing else (NASDAQ's daily files; BX and PSX have the same). Messages that were
sent within `TOGETHER_NS` share a packet, as they do on the wire; it was received when the last of them was sent.
"""

from typing import Any

import numpy as np

from fabric.compiled import kernel
from nodes.feeds.moldudp64_kernel import HEADER_BYTES, SESSION_BYTES
from nodes.feeds.wire_kernel import be16, be64

PACKET_BYTES = 1_400
TOGETHER_NS = 100_000
_TIME_MASK = (1 << 48) - 1
_TIMED_BYTES = 11


@kernel
def wrap(
    data: Any,
    start: int,
    end: int,
    midnight_ns: int,
    number: int,
    out: Any,
    offsets: Any,
    lengths: Any,
    recv_ns: Any,
) -> tuple[int, int, int]:
    """Wrap the whole messages of ``data[start:end]`` into packets in ``out``, numbered from ``number``.

    Returns where the first message begins that was not taken, the next number, and how many packets were written:
    ``offsets``, ``lengths`` and ``recv_ns`` say where they are. Stops early when ``out`` or ``offsets`` is full.
    A message of length 0, which ends a session in some files, is passed over.
    """
    packets = 0
    at = 0
    pos = start
    while packets < offsets.size:
        head = at
        at += HEADER_BYTES
        count = 0
        first_ns = 0
        last_ns = 0
        while pos + 2 <= end:
            size = be16(data, pos)
            if size == 0:
                pos += 2
                continue
            stop = pos + 2 + size
            if stop > end or at + 2 + size > out.size:
                break
            sent_ns = be64(data, pos + 5) & _TIME_MASK if size >= _TIMED_BYTES else last_ns
            if count == 0:
                first_ns = sent_ns
            elif at + 2 + size - head > PACKET_BYTES or sent_ns - first_ns >= TOGETHER_NS:
                break
            last_ns = max(last_ns, sent_ns)
            for i in range(2 + size):
                out[at + i] = data[pos + i]
            at += 2 + size
            pos = stop
            count += 1
        if count == 0:
            break
        for i in range(SESSION_BYTES):
            out[head + i] = 32
        for i in range(8):
            out[head + SESSION_BYTES + i] = number >> (8 * (7 - i)) & 0xFF
        out[head + SESSION_BYTES + 8] = count >> 8
        out[head + SESSION_BYTES + 9] = count & 0xFF
        number += count
        offsets[packets] = head
        lengths[packets] = at - head
        recv_ns[packets] = midnight_ns + last_ns
        packets += 1
    return pos, number, packets


def warm_up() -> None:
    """Compile or load the kernel with the live array types; there is nothing to wrap."""
    none, data = np.zeros(0, np.int64), np.zeros(1, np.uint8)
    wrap(data, 0, 0, 0, 1, data, none, none, none)
