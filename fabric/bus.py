"""Inbox and Outbox: the only module that owns ZeroMQ sockets, their options and bounds.

An `Outbox` is one XPUB socket, the ROUTER beside it (served by a thread of its own), the sequence numbers, the
last row of each topic, and the log to which each message goes first. An `Inbox` is one SUB socket for each
publisher, with a monitor and a DEALER to the ROUTER beside it: a link that must be rebuilt disturbs no other.

What a reader can rely on: a gap is filled from the publisher's log before anything later is given; where there is
no log, or not any more, every loss is counted (sequence numbers of each topic; head counts in each heartbeat show
losses at the very end of a stream); a publisher that is silent, lost or restarted is told as a LINK row in the
order in which it happened; after a join, a restart and a gap the last values are asked for, and overtake nothing
newer.

A link whose gap is being filled is held: its live messages wait in its socket, up to `limits.queue_max`, and what is
too much even then is the next gap. After an outage of the link only what is never repeated (trades, alerts) is caught
up from the log: states that were true meanwhile would look like live ones, and the last values say how things stand.

Dead peers: a reader hears each publisher once a second at least, and rebuilds the socket of one that is silent
for `limits.stale_after_ns`, which also throws away what an old connection would deliver late; a reader that was
itself away for so long (stopped, blocked), or is so far behind its publisher (too slow), does the same: it never takes
an old price for a live one. The kernel gives up what is not acknowledged within 1.5 s.
ZMTP's own heartbeats would do this too, but in libzmq 4.3.5 they abort the process: when the timer of a connection
fires whose receive queue is full, or was when the peer went (zeromq/libzmq#3937, #4841; seen here with a slow reader).
Reconnects back off to 1 s; frames are bounded both ways; a socket that libzmq has given up for good (oversized frame,
refused by ZAP) is built anew.
"""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import zmq
import zmq.utils.monitor
from zmq.utils import z85

from fabric import bus_kernel, codec, keys, topics
from fabric import sequence_kernel as sk
from fabric.clock import MILLISECOND_NS, SECOND_NS, Clock, EventClock, SystemClock
from fabric.codec_kernel import DEPTH_MAX, READ_PAD
from fabric.errors import FabricError, UnavailableError
from fabric.journal import Cursor, Journal, Query
from fabric.journal_kernel import J_WIDTH, PREFIX_MAX, RECORD_MAX
from fabric.native import ZMQ_MSG_BYTES, ZMQ_POLLIN
from fabric.records import (
    CHANNELS,
    EVENT,
    KIND_GAP,
    KIND_LINK,
    KIND_TRADE,
    NULL,
    SCHEMA_VERSION,
    STATE_CHANNELS,
    VENUE_CHANNELS,
    WIDTH,
    Rows,
    columns,
)
from fabric.snapshot import KINDS, LastValues
from fabric.symbols import SymbolTable
from fabric.topology import Curve, Limits, Publisher, Source

log = logging.getLogger(__name__)

UNACKNOWLEDGED_MS = 1_500
"""The kernel drops a connection whose peer has not acknowledged data for this long."""
CONNECT_MS = 500
"""An attempt to connect is given up after this: the kernel's own retries back off to many seconds."""
RECONNECT_MS = 50
RECONNECT_MAX_MS = 1_000
HANDSHAKE_MS = 2_000
REBUILD_AFTER_NS = SECOND_NS
"""A link without connection or attempt for this long has been given up by libzmq: build its socket anew."""
ASK_AGAIN_NS = 3 * SECOND_NS
"""A snapshot of which nothing has come for so long is asked for again; sooner would only load a busy publisher more."""
CHECK_EVERY_NS = 50 * MILLISECOND_NS
BEAT_EVERY_NS = SECOND_NS
SNAPSHOT_CHUNK = 256
"""Values in one message of a snapshot."""
SNAPSHOT_CHUNKS_AT_ONCE = 8
"""Chunks that a reader takes in one turn, some milliseconds of work."""
SNAPSHOT_PREFIXES_MAX = 4_096
LOG_CHUNK = 128 * 1024
"""Bytes of the log in one message."""
LOG_ANSWER_BYTES = 4 << 20
"""Bytes of the log for one request, so that what waits for a slow reader is bounded; its end says where to go on."""
LOG_LOOK_MAX = 1 << 20
"""Bytes of the log that are looked through for one message: a search for something rare is told as it goes on."""
LOG_READERS_MAX = 64
"""Requests for the log that a publisher works on at once, one of each reader."""
LOG_BURST_S = 0.125
"""Of `journal.serve`, how much may go out at once: a small gap is filled without a pause."""
LOG_ASK_AGAIN_NS = 800 * MILLISECOND_NS
LOG_TRIES = 3
"""In all less than `limits.stale_after` by default: a link that is held for nothing must not hide a dead publisher."""
PRICE_CHANNELS = frozenset({"quote", "nbbo", "bolo"})
"""What is wrong when it is late; a late trade or bar is still true."""
LAG_WARN = 1_000
LAG_ALARM = 10_000
"""Messages that a reader may be behind before the log says so."""
HEADS_EVERY_NS = SECOND_NS
"""How often a reader asks how far its publishers are, past its own backlog."""
SUBSCRIPTION_BYTES_MAX = 256
"""All that a publisher may be sent. libzmq keeps subscriptions in a trie and walks it recursively, a level a byte: a
subscription of a megabyte overflows the stack of whoever holds it."""
REQUEST_BYTES_MAX = 4_096
"""A frame of what a ROUTER may be asked."""
CURVE_BYTES = 512
"""What the longest command of a CURVE handshake, and its frame around a message, take beside the message."""
EVENTS_MAX = 256
"""Rows of a batch that are kept for what happened to links; what does not fit waits for the next batch."""
REFRESH_SCAN_NS = SECOND_NS
"""Time in which a publisher looks at each of its topics once: a silent one is sent again within this of its time."""
TICK_EVERY_NS = 20 * MILLISECOND_NS
"""How often a publisher looks for new readers and silent topics."""
STALL_MAX_NS = 10 * SECOND_NS
"""A lossless publisher waits this long for a peer that takes nothing, then drops as an ordinary one does."""
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, msgpack.UnpackException)
"""What taking apart a map may raise that is not what it should be."""
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


