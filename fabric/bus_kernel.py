"""The bus's inner loops: wait, drain every link, number and send. Compiled calls into libzmq, no object per message.

The draining and sending kernels keep the GIL, which makes it the lock of the tables that they change: the
snapshot thread copies rows while no kernel runs. Only `wait` releases it.
"""

from typing import Any

import numpy as np

from fabric.codec_kernel import (
    FRAMES,
    NOT_OURS,
    OK,
    READ_PAD,
    SCHEMA_WIDTH,
    TOO_LONG,
    TOPIC_MAX,
    TRUNCATED,
    int64,
    read_payload,
    read_topic,
    write_payload,
    write_topic,
)
from fabric.compiled import lean, lean_kernel, waiting_kernel
from fabric.journal_kernel import HEAD_BYTES, J_WIDTH, append, sound
from fabric.native import (
    EAGAIN,
    EINTR,
    ZMQ_DONTWAIT,
    ZMQ_MSG_BYTES,
    ZMQ_SNDMORE,
    errno,
    load_int64,
    memcpy,
    zmq_msg_close,
    zmq_msg_data,
    zmq_msg_init,
    zmq_msg_more,
    zmq_msg_recv,
    zmq_msg_size,
    zmq_poll,
    zmq_send,
)
from fabric.records import KIND_GAP, KIND_LINK, KIND_TRADE, NULL, WIDTH
from fabric.sequence_kernel import (
    ACCEPTED,
    BAD,
    BEHIND,
    BYTES,
    CONNECTED,
    DRAINED,
    EPOCH,
    FUTURE,
    GAP,
    GAP_FIRST,
    GAP_LAST,
    HELD,
    JOINED,
    LETTERS,
    LOGGED,
    MESSAGES,
    NEW_EPOCH,
    NEXT,
    OLD_EPOCH,
    OVERLAP,
    POSITION,
    REPAIRED,
    REPAIRING,
    STAMP,
    STATE_WIDTH,
    UP,
    judge,
    judge_epoch,
    slot_of,
    start_epoch,
)
from fabric.symbols_kernel import make_symbols

POLL_ITEM = np.dtype([("socket", "<i8"), ("fd", "<i4"), ("events", "<i2"), ("revents", "<i2")])
"""zmq_pollitem_t of zmq.h on 64-bit Linux."""

ROWS_A_MESSAGE = 4
"""Rows that one message can give: publisher down, up again, gap, and itself."""
SCRATCH = 4096
"""Bytes of a payload that are looked at: no record of any build needs more; a longer one is refused."""
FUTURE_NS = 5_000_000_000
NODE_PREFIX = 0x2E65646F6E
"""``node.``, first byte lowest."""
MORE_PREFIX = 0x2E65726F6D
"""``more.``, first byte lowest: word to those who read a log in memory, nothing to anybody else."""
LIVE = 0
SNAPSHOT = 1
FROM_LOG = 2
"""Where a message comes from."""
SAMPLE = 32
"""First bytes of a refused frame that are kept for the log."""


@waiting_kernel
def wait(items: Any, timeout_ms: int) -> int:
    """Wait until an item is readable or the time is over; a ``timeout_ms`` of 0 only looks.

    ``items`` is a zmq_pollitem_t array. Returns how many are readable, or -1 when a signal came.
    """
    return zmq_poll(items.ctypes.data, items.size, timeout_ms)


@lean
def _beginning(topic: Any, size: int) -> int:
    """The first five letters of a topic, first byte lowest."""
    word = 0
    for i in range(min(size, 5)):
        word |= int64(topic[i]) << (8 * i)
    return word


@lean
def _make_room(rows: Any, n: int) -> None:
    """Move the row at ``n`` one down, so that another can be told before it."""
    for c in range(rows.shape[1]):
        rows[n + 1, c] = rows[n, c]


@lean
def _event(rows: Any, n: int, kind: int, now_ns: int) -> int:
    for c in range(rows.shape[1]):
        rows[n, c] = NULL
    rows[n, 0] = kind
    rows[n, 1] = 0
    rows[n, 2] = 0
    rows[n, 7] = now_ns
    return n + 1


