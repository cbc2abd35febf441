"""A candle processor killed in mid-minute: what it then says of that minute is the truth, or says that it is not whole.

The truth is computed by the naive twin's bar from the log of the feed, which lost nothing.
"""

import os
import signal
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from fabric import journal
from fabric.bus import Inbox
from fabric.clock import SECOND_NS, SystemClock
from fabric.journal import Cursor, Query
from fabric.launcher import Running
from fabric.records import KIND_BAR_1M, NULL, PRICE_UNIT
from fabric.symbols import SymbolTable
from fabric.topology import Limits, Source, Topology
from naive import MINUTE_NS, Row, as_dicts, bar_of, closing_trades, sale_rights
from topologies import default_topology, product

pytestmark = pytest.mark.timeout(900)
NODE = "candles-1"
LETTER = "A"
"""One first letter of its shard."""
BEFORE_S, AFTER_S = 4, 8
"""Of the minute, what has passed before the kill and what is left of it after, at least."""
SHOWN = ("open_px", "high_px", "low_px", "close_px", "volume", "trades", "vwap_px", "last_ns")


def test_the_minute_of_a_kill_is_right_or_flagged(tmp_path: Path) -> None:
    topology = default_topology(tmp_path, only="iex")
    with product(topology, tmp_path / "run") as launcher, zmq.Context() as context:
        publisher = next(p for p in topology.publishers() if p.name == NODE)
        source = Source(publisher, (f"bar.1m.{LETTER}",))
        names = SymbolTable(20_000)
        with closing(Inbox(context, [source], names, Limits(), SystemClock())) as inbox:
            start_ns = _middle_of_a_minute(launcher)
            before = _node(launcher)
            os.kill(before["pid"], signal.SIGKILL)
            seen_ns = start_ns + MINUTE_NS + 4 * SECOND_NS
            closed = _closed(inbox, names, start_ns, seen_ns)
            assert _node(launcher)["restarts"] == before["restarts"] + 1
        truth = _bars_of_the_log(topology, start_ns, seen_ns)
    closed = {name: bar for name, bar in closed.items() if name in truth}
    right = {name for name, bar in closed.items() if {key: bar[key] for key in SHOWN} == truth.get(name)}
    flagged = {name for name, bar in closed.items() if bar["gap"]}
    assert right | flagged == set(closed), "a bar that is wrong does not say that trades may be missing"
    assert len(closed) > 30, "symbols that traded in the minute"


def _node(launcher: Running) -> dict[str, Any]:
    return next(node for node in launcher.status()["nodes"] if node["name"] == NODE)


def _middle_of_a_minute(launcher: Running) -> int:
    """Wait until all nodes are ready, and then for a second of the minute that is neither its first nor its last;
    return when that minute began.
    """
    while not all(node["ready"] for node in launcher.status()["nodes"]):
        time.sleep(0.05)
    ready_ns = time.time_ns()
    while True:
        now_ns = time.time_ns()
        start_ns = now_ns - now_ns % MINUTE_NS
        if (
            now_ns >= max(start_ns, ready_ns) + BEFORE_S * SECOND_NS
            and now_ns < start_ns + MINUTE_NS - AFTER_S * SECOND_NS
        ):
            return start_ns
        time.sleep(0.05)


def _closed(inbox: Inbox, names: SymbolTable, start_ns: int, until_ns: int) -> dict[str, Row]:
    """The newest revision of each bar of a minute, by symbol."""
    found = {}
    while time.time_ns() < until_ns:
        for bar in as_dicts(inbox.recv_batch(20)):
            if bar["kind"] == KIND_BAR_1M and bar["event_ns"] == start_ns and bar["symbol"] and bar["rev"] > 0:
                found[names.name(bar["symbol"])] = bar
    return found


def _bars_of_the_log(topology: Topology, start_ns: int, seen_ns: int) -> dict[str, Row]:
    """The minute's bars by symbol, of the trades that the feed has logged; not of those of which one was cancelled in
    the last second before ``seen_ns`` or later.
    """
    publisher = topology.node("iex").publishes
    assert publisher is not None
    assert publisher.journal is not None
    folder = Path(publisher.journal.folder) / publisher.name
    cursor = Cursor(lambda: journal.segments(folder), Query(prefixes=(f"trade.{LETTER}".encode(),)))
    trades: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)  # by symbol and id
    for _, _, stamp_ns, _, payload in journal.records(cursor):
        said = msgpack.unpackb(payload)
        name, venue, tape, condition = said["S"], said["x"], said["z"] or "", "".join(said["c"] or ())
        if said["m"] == "x":
            if trades[name].pop(said["oi"], None) and stamp_ns > seen_ns - SECOND_NS:
                trades[name][-1] = {}  # whether the bar that was seen knows of it nobody can say
        elif start_ns <= said["t"] < start_ns + MINUTE_NS:
            assert said["m"] is None, "the simulated exchange corrects nothing"
            trades[name][said["i"]] = {
                "event_ns": said["t"],
                "exchange_seq": NULL if said["X"] is None else said["X"],
                "venue": ord(venue),
                "price": round(said["p"] * PRICE_UNIT),
                "size": said["s"],
                "rights": sale_rights(condition, tape, said["t"], venue),
            }
    whole = {name: list(made.values()) for name, made in trades.items() if -1 not in made}
    return {name: bar_of(made, closing_trades(made)) for name, made in whole.items()}
