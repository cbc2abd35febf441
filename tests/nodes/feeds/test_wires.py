"""Every wire by its name: made, fed with garbage, asked for what it counts; and gaps among its rows."""

import random
import struct

import numpy as np
import pytest

from fabric.clock import MILLISECOND_NS
from fabric.records import KIND_QUOTE, KIND_STATUS, STATUS, unpack
from fabric.symbols import SymbolTable
from fabric.topology import WIRES, FeedSettings
from nodes.feeds import wires
from nodes.feeds.sequencer import LINES
from nodes.feeds.wire import from_payloads

VENUES = {"nasdaq-itch-5.0": "Q", "cboe-pitch-2.41": "Z", "nyse-pillar": "N", "cta": "NP", "utp": "QP"}


def quote(number: int, session: int = 9) -> bytes:
    """A TOPS packet with one quote."""
    body = struct.pack("<BBq8sIqqI", ord("Q"), 0, 10**18, b"A       ", 1, 10_000, 10_100, 2)
    return struct.pack("<BBHIIHHqqq", 1, 0, 0x8003, 1, session, 44, 1, 0, number, 10**18 + number) + b"\x2a\0" + body


def test_the_topology_knows_the_same_wires() -> None:
    assert set(wires.FORMATS) == set(WIRES)


@pytest.mark.parametrize("name", WIRES)
def test_garbage_is_counted_and_gives_nothing(name: str) -> None:
    wire = wires.make(name, SymbolTable(64), VENUES.get(name, "V"))
    chance = random.Random(name)
    rows = [part.copy() for part in wire.decode(from_payloads([chance.randbytes(n) for n in range(40)]))]
    counts = wire.counters()
    assert wire.accepted == counts["packets"]
    assert wire.malformed > 0
    assert counts["malformed"] >= wire.malformed
    assert all(part["kind"].tolist() == [KIND_STATUS] * part.size for part in rows)
    assert [counts[name] for name in ("gaps", "lost")] == [0, 0]


@pytest.mark.parametrize("name", WIRES)
def test_time_passes_without_packets(name: str) -> None:
    wire = wires.make(name, SymbolTable(64), VENUES.get(name, "V"))
    assert not list(wire.decode(from_payloads([]), 5))
    assert not list(wire.flush())
    assert (wire.waiting, wire.missing(5).size) == (0, 0)


def test_a_gap_stands_before_what_came_after_it_for_each_venue() -> None:
    wire = wires.make("iex-tops-1.6", SymbolTable(64), "VW", (0, 0), LINES)
    first = [part.copy() for part in wire.decode(from_payloads([quote(1), quote(4)], 7), 0)]
    assert wire.waiting == 1
    later = [part.copy() for part in wire.decode(from_payloads([quote(5)], 8, line=1), 30 * MILLISECOND_NS)]
    rows = np.concatenate(first + later)
    assert rows["kind"].tolist() == [KIND_QUOTE, KIND_STATUS, KIND_STATUS, *[KIND_QUOTE] * 3]
    gaps = rows[1:3].view(STATUS)
    assert [chr(letter) for letter in gaps["venue"]] == ["V", "W"]
    assert [unpack(state) for state in gaps["venue_state"]] == ["gap", "gap"]
    assert (gaps["gap_from"].tolist(), gaps["gap_to"].tolist()) == ([2, 2], [3, 3])
    assert wire.gaps == 1


def test_clients_by_group_answer_as_lines_of_their_own() -> None:
    settings = FeedSettings(
        "nasdaq-itch-5.0", "Q", (("h", 1),) * 3, groups=(0, 0, 1), recovery=(("udp", "127.0.0.1", 9),)
    )
    found = wires.clients(settings)
    try:
        assert sorted(found) == [0, 1]
    finally:
        for client in found.values():
            client.close()
    assert wires.clients(FeedSettings("cta", "N", (("h", 1),), groups=(0,))) == {}
