"""Exchanges with faults on purpose, a feed and a candle node, as processes at 50,000 messages a second.

What must hold is what `faults` of the exchange make hard; which protection each test leans on is in its docstring.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from fabric import topology as topologies
from fabric.launcher import Running
from shifted import shifted
from topologies import free_range, product

pytestmark = pytest.mark.timeout(600)
BEFORE_S = 20
"""Between the start of processes and the turn of a minute."""
RATE = int(os.environ.get("FABRIC_FAULT_RATE", "50000"))
TEXT = """
venues: {{V: {{}}}}
exchanges:
  exchange: {{to: [feed], rate: {rate}, symbols: 2000, faults: {{{faults}}}}}
feeds:
  feed:
    wire: iex-tops-1.6
    venues: V
    lines: [[{lines}]]
{more}
processors:
  candles: {{run: nodes.candles:main, reads: [trade, status], publishes: [bar.1m]}}
cache: {{server: off}}
ports: {{base: {base}, span: 20}}
"""


class Rig:
    """The running processes, what the feed reports, and what it says of its line on the bus."""

    def __init__(self, launcher: Running, states: "zmq.Socket[bytes]", bars: "zmq.Socket[bytes]") -> None:
        self.launcher, self._states, self._bars = launcher, states, bars
        self.told: list[tuple[float, dict[str, Any]]] = []
        """(monotonic s, STATUS of the venue) so far."""

    def node(self, name: str) -> dict[str, Any]:
        return {node["name"]: node for node in self.launcher.status()["nodes"]}[name]

    def feed(self) -> dict[str, Any]:
        report: dict[str, Any] = self.node("feed")["report"]
        return report

    def wait(self, seconds: float) -> None:
        """Listen for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._states.poll(max(1, int(left * 1e3))):
                status = msgpack.unpackb(self._states.recv_multipart()[1])
                if not self.told or self.told[-1][1]["N"] != status["N"]:  # else said again after 5 s
                    self.told.append((time.monotonic(), status))

    def until(self, state: str, seconds: float) -> float:
        """Listen until the venue is told to be so; seconds from the call."""
        start = time.monotonic()
        known = len(self.told)
        while not any(status["vs"] == state for _, status in self.told[known:]):
            assert time.monotonic() - start < seconds, f"not {state} after {seconds} s: {self.told[known:]}"
            self.wait(0.01)
        return time.monotonic() - start

    def states(self) -> list[str]:
        return [status["vs"] for _, status in self.told]

    def signal(self, name: str, number: int) -> None:
        os.kill(self.node(name)["pid"], number)

    def settled(self, seconds: float) -> dict[str, Any]:
        """Run for so long, then stop the exchange and give what the feed had counted when all had come."""
        self.wait(seconds)
        self.signal("exchange", signal.SIGSTOP)
        self.wait(1.3)
        report = self.feed()
        self.signal("exchange", signal.SIGCONT)
        return report

    def bars(self) -> list[dict[str, Any]]:
        """Bars said so far."""
        found = []
        while self._bars.poll(0):
            found.append(msgpack.unpackb(self._bars.recv_multipart()[1]))
        return found


@contextmanager
def market(folder: Path, faults: str, lines: int = 1, more: str = "", ahead_s: int = 0) -> Iterator[Rig]:
    """``ahead_s``: how far the clocks of feed and candles are ahead of the machine's."""
    base = free_range(30)
    text = TEXT.format(
        rate=RATE, faults=faults, base=base, more=more.format(port=base + 29),
        lines=", ".join(f"'udp://127.0.0.1:{base + 25 + line}'" for line in range(lines)),
    )  # fmt: skip
    topology = topologies.load_text(text, "t.yaml", {})
    if ahead_s:
        topology = shifted(topology, ahead_s, "feed", "processor")
    publishers = {publisher.name: publisher.endpoint for publisher in topology.publishers()}
    with (
        product(topology, folder) as launcher,
        zmq.Context() as context,
        context.socket(zmq.SUB) as states,
        context.socket(zmq.SUB) as bars,
    ):
        for socket, name, prefix in ((states, "feed", "status.|"), (bars, "candles", "bar.1m.")):
            socket.linger = 0
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.subscribe(prefix)
            socket.connect(publishers[name])
        rig = Rig(launcher, states, bars)
        deadline = time.monotonic() + 60
        while not all(node["ready"] for node in launcher.status()["nodes"]) or not rig.feed().get("quotes"):
            assert time.monotonic() < deadline, launcher.status()
            rig.wait(0.1)
        yield rig


