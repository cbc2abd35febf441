"""Inbox: one SUB socket for each publisher, its rows in order of arrival, and every loss counted or repaired."""

import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import zmq
import zmq.utils.monitor

from fabric import bus_kernel, codec, keys, topics
from fabric import sequence_kernel as sk
from fabric.bus import tail_kernel
from fabric.bus.link import Link, Repair
from fabric.bus.sockets import (
    BEAT_EVERY_NS,
    MALFORMED,
    SNAPSHOT_PREFIXES_MAX,
    local_endpoint,
    tune,
)
from fabric.bus.tail import Tails, can_read
from fabric.bus.tail_kernel import T_ENTERED
from fabric.clock import MILLISECOND_NS, SECOND_NS, Clock, EventClock, next_beat
from fabric.codec_kernel import DEPTH_MAX, READ_PAD
from fabric.errors import FabricError
from fabric.native import ZMQ_MSG_BYTES, ZMQ_POLLIN
from fabric.records import (
    CHANNELS,
    EVENT,
    KIND_GAP,
    KIND_LINK,
    KIND_TRADE,
    NULL,
    STATE_CHANNELS,
    VENUE_CHANNELS,
    WIDTH,
    Rows,
)
from fabric.snapshot import KINDS
from fabric.symbols import SymbolTable
from fabric.topology import Curve, Limits, Publisher, Source

log = logging.getLogger(__name__)

