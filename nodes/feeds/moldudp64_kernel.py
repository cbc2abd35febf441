"""MoldUDP64 1.00 packets -> blocks of messages, compiled (pure).

Header, big-endian: session ASCII[10] @0, number of the first message u64 @10, message count u16 @18; then as many
times length u16 and that many bytes. Count 0 is a heartbeat, 0xFFFF the end of the session; both tell the next number.
Source: MoldUDP64 protocol specification 1.00, "Downstream Packet".
"""

from typing import Any

import numpy as np

from fabric.compiled import kernel
from nodes.feeds.wire_kernel import BLOCK, DATA, END, HEARTBEAT, be16, be64, text_hash

HEADER_BYTES = 20
SESSION_BYTES = 10
END_OF_SESSION = 0xFFFF
SEQUENCE_MAX = 1 << 60

# Columns of `counters`.
PACKETS = 0  # sound: they made a block
HEARTBEATS = 1
ENDS = 2  # end of session
SHORT = 3  # malformed from here: packet shorter than its header
SEQUENCE = 4  # sequence number absurd
LENGTH = 5  # the messages do not lie in the bytes, or bytes are left behind them
N_COUNTERS = 6


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
    """Make a BLOCK of each packet from number ``first``; return the first packet not taken and the blocks made.

    Packet ``i`` is ``buffer[offsets[i]:offsets[i] + lengths[i]]`` and came on line ``lines[i]``, one of group
    ``groups[lines[i]]``, which with the session makes its stream. Stops early when ``blocks`` (BLOCK) is full.
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
        sequence = be64(buffer, at + SESSION_BYTES)
        count = be16(buffer, at + SESSION_BYTES + 8)
        if sequence < 0 or sequence > SEQUENCE_MAX:
            counters[SEQUENCE] += 1
            continue
        kind = DATA
        if count == 0:
            kind = HEARTBEAT
            counters[HEARTBEATS] += 1
        elif count == END_OF_SESSION:
            kind = END
            count = 0
            counters[ENDS] += 1
        pos = at + HEADER_BYTES
        read = 0
        while read < count and pos + 2 <= end and pos + 2 + be16(buffer, pos) <= end:
            pos += 2 + be16(buffer, pos)
            read += 1
        if read < count or pos != end:
            counters[LENGTH] += 1
            if kind == DATA and read == 0:
                continue
        counters[PACKETS] += 1
        line = lines[i - 1]
        block = blocks[made]
        made += 1
        block["stream"] = groups[line] << 16
        block["session"] = text_hash(buffer, at, SESSION_BYTES)
        block["kind"] = kind
        block["first"] = sequence
        block["count"] = read
        block["skip"] = 0
        block["start"] = at + HEADER_BYTES
        block["stop"] = pos
        block["sent_ns"] = 0
        block["recv_ns"] = recv_ns[i - 1]
        block["line"] = line
    return i, made


def warm_up() -> None:
    """Compile or load the kernel with the live array types; the packet is too short to do anything."""
    one = np.zeros(1, np.int64)
    frame(np.zeros(1, np.uint8), one, one, one, one, one, 0, np.zeros(1, BLOCK), np.zeros(N_COUNTERS, np.int64))
