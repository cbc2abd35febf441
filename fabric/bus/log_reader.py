"""LogReader: parts of publishers' logs, for who has read live and wants what came before. It never waits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgpack
import numpy as np
import zmq

from fabric import codec, keys
from fabric.bus.sockets import MALFORMED, SNAPSHOT_PREFIXES_MAX, tune
from fabric.clock import MILLISECOND_NS, Clock
from fabric.errors import CodecError
from fabric.journal import split
from fabric.records import EVENT, Rows, empty
from fabric.symbols import SymbolTable
from fabric.topology import Curve, Limits, Publisher

ASK_AGAIN_NS = 500 * MILLISECOND_NS
TRIES = 4
MESSAGES_AT_ONCE = 2
"""Of an answer, each of up to 128 KiB: what one `take` does at most."""


class Part(NamedTuple):
    """What has come of a part of a log."""

    rows: Rows  # EVENT, in the order of the log
    done: bool  # nothing more will come
    whole: bool  # nothing that was asked for is missing so far


@dataclass
class _Reading:
    """A request that is open."""

    number: int
    first: int
    last: int
    epoch: int
    prefixes: Sequence[bytes]
    socket: zmq.Socket[bytes] = field(repr=False)
    headed: bool = False  # it is known how far back the log reaches
    whole: bool = True
    asked_ns: int = 0
    tries: int = 0


class LogReader:
    """Reads of publishers' logs, one at a time of each publisher, in the thread that calls it."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], publishers: Sequence[Publisher], symbols: SymbolTable,
        limits: Limits, clock: Clock, curve: Curve | None = None,
    ) -> None:  # fmt: skip
        """``symbols`` learns the names that are found; ``curve``: the keys that this host shows."""
        self._context = context
        self._publishers = {publisher.name: publisher for publisher in publishers}
        self._symbols = symbols
        self._limits = limits
        self._clock = clock
        self._pair = None if curve is None else keys.read_curve(curve)
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._readings: dict[str, _Reading] = {}
        self._number = 0

    def ask(self, name: str, first: int, last: int, epoch: int, prefixes: Sequence[str]) -> None:
        """Begin to read the positions ``first`` to ``last`` of a publisher, of topics with any of ``prefixes``, at most
        SNAPSHOT_PREFIXES_MAX; what was being read of it is given up. ``epoch``: in which ``first`` was seen.
        """
        assert len(prefixes) <= SNAPSHOT_PREFIXES_MAX
        if name not in self._sockets:
            self._sockets[name] = self._connect(self._publishers[name])
        self._number += 1
        encoded = [prefix.encode() for prefix in prefixes]
        self._readings[name] = _Reading(self._number, first, last, epoch, encoded, self._sockets[name])
        self._send(self._readings[name])

    def take(self, name: str) -> Part:
        """What has come of what was asked of a publisher; one that is silent for too long is ``done`` and not whole."""
        reading = self._readings[name]
        rows: list[Rows] = []
        done = False
        for _ in range(MESSAGES_AT_ONCE):
            try:
                number, *answer = reading.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            if number != b"%d" % reading.number:
                continue
            try:
                done = self._read(reading, answer, rows)
            except (*MALFORMED, CodecError):
                reading.whole, done = False, True
            if done:
                break
        if not done and self._clock.monotonic_ns() - reading.asked_ns > ASK_AGAIN_NS:
            reading.tries += 1
            done = reading.tries == TRIES
            if done:
                reading.whole = False
            elif not rows:
                self._send(reading)
        return Part(np.concatenate([empty(0, EVENT), *rows]), done, reading.whole)

    def close(self) -> None:
        """Close the sockets; may be called again."""
        for socket in self._sockets.values():
            socket.close(linger=0)
        self._sockets.clear()

    def _read(self, reading: _Reading, answer: Sequence[bytes], rows: list[Rows]) -> bool:
        """Take one message of an answer; return whether it was the last."""
        summary = msgpack.unpackb(answer[0])
        reading.asked_ns, reading.tries = self._clock.monotonic_ns(), 0
        if not reading.headed:
            oldest = summary.get("log")
            reading.whole = oldest is not None and (reading.first >= int(oldest) or reading.first > reading.last)
            reading.headed = True
            if oldest is None:
                return True
            self._send(reading)
            return False
        if "error" in summary:
            if "try again" not in summary["error"]:
                reading.whole = False
                return True
            return False  # it serves as many as it may: asked again when it has been silent
        frames = [(topic, payload) for _, _, _, topic, payload in split(answer[1])]
        if frames:
            rows.append(codec.decode(frames, self._symbols))
            reading.first = int(rows[-1]["position"][-1]) + 1
        if summary["more"]:
            return False
        reading.whole = reading.whole and not summary["holes"]
        if summary["next"] is None:
            return True
        reading.first = int(summary["next"])
        self._send(reading)
        return False

    def _send(self, reading: _Reading) -> None:
        self._number += 1
        reading.number = self._number
        reading.asked_ns = self._clock.monotonic_ns()
        number = b"%d" % reading.number
        query = {"from": reading.first, "to": reading.last, "epoch": reading.epoch}
        frames = [b"log", msgpack.packb(query), *reading.prefixes] if reading.headed else [b"head"]
        try:
            reading.socket.send_multipart([number, *frames], zmq.DONTWAIT)
        except zmq.Again:  # nobody takes it: asked again
            return

    def _connect(self, publisher: Publisher) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        tune(socket, self._limits)
        socket.setsockopt(zmq.SNDHWM, 16)
        if publisher.curve is not None and self._pair is not None:
            socket.setsockopt(zmq.CURVE_SERVERKEY, publisher.curve.public_key.encode())
            socket.setsockopt(zmq.CURVE_PUBLICKEY, self._pair[0])
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair[1])
        socket.connect(publisher.snapshot_endpoint)
        return socket