def test_an_exchange_that_stops_is_withdrawn_within_two_seconds_and_comes_back(tmp_path: Path) -> None:
    """Faults 2 and 3: the breaker opens by silence, half opens after its back-off, closes after a clean stretch."""
    with market(tmp_path, "") as rig:
        rig.wait(1)
        rig.signal("exchange", signal.SIGSTOP)
        assert rig.until("stale", 5) <= 2.0
        rig.wait(3)
        rig.signal("exchange", signal.SIGCONT)
        assert rig.until("live", 3)
        assert rig.states()[-2:] == ["stale", "live"]
        assert rig.told[-2][1]["rc"] == "SILENCE"
        rig.wait(1.2)
        feed = rig.feed()
        assert (feed["breaker"], feed["breaker_openings"], feed["breaker_transitions"]) == ("closed", 1, 3)
        assert feed["retold"] > 1_000, "quotes of before are told again"


def test_a_feed_that_slept_does_not_pass_on_what_is_old(tmp_path: Path) -> None:
    """Fault 2: the breaker sees its own sleep, so that the backlog of five seconds is not told as live.

    Leans on `Breaker.update` looking at the clock before it takes in what came (``slept``).
    """
    with market(tmp_path, "") as rig:
        rig.wait(1)
        rig.signal("feed", signal.SIGSTOP)
        rig.wait(5)
        rig.signal("feed", signal.SIGCONT)
        assert rig.until("stale", 1.5)
        assert rig.until("live", 3)
        rig.wait(1.2)
        assert rig.feed()["kernel_drops"] == 0


def test_a_muted_line_is_a_fault_although_nothing_broke(tmp_path: Path) -> None:
    """Fault 3: the exchange lives and its socket is open, yet nothing comes.

    Leans on the breaker's look at silence: without it the four seconds are one gap, told when they are over.
    """
    with market(tmp_path, "mute: true, after: 4s, for: 4s") as rig:
        assert rig.until("stale", 10)
        assert rig.until("live", 10)


def test_a_line_that_flaps_faster_than_silence_is_a_fault_only_has_gaps(tmp_path: Path) -> None:
    """Fault 4: leans on `silence` being longer than what a heartbeat may be late."""
    with market(tmp_path, "flap: 300ms, after: 1s") as rig:
        rig.wait(6)
        assert "gap" in rig.states()
        assert "stale" not in rig.states()
        assert rig.feed()["breaker_transitions"] == 0


def test_a_line_that_flaps_makes_no_storm(tmp_path: Path) -> None:
    """Fault 4: each silence is a fault here. It opens once; twenty pauses in 12 s never bring it back.

    Leans on the breaker's back-off, which doubles (without that it changes 24 times), and on the clean stretch before
    it closes (without both it is live 19 times).
    """
    with market(tmp_path, "flap: 300ms, after: 2s", more="    breaker: {{silence: 200ms}}") as rig:
        rig.wait(2)
        rig.told.clear()
        rig.wait(12)
        assert "stale" in rig.states()
        assert rig.states().count("live") <= 1, "the machine itself may have paused before"
        assert 0 < rig.feed()["breaker_transitions"] <= 12


def test_what_is_lost_is_told_once_with_its_range(tmp_path: Path) -> None:
    """Fault 5: one line, nobody to ask. The ranges told are what was counted; nothing else is missing or twice.

    Leans on the STATUS rows that `SequencedWire` puts in the place of a GAP.
    """
    with market(tmp_path, "drop: 0.001, after: 2s, for: 4s") as rig:
        feed = rig.settled(8)
        gaps = [status for _, status in rig.told if status["vs"] == "gap"]
        ranges = [(status["g0"], status["g1"]) for status in gaps]
        assert feed["gaps"] == len(ranges) > 0
        assert feed["lost"] == sum(last - first + 1 for first, last in ranges)
        assert sorted(ranges) == ranges
        assert all(earlier[1] < later[0] for earlier, later in pairwise(ranges))
        assert feed["duplicates"] == feed["kernel_drops"] == 0
        rig.wait(3)
        assert rig.states()[-1] == "live"


