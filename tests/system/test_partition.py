"""Fault 14: the network between a publisher and its readers loses everything for 4 s and for 12 s, without a reset."""

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import zmq

from fabric.bus import Inbox, Outbox
from fabric.clock import SECOND_NS, SystemClock
from fabric.records import KIND_LINK, KIND_QUOTE, LINK, QUOTE, empty
from fabric.symbols import SymbolTable
from fabric.topology import Limits, Publisher, Source
from topologies import free_range

pytestmark = pytest.mark.timeout(180)
CUTS_S = (4.0, 12.0)
PATIENCE_S = 60.0
OLD_NS = Limits().stale_after_ns + SECOND_NS
"""A quote that is older and comes as a live one is what must never be; the second is for a busy machine."""
NAMES = [f"S{i}" for i in range(50)]


class Wire:
    """A port that forwards to another, until it is cut: then nothing passes, and nobody is told."""

    def __init__(self, port: int, target: int) -> None:
        self.whole = threading.Event()
        self.whole.set()
        self._target = target
        self._ending = False
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._selector.register(self._listener, selectors.EVENT_READ, (self._listener, None))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._ending = True
        self.whole.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.data[0].close()
        self._selector.close()

    def _run(self) -> None:
        while not self._ending:
            ready = self._selector.select(0.05)
            self.whole.wait()
            for key, _ in ready:
                end, beyond = key.data
                if beyond is None:
                    near, _ = self._listener.accept()
                    far = socket.create_connection(("127.0.0.1", self._target))
                    for one, other in ((near, far), (far, near)):
                        self._selector.register(one, selectors.EVENT_READ, (one, other))
                else:
                    self._forward(end, beyond)

    def _forward(self, one: socket.socket, other: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            data = one.recv(1 << 16)
            other.sendall(data)
        if not data:
            for end in (one, other):
                with suppress(KeyError, ValueError):
                    self._selector.unregister(end)
                end.close()


@contextmanager
def publishing(publisher: Publisher) -> Iterator[None]:
    """A publisher of 50 symbols, each a hundred times a second."""
    over = threading.Event()

    def run() -> None:
        symbols = SymbolTable(64)
        rows = empty(len(NAMES), QUOTE, KIND_QUOTE)
        rows["symbol"], rows["venue"] = [symbols.intern(name) for name in NAMES], ord("V")
        rows["bid_px"], rows["bid_size"] = 100_000_000_000, 100
        with zmq.Context() as context, closing(
            Outbox(context, publisher, symbols, Limits(symbols_max=64), SystemClock(), epoch=1, stamp="feed_ns")
        ) as box:  # fmt: skip
            while not over.wait(0.01):
                box.send(rows)
                box.tick()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def has_passed(monotonic_s: float) -> bool:
    return time.monotonic() > monotonic_s


@dataclass
class Reader:
    """One that reads through wires which can be cut, and what it took for live."""

    inbox: Any
    wires: tuple[Wire, ...]
    cut_s: float
    up: int = 0
    fresh: int = 0  # quotes that came as live ones
    old: int = 0  # ... and were too old for that
    downs: int = 0

    def turn(self) -> None:
        rows = self.inbox.recv_batch(5)
        now_ns = time.time_ns()
        for part in np.split(rows, np.flatnonzero(rows["kind"] == KIND_LINK)):
            if part.size and part[0]["kind"] == KIND_LINK:
                self.up = int(part.view(LINK)["up"][0])
                self.downs += not self.up
            if self.up:
                ages = now_ns - part["feed_ns"][part["kind"] == KIND_QUOTE]
                self.old += int((ages > OLD_NS).sum())
                self.fresh += int((ages < SECOND_NS).sum())


def test_over_a_partition_nothing_old_is_taken_for_live() -> None:
    base = free_range(8)
    publisher = Publisher(
        "feed", f"tcp://127.0.0.1:{base}", f"tcp://127.0.0.1:{base + 1}", ("quote", "trade", "status"), venues="V"
    )
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        stack.enter_context(publishing(publisher))
        readers = []
        for number, cut_s in enumerate(CUTS_S):
            ports = base + 2 + 2 * number, base + 3 + 2 * number
            wires = tuple(stack.enter_context(closing(Wire(port, base + i))) for i, port in enumerate(ports))
            through = replace(
                publisher, endpoint=f"tcp://127.0.0.1:{ports[0]}", snapshot_endpoint=f"tcp://127.0.0.1:{ports[1]}"
            )
            sources = [Source(through, ("quote.",))]
            inbox = Inbox(context, sources, SymbolTable(64), Limits(symbols_max=64), SystemClock())
            readers.append(Reader(stack.enter_context(closing(inbox)), wires, cut_s))

        def until(done: Any) -> None:
            deadline = time.monotonic() + PATIENCE_S
            while not done():
                assert time.monotonic() < deadline, readers
                for reader in readers:
                    reader.turn()

        until(lambda: all(reader.fresh > 5_000 for reader in readers))
        for reader in readers:
            reader.downs = 0
            for wire in reader.wires:
                wire.whole.clear()
        began = time.monotonic()
        for reader in readers:  # the shorter cut first
            until(partial(has_passed, began + reader.cut_s))
            assert reader.downs > 0, "told while it lasts"
            assert not reader.up
            reader.fresh = 0
            for wire in reader.wires:
                wire.whole.set()
        until(lambda: all(reader.fresh > 5_000 for reader in readers))
        assert [reader.old for reader in readers] == [0, 0]
