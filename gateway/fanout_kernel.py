"""The compiled half of the fan-out: rows become versions and events, and those become one frame a client.

Everything that a client can subscribe is a **slot**: ``plane * symbols_max + symbol``, with a version that
counts its updates. The first planes hold a state (the composite's quote, each venue's quote, the candle in
progress), of which the latest value counts. The others are streams (bars, trades, statuses, bands), of which
every message counts.

A client has one **entry** for each slot it subscribed, with the version it was sent last. Streams, and the
quotes of clients that want every tick, are **linked**: each update becomes an event in a ring, and its number
goes into the bounded queue of every linked client. All other entries are compared with their slots when the
client is due. Because every message carries its slot's version, whatever did not fit into a queue shows as a
jump: on a quote it becomes ``k``, on a stream a ``gap`` message.

Messages are encoded at most once a form (`protocol_kernel`), when the first client needs them, into one
circular byte cache a form; what the cache has lost is simply encoded again.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric import native
from fabric.buckets_kernel import WIDTH as HISTOGRAM
from fabric.compiled import lean, lean_kernel
from fabric.histogram_kernel import add
from fabric.records import (
    BAR,
    EVENT,
    GAP,
    KIND_BAR_1D,
    KIND_BAR_1H,
    KIND_BAR_1M,
    KIND_BAR_5M,
    KIND_GAP,
    KIND_NBBO,
    KIND_QUOTE,
    KIND_STATUS,
    KIND_TRADE,
    NBBO,
    NULL,
    STATUS,
    TRADE,
    WIDTH,
    Rows,
    columns,
    empty,
    pack,
)
from fabric.symbols import SymbolTable
from gateway import latest_kernel, protocol_kernel
from gateway.latest_kernel import owner, quote_lost, source_lost
from gateway.protocol_kernel import (
    BANDS,
    BEAT,
    BEAT_REPORT,
    BEST,
    CANCEL,
    CLOSED,
    CLOSED_1D,
    CLOSED_1H,
    CLOSED_5M,
    COMPLETED,
    CORRECTION,
    FORMS,
    GAP_REPORT,
    HALT,
    JSON,
    LAGGED,
    LINE,
    MESSAGE_MAX,
    MISSED,
    MODE,
    MODE_REPORT,
    NOW,
    OWN,
    REVISED,
    SCRATCH,
    SLOW_REPORT,
    STREAM,
    TRADED,
    append_count,
    append_stamps,
    encode,
)

EVENTS_KEPT: Final = 16_384
"""Events in the ring. A client that is further behind falls back to the slot (quotes) or is told of a gap."""
CACHE_BYTES: Final = 4 << 20
"""Encoded messages kept a form."""
FRAME_BYTES: Final = 64 << 10
"""A longer answer goes out as several frames: a burst must not exceed what stock clients accept (1 MiB)."""
BEAT_NS: Final = 1_000_000_000
"""Between two heartbeats of a client that wants them; it has each with its next frame."""
FRAMES_AT_ONCE: Final = 4
"""Frames for one client before others have their turn."""

CLIENT: Final = np.dtype(
    [
        ("fd", "<i8"),  # descriptor; -1: the bytes go through Python
        ("form", "<i8"),  # `protocol_kernel` form; -1: the row is free
        ("interval_ns", "<i8"),  # 0: every tick; in a surge at least what `Fan.mode` says
        ("asked_ns", "<i8"),  # what it would be without
        ("mode", "<i8"),  # the mode that it was told last
        ("mask", "<i8"),  # keys of its messages (`protocol_kernel.mask_of`), or 0: all
        ("stamps", "<i8"),  # what its messages say of their way: `protocol_kernel` TRACE, PLACE
        ("beat_due_ns", "<i8"),  # of its next heartbeat, or 0: it wants none
        ("beats", "<i8"),
        ("sent", "<i8"),  # messages
        ("due_ns", "<i8"),  # of its cohort
        ("busy", "<i8"),  # 1: its connection holds bytes that the socket has not taken
        ("behind", "<i8"),  # 1: linked entries must be compared with their slots as well
        ("start", "<i8"),  # its entries: [start, start + count)
        ("count", "<i8"),
        ("scan", "<i8"),  # entry where the last frame was full
        ("queue_start", "<i8"),  # its queue: `queue_size` items, a power of two or 0, from here
        ("queue_size", "<i8"),
        ("queue_first", "<i8"),
        ("queue_count", "<i8"),
        ("lost", "<i8"),  # events that its queue lost since the last `slow`
        ("slow_ms", "<i8"),  # time without reading that the next frame must tell, or 0
    ]
)
ENTRY: Final = np.dtype(
    [
        ("last", "<i8"),  # version that was sent last, or _OWED
        ("slot", "<i4"),
        ("owner", "<i4"),  # the client
        ("next", "<i4"),  # next linked entry of the same slot + 1, 0 at the end, -1 when not linked
        ("prev", "<i4"),
    ]
)
ITEM: Final = np.dtype([("event", "<i8"), ("entry", "<i8")])  # the entry relative to the client's `start`
MARK: Final = np.dtype([("version", "<i8"), ("message", "<i8")])
CACHED: Final = np.dtype(
    [
        ("at", "<i8"),  # where in the bytes ever written to the form's cache
        ("known", "<i8"),  # version (of a slot) or number (of an event) that was encoded
        ("out_ns", "<i8"),  # when its publisher sent it; 0: not to be timed
        ("size", "<i4"),
        ("way_us", "<i4"),  # from the feed's receipt to then, -1 where that is not known
    ]
)
TIMED_NS: Final = 100_000_000
"""Clients that asked for a longer interval wait because they want to: the latency of what they get says nothing."""
FETCHED_MAX: Final = 32
"""Entries of a client whose memory is asked for before it is used; more would drive out the first."""
AHEAD_MAX: Final = 64
"""Rows in which the client that is due next is looked for, to ask for its memory while others are served."""
_CLIENT_BYTES: Final = CLIENT.itemsize
_ENTRY_BYTES: Final = ENTRY.itemsize
_CACHED_BYTES: Final = CACHED.itemsize
COUNTERS: Final = (
    "frames",
    "bytes",
    "updates",  # messages delivered, gaps and notices included
    "replaced",  # updates that a later one stood for (`k`)
    "missed",  # stream messages that were announced as a gap
    "refused",  # events that a client's queue had no room for, or that left the ring first
    "partial",  # frames that the socket did not take whole
    "events",  # written into the ring
    "encoded",
    "unplaced",  # rows of a venue that the topology does not have
    "late_ns_max",  # the latest that a client was served after it was due
)

BOOKS: Final = (
    "offered",  # without the versions that the slots of living entries have: `books` adds those
    "delivered",  # messages handed to connections, snapshots included; without notices and gaps
    "withheld",  # nothing to send: a snapshot that does not exist, a bar without prices for a stock client
    "resumed",  # of streams: given from the publishers' logs instead, to clients that came back
    "left",  # not yet given to a client that went, was cut, or wanted it no more
)
"""What became of what subscriptions were offered, each since the start:

    offered = delivered + replaced + missed + withheld + resumed + left + pending

