"""NYSE's packet header (Pillar, XDP) -> blocks of messages, compiled (pure).

Numbers run for each channel, which is a multicast group of its own: so one stream for each group of lines. What
the exchange sends to refresh somebody's state has numbers of its own and goes into a second stream beside it
(`REFRESH`). After a sequence reset numbers begin anew: `session` counts the resets of the stream. Both lines carry a
reset, so two that were sent at about one time are one, and a packet that was sent shortly before a reset and comes
after it is dropped. A reset must be whole and have the number 1: a bit that flipped in another packet makes none.

Source: NYSE XDP Common Client Specification, "Packet Header", "Sequence Number Reset"; protocols section 4.
Integers are little-endian.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean_kernel
from nodes.feeds.wire_kernel import BLOCK, DATA, HEARTBEAT, le16, le32, u8

HEADER_BYTES = 16
MESSAGE_HEADER_BYTES = 4
"""Size and type: the shortest message."""

# Delivery flags.
FLAG_HEARTBEAT = 1
FLAG_FAILOVER = 10
FLAG_ORIGINAL = 11
FLAG_RESET = 12
FLAG_RETRANSMITTED_ALONE = 13
FLAG_RETRANSMITTED = 15
FLAG_REFRESH_ALONE = 17
FLAG_REFRESH_START = 18
FLAG_REFRESH = 19
FLAG_REFRESH_END = 20
FLAG_UNAVAILABLE = 21

REFRESH = 1
"""Low bits of the stream of refreshes; the live stream has 0."""
TYPE_RESET = 1
RESET_BYTES = 14
RESET_COPY_NS = 1_000_000_000
"""Resets that were sent further apart than this are two."""
LATE_NS = 5_000_000_000
"""A packet that was sent longer before a reset than this is not late: then the time in the reset was wrong."""
SECOND_NS = 1_000_000_000

# Columns of `counters`.
PACKETS = 0  # taken: sound enough to be read
HEARTBEATS = 1
RESETS = 2
RETRANSMITTED = 3  # packets that were sent again for somebody
REFRESHED = 4  # packets of refreshes
UNAVAILABLE = 5  # packets that say that a range of numbers cannot be had any more
LATE = 6  # packets of before a reset that came after it
SHORT = 7  # malformed from here: packet shorter than its header
FLAG = 8  # a delivery flag that the specification does not have
TIME = 9  # a send time with more than 999,999,999 ns
LENGTH = 10  # stated sizes and counts do not agree with the bytes
STREAMS = 11  # more streams than the table holds
N_COUNTERS = 12

STREAM = np.dtype(
    [
        ("used", "<i8"),  # 0 where the row is free
        ("stream", "<i8"),
        ("session", "<i8"),  # resets so far
        ("sent_ns", "<i8"),  # when the last reset was sent, 0 if there was none
    ]
)


def new_streams(streams_max: int) -> npt.NDArray[np.void]:
    """What framing remembers, for so many streams: nothing seen yet."""
    return np.zeros(streams_max, STREAM)


@lean_kernel
def find_stream(streams: Any, stream: int) -> int:
    """The row of a stream, taking a free one for a new stream; -1 when there is none."""
    for row in range(streams.size):
        if streams[row]["used"] == 0:
            streams[row]["used"] = 1
            streams[row]["stream"] = stream
            return row
        if streams[row]["stream"] == stream:
            return row
    return -1


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
    streams: Any,
) -> tuple[int, int]:
    """Turn packets from number ``first`` into blocks; return the first packet not taken and the blocks made.

    Stops early only when ``blocks`` is full: empty it and call again. ``streams`` is from `new_streams`.
    """
    n = 0
    i = first
    while i < offsets.size and n < blocks.size:
        at = offsets[i]
        length = lengths[i]
        line = lines[i]
        received = recv_ns[i]
        i += 1
        if length < HEADER_BYTES:
            counters[SHORT] += 1
            continue
        flag = u8(buffer, at + 2)
        sent_sub_ns = le32(buffer, at + 12)
        if sent_sub_ns >= SECOND_NS:
            counters[TIME] += 1
            continue
        sent_ns = le32(buffer, at + 8) * SECOND_NS + sent_sub_ns
        is_live = flag == FLAG_ORIGINAL or flag == FLAG_HEARTBEAT or flag == FLAG_RESET or flag == FLAG_FAILOVER
        is_refresh = FLAG_REFRESH_ALONE <= flag <= FLAG_REFRESH_END
        is_again = flag == FLAG_RETRANSMITTED_ALONE or flag == FLAG_RETRANSMITTED
        if flag == FLAG_UNAVAILABLE:
            counters[PACKETS] += 1
            counters[UNAVAILABLE] += 1
            continue
        if not (is_live or is_refresh or is_again):
            counters[FLAG] += 1
            continue

        stated = le16(buffer, at)
        count = u8(buffer, at + 3) if flag != FLAG_HEARTBEAT else np.int64(0)
        start = at + HEADER_BYTES
        stop = at + max(np.int64(HEADER_BYTES), min(stated, length))
        position = start
        read = np.int64(0)
        while read < count and position + MESSAGE_HEADER_BYTES <= stop:
            size = le16(buffer, position)
            if size < MESSAGE_HEADER_BYTES or position + size > stop:
                break
            position += size
            read += 1
        if read < count or position != at + length or stated != length:
            counters[LENGTH] += 1
            if read == 0 and count > 0:
                continue

        row = find_stream(streams, groups[line] << 16)
        if row < 0:
            counters[STREAMS] += 1
            continue
        known = streams[row]
        if (
            is_live
            and read > 0
            and le16(buffer, start + 2) == TYPE_RESET
            and le16(buffer, start) >= RESET_BYTES
            and le32(buffer, at + 4) == 1
            and stated == length
            and abs(sent_ns - known["sent_ns"]) > RESET_COPY_NS
        ):
            counters[RESETS] += 1
            known["session"] += 1
            known["sent_ns"] = sent_ns
        if is_live and 0 < known["sent_ns"] - sent_ns <= LATE_NS:
            counters[LATE] += 1
            continue

        counters[PACKETS] += 1
        if is_refresh:
            counters[REFRESHED] += 1
        if is_again:
            counters[RETRANSMITTED] += 1
        if read == 0:
            counters[HEARTBEATS] += 1
        block = blocks[n]
        n += 1
        block["stream"] = known["stream"] | (REFRESH if is_refresh else 0)
        block["session"] = known["session"]
        block["kind"] = DATA if read > 0 else HEARTBEAT
        block["first"] = le32(buffer, at + 4)
        block["count"] = read
        block["skip"] = 0
        block["start"] = start
        block["stop"] = position
        block["sent_ns"] = sent_ns
        block["recv_ns"] = received
        block["line"] = line
    return i, n


def warm_up() -> None:
    """Compile or load the entry kernel with the array types of the live path; the packet is too short for anything."""
    one = np.zeros(1, np.int64)
    counters = np.zeros(N_COUNTERS, np.int64)
    frame(np.zeros(1, np.uint8), one, one, one, one, one, 0, np.zeros(1, BLOCK), counters, new_streams(1))
