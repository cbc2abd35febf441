"""Packets of Cboe's Sequenced Unit Header -> blocks of messages, compiled (pure).

The header (8 bytes, little-endian): length of the packet u16 @0, messages u8 @2, unit u8 @3, number of the first
message u32 @4; after `LAST_NUMBER` comes 1. Messages follow, each with its own length u8 @0 and type u8 @1. A packet
without messages is a heartbeat and tells the next number. Number 0 means outside of any numbering: nothing of a market
is sent so over multicast, so such packets are counted and make no block.

Source: Cboe US Equities/Options Multicast PITCH 2.41, "Message Format" and "Sequenced Unit Header".
"""

from typing import Any

import numpy as np

from fabric.compiled import kernel
from nodes.feeds.wire_kernel import BLOCK, DATA, HEARTBEAT, le16, le32, u8

HEADER_BYTES = 8
MESSAGE_BYTES_MIN = 2
MESSAGES_MAX = 255
"""Messages in one packet."""
LAST_NUMBER = (1 << 32) - 1

# Columns of `counters`.
PACKETS = 0  # sound enough to be used
HEARTBEATS = 1
UNSEQUENCED = 2  # packets outside of the numbering
SHORT = 3  # malformed from here: shorter than its header
LENGTH = 4  # stated lengths and counts do not agree with the bytes
N_COUNTERS = 5
COUNTER_NAMES = ("packets", "heartbeats", "unsequenced", "malformed_short", "malformed_length")
"""Names of the columns, in their order."""


@kernel
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
) -> tuple[int, int]:
    """Make blocks of packets from number ``first``; return the first packet not taken and the blocks made.

    Packet i is ``buffer[offsets[i]:offsets[i] + lengths[i]]`` and came on line ``lines[i]``; stream is
    ``groups[line] << 16 | unit``. Stops early when ``blocks`` is full. A packet that states more than is there
    gives the messages that are whole, what is missing shows as a gap.
    """
    made = 0
    i = first
    while i < offsets.size and made < blocks.size:
        at = offsets[i]
        length = lengths[i]
        i += 1
        if length < HEADER_BYTES:
            counters[SHORT] += 1
            continue
        stated = le16(buffer, at)
        count = u8(buffer, at + 2)
        number = le32(buffer, at + 4)
        start = at + HEADER_BYTES
        end = at + min(stated, length)
        stop = start
        read = 0
        while read < count and stop + MESSAGE_BYTES_MIN <= end:
            size = u8(buffer, stop)
            if size < MESSAGE_BYTES_MIN or stop + size > end:
                break
            stop += size
            read += 1
        if read < count or stated != length or stop != at + length:
            counters[LENGTH] += 1
            if count > 0 and read == 0:
                continue
        counters[PACKETS] += 1
        if number == 0:
            counters[UNSEQUENCED] += 1
            continue
        if count == 0:
            counters[HEARTBEATS] += 1
        block = blocks[made]
        block["stream"] = groups[lines[i - 1]] << 16 | u8(buffer, at + 3)
        block["session"] = 0
        block["kind"] = HEARTBEAT if count == 0 else DATA
        block["first"] = number
        block["count"] = read
        block["skip"] = 0
        block["start"] = start
        block["stop"] = stop
        block["sent_ns"] = 0
        block["recv_ns"] = recv_ns[i - 1]
        block["line"] = lines[i - 1]
        made += 1
    return i, made


def warm_up() -> None:
    """Compile or load the kernel with the live array types; the packet is too short to do anything."""
    one = np.zeros(1, np.int64)
    counters = np.zeros(N_COUNTERS, np.int64)
    frame(np.zeros(1, np.uint8), one, one, one, one, one, 0, np.zeros(1, BLOCK), counters)