An entry is offered one snapshot, where it wants that, and each version of its slot from then on. What it was offered
comes from the versions alone, what became of it from what was done: that both agree is what the audit looks at.
"""

SERVICE: Final = (
    "late_ns",  # who is served later than this after it was due ...
    "restless_ns",  # ... or at least so late
    "served",  # clients that were served: each as often as it was
    "late",
    "restless",
)
"""How late clients are served. Those count that became due by time or by a tick, not those that could not read."""
NOW_DUE: Final = 0
"""In `Fan.wake`: serve at the next flush, whatever the interval."""
_NEVER: Final = (1 << 63) - 1

_HEAD: Final = 16  # room before the first item: WebSocket header (10 at most) and array header (3)
_SEND_FLAGS: Final = native.MSG_DONTWAIT | native.MSG_NOSIGNAL
_OWED: Final = -1  # the value exists and was never sent: a snapshot
_UNLINKED: Final = -1
_CANCELLED: Final = pack("x")
_CORRECTED: Final = pack("c")

# Bars kept for snapshots: `Fan.bars[...]`.
_BAR_NOW, _BAR_1M, _BAR_5M, _BAR_1H, _BAR_1D = range(5)
# Streams, as planes above the states. From _TRADES on a stream has one plane for all venues and one for each.
_BARS, _REVISIONS, _BARS_5M, _BARS_1H, _BARS_1D, _TRADES = range(6)
STREAMS_BY_VENUE: Final = _TRADES

(_FRAMES, _BYTES, _UPDATES, _REPLACED, _MISSED, _REFUSED, _PARTIAL, _EVENTS, _ENCODED, _UNPLACED, _LATE) = range(
    len(COUNTERS)
)
_OFFERED, _DELIVERED, _WITHHELD, RESUMED, _LEFT = range(len(BOOKS))
_LATE_NS, _RESTLESS_NS, _SERVED, _SERVED_LATE, _SERVED_RESTLESS = range(len(SERVICE))


def _columns(dtype: np.dtype[np.void], *names: str) -> tuple[int, ...]:
    """Where fields stand in a row: a batch mixes kinds in one ``int64[n, WIDTH]``, which no record type describes."""
    assert dtype.names is not None
    return tuple(dtype.names.index(name) for name in names)


_KIND, _SYMBOL, _VENUE, _SEQ, _EPOCH, _EVENT_NS = _columns(EVENT, "kind", "symbol", "venue", "seq", "epoch", "event_ns")
_RECV_NS, _FEED_NS, _PROC_NS = _columns(EVENT, "recv_ns", "feed_ns", "proc_ns")
_BID_PX, _ASK_PX = _columns(NBBO, "bid_px", "ask_px")
(_MARK,) = _columns(TRADE, "mark")
_REV, _OPEN_PX, _CLOSE_PX = _columns(BAR, "rev", "open_px", "close_px")
_TRADING, _UPPER_PX, _LOWER_PX = _columns(STATUS, "trading", "upper_px", "lower_px")
_CHANNEL_KIND, _GAP_FROM, _GAP_TO = _columns(GAP, "channel_kind", "gap_from", "gap_to")
_GAP_CHANNEL, _GAP_MISSED = _columns(GAP_REPORT, "channel", "missed")
_SLOW_MS, _SLOW_MISSED = _columns(SLOW_REPORT, "ms", "missed")
_BEAT_N, _BEAT_SENT, _BEAT_MS, _BEAT_TIME = _columns(BEAT_REPORT, "n", "sent", "interval_ms", "time_ns")
_MODE, _MODE_MS = _columns(MODE_REPORT, "mode", "interval_ms")
_NORMAL: Final = pack("normal")
_DEGRADED: Final = pack("degraded")


class Fan(NamedTuple):
    """Every array of the fan-out, as kernels take them."""

    version: npt.NDArray[np.int64]  # [slots] updates so far; 0: no value yet
    head: npt.NDArray[np.int32]  # [slots] first linked entry + 1, or 0
    bars: npt.NDArray[np.int64]  # [5, symbols, WIDTH] in progress, last closed 1m, 5m, 1h, last 1d
    told: npt.NDArray[np.int64]  # [intervals, publishers] start of the last interval that each called complete
    complete: npt.NDArray[np.int64]  # [intervals] start of the last that all have called complete
    clients: Rows  # CLIENT[clients]
    wake: npt.NDArray[np.int64]  # [clients] when to look at each: all that a flush reads of those who are not due
    entries: Rows  # ENTRY[...] in one block a client
    queue: Rows  # ITEM[...] in one block a client
    ring: npt.NDArray[np.int64]  # [EVENTS_KEPT, WIDTH] rows of events; event n is at n % EVENTS_KEPT
    marks: Rows  # MARK[EVENTS_KEPT] of the same events
    cache: npt.NDArray[np.uint8]  # [forms, CACHE_BYTES]
    cached: npt.NDArray[np.int64]  # [forms] bytes ever written
    slot_cache: Rows  # CACHED[forms, state slots]
    event_cache: Rows  # CACHED[forms, EVENTS_KEPT]
    counters: npt.NDArray[np.int64]  # COUNTERS
    books: npt.NDArray[np.int64]  # BOOKS
    chars: npt.NDArray[np.uint8]  # [SCRATCH] to encode with
    row: npt.NDArray[np.int64]  # [WIDTH] what is being encoded
    routes: npt.NDArray[np.int64]  # [4, 2] slots and messages that one row becomes
    mode: npt.NDArray[np.int64]  # [4] 1 in a surge; the shortest interval then; when the last batch came (monotonic);
    # when the inbox last asked for last values (UTC): what was sent before then may be one, and is not timed
    service: npt.NDArray[np.int64]  # [5] SERVICE, since it was looked at
    restated: npt.NDArray[np.int64]  # [state slots] the version that says again what was said before, or 0
    latency: npt.NDArray[np.int64]  # [2, `buckets_kernel.WIDTH`] from the last publisher and from the feed to clients


class Values(NamedTuple):
    """What `Latest` holds, as columns, and what its rule of staleness needs."""

    nbbo: npt.NDArray[np.int64]  # [symbols, WIDTH]
    quotes: npt.NDArray[np.int64]  # [symbols, venues, WIDTH]
    trades: npt.NDArray[np.int64]  # [symbols, WIDTH]
    statuses: npt.NDArray[np.int64]  # [symbols, WIDTH]
    venue_statuses: npt.NDArray[np.int64]  # [venues, WIDTH]
    venue_slots: npt.NDArray[np.int64]  # [128] as in `latest_kernel.Tables`, like the following
    owners: npt.NDArray[np.int64]
    link_up: npt.NDArray[np.int64]
    losses: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int64]
    line_stale: npt.NDArray[np.int64]
    line_losses: npt.NDArray[np.int64]
    nbbo_heard: npt.NDArray[np.int64]
    quotes_heard: npt.NDArray[np.int64]
    quotes_line_heard: npt.NDArray[np.int64]


def states(venues: int) -> int:
    """How many planes hold a state: the composite's quote, each venue's, the candle in progress."""
    return venues + 2


def planes(venues: int) -> int:
    """How many planes there are."""
    return states(venues) + _TRADES + 3 * (venues + 1)


def make(symbols_max: int, venues: int, clients_max: int, publishers: int) -> Fan:
    """Allocate. Zeroed memory costs nothing until it is used, so the tables may be as large as the bounds."""
    clients = np.zeros(clients_max, CLIENT)
    clients["fd"] = clients["form"] = -1
    return Fan(
        version=np.zeros(planes(venues) * symbols_max, np.int64),
        head=np.zeros(planes(venues) * symbols_max, np.int32),
        bars=np.zeros((5, symbols_max, WIDTH), np.int64),
        told=np.zeros((latest_kernel.INTERVALS, publishers), np.int64),
        complete=np.zeros(latest_kernel.INTERVALS, np.int64),
        clients=clients,
        wake=np.full(clients_max, _NEVER),
        entries=np.zeros(1_024, ENTRY),
        queue=np.zeros(1_024, ITEM),
        ring=np.zeros((EVENTS_KEPT, WIDTH), np.int64),
        marks=np.zeros(EVENTS_KEPT, MARK),
        cache=np.zeros((FORMS, CACHE_BYTES), np.uint8),
        cached=np.zeros(FORMS, np.int64),
        slot_cache=np.zeros((FORMS, states(venues) * symbols_max), CACHED),
        event_cache=np.zeros((FORMS, EVENTS_KEPT), CACHED),
        counters=np.zeros(len(COUNTERS), np.int64),
        books=np.zeros(len(BOOKS), np.int64),
        chars=np.zeros(SCRATCH, np.uint8),
        row=np.zeros(WIDTH, np.int64),
        routes=np.zeros((4, 2), np.int64),
        mode=np.zeros(4, np.int64),
        service=np.zeros(5, np.int64),
        restated=np.zeros(states(venues) * symbols_max, np.int64),
        latency=np.zeros((2, HISTOGRAM), np.int64),
    )


@lean
def _rest(fan: Any, client: int) -> None:
    """Let a client sleep until its cohort or its heartbeat is due."""
    mine = fan.clients[client]
    if mine["interval_ns"] > 0:
        fan.wake[client] = mine["due_ns"]
    elif mine["beat_due_ns"] > 0:
        fan.wake[client] = mine["beat_due_ns"]
    else:
        fan.wake[client] = _NEVER


# --- entries: who has subscribed what -------------------------------------------------------------------------------


@lean
def _link(head: Any, entries: Any, place: int) -> None:
    slot = entries[place]["slot"]
    first = head[slot]
    entries[place]["next"] = first
    entries[place]["prev"] = 0
    if first > 0:
        entries[first - 1]["prev"] = place + 1
    head[slot] = place + 1


@lean
def _unlink(head: Any, entries: Any, place: int) -> None:
    after = entries[place]["next"]
    if after == _UNLINKED:
        return
    before = entries[place]["prev"]
    if before > 0:
        entries[before - 1]["next"] = after
    else:
        head[entries[place]["slot"]] = after
    if after > 0:
        entries[after - 1]["prev"] = before
    entries[place]["next"] = _UNLINKED


@lean
def _move_entry(head: Any, entries: Any, source: int, target: int) -> None:
    """Move one entry to a place that holds none, its links included."""
    linked = entries[source]["next"] != _UNLINKED
    _unlink(head, entries, source)
    entries[target] = entries[source]
    if linked:
        _link(head, entries, target)


@lean
def _close(fan: Any, place: int) -> None:
    """End the books of an entry that is taken away: what was still to come, its client will not get."""
    entry = fan.entries[place]
    if entry["last"] == _OWED:
        fan.books[_LEFT] += 1
    else:
        fan.books[_OFFERED] += fan.version[entry["slot"]]
        fan.books[_LEFT] += fan.version[entry["slot"]] - entry["last"]


@lean_kernel
def books(fan: Any, clients: int) -> tuple[int, int]:
    """What the entries of the first ``clients`` rows, and all before them, were offered, and what of it is pending."""
    offered = fan.books[_OFFERED]
    pending = 0
    for client in range(clients):
        mine = fan.clients[client]
        for place in range(mine["start"], mine["start"] + mine["count"]):
            last = fan.entries[place]["last"]
            if last == _OWED:
                pending += 1
            else:
                version = fan.version[fan.entries[place]["slot"]]
                offered += version
                pending += version - last
    return offered, pending


@lean_kernel
def append(fan: Any, client: int, slots: Any, streams: int, snapshot: bool) -> None:
    """Give ``client`` an entry for each of ``slots``, which it has not; its block of entries has room for them.

    ``streams`` is the first slot of a stream.
    """
    mine = fan.clients[client]
    for slot in slots:
        place = mine["start"] + mine["count"]
        mine["count"] += 1
        fan.entries[place]["slot"] = slot
        fan.entries[place]["owner"] = client
        fan.entries[place]["next"] = _UNLINKED
        if snapshot and fan.version[slot] > 0:
            fan.entries[place]["last"] = _OWED
            fan.books[_OFFERED] += 1
        else:
            fan.entries[place]["last"] = fan.version[slot]
            fan.books[_OFFERED] -= fan.version[slot]
        if slot >= streams or mine["interval_ns"] == 0:
            _link(fan.head, fan.entries, place)
    mine["behind"] = 1
    fan.wake[client] = NOW_DUE


@lean_kernel
def retain(fan: Any, client: int, keep: Any, places: Any) -> None:
    """Take away the client's entries that ``keep`` marks with 0, and their events; ``places`` is of the same size."""
    mine = fan.clients[client]
    kept = 0
    for i in range(mine["count"]):
        if keep[i] == 0:
            _close(fan, mine["start"] + i)
            _unlink(fan.head, fan.entries, mine["start"] + i)
            places[i] = -1
        else:
            if kept != i:
                _move_entry(fan.head, fan.entries, mine["start"] + i, mine["start"] + kept)
            places[i] = kept
            kept += 1
    mine["count"] = kept
    mine["scan"] = 0
    queued = 0
    for i in range(mine["queue_count"]):
        item = fan.queue[mine["queue_start"] + ((mine["queue_first"] + i) & (mine["queue_size"] - 1))]
        place = places[item["entry"]]
        if place >= 0:
            target = fan.queue[mine["queue_start"] + ((mine["queue_first"] + queued) & (mine["queue_size"] - 1))]
            target["event"] = item["event"]
            target["entry"] = place
            queued += 1
    mine["queue_count"] = queued


