"""A gateway without a topology around it: real HTTP on a free port, the bus and the fan-out played by the test."""

import asyncio
import json
import logging
import socket
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from tornado.httpclient import AsyncHTTPClient
from tornado.httputil import HTTPHeaders

from fabric.clock import SystemClock
from fabric.history import History
from fabric.latency import Latency
from fabric.node import Runtime
from fabric.records import (
    BAR,
    EVENT,
    KIND_BAR_1M,
    KIND_LINK,
    KIND_NBBO,
    KIND_QUOTE,
    KIND_TRADE,
    KIND_WHY,
    LINK,
    NBBO,
    QUOTE,
    TRADE,
    WHY,
    Rows,
    empty,
    pack,
    venue_mask,
)
from fabric.symbols import SymbolTable
from fabric.topology import Access, GatewaySettings, Limits, NodeSpec, Publisher, Source, Topology, Venue
from gateway import latest_kernel, rest
from gateway.app import Gateway, Rule
from gateway.auth import Door
from gateway.latest import Latest
from gateway.shared import Shared

PUBLISHER = Publisher("nbbo", "tcp://127.0.0.1:5502", "tcp://127.0.0.1:5503", ("nbbo",))
VENUE = Venue("V", "IEX", "iex")
LIMITS = Limits(symbols_max=64, candles_kept=50)


class FakeInbox:
    """Gives the batches that the test has put in, one a call."""

    def __init__(self) -> None:
        self.batches: deque[Rows] = deque()
        self.whole = True
        self.looks = 0
        self.waits_in_logs = False

    def recv_batch(self, timeout_ms: int) -> Rows:
        assert timeout_ms == 0, "the loop must not be blocked"
        self.looks += 1
        return self.batches.popleft() if self.batches else empty(0, EVENT)

    def ready(self) -> bool:
        return self.whole

    def counters(self) -> dict[str, int]:
        return {"received": 7}

    def bad_frames(self) -> dict[str, int]:
        return {"truncated": 2}

    def logs_suspended(self) -> list[str]:
        return []

    since_ns = 5


class FakeClients:
    """A fan-out that only writes down what it was asked."""

    def __init__(self) -> None:
        self.rows = 0
        self.flushes = 0
        self.hasty = False
        self.clients = 0
        self.closed: tuple[int, str] | None = None
        self._flushed = asyncio.Event()

    def apply(self, batch: Rows) -> None:
        self.rows += batch.size

    def flush(self, now_ns: int) -> bool:
        self.flushes += 1
        self._flushed.set()
        return False

    def in_haste(self) -> bool:
        return self.hasty

    def time_since(self, since_ns: int) -> None:
        self.timed_since_ns = since_ns

    async def flushed(self) -> None:
        """Wait for the next flush."""
        self._flushed.clear()
        await self._flushed.wait()

    def close_all(self, code: int, reason: str) -> None:
        self.closed = code, reason

    def counters(self) -> Mapping[str, int]:
        return {"clients": self.clients, "frames": 0}