_ZAP = "inproc://zeromq.zap.01"
_REFUSALS = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


def _tune(socket: zmq.Socket[bytes], limits: Limits) -> None:
    """Set what every socket of the bus has in common; must come before bind or connect."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, limits.queue_max)
    socket.setsockopt(zmq.RCVHWM, limits.queue_max)
    socket.setsockopt(zmq.MAXMSGSIZE, limits.message_bytes_max)
    # A domain refuses ZMTP 1 and 2. Such a peer is sent every message, as it was to filter by itself; and what is no
    # ZMTP at all, an HTTP request for one, is taken for ZMTP 1. Without a ZAP handler the domain asks nobody.
    socket.setsockopt(zmq.ZAP_DOMAIN, b"fabric")
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 2)
    socket.setsockopt(zmq.TCP_MAXRT, UNACKNOWLEDGED_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)


def local_endpoint(endpoint: str) -> str:
    """The Unix-domain twin of an endpoint on loopback, for readers under the same launcher; empty where there is none.

    A message over it costs half the kernel time of TCP. Its name is in the abstract namespace (unix(7)): no file to
    clean up, unique because the port is, and open to the users of this machine as the port on loopback is.
    """
    prefix = "tcp://127.0.0.1:"
    port = endpoint.removeprefix(prefix)
    return f"ipc://@fabric-{port}" if endpoint.startswith(prefix) and port.isdecimal() else ""


def _serve_curve(socket: zmq.Socket[bytes], curve: Curve, message_bytes_max: int) -> None:
    """Let in only those whose key `_Gate` knows, and messages of that length; must come before bind."""
    _, secret = keys.read_curve(curve)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody comes in while nobody is asked
    socket.setsockopt(zmq.MAXMSGSIZE, message_bytes_max + CURVE_BYTES)


class _Gate:
    """Who may come in at the sockets of one publisher: asked by libzmq for each connection (ZAP, RFC 27), and counting
    those that were refused: another key than one of ours, none at all, or a wrong idea of which is ours.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], curve: Curve) -> None:
        """One for a context: the name under which libzmq asks is that of the context."""
        self.refused = 0
        self._known = {z85.decode(key) for key in curve.clients}
        self._monitors: list[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]] = []
        self._asked = context.socket(zmq.REP)
        self._asked.setsockopt(zmq.LINGER, 0)
        self._asked.bind(_ZAP)

    def watch(self, socket: zmq.Socket[bytes]) -> None:
        """Count the connections that this socket refuses."""
        self._monitors.append((socket, socket.get_monitor_socket(_REFUSALS)))

    def register(self, poller: zmq.Poller) -> None:
        poller.register(self._asked, zmq.POLLIN)
        for _, monitor in self._monitors:
            poller.register(monitor, zmq.POLLIN)

    def turn(self, ready: Mapping[Any, int]) -> None:
        """Answer and count what is ``ready``."""
        if self._asked in ready:
            version, number, _, _, _, mechanism, *credentials = self._asked.recv_multipart()
            # without keys are only our own readers of publishers that have none, for which libzmq asks too
            known = mechanism == b"NULL" or (mechanism == b"CURVE" and credentials[0] in self._known)
            code, text = (b"200", b"OK") if known else (b"400", b"unknown key")
            self._asked.send_multipart([version, number, code, text, b"", b""])
        for _, monitor in self._monitors:
            if monitor in ready:
                monitor.recv_multipart()
                self.refused += 1

    def close(self) -> None:
        for socket, monitor in self._monitors:
            if not socket.closed:
                socket.disable_monitor()
            monitor.close(linger=0)
        self._asked.unbind(_ZAP)  # at once: whoever comes after this publisher may bind it
        self._asked.close()


def _bind(socket: zmq.Socket[bytes], address: str, name: str) -> None:
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        raise UnavailableError(f"{name}: cannot bind {address}: {error}") from error