@lean_kernel
def move_entries(fan: Any, client: int, start: int) -> None:
    """Move the client's entries to another block."""
    for i in range(fan.clients[client]["count"]):
        _move_entry(fan.head, fan.entries, fan.clients[client]["start"] + i, start + i)
    fan.clients[client]["start"] = start


@lean_kernel
def move_queue(fan: Any, client: int, start: int, size: int) -> None:
    """Move the client's queue to another block, which is not smaller."""
    mine = fan.clients[client]
    for i in range(mine["queue_count"]):
        item = fan.queue[mine["queue_start"] + ((mine["queue_first"] + i) & (mine["queue_size"] - 1))]
        fan.queue[start + i] = item
    mine["queue_start"] = start
    mine["queue_size"] = size
    mine["queue_first"] = 0


@lean
def _set_interval(fan: Any, client: int, now_ns: int, streams: int) -> None:
    """Serve the client at what it asked for, or at what the mode allows, from an instant that its row decides."""
    mine = fan.clients[client]
    interval_ns: Any = max(mine["asked_ns"], fan.mode[1])
    mine["interval_ns"] = interval_ns
    # The golden ratio: whatever rows there are, they spread evenly over the interval.
    mine["due_ns"] = now_ns + ((client * 0x9E3779B1 % (1 << 32) * interval_ns) >> 32)
    mine["behind"] = 1
    fan.wake[client] = NOW_DUE
    for place in range(mine["start"], mine["start"] + mine["count"]):
        if fan.entries[place]["slot"] < streams:
            linked = fan.entries[place]["next"] != _UNLINKED
            if linked and interval_ns > 0:
                _unlink(fan.head, fan.entries, place)
            elif not linked and interval_ns == 0:
                _link(fan.head, fan.entries, place)


