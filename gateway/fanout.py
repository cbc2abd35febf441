"""The fan-out: who is due, what has changed, one frame each. The compiled half is `fanout_kernel`.

`apply` takes the rows of the bus, `flush` is called every few milliseconds from the loop that owns the sockets
and works at most `SLICE_NS` at a time. Clients with an interval are spread over it in cohorts, so that the work
is even; a client that does not read is skipped, conflated, told, and at last cut.

Bounds: `limits.clients_max` clients; `limits.client_symbols_max` symbols a client and channel; a queue of
`QUEUE_PER_ENTRY` events a subscription, `QUEUE_MAX` at most; one unsent frame (64 KiB) a client.
"""

import heapq
import logging
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from fabric.clock import MILLISECOND_NS, SECOND_NS, Clock
from fabric.latency import Latency
from fabric.records import KIND_LINK, LINK, NULL, Rows, columns
from fabric.symbols import SymbolTable
from fabric.topology import GatewaySettings, Topology
from gateway import fanout_kernel, protocol, protocol_kernel, surge
from gateway.latest import Latest
from gateway.protocol import STREAM_CHANNELS, Feed, Places, ProtocolError
from gateway.subscriptions import Subscriptions
from gateway.surge import Surge

SLICE_NS: Final = 2 * MILLISECOND_NS
"""The longest that a flush keeps the loop from its sockets, but for the last batch of clients."""
CLIENTS_AT_ONCE: Final = 128
"""Frames between two looks at the clock."""
CUT_AFTER_NS: Final = 2 * SECOND_NS
"""A client whose socket has not taken one frame for so long is cut."""
TELL_AFTER_NS: Final = SECOND_NS // 4
"""A client that was unable to read for so long is told (`slow`)."""
STALLED_NS: Final = SECOND_NS
"""Between two flushes: the loop was blocked, and what waits in queues and on the bus is old."""
CAUGHT_UP_ROWS: Final = 1_024
"""A batch smaller than this ends the catching up after a stall."""
CATCH_UP_MAX_NS: Final = SECOND_NS
"""So long after its stall a gateway sends again, however much still waits on the bus: under load some always does."""
RETURNS_PER_S: Final = 500
RETURN_MIN_MS: Final = 1_000
"""Clients that are sent away are asked to come back at this rate, over this time at least."""
QUEUE_PER_ENTRY: Final = 16
QUEUE_MIN: Final = 64
QUEUE_MAX: Final = 8_192

_Slots = npt.NDArray[np.int64]
_log = logging.getLogger(__name__)


