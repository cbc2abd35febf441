"""The order log's inner loops: note what a processor is given, in its order; bring it back from the inputs' logs.

A turn is one batch. It is noted in one or more parts, each the payload of one record of the order log, little-endian
words (i64): PART_* as below, then items until the end of the payload. An item begins with a word: its kind in the
lowest byte, the link (index of the input) in the next 24 bits, a count in the upper half.

    NAME  a symbol that was learnt, whose id is the next: two words with its bytes, and its length
    RUN   `count` rows of one input, in the order of its log: epoch, first and last position, then the distance from
          each position to the next in as many bytes as it takes (seven bits each, the lowest first, the eighth says
          that more follow), with zeros up to a whole word
    ROW   a row with all its columns: a link that came or went, a gap, a value from a snapshot (count 1); a row of an
          input that keeps no log on this machine, or one that is behind another of its input that was given before:
          repeated, or late (count 0)

Rows of a run are found in the log by their positions alone, so what was lost is not brought back; and each log is read
in one direction.
"""

from typing import Any, Final

import numpy as np

from fabric.codec_kernel import DEPTH_MAX, OK, READ_PAD, SCHEMA_WIDTH, int64, read_payload, read_topic
from fabric.compiled import lean, lean_kernel
from fabric.journal_kernel import HEAD_BYTES
from fabric.native import load_int64, store_int64
from fabric.records import KIND_LINK, WIDTH
from fabric.sequence_kernel import EPOCH, LETTERS, LOGGED, POSITION, STAMP, STATE_WIDTH, UP, doubt, slot_of, start_epoch
from fabric.symbols_kernel import find_word, learn, make_symbols

# The first words of a part.
PART_FLAGS: Final = 0  # BEGINS, ENDS
PART_NOW: Final = 1  # what the clock said at this turn, ns since the epoch
PART_MONOTONIC: Final = 2
PART_OWN: Final = 3  # position of the processor's own log before what came of this turn
PART_AFTER: Final = 4  # position in the order log of the turn before; 0: the processor begins with nothing
PART_WIDTH: Final = 5
BEGINS: Final = 1
ENDS: Final = 2

NAME: Final = 1
RUN: Final = 2
ROW: Final = 3

BY_LOG: Final = 0
BY_VALUE: Final = 1
BY_SNAPSHOT: Final = 2
"""How market rows of a stretch are noted: by their place in the log, whole, or whole since no log need hold them."""

PART_BYTES: Final = 7_168
"""An item begins only below this, so that a part stays within a record of the log."""
DELTA_BYTES: Final = 9
TOPIC: Final = 0x6F
"""``o``: the topic of every record."""

# What `bring_back` works on, int64[B_WIDTH].
B_AT: Final = 0  # in the part: the next item, or the next distance of the run
B_LEFT: Final = 1  # rows of the run that are to come
B_WANTED: Final = 2  # position of the next of them
B_LINK: Final = 3
B_EPOCH: Final = 4
B_WIDTH: Final = 5

DONE: Final = 0
MORE: Final = 1
"""What is at hand of the log of link `B_LINK` does not hold position `B_WANTED`."""
MISSING: Final = 2
"""What was noted cannot be read, or is not what that log holds."""


def noted_max(rows: int, symbols: int) -> tuple[int, int]:
    """Bytes and parts that a turn of so many rows, which learns so many symbols, takes at most."""
    size = rows * 8 * (WIDTH + 1) + symbols * 32
    parts = size // (PART_BYTES - 8 * (WIDTH + 1)) + 2
    return size + parts * (8 * PART_WIDTH + 1) + 64, parts


@lean
def _begin(base: int, at: int, flags: int, now_ns: int, monotonic_ns: int, own: int, after: int) -> int:
    """Begin a part behind the byte of its topic; return where its items go."""
    store_int64(base + at, flags)
    store_int64(base + at + 8, now_ns)
    store_int64(base + at + 16, monotonic_ns)
    store_int64(base + at + 24, own)
    store_int64(base + at + 32, after)
    return at + 8 * PART_WIDTH


