"""Service: the ROUTER beside a publisher, from which readers have last values, parts of the log and the heads."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import zmq
import zmq.utils.monitor

from fabric import codec
from fabric.bus.sockets import MALFORMED, SNAPSHOT_PREFIXES_MAX, Gate, bind, serve_curve, tune
from fabric.clock import SECOND_NS, SystemClock
from fabric.errors import FabricError
from fabric.journal import Cursor, Journal, Query
from fabric.journal_kernel import PREFIX_MAX, RECORD_MAX
from fabric.records import (
    SCHEMA_VERSION,
)
from fabric.snapshot import LastValues
from fabric.topology import Limits, Publisher

log = logging.getLogger(__name__)

SNAPSHOT_CHUNK = 256
"""Values in one message of a snapshot."""
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
REQUEST_BYTES_MAX = 4_096
"""A frame of what a ROUTER may be asked."""


@dataclass
class _LogRequest:
    """A part of the log on its way to a reader."""

    peer: bytes
    number: bytes
    cursor: Cursor
    sent: int = 0


class Service:
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
        gate: Gate | None,
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
        tune(self._router, limits)
        self._router.setsockopt(zmq.MAXMSGSIZE, REQUEST_BYTES_MAX)
        self._router.setsockopt(zmq.SNDHWM, 1_000)
        try:
            if gate is not None and publisher.curve is not None:
                serve_curve(self._router, publisher.curve, REQUEST_BYTES_MAX)
                gate.watch(self._router)
            bind(self._router, publisher.snapshot_bind or publisher.snapshot_endpoint, publisher.name)
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
        except MALFORMED:
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