@lean
def link_event(rows: Any, n: int, link: int, up: int, epoch: int, now_ns: int) -> int:
    """Write a LINK row at ``rows[n]``; return the next free index."""
    _event(rows, n, KIND_LINK, now_ns)
    rows[n, 4] = epoch
    rows[n, 11] = link
    rows[n, 12] = up
    return n + 1


@lean
def accept(
    words: Any, count: int, state: Any, layout: Any, last: Any, arrival: Any, advance: Any, places: Any, rows: Any, n:
    int, link: int, now_ns: int, wall_ns: int, refresh_ns: int, origin: int,
) -> int:  # fmt: skip
    """Judge the decoded message at ``rows[n]``; keep it, with what must be told before it, or drop it; return the next
    index.

    A live message that shows a gap is dropped and its link held, where the publisher has a log: that brings what is
    missing, and this message behind it.
    """
    kind = rows[n, 0]
    symbol = rows[n, 1]
    slot = slot_of(layout, link, kind, symbol, rows[n, 2])
    if slot < 0:
        return -1
    if state[link, UP] == 0 and state[link, CONNECTED] == 0:  # left over from a lost connection
        return n
    if origin == LIVE and state[link, LOGGED] == 1 and state[link, JOINED] == 0:
        return n  # before the greeting: log and snapshot begin there, and what lies before it has to come first
    epoch = rows[n, 4]
    if origin == FROM_LOG and epoch < state[link, EPOCH]:
        state[link, OVERLAP] += 1
        return n
    verdict = judge_epoch(state, link, epoch)
    if verdict == OLD_EPOCH:
        return n
    if verdict == NEW_EPOCH:
        start_epoch(state, layout, last, advance, link, epoch, count)
        if state[link, UP] == 1:
            _make_room(rows, n)
            n = link_event(rows, n, link, 0, epoch, wall_ns)
            state[link, UP] = 0
    if state[link, UP] == 0 and state[link, CONNECTED] == 1 and state[link, BEHIND] == 0:
        _make_room(rows, n)
        n = link_event(rows, n, link, 1, epoch, wall_ns)
        state[link, UP] = 1
    seq = rows[n, 3]
    if origin == SNAPSHOT and (seq <= last[slot] or (last[slot] > 0 and state[link, REPAIRING] == 0)):
        # Older than the live stream, or ahead of a stream that flows: what lies between is on its way and no gap.
        state[link, OVERLAP] += 1
        return n
    before = abs(last[slot])
    if origin == FROM_LOG and seq <= before:
        state[link, OVERLAP] += 1
        return n
    if origin == LIVE and state[link, LOGGED] == 1 and last[slot] > 0 and seq > before + 1:
        state[link, HELD] = 1
        state[link, GAP_FIRST] = places[slot] + 1
        state[link, GAP_LAST] = rows[n, 5]
        return n
    letter = words[symbol, 0] & (LETTERS - 1)
    verdict = judge(state, last, arrival, advance, link, kind, letter, slot, seq, now_ns, refresh_ns)
    if verdict == GAP:
        _make_room(rows, n)
        _event(rows, n, KIND_GAP, wall_ns)
        rows[n, 1] = symbol
        rows[n, 2] = rows[n + 1, 2]
        rows[n, 4] = epoch
        rows[n, 11] = link
        rows[n, 12] = kind
        rows[n, 13] = before + 1
        rows[n, 14] = seq - 1
        n += 1
    elif verdict != NEXT:
        return n
    places[slot] = rows[n, 5]
    if origin != SNAPSHOT:  # which may be ahead of messages that are still on their way
        state[link, POSITION] = max(state[link, POSITION], rows[n, 5])
        state[link, STAMP] = max(rows[n, 9], rows[n, 10])
    if kind <= KIND_TRADE and rows[n, 7] > wall_ns + FUTURE_NS:
        state[link, FUTURE] += 1
    state[link, ACCEPTED] += 1
    if origin == FROM_LOG:
        state[link, REPAIRED] += 1
    return n + 1


