"""Outbox: one XPUB socket, its sequence numbers, the last row of each topic, and the log to which all goes first."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import zmq
import zmq.utils.monitor

from fabric import bus_kernel, codec, topics
from fabric import sequence_kernel as sk
from fabric.bus.service import Service
from fabric.bus.sockets import BEAT_EVERY_NS, Gate, bind, local_endpoint, serve_curve, tune
from fabric.clock import MILLISECOND_NS, SECOND_NS, Clock
from fabric.errors import FabricError
from fabric.journal import Journal, log_folder
from fabric.journal_kernel import J_WIDTH
from fabric.records import (
    CHANNELS,
    EVENT,
    SCHEMA_VERSION,
    Rows,
    columns,
)
from fabric.snapshot import KINDS, LastValues
from fabric.symbols import SymbolTable
from fabric.topology import Limits, Publisher

log = logging.getLogger(__name__)

SUBSCRIPTION_BYTES_MAX = 256
"""All that a publisher may be sent. libzmq keeps subscriptions in a trie and walks it recursively, a level a byte: a
subscription of a megabyte overflows the stack of whoever holds it."""
REFRESH_SCAN_NS = SECOND_NS
"""Time in which a publisher looks at each of its topics once: a silent one is sent again within this of its time."""
TICK_EVERY_NS = 20 * MILLISECOND_NS
"""How often a publisher looks for new readers and silent topics."""
STALL_MAX_NS = 10 * SECOND_NS
"""A lossless publisher waits this long for a peer that takes nothing, then drops as an ordinary one does."""


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
        tune(self._socket, limits)
        self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, SUBSCRIPTION_BYTES_MAX)
        if lossless:
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._journal: Journal | None = None
        self._gate = None if publisher.curve is None else Gate(context, publisher.curve)
        try:
            if self._gate is not None and publisher.curve is not None:
                serve_curve(self._socket, publisher.curve, SUBSCRIPTION_BYTES_MAX)
                self._gate.watch(self._socket)
            bind(self._socket, publisher.bind or publisher.endpoint, publisher.name)
            if local := local_endpoint(publisher.endpoint):
                bind(self._socket, local, publisher.name)
            if settings := publisher.journal:
                self._journal = Journal(log_folder(settings, publisher.name), settings, clock, epoch)
                self._counters[bus_kernel.OUT_POSITION] = self._journal.position
            self._service = Service(context, publisher, self.values, self._journal, limits, self._head, self._gate)
        except FabricError:
            if self._journal is not None:
                self._journal.close()
            if self._gate is not None:
                self._gate.close()
            self._socket.close()
            raise
        self._tells_more = publisher.journal is not None and publisher.journal.in_place and not lossless
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
                bus_kernel.wait(self._nothing, 1)
            now = self._clock.monotonic_ns()
            if now >= self._next_beat_ns:
                self._beat(now)
            done = self._publish(table, done, wall, now)
            if done > reached:
                give_up = now + STALL_MAX_NS
            elif now > give_up:
                self._drop_for_the_stalled()
        if self._tells_more and self._handle:
            self._socket.send_multipart(self._more(), zmq.DONTWAIT)
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

    def _more(self) -> list[bytes]:
        """Word to readers of the log in memory: topic and payload."""
        channel, name = topics.MORE_CHANNEL, self.publisher.name
        said = {"V": SCHEMA_VERSION, "T": channel, "S": name, "E": self._epoch, "O": self.position}
        return [topics.build(channel, name).encode(), msgpack.packb(said)]

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