@lean_kernel
def note(
    rows: Any, given: Any, words: Any, known: int, used: int, now_ns: int, monotonic_ns: int, own: int, after: int,
    heads: Any, out: Any, ends: Any,
) -> int:  # fmt: skip
    """Write the turn of ``rows`` to ``out`` as `codec.lay_out` does, with the ``ends`` of topics and payloads; return
    the number of parts.

    ``given`` says whose the rows of the market are, int64[:, 3]: link, how many, BY_LOG to BY_SNAPSHOT. The symbols
    ``known`` to ``used`` of ``words`` were learnt since the turn before. ``heads`` is the last position that was given
    of each input's log, int64[inputs]. ``out`` and ``ends`` hold `noted_max`.
    """
    base = out.ctypes.data
    parts = 0
    out[0] = TOPIC
    ends[0, 0] = 1
    start = 1
    at = _begin(base, start, BEGINS, now_ns, monotonic_ns, own, after)
    head = 0  # where the open run begins, 0: none is open
    link = 0
    epoch = 0
    place = 0
    stretch = 0
    taken = 0
    i = known - used  # first the symbols, below 0, then the rows
    while i < rows.shape[0]:
        if at - start > PART_BYTES:
            if head > 0:
                at = (at - start + 7 & ~7) + start
                head = 0
            ends[parts, 1] = at
            parts += 1
            out[at] = TOPIC
            ends[parts, 0] = at + 1
            start = at + 1
            at = _begin(base, start, 0, now_ns, monotonic_ns, own, after)
        if i < 0:
            store_int64(base + at, NAME)
            for c in range(3):
                store_int64(base + at + 8 + 8 * c, words[used + i, c])
            at += 32
            i += 1
            continue
        how = BY_VALUE
        whose = rows[i, 11]
        if rows[i, 0] < KIND_LINK:
            while stretch < given.shape[0] and taken >= given[stretch, 1]:
                stretch += 1
                taken = 0
            whose = given[stretch, 0]
            how = given[stretch, 2]
            taken += 1
        position = rows[i, 5]
        if how == BY_LOG:
            if position <= heads[whose]:
                how = BY_VALUE
            else:
                heads[whose] = position
        if head > 0 and (how != BY_LOG or whose != link or rows[i, 4] != epoch):
            at = (at - start + 7 & ~7) + start
            head = 0
        if how != BY_LOG:
            store_int64(base + at, ROW | whose << 8 | int64(how == BY_SNAPSHOT) << 32)
            for c in range(WIDTH):
                store_int64(base + at + 8 + 8 * c, rows[i, c])
            at += 8 + 8 * WIDTH
        elif head == 0:
            head = at
            link = whose
            epoch = rows[i, 4]
            store_int64(base + at, RUN | link << 8 | 1 << 32)
            store_int64(base + at + 8, epoch)
            store_int64(base + at + 16, position)
            store_int64(base + at + 24, position)
            at += 32
            store_int64(base + at, 0)
        else:
            step = position - place
            while step >= 0x80:
                out[at] = (step & 0x7F) | 0x80
                step >>= 7
                at += 1
            out[at] = step
            at += 1
            store_int64(base + at, 0)
            store_int64(base + head, load_int64(base + head) + (1 << 32))
            store_int64(base + head + 24, position)
        place = position
        i += 1
    if head > 0:
        at = (at - start + 7 & ~7) + start
    store_int64(base + start, load_int64(base + start) | ENDS)
    ends[parts, 1] = at
    return parts + 1


@lean
def _distance(part: Any, at: int) -> tuple[int, int]:
    """The distance at ``part[at]``, and where the next one is."""
    value = 0
    shift = 0
    while part[at] >= 0x80:
        value |= (int64(part[at]) & 0x7F) << shift
        shift += 7
        at += 1
    return value | int64(part[at]) << shift, at + 1


@lean
def _keep(
    state: Any, layout: Any, last: Any, places: Any, advance: Any, rows: Any, n: int, link: int, count: int,
    snapshot: int,
) -> None:  # fmt: skip
    """Have the inbox's tables as they were when ``rows[n]`` had been given."""
    epoch = rows[n, 4]
    fresh = epoch > state[link, EPOCH]
    if fresh:
        start_epoch(state, layout, last, advance, link, epoch, count)
    if rows[n, 0] == KIND_LINK:
        state[link, UP] = rows[n, 12]
        if rows[n, 12] == 0 and not fresh:
            doubt(layout, last, link, count)
        return
    if rows[n, 0] > KIND_LINK:
        return
    slot = slot_of(layout, link, rows[n, 0], rows[n, 1], rows[n, 2])
    if slot < 0:
        return
    last[slot] = rows[n, 3]
    places[slot] = rows[n, 5]
    if snapshot == 0:
        state[link, POSITION] = max(state[link, POSITION], rows[n, 5])
        state[link, STAMP] = max(rows[n, 9], rows[n, 10])


