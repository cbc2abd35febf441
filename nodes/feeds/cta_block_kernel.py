"""Blocks of the consolidated tape of the CTA plan (CQS and CTS, binary): UDP payload -> BLOCK, compiled (pure).

A block is believed only when its checksum is right, so a corrupt one costs itself and shows as a gap at the next.
A block of nothing but line integrity messages is the wire's heartbeat: those consume no number (recorded: number 0
at 00:16 and still 0 at the start of the day at 01:30). The header names no session; numbers begin anew each day, so
the day is the session. Within a day the tape may reset its numbers (message C L), which only the time of sending tells.
So a retransmitted block (V) is taken as what it is, an answer: it repeats the past and never begins anything anew.

Source: CTS and CQS 2.11b, "Block header"; ``protocols.md`` 5.1; checksum as in all recorded packets. Big-endian.
"""

from typing import Any

import numpy as np

from fabric.compiled import lean, lean_kernel
from nodes.feeds.wire_kernel import BLOCK, DATA, HEARTBEAT, be16, be32, u8

HEADER_BYTES = 20
MESSAGE_BYTES_MIN = 4
"""Length, category and type: with less a message could not be named."""
DAY_SHIFT_S = 3 * 3_600
"""The day begins at 03:00 UTC: after the end of the last (20:05 New York) and before the lines come up (00:16)."""

# Columns of `counters`.
PACKETS = 0  # sound: a block came of them
HEARTBEATS = 1  # of those, line integrity and nothing else
RETRANSMITTED = 2  # of those, sent again by the tape
SHORT = 3  # malformed from here: shorter than a block header
PROTOCOL = 4  # of a feed that is neither Q (quotes) nor T (trades)
TIME = 5  # the time of sending is no time
CHECKSUM = 6
LENGTH = 7  # stated sizes and counts do not agree with the bytes
N_COUNTERS = 8

NAMES = (
    "packets",
    "heartbeats",
    "retransmitted",
    "malformed_short",
    "malformed_protocol",
    "malformed_time",
    "malformed_checksum",
    "malformed_length",
)

_QUOTES, _TRADES, _AGAIN = ord("Q"), ord("T"), ord("V")
_CONTROL, _LINE_INTEGRITY = ord("C"), ord("T")


@lean
def checksum(data: Any, at: int, size: int) -> int:
    """The low 16 bits of the sum of a block's bytes, its checksum field left out."""
    total = 0
    for i in range(at, at + size):
        total += u8(data, i)
    return (total - u8(data, at + 18) - u8(data, at + 19)) & 0xFFFF


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
) -> tuple[int, int]:
    """Frame packets from number ``first``; return the first packet not taken and the blocks made.

    Stops early when ``blocks`` (BLOCK) is full. Packet ``i`` came on line ``lines[i]``, whose group is
    ``groups[lines[i]]``; the stream is that group and the feed's letter. The last lines are those of answers, one a
    group, in their order.
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
        feed = u8(buffer, at + 3)
        if feed != _QUOTES and feed != _TRADES:
            counters[PROTOCOL] += 1
            continue
        size = be16(buffer, at + 1)
        if size < HEADER_BYTES or size > length:
            counters[LENGTH] += 1
            continue
        if checksum(buffer, at, size) != be16(buffer, at + 18):
            counters[CHECKSUM] += 1
            continue
        seconds = be32(buffer, at + 10)
        fraction_ns = be32(buffer, at + 14)
        if fraction_ns >= 1_000_000_000:
            counters[TIME] += 1
            continue
        count = u8(buffer, at + 9)
        end = at + size
        start = at + HEADER_BYTES
        stop = start
        whole = 0
        integrity = 0
        while whole < count and stop + MESSAGE_BYTES_MIN <= end:
            message = be16(buffer, stop)
            if message < MESSAGE_BYTES_MIN or stop + message > end:
                break
            if buffer[stop + 2] == _CONTROL and buffer[stop + 3] == _LINE_INTEGRITY:
                integrity += 1
            stop += message
            whole += 1
        if whole < count or end - stop > 1 or (end - stop == 1 and (size & 1)) or size != length:
            counters[LENGTH] += 1
            if whole == 0 and count > 0:
                continue
        counters[PACKETS] += 1
        line = lines[i - 1]
        group = groups[line]
        if buffer[at + 4] == _AGAIN:
            counters[RETRANSMITTED] += 1
            line = groups.size - 1 - (groups[groups.size - 1] - group)
        is_heartbeat = integrity == count
        if is_heartbeat:
            counters[HEARTBEATS] += 1
        block = blocks[made]
        block["stream"] = group << 16 | feed
        block["session"] = (seconds - DAY_SHIFT_S) // 86_400
        block["kind"] = HEARTBEAT if is_heartbeat else DATA
        block["first"] = be32(buffer, at + 5)
        block["count"] = 0 if is_heartbeat else whole
        block["skip"] = 0
        block["start"] = start
        block["stop"] = start if is_heartbeat else stop
        block["sent_ns"] = seconds * 1_000_000_000 + fraction_ns
        block["recv_ns"] = recv_ns[i - 1]
        block["line"] = line
        made += 1
    return i, made


def warm_up() -> None:
    """Compile or load with the live array types; the packet is too short to do anything."""
    one = np.zeros(1, np.int64)
    frame(np.zeros(1, np.uint8), one, one, one, one, one, 0, np.zeros(1, BLOCK), np.zeros(N_COUNTERS, np.int64))