@lean
def take(
    schema: Any, symbols: Any, ids: Any, words: Any, data: Any, topic: int, topic_end: int, payload: int,
    payload_end: int, state: Any, layout: Any, last: Any, arrival: Any, advance: Any, places: Any, rows: Any, n: int,
    link: int, waiting: Any, now_ns: int, wall_ns: int, refresh_ns: int, origin: int,
) -> tuple[int, int]:  # fmt: skip
    """Read one message and judge it; return the next free row and OK or why it was refused."""
    reason = read_topic(schema, symbols, ids, words, data, topic, topic_end, rows, n)
    if reason == OK:
        reason = read_payload(schema, words, data, payload, payload_end, rows, n, waiting)
    if reason != OK:
        return n, reason
    after = accept(
        words,
        symbols.used[0],
        state,
        layout,
        last,
        arrival,
        advance,
        places,
        rows,
        n,
        link,
        now_ns,
        wall_ns,
        refresh_ns,
        origin,
    )
    return (after, OK) if after >= 0 else (n, NOT_OURS)


@lean_kernel
def drain(
    items: Any, links: int, limit: int, schema: Any, symbols: Any, state: Any, layout: Any, last: Any, arrival: Any,
    advance: Any, places: Any, rows: Any, start: int, message: Any, scratch: Any, control: Any, control_ends: Any,
    reasons: Any, sample: Any, waiting: Any, now_ns: int, wall_ns: int, refresh_ns: int,
) -> tuple[int, int]:  # fmt: skip
    """Take what is waiting on each readable link, at most ``limit`` messages of each, into ``rows[start:]``.

    Heartbeats go to ``control`` (end offset and link in ``control_ends``) for Python. Returns (rows, heartbeats);
    rows is minus the errno where a socket is beyond use.
    """
    ids = symbols.ids
    words = symbols.words
    base = scratch.ctypes.data
    pointer = message.ctypes.data
    n = start
    heartbeats = 0
    control_end = 0
    zmq_msg_init(pointer)
    for link in range(links):
        state[link, DRAINED] = 1 - state[link, HELD]
        if items[link]["revents"] == 0 or state[link, HELD] == 1:
            continue
        state[link, DRAINED] = 0
        socket = items[link]["socket"]
        for _ in range(limit):
            if n + ROWS_A_MESSAGE > rows.shape[0]:
                break
            if zmq_msg_recv(pointer, socket, ZMQ_DONTWAIT) < 0:
                code = errno()
                if code == EAGAIN:
                    state[link, DRAINED] = 1
                    break
                if code != EINTR:
                    return -code, heartbeats
                continue
            state[link, MESSAGES] += 1
            topic_size = zmq_msg_size(pointer)
            reason = OK
            if topic_size > TOPIC_MAX:
                reason = TOO_LONG
            memcpy(base, zmq_msg_data(pointer), min(topic_size, TOPIC_MAX))
            frames = 1
            size = 0
            kept = 0
            while zmq_msg_more(pointer) != 0:
                if zmq_msg_recv(pointer, socket, ZMQ_DONTWAIT) < 0:
                    break
                frames += 1
                if frames == 2:
                    size = zmq_msg_size(pointer)
                    kept = min(size, SCRATCH)
                    memcpy(base + TOPIC_MAX, zmq_msg_data(pointer), kept)
                    if topic_size <= TOPIC_MAX and _beginning(scratch, topic_size) == NODE_PREFIX:
                        if heartbeats < control_ends.shape[0] and control_end + size <= control.size:
                            memcpy(control.ctypes.data + control_end, zmq_msg_data(pointer), size)
                            control_end += size
                            control_ends[heartbeats, 0] = control_end
                            control_ends[heartbeats, 1] = link
                            heartbeats += 1
                        reason = -1
            state[link, BYTES] += topic_size + size
            if reason == -1:
                break  # Python compares its heads with what has come so far: nothing later may be counted yet
            if _beginning(scratch, topic_size) == MORE_PREFIX:
                continue
            if frames != 2:
                reason = FRAMES
            elif size > SCRATCH:
                reason = TOO_LONG
            if reason == OK:
                n, reason = take(
                    schema, symbols, ids, words, scratch, 0, topic_size, TOPIC_MAX, TOPIC_MAX + size, state, layout,
                    last, arrival, advance, places, rows, n, link, waiting, now_ns, wall_ns, refresh_ns, LIVE,
                )  # fmt: skip
            if reason != OK:
                state[link, BAD] += 1
                reasons[link, reason] += 1
                if sample[0] == 0:
                    sample[0] = kept
                    sample[1] = link
                    sample[2] = reason
                    for i in range(min(kept, SAMPLE)):
                        sample[3 + i] = scratch[TOPIC_MAX + i]
            if state[link, HELD] == 1:
                items[link]["events"] = 0
                break
    zmq_msg_close(pointer)
    return n, heartbeats