REBUILD_AFTER_NS = SECOND_NS
"""A link without connection or attempt for this long has been given up by libzmq: build its socket anew."""
ASK_AGAIN_NS = 3 * SECOND_NS
"""A snapshot of which nothing has come for so long is asked for again; sooner would only load a busy publisher more."""
CHECK_EVERY_NS = 50 * MILLISECOND_NS
SNAPSHOT_CHUNKS_AT_ONCE = 8
"""Chunks that a reader takes in one turn, some milliseconds of work."""
LOG_ASK_AGAIN_NS = 800 * MILLISECOND_NS
LOG_TRIES = 3
"""In all less than `limits.stale_after` by default: a link that is held for nothing must not hide a dead publisher."""
LOG_TRIES_STALE = 15
"""Of a link that is told as stale: to wait longer shows nobody an old price, and to give up loses trades."""
PRICE_CHANNELS = frozenset({"quote", "nbbo", "bolo"})
"""What is wrong when it is late; a late trade or bar is still true."""
LAG_WARN = 1_000
LAG_ALARM = 10_000
"""Messages that a reader may be behind before the log says so, where it has not caught up with the look before."""
HEADS_EVERY_NS = SECOND_NS
"""How often a reader asks how far its publishers are, past its own backlog."""
EVENTS_MAX = 256
"""Rows of a batch that are kept for what happened to links; what does not fit waits for the next batch."""
_REMEMBERED = [sk.EPOCH, sk.POSITION, sk.STAMP, sk.UP]
"""What is kept of a link."""
_MONITORED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_CONNECT_DELAYED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class Inbox:
    """What a process reads: rows of all its publishers, in order of arrival, with every loss counted."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        sources: Sequence[Source],
        symbols: SymbolTable,
        limits: Limits,
        clock: Clock,
        *,
        linger_ns: int = 0,
        lossless: bool = False,
        same_host: bool = False,
        complete: bool = False,
        curve: Curve | None = None,
    ) -> None:
        """``curve``: the keys to show to publishers that have some. Raises FabricError where there are none to show.

        ``complete``: after an outage of a link catch up all that was published meanwhile, old states too; else only
        what is never repeated.

        ``linger_ns``: on a busy stream let more gather after the first message of a wait, until a quarter behind the
        next multiple, which bounds the wake-ups; a message that follows a longer silence is not held up.

        ``same_host``: the publishers run on this machine, so use their `local_endpoint` where there is one.

        ``lossless``: never throw away what has queued up while this reader was away.
        """
        self.sources = tuple(sources)
        self._context = context
        self._symbols = symbols
        self._limits = limits
        self._clock = clock
        self._pair = None if curve is None else keys.read_curve(curve)
        for source in self.sources:
            if self._pair is None and source.publisher.curve is not None:
                raise FabricError(f"{source.publisher.name} lets in known CURVE keys only, and this host has none")
        self._linger_ns = linger_ns
        self._busy_until_ns = 0
        count = len(self.sources)
        total = 0
        self._layout = np.full((count, KINDS, 2), -1, np.int64)
        for i, source in enumerate(self.sources):
            for channel in source.publisher.channels:
                stride = sk.VENUE_STRIDE if channel in VENUE_CHANNELS else 1
                self._layout[i, CHANNELS[channel]] = total, stride
                total += stride * symbols.capacity
        self._state = np.zeros((count, sk.STATE_WIDTH), np.int64)
        self._last = np.zeros(total, np.int64)
        self._arrival = np.zeros(total, np.int64)
        self._places = np.zeros(total, np.int64)  # position of the last message of each topic
        self._advance = np.zeros((count, KINDS, sk.LETTERS), np.int64)
        self._reasons = np.zeros((count, len(codec.REASONS)), np.int64)
        self._rows = np.zeros((limits.batch_max + EVENTS_MAX, WIDTH), np.int64)
        self._message = np.zeros(ZMQ_MSG_BYTES, np.uint8)
        self._scratch = np.zeros(2 * bus_kernel.SCRATCH, np.uint8)
        self._waiting = np.zeros(DEPTH_MAX, np.int64)
        self._control = np.zeros(1 << 18, np.uint8)
        self._control_ends = np.zeros((64, 2), np.int64)
        self._sample = np.zeros(3 + bus_kernel.SAMPLE, np.int64)
        self._sample_logged_ns = 0
        self._next_check_ns = 0
        self._lossless = lossless
        self._same_host = same_host
        self._complete = complete
        self._numbers = itertools.count(1)
        self._looked_ns = clock.monotonic_ns()  # when the sockets were last looked at: whatever came later may be old
        self._snapshots: list[tuple[int, npt.NDArray[np.uint8], npt.NDArray[np.int64], int]] = []
        self.since_ns = 0
        """When last values were last asked for (UTC): what is stamped before then may be one, and not live."""
        self._given: list[tuple[int, int, int]] = []
        self._events: list[tuple[int, int, int]] = []  # (KIND_LINK, link, up) and (KIND_GAP, link, kind) not yet told
        self._tails = Tails(self.sources)
        self.waits_in_logs = False
        """Whether a log held more than fitted into the last batch, wanted or not."""
        self._items = np.zeros(3 * count, bus_kernel.POLL_ITEM)
        self._links = [Link(source, i) for i, source in enumerate(self.sources)]
        for link in self._links:
            self._open(link)

    def recv_batch(self, timeout_ms: int) -> Rows:
        """Return what is there, waiting up to ``timeout_ms`` for the first message; may be empty; valid until the next
        call.
        """
        now = self._clock.monotonic_ns()
        if not self._came_back(now - self._looked_ns, now) and now >= self._next_check_ns:
            self._check(now)
        at_hand = self._events or self._snapshots or self.waits_in_logs or self._repairing()
        waits = 0 if at_hand else timeout_ms
        ready = bus_kernel.wait(self._items, waits)
        if ready > 0 and waits and now < self._busy_until_ns:
            self._gather()
        waited_ns = self._clock.monotonic_ns() - now
        now += waited_ns
        if self._came_back(waited_ns - waits * MILLISECOND_NS, now):
            ready = 0  # those sockets are gone
        self._looked_ns = now
        wall = self._clock.now_ns()
        n = self._tell(wall)
        self._given = []
        if ready > 0:
            self._busy_until_ns = now + 2 * self._linger_ns
        if ready > 0 or self._tails.any:
            if ready <= 0:
                self._items["revents"] = 0
            lost = self._read_beside(now)
            n, heartbeats = self._drain(n, now, wall)
            if heartbeats:
                self._heartbeats(heartbeats, now)
            for link in lost:  # told after all that it had sent
                self._part(link)
                self._down(link)
        else:
            self._state[:, sk.DRAINED] = 1 - self._state[:, sk.HELD]
        n = self._repair(n, now, wall)
        n = self._absorb(n, now, wall)
        rows = self._rows[:n]
        if isinstance(self._clock, EventClock) and n:
            market = rows[rows[:, 0] <= KIND_TRADE]
            if market.size:
                self._clock.saw(int(market[:, 7].max()))
        return rows.view(EVENT).reshape(n)

    def given(self) -> list[tuple[int, int, int]]:
        """Where the market rows of the last batch came from: index of the source, how many in a row, and `bus_kernel`
        LIVE, SNAPSHOT or FROM_LOG.
        """
        return self._given

    def _came_back(self, absent_ns: int, now_ns: int) -> bool:
        """Whether this reader was stopped or blocked for so long that what has queued up is old; then throw it away."""
        if absent_ns <= self._limits.stale_after_ns or self._lossless:
            return False
        for link in self._links:
            self._silent(link, now_ns, "the reader was away")
        self._check(now_ns)
        return True

    def _drain(self, n: int, now_ns: int, wall_ns: int) -> tuple[int, int]:
        """Take what is waiting, on sockets and in logs; return (rows, heartbeats)."""
        share = max(64, self._limits.batch_max // max(1, len(self._links)))
        before = self._state[:, sk.ACCEPTED].copy()
        n, heartbeats = bus_kernel.drain(
            self._items, len(self._links), share, codec.SCHEMA, self._symbols.arrays, self._state, self._layout,
            self._last, self._arrival, self._advance, self._places, self._rows, n, self._message, self._scratch,
            self._control, self._control_ends, self._reasons, self._sample, self._waiting, now_ns, wall_ns,
            self._limits.refresh_every_ns,
        )  # fmt: skip
        if n < 0:
            raise zmq.ZMQError(-n)
        before = self._give(before)
        if self._tails.any:
            n = self._drain_logs(n, share, now_ns, wall_ns)
            self._give(before)
        return n, heartbeats

    def _give(self, before: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Note how many live rows each link has given since it had given ``before``; return how many it has by now."""
        accepted = self._state[:, sk.ACCEPTED].copy()
        gave = accepted - before
        self._given += [(link, count, bus_kernel.LIVE) for link, count in enumerate(gave.tolist()) if count]
        return accepted

    def _drain_logs(self, n: int, share: int, now_ns: int, wall_ns: int) -> int:
        """Take what the logs that are read in place have had since."""
        tails = self._tails
        n, self.waits_in_logs = tail_kernel.drain_logs(
            tails.table, tails.prefixes, tails.lengths, tails.filters, share, codec.SCHEMA, self._symbols.arrays,
            self._state, self._layout, self._last, self._arrival, self._advance, self._places, self._rows, n,
            self._scratch, self._reasons, self._waiting, now_ns, wall_ns, self._limits.refresh_every_ns,
        )  # fmt: skip
        for index in np.flatnonzero(tails.table[:, T_ENTERED]).tolist():
            tails.look_ahead(index)
        return n

    def ready(self) -> bool:
        """Whether every publisher is heard and its last values have come."""
        return all(self._state[link.index, sk.UP] == 1 and link.whole for link in self._links)

    def up(self, index: int) -> bool:
        """Whether the publisher of ``sources[index]`` is heard."""
        return bool(self._state[index, sk.UP])

    def counters(self) -> dict[str, int]:
        """Sums over all publishers, by the names that ``status`` and ``/metrics`` use; ``lag`` is the worst of
        them, and each stands beside it as ``lag_<publisher>`` and ``lag_ms_<publisher>``.
        """
        total = self._state.sum(axis=0)
        at_end = sum(behind for link in self._links for behind in link.behind.values())
        return {
            "received": int(total[sk.MESSAGES]),
            "accepted": int(total[sk.ACCEPTED]),
            "lost": int(total[sk.LOST]) + at_end,
            "gaps": int(total[sk.GAPS]),
            "duplicates": int(total[sk.DUPLICATES]),
            "refresh": int(total[sk.REFRESHED]),
            "fenced": int(total[sk.FENCED]),
            "restarts_seen": int(total[sk.RESTARTS]),
            "missed_at_join": int(total[sk.MISSED]),
            "overlap": int(total[sk.OVERLAP]),
            "bad_frames": int(total[sk.BAD]),
            "skew": int(total[sk.FUTURE]),
            "bytes_in": int(total[sk.BYTES]),
            "links_up": int(total[sk.UP]),
            "links": len(self._links),
            "rebuilds": sum(link.rebuilds for link in self._links),
            "symbols": len(self._symbols),
            "symbols_refused": self._symbols.refused,
            "repaired": int(total[sk.REPAIRED]),
            "repairs": sum(link.repairs for link in self._links),
            "lag": max((link.lag for link in self._links), default=0),
            "lag_ms": max((link.lag_ns for link in self._links), default=0) // MILLISECOND_NS,
            **{f"lag_{name}": messages for name, (messages, _) in self.lags().items()},
            **{f"lag_ms_{name}": waited_ns // MILLISECOND_NS for name, (_, waited_ns) in self.lags().items()},
        }

    def bad_frames(self) -> dict[str, int]:
        """Refused frames by reason, for `fabric_bad_frames_total{reason}`; reasons that never occurred are left out."""
        sums = self._reasons.sum(axis=0).tolist()
        return {reason: count for reason, count in zip(codec.REASONS, sums, strict=True) if count}

    def lags(self) -> dict[str, tuple[int, int]]:
        """By publisher: how many of its messages this reader has not taken yet, and for how many ns the next of them
        has been waiting. Asked for each second. Topics of single symbols are in the time only.
        """
        return {link.source.publisher.name: (link.lag, link.lag_ns) for link in self._links}

    def links(self) -> list[dict[str, Any]]:
        """How each link is: its publisher, whether that is heard, and counters (see `counters`) of this link alone.

        ``books``: how many messages were given and lost of those that the publisher's log holds of ``topics`` behind
        position ``after`` up to ``last``, for whoever compares; since the last outage, None while one lasts.
        """
        return [
            {
                "publisher": link.source.publisher.name,
                "up": bool(state[sk.UP]),
                "received": int(state[sk.MESSAGES]),
                "lag": link.lag,
                "lag_ns": link.lag_ns,
                "lost": int(state[sk.LOST]) + sum(link.behind.values()),
                "repaired": int(state[sk.REPAIRED]),
                "books": self._books(link),
            }
            for link in self._links
            for state in (self._state[link.index],)
        ]

    def _books(self, link: Link) -> dict[str, Any] | None:
        state = self._state[link.index]
        if not state[sk.UP] or state[sk.HELD] or link.asked_ns or link.repair is not None:
            return None
        lost = int(state[sk.LOST]) + sum(link.behind.values())
        now = int(state[sk.EPOCH]), int(state[sk.POSITION]), link.snapshots, int(state[sk.ACCEPTED]), lost
        begun = link.books_from
        if begun is None or begun[0] != now[0] or begun[2] != now[2]:  # other numbers, or values out of their order
            begun = link.books_from = now
        return {
            "topics": link.source.topics,
            "epoch": now[0],
            "after": begun[1],
            "last": now[1],
            "given": now[3] - begun[3],
            "lost": now[4] - begun[4],
        }

    def logs_suspended(self) -> list[str]:
        """The publishers whose log was suspended when they were last heard."""
        return [link.source.publisher.name for link in self._links if link.counters.get("log_suspended")]

    def positions(self) -> dict[str, tuple[int, int]]:
        """By publisher: epoch and position up to which all has been given."""
        return {
            link.source.publisher.name: (int(state[sk.EPOCH]), int(state[sk.POSITION]))
            for link in self._links
            if (state := self._state[link.index])[sk.EPOCH]
        }

    def resume(self, positions: Mapping[str, tuple[int, int]]) -> None:
        """Go on behind `positions` that an earlier reader has left off at; to be called before the first `recv_batch`.

        What the log still holds comes first, in order.
        """
        for link in self._links:
            if found := positions.get(link.source.publisher.name):
                self._state[link.index, [sk.EPOCH, sk.POSITION]] = found
                self._state[link.index, sk.LOGGED] = 1  # nothing live before the log has brought what comes first

    def tables(self) -> dict[str, npt.NDArray[np.int64]]:
        """What it knows of its links and topics, by name, as `order_kernel.bring_back` changes it."""
        names = ("state", "layout", "last", "places", "advance")
        return {name: getattr(self, f"_{name}") for name in names}

    def memory(self) -> dict[str, npt.NDArray[np.int64]]:
        """What a checkpoint keeps of it: number and place of the last message of each topic, and the links."""
        count = len(self._symbols)
        used = [np.zeros(0, np.int64)]
        for first, stride in self._layout.reshape(-1, 2).tolist():
            if first >= 0:
                used.append(first + np.flatnonzero(self._last[first : first + count * stride]))
        slots = np.concatenate(used)
        links = self._state[:, _REMEMBERED]
        return {"slots": slots, "last": self._last[slots], "places": self._places[slots], "links": links}

    def restore(self, memory: Mapping[str, npt.NDArray[np.int64]]) -> None:
        """Be as it was when ``memory`` was taken; before the first `recv_batch`."""
        self._last[memory["slots"]] = memory["last"]
        self._places[memory["slots"]] = memory["places"]
        self._state[:, _REMEMBERED] = memory["links"]

    def go_on(self, whole: bool) -> None:
        """Go on behind what has been restored. ``whole``: all that was published since is given from the logs, so that
        nothing shows but a delay; else, and where there is no log, it was an outage, which is told as one.
        """
        self._looked_ns = now_ns = self._clock.monotonic_ns()
        for link in self._links:
            state = self._state[link.index]
            link.heard_ns = now_ns
            logged = bool(state[sk.EPOCH]) and link.source.publisher.journal is not None and self._limits.repair_max > 0
            state[sk.LOGGED] = logged  # then nothing live comes before the log has brought what is first
            if logged and whole:
                link.resumed = True
            else:
                self._down(link)

    def heartbeat(self, index: int) -> dict[str, Any]:
        """The counters that the publisher of ``sources[index]`` last told of itself."""
        return dict(self._links[index].counters)

    def close(self) -> None:
        """Close every socket; may be called again."""
        for link in self._links:
            if not link.socket.closed:
                self._shut(link)

    # How a link is made, watched and made anew

    def _open(self, link: Link) -> None:
        publisher = link.source.publisher
        link.socket = self._context.socket(zmq.SUB)
        tune(link.socket, self._limits)
        self._show_keys(link.socket, publisher)
        link.monitor = link.socket.get_monitor_socket(_MONITORED)
        link.in_place = self._may_read_in_place(link)
        word = topics.build(topics.MORE_CHANNEL, publisher.name)
        for topic in (word,) if link.in_place else link.source.topics:
            link.socket.subscribe(topic)
        # Last, so that its greeting proves that the publisher knows all the others.
        link.socket.subscribe(topics.build(topics.NODE_CHANNEL, publisher.name))
        link.dealer = self._context.socket(zmq.DEALER)
        tune(link.dealer, self._limits)
        self._show_keys(link.dealer, publisher)
        link.dealer.setsockopt(zmq.SNDHWM, 16)
        local = local_endpoint(publisher.endpoint) if self._same_host else ""
        link.socket.connect(local or publisher.endpoint)
        link.dealer.connect(publisher.snapshot_endpoint)
        link.asked_ns = link.asked_head_ns = 0
        self._part(link)
        count = len(self.sources)
        for place, socket in enumerate((link.socket, link.monitor, link.dealer)):
            item = self._items[place * count + link.index]
            item["socket"], item["events"] = int(socket.underlying), ZMQ_POLLIN

    def _may_read_in_place(self, link: Link) -> bool:
        """Whether the publisher's log is to be read in memory. Without room for it a log does not hold what is
        published; and a lossless stream is one whose publisher waits for its readers, at their sockets.
        """
        here = self._same_host and local_endpoint(link.source.publisher.endpoint) != ""
        epoch = int(self._state[link.index, sk.EPOCH])
        return here and not self._lossless and can_read(link.source) and epoch != link.unlogged

    def _show_keys(self, socket: zmq.Socket[bytes], publisher: Publisher) -> None:
        if publisher.curve is not None and self._pair is not None:
            socket.setsockopt(zmq.CURVE_SERVERKEY, publisher.curve.public_key.encode())
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._pair[0])
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair[1])

    def _shut(self, link: Link) -> None:
        link.socket.disable_monitor()
        for socket in (link.socket, link.monitor, link.dealer):
            socket.close(linger=0)

    def _check(self, now_ns: int) -> None:
        """Look after each link: silent ones are stale, given-up ones are rebuilt, open requests are repeated."""
        self._next_check_ns = now_ns + CHECK_EVERY_NS
        for link in self._links:
            state = self._state[link.index]
            if self._tails.reads(link.index):
                self._tails.look_ahead(link.index)
            if state[sk.MESSAGES] != link.messages:
                link.messages = int(state[sk.MESSAGES])
                link.heard_ns = now_ns
            elif state[sk.HELD]:
                self._ask_log_again(link, now_ns)
            elif (state[sk.CONNECTED] or state[sk.UP]) and now_ns - link.heard_ns > self._limits.stale_after_ns:
                self._silent(link, now_ns, "silent")
            if not state[sk.UP] and now_ns - link.heard_ns > self._limits.stale_after_ns:
                link.lag = link.lag_ns = 0  # it is not there; one that was given up stays late until it was asked again
            if link.rebuild_ns and now_ns >= link.rebuild_ns:
                self._shut(link)
                self._open(link)
                state[sk.CONNECTED] = 0
                link.forget_heads()
                link.rebuilds += 1
                link.rebuild_ns = 0
                log.warning("%s: connection given up (%s); socket built anew", link.source.publisher.name, link.refused)
            if link.asked_ns and now_ns - link.asked_ns > ASK_AGAIN_NS and state[sk.CONNECTED]:
                link.wants_snapshot = True
            if link.wants_snapshot and state[sk.CONNECTED]:
                self._ask(link, now_ns)
            if state[sk.JOINED] and now_ns - link.asked_head_ns > HEADS_EVERY_NS:
                link.asked_head_ns = now_ns
                self._send_request(link, [b"head", b"head"])
        if self._sample[0] and now_ns - self._sample_logged_ns > 10 * SECOND_NS:
            self._log_sample(now_ns)

    def _log_sample(self, now_ns: int) -> None:
        """One line in ten seconds for all refused frames; their counters tell the rest."""
        self._sample_logged_ns = now_ns
        length, index, reason, *raw = self._sample.tolist()
        shown = bytes(raw[: min(length, bus_kernel.SAMPLE)]).hex()
        name = self.sources[index].publisher.name
        log.warning("%s: bad frame (%s) dropped; payload begins %s", name, codec.REASONS[reason], shown)
        self._sample[0] = 0

    def _silent(self, link: Link, now_ns: int, why: str) -> None:
        """What a publisher said is stale, and what its connection may still deliver is too: give it up."""
        self._down(link)
        self._state[link.index, sk.CONNECTED] = 0
        link.refused = why
        link.rebuild_ns = link.heard_ns = now_ns

    def _part(self, link: Link) -> None:
        """Its subscriptions are not in force any more; what was to be repaired will be caught up after the next
        greeting.
        """
        self._state[link.index, [sk.JOINED, sk.HELD]] = 0
        self._tails.leave(link.index)
        self._items[link.index]["events"] = ZMQ_POLLIN
        link.repair = None

    def _down(self, link: Link) -> None:
        """A publisher is silent or lost: what it said is stale from now on."""
        link.resumed = False
        link.books_from = None
        if self._state[link.index, sk.UP]:
            self._state[link.index, sk.UP] = 0
            sk.doubt(self._layout, self._last, link.index, len(self._symbols))
            self._events.append((KIND_LINK, link.index, 0))
            self._snapshots = [snapshot for snapshot in self._snapshots if snapshot[0] != link.index]
            link.request += 1  # what is on its way is as old as what came

    def _gather(self) -> None:
        """Let more come until the next beat: a quarter behind the multiples at which feeds publish."""
        now_ns = self._clock.monotonic_ns() - self._linger_ns // 4
        # Not a wait for something: nothing but the passing time ends the gathering.
        time.sleep((next_beat(now_ns, self._linger_ns) - now_ns) / SECOND_NS)

    def _tell(self, wall_ns: int) -> int:
        """Begin the batch with what Python has found out about links."""
        told, self._events = self._events[:EVENTS_MAX], self._events[EVENTS_MAX:]
        for n, (kind, index, detail) in enumerate(told):
            row = self._rows[n]
            row[:] = NULL
            row[[0, 1, 2, 4, 7, 11, 12]] = kind, 0, 0, self._state[index, sk.EPOCH], wall_ns, index, detail
        return len(told)

    def _read_beside(self, now_ns: int) -> list[Link]:
        """Read monitors and snapshot answers, which are rare; return the links whose connection is gone."""
        count = len(self._links)
        lost = []
        for place in np.flatnonzero(self._items["revents"][count:]).tolist():
            link = self._links[place % count]
            if place >= count:
                self._read_snapshot(link, now_ns)
            elif self._read_monitor(link, now_ns):
                lost.append(link)
        return lost

    def _read_monitor(self, link: Link, now_ns: int) -> bool:
        """Follow the connection; return whether it was lost."""
        state = self._state[link.index]
        lost = False
        while link.monitor.poll(0):
            event = zmq.utils.monitor.recv_monitor_message(link.monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                state[sk.CONNECTED] = 1
                link.rebuild_ns = 0
                link.heard_ns = now_ns
            elif event == zmq.EVENT_DISCONNECTED:
                state[sk.CONNECTED] = 0
                link.rebuild_ns = now_ns + REBUILD_AFTER_NS
                link.refused = link.refused or "disconnected"
                link.forget_heads()
                lost = True
            elif event in (zmq.EVENT_CONNECT_RETRIED, zmq.EVENT_CONNECT_DELAYED):
                link.rebuild_ns = 0
                link.refused = ""
            else:
                link.refused = "handshake failed"
                link.rebuild_ns = now_ns + REBUILD_AFTER_NS
        return lost

    # Snapshots

    def _ask(self, link: Link, now_ns: int) -> None:
        link.request += 1
        link.wants_snapshot = False
        link.asked_ns = now_ns
        self.since_ns = self._clock.now_ns()
        # Line states first: a reader must know which venue is stale before it is given that venue's quotes.
        states = sorted(filter(self._holds_state, link.source.topics), key=lambda topic: not topic.startswith("status"))
        prefixes = [topic.encode() for topic in states]
        if not prefixes:
            link.asked_ns, link.whole = 0, True
            return
        self._send_request(link, [str(link.request).encode(), b"last", *prefixes[:SNAPSHOT_PREFIXES_MAX]])

    def _send_request(self, link: Link, frames: list[bytes]) -> None:
        try:
            link.dealer.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:  # sixteen requests wait for a ROUTER that is away; the last of them will do
            return

    @staticmethod
    def _holds_state(topic: str) -> bool:
        return any(channel in STATE_CHANNELS for channel in topics.prefix_channels(topic))

    def _read_snapshot(self, link: Link, now_ns: int) -> None:
        """Take the chunks that have come, up to a bound: a call's work is limited however much has been asked for."""
        for _ in range(SNAPSHOT_CHUNKS_AT_ONCE):
            try:
                request, *answer = link.dealer.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            if request == str(link.request).encode():
                self._take_chunk(link, answer, now_ns)
            elif link.repair is not None and request == b"log-%d" % link.repair.request:
                self._take_log(link, link.repair, answer, now_ns)
            elif request == b"head":
                self._take_head(link, answer, now_ns)

    def _take_chunk(self, link: Link, answer: list[bytes], now_ns: int) -> None:
        try:
            summary, *frames = answer
            more = bool(msgpack.unpackb(summary)["more"])
            data, ends = codec.lay_out(zip(frames[::2], frames[1::2], strict=True))
        except MALFORMED:
            self._refuse(link)
            return
        self._snapshots.append((link.index, data, ends, 0))
        link.asked_ns = now_ns if more else 0
        if not more:
            link.whole = True
            link.forget_heads()  # compared anew: snapshot rows count as come, though they were sent long ago

    def _absorb(self, n: int, now_ns: int, wall_ns: int) -> int:
        while self._snapshots:
            index, data, ends, done = self._snapshots[0]
            if not self._state[index, sk.DRAINED]:  # the live stream first: it holds what led up to these values
                break
            before = int(self._state[index, sk.ACCEPTED])
            n, done = bus_kernel.absorb(
                codec.SCHEMA, self._symbols.arrays, data, ends, done, self._state, self._layout, self._last,
                self._arrival, self._advance, self._places, self._rows, n, index, self._reasons, self._waiting,
                now_ns, wall_ns, self._limits.refresh_every_ns,
            )  # fmt: skip
            gave = int(self._state[index, sk.ACCEPTED]) - before
            self._links[index].snapshots += gave
            self._given.append((index, gave, bus_kernel.SNAPSHOT))
            if done < ends.shape[0]:
                self._snapshots[0] = (index, data, ends, done)
                break
            self._snapshots.pop(0)
            if not self._links[index].asked_ns:  # that was its last chunk
                self._state[index, sk.REPAIRING] = 0
        return n

    # Heartbeats: who lives, and what was lost at the end of a stream

    def _heartbeats(self, count: int, now_ns: int) -> None:
        start = 0
        for end, index in self._control_ends[:count].tolist():
            raw = self._control[start:end].tobytes()
            start = end
            try:
                beat = msgpack.unpackb(raw)
                self._heartbeat(self._links[index], beat, now_ns)
            except MALFORMED:
                self._refuse(self._links[index])

    def _refuse(self, link: Link) -> None:
        """Count what a publisher said beside its rows and nobody can read."""
        self._state[link.index, sk.BAD] += 1
        self._reasons[link.index, codec.REASONS.index("wrong_type")] += 1

    def _heartbeat(self, link: Link, beat: dict[str, Any], now_ns: int, repaired: bool = False) -> None:
        """``repaired``: what lay before it has just been asked of the log, and what has not come is lost."""
        state = self._state[link.index]
        epoch, head = int(beat["E"]), int(beat["O"])
        if epoch >= state[sk.EPOCH]:
            link.heard_ns = now_ns
            state[sk.LOGGED] = beat.get("log") is not None and self._limits.repair_max > 0
            again = epoch > state[sk.EPOCH] or not state[sk.JOINED] or not (state[sk.UP] or state[sk.BEHIND])
            if again and not repaired and self._catch_up(link, beat, now_ns):
                return
        verdict = sk.judge_epoch(self._state, link.index, epoch)
        if verdict == sk.OLD_EPOCH:
            return
        if verdict == sk.NEW_EPOCH:
            self._down(link)
            sk.start_epoch(self._state, self._layout, self._last, self._advance, link.index, epoch, len(self._symbols))
            link.forget_heads()
            state[sk.JOINED] = 0
        if not self._follow_lag(link, beat) and not state[sk.UP]:
            state[sk.JOINED] = 0  # silent for a while, on a connection that held: its values must be learnt anew
        if not state[sk.UP] and state[sk.CONNECTED] and not state[sk.BEHIND]:
            state[sk.UP] = 1
            self._events.append((KIND_LINK, link.index, 1))
        if not state[sk.JOINED]:
            state[sk.JOINED] = 1
            link.resumed = False
            link.even = head
            link.level_ns = 0
            self._ask(link, now_ns)
            link.owed = 0
            if link.in_place and not self._tails.begin(link.index, head):
                self._distrust(link, now_ns)
                return
        if isinstance(self._clock, EventClock):
            self._clock.saw(int(beat["t"]))
        link.position = head
        link.beat_ns = int(beat.get("t", 0))
        link.counters = dict(beat["counters"])
        if self._tails.reads(link.index):
            self._compare_with_log(link, head, now_ns)
            return
        if self._compare_heads(link, beat["heads"], bool(state[sk.LOGGED]) and not repaired):
            self._fill(link, link.even + 1, head, link.source.topics, now_ns, beat)
            return
        link.even = head
        state[sk.POSITION] = max(head, int(state[sk.POSITION]))

    def _compare_with_log(self, link: Link, head: int, now_ns: int) -> None:
        """What the heartbeat before counted has been read by now, if the log holds it."""
        state, seen = self._state[link.index], self._tails.seen(link.index)
        if state[sk.HELD]:
            return
        state[sk.POSITION] = max(seen, int(state[sk.POSITION]))
        if seen < link.owed and state[sk.DRAINED]:
            self._distrust(link, now_ns)
        link.owed = head

    def _distrust(self, link: Link, now_ns: int) -> None:
        """Its log cannot be read, or has no room and lacks what was published: have its messages over the socket."""
        link.unlogged = int(self._state[link.index, sk.EPOCH])
        self._silent(link, now_ns, "its log does not hold what it published")

    def _follow_lag(self, link: Link, beat: dict[str, Any]) -> bool:
        """Whether the publisher says that it is further behind what it reads itself than a price may be old: then what
        it says is stale, though it comes in time, until it says otherwise.
        """
        state = self._state[link.index]
        behind_ns = max((int(read["lag_ns"]) for read in beat.get("links", ())), default=0)
        if behind_ns > self._limits.stale_after_ns and not self._lossless and self._reads_prices(link):
            if not state[sk.BEHIND]:
                name, behind_ms = link.source.publisher.name, behind_ns // MILLISECOND_NS
                log.warning("%s: it is %d ms behind what it reads: its prices are stale", name, behind_ms)
            self._down(link)
            state[sk.BEHIND] = 1
        elif state[sk.BEHIND]:
            state[sk.BEHIND] = 0
            log.info("%s: it has caught up with what it reads", link.source.publisher.name)
            # What has come meanwhile was taken as stale: all of it is asked for and told again.
            sk.doubt(self._layout, self._last, link.index, len(self._symbols))
        return bool(state[sk.BEHIND])

    def _compare_heads(self, link: Link, heads: dict[str, dict[str, int]], may_repair: bool) -> bool:
        """What a publisher has sent on (channel, first letter) since the last comparison, against what came. Tell what
        is lost; with ``may_repair`` tell nothing, but return whether anything is missing.

        The heartbeat travels behind its messages on the same connection, so all it counts has come or is lost.
        Only whole letters can be compared: a reader of a longer prefix learns of such a loss by the refresh.
        """
        for channel, letter, ahead in self._ahead(link, heads):
            kind = CHANNELS[channel]
            at = (kind, ord(letter))
            link.heads[at] = link.base(at, ahead)
            behind = max(0, ahead - link.heads[at])
            if behind > link.behind.get(at, 0):
                if may_repair:
                    return True
                self._events.append((KIND_GAP, link.index, kind))
                if channel in STATE_CHANNELS:
                    link.wants_snapshot = True
                    self._state[link.index, sk.REPAIRING] = 1
            link.behind[at] = behind
        link.based = True
        return False

    def _ahead(self, link: Link, heads: dict[str, dict[str, int]]) -> Iterator[tuple[str, str, int]]:
        """Channel, first letter and what its head is beyond what has come, for all that is subscribed as a whole."""
        whole = set(link.source.topics)
        for channel, letters in heads.items():
            for letter, head in letters.items():
                if {f"{channel}.", f"{channel}.{letter}"} & whole:
                    yield channel, letter, int(head) - int(self._advance[link.index, CHANNELS[channel], ord(letter)])

    def _take_head(self, link: Link, answer: list[bytes], monotonic_ns: int) -> None:
        """How far the publisher is at this moment, past all that waits on the way. A reader of prices that is too far
        behind throws away what waits.
        """
        try:
            head = msgpack.unpackb(answer[0])
            state = self._state[link.index]
            missing = max(0, int(head["O"]) - self._tails.seen(link.index)) if self._tails.reads(link.index) else 0
            for channel, letter, ahead in self._ahead(link, head["heads"]):
                at = (CHANNELS[channel], ord(letter))
                missing += max(0, ahead - link.base(at, ahead) - link.behind.get(at, 0))
            now_ns = int(head["t"])
        except MALFORMED:
            self._refuse(link)
            return
        # What was missing at the last look has waited since then, unless so many have come meanwhile.
        taken = int(self._advance[link.index].sum())
        waits = link.lag > max(0, taken - link.taken)
        link.lag, link.taken = missing, taken
        # Of the last message that was taken; without one that could be missing, of a heartbeat that is overdue.
        # What is missing was published after the last that was taken, and after nothing was.
        newest_ns = max(int(state[sk.STAMP]), link.level_ns)
        link.lag_ns = max(0, now_ns - newest_ns if missing else now_ns - link.beat_ns - 2 * BEAT_EVERY_NS)
        if not missing:
            link.level_ns = now_ns
        level = 0 if not waits else LAG_ALARM if missing >= LAG_ALARM else LAG_WARN if missing >= LAG_WARN else 0
        if level > link.lag_told or (link.lag_told and not level):
            name, waited_ms = link.source.publisher.name, link.lag_ns // MILLISECOND_NS
            say = log.error if level == LAG_ALARM else log.warning if level else log.info
            say("%s: this reader is %d messages (%d ms) behind", name, missing, waited_ms)
        link.lag_told = level
        was_late, link.late = link.late, link.lag_ns > self._limits.stale_after_ns
        if was_late and link.late and self._gives_up_old(link):  # once may be a step of the publisher's clock
            self._silent(link, monotonic_ns, f"this reader is {link.lag_ns // MILLISECOND_NS} ms behind")
            link.late = False

    def _gives_up_old(self, link: Link) -> bool:
        """Whether what waits for too long on this link is wrong rather than late: prices, to who acts on the last."""
        held = self._state[link.index, sk.HELD] or not self._state[link.index, sk.UP]
        return not (held or self._lossless or self._complete) and self._reads_prices(link)

    @staticmethod
    def _reads_prices(link: Link) -> bool:
        prices = PRICE_CHANNELS & set(link.source.publisher.channels)
        return any(prices & set(topics.prefix_channels(topic)) for topic in link.source.topics)

    # Gaps, and how they are filled from the publisher's log

    def _repairing(self) -> bool:
        return any(link.repair is not None and link.repair.here for link in self._links)

    def _catch_up(self, link: Link, beat: dict[str, Any], now_ns: int) -> bool:
        """After an outage: have what was missed before ``beat``; return whether anything is to come."""
        state = self._state[link.index]
        first, last = int(state[sk.POSITION]) + 1, int(beat["O"])
        if link.resumed and last - first >= self._limits.repair_max:
            self._down(link)  # too much to bring: an outage
        topics_missed = link.source.topics if self._complete or link.resumed else self._events_of(link)
        if not (state[sk.LOGGED] and state[sk.EPOCH] and topics_missed):
            return False
        if first > last and int(beat["E"]) == state[sk.EPOCH]:
            return False
        return self._fill(link, first, last, topics_missed, now_ns, beat)

    def _events_of(self, link: Link) -> tuple[str, ...]:
        """The prefixes of what is never repeated, of all that is subscribed."""
        found = []
        for topic in link.source.topics:
            if topics.channel_of(topic) is not None:
                found += [] if self._holds_state(topic) else [topic]
            else:
                channels = set(topics.prefix_channels(topic)) & set(link.source.publisher.channels)
                found += [f"{channel}." for channel in channels if channel not in STATE_CHANNELS]
        return tuple(found)

    def _fill(
        self, link: Link, first: int, last: int, prefixes: tuple[str, ...], now_ns: int, beat: dict[str, Any] | None
    ) -> bool:
        """Hold the link and ask the log; return whether it is asked: not for more than `limits.repair_max` positions,
        which are told as lost.
        """
        state = self._state[link.index]
        if last - first >= self._limits.repair_max:
            log.warning("%s: positions %d to %d are more than limits.repair_max: not filled from the log",
                        link.source.publisher.name, first, last)  # fmt: skip
            if beat is not None:
                self._heartbeat(link, beat, now_ns, repaired=True)
            else:
                self._let_go(link)
                state[sk.LOGGED] = 0  # until the next heartbeat: else the next message would ask again
            return True
        state[sk.HELD] = 1
        self._items[link.index]["events"] = 0
        link.repair = Repair(first, last, prefixes, int(state[sk.EPOCH]), beat, now_ns)
        self._ask_log(link, link.repair, now_ns)
        return True

    def _let_go(self, link: Link) -> None:
        link.repair = None
        self._state[link.index, sk.HELD] = 0
        self._items[link.index]["events"] = ZMQ_POLLIN

    def _ask_log(self, link: Link, repair: Repair, now_ns: int) -> None:
        repair.request, repair.asked_ns = next(self._numbers), now_ns
        query = {"from": repair.next, "to": repair.last, "epoch": repair.epoch}
        prefixes = [topic.encode() for topic in repair.topics[:SNAPSHOT_PREFIXES_MAX]]
        self._send_request(link, [b"log-%d" % repair.request, b"log", msgpack.packb(query), *prefixes])

    def _ask_log_again(self, link: Link, now_ns: int) -> None:
        """What was asked for does not come: ask again, in the end do without."""
        repair = link.repair
        if repair is None or repair.all_here or repair.here or now_ns - repair.asked_ns < LOG_ASK_AGAIN_NS:
            return
        repair.tries += 1
        name, up = link.source.publisher.name, self._state[link.index, sk.UP]
        if repair.tries < (LOG_TRIES if up else LOG_TRIES_STALE):
            self._ask_log(link, repair, now_ns)
        elif up:
            log.warning("%s: its log does not answer: what it said is stale until it has been caught up with", name)
            self._down(link)
            self._part(link)
            link.forget_heads()
        else:
            log.error("%s: its log does not answer: messages are lost", name)
            asked = {channel for topic in repair.topics for channel in topics.prefix_channels(topic)}
            for channel in sorted(asked.intersection(link.source.publisher.channels) - set(STATE_CHANNELS)):
                self._events.append((KIND_GAP, link.index, CHANNELS[channel]))
            self._state[link.index, sk.LOGGED] = 0
            self._end_repair(link, repair, now_ns)

    def _take_log(self, link: Link, repair: Repair, answer: list[bytes], now_ns: int) -> None:
        try:
            summary = msgpack.unpackb(answer[0])
            done, after = not summary["more"], summary.get("next")
            raw = answer[1] if len(answer) > 1 else b""
            if done and after is not None:
                repair.next = int(after)
        except MALFORMED:
            self._refuse(link)
            return
        link.heard_ns = repair.asked_ns = now_ns
        repair.tries = 0
        if raw:
            data = np.frombuffer(raw + bytes(READ_PAD), np.uint8).copy()
            repair.here.append((data, len(raw), 0))
        if done and after is not None:
            self._ask_log(link, repair, now_ns)
        elif done:
            repair.all_here = True

    def _repair(self, n: int, now_ns: int, wall_ns: int) -> int:
        """Give what has come from logs; ask for what links were held for."""
        for link in self._links:
            state = self._state[link.index]
            if not state[sk.HELD]:
                continue
            if link.repair is None:
                self._fill(link, int(state[sk.GAP_FIRST]), int(state[sk.GAP_LAST]), link.source.topics, now_ns, None)
                continue
            here = link.repair.here
            while here:
                data, stop, done = here[0]
                before = int(state[sk.ACCEPTED])
                n, done = bus_kernel.absorb_log(
                    codec.SCHEMA, self._symbols.arrays, data, stop, done, self._state, self._layout, self._last,
                    self._arrival, self._advance, self._places, self._rows, n, link.index, self._reasons, self._waiting,
                    now_ns, wall_ns, self._limits.refresh_every_ns,
                )  # fmt: skip
                self._given.append((link.index, int(state[sk.ACCEPTED]) - before, bus_kernel.FROM_LOG))
                if done < stop:
                    here[0] = (data, stop, done)
                    break
                here.popleft()
            if link.repair.all_here and not here:
                self._end_repair(link, link.repair, now_ns)
        return n

    def _end_repair(self, link: Link, repair: Repair, now_ns: int) -> None:
        self._let_go(link)
        link.repairs += 1
        took_ms = (now_ns - repair.began_ns) // MILLISECOND_NS
        log.info("%s: filled from its log up to position %d in %d ms", link.source.publisher.name, repair.last, took_ms)
        if repair.beat is not None:
            self._heartbeat(link, repair.beat, now_ns, repaired=True)
