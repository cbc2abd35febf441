"""Time goes wrong under a running market: the wall clock is set, a gateway's loop is blocked."""

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websockets.sync.client
import zmq

from fabric.bus import Inbox
from fabric.clock import SystemClock
from fabric.launcher import Running
from fabric.records import BAR, KIND_BAR_1M, KIND_NBBO, NBBO, STATE_STALE
from fabric.symbols import SymbolTable
from fabric.topology import GatewaySettings, Limits, Source, Topology
from faulty import BLOCK_S, BLOCKING, with_faults
from topologies import default_topology, product

pytestmark = pytest.mark.timeout(600)
BUSY = ["AAPL", "MSFT", "NVDA", "SPY", "TSLA"]
"""Symbols that the simulated market quotes many times a second: what is old of them is not their last quote."""
STEPPED = ("feed", "processor", "writer", "gateway")


class Market:
    """The running processes, and a bot on some of their NBBOs and bars."""

    def __init__(self, topology: Topology, launcher: Running, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        self.topology, self.launcher = topology, launcher
        gateway = next(node.settings for node in topology.nodes if node.role == "gateway")
        assert isinstance(gateway, GatewaySettings)
        self.port = gateway.port
        sources = [
            Source(p, ("nbbo.A", "bar.1m.A")) for p in topology.publishers() if {"nbbo", "bar.1m"} & set(p.channels)
        ]
        self.inbox = Inbox(context, sources, SymbolTable(20_000), Limits(), SystemClock())
        self.values = self.stale = self.future = 0

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {node["name"]: node for node in self.launcher.status()["nodes"]}

    def listen(self, seconds: float) -> None:
        """Count the NBBOs of so many seconds, those that are stale, and bars that begin in the future."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rows = self.inbox.recv_batch(20)
            best = rows[rows["kind"] == KIND_NBBO].view(NBBO)
            self.values += best.size
            self.stale += int((best["state"] & STATE_STALE != 0).sum())
            bars = rows[rows["kind"] == KIND_BAR_1M].view(BAR)
            self.future += int((bars["event_ns"] > time.time_ns()).sum())

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def until(self, happened: Callable[[], bool], within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not happened():
            assert time.monotonic() < deadline, "never happened"
            self.listen(0.1)


@contextmanager
def market(folder: Path, *roles: str, kind: str = "") -> Iterator[Market]:
    topology = with_faults(default_topology(folder, only="iex"), *roles, kind=kind)
    with product(topology, folder / "run") as launcher, zmq.Context() as context:
        made = Market(topology, launcher, context)
        with closing(made.inbox):
            made.until(lambda: made.values > 1_000, 30)
            yield made


def test_a_step_of_the_wall_clock_moves_no_timer_and_makes_no_future_candle(tmp_path: Path) -> None:
    """Fault 34: five seconds ahead, then ten back, then right again, on every node but the exchange."""
    with market(tmp_path, *STEPPED) as found:
        stepped = [
            node["pid"] for node in found.nodes().values() if node["role"] in ("feed", "processor", "writer", "gateway")
        ]
        found.stale = 0
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR2, signal.SIGUSR1):
            for pid in stepped:
                os.kill(pid, number)
            before = found.values
            found.listen(4)
            assert found.values - before > 1_000, "the market has stopped"
            assert found.get("/quotes/AAPL")[1]["state"] == "live"
            assert found.get("/readyz")[0] == 200
        nodes = found.nodes()
        assert all(node["restarts"] == 0 and node["ready"] for node in nodes.values())
        feed = nodes["iex"]["report"]
        assert (feed["breaker"], feed["breaker_openings"], feed["kernel_drops"]) == ("closed", 0, 0)
        assert feed["skewed"] > 0, "what looks like a clock that is off is told"
        for node in nodes.values():
            for counter in ("lost", "gaps", "rebuilds"):
                assert node["report"].get(counter, 0) == 0, f"{node['name']} {counter}"
        assert found.stale == 0
        assert found.future == 0


def test_a_blocked_loop_says_where_and_sends_nothing_old_as_live(tmp_path: Path) -> None:
    """Fault 23."""
    with market(tmp_path, "gateway", kind=BLOCKING) as found:
        pid = found.nodes()["web"]["pid"]
        with websockets.sync.client.connect(f"ws://127.0.0.1:{found.port}/stream") as client:
            client.send(json.dumps({"action": "subscribe", "quotes": BUSY, "interval_ms": 100}))
            assert len(seen := ages(client, 2.0)) > 0
            assert max(age for _, age in seen) < 2.0
            os.kill(pid, signal.SIGUSR1)
            killed_s = time.monotonic()
            seen = ages(client, BLOCK_S + 4)
        first_s, _ = next((at_s, age) for at_s, age in seen if at_s > killed_s + 1)
        assert first_s - killed_s >= BLOCK_S - 0.5, "it was blocked"
        assert seen[-1][0] - killed_s > BLOCK_S + 3, "it goes on"
        assert max(age for _, age in seen) < 2.0, "a value from before the block came as live"
        log = (tmp_path / "run" / "logs" / "web.log").read_text()
        assert "the loop has not turned for 2." in log
        assert "time.sleep(BLOCK_S)" in log
        assert "the loop turns again: it was blocked for" in log


def ages(client: websockets.sync.client.ClientConnection, seconds: float) -> list[tuple[float, float]]:
    """Live quotes that come within so long: when (monotonic) and how long after the exchange's time, in seconds."""
    found: list[tuple[float, float]] = []
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            messages = json.loads(client.recv(timeout=left))
        except TimeoutError:
            break
        at_s, now = time.monotonic(), np.datetime64(time.time_ns(), "ns")
        found += [
            (at_s, (now - np.datetime64(message["t"].rstrip("Z"), "ns")) / np.timedelta64(1, "s"))
            for message in messages
            if message["T"] == "q" and not message.get("st", 0) & STATE_STALE
        ]
    return found