class Outbox:
    """One publisher: numbers, stamps and sends rows, repeats what is silent, serves last values."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        publisher: Publisher,
        symbols: SymbolTable,
        limits: Limits,
        clock: Clock,
        *,
        epoch: int,
        stamp: str,
        lossless: bool = False,
        counters: Callable[[], Mapping[str, Any]] = dict,
        beside: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """Binds the sockets and opens the log, where ``publisher`` has one.

        ``stamp`` names the column that gets the time of publication: ``feed_ns`` or ``proc_ns``.

        ``counters`` is asked for what each heartbeat counts beside its own, ``beside`` for further keys of it. A
        ``lossless`` publisher waits for a slow peer (at most 10 s without progress) where an ordinary one drops.
        """
        self.publisher = publisher
        self.values = LastValues(publisher.channels, publisher.venues, symbols)
        names = EVENT.names
        assert names is not None
        self._symbols = symbols
        self._limits = limits
        self._clock = clock
        self._epoch = epoch
        self._stamp = names.index(stamp)
        self._lossless = lossless
        self._more_counters, self._beside = counters, beside
        self._counters = np.zeros(bus_kernel.OUT_WIDTH, np.int64)
        self._heads = np.zeros((KINDS, sk.LETTERS), np.int64)
        self._scratch = np.zeros(2 * bus_kernel.SCRATCH, np.uint8)
        self._nothing = np.zeros(0, bus_kernel.POLL_ITEM)
        self.readers = 0
        """Greetings so far: readers whose subscriptions are in force; one that connects again counts again."""
        self._dropped_waiting = 0
        self._next_beat_ns = 0
        self._scanned_ns = clock.monotonic_ns()
        self._scan_from = 0.0
        self._socket = context.socket(zmq.XPUB)
        _tune(self._socket, limits)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, SUBSCRIPTION_BYTES_MAX)
        if lossless:
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._journal: Journal | None = None
        self._gate = None if publisher.curve is None else _Gate(context, publisher.curve)
        try:
            if self._gate is not None and publisher.curve is not None:
                _serve_curve(self._socket, publisher.curve, SUBSCRIPTION_BYTES_MAX)
                self._gate.watch(self._socket)
            _bind(self._socket, publisher.bind or publisher.endpoint, publisher.name)
            if local := local_endpoint(publisher.endpoint):
                _bind(self._socket, local, publisher.name)
            if settings := publisher.journal:
                self._journal = Journal(Path(settings.folder) / publisher.name, settings, clock, epoch)
                self._counters[bus_kernel.OUT_POSITION] = self._journal.position
            self._service = _Service(context, publisher, self.values, self._journal, limits, self._head, self._gate)
        except FabricError:
            if self._journal is not None:
                self._journal.close()
            if self._gate is not None:
                self._gate.close()
            self._socket.close()
            raise
        self._log = np.zeros(J_WIDTH, np.int64) if self._journal is None else self._journal.state
        self._handle = int(self._socket.underlying)

    def send(self, rows: Rows) -> None:
        """Publish ``rows`` in order, filling seq, epoch, position and the stamp in place; waits only where lossless."""
        if not rows.size:
            return
        table = columns(rows)
        now = self._clock.monotonic_ns()
        wall = self._clock.now_ns()
        done = self._publish(table, 0, wall, now)
        give_up = now + STALL_MAX_NS
        while done < rows.size:
            reached = done
            if self._journal is not None and self._journal.full:
                self._journal.wait_for_room()
            else:
                bus_kernel.wait(self._nothing, 1, 0)
            now = self._clock.monotonic_ns()
            if now >= self._next_beat_ns:
                self._beat(now)
            done = self._publish(table, done, wall, now)
            if done > reached:
                give_up = now + STALL_MAX_NS
            elif now > give_up:
                self._drop_for_the_stalled()
        if self._journal is not None and self._journal.idle:
            self._journal.stir()

    def tick(self) -> None:
        """Do what is due by time: the heartbeat, the repetition of silent topics, the greeting of a new reader."""
        now = self._clock.monotonic_ns()
        if now >= self._next_beat_ns:
            self._beat(now)
        elapsed = now - self._scanned_ns
        if elapsed >= TICK_EVERY_NS:
            self._scanned_ns = now
            if self._greeted():
                self._beat(now)
            self._refresh(min(elapsed / REFRESH_SCAN_NS, 1.0), now)

    def counters(self) -> dict[str, int]:
        """What has happened so far, by the names that ``status`` and ``/metrics`` use."""
        c = self._counters
        return {
            "published": int(c[bus_kernel.OUT_SENT]),
            "refreshed": int(c[bus_kernel.OUT_REFRESHED]),
            "refused": int(c[bus_kernel.OUT_REFUSED]),
            "not_ours": int(c[bus_kernel.OUT_NOT_OURS]),
            "bytes_out": int(c[bus_kernel.OUT_BYTES]),
            "position": int(c[bus_kernel.OUT_POSITION]),
            "waived": self._dropped_waiting,
            **({} if self._journal is None else self._journal.counters()),
            **({} if self._gate is None else {"keys_refused": self._gate.refused}),
        }

    @property
    def position(self) -> int:
        """Of the last message."""
        return int(self._counters[bus_kernel.OUT_POSITION])

    def memory(self) -> dict[str, npt.NDArray[np.int64]]:
        """What a checkpoint keeps of it: the last row of each topic, and the position."""
        slots = self.values.in_use()
        return {"slots": slots, "rows": self.values.rows[slots], "position": np.array([self.position])}

    def restore(self, memory: Mapping[str, npt.NDArray[np.int64]]) -> None:
        """Be as it was when ``memory`` was taken, under this process's own epoch; before anything is sent."""
        self.values.rows[memory["slots"]] = memory["rows"]
        self._counters[bus_kernel.OUT_POSITION] = memory["position"][0]

    def send_again(self, rows: Rows) -> None:
        """Number ``rows`` as `send` does, and log those whose positions the log does not hold; send nothing."""
        handle, self._handle = self._handle, 0
        try:
            self.send(rows)
        finally:
            self._handle = handle

    def go_on(self) -> bool:
        """All that was sent before has been sent again: go on behind it. False where the log holds more."""
        slots = self.values.in_use()
        self.values.rows[slots, 4] = self._epoch
        self.values.sent_ns[slots] = self._clock.monotonic_ns()
        position = self.position
        logged = position if self._journal is None else self._journal.position
        self._heads[:] = self._counters[:] = 0
        self._counters[bus_kernel.OUT_POSITION] = max(position, logged)
        return position >= logged

    def close(self) -> None:
        """End the thread of the ROUTER, seal the log, close the sockets; what is queued for slow peers is lost. May be
        called again.
        """
        if not self._socket.closed:
            self._service.close()
            if self._gate is not None:
                self._gate.close()
            if self._journal is not None:
                self._journal.close()
            self._socket.close()

    def _publish(self, table: npt.NDArray[np.int64], start: int, wall_ns: int, now_ns: int) -> int:
        values = self.values
        done = bus_kernel.publish(
            self._handle, codec.SCHEMA, self._symbols.arrays.words, values.layout, values.venue_slot, values.rows,
            values.sent_ns, self._heads, self._counters, self._log, table, start, self._epoch, self._stamp, wall_ns,
            now_ns, self._scratch,
        )  # fmt: skip
        if done < 0:
            raise zmq.ZMQError(-done)
        return int(done)

    def _drop_for_the_stalled(self) -> None:
        """A peer has taken nothing for ten seconds: let it lose, and count that it does."""
        self._socket.setsockopt(zmq.XPUB_NODROP, 0)
        self._dropped_waiting += 1
        log.warning("%s: a subscriber took nothing for 10 s; it loses messages from here on", self.publisher.name)

    def _greeted(self) -> bool:
        """Whether a reader has just subscribed to this node's heartbeat; reads at most 1,000 subscriptions."""
        ours = b"\x01" + topics.build(topics.NODE_CHANNEL, self.publisher.name).encode()
        before = self.readers
        for _ in range(1_000):
            try:
                self.readers += self._socket.recv(zmq.DONTWAIT) == ours
            except zmq.Again:
                break
        return self.readers > before

    def _head(self) -> dict[str, Any]:
        """How far the stream is: position, heads of each channel and first letter, the oldest position in the log."""
        heads = self._heads.copy()
        return {
            "V": SCHEMA_VERSION,
            "T": topics.NODE_CHANNEL,
            "S": self.publisher.name,
            "E": self._epoch,
            "O": int(self._counters[bus_kernel.OUT_POSITION]),
            "t": self._clock.now_ns(),
            "heads": {
                channel: {chr(letter): int(row[letter]) for letter in row.nonzero()[0].tolist()}
                for channel in self.publisher.channels
                if (row := heads[CHANNELS[channel]]).any()
            },
            "log": None if self._journal is None else self._journal.first,
        }

    def _beat(self, now_ns: int) -> None:
        self._next_beat_ns = now_ns + BEAT_EVERY_NS
        beat = self._head() | {"counters": self.counters() | dict(self._more_counters())} | dict(self._beside())
        topic = topics.build(topics.NODE_CHANNEL, self.publisher.name).encode()
        try:
            self._socket.send_multipart([topic, msgpack.packb(beat)], zmq.DONTWAIT)
        except zmq.Again:  # lossless and a peer is full: it will get the next one
            return

    def _refresh(self, share: float, now_ns: int) -> None:
        """Look at the next ``share`` of all state topics, so that each is looked at once a second."""
        ranges = self.values.state_ranges()
        total = sum(stop - start for start, stop in ranges)
        begin = int(self._scan_from * total)
        end = begin + max(1, int(share * total))
        due = now_ns - self._limits.refresh_every_ns + REFRESH_SCAN_NS
        passed = 0
        for start, stop in ranges * 2:  # the second round is for a share that wraps around
            low, high = max(begin - passed, 0), min(end - passed, stop - start)
            if low < high:
                bus_kernel.refresh(
                    self._handle, codec.SCHEMA, self._symbols.arrays.words, self.values.rows, self.values.sent_ns,
                    self._counters, start + low, start + high, due, now_ns, self._scratch,
                )  # fmt: skip
            passed += stop - start
        self._scan_from = (end / total) % 1.0 if total else 0.0