@lean_kernel
def absorb(
    schema: Any, symbols: Any, data: Any, ends: Any, done: int, state: Any, layout: Any, last: Any, arrival: Any,
    advance: Any, places: Any, rows: Any, start: int, link: int, reasons: Any, waiting: Any, now_ns: int, wall_ns: int,
    refresh_ns: int,
) -> tuple[int, int]:  # fmt: skip
    """Take snapshot frames from the ``done``-th on into ``rows[start:]``; return (rows, frames done)."""
    ids = symbols.ids
    words = symbols.words
    n = start
    for i in range(done, ends.shape[0]):
        if n + ROWS_A_MESSAGE > rows.shape[0]:
            return n, i
        begin = ends[i - 1, 1] if i > 0 else 0
        n, reason = take(
            schema, symbols, ids, words, data, begin, ends[i, 0], ends[i, 0], ends[i, 1], state, layout, last, arrival,
            advance, places, rows, n, link, waiting, now_ns, wall_ns, refresh_ns, SNAPSHOT,
        )  # fmt: skip
        if reason != OK:
            state[link, BAD] += 1
            reasons[link, reason] += 1
    return n, ends.shape[0]


@lean_kernel
def absorb_log(
    schema: Any, symbols: Any, data: Any, stop: int, done: int, state: Any, layout: Any, last: Any, arrival: Any,
    advance: Any, places: Any, rows: Any, start: int, link: int, reasons: Any, waiting: Any, now_ns: int, wall_ns: int,
    refresh_ns: int,
) -> tuple[int, int]:  # fmt: skip
    """Take the log's records ``data[done:stop]`` into ``rows[start:]``; return (rows, where to go on)."""
    ids = symbols.ids
    words = symbols.words
    base = data.ctypes.data
    n = start
    at = done
    while at < stop:
        if n + ROWS_A_MESSAGE > rows.shape[0]:
            break
        size = sound(base, at, stop, 0)
        if size <= 0:
            state[link, BAD] += 1
            reasons[link, TRUNCATED] += 1
            return n, stop
        word = load_int64(base + at)
        topic = at + HEAD_BYTES
        payload = topic + ((word >> 56) & 0xFF)
        n, reason = take(
            schema, symbols, ids, words, data, topic, payload, payload, at + ((word >> 32) & 0xFFFFFF), state, layout,
            last, arrival, advance, places, rows, n, link, waiting, now_ns, wall_ns, refresh_ns, FROM_LOG,
        )  # fmt: skip
        if reason != OK:
            state[link, BAD] += 1
            reasons[link, reason] += 1
        at += size
    return n, at


# Counters of an outbox, int64[OUT_WIDTH].
OUT_POSITION = 0  # last O given out
OUT_SENT = 1
OUT_REFRESHED = 2
OUT_REFUSED = 3  # rows with a price or size that cannot be carried
OUT_NOT_OURS = 4  # rows of a channel that this publisher does not own
OUT_BYTES = 5
OUT_WIDTH = 8


@lean
def out_slot(layout: Any, venue_slot: Any, kind: int, symbol: int, venue: int) -> int:
    """Index of a topic in an outbox's tables, or -1 where the publisher does not own it."""
    if kind < 0 or kind >= layout.shape[0] or layout[kind, 0] < 0:
        return -1
    if layout[kind, 1] == 1:
        return layout[kind, 0] + symbol
    v = venue_slot[venue]
    return layout[kind, 0] + symbol * layout[kind, 1] + v if v >= 0 else -1