class FakeRuntime:
    """What the launcher would give."""

    def __init__(self, port: int, limits: Limits = LIMITS, access: Access | None = None) -> None:
        settings = GatewaySettings("127.0.0.1", port, ("",))
        self.spec = NodeSpec("web", "gateway", "gateway.app:main", settings, reads=(Source(PUBLISHER, ("nbbo.",)),))
        feed = NodeSpec("nbbo", "processor", "nodes.nbbo:main", settings, PUBLISHER)
        self.topology = Topology("topology.yaml", (feed, self.spec), (VENUE,), limits, access=access or Access())
        self.clock = SystemClock()
        self.latency = Latency()
        self.symbols = SymbolTable(limits.symbols_max)
        self.log = logging.getLogger("web")
        self.bus = FakeInbox()
        self.is_ready = asyncio.Event()
        self.reported: Mapping[str, Any] = {}
        self.stopped = False

    def inbox(self) -> FakeInbox:
        return self.bus

    def ready(self, detail: str = "") -> None:
        self.is_ready.set()

    def report(self, counters: Any) -> None:
        self.reported = counters()

    def stopping(self) -> bool:
        return self.stopped


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Rig:
    """One running gateway."""

    def __init__(
        self,
        limits: Limits = LIMITS,
        store: rest.Store | None = None,
        access: Access | None = None,
        table: Path | None = None,
        run_folder: str = "",
        history: History | None = None,
    ) -> None:
        latest_kernel.warm_up()  # as the launcher does before any node starts
        self.port = free_port()
        self.runtime = FakeRuntime(self.port, limits, access)
        self.runtime.topology = replace(self.runtime.topology, run_folder=run_folder)
        self.latest = Latest(limits, [VENUE], self.runtime.spec.reads, self.runtime.symbols)
        self.clients = FakeClients()
        self.door = Door(self.runtime.topology.access, limits, Shared(table), self.runtime.clock)
        self.gateway = Gateway(
            cast(Runtime, self.runtime), self.latest, self.clients, store, self.door, history=history
        )
        self.serving: asyncio.Task[None] | None = None

    def put(self, *batches: Rows) -> None:
        self.runtime.bus.batches.extend(batches)

    def nbbo(self, name: str = "AAPL", seq: int = 1, **columns: int) -> Rows:
        """A best bid and offer of now."""
        now_ns = self.runtime.clock.now_ns()
        values = {"bid_px": 185_500_000_000, "ask_px": 185_520_000_000, "bid_size": 300, "ask_size": 100, "state": 0}
        values |= {"bid_total": 300, "ask_total": 100, "bid_mask": venue_mask("V"), "ask_mask": venue_mask("V")}
        values |= {"bid_venue": pack("V"), "ask_venue": pack("V"), "event_ns": now_ns, "recv_ns": now_ns, "epoch": 1}
        return self._row(NBBO, KIND_NBBO, name, values | {"scope": venue_mask("V"), "seq": seq} | columns)

    def trade(self, name: str = "AAPL", **columns: int) -> Rows:
        values = {"seq": 1, "epoch": 1, "venue": ord("V"), "mark": 0, "event_ns": self.runtime.clock.now_ns()}
        return self._row(TRADE, KIND_TRADE, name, values | columns)

    def bars(self, name: str, count: int, start_ns: int, kind: int = KIND_BAR_1M, every_s: int = 60) -> Rows:
        """Closed minutes, or other bars, one after the other."""
        rows = empty(count, BAR, kind)
        rows["symbol"] = self.runtime.symbols.intern(name)
        rows["seq"], rows["epoch"] = np.arange(count) + 1, 1
        rows["event_ns"] = start_ns + np.arange(count) * every_s * 1_000_000_000
        for column, price in {"open_px": 10, "high_px": 12, "low_px": 9, "close_px": 11, "vwap_px": 10}.items():
            rows[column] = price * 1_000_000_000
        rows["volume"], rows["trades"], rows["rev"], rows["final"], rows["gap"] = 700, 7, 1, 1, 0
        return rows.view(EVENT)

    def quote(self, name: str = "AAPL", seq: int = 1, **columns: int) -> Rows:
        """What the venue quotes itself."""
        now_ns = self.runtime.clock.now_ns()
        values = {"bid_px": 185_500_000_000, "ask_px": 185_520_000_000, "bid_size": 300, "ask_size": 100, "seq": seq}
        values |= {"venue": ord("V"), "condition": pack("R"), "event_ns": now_ns, "recv_ns": now_ns, "epoch": 1}
        return self._row(QUOTE, KIND_QUOTE, name, values | columns)

    def why(self, name: str = "AAPL", **columns: int) -> Rows:
        """Who is left out, with round lots of 40."""
        return self._row(WHY, KIND_WHY, name, {"seq": 1, "epoch": 1, "round_lot": 40} | columns)

    def link(self, up: int) -> Rows:
        return self._row(LINK, KIND_LINK, "", {"publisher": 0, "up": up})

    def _row(self, dtype: np.dtype[np.void], kind: int, name: str, values: Mapping[str, int]) -> Rows:
        made = empty(1, dtype, kind)
        made["symbol"] = self.runtime.symbols.intern(name)
        for column, value in values.items():
            made[column] = value
        return made.view(EVENT)

    async def taken(self) -> None:
        """Wait until the pump has taken all that was put."""
        await self.clients.flushed()
        while self.runtime.bus.batches:
            await self.clients.flushed()


@asynccontextmanager
async def running(
    drain_ns: int = 600_000_000,
    store: rest.Store | None = None,
    websockets: Sequence[Rule] = (),
    access: Access | None = None,
    table: Path | None = None,
    run_folder: str = "",
    history: History | None = None,
    **limits: int,
) -> AsyncIterator[Rig]:
    """A gateway that serves and is drained at the end."""
    rig = Rig(replace(LIMITS, drain_ns=drain_ns, **limits), store, access, table, run_folder, history)
    rig.serving = asyncio.create_task(rig.gateway.serve(websockets))
    ready = asyncio.create_task(rig.runtime.is_ready.wait())
    await asyncio.wait([ready, rig.serving], return_when=asyncio.FIRST_COMPLETED)
    try:
        yield rig
    finally:
        ready.cancel()
        rig.runtime.stopped = True
        await rig.serving


async def ask(rig: Rig, path: str, method: str = "get", **headers: str) -> tuple[int, Any, HTTPHeaders]:
    """Status, body (read, if it is JSON) and headers of an answer; ``_`` in a header's name is ``-``."""
    options: dict[str, Any] = {"body": b""} if method == "post" else {}
    options["headers"] = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await AsyncHTTPClient(force_instance=True).fetch(
        f"http://127.0.0.1:{rig.port}{path}", method=method.upper(), raise_error=False, **options
    )
    is_json = "json" in answer.headers.get("Content-Type", "")
    return answer.code, json.loads(answer.body) if is_json else answer.body, answer.headers
