"""The hash of what was said: equal for equal values in equal order by topic, and for nothing else that matters."""

import random
from pathlib import Path

import numpy as np
import pytest

from fabric import codec, digest_kernel
from fabric.clock import SystemClock
from fabric.digest import KINDS, Digest, of_log, together
from fabric.digest_kernel import PLAN_WIDTH
from fabric.journal import Journal
from fabric.journal_kernel import append_all
from fabric.records import (
    BAR,
    CHANNELS,
    DTYPES,
    KIND_BAR_1M,
    KIND_NBBO,
    KIND_QUOTE,
    NBBO,
    NULL,
    QUOTE,
    Rows,
    columns,
    empty,
    pack,
)
from fabric.symbols import SymbolTable
from fabric.topology import JournalSettings
from naive_digest import chained

NAMES = ("AAPL", "MSFT", "BRK.B")
LEFT_OUT = {"N", "E", "O", "t1", "t2", "t3"}


def market(rng: random.Random, symbols: SymbolTable, count: int = 60) -> Rows:
    rows = empty(count, NBBO, KIND_NBBO)
    for row in rows:
        row["symbol"] = symbols.intern(rng.choice(NAMES))
        row["bid_px"], row["bid_size"] = rng.choice([NULL, rng.randrange(1, 10**12)]), rng.randrange(1_000)
        row["bid_venue"] = rng.choice([NULL, 0, pack("Q")])
        row["state"], row["scope"], row["event_ns"] = rng.randrange(8), 3, rng.randrange(10**18)
    return rows


def said(rows: Rows, *parts: slice) -> dict[str, str]:
    symbols = SymbolTable(8)
    for name in NAMES:
        symbols.intern(name)
    digest = Digest(symbols, ("nbbo", "bar.1m"))
    for part in parts or (slice(None),):
        digest.add(rows[part])
    return digest.hashes()


@pytest.mark.parametrize("compiled", [True, False])
def test_it_agrees_with_a_plain_twin(compiled: bool) -> None:
    rng = random.Random(6)
    symbols = SymbolTable(8)
    rows = market(rng, symbols)
    fields = [(column, wire) for key, column, wire in codec.FIELDS[KIND_NBBO] if key not in LEFT_OUT]
    names = DTYPES[KIND_NBBO].names
    assert names is not None
    fields.sort(key=lambda each: names.index(each[0]))
    plan = Digest(symbols, ("nbbo",))._plan
    chains = np.zeros((8, 2), np.int64)
    add = digest_kernel.add if compiled else digest_kernel.add.py_func
    with np.errstate(over="ignore"):
        assert add(columns(rows), plan, chains) == rows.size
    for symbol in range(1, 4):
        own = rows[rows["symbol"] == symbol]
        wanted = chained(
            ([int(row[name]) for name, _ in fields], [wire >= codec.WIRE_TEXT for _, wire in fields]) for row in own
        )
        assert tuple(chains[symbol].tolist()) == wanted
    assert plan.shape == (KINDS, PLAN_WIDTH)


def test_when_and_how_often_it_was_said_makes_no_difference_what_and_in_which_order_does() -> None:
    rng = random.Random(7)
    rows = market(rng, SymbolTable(8))
    first = said(rows)
    assert said(rows, slice(0, 7), slice(7, 7), slice(7, None)) == first, "however it was cut into batches"
    other = rows.copy()
    for name in ("seq", "epoch", "position", "recv_ns", "feed_ns", "proc_ns"):
        other[name] = rng.randrange(10**9)
    assert said(other) == first
    by_symbol = rows[np.argsort(rows["symbol"], kind="stable")]
    assert said(by_symbol) == first, "topics are in order, not their mixture"
    changed = rows.copy()
    changed["bid_size"][31] += 1
    assert said(changed) != first
    swapped = rows.copy()
    same = np.flatnonzero(rows["symbol"] == rows["symbol"][0])[:2]
    swapped[same] = swapped[same[::-1]]
    assert said(swapped) != first
    assert said(rows[:-1]) != first


def test_shards_add_up_and_ids_of_symbols_do_not_matter() -> None:
    rows = market(random.Random(8), SymbolTable(8))
    parts = [said(rows[rows["symbol"] == symbol]) for symbol in (1, 2, 3)]
    assert together(parts) == said(rows)
    assert together(reversed(parts)) == said(rows)
    table = SymbolTable(8)
    for name in ("ZZZ", *reversed(NAMES)):
        table.intern(name)
    elsewhere = rows.copy()
    elsewhere["symbol"] = [table.find(NAMES[symbol - 1]) for symbol in rows["symbol"].tolist()]
    digest = Digest(table, ("nbbo",))
    digest.add(elsewhere)
    assert digest.hashes() == said(rows)


def test_venues_of_a_symbol_are_topics_of_their_own() -> None:
    symbols = SymbolTable(8)
    symbols.intern("AAPL")
    quotes = empty(4, QUOTE, KIND_QUOTE)
    quotes["symbol"], quotes["venue"], quotes["bid_px"] = 1, [ord("Q"), ord("V"), ord("Q"), ord("V")], [1, 2, 3, 4]
    together_, apart, swapped = (Digest(symbols, ("quote",)) for _ in range(3))
    together_.add(quotes)
    apart.add(quotes[[0, 2, 1, 3]])
    assert together_.hashes() == apart.hashes()
    quotes["venue"] = [ord("V"), ord("Q"), ord("V"), ord("Q")]
    swapped.add(quotes)
    assert together_.hashes() != swapped.hashes()


def test_of_candles_the_closed_ones_count() -> None:
    bars = empty(3, BAR, KIND_BAR_1M)
    bars["symbol"], bars["rev"], bars["volume"] = 1, [0, 1, 2], 100
    assert said(bars) == said(bars[1:])
    assert said(bars) != said(bars[:2])
    assert said(bars[:1]) == {}


def test_a_log_has_the_hash_of_what_was_appended_to_it(tmp_path: Path) -> None:
    symbols = SymbolTable(8)
    rows = market(random.Random(9), symbols)
    rows["seq"], rows["epoch"], rows["position"] = 1, 1, np.arange(rows.size) + 1
    log = Journal(tmp_path, JournalSettings(""), SystemClock(), 1)
    data, ends = codec.lay_out(codec.encode(rows, symbols))
    assert append_all(log.state, data, ends, 0, 1, 1, 1) == rows.size
    log.close()
    digest = Digest(symbols, ("nbbo",))
    digest.add(rows)
    assert of_log(tmp_path, ("nbbo",)) == digest.hashes()
    digest = Digest(symbols, ("nbbo",))
    digest.add(rows[10:20])
    assert of_log(tmp_path, ("nbbo",), 11, 20) == digest.hashes()
    assert set(CHANNELS) >= set(digest.hashes())