@lean_kernel
def publish(
    socket: int, schema: Any, words: Any, layout: Any, venue_slot: Any, last: Any, sent_ns: Any, heads: Any, counters:
    Any, journal: Any, rows: Any, start: int, epoch: int, stamp: int, stamp_ns: int, now_ns: int, scratch: Any,
) -> int:  # fmt: skip
    """Number, stamp, log and send ``rows[start:]``; return how many rows are done (fewer when a slow peer, or room in
    the log, must be waited for). With ``socket`` 0 nothing is sent.
    """
    base = scratch.ctypes.data
    for i in range(start, rows.shape[0]):
        kind = rows[i, 0]
        symbol = rows[i, 1]
        slot = out_slot(layout, venue_slot, kind, symbol, rows[i, 2])
        if slot < 0:
            counters[OUT_NOT_OURS] += 1
            continue
        rows[i, 3] = max(last[slot, 3], 0) + 1
        rows[i, 4] = epoch
        rows[i, 5] = counters[OUT_POSITION] + 1
        rows[i, stamp] = stamp_ns
        topic = write_topic(schema, words, rows, i, base)
        payload = write_payload(schema, words, rows, i, base + topic)
        if payload < 0:
            counters[OUT_REFUSED] += 1
            continue
        if append(journal, base, topic, topic + payload, rows[i, 5], epoch, stamp_ns, now_ns) == 0:
            return i
        while socket != 0 and zmq_send(socket, base, topic, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0:
            code = errno()
            if code == EAGAIN:
                return i
            if code != EINTR:
                return -code
        while socket != 0 and zmq_send(socket, base + topic, payload, ZMQ_DONTWAIT) < 0:
            code = errno()
            if code != EINTR and code != EAGAIN:
                return -code
        for c in range(rows.shape[1]):
            last[slot, c] = rows[i, c]
        sent_ns[slot] = now_ns
        heads[kind, words[symbol, 0] & (LETTERS - 1)] += 1
        counters[OUT_POSITION] += 1
        counters[OUT_SENT] += 1
        counters[OUT_BYTES] += topic + payload
    return rows.shape[0]


@lean_kernel
def refresh(
    socket: int, schema: Any, words: Any, last: Any, sent_ns: Any, counters: Any, start: int, stop: int, due_ns: int,
    now_ns: int, scratch: Any,
) -> None:  # fmt: skip
    """Send again, unchanged, what stands in slots ``start`` to ``stop`` and was last sent before ``due_ns``."""
    base = scratch.ctypes.data
    for slot in range(start, stop):
        if last[slot, 3] <= 0 or sent_ns[slot] > due_ns:
            continue
        topic = write_topic(schema, words, last, slot, base)
        payload = write_payload(schema, words, last, slot, base + TOPIC_MAX)
        if zmq_send(socket, base, topic, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0:
            return
        zmq_send(socket, base + TOPIC_MAX, payload, ZMQ_DONTWAIT)
        sent_ns[slot] = now_ns
        counters[OUT_REFRESHED] += 1


def warm_up() -> None:
    """Compile or load the kernels with the array types of the live path; no socket is touched."""
    symbols = make_symbols(2)
    schema, rows = np.zeros((1, SCHEMA_WIDTH), np.int64), np.zeros((ROWS_A_MESSAGE, WIDTH), np.int64)
    items = np.zeros(0, POLL_ITEM)
    state, layout = np.zeros((0, STATE_WIDTH), np.int64), np.zeros((0, 1, 2), np.int64)
    slots, heads = np.zeros(0, np.int64), np.zeros((0, 1, LETTERS), np.int64)
    data, ends = np.zeros(READ_PAD + ZMQ_MSG_BYTES, np.uint8), np.zeros((0, 2), np.int64)
    reasons, counters = np.zeros((0, 1), np.int64), np.zeros(OUT_WIDTH, np.int64)
    wait(items, 0)
    drain(
        items, 0, 0, schema, symbols, state, layout, slots, slots, heads, slots, rows, 0, data, data, data, ends,
        reasons, slots, slots, 0, 0, 0,
    )  # fmt: skip
    absorb(
        schema, symbols, data, ends, 0, state, layout, slots, slots, heads, slots, rows, 0, 0, reasons, slots, 0, 0, 0,
    )  # fmt: skip
    absorb_log(
        schema, symbols, data, 0, 0, state, layout, slots, slots, heads, slots, rows, 0, 0, reasons, slots, 0, 0, 0,
    )  # fmt: skip
    publish(
        0, schema, symbols.words, ends, slots, rows, slots, ends, counters, np.zeros(J_WIDTH, np.int64), rows[:0], 0, 0,
        0, 0, 0, data,
    )  # fmt: skip
    refresh(0, schema, symbols.words, rows, slots, counters, 0, 0, 0, 0, data)
