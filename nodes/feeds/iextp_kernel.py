"""IEX-TP packets -> blocks of messages, compiled (pure).

Header, little-endian, 40 bytes: version 1 @0, protocol u16 @2, channel u32 @4, session u32 @8, bytes behind the header
u16 @12, message count u16 @14, number of the first message i64 @24, time of sending i64 @32 (ns since the epoch); then
as many times length u16 and that many bytes. Count 0 is a heartbeat and tells the next number.
Source: IEX-TP specification 1.25, "Segment Header".
"""

from typing import Any

import numpy as np

from fabric.compiled import lean_kernel
from nodes.feeds.wire_kernel import BLOCK, DATA, HEARTBEAT, le16, le32, le64

HEADER_BYTES = 40
SEQUENCE_MAX = 1 << 60
TIME_MAX_NS = 1 << 62

# Columns of `counters`.
PACKETS = 0  # sound: they made a block
HEARTBEATS = 1
SHORT = 2  # malformed from here: packet shorter than its header
VERSION = 3  # transport version is not 1
PROTOCOL = 4  # another protocol id than this feed's
SEQUENCE = 5  # sequence number or time negative or absurd
LENGTH = 6  # stated lengths and counts do not agree with the bytes
N_COUNTERS = 7


@lean_kernel
def frame(
    buffer: Any,
    offsets: Any,
    lengths: Any,
    recv_ns: Any,
    lines: Any,
    groups: Any,
    first: int,
    blocks: Any,
    counters: Any,
    protocol: int,
) -> tuple[int, int]:
    """Make a BLOCK of each packet from number ``first``; return the first packet not taken and the blocks made.

    Packet ``i`` is ``buffer[offsets[i]:offsets[i] + lengths[i]]`` and came on line ``lines[i]``, one of group
    ``groups[lines[i]]``, which with the channel makes its stream. Stops early when ``blocks`` (BLOCK) is full.
    """
    made = 0
    i = first
    while i < offsets.size and made < blocks.size:
        at = offsets[i]
        end = at + lengths[i]
        i += 1
        if end - at < HEADER_BYTES:
            counters[SHORT] += 1
            continue
        if buffer[at] != 1:
            counters[VERSION] += 1
            continue
        if le16(buffer, at + 2) != protocol:
            counters[PROTOCOL] += 1
            continue
        stated = at + HEADER_BYTES + le16(buffer, at + 12)
        count = le16(buffer, at + 14)
        sequence = le64(buffer, at + 24)
        sent_ns = le64(buffer, at + 32)
        if sequence < 0 or sequence > SEQUENCE_MAX or sent_ns < 0 or sent_ns > TIME_MAX_NS:
            counters[SEQUENCE] += 1
            continue
        pos = at + HEADER_BYTES
        last = min(stated, end)
        read = 0
        while read < count and pos + 2 <= last and pos + 2 + le16(buffer, pos) <= last:
            pos += 2 + le16(buffer, pos)
            read += 1
        if read < count or pos != end or stated != end:
            counters[LENGTH] += 1
            if count > 0 and read == 0:
                continue
        counters[PACKETS] += 1
        if count == 0:
            counters[HEARTBEATS] += 1
        line = lines[i - 1]
        block = blocks[made]
        made += 1
        block["stream"] = groups[line] << 16 | (le32(buffer, at + 4) & 0xFFFF)
        block["session"] = le32(buffer, at + 8)
        block["kind"] = HEARTBEAT if count == 0 else DATA
        block["first"] = sequence
        block["count"] = read
        block["skip"] = 0
        block["start"] = at + HEADER_BYTES
        block["stop"] = pos
        block["sent_ns"] = sent_ns
        block["recv_ns"] = recv_ns[i - 1]
        block["line"] = line
    return i, made


def warm_up() -> None:
    """Compile or load the kernel with the live array types; the packet is too short to do anything."""
    one = np.zeros(1, np.int64)
    counters = np.zeros(N_COUNTERS, np.int64)
    frame(np.zeros(1, np.uint8), one, one, one, one, one, 0, np.zeros(1, BLOCK), counters, 0)