@dataclass
class _LogRequest:
    """A part of the log on its way to a reader."""

    peer: bytes
    number: bytes
    cursor: Cursor
    sent: int = 0


class _Service:
    """The ROUTER beside a publisher, in a thread of its own: last values of prefixes, parts of the log, the heads.

    ``[id, b"last", prefix, ...]`` is answered by ``[id, summary, topic, payload, topic, payload, ...]`` with the very
    frames that the publisher sent; ``summary`` is a msgpack map whose ``more`` says whether another follows.

    ``[id, b"log", query, prefix, ...]``, ``query`` being a msgpack map with ``from`` (a position; with ``epoch``, where
    that goes on if the log lost the end of that epoch) or ``at`` (ns), and ``to`` (a position, or nil: the head), is
    answered by ``[id, summary, records]`` with whole records of the log one after the other. The last summary has
    ``more`` false, ``count``, ``first``, ``last``, ``checksum`` (CRC-32C of all their bytes), ``holes``, and ``next``:
    the position to ask for next, or nil where all has come. A further request of the same reader ends the one before.

    ``[id, b"head"]`` is answered by ``[id, summary]``.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        publisher: Publisher,
        values: LastValues,
        journal: Journal | None,
        limits: Limits,
        head: Callable[[], dict[str, Any]],
        gate: _Gate | None,
    ) -> None:
        """``gate`` belongs to the thread from now on."""
        self._gate = gate
        self._name = publisher.name
        self._values = values
        self._journal = journal
        self._head = head
        self._requests: dict[bytes, _LogRequest] = {}  # by reader; the first is served next
        self._rate = publisher.journal.serve_bytes if publisher.journal else 0
        self._allowed = self._burst = max(int(self._rate * LOG_BURST_S), LOG_CHUNK)
        self._counted_ns = 0
        self._chunk = np.empty(LOG_CHUNK, np.uint8)
        self._clock = SystemClock()  # the rate is of real time, also in a replay
        self._router = context.socket(zmq.ROUTER)
        _tune(self._router, limits)
        self._router.setsockopt(zmq.MAXMSGSIZE, REQUEST_BYTES_MAX)
        self._router.setsockopt(zmq.SNDHWM, 1_000)
        try:
            if gate is not None and publisher.curve is not None:
                _serve_curve(self._router, publisher.curve, REQUEST_BYTES_MAX)
                gate.watch(self._router)
            _bind(self._router, publisher.snapshot_bind or publisher.snapshot_endpoint, publisher.name)
        except FabricError:
            self._router.close()
            raise
        self._stop_end, stop = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        address = f"inproc://snapshot-{id(self)}"
        self._stop_end.bind(address)
        stop.connect(address)
        self._thread = threading.Thread(
            target=self._serve, args=(stop,), name=f"{publisher.name}-snapshot", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._stop_end.send(b"")
        self._thread.join()
        self._stop_end.close()

    def _serve(self, stop: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(stop, zmq.POLLIN)
        if self._gate is not None:
            self._gate.register(poller)
        while stop not in (ready := dict(poller.poll(self._pause_ms()))):
            if self._gate is not None:
                self._gate.turn(ready)
            if self._router in ready:
                self._answer(self._router.recv_multipart())
            if self._requests and self._may_send():
                self._send_log(next(iter(self._requests.values())))
        for request in self._requests.values():
            request.cursor.close()
        self._router.close()
        stop.close()

    def _answer(self, request: list[bytes]) -> None:
        peer, *frames = request
        number, *asked = frames or [b""]
        match asked:
            case [b"last", *prefixes] if 1 <= len(prefixes) <= SNAPSHOT_PREFIXES_MAX:
                self._answer_last(peer, number, [prefix.decode("ascii", "replace") for prefix in prefixes])
            case [b"log", query, *prefixes] if self._journal is not None and len(prefixes) <= SNAPSHOT_PREFIXES_MAX:
                self._begin_log(peer, number, query, prefixes or [b""])
            case [b"head"]:
                self._router.send_multipart([peer, number, msgpack.packb(self._head())])
            case [b"log", *_] if self._journal is None:
                self._refuse(peer, number, "this publisher keeps no log")
            case _:
                known = '[id, b"last", prefix, ...] with 1 to 4,096 prefixes, [id, b"log", query, ...], [id, b"head"]'
                self._refuse(peer, number, f"a request is one of {known}")

    def _refuse(self, peer: bytes, number: bytes, problem: str) -> None:
        answer = msgpack.packb(self._head() | {"more": False, "error": problem})
        self._router.send_multipart([peer, number, answer])

    def _answer_last(self, peer: bytes, number: bytes, prefixes: list[str]) -> None:
        rows = np.concatenate([self._values.select(prefix) for prefix in prefixes])
        for start in range(0, max(rows.size, 1), SNAPSHOT_CHUNK):
            chunk = rows[start : start + SNAPSHOT_CHUNK]
            summary = self._head() | {"more": start + SNAPSHOT_CHUNK < rows.size, "count": int(rows.size)}
            pairs = [frame for pair in codec.encode(chunk, self._values.symbols) for frame in pair]
            self._router.send_multipart([peer, number, msgpack.packb(summary), *pairs])

    # The log

    def _begin_log(self, peer: bytes, number: bytes, query: bytes, prefixes: list[bytes]) -> None:
        assert self._journal is not None
        try:
            asked = msgpack.unpackb(query)
            first, since, epoch = (int(asked.get(key) or 0) for key in ("from", "at", "epoch"))
            last = self._journal.position if asked.get("to") is None else int(asked["to"])
        except _MALFORMED:
            self._refuse(peer, number, "a query is a map with from or at, to and epoch, all of them integers or nil")
            return
        if any(len(prefix) > PREFIX_MAX for prefix in prefixes):
            self._refuse(peer, number, f"a prefix has {PREFIX_MAX} bytes at most")
            return
        if old := self._requests.pop(peer, None):
            old.cursor.close()
        if len(self._requests) == LOG_READERS_MAX:
            self._refuse(peer, number, f"{LOG_READERS_MAX} readers are served already; try again")
            return
        if epoch:  # a power cut took the end of that epoch: what it held there is in no log, go on behind it
            later = [held.first for held in self._journal.listing() if held.first_epoch > epoch]
            first = min([first, *later])
        cursor = Cursor(self._journal.listing, Query(first, min(last, self._journal.position), since, tuple(prefixes)))
        self._requests[peer] = _LogRequest(peer, number, cursor)

    def _pause_ms(self) -> int | None:
        """How long nothing can be sent: for ever without a request, else until the rate allows more."""
        if not self._requests:
            return None
        return 0 if self._may_send() else max(1, int(LOG_CHUNK / self._rate * 1_000))

    def _may_send(self) -> bool:
        now = self._clock.monotonic_ns()
        self._allowed = min(self._burst, self._allowed + self._rate * (now - self._counted_ns) // SECOND_NS)
        self._counted_ns = now
        return self._allowed > 0

    def _send_log(self, request: _LogRequest) -> None:
        """One message of one request; then it is another's turn."""
        del self._requests[request.peer]
        before = request.cursor.looked
        size = request.cursor.read(self._chunk, LOG_LOOK_MAX)
        request.sent += size
        self._allowed -= request.cursor.looked - before + RECORD_MAX  # what is not wanted costs nearly as much
        head = {"V": SCHEMA_VERSION, "T": "log", "S": self._name}
        enough = request.sent + LOG_CHUNK > LOG_ANSWER_BYTES
        if request.cursor.done or enough:
            head |= request.cursor.summary() | {"more": False}
            head["next"] = None if request.cursor.done else request.cursor.seen + 1
            request.cursor.close()
        else:
            head["more"] = True
            self._requests[request.peer] = request
        self._router.send_multipart([request.peer, request.number, msgpack.packb(head), self._chunk[:size].data])