@lean_kernel
def set_interval(fan: Any, client: int, asked_ns: int, now_ns: int, streams: int) -> None:
    """Serve the client each ``asked_ns``, at an instant of its own within it, or at every tick (0)."""
    fan.clients[client]["asked_ns"] = asked_ns
    _set_interval(fan, client, now_ns, streams)


@lean_kernel
def rest(fan: Any, client: int) -> None:
    """Take over that the client's heartbeat was changed, if nothing else is to be sent to it at once."""
    if fan.wake[client] != NOW_DUE:
        _rest(fan, client)


@lean_kernel
def set_mode(fan: Any, surge: bool, shortest_ns: int, now_ns: int, streams: int, clients: int) -> None:
    """Begin or end a surge, in which nobody is served more often than each ``shortest_ns``; all will be told."""
    fan.mode[0] = 1 if surge else 0
    fan.mode[1] = shortest_ns if surge else 0
    for client in range(clients):
        mine = fan.clients[client]
        if mine["form"] >= 0 and max(mine["asked_ns"], fan.mode[1]) != mine["interval_ns"]:
            _set_interval(fan, client, now_ns, streams)
            if mine["interval_ns"] > 0:
                _rest(fan, client)  # not all at once


@lean_kernel
def release(fan: Any, client: int) -> None:
    """Free the client's row: no kernel touches its descriptor after this."""
    mine = fan.clients[client]
    for place in range(mine["start"], mine["start"] + mine["count"]):
        _close(fan, place)
        _unlink(fan.head, fan.entries, place)
    mine["count"] = 0
    mine["queue_count"] = 0
    mine["queue_size"] = 0
    fan.wake[client] = _NEVER
    mine["fd"] = -1
    mine["form"] = -1


# --- in: rows become versions and events ----------------------------------------------------------------------------


@lean
def _mark(fan: Any, slot: int) -> None:
    """Have the linked clients of ``slot`` compare their entries."""
    after = fan.head[slot]
    while after > 0:
        owner_: Any = np.int64(fan.entries[after - 1]["owner"])
        mine = fan.clients[owner_]
        mine["behind"] = 1
        if mine["interval_ns"] == 0:
            fan.wake[owner_] = min(fan.wake[owner_], fan.mode[2])
        after = fan.entries[after - 1]["next"]


@lean
def _publish(fan: Any, slot: int, message: int, row: Any) -> None:
    """Count an update of ``slot``; give it to the queues of those who are linked to it."""
    fan.version[slot] += 1
    after = fan.head[slot]
    if after == 0:
        return
    fan.counters[_EVENTS] += 1
    event = fan.counters[_EVENTS]
    place = event % EVENTS_KEPT
    for column in range(WIDTH):
        fan.ring[place, column] = row[column]
    fan.marks[place]["version"] = fan.version[slot]
    fan.marks[place]["message"] = message
    while after > 0:
        entry = fan.entries[after - 1]
        mine = fan.clients[entry["owner"]]
        if mine["queue_count"] < mine["queue_size"]:
            free = (mine["queue_first"] + mine["queue_count"]) & (mine["queue_size"] - 1)
            fan.queue[mine["queue_start"] + free]["event"] = event
            fan.queue[mine["queue_start"] + free]["entry"] = after - 1 - mine["start"]
            mine["queue_count"] += 1
        else:
            mine["behind"] = 1
            mine["lost"] += 1
            fan.counters[_REFUSED] += 1
        if mine["interval_ns"] == 0:
            fan.wake[entry["owner"]] = min(fan.wake[entry["owner"]], fan.mode[2])
        after = entry["next"]


@lean
def _keep_bar(fan: Any, kept: int, slot: int, bar: Any) -> bool:
    """Keep the bar for snapshots if none of its slot is newer; return whether it was kept."""
    held = fan.bars[kept, bar[_SYMBOL]]
    if fan.version[slot] > 0 and bar[_EVENT_NS] < held[_EVENT_NS]:
        return False
    for column in range(WIDTH):
        held[column] = bar[column]
    return True


@lean
def _add_route(fan: Any, count: int, slot: int, message: int) -> int:
    fan.routes[count, 0] = slot
    fan.routes[count, 1] = message
    return count + 1


@lean
def _route_bar(fan: Any, bar: Any, streams: int, symbols_max: int) -> int:
    """Keep a bar and write where it goes into ``fan.routes``; return how many slots that are."""
    count = 0
    symbol = bar[_SYMBOL]
    rev = max(bar[_REV], 0)
    if bar[_KIND] == KIND_BAR_1M and rev <= 1:
        slot = streams - symbols_max + symbol  # in progress: the last plane of the states
        if _keep_bar(fan, _BAR_NOW, slot, bar):
            count = _add_route(fan, count, slot, NOW)
    if rev == 0 and bar[_KIND] != KIND_BAR_1D:  # a day goes out with each of its minutes
        return count
    plane = _BARS
    kept = _BAR_1M
    message = CLOSED
    if bar[_KIND] == KIND_BAR_5M:
        plane = _BARS_5M
        kept = _BAR_5M
        message = CLOSED_5M
    elif bar[_KIND] == KIND_BAR_1H:
        plane = _BARS_1H
        kept = _BAR_1H
        message = CLOSED_1H
    elif bar[_KIND] == KIND_BAR_1D:
        plane = _BARS_1D
        kept = _BAR_1D
        message = CLOSED_1D
    slot = streams + plane * symbols_max + symbol
    _keep_bar(fan, kept, slot, bar)
    if bar[_KIND] == KIND_BAR_1M and rev > 1:
        fan.version[slot] = max(fan.version[slot], 1)  # it was closed before we came: there is a snapshot
        slot = streams + _REVISIONS * symbols_max + symbol
        message = REVISED
    return _add_route(fan, count, slot, message)


