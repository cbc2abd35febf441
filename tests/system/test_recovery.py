"""Nodes killed at random instants under load: nothing logged is lost, and what came of it is exact.

FABRIC_KILLS says how often (4 in CI), FABRIC_FAULT_RATE at how many messages a second.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from fabric import audit, codec, journal
from fabric.bus import Inbox
from fabric.clock import SystemClock, TurnClock
from fabric.journal import Cursor, Query, records, segments
from fabric.launcher import Running
from fabric.records import KIND_LINK, unpack
from fabric.symbols import SymbolTable
from fabric.topology import Limits, NodeSpec, ProcessorSettings, Source, Topology
from naive import MINUTE_NS, as_dicts, bar_of, closing_trades, sale_rights
from nodes.candles import Candles
from nodes.nbbo import Nbbo
from order_twin import expected, logged
from topologies import default_topology, product

pytestmark = pytest.mark.timeout(1_200)
KILLS = int(os.environ.get("FABRIC_KILLS", "4"))
RATE = int(os.environ.get("FABRIC_FAULT_RATE", "10000"))
MID_MINUTE_S = (4, 45)
"""Candles are killed when their minute has begun and lasts on, so that many symbols trade before and after."""
KILLED = ("nbbo-1", "candles-1", "iex", "web", "history", "redis-writer")


class Witness:
    """A bot on one letter of the NBBO that wants every message: what it has got, by position."""

    def __init__(self, topology: Topology, context: "zmq.Context[zmq.Socket[bytes]]") -> None:
        publisher = topology.node("nbbo-1").publishes
        assert publisher is not None
        self.positions: list[int] = []
        self.killed_ns: dict[str, int] = {}
        self.inbox = Inbox(
            context, [Source(publisher, ("nbbo.",))], SymbolTable(20_000), Limits(), SystemClock(), complete=True
        )

    def read(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rows = self.inbox.recv_batch(20)
            self.positions += rows["position"][rows["kind"] < KIND_LINK].tolist()


def made(spec: NodeSpec, limits: Limits, clock: TurnClock) -> Any:
    """The node as its program makes it."""
    publishers = tuple(source.publisher.venues for source in spec.reads)
    assert spec.publishes is not None
    channels = spec.publishes.channels
    if spec.name.startswith("nbbo"):
        assert isinstance(spec.settings, ProcessorSettings)
        return Nbbo(limits.symbols_max, spec.settings.venues, publishers, limits.batch_max, channels=channels)
    return Candles(limits.symbols_max, publishers, limits.batch_max, clock, silence_ns=limits.stale_after_ns,
                   channels=channels)  # fmt: skip


def nodes(launcher: Running) -> dict[str, dict[str, Any]]:
    return {node["name"]: node for node in launcher.status()["nodes"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Topology, Witness, Path]]:
    """A market that was killed into all along, and has ended."""
    folder: Path = tmp_path_factory.mktemp("recovery")
    rng = random.Random(KILLS)
    kept = max(512, 80 * KILLS)  # all of the run: what a log has forgotten cannot be looked at
    topology = default_topology(folder, only="iex", rate=str(RATE // 4), symbols_max="6000", bytes=f"{kept}mb")
    topology = replace(topology, limits=replace(topology.limits, restarts_max=1_000))
    with zmq.Context() as context:
        with product(topology, folder / "run") as launcher:
            witness = Witness(topology, context)
            with closing(witness.inbox):
                while not all(node["ready"] for node in nodes(launcher).values()):
                    witness.read(0.1)
                witness.read(2)
                for kill in range(KILLS):
                    name = KILLED[kill % len(KILLED)]
                    while name == "candles-1" and not MID_MINUTE_S[0] < time.time() % 60 < MID_MINUTE_S[1]:
                        witness.read(0.1)
                    before = nodes(launcher)[name]
                    witness.killed_ns[name] = time.time_ns()
                    os.kill(before["pid"], signal.SIGKILL)
                    deadline = time.monotonic() + 20
                    while (now := nodes(launcher)[name])["restarts"] == before["restarts"] or not now["ready"]:
                        assert time.monotonic() < deadline, f"{name} has not come back"
                        witness.read(0.05)
                    witness.read(rng.uniform(0.5, 2.0))
                for counter in ("trades", "bars"):  # what has come since the last kill is published
                    before, deadline = nodes(launcher)["candles-1"]["report"][counter], time.monotonic() + 30
                    while nodes(launcher)["candles-1"]["report"][counter] <= before:
                        assert time.monotonic() < deadline, f"candles-1 has no more {counter} than {before}"
                        witness.read(0.1)
                reports = {name: node["report"] for name, node in nodes(launcher).items()}
        yield topology, witness, Path(topology.publishers()[0].journal.folder)  # type: ignore[union-attr]
    for name in ("nbbo-1", "candles-1"):
        sys.stdout.write(
            f"{name}: { ({k: v for k, v in reports[name].items() if 'recover' in k or 'checkpoint' in k}) }\n"
        )


def test_every_log_is_whole_and_in_order(run: tuple[Topology, Witness, Path]) -> None:
    topology, _, folder = run
    for publisher in topology.publishers():
        found = segments(folder / publisher.name)
        cursor = Cursor(lambda found=found: found, Query())  # type: ignore[misc]
        positions, epochs = zip(*((p, e) for p, e, *_ in records(cursor)), strict=True)
        assert positions == tuple(range(positions[0], positions[-1] + 1)), publisher.name
        assert list(epochs) == sorted(epochs)
        assert len(set(epochs)) == 1 + sum(KILLED[kill % len(KILLED)] == publisher.name for kill in range(KILLS))


@pytest.mark.parametrize("name", ["nbbo-1", "candles-1"])
def test_what_was_published_is_what_the_logged_order_gives(run: tuple[Topology, Witness, Path], name: str) -> None:
    topology, _, folder = run
    spec = topology.node(name)
    wanted, _ = expected(
        folder / name / "order",
        spec.reads,
        lambda clock: made(spec, topology.limits, clock),
        topology.limits.symbols_max,
    )
    found = logged(folder / name)
    assert len(found) > 1_000
    assert found == wanted[: len(found)]
    assert len(found) == len(wanted), "what the last turn gave is there too"


def rows_of(folder: Path, symbols: SymbolTable, prefix: bytes) -> list[dict[str, int]]:
    """What the log of a publisher holds under a prefix."""
    listing = segments(folder)
    found = journal.records(Cursor(lambda: listing, Query(prefixes=(prefix,))))
    return as_dicts(codec.decode([(topic, payload) for *_, topic, payload in found], symbols))


@pytest.mark.skipif(KILLS < 2, reason="the candles were not killed")
def test_the_minute_in_which_the_candles_were_killed_is_as_if_they_had_not_been(
    run: tuple[Topology, Witness, Path],
) -> None:
    """Each minute that both lives published is what a plain computation makes of its trades before and after the kill,
    in the order of the feed's log. (That a short absence is no gap is tested in fabric/test_recovery.py.)
    """
    _, witness, folder = run
    symbols = SymbolTable(20_000)
    trades: dict[int, list[dict[str, Any]]] = {}
    for row in rows_of(folder / "iex", symbols, b"trade."):
        condition, tape, venue = unpack(row["condition"]), unpack(row["tape"]), chr(row["venue"])
        trade: dict[str, Any] = row | {"rights": sale_rights(condition, tape, row["event_ns"], venue)}
        trades.setdefault(row["symbol"], []).append(trade)
    undone = {symbol for symbol, made in trades.items() if any(unpack(trade["mark"]) for trade in made)}
    bars: dict[tuple[int, int], list[dict[str, int]]] = {}
    for bar in rows_of(folder / "candles-1", symbols, b"bar.1m."):
        if bar["symbol"] not in undone | {0}:
            bars.setdefault((bar["symbol"], bar["event_ns"]), []).append(bar)

    epoch, killed_ns = min(made[0]["epoch"] for made in bars.values()), witness.killed_ns["candles-1"]
    whole = 0
    for (symbol, start), made in bars.items():
        before, after = ([bar for bar in made if (bar["epoch"] == epoch) == first] for first in (True, False))
        if not before or not after:
            continue
        of_minute = [t for t in trades[symbol] if start <= t["event_ns"] < start + MINUTE_NS]
        taken = [t for t in of_minute if t["rights"] & {"h", "v"}][: after[-1]["trades"]]
        wanted = bar_of(taken, closing_trades(trades[symbol]))
        assert {name: after[-1][name] for name in wanted} == wanted
        whole += taken[0]["event_ns"] < killed_ns < taken[-1]["event_ns"]
    assert whole > 10, "minutes with trades before and after the kill"


def test_a_bot_that_wants_all_has_all_and_nothing_twice(run: tuple[Topology, Witness, Path]) -> None:
    _, witness, folder = run
    listing = segments(folder / "nbbo-1")
    in_log = [p for p, *_ in journal.records(Cursor(lambda: listing, Query(prefixes=(b"nbbo.",))))]
    in_order, last = [], 0
    for position in witness.positions:  # a new epoch begins with the last values: those are behind
        if position > last:
            in_order.append(position)
            last = position
    got = set(witness.positions)
    assert got <= set(in_log)
    assert [p for p in in_log if in_order[0] <= p <= last and p not in got] == []


def test_the_books_of_every_hop_balance(run: tuple[Topology, Witness, Path]) -> None:
    topology, _, _ = run
    books = audit.hops(topology)
    assert len(books) == 6
    for hop in books:
        assert hop.balanced, hop
        assert hop.delivered > 1_000