def test_what_both_lines_lose_is_asked_for_and_comes(tmp_path: Path) -> None:
    """Fault 5: `recovery:` asks the exchange for it. Leans on `wires.clients`: without them nothing is filled."""
    more = "    recovery: ['udp://127.0.0.1:{port}']"
    with market(tmp_path, "drop: 0.01, drop_both: 0.01, after: 2s, for: 6s", 2, more) as rig:
        feed = rig.settled(9)
        assert feed["filled_by_request"] > 500
        assert [feed[name] for name in ("lost", "gaps", "restarts", "malformed")] == [0, 0, 0, 0]
        assert "gap" not in rig.states()


def test_packets_out_of_order_come_out_in_order(tmp_path: Path) -> None:
    """Fault 6: packets that came too early are held until what they overtook is there.

    Leans on the sequencer's patience: without it each packet that was overtaken is lost. It waits a second here, not
    20 ms, since what fills a hole comes with the exchange's next ticks, and a busy machine can delay these.
    """
    with market(tmp_path, "reorder: 8, after: 2s, for: 4s", more="    gap_wait: 1s") as rig:
        feed = rig.settled(7)
        assert feed["held_blocks"] > 1_000
        assert [feed[name] for name in ("gaps", "lost", "late", "duplicates")] == [0, 0, 0, 0]


def test_line_b_carries_on_alone_when_line_a_dies(tmp_path: Path) -> None:
    """Fault 7: B is 4 ms late and its packets overlap; A falls silent half way. Leans on arbitration by message."""
    with market(tmp_path, "lines: A, mute: true, after: 5s, delay: 4ms", 2) as rig:
        feed = rig.settled(8)
        assert [feed[name] for name in ("lost", "gaps", "restarts")] == [0, 0, 0]
        assert feed["line0_first"] > 3 * RATE / 2
        assert feed["line1_first"] > RATE
        assert feed["line1_again"] >= feed["line0_first"] - RATE / 10
        assert feed["messages"] == feed["line0_first"] + feed["line1_first"]
        assert set(rig.states()) <= {"live"}


def test_one_percent_lost_on_each_line_loses_nothing(tmp_path: Path) -> None:
    """Fault 7: leans on arbitration by message. The 1 in 10,000 that both lose is asked for, where there is one: that
    asking works is what `test_what_both_lines_lose_is_asked_for_and_comes` shows.
    """
    with market(tmp_path, "drop: 0.01, after: 2s, for: 5s", 2, "    recovery: ['udp://127.0.0.1:{port}']") as rig:
        feed = rig.settled(8)
        assert feed["filled_by_line"] > 500
        assert [feed[name] for name in ("lost", "gaps", "restarts")] == [0, 0, 0]


@pytest.mark.parametrize("skew", [2, -2, 8])
def test_a_clock_that_is_off_is_flagged_and_makes_no_future_candle(tmp_path: Path, skew: int) -> None:
    """Fault 35: quotes are kept, the line is flagged, no candle is told before it has begun by our own clock.

    When the exchange is ahead its next minute begins before ours: the run begins `BEFORE_S` before ours does
    and goes on until it has; where the start took too long for that, until the minute after it.
    """
    ahead_s = int(60 - BEFORE_S - time.time() % 60) % 60
    turn_s = time.monotonic() + 60 - (time.time() + ahead_s) % 60
    with market(tmp_path, f"skew: {ahead_s + skew}", ahead_s=ahead_s) as rig:
        turn_s += 60 * (time.monotonic() > turn_s - skew - 1)
        rig.wait(6)  # who came too late for it hears it again within 5 s
        feed = rig.feed()
        assert feed["skew_ms"] == pytest.approx(1_000 * skew, abs=300)
        assert feed["skewed"] > RATE
        assert (feed["breaker"], feed["line"]) == ("closed", "live")
        assert "SKEW" in {status["rc"] for _, status in rig.told}
        rig.wait(turn_s + 1 - time.monotonic() if skew > 0 else 0)
        bars = rig.bars()
        assert bars
        assert max(bar["t"] - bar["t3"] for bar in bars) <= 0