@lean
def _route_end(fan: Any, values: Any, row: Any, streams: int, symbols_max: int) -> int:
    """A publisher has called an interval complete: it is told once all that are heard have, in place of the symbol."""
    interval = row[_KIND] - KIND_BAR_1M
    for publisher in range(values.epochs.size):
        if values.epochs[publisher] == row[_EPOCH]:
            fan.told[interval, publisher] = max(fan.told[interval, publisher], row[_EVENT_NS])
    least = row[_EVENT_NS]
    for letter in range(values.owners.shape[2]):
        publisher = values.owners[row[_KIND], -1, letter]
        if publisher >= 0 and values.link_up[publisher] == 1:
            least = min(least, fan.told[interval, publisher])
    if least <= fan.complete[interval]:
        return 0
    fan.complete[interval] = least
    plane = _BARS if interval == 0 else _REVISIONS + interval
    row[_EVENT_NS] = least
    row[_VENUE] = plane + 1  # bars have none: here it is an index in `protocol_kernel.CHANNEL_TEXTS`
    return _add_route(fan, 0, streams + plane * symbols_max, COMPLETED)


@lean
def _route(fan: Any, values: Any, kind: int, row: Any) -> int:
    """Write the slots and messages that a row becomes, as one of ``kind``, to ``fan.routes``; return how many."""
    symbols_max = values.nbbo.shape[0]
    venues = values.quotes.shape[1]
    streams = (venues + 2) * symbols_max
    symbol = row[_SYMBOL]
    if kind == KIND_NBBO:
        return _add_route(fan, 0, symbol, BEST)
    if KIND_BAR_1M <= kind <= KIND_BAR_1D:
        if symbol == 0:
            return _route_end(fan, values, row, streams, symbols_max)
        return _route_bar(fan, row, streams, symbols_max)
    if kind != KIND_QUOTE and kind != KIND_TRADE and kind != KIND_STATUS:
        return 0
    venue = values.venue_slots[row[_VENUE] & 127]
    if venue < 0:
        fan.counters[_UNPLACED] += 1
        return 0
    own = (venue + 1) * symbols_max
    if kind == KIND_QUOTE:
        return _add_route(fan, 0, own + symbol, OWN)
    slot = streams + _TRADES * symbols_max + symbol
    if kind == KIND_TRADE:
        mark = row[_MARK]
        message = CANCEL if mark == _CANCELLED else CORRECTION if mark == _CORRECTED else TRADED
        return _add_route(fan, _add_route(fan, 0, slot, message), slot + own, message)
    count = 0
    slot += (venues + 1) * symbols_max
    if symbol == 0 or (row[_TRADING] != NULL and row[_TRADING] != 0):
        message = LINE if symbol == 0 else HALT
        count = _add_route(fan, _add_route(fan, count, slot, message), slot + own, message)
    slot += (venues + 1) * symbols_max
    if symbol != 0 and (row[_UPPER_PX] != NULL or row[_LOWER_PX] != NULL):
        count = _add_route(fan, _add_route(fan, count, slot, BANDS), slot + own, BANDS)
    return count


@lean_kernel
def apply(fan: Any, values: Any, batch: Any, now_ns: int) -> None:
    """Take over a batch (``int64[n, WIDTH]``) that `latest` has applied already; ``now_ns`` is monotonic."""
    fan.mode[2] = now_ns
    for i in range(batch.shape[0]):
        row = batch[i]
        if row[_KIND] == KIND_GAP:
            if row[_CHANNEL_KIND] == KIND_TRADE:  # states come again whole; a lost trade does not
                for route in range(_route(fan, values, KIND_TRADE, row)):
                    fan.version[fan.routes[route, 0]] += row[_GAP_TO] - row[_GAP_FROM] + 1
                    _mark(fan, fan.routes[route, 0])
            continue
        for route in range(_route(fan, values, row[_KIND], row)):
            _publish(fan, fan.routes[route, 0], fan.routes[route, 1], row)


@lean_kernel
def restate(fan: Any, values: Any, letters: Any, publisher: int, line: int, symbols: int, clients: int) -> None:
    """Send again what ``publisher`` speaks for, and the quotes of venue slot ``line`` (-1: none), at once.

    For when a link went stale, or a line did or came back: nobody waits for an interval to learn that.
    """
    for symbol in range(1, symbols):
        for plane in range(values.quotes.shape[1] + 1):
            if plane == 0:
                known = values.nbbo[symbol, _SEQ] != NULL
                kind = KIND_NBBO
            else:
                known = values.quotes[symbol, plane - 1, _SEQ] != NULL
                kind = KIND_QUOTE
            concerned = plane > 0 and plane - 1 == line
            if known and (
                concerned or (publisher >= 0 and owner(values, letters, kind, symbol, plane - 1) == publisher)
            ):
                slot = plane * letters.shape[0] + symbol
                fan.version[slot] += 1
                fan.restated[slot] = fan.version[slot]
                _mark(fan, slot)
    for client in range(clients):
        if fan.clients[client]["form"] >= 0:
            fan.wake[client] = NOW_DUE


@lean_kernel
def spill(fan: Any, clients: int) -> None:
    """Empty all queues: quotes fall back to their slots, streams tell their gap."""
    for client in range(clients):
        mine = fan.clients[client]
        if mine["queue_count"] > 0:
            mine["lost"] += mine["queue_count"]
            fan.counters[_REFUSED] += mine["queue_count"]
            mine["queue_count"] = 0
            mine["behind"] = 1
            fan.wake[client] = NOW_DUE


# --- out: versions and events become frames -------------------------------------------------------------------------


@lean
def _stale(values: Any, letters: Any, message: int, row: Any) -> bool:
    """Whether a quote may no longer be taken as live: the rule of `latest_kernel`."""
    if message == BEST:
        if row[_BID_PX] == NULL and row[_ASK_PX] == NULL:
            return True
        publisher = owner(values, letters, KIND_NBBO, row[_SYMBOL], -1)
        return source_lost(values, publisher, row[_EPOCH], values.nbbo_heard[row[_SYMBOL]])
    if message != OWN:
        return False
    return quote_lost(values, letters, row[_SYMBOL], values.venue_slots[row[_VENUE] & 127], row[_EPOCH])


@lean
def _load(fan: Any, row: Any) -> None:
    for column in range(WIDTH):
        fan.row[column] = row[column]


@lean
def _load_state(fan: Any, values: Any, slot: int) -> int:
    """Load the latest row of a state; return its message."""
    plane = slot // values.nbbo.shape[0]
    symbol = slot % values.nbbo.shape[0]
    if plane == 0:
        _load(fan, values.nbbo[symbol])
        return BEST
    if plane <= values.quotes.shape[1]:
        _load(fan, values.quotes[symbol, plane - 1])
        return OWN
    _load(fan, fan.bars[_BAR_NOW, symbol])
    return NOW