@dataclass
class _Repair:
    """A part of a publisher's log that a held link waits for."""

    next: int  # position from which on the rest is to come
    last: int
    topics: tuple[str, ...]
    epoch: int  # in which `next` was seen
    beat: dict[str, Any] | None  # a heartbeat that waits for it
    began_ns: int
    request: int = 0
    asked_ns: int = 0
    tries: int = 0
    all_here: bool = False
    here: deque[tuple[npt.NDArray[np.uint8], int, int]] = field(default_factory=deque)  # records: bytes, end, done


@dataclass
class _Link:
    """One publisher as a reader sees it."""

    source: Source
    index: int
    socket: zmq.Socket[bytes] = field(init=False)
    monitor: zmq.Socket[bytes] = field(init=False)
    dealer: zmq.Socket[bytes] = field(init=False)
    heard_ns: int = 0  # monotonic time of the last message
    beat_ns: int = 0  # the publisher's time of its last heartbeat
    messages: int = 0  # as counted when `heard_ns` was set
    rebuild_ns: int = 0  # when to give the socket up, 0 while libzmq is at work on it
    request: int = 0  # number of the last snapshot request
    asked_ns: int = 0  # when it was sent, 0 when none is open
    wants_snapshot: bool = False
    whole: bool = False  # a snapshot has come whole since the link was made
    repair: _Repair | None = None
    repairs: int = 0
    resumed: bool = False  # this reader goes on where one before it left off: nothing may be left out
    even: int = 0  # head O of the last heartbeat whose heads were those that had come, or were told as lost
    asked_head_ns: int = 0
    lag: int = 0  # messages that it had published and this reader had not taken when it was last asked
    lag_ns: int = 0
    lag_told: int = 0  # 0, LAG_WARN or LAG_ALARM: what has been logged of it
    position: int = 0  # head O of its last heartbeat
    heads: dict[tuple[int, int], int] = field(default_factory=dict)  # head minus advance at the first heartbeat
    based: bool = False  # that has been: what it did not tell of had sent nothing
    behind: dict[tuple[int, int], int] = field(default_factory=dict)
    counters: dict[str, Any] = field(default_factory=dict)  # what its heartbeat last said
    rebuilds: int = 0
    late: bool = False  # whether `lag_ns` was too much when the publisher was asked last
    refused: str = ""  # why libzmq last gave the connection up

    def forget_heads(self) -> None:
        """Compare anew from the next heartbeat on."""
        self.heads.clear()
        self.based = False

    def base(self, at: tuple[int, int], ahead: int) -> int:
        """Of ``ahead``, what was so when the comparison began."""
        return self.heads.get(at, 0 if self.based else ahead)


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

        ``linger_ns``: on a busy stream let more gather after the first message of a wait, which bounds the wake-ups
        to one in so long; a message that follows a longer silence is not held up.

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
        self._items = np.zeros(3 * count, bus_kernel.POLL_ITEM)
        self._links = [_Link(source, i) for i, source in enumerate(self.sources)]
        for link in self._links:
            self._open(link)

    def recv_batch(self, timeout_ms: int) -> Rows:
        """Return what is there, waiting up to ``timeout_ms`` for the first message; may be empty; valid until the next
        call.
        """
        now = self._clock.monotonic_ns()
        if not self._came_back(now - self._looked_ns, now) and now >= self._next_check_ns:
            self._check(now)
        waits = timeout_ms if not (self._events or self._snapshots or self._repairing()) else 0
        ready = bus_kernel.wait(self._items, waits, self._linger_ns // 1_000 if now < self._busy_until_ns else 0)
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
            lost = self._read_beside(now)
            before = self._state[:, sk.ACCEPTED].copy()
            n, heartbeats = self._drain(n, now, wall)
            gave = self._state[:, sk.ACCEPTED] - before
            self._given = [(link, count, bus_kernel.LIVE) for link, count in enumerate(gave.tolist()) if count]
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

    def given(self) -> npt.NDArray[np.int64]:
        """Where the market rows of the last batch came from, int64[:, 3]: index of the source, how many in a row, and
        `bus_kernel` LIVE, SNAPSHOT or FROM_LOG.
        """
        return np.array(self._given, np.int64).reshape(-1, 3)

    def _came_back(self, absent_ns: int, now_ns: int) -> bool:
        """Whether this reader was stopped or blocked for so long that what has queued up is old; then throw it away."""
        if absent_ns <= self._limits.stale_after_ns or self._lossless:
            return False
        for link in self._links:
            self._silent(link, now_ns, "the reader was away")
        self._check(now_ns)
        return True

    def _drain(self, n: int, now_ns: int, wall_ns: int) -> tuple[int, int]:
        share = max(64, self._limits.batch_max // max(1, len(self._links)))
        n, heartbeats = bus_kernel.drain(
            self._items, len(self._links), share, codec.SCHEMA, self._symbols.arrays, self._state, self._layout,
            self._last, self._arrival, self._advance, self._places, self._rows, n, self._message, self._scratch,
            self._control, self._control_ends, self._reasons, self._sample, self._waiting, now_ns, wall_ns,
            self._limits.refresh_every_ns,
        )  # fmt: skip
        if n < 0:
            raise zmq.ZMQError(-n)
        return n, heartbeats

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
        """How each link is: its publisher, whether that is heard, and counters (see `counters`) of this link alone."""
        return [
            {
                "publisher": link.source.publisher.name,
                "up": bool(state[sk.UP]),
                "received": int(state[sk.MESSAGES]),
                "lag": link.lag,
                "lag_ns": link.lag_ns,
                "lost": int(state[sk.LOST]) + sum(link.behind.values()),
                "repaired": int(state[sk.REPAIRED]),
            }
            for link in self._links
            for state in (self._state[link.index],)
        ]

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

    def _open(self, link: _Link) -> None:
        publisher = link.source.publisher
        link.socket = self._context.socket(zmq.SUB)
        _tune(link.socket, self._limits)
        self._show_keys(link.socket, publisher)
        link.monitor = link.socket.get_monitor_socket(_MONITORED)
        for topic in link.source.topics:
            link.socket.subscribe(topic)
        # Last, so that its greeting proves that the publisher knows all the others.
        link.socket.subscribe(topics.build(topics.NODE_CHANNEL, publisher.name))
        link.dealer = self._context.socket(zmq.DEALER)
        _tune(link.dealer, self._limits)
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

    def _show_keys(self, socket: zmq.Socket[bytes], publisher: Publisher) -> None:
        if publisher.curve is not None and self._pair is not None:
            socket.setsockopt(zmq.CURVE_SERVERKEY, publisher.curve.public_key.encode())
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._pair[0])
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair[1])

    def _shut(self, link: _Link) -> None:
        link.socket.disable_monitor()
        for socket in (link.socket, link.monitor, link.dealer):
            socket.close(linger=0)

    def _check(self, now_ns: int) -> None:
        """Look after each link: silent ones are stale, given-up ones are rebuilt, open requests are repeated."""
        self._next_check_ns = now_ns + CHECK_EVERY_NS
        for link in self._links:
            state = self._state[link.index]
            if state[sk.MESSAGES] != link.messages:
                link.messages = int(state[sk.MESSAGES])
                link.heard_ns = now_ns
            elif state[sk.HELD]:
                self._ask_log_again(link, now_ns)
            elif (state[sk.CONNECTED] or state[sk.UP]) and now_ns - link.heard_ns > self._limits.stale_after_ns:
                self._silent(link, now_ns, "silent")
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

    def _silent(self, link: _Link, now_ns: int, why: str) -> None:
        """What a publisher said is stale, and what its connection may still deliver is too: give it up."""
        self._down(link)
        self._state[link.index, sk.CONNECTED] = 0
        link.refused = why
        link.rebuild_ns = link.heard_ns = now_ns

    def _part(self, link: _Link) -> None:
        """Its subscriptions are not in force any more; what was to be repaired will be caught up after the next
        greeting.
        """
        self._state[link.index, [sk.JOINED, sk.HELD]] = 0
        self._items[link.index]["events"] = ZMQ_POLLIN
        link.repair = None

    def _down(self, link: _Link) -> None:
        """A publisher is silent or lost: what it said is stale from now on."""
        link.resumed = False
        if self._state[link.index, sk.UP]:
            self._state[link.index, sk.UP] = 0
            sk.doubt(self._layout, self._last, link.index, len(self._symbols))
            self._events.append((KIND_LINK, link.index, 0))
            self._snapshots = [snapshot for snapshot in self._snapshots if snapshot[0] != link.index]
            link.request += 1  # what is on its way is as old as what came

    def _tell(self, wall_ns: int) -> int:
        """Begin the batch with what Python has found out about links."""
        told, self._events = self._events[:EVENTS_MAX], self._events[EVENTS_MAX:]
        for n, (kind, index, detail) in enumerate(told):
            row = self._rows[n]
            row[:] = NULL
            row[[0, 1, 2, 4, 7, 11, 12]] = kind, 0, 0, self._state[index, sk.EPOCH], wall_ns, index, detail
        return len(told)

    def _read_beside(self, now_ns: int) -> list[_Link]:
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

    def _read_monitor(self, link: _Link, now_ns: int) -> bool:
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

    def _ask(self, link: _Link, now_ns: int) -> None:
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

    def _send_request(self, link: _Link, frames: list[bytes]) -> None:
        try:
            link.dealer.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:  # sixteen requests wait for a ROUTER that is away; the last of them will do
            return

    @staticmethod
    def _holds_state(topic: str) -> bool:
        return any(channel in STATE_CHANNELS for channel in topics.prefix_channels(topic))

    def _read_snapshot(self, link: _Link, now_ns: int) -> None:
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

    def _take_chunk(self, link: _Link, answer: list[bytes], now_ns: int) -> None:
        try:
            summary, *frames = answer
            more = bool(msgpack.unpackb(summary)["more"])
            data, ends = codec.lay_out(zip(frames[::2], frames[1::2], strict=True))
        except _MALFORMED:
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
            self._given.append((index, int(self._state[index, sk.ACCEPTED]) - before, bus_kernel.SNAPSHOT))
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
            except _MALFORMED:
                self._refuse(self._links[index])

    def _refuse(self, link: _Link) -> None:
        """Count what a publisher said beside its rows and nobody can read."""
        self._state[link.index, sk.BAD] += 1
        self._reasons[link.index, codec.REASONS.index("wrong_type")] += 1

    def _heartbeat(self, link: _Link, beat: dict[str, Any], now_ns: int, repaired: bool = False) -> None:
        """``repaired``: what lay before it has just been asked of the log, and what has not come is lost."""
        state = self._state[link.index]
        epoch, head = int(beat["E"]), int(beat["O"])
        if epoch >= state[sk.EPOCH]:
            link.heard_ns = now_ns
            state[sk.LOGGED] = beat.get("log") is not None and self._limits.repair_max > 0
            again = epoch > state[sk.EPOCH] or not state[sk.JOINED] or not state[sk.UP]
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
        elif not state[sk.UP]:  # silent for a while, on a connection that held: its values must be learnt anew
            state[sk.JOINED] = 0
        if not state[sk.UP] and state[sk.CONNECTED]:
            state[sk.UP] = 1
            self._events.append((KIND_LINK, link.index, 1))
        if not state[sk.JOINED]:
            state[sk.JOINED] = 1
            link.resumed = False
            link.even = head
            self._ask(link, now_ns)
        if isinstance(self._clock, EventClock):
            self._clock.saw(int(beat["t"]))
        link.position = head
        link.beat_ns = int(beat.get("t", 0))
        link.counters = dict(beat["counters"])
        if self._compare_heads(link, beat["heads"], bool(state[sk.LOGGED]) and not repaired):
            self._fill(link, link.even + 1, head, link.source.topics, now_ns, beat)
            return
        link.even = head
        state[sk.POSITION] = max(head, int(state[sk.POSITION]))

    def _compare_heads(self, link: _Link, heads: dict[str, dict[str, int]], may_repair: bool) -> bool:
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

    def _ahead(self, link: _Link, heads: dict[str, dict[str, int]]) -> Iterator[tuple[str, str, int]]:
        """Channel, first letter and what its head is beyond what has come, for all that is subscribed as a whole."""
        whole = set(link.source.topics)
        for channel, letters in heads.items():
            for letter, head in letters.items():
                if {f"{channel}.", f"{channel}.{letter}"} & whole:
                    yield channel, letter, int(head) - int(self._advance[link.index, CHANNELS[channel], ord(letter)])

    def _take_head(self, link: _Link, answer: list[bytes], monotonic_ns: int) -> None:
        """How far the publisher is at this moment, past all that waits on the way. A reader of prices that is too far
        behind throws away what waits.
        """
        try:
            head = msgpack.unpackb(answer[0])
            state = self._state[link.index]
            missing = 0
            for channel, letter, ahead in self._ahead(link, head["heads"]):
                at = (CHANNELS[channel], ord(letter))
                missing += max(0, ahead - link.base(at, ahead) - link.behind.get(at, 0))
            now_ns = int(head["t"])
        except _MALFORMED:
            self._refuse(link)
            return
        link.lag = missing
        # Of the last message that was taken; without one that could be missing, of a heartbeat that is overdue.
        since_ns = now_ns - int(state[sk.STAMP]) if missing else now_ns - link.beat_ns - 2 * BEAT_EVERY_NS
        link.lag_ns = max(0, since_ns)
        level = LAG_ALARM if missing >= LAG_ALARM else LAG_WARN if missing >= LAG_WARN else 0
        if level > link.lag_told or (link.lag_told and not level):
            name, waited_ms = link.source.publisher.name, link.lag_ns // MILLISECOND_NS
            say = log.error if level == LAG_ALARM else log.warning if level else log.info
            say("%s: this reader is %d messages (%d ms) behind", name, missing, waited_ms)
        link.lag_told = level
        was_late, link.late = link.late, link.lag_ns > self._limits.stale_after_ns
        if was_late and link.late and self._gives_up_old(link):  # once may be a step of the publisher's clock
            self._silent(link, monotonic_ns, f"this reader is {link.lag_ns // MILLISECOND_NS} ms behind")
            link.late = False

    def _gives_up_old(self, link: _Link) -> bool:
        """Whether what waits for too long on this link is wrong rather than late: prices, to who acts on the last."""
        held = self._state[link.index, sk.HELD] or not self._state[link.index, sk.UP]
        return not (held or self._lossless or self._complete) and any(
            PRICE_CHANNELS & set(topics.prefix_channels(topic)) for topic in link.source.topics
        )

    # Gaps, and how they are filled from the publisher's log

    def _repairing(self) -> bool:
        return any(link.repair is not None and link.repair.here for link in self._links)

    def _catch_up(self, link: _Link, beat: dict[str, Any], now_ns: int) -> bool:
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

    def _events_of(self, link: _Link) -> tuple[str, ...]:
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
        self, link: _Link, first: int, last: int, prefixes: tuple[str, ...], now_ns: int, beat: dict[str, Any] | None
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
        link.repair = _Repair(first, last, prefixes, int(state[sk.EPOCH]), beat, now_ns)
        self._ask_log(link, link.repair, now_ns)
        return True

    def _let_go(self, link: _Link) -> None:
        link.repair = None
        self._state[link.index, sk.HELD] = 0
        self._items[link.index]["events"] = ZMQ_POLLIN

    def _ask_log(self, link: _Link, repair: _Repair, now_ns: int) -> None:
        repair.request, repair.asked_ns = next(self._numbers), now_ns
        query = {"from": repair.next, "to": repair.last, "epoch": repair.epoch}
        prefixes = [topic.encode() for topic in repair.topics[:SNAPSHOT_PREFIXES_MAX]]
        self._send_request(link, [b"log-%d" % repair.request, b"log", msgpack.packb(query), *prefixes])

    def _ask_log_again(self, link: _Link, now_ns: int) -> None:
        """What was asked for does not come: ask again, in the end do without."""
        repair = link.repair
        if repair is None or repair.all_here or repair.here or now_ns - repair.asked_ns < LOG_ASK_AGAIN_NS:
            return
        repair.tries += 1
        if repair.tries < LOG_TRIES:
            self._ask_log(link, repair, now_ns)
        else:
            log.warning("%s: its log does not answer: messages are lost", link.source.publisher.name)
            self._state[link.index, sk.LOGGED] = 0
            self._end_repair(link, repair, now_ns)

    def _take_log(self, link: _Link, repair: _Repair, answer: list[bytes], now_ns: int) -> None:
        try:
            summary = msgpack.unpackb(answer[0])
            done, after = not summary["more"], summary.get("next")
            raw = answer[1] if len(answer) > 1 else b""
            if done and after is not None:
                repair.next = int(after)
        except _MALFORMED:
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

    def _end_repair(self, link: _Link, repair: _Repair, now_ns: int) -> None:
        self._let_go(link)
        link.repairs += 1
        took_ms = (now_ns - repair.began_ns) // MILLISECOND_NS
        log.info("%s: filled from its log up to position %d in %d ms", link.source.publisher.name, repair.last, took_ms)
        if repair.beat is not None:
            self._heartbeat(link, repair.beat, now_ns, repaired=True)