class Sink(Protocol):
    """A client's connection, as the fan-out uses it."""

    def write(self, data: bytes) -> None:
        """Send bytes after those that are waiting. Never raises: a connection that is gone says so by `drop`, and one
        whose socket does not take them all by `Client.blocked`.
        """
        ...

    def close(self, code: int, reason: str) -> None:
        """Close with a Close frame after the bytes that are waiting."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


@dataclass(slots=True, eq=False)
class Client:
    """One client of the fan-out, made by whoever owns its connection; a `session.Subscriber`."""

    sink: Sink
    fd: int  # descriptor that frames may be sent to; -1: everything goes through `sink.write` (TLS)
    feed: Feed
    encoding: int  # JSON or MSGPACK
    name: str  # for the log
    interval_ms: int = 0
    fanout: "Fanout | None" = None
    row: int = -1
    busy: bool = False  # its connection holds bytes that the socket has not taken
    busy_since_ns: int = 0
    capped: bool = False  # it was told that a new symbol exceeded its limit
    held: bool = False  # it is given what it missed first: until then nothing new

    def blocked(self) -> None:
        """Its connection holds bytes: nothing is sent to its descriptor until `freed`."""
        self.busy = True
        if self.fanout is not None:
            self.fanout.block(self)

    def freed(self) -> None:
        """Its socket has taken everything."""
        self.busy = False
        if self.fanout is not None:
            self.fanout.free(self)

    def subscribe(
        self, channels: Mapping[str, Sequence[str]], interval_ms: int, snapshot: bool, resume: Places | None = None
    ) -> None:
        """See `Fanout.subscribe`."""
        assert self.fanout is not None
        self.fanout.subscribe(self, channels, interval_ms, snapshot, resume)

    def unsubscribe(self, channels: Mapping[str, Sequence[str]]) -> None:
        """See `Fanout.unsubscribe`."""
        assert self.fanout is not None
        self.fanout.unsubscribe(self, channels)

    def choose(self, fields: Sequence[str] | None, heartbeat: bool | None, trace: bool | None = None) -> None:
        """See `Fanout.choose`."""
        assert self.fanout is not None
        self.fanout.choose(self, fields, heartbeat, trace)

    def subscribed(self) -> dict[str, list[str]]:
        """Its patterns by channel."""
        assert self.fanout is not None
        return self.fanout.subscriptions.of(self.row)


class Resumes(Protocol):
    """Who gives a client what it missed (`resume.Resumer`)."""

    def begin(self, client: Client, channels: Mapping[str, Sequence[str]], places: Places, before: _Slots) -> None:
        """Go on with ``channels`` behind ``places``, but for the slots that the client had ``before``."""
        ...

    def drop(self, client: Client) -> None:
        """Forget a client."""
        ...


class _Blocks:
    """Gives out blocks of a growing array, in sizes of powers of two; those given back are used again."""

    def __init__(self) -> None:
        self.end = 0
        self._free: defaultdict[int, list[int]] = defaultdict(list)

    def take(self, size: int) -> int:
        if self._free[size]:
            return self._free[size].pop()
        self.end += size
        return self.end - size

    def give(self, start: int, size: int) -> None:
        self._free[size].append(start)


class Fanout:
    """All clients of one gateway process. One thread owns it: that of the sockets."""

    def __init__(
        self, topology: Topology, settings: GatewaySettings, symbols: SymbolTable, latest: Latest, clock: Clock,
        latency: Latency | None = None,
    ) -> None:  # fmt: skip
        """``latency``: where the ways to clients are counted; None: nobody looks."""
        self.topology = topology
        self.settings = settings
        self.clock = clock
        self.subscriptions = Subscriptions()
        self._symbols = symbols
        self._known = 1  # symbols that subscriptions have been matched with; the empty one is nobody's
        self._ids: dict[str, int] = {}  # of those: a compiled look-up costs twenty times as much as one in a dict
        self._venues = len(topology.venues)
        self._values = fanout_kernel.values_of(latest.tables)
        self.resumer: Resumes | None = None  # None: what was missed cannot be had
        self._fan = fanout_kernel.make(
            symbols.capacity, self._venues, topology.limits.clients_max, self._values.epochs.size
        )
        self._fan.service[:2] = surge.LATE_NS, surge.CALM_NS
        if latency is not None:
            self._fan = self._fan._replace(latency=latency.to_clients)
        self._streams = fanout_kernel.states(self._venues) * symbols.capacity  # the first slot of a stream
        self._epochs = self._values.epochs.copy()
        self._line_stale = self._values.line_stale.copy()
        self._line_losses = self._values.line_losses.copy()
        self._clients: list[Client | None] = [None] * topology.limits.clients_max
        self._free: list[int] = []  # rows below `_rows` that are free, the lowest first
        self._rows = 0  # rows that have ever been used
        self._count = 0
        self._entry_blocks = _Blocks()
        self._entry_sizes: dict[int, int] = {}  # row -> size of its block
        self._queue_blocks = _Blocks()
        self._frame = np.zeros(fanout_kernel.FRAME_BYTES, np.uint8)
        self._cursor = 0
        self._flushed_ns: int | None = None
        self._catching_up = False
        self._catch_up_until_ns = 0
        self._batch_rows = 0
        self._refused = self._cut = self._stalls = self._capped = 0
        self._surge = Surge()
        self._round_left = 0  # rows that the round under way has still to look at
        self._blocked: dict[Client, None] = {}  # whose connections hold bytes, in the order in which it began
        self._ticking: set[Client] = set()  # who wants every tick
        self._leaving: deque[tuple[Client, int, str]] = deque()  # who is to be closed, with which code and reason

    # --- clients ---

    def add(self, client: Client) -> bool:
        """Take a client in; False when there is no room. Its interval is its feed's until it asks for another."""
        if not self._free and self._rows == len(self._clients):
            self._refused += 1
            return False
        if self._free:
            row = heapq.heappop(self._free)
        else:
            row = self._rows
            self._rows += 1
        self._clients[row] = client
        self._count += 1
        client.fanout, client.row = self, row
        mine = self._fan.clients[row]
        mine["form"] = client.feed.dialect * 2 + client.encoding
        mine["fd"] = client.fd
        for name in ("start", "count", "scan", "queue_start", "queue_size", "queue_first", "queue_count"):
            mine[name] = 0
        for name in ("busy", "lost", "slow_ms", "mode", "mask", "stamps", "beat_due_ns", "beats", "sent"):
            mine[name] = 0
        self._set_interval(client, 0 if client.feed.alpaca else self.settings.interval_ms)
        if client.busy:
            self.block(client)
        return True

    def drop(self, client: Client) -> None:
        """Let a client go, before its descriptor is closed: the number may be another's at once."""
        row = client.row
        if row < 0:
            return
        client.row = -1
        self._ticking.discard(client)
        self._blocked.pop(client, None)
        if self.resumer is not None:
            self.resumer.drop(client)
        self.subscriptions.drop(row)
        mine = self._fan.clients[row]
        if row in self._entry_sizes:
            self._entry_blocks.give(int(mine["start"]), self._entry_sizes.pop(row))
        if mine["queue_size"]:
            self._queue_blocks.give(int(mine["queue_start"]), int(mine["queue_size"]))
        fanout_kernel.release(self._fan, row)
        self._clients[row] = None
        self._count -= 1
        heapq.heappush(self._free, row)

    def block(self, client: Client) -> None:
        """Send nothing to the client's descriptor until `free`; one that stays so for too long is cut."""
        if client.row >= 0 and client not in self._blocked:
            client.busy_since_ns = self.clock.monotonic_ns()
            self._blocked[client] = None
            self._fan.clients["busy"][client.row] = 1

    def free(self, client: Client) -> None:
        """Serve the client again, at the next flush; if it was unable to read for long its frame begins with `slow`."""
        if client not in self._blocked:
            return
        del self._blocked[client]
        mine = self._fan.clients[client.row]
        mine["busy"] = int(client.held)
        self._fan.wake[client.row] = fanout_kernel.NOW_DUE
        busy_ns = self.clock.monotonic_ns() - client.busy_since_ns
        if busy_ns >= TELL_AFTER_NS or mine["lost"]:
            mine["slow_ms"] = max(1, busy_ns // MILLISECOND_NS)

    def hold(self, client: Client) -> None:
        """Send nothing new to a client until `release`: what comes meanwhile waits in its queue."""
        client.held = True
        self._fan.clients["busy"][client.row] = 1

    def rebase(self, client: Client, channels: Mapping[str, Sequence[str]], before: _Slots) -> None:
        """Forget what has come for a client that is held: of ``channels`` it is given all up to now from elsewhere, but
        for the slots that it had ``before``, of which it is told what it will not get.
        """
        mine = self._fan.clients[client.row]
        mine["queue_count"] = mine["lost"] = 0
        mine["behind"] = 1
        entries = self._fan.entries[mine["start"] : mine["start"] + mine["count"]]
        mended = np.isin(entries["slot"], self.stream_slots(client, channels, before))
        now = self._fan.version[entries["slot"][mended]]
        self._fan.books[fanout_kernel.RESUMED] += (now - entries["last"][mended]).sum()  # no snapshot is owed: no state
        entries["last"][mended] = now

    def release(self, client: Client) -> None:
        """Go on with a client that was held."""
        client.held = False
        if client not in self._blocked:
            self._fan.clients["busy"][client.row] = 0
            self._fan.wake[client.row] = fanout_kernel.NOW_DUE

    def overflowed(self, client: Client) -> bool:
        """Whether the queue of a client that is held had no room for something."""
        return bool(self._fan.clients[client.row]["lost"])

    def stream_slots(self, client: Client, channels: Mapping[str, Sequence[str]], before: _Slots) -> _Slots:
        """The slots of all streams among ``channels`` of a client, without those of ``before``."""
        found = [
            self._slots(client.feed, channel, self._matching(patterns))
            for channel, patterns in channels.items()
            if channel in STREAM_CHANNELS
        ]
        return np.setdiff1d(np.concatenate([np.empty(0, np.int64), *found]), before)

    def up_to_date(self, client: Client) -> bool:
        """Whether a client has been sent every message of its streams that has come."""
        mine = self._fan.clients[client.row]
        return not (mine["busy"] or mine["queue_count"] or mine["behind"])

    def written_as(self, client: Client) -> tuple[int, int]:
        """Which keys a client's messages have, and which stamps, as `protocol_kernel` takes them."""
        mine = self._fan.clients[client.row]
        return int(mine["mask"]), int(mine["stamps"])

    def close_all(self, code: int, reason: str) -> None:
        """Close every client, as before a restart: as many at once as a slice allows, the others at the next flushes.

        Each is told after which time to come back (`mode`), spread so that the newcomers can be received.
        """
        self._leaving.extend((client, code, reason) for client in self._each())
        self._part(self.clock.monotonic_ns() + SLICE_NS)

    def subscribe(
        self,
        client: Client,
        channels: Mapping[str, Sequence[str]],
        interval_ms: int,
        snapshot: bool = True,
        resume: Places | None = None,
    ) -> None:
        """Add to what a client gets; with ``snapshot``, each value that exists comes first. With ``resume`` messages
        say where they stand, and the client is given what streams have had since it left off there.

        Raises ProtocolError (405), and changes nothing, when a channel would have more than
        `limits.client_symbols_max` symbols; 409 where there is nothing to resume from. The interval is that of all its
        subscriptions.
        """
        if resume is not None and self.resumer is None:
            raise ProtocolError(409, "resume", "these values come late: what was missed is not kept")
        self.meet_symbols()
        held = self.subscriptions.of(client.row)
        for channel, patterns in channels.items():
            count = self._symbols_in([*held.get(channel, ()), *patterns])
            if count > self._limit:
                raise ProtocolError(405, channel, f"{count} symbols, at most {self._limit}")
        before = self._held(client)
        self.subscriptions.add(client.row, channels)
        if interval_ms != client.interval_ms:
            self._set_interval(client, interval_ms)
        for channel, patterns in channels.items():
            newest = snapshot and not (resume and channel in STREAM_CHANNELS)
            self._extend(client, self._slots(client.feed, channel, self._matching(patterns)), newest)
        if resume is not None and self.resumer is not None:
            self._fan.clients["stamps"][client.row] |= protocol_kernel.PLACE
            self.resumer.begin(client, channels, resume, before)

    def unsubscribe(self, client: Client, channels: Mapping[str, Sequence[str]]) -> None:
        """Take away from what a client gets; what other patterns of it still want stays."""
        self.subscriptions.remove(client.row, channels)
        wanted = [
            self._slots(client.feed, channel, self._matching(patterns))
            for channel, patterns in self.subscriptions.of(client.row).items()
        ]
        held = self._held(client)
        keep = np.isin(held, np.concatenate(wanted) if wanted else []).astype(np.int64)
        fanout_kernel.retain(self._fan, client.row, keep, np.empty_like(keep))

    def choose(
        self, client: Client, fields: Sequence[str] | None, heartbeat: bool | None, trace: bool | None = None
    ) -> None:
        """Which keys its data has (`protocol_kernel.fields`; empty: all), and whether it gets a heartbeat each second
        and the stamps of each hop.

        None leaves it as it was.
        """
        mine = self._fan.clients[client.row]
        if trace is not None:
            mine["stamps"] = (mine["stamps"] & ~protocol_kernel.TRACE) | (protocol_kernel.TRACE if trace else 0)
        if fields is not None:
            mine["mask"] = protocol_kernel.mask_of(fields) if fields else 0
        if heartbeat is not None:
            mine["beat_due_ns"] = self.clock.monotonic_ns() + fanout_kernel.BEAT_NS if heartbeat else 0
            fanout_kernel.rest(self._fan, client.row)

    @property
    def _limit(self) -> int:
        return self.topology.limits.client_symbols_max

    def _each(self) -> Iterator[Client]:
        return (client for client in self._clients[: self._rows] if client is not None)

    def _set_interval(self, client: Client, interval_ms: int) -> None:
        """Serve the client at this interval; in a surge perhaps less often."""
        client.interval_ms = interval_ms
        if interval_ms == 0:
            self._ticking.add(client)
        else:
            self._ticking.discard(client)
        asked_ns = interval_ms * MILLISECOND_NS
        fanout_kernel.set_interval(self._fan, client.row, asked_ns, self.clock.monotonic_ns(), self._streams)
        self._fit_queue(client)

    def _matching(self, patterns: Sequence[str]) -> _Slots:
        """The ids of the known symbols that any of the patterns means, in order."""
        names = self._symbols.arrays.names[: self._known]
        found = [np.empty(0, np.int64)]
        exact: list[int] = []
        for pattern in patterns:
            if pattern.endswith("*"):
                prefix = np.frombuffer(pattern[:-1].encode("ascii"), np.uint8)
                found.append(1 + np.flatnonzero((names[1:, : prefix.size] == prefix).all(axis=1)))
            elif (symbol := self._ids.get(pattern)) is not None:
                exact.append(symbol)
        return np.unique(np.concatenate([*found, np.array(exact, np.int64)]))

    def _symbols_in(self, patterns: Sequence[str]) -> int:
        """How many symbols the patterns stand for, those included that are named and not known yet."""
        unknown = {name for name in patterns if not name.endswith("*") and name not in self._ids}
        return int(self._matching(patterns).size) + len(unknown)

    def _slots(self, feed: Feed, channel: str, symbols: _Slots) -> _Slots:
        """The slots that a channel of a feed has for some symbols (`fanout_kernel`)."""
        found = list(range(1, self._venues + 1)) if channel == "venueQuotes" else [self._plane(feed, channel)]
        if channel == "statuses":  # and the state of the lines, which has no symbol
            symbols = np.concatenate([[0], symbols])
        if channel in protocol.BAR_CHANNELS and channel not in ("updatedBars", "barsNow") and not feed.alpaca:
            symbols = np.concatenate([[0], symbols])  # the ends of intervals
        capacity = self._symbols.capacity
        return np.concatenate([np.empty(0, np.int64), *(plane * capacity + symbols for plane in found)])

    def _plane(self, feed: Feed, channel: str) -> int:
        """The plane of a channel that has one for a feed."""
        streams = fanout_kernel.states(self._venues)
        match channel:
            case "quotes":
                return feed.venue + 1
            case "barsNow":
                return streams - 1
            case "bars" | "updatedBars" | "bars5m" | "bars1h" | "dailyBars":
                return streams + ("bars", "updatedBars", "bars5m", "bars1h", "dailyBars").index(channel)
            case "trades" | "statuses" | "lulds":
                group = ("trades", "statuses", "lulds").index(channel)
                return streams + fanout_kernel.STREAMS_BY_VENUE + group * (self._venues + 1) + feed.venue + 1
            case _:
                raise AssertionError(channel)

    def slot_of(self, client: Client, channel: str, symbol: int, venue: int) -> int:
        """The slot of a stream in which a client gets the row of a symbol and venue letter; -1 for another venue's."""
        mine = client.feed.venue
        if mine >= 0 and venue and venue != ord(self.topology.venues[mine].code):
            return -1
        return self._plane(client.feed, channel) * self._symbols.capacity + symbol

    def _held(self, client: Client) -> _Slots:
        """The slots that a client has entries for."""
        mine = self._fan.clients[client.row]
        held: _Slots = self._fan.entries["slot"][mine["start"] : mine["start"] + mine["count"]].astype(np.int64)
        return held

    def _extend(self, client: Client, slots: _Slots, snapshot: bool) -> None:
        """Give a client entries for those of ``slots`` that it has not."""
        slots = np.setdiff1d(slots, self._held(client))
        if slots.size:
            self._fit_entries(client, int(self._fan.clients[client.row]["count"]) + slots.size)
            fanout_kernel.append(self._fan, client.row, slots, self._streams, snapshot)
            self._fit_queue(client)

    def _fit_entries(self, client: Client, count: int) -> None:
        """See to it that a client's block holds ``count`` entries."""
        size = self._entry_sizes.get(client.row, 0)
        if count <= size:
            return
        larger = max(8, 1 << (count - 1).bit_length())
        start = self._entry_blocks.take(larger)
        while self._entry_blocks.end > self._fan.entries.size:
            self._fan = self._fan._replace(
                entries=np.concatenate([self._fan.entries, np.zeros_like(self._fan.entries)])
            )
        before = int(self._fan.clients[client.row]["start"])
        fanout_kernel.move_entries(self._fan, client.row, start)
        if size:
            self._entry_blocks.give(before, size)
        self._entry_sizes[client.row] = larger

    def _fit_queue(self, client: Client) -> None:
        """See to it that a client's queue is in proportion to what may come into it."""
        mine = self._fan.clients[client.row]
        held = self._held(client)
        linked = held.size if client.interval_ms == 0 else int(np.count_nonzero(held >= self._streams))
        size = min(max(QUEUE_MIN, 1 << (QUEUE_PER_ENTRY * linked - 1).bit_length()), QUEUE_MAX) if linked else 0
        if size <= mine["queue_size"]:
            return
        start = self._queue_blocks.take(size)
        while self._queue_blocks.end > self._fan.queue.size:
            self._fan = self._fan._replace(queue=np.concatenate([self._fan.queue, np.zeros_like(self._fan.queue)]))
        before, size_before = int(mine["queue_start"]), int(mine["queue_size"])
        fanout_kernel.move_queue(self._fan, client.row, start, size)
        if size_before:
            self._queue_blocks.give(before, size_before)

    # --- in ---

    def apply(self, batch: Rows) -> None:
        """Take over a batch of the inbox that `latest` has applied already."""
        self.meet_symbols()
        self._batch_rows = batch.size
        fanout_kernel.apply(self._fan, self._values, columns(batch), self.clock.monotonic_ns())
        self._restate(batch)

    def meet_symbols(self) -> None:
        """Give new symbols to those who asked for them before they were known."""
        for symbol in range(self._known, len(self._symbols)):
            self._known = symbol + 1
            name = self._symbols.name(symbol)
            self._ids[name] = symbol
            for row, channel in self.subscriptions.wanting(name):
                client = self._clients[row]
                if client is None:  # gone when it was told of its limit in another channel
                    continue
                if self._symbols_in(self.subscriptions.of(row)[channel]) > self._limit:
                    self._cap(client, channel)
                else:
                    self._extend(client, self._slots(client.feed, channel, np.array([symbol])), True)

    def _cap(self, client: Client, channel: str) -> None:
        """Tell a client, once, that a prefix has outgrown its limit: it does not get the newest symbols."""
        self._capped += 1
        if not client.capped:
            client.capped = True
            error = ProtocolError(405, channel, f"new symbols beyond {self._limit} are not subscribed")
            client.sink.write(protocol.frame([error.message()], client.encoding))

    def _restate(self, batch: Rows) -> None:
        """Tell everyone at once which values went stale with a link or publisher, or changed with a venue's line.

        A link that is up again changes no value: each comes back with its next row. A line that is live again
        changes only the quotes that came while it was stale.
        """
        told = batch["kind"] == KIND_LINK
        seen = (
            (self._values.epochs, self._epochs),
            (self._values.line_stale, self._line_stale),
            (self._values.line_losses, self._line_losses),
        )
        if not np.count_nonzero(told) and all(now.tobytes() == before.tobytes() for now, before in seen):
            return  # as nearly always
        links = batch.view(LINK)[told]
        publishers = set(links["publisher"][links["up"] == 0].tolist())
        changed = self._values.epochs != self._epochs
        if changed.any():
            publishers |= set(np.flatnonzero(changed & (self._epochs != NULL)).tolist())  # born again, not first met
            self._epochs[:] = self._values.epochs
        turned = self._values.line_stale != self._line_stale
        turned |= self._values.line_losses != self._line_losses  # stale and back within one batch
        self._line_stale[:] = self._values.line_stale
        self._line_losses[:] = self._values.line_losses
        letters = self._symbols.arrays.names
        concerned = [(publisher, -1) for publisher in publishers]
        concerned += [(-1, line) for line in np.flatnonzero(turned).tolist()]
        for publisher, line in concerned:
            fanout_kernel.restate(self._fan, self._values, letters, publisher, line, self._known, self._rows)

    # --- out ---

    def flush(self, now_ns: int) -> bool:
        """Serve those who are due, for at most `SLICE_NS`; ``now_ns`` is monotonic. True when some still wait."""
        if self._held_back(now_ns):
            return False
        deadline_ns = self.clock.monotonic_ns() + SLICE_NS
        if self._leaving:
            self._part(deadline_ns)
        if self._round_left <= 0:
            self._round_left = self._rows
        more = False
        self._cut_the_stuck(now_ns)
        while self._round_left > 0:
            wall_ns = self.clock.now_ns()
            row, seen, start, end, error = fanout_kernel.flush(
                self._fan, self._values, self._symbols.arrays, self._cursor, self._rows,
                min(self._round_left, self._rows), CLIENTS_AT_ONCE, now_ns, wall_ns, self._frame,
            )  # fmt: skip
            self._round_left -= seen
            self._cursor = (self._cursor + seen) % self._rows
            if row >= 0:
                self._hand_over(row, start, end, error)
            if self._round_left > 0 and self.clock.monotonic_ns() >= deadline_ns:
                more = True
                break
        self._judge(now_ns)
        return more or bool(self._leaving)

    def _judge(self, now_ns: int) -> None:
        """Begin or end a surge."""
        served, late, restless = self._fan.service[2:].tolist()
        self._fan.service[2:] = 0
        if not self._surge.changed(served, late, restless, now_ns):
            return
        shortest_ns = surge.SHORTEST_MS * MILLISECOND_NS
        fanout_kernel.set_mode(self._fan, self._surge.on, shortest_ns, now_ns, self._streams, self._rows)
        if self._surge.on:
            _log.warning("surge: clients are served late; intervals are %d ms at least", surge.SHORTEST_MS)
        else:
            _log.warning("the surge is over: intervals are what was asked for")

    def _part(self, deadline_ns: int) -> None:
        """Say goodbye to those who are to leave, until a time."""
        spread_ms = max(RETURN_MIN_MS, self._count * 1_000 // RETURNS_PER_S)
        while self._leaving:
            client, code, reason = self._leaving.popleft()
            if client.row >= 0:
                after_ms = client.row * 0x9E3779B1 % (1 << 32) * spread_ms >> 32
                message = {"T": "mode", "mode": "draining", "reconnect_ms": after_ms}
                client.sink.write(protocol.frame([message], client.encoding))
                client.sink.close(code, reason)
            if self.clock.monotonic_ns() >= deadline_ns:
                return

    def time_since(self, since_ns: int) -> None:
        """Time only what was published after ``since_ns`` (UTC): last values were asked for then."""
        self._fan.mode[3] = since_ns

    def in_haste(self) -> bool:
        """Whether each turn counts: a client wants every tick and is given it, or what waited through a stall comes."""
        return self._catching_up or (bool(self._ticking) and not self._surge.on)

    @property
    def degraded(self) -> bool:
        """Whether there is a surge: intervals are longer than what was asked for."""
        return self._surge.on

    def counters(self) -> dict[str, int]:
        """What has been done; `fanout_kernel.COUNTERS` says what the words mean."""
        counts = dict(zip(fanout_kernel.COUNTERS, self._fan.counters.tolist(), strict=True))
        return counts | {
            "clients": self._count,
            "entries": int(self._fan.clients["count"][: self._rows].sum()),
            "clients_refused": self._refused,
            "slow_cut": self._cut,
            "stalls": self._stalls,
            "symbols_capped": self._capped,
            "degraded": int(self._surge.on),
            "surges": self._surge.begun,
            **self.books(),
        }

    def books(self) -> dict[str, int]:
        """What all clients were offered and what became of it (`fanout_kernel.BOOKS`): as of now, so that it agrees."""
        offered, pending = fanout_kernel.books(self._fan, self._rows)
        replaced, missed = (self._fan.counters[fanout_kernel.COUNTERS.index(name)] for name in ("replaced", "missed"))
        kept = dict(zip(fanout_kernel.BOOKS, self._fan.books.tolist(), strict=True))
        return kept | {"offered": offered, "replaced": int(replaced), "missed": int(missed), "pending": pending}

    def _held_back(self, now_ns: int) -> bool:
        """After the loop was blocked: first take what waits on the bus, then send only what is new.

        Old ticks must not be replayed as live. Quotes fall back to their slots, streams tell their gap.
        """
        late = self._flushed_ns is not None and now_ns - self._flushed_ns > STALLED_NS
        self._flushed_ns = now_ns
        if late and not self._catching_up:
            self._stalls += 1
            self._catching_up = True
            self._catch_up_until_ns = now_ns + CATCH_UP_MAX_NS
        elif self._catching_up and (self._batch_rows < CAUGHT_UP_ROWS or now_ns >= self._catch_up_until_ns):
            self._catching_up = False
            fanout_kernel.spill(self._fan, self._rows)
        self._batch_rows = 0
        return self._catching_up

    def _hand_over(self, row: int, start: int, end: int, error: int) -> None:
        """Do what the kernel cannot for a client: send what its socket has not taken, or let it go."""
        client = self._clients[row]
        assert client is not None
        if error:
            client.sink.abort()
        else:
            client.sink.write(self._frame[start:end].tobytes())

    def _cut_the_stuck(self, now_ns: int) -> None:
        """Say goodbye to those whose sockets have taken nothing for too long."""
        while self._blocked:
            client = next(iter(self._blocked))
            if now_ns - client.busy_since_ns <= CUT_AFTER_NS:
                return
            self._cut += 1
            _log.warning("%s: cut: its socket took nothing for %d ms", client.name, CUT_AFTER_NS // MILLISECOND_NS)
            client.sink.write(protocol.frame([ProtocolError(407).message()], client.encoding))
            client.sink.close(protocol.CLOSE_SLOW, protocol.WORDS[407])
            self._blocked.pop(client, None)
