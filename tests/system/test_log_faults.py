"""Faults 29, 30 and 33: what the disk does to the logs of a running market, at 50,000 messages a second.

The logs lie in a file system of their own, of a size that the test can fill. They keep 48 MB each, so that the feed's
own rolls and forgets a segment some six times a second: a kill at any instant is close to both.
"""

import json
import os
import random
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zmq

from fabric.bus import Inbox
from fabric.clock import SystemClock
from fabric.journal import Segment, segments
from fabric.launcher import Running
from fabric.records import KIND_QUOTE
from fabric.symbols import SymbolTable
from fabric.topology import GatewaySettings, Limits, Source, Topology
from faulty import UNSYNCED, with_faults
from support import file_system
from topologies import default_topology, product

pytestmark = pytest.mark.timeout(600)
KILLS = int(os.environ.get("FABRIC_KILLS", "4"))
PATIENCE_S = 60.0
"""An order of magnitude more than anything here takes."""
FEED = "iex"


@contextmanager
def no_room(place: Path) -> Iterator[None]:
    """Take all room of a file system, also what becomes free meanwhile: a log that forgets its oldest would go on."""
    ballast, over = place / "ballast", threading.Event()

    def fill() -> None:
        with ballast.open("wb") as file:
            while not over.wait(0.002):
                room = os.statvfs(place)
                with suppress(OSError):  # another was first
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), max(1, room.f_bavail) * room.f_frsize)

    filling = threading.Thread(target=fill)
    filling.start()
    try:
        yield
    finally:
        over.set()
        filling.join()
        ballast.unlink()


class Market:
    """The running processes, their logs, and a bot that reads the quotes of one letter."""

    def __init__(
        self, topology: Topology, launcher: Running, context: "zmq.Context[zmq.Socket[bytes]]", logs: Path
    ) -> None:
        self.topology, self.launcher, self.logs = topology, launcher, logs
        publisher = topology.node(FEED).publishes
        assert publisher is not None
        self.heard = 0
        self.inbox = Inbox(context, [Source(publisher, ("quote.A",))], SymbolTable(20_000), Limits(), SystemClock())

    def read(self, seconds: float) -> None:
        """Read for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rows = self.inbox.recv_batch(20)
            self.heard += int((rows["kind"] == KIND_QUOTE).sum())

    def until(self, what: str, happened: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read on until the feed reports it; return that report."""
        deadline = time.monotonic() + PATIENCE_S
        report: dict[str, Any] = self.node(FEED)["report"]
        while not happened(report):
            assert time.monotonic() < deadline, f"never: {what}: {report}"
            self.read(0.1)
            report = self.node(FEED)["report"]
        return report

    def node(self, name: str) -> dict[str, Any]:
        return self.launcher.node(name)

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """What the gateway says of itself, and under which status."""
        gateway = next(node.settings for node in self.topology.nodes if node.role == "gateway")
        assert isinstance(gateway, GatewaySettings)
        with urllib.request.urlopen(f"http://127.0.0.1:{gateway.port}/readyz?verbose", timeout=10) as answer:
            return answer.status, json.load(answer)

    def whole(self) -> list[Segment]:
        """The sealed segments of the feed's log, each of which must hold every position from its first to its last."""
        found = [segment for segment in segments(self.logs / FEED) if segment.sealed]
        for segment in found:
            assert segment.holes == 0, segment
            assert segment.records == segment.last - segment.first + 1, segment
        return found


def between(found: list[Segment]) -> list[int]:
    """Positions that lie between each segment and the next."""
    return [after.first - before.last - 1 for before, after in pairwise(found)]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    folder: Path = tmp_path_factory.mktemp("log-faults")
    logs = folder / ".fabric" / "journal"
    topology = default_topology(folder, only=FEED, bytes="48mb", symbols_max="6000")
    topology = with_faults(topology, "feed", kind=UNSYNCED)
    with (
        file_system(logs, 512), product(topology, folder / "run") as launcher, zmq.Context() as context
    ):  # fmt: skip
        made = Market(topology, launcher, context, logs)
        with closing(made.inbox):
            made.until("segments were forgotten", lambda report: report.get("log_forgotten", 0) > 2)
            yield made


def test_a_full_disk_suspends_the_log_and_nothing_else(market: Market) -> None:
    """Fault 29."""
    before = market.node(FEED)
    unlogged = before["report"]["log_unlogged"]

    def is_told(_: dict[str, Any]) -> bool:
        status, said = market.readiness()
        log = said["checks"].get(f"log {FEED}", {"status": "ok"})
        return (status, said["status"], log["status"]) == (200, "degraded", "suspended")

    with no_room(market.logs):
        market.until("suspended", lambda report: report["log_suspended"] == 1)
        market.until("the gateway says so", is_told)
        market.until("the feed goes on", lambda report: report["log_unlogged"] > unlogged + 50_000)
        heard = market.heard
        market.until("readers are served", lambda _: market.heard > heard)
        assert "No space left on device" in (market.launcher.folder.log_path(FEED)).read_text()
    over = market.node(FEED)["report"]["position"]
    after = market.until("logged again", lambda r: not r["log_suspended"] and market.whole()[-1].first > over)
    assert after["log_appended"] + after["log_unlogged"] == after["position"], "each message was logged or counted"
    assert all(0 <= count <= after["log_unlogged"] for count in between(market.whole()))
    assert market.node(FEED)["pid"] == before["pid"]
    market.until("ready", lambda _: market.readiness()[1]["status"] == "ok")


def test_what_a_failing_disk_has_is_never_called_synced(market: Market) -> None:
    """Fault 30."""
    before = market.node(FEED)
    os.kill(before["pid"], signal.SIGUSR1)
    failing = market.until("suspect", lambda report: report["log_suspects"] > 0)
    later = market.until("the feed goes on", lambda r: r["published"] > failing["published"] + 50_000)
    assert later["log_synced"] == failing["log_synced"] < later["position"]
    assert any(segment.suspect for segment in market.whole())
    os.kill(before["pid"], signal.SIGUSR2)
    again = market.until("synced again", lambda report: report["log_synced"] > later["log_synced"])
    on = market.until("synced on", lambda report: report["log_synced"] > again["log_synced"])
    assert on["log_suspects"] == again["log_suspects"]
    assert market.node(FEED)["pid"] == before["pid"]


def test_killed_while_it_rolls_and_forgets_it_loses_no_segment_and_has_none_twice(market: Market) -> None:
    """Fault 33."""
    rng = random.Random(33)
    for _ in range(KILLS):
        market.read(rng.uniform(0.2, 0.7))
        before = market.node(FEED)
        os.kill(before["pid"], signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE_S
        while (now := market.node(FEED))["restarts"] == before["restarts"] or not now["ready"]:
            assert time.monotonic() < deadline, "the feed has not come back"
            market.read(0.05)
        found = market.whole()
        assert between(found) == [0] * (len(found) - 1)
        assert found[-1].last >= before["report"]["position"], "the last of what it had appended is there"
        market.until("it rolls and forgets again", lambda r: r.get("log_forgotten", 0) > 0)