@lean
def _load_stream(fan: Any, values: Any, slot: int) -> int:
    """Load the row that the snapshot of a stream consists of; return its message, or -1 for none."""
    venues = values.quotes.shape[1]
    symbol = slot % values.nbbo.shape[0]
    plane = slot // values.nbbo.shape[0] - (venues + 2)
    if plane < _TRADES:
        if plane == _REVISIONS or symbol == 0:
            return -1
        if plane == _BARS:
            _load(fan, fan.bars[_BAR_1M, symbol])
            return CLOSED
        _load(fan, fan.bars[_BAR_5M + plane - _BARS_5M, symbol])
        return CLOSED_5M + plane - _BARS_5M
    group = (plane - _TRADES) // (venues + 1)
    venue = (plane - _TRADES) % (venues + 1) - 1  # -1: of any venue
    message = TRADED if group == 0 else HALT if group == 1 else BANDS
    if symbol == 0:  # of all venues' lines only one's state fits into a message: the next change says the others'
        _load(fan, values.venue_statuses[max(venue, 0)])
        message = LINE
    elif group == 0:
        _load(fan, values.trades[symbol])
    else:
        _load(fan, values.statuses[symbol])
    if fan.row[_SEQ] == NULL or (venue >= 0 and values.venue_slots[fan.row[_VENUE] & 127] != venue):
        return -1
    if message == HALT and (fan.row[_TRADING] == NULL or fan.row[_TRADING] == 0):
        return -1
    if message == BANDS and fan.row[_UPPER_PX] == NULL and fan.row[_LOWER_PX] == NULL:
        return -1
    return message


@lean
def _load_gap(fan: Any, values: Any, slot: int, missed: int) -> int:
    """Load the gap of a stream; return its message."""
    venues = values.quotes.shape[1]
    plane = slot // values.nbbo.shape[0] - (venues + 2)
    fan.row[_GAP_CHANNEL] = plane + 1  # an index in `protocol_kernel.CHANNEL_TEXTS`
    if plane >= _TRADES:
        group = (plane - _TRADES) // (venues + 1)
        fan.row[_GAP_CHANNEL] = 0 if group == 0 else _TRADES + group
    fan.row[_GAP_MISSED] = missed
    return MISSED


@lean
def _unfit(fan: Any, form: int, message: int) -> bool:
    """Whether the loaded row is a bar without prices, of odd lots for one, for a stock client: it would read zeros."""
    bar = message == CLOSED or message == REVISED or message == CLOSED_1D
    return bar and form < 2 * STREAM and (fan.row[_OPEN_PX] == NULL or fan.row[_CLOSE_PX] == NULL)


@lean
def _sent_ns(fan: Any) -> int:
    """When the last publisher of the loaded row sent it; 0 where it does not say."""
    sent_ns = fan.row[_PROC_NS] if fan.row[_PROC_NS] != NULL else fan.row[_FEED_NS]
    return max(sent_ns, 0)