@lean_kernel
def bring_back(
    schema: Any, symbols: Any, part: Any, stop: int, data: Any, reach: Any, way: Any, state: Any, layout: Any,
    last: Any, places: Any, advance: Any, rows: Any, start: int, waiting: Any,
) -> tuple[int, int]:  # fmt: skip
    """Go on with the items of ``part[:stop]`` from ``way[B_AT]``; return the rows and DONE, MORE or MISSING.

    ``data[reach[link, 0]:reach[link, 1]]`` are sound records of the log of each link, as a cursor gives them; they are
    used up to where ``reach`` says then. The tables of the inbox become what they were behind these rows.
    """
    ids = symbols.ids
    words = symbols.words
    base = part.ctypes.data
    source = data.ctypes.data
    n = start
    while True:
        while way[B_LEFT] > 0:
            link = way[B_LINK]
            at = reach[link, 0]
            if at >= reach[link, 1]:
                return n, MORE
            word = load_int64(source + at)
            size = (word >> 32) & 0xFFFFFF
            position = load_int64(source + at + 8)
            if position > way[B_WANTED]:
                return n, MORE
            reach[link, 0] = at + ((size + 7) & ~7)
            if position < way[B_WANTED]:
                continue
            topic = at + HEAD_BYTES
            payload = topic + ((word >> 56) & 0xFF)
            if (
                load_int64(source + at + 24) != way[B_EPOCH]
                or n >= rows.shape[0]
                or read_topic(schema, symbols, ids, words, data, topic, payload, rows, n) != OK
                or read_payload(schema, words, data, payload, at + size, rows, n, waiting) != OK
            ):
                return n, MISSING
            _keep(state, layout, last, places, advance, rows, n, link, symbols.used[0], 0)
            n += 1
            way[B_LEFT] -= 1
            if way[B_LEFT] > 0:
                step, way[B_AT] = _distance(part, way[B_AT])
                way[B_WANTED] += step
            else:
                way[B_AT] = (way[B_AT] + 7) & ~7
        at = way[B_AT]
        if at >= stop:
            return n, DONE
        head = load_int64(base + at)
        kind = head & 0xFF
        link = (head >> 8) & 0xFFFFFF
        if kind == NAME:
            low = load_int64(base + at + 8)
            high = load_int64(base + at + 16)
            found = find_word(ids, words, low, high)
            if found < 0:
                learn(symbols, -1 - found, low, high, load_int64(base + at + 24))
            way[B_AT] = at + 32
        elif kind == ROW:
            if n >= rows.shape[0] or link >= state.shape[0]:
                return n, MISSING
            for c in range(WIDTH):
                rows[n, c] = load_int64(base + at + 8 + 8 * c)
            _keep(state, layout, last, places, advance, rows, n, link, symbols.used[0], head >> 32)
            n += 1
            way[B_AT] = at + 8 + 8 * WIDTH
        else:
            if kind != RUN or link >= state.shape[0]:
                return n, MISSING
            way[B_AT] = at + 32
            way[B_LEFT] = head >> 32
            way[B_EPOCH] = load_int64(base + at + 8)
            way[B_WANTED] = load_int64(base + at + 16)
            way[B_LINK] = link


def warm_up() -> None:
    """Compile or load the kernels with the array types of the live path."""
    symbols = make_symbols(2)
    rows, table, state = (
        np.zeros((0, WIDTH), np.int64),
        np.zeros((1, 3), np.int64),
        np.zeros((1, STATE_WIDTH), np.int64),
    )
    size, parts = noted_max(0, 0)
    out, ends = np.zeros(size + READ_PAD, np.uint8), np.zeros((parts, 2), np.int64)
    note(rows, table, symbols.words, 0, 0, 0, 0, 0, 0, ends[0], out, ends)
    state[:, LOGGED] = 1
    bring_back(
        np.zeros((1, SCHEMA_WIDTH), np.int64), symbols, out, 0, out, ends, np.zeros(B_WIDTH, np.int64), state,
        np.full((1, 1, 2), -1, np.int64), ends[0], ends[0], np.zeros((1, 1, LETTERS), np.int64), rows, 0,
        np.zeros(DEPTH_MAX, np.int64),
    )  # fmt: skip
