"""Read logs in place: records that a publisher on this machine has appended, out of the memory that both map.

A record's first word is written last and holds the CRC of all the rest (`journal_kernel`), so one that is still being
written is no sound record yet: there the reading stops until the next turn.
"""

from typing import Any

import numpy as np

from fabric.bus_kernel import LIVE, ROWS_A_MESSAGE, SCRATCH, take
from fabric.codec_kernel import OK, READ_PAD, SCHEMA_WIDTH, TOO_LONG, expect_topic
from fabric.compiled import lean_kernel
from fabric.journal_kernel import DATA_AT, HEAD_BYTES, PREFIX_MAX, framed, record_crc, sound, wanted
from fabric.native import load_int64, memcpy, prefetch_read
from fabric.records import WIDTH
from fabric.sequence_kernel import BAD, BYTES, DRAINED, HELD, LETTERS, MESSAGES, STATE_WIDTH
from fabric.symbols_kernel import make_symbols

# Where a reader stands in each log, int64[links, T_WIDTH].
T_ADDRESS = 0  # of the mapped segment; 0: this link is not read in place, or not yet
T_AT = 1  # offset of the next record
T_STOP = 2  # bytes of the segment
T_SEEN = 3  # position of the last record
T_PREFIXES = 4  # what is wanted: the prefixes from this one ...
T_PREFIXES_END = 5  # ... up to this one
T_NEXT = 6  # address of the segment that follows, mapped before it holds a record; 0: not there yet
T_NEXT_STOP = 7
T_ENTERED = 8  # segments that were gone on to
T_WIDTH = 12

PREFETCHED = 256
"""Bytes behind a record that are asked for while it is read: another processor has just written them."""


@lean_kernel
def seek(address: int, at: int, stop: int, after: int) -> int:
    """The way from the record at offset ``at`` behind the last whose position is not beyond ``after``, as an offset. A
    record that is not there yet, or not sound, ends it.
    """
    seen = 0
    while True:
        size = sound(address, at, stop, seen)
        if size <= 0 or load_int64(address + at + 8) > after:
            return at
        seen = load_int64(address + at + 8)
        at += size


@lean_kernel
def drain_logs(
    tails: Any, prefixes: Any, lengths: Any, filters: Any, limit: int, schema: Any, symbols: Any, state: Any, layout:
    Any, last: Any, arrival: Any, advance: Any, places: Any, rows: Any, start: int, scratch: Any, reasons: Any, waiting:
    Any, now_ns: int, wall_ns: int, refresh_ns: int,
) -> tuple[int, bool]:  # fmt: skip
    """Take what each log has had since, at most ``limit`` records of each, into ``rows[start:]``; return the next free
    row, and whether there was more. DRAINED says of each link whether it had no more.

    Goes on to the segment that follows as soon as that holds a record: then the one before is complete.
    What ``prefixes`` do not name is passed over unchecked. A link that is HELD stays where it is.
    """
    ids = symbols.ids
    words = symbols.words
    base = scratch.ctypes.data
    n = start
    more = False
    for link in range(tails.shape[0]):
        address = tails[link, T_ADDRESS]
        if address == 0 or state[link, HELD] == 1:
            continue
        state[link, DRAINED] = 0
        at = tails[link, T_AT]
        for _ in range(limit):
            if n + ROWS_A_MESSAGE > rows.shape[0]:
                break
            following = tails[link, T_NEXT]  # looked at first: what is not here behind it never will be
            has_followed = following != 0 and load_int64(following + DATA_AT) != 0
            size = framed(address, at, tails[link, T_STOP], tails[link, T_SEEN])
            if size <= 0 and has_followed:
                address = following
                at = DATA_AT
                tails[link, T_ADDRESS] = following
                tails[link, T_STOP] = tails[link, T_NEXT_STOP]
                tails[link, T_NEXT] = 0
                tails[link, T_ENTERED] += 1
                continue
            if size <= 0:
                state[link, DRAINED] = 1
                break
            word = load_int64(address + at)
            topic = address + at + HEAD_BYTES
            topic_size = (word >> 56) & 0xFF
            message_size = ((word >> 32) & 0xFFFFFF) - HEAD_BYTES
            seen = load_int64(address + at + 8)
            prefetch_read(address + at + size + PREFETCHED)
            first, end = tails[link, T_PREFIXES], tails[link, T_PREFIXES_END]
            if not wanted(topic, topic_size, prefixes, lengths, first, end, filters):
                tails[link, T_SEEN] = seen
                at += size
                continue
            if record_crc(address + at, size) != word & 0xFFFFFFFF:
                state[link, DRAINED] = 1
                break
            tails[link, T_SEEN] = seen
            at += size
            if at + HEAD_BYTES + READ_PAD <= tails[link, T_STOP] and load_int64(address + at) != 0:
                expect_topic(schema, ids, address + at + HEAD_BYTES, (load_int64(address + at) >> 56) & 0xFF)
            state[link, MESSAGES] += 1
            state[link, BYTES] += message_size
            reason = TOO_LONG
            if message_size <= SCRATCH:
                memcpy(base, topic, message_size)
                n, reason = take(
                    schema, symbols, ids, words, scratch, 0, topic_size, topic_size, message_size, state, layout, last,
                    arrival, advance, places, rows, n, link, waiting, now_ns, wall_ns, refresh_ns, LIVE,
                )  # fmt: skip
            if reason != OK:
                state[link, BAD] += 1
                reasons[link, reason] += 1
            if state[link, HELD] == 1:
                break
        tails[link, T_AT] = at
        more |= state[link, DRAINED] == 0 and state[link, HELD] == 0
    return n, more


def warm_up() -> None:
    """Compile or load the kernels with the array types of the live path."""
    symbols = make_symbols(2)
    schema, rows = np.zeros((1, SCHEMA_WIDTH), np.int64), np.zeros((ROWS_A_MESSAGE, WIDTH), np.int64)
    state, layout = np.zeros((0, STATE_WIDTH), np.int64), np.zeros((0, 1, 2), np.int64)
    slots, heads = np.zeros(0, np.int64), np.zeros((0, 1, LETTERS), np.int64)
    data, reasons = np.zeros(READ_PAD, np.uint8), np.zeros((0, 1), np.int64)
    seek(data.ctypes.data, 0, 0, 0)
    drain_logs(
        np.zeros((0, T_WIDTH), np.int64), np.zeros((1, PREFIX_MAX), np.uint8), np.zeros(1, np.int64),
        np.zeros((0, 1), np.int64), 0, schema, symbols, state, layout, slots, slots, heads, slots, rows, 0, data,
        reasons, slots, 0, 0, 0,
    )  # fmt: skip