@lean
def _way_us(fan: Any, out_ns: int) -> int:
    """How long the loaded row took from the feed's receipt to ``out_ns``; -1 where it does not say."""
    received_ns = fan.row[_RECV_NS]
    return min(max(out_ns - received_ns, 0) // 1_000, 2**31 - 1) if received_ns != NULL else -1


@lean
def _time(fan: Any, out_ns: int, way_us: int, wall_ns: int) -> None:
    """Count how long a message took that goes to a client now."""
    if out_ns > fan.mode[3]:
        add(fan.latency[0], wall_ns - out_ns)
        if way_us >= 0:
            add(fan.latency[1], wall_ns - out_ns + way_us * 1_000)


@lean
def _put(
    fan: Any, values: Any, names: Any, form: int, mask: int, stamps: int, slot: int, event: int, skipped: int,
    frame: Any, at: int, timed: bool, wall_ns: int,
) -> int:  # fmt: skip
    """Write one message at ``frame[at]``; return where it ends, ``at`` for none.

    It is event ``event`` of the ring, else (0) the latest value of a state, else the snapshot of a stream, for which
    ``skipped`` is _OWED, else the gap of ``skipped`` messages in a stream. Events and states go through the cache.
    Where it is ``timed``, its way is counted.
    """
    state = slot < fan.slot_cache.shape[1]
    if not state and event == 0:
        message = _load_stream(fan, values, slot) if skipped == _OWED else _load_gap(fan, values, slot, skipped)
        if message < 0 or _unfit(fan, form, message):
            return at
        symbol = slot % values.nbbo.shape[0]
        name, size = names.names[symbol], names.lengths[symbol]
        end = encode(frame, at, form, message, fan.row, name, size, False, fan.chars, mask)
        if stamps != 0:
            end = append_stamps(frame, at, end, form, message, fan.row, stamps, wall_ns, fan.chars)
        return end
    place = event % EVENTS_KEPT
    if mask != 0 or stamps != 0:  # keys that it chose itself: what others get is of no use
        if event > 0:
            _load(fan, fan.ring[place])
            message = fan.marks[place]["message"]
        else:
            message = _load_state(fan, values, slot)
        if _unfit(fan, form, message):
            return at
        stale = _stale(values, names.names, message, fan.row)
        if timed and not (state and event == 0 and fan.restated[slot] == fan.version[slot]):
            out_ns = _sent_ns(fan)
            _time(fan, out_ns, _way_us(fan, out_ns), wall_ns)
        symbol = slot % values.nbbo.shape[0]
        name, size = names.names[symbol], names.lengths[symbol]
        end = encode(frame, at, form, message, fan.row, name, size, stale, fan.chars, mask)
        if stamps != 0:
            end = append_stamps(frame, at, end, form, message, fan.row, stamps, wall_ns, fan.chars)
        fan.counters[_ENCODED] += 1
        if state and skipped > 0:
            fan.counters[_REPLACED] += skipped
            return append_count(frame, at, end, form, skipped)
        return end
    cached = fan.event_cache[form, place] if event > 0 else fan.slot_cache[form, slot]
    key = event if event > 0 else fan.version[slot]
    if cached["known"] != key or fan.cached[form] > cached["at"] + CACHE_BYTES - MESSAGE_MAX:
        to = fan.cached[form]
        if to % CACHE_BYTES + MESSAGE_MAX > CACHE_BYTES:  # never across the end of the circle
            to += CACHE_BYTES - to % CACHE_BYTES
        if event > 0:
            _load(fan, fan.ring[place])
            message = fan.marks[place]["message"]
        else:
            message = _load_state(fan, values, slot)
        stale = _stale(values, names.names, message, fan.row)
        start = to % CACHE_BYTES
        end = start
        if not _unfit(fan, form, message):
            symbol = slot % values.nbbo.shape[0]
            name, size = names.names[symbol], names.lengths[symbol]
            end = encode(fan.cache[form], start, form, message, fan.row, name, size, stale, fan.chars, 0)
        out_ns = _sent_ns(fan)
        if state and event == 0 and fan.restated[slot] == key:
            out_ns = 0
        cached["out_ns"] = out_ns
        cached["way_us"] = _way_us(fan, out_ns)
        fan.cached[form] = to + end - start
        cached["at"] = to
        cached["size"] = end - start
        cached["known"] = key
        fan.counters[_ENCODED] += 1
    if timed:
        _time(fan, cached["out_ns"], cached["way_us"], wall_ns)
    kept = fan.cache.ctypes.data + form * CACHE_BYTES + cached["at"] % CACHE_BYTES
    native.memcpy(frame.ctypes.data + at, kept, cached["size"])
    end = at + cached["size"]
    if state and skipped > 0:
        fan.counters[_REPLACED] += skipped
        return append_count(frame, at, end, form, skipped)
    return end


@lean
def _next_due(fan: Any, client: int, clients: int, now_ns: int) -> int:
    """The first of the rows behind ``client`` that is due, of the next `AHEAD_MAX`; -1: none of those."""
    for row in range(client + 1, min(client + 1 + AHEAD_MAX, clients)):
        if fan.wake[row] <= now_ns:
            return row
    return -1


@lean
def _fetch_row(fan: Any, client: int) -> None:
    """Ask for the row of a client that is due soon."""
    row = fan.clients.ctypes.data + client * _CLIENT_BYTES
    native.prefetch(row)
    native.prefetch(row + 64)
    native.prefetch(row + 128)
    native.prefetch(row + _CLIENT_BYTES - 1)  # rows do not begin with a line


@lean
def _fetch_entries(fan: Any, client: int) -> None:
    """Ask for the entries of a client that is due soon, whose row is here."""
    mine = fan.clients[client]
    first = fan.entries.ctypes.data + mine["start"] * _ENTRY_BYTES
    for line in range(0, min(mine["count"], FETCHED_MAX) * _ENTRY_BYTES + _ENTRY_BYTES, 64):
        native.prefetch(first + line)


@lean
def _fetch_slots(fan: Any, client: int) -> None:
    """Ask for what is known of the slots of the client that is next, whose row and entries are here."""
    mine = fan.clients[client]
    for place in range(mine["start"], mine["start"] + min(mine["count"], FETCHED_MAX)):
        slot: Any = np.int64(fan.entries[place]["slot"])
        native.prefetch_read(fan.version.ctypes.data + slot * 8)
        if slot < fan.slot_cache.shape[1]:
            cached = fan.slot_cache.ctypes.data + (mine["form"] * fan.slot_cache.shape[1] + slot) * _CACHED_BYTES
            native.prefetch(cached)


@lean
def _fetch_messages(fan: Any, values: Any, names: Any, mine: Any, form: int) -> None:
    """Ask for the messages of a client, or for the rows that they are to be made of."""
    for place in range(mine["start"], mine["start"] + min(mine["count"], FETCHED_MAX)):
        slot: Any = np.int64(fan.entries[place]["slot"])
        if slot >= fan.slot_cache.shape[1] or fan.entries[place]["last"] == fan.version[slot]:
            continue
        cached = fan.slot_cache[form, slot]
        if cached["known"] == fan.version[slot]:
            kept = fan.cache.ctypes.data + form * CACHE_BYTES + cached["at"] % CACHE_BYTES
            native.prefetch_read(kept)
            native.prefetch_read(kept + 64)
            native.prefetch_read(kept + 128)
        elif slot < values.nbbo.shape[0]:
            row = values.nbbo.ctypes.data + slot * (8 * WIDTH)
            for line in range(0, 8 * WIDTH, 64):
                native.prefetch_read(row + line)
            native.prefetch_read(values.nbbo_heard.ctypes.data + slot * 8)
            native.prefetch_read(names.names.ctypes.data + slot * names.names.shape[1])


@lean
def build(
    fan: Any, values: Any, names: Any, client: int, now_ns: int, wall_ns: int, frame: Any
) -> tuple[int, int, bool]:
    """Write what ``client`` has to get into ``frame``; return ``(end, messages, more)``, ``more`` when it was full.

    First come notices, then the queue, then every entry that is behind its slot: a client never sees a symbol go back.
    """
    mine = fan.clients[client]
    form = mine["form"]
    streams = fan.slot_cache.shape[1]
    full = frame.size - 4 * MESSAGE_MAX
    at = _HEAD
    count = 0
    mask = mine["mask"]
    for notice in (MODE, LAGGED, BEAT):
        if notice == MODE:
            if mine["mode"] == fan.mode[0]:
                continue
            mine["mode"] = fan.mode[0]
            fan.row[_MODE] = _DEGRADED if fan.mode[0] == 1 else _NORMAL
            fan.row[_MODE_MS] = mine["interval_ns"] // 1_000_000
        elif notice == LAGGED:
            if mine["slow_ms"] == 0:
                continue
            fan.row[_SLOW_MS] = mine["slow_ms"]
            fan.row[_SLOW_MISSED] = mine["lost"]
            mine["slow_ms"] = 0
            mine["lost"] = 0
        else:
            late_ns = now_ns - mine["beat_due_ns"]
            if mine["beat_due_ns"] == 0 or late_ns < 0:
                continue
            mine["beat_due_ns"] += (late_ns // BEAT_NS + 1) * BEAT_NS
            mine["beats"] += 1
            fan.row[_BEAT_N] = mine["beats"]
            fan.row[_BEAT_SENT] = mine["sent"]
            fan.row[_BEAT_MS] = mine["interval_ns"] // 1_000_000
            fan.row[_BEAT_TIME] = wall_ns
        frame[at] = 44
        at += 1 if count > 0 and form & 1 == JSON else 0
        at = encode(frame, at, form, notice, fan.row, names.names[0], 0, False, fan.chars, 0)
        count += 1
    scanned = 0
    scanning = mine["interval_ns"] > 0 or mine["behind"] == 1
    if scanning:
        _fetch_messages(fan, values, names, mine, form)
    while True:
        if at > full:
            return at, count, True
        if mine["queue_count"] > 0:
            item = fan.queue[mine["queue_start"] + (mine["queue_first"] & (mine["queue_size"] - 1))]
            event = item["event"]
            mine["queue_first"] += 1
            mine["queue_count"] -= 1
            if event <= fan.counters[_EVENTS] - EVENTS_KEPT:  # overwritten
                mine["behind"] = 1
                scanning = True
                mine["lost"] += 1
                fan.counters[_REFUSED] += 1
                continue
            entry = fan.entries[mine["start"] + item["entry"]]
            version = fan.marks[event % EVENTS_KEPT]["version"]
        elif scanning and scanned < mine["count"]:
            if mine["scan"] >= mine["count"]:
                mine["scan"] = 0
            event = 0
            entry = fan.entries[mine["start"] + mine["scan"]]
            mine["scan"] += 1
            scanned += 1
            version = fan.version[entry["slot"]]
        else:
            if scanning:
                mine["behind"] = 0
            return at, count, False
        last = entry["last"]
        slot: Any = np.int64(entry["slot"])
        if version <= last:
            continue
        entry["last"] = version
        if last == _OWED:
            fan.books[_OFFERED] -= version
        skipped = _OWED if last == _OWED else version - last - 1
        missed = 0  # messages of a stream
        if slot >= streams and last != _OWED:
            missed = skipped if event > 0 else version - last
            fan.counters[_MISSED] += missed
        for part in range(2):  # the gap, then the message
            if part == 0:
                if missed == 0:
                    continue
            elif missed > 0 and event == 0:
                break
            comma = 1 if count > 0 and form & 1 == JSON else 0
            frame[at] = 44
            begin = at + comma
            told = missed if part == 0 else skipped
            timed = part == 1 and last != _OWED and mine["asked_ns"] <= TIMED_NS
            end = _put(
                fan, values, names, form, mask, mine["stamps"], slot, event * part, told, frame, begin, timed, wall_ns
            )
            if end > begin:
                at = end
                count += 1
                fan.books[_DELIVERED] += part
            else:
                fan.books[_WITHHELD] += part


@lean
def seal(frame: Any, at: int, count: int, form: int) -> tuple[int, int]:
    """Put the array and WebSocket headers around the messages; return where the frame begins and ends."""
    start = _HEAD
    if form & 1 == JSON:
        start -= 1
        frame[start] = 91
        frame[at] = 93
        at += 1
    elif count < 16:
        start -= 1
        frame[start] = 0x90 | count
    else:
        start -= 3
        frame[start] = 0xDC
        frame[start + 1] = count >> 8
        frame[start + 2] = count & 0xFF
    size = at - start
    if size < 126:
        start -= 2
        frame[start + 1] = size
    else:  # a frame is shorter than 64 KiB
        start -= 4
        frame[start + 1] = 126
        frame[start + 2] = size >> 8
        frame[start + 3] = size & 0xFF
    frame[start] = 0x81 if form & 1 == JSON else 0x82
    return start, at


@lean_kernel
def flush(
    fan: Any,
    values: Any,
    names: Any,
    cursor: int,
    clients: int,
    limit: int,
    most: int,
    now_ns: int,
    wall_ns: int,
    frame: Any,
) -> tuple[int, int, int, int, int]:
    """Serve who is due, from row ``cursor`` on round the ``clients`` rows, until one of them needs Python.

    Looks at ``limit`` rows and serves ``most`` clients at most. Returns ``(row, seen, start, end, error)``: after
    ``seen`` rows, ``row`` (-1: nobody) has with ``end > start`` the bytes ``frame[start:end]`` that its socket did not
    take, or with ``error > 0`` the errno of its send.
    """
    served = 0
    near = following = distant = -1  # who comes next, and how much of their memory is on its way: sending to one
    # client drives out what the next needs, and what it needs shows only step by step
    for seen in range(limit):
        client = cursor + seen
        if client >= clients:
            client -= clients
        wake_ns = fan.wake[client]
        if wake_ns > now_ns:
            continue
        mine = fan.clients[client]
        if mine["form"] < 0 or mine["busy"] == 1:
            fan.wake[client] = _NEVER
            continue
        if served == most:
            return -1, seen, 0, 0, 0
        served += 1
        if wake_ns > NOW_DUE:  # not one that was unable to read until now
            late_ns = now_ns - wake_ns
            fan.counters[_LATE] = max(fan.counters[_LATE], late_ns)
            fan.service[_SERVED] += 1
            if late_ns >= fan.service[_RESTLESS_NS]:
                fan.service[_SERVED_RESTLESS] += 1
                if late_ns > fan.service[_LATE_NS]:
                    fan.service[_SERVED_LATE] += 1
        if mine["interval_ns"] > 0 and mine["due_ns"] <= now_ns:
            mine["due_ns"] += ((now_ns - mine["due_ns"]) // mine["interval_ns"] + 1) * mine["interval_ns"]
        _rest(fan, client)
        near = following
        following = distant
        if following <= client:  # nobody is known yet, or the rows have begun anew
            near = _next_due(fan, client, clients, now_ns)
            following = _next_due(fan, near, clients, now_ns) if near >= 0 else -1
            if near >= 0:
                _fetch_row(fan, near)
            if following >= 0:
                _fetch_row(fan, following)
        distant = _next_due(fan, following, clients, now_ns) if following >= 0 else -1
        if distant >= 0:
            _fetch_row(fan, distant)
        if following >= 0:
            _fetch_entries(fan, following)
        if near >= 0:
            _fetch_slots(fan, near)
        for _ in range(FRAMES_AT_ONCE):
            at, count, more = build(fan, values, names, client, now_ns, wall_ns, frame)
            if count == 0:
                break
            start, end = seal(frame, at, count, mine["form"])
            fan.counters[_FRAMES] += 1
            fan.counters[_UPDATES] += count
            mine["sent"] += count
            fan.counters[_BYTES] += end - start
            if more:
                fan.wake[client] = NOW_DUE
            else:
                _rest(fan, client)
            sent: Any = np.int64(0)
            if mine["fd"] >= 0:
                address = frame.ctypes.data + start
                sent = np.int64(native.send(np.int32(mine["fd"]), address, end - start, np.int32(_SEND_FLAGS)))
                if sent < 0:
                    error: Any = np.int64(native.errno())
                    if error != native.EAGAIN and error != native.EINTR:
                        return client, seen + 1, 0, 0, error
                    sent = np.int64(0)
            if sent < end - start:
                fan.counters[_PARTIAL] += 1
                return client, seen + 1, start + sent, end, 0
            if not more:
                break
    return -1, limit, 0, 0, 0


def values_of(tables: latest_kernel.Tables) -> Values:
    """`latest`'s tables as columns, sharing memory."""
    symbols_max, venues = tables.quotes.shape
    return Values(
        nbbo=columns(tables.nbbo),
        quotes=columns(tables.quotes.reshape(-1)).reshape(symbols_max, venues, WIDTH),
        trades=columns(tables.trades),
        statuses=columns(tables.statuses),
        venue_statuses=columns(tables.venue_statuses),
        venue_slots=tables.venue_slots,
        owners=tables.owners,
        link_up=tables.link_up,
        losses=tables.losses,
        epochs=tables.epochs,
        line_stale=tables.line_stale,
        line_losses=tables.line_losses,
        nbbo_heard=tables.nbbo_heard,
        quotes_heard=tables.quotes_heard,
        quotes_line_heard=tables.quotes_line_heard,
    )


def warm_up() -> None:
    """Compile or load every entry kernel with the array types of the live path."""
    protocol_kernel.warm_up()
    fan = make(1, 1, 1, 1)
    symbols = SymbolTable(1)
    symbols.find("A")
    names = symbols.arrays
    candles = np.zeros((latest_kernel.INTERVALS, 1, 1), latest_kernel.CANDLE)
    values = values_of(latest_kernel.make(1, 1, 1, candles))
    apply(fan, values, columns(empty(0, EVENT)), 0)
    append(fan, 0, np.zeros(0, np.int64), 0, True)
    retain(fan, 0, np.zeros(0, np.int64), np.zeros(0, np.int64))
    move_entries(fan, 0, 0)
    move_queue(fan, 0, 0, 1)
    set_interval(fan, 0, 0, 0, 0)
    set_mode(fan, False, 0, 0, 0, 1)
    restate(fan, values, names.names, 0, -1, 1, 1)
    spill(fan, 1)
    rest(fan, 0)
    flush(fan, values, names, 0, 1, 1, 1, 0, 0, np.zeros(FRAME_BYTES, np.uint8))
    release(fan, 0)
    books(fan, 1)
