"""Quotes a second through the composite, beside a random walk over the same rows and books: the memory limit.

The walk reads each quote and the symbol's best, writes the venue's slot and decides nothing. Three streams, each at
random over symbols and 4 or 16 venues: in `quiet` no quote reaches the best, in `sticky` a venue keeps its prices and
changes sizes, in `storm` every quote is new. A fourth, `taq`, is the recorded day of twelve venues in
../shared/data/taq_nbbo: each symbol takes a stretch of it, quote by quote, in turns at random. The node's step is timed
whole, batch by batch, in turns with the walk; before either, the batch is written into one array that is used again and
again, as an inbox does.

Run: python benchmarks/bench_nbbo.py
"""

import csv
import gzip
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from machine import best_seconds, describe

from fabric.compiled import lean_kernel
from fabric.records import EVENT, KIND_QUOTE, PRICE_UNIT, QUOTE, Rows, empty, pack
from nodes.nbbo import Nbbo
from nodes.nbbo_kernel import SLOTS

VENUES = {4: "NPQV", 16: "ABCHJKLMNPQTUVXY"}
SYMBOLS = (500, 5_000, 50_000)
BATCH, BATCHES, ROUNDS = 8_192, 32, 12
CENT = PRICE_UNIT // 100
RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "taq_nbbo" / "quotes_2018-01-02.csv.gz"


@lean_kernel
def walk(quoted: Any, tops: Any, slots: Any, quotes: Any) -> int:
    """Touch what a quote must touch."""
    total = 0
    for i in range(quotes.size):
        quote = quotes[i]
        symbol = quote["symbol"]
        slot = slots[quote["venue"] & 0xFF]
        total += tops[symbol]["rank"][0] ^ tops[symbol]["rank"][1]
        quoted[symbol, slot]["rank"][0] = quote["bid_px"]
        quoted[symbol, slot]["rank"][1] = quote["ask_px"]
        quoted[symbol, slot]["size"][0] = quote["bid_size"]
        quoted[symbol, slot]["size"][1] = quote["ask_size"]
        quoted[symbol, slot]["stamp"] = i
    return total


def storm(symbols: int, venues: str, rng: np.random.Generator) -> Rows:
    """Every quote has new prices, a few cents from the middle, and new sizes."""
    quotes = empty(BATCH * BATCHES, QUOTE, KIND_QUOTE)
    quotes["symbol"] = rng.integers(1, symbols, quotes.size)
    quotes["venue"] = np.frombuffer(venues.encode(), np.uint8)[rng.integers(0, len(venues), quotes.size)]
    quotes["bid_px"] = 100 * PRICE_UNIT - rng.geometric(0.1, quotes.size) * CENT
    quotes["ask_px"] = 100 * PRICE_UNIT + rng.geometric(0.1, quotes.size) * CENT
    quotes["bid_size"], quotes["ask_size"] = rng.integers(1, 20, (2, quotes.size)) * 100
    quotes["condition"], quotes["tape"] = pack("R"), pack("A")
    quotes["event_ns"] = np.arange(quotes.size)
    return quotes


def sticky(symbols: int, venues: str, rng: np.random.Generator) -> Rows:
    """A venue keeps its prices in a symbol; one quote in three has another bid size."""
    quotes = storm(symbols, venues, rng)
    venue_of_symbol = quotes["symbol"] * 32 + quotes["venue"] - ord("A")
    for name in ("bid_px", "ask_px", "bid_size", "ask_size"):
        kept = quotes[name][rng.integers(0, quotes.size, 32 * symbols)]
        changes = rng.random(quotes.size) < (1 / 3 if name == "bid_size" else 0)
        quotes[name] = np.where(changes, quotes[name], kept[venue_of_symbol])
    return quotes


def quiet(symbols: int, venues: str, rng: np.random.Generator) -> Rows:
    """One venue sets the best of each symbol once; all others quote far from it."""
    quotes = storm(symbols, venues, rng)
    quotes["bid_px"] -= 10 * PRICE_UNIT
    quotes["ask_px"] += 10 * PRICE_UNIT
    quotes["venue"][quotes["venue"] == ord(venues[0])] = ord(venues[1])
    first = quotes[:symbols]
    first["symbol"], first["venue"] = np.arange(symbols), ord(venues[0])
    first["bid_px"], first["ask_px"] = 99 * PRICE_UNIT, 101 * PRICE_UNIT
    return quotes


@cache
def recorded() -> Rows:
    """The quotes of 2018-01-02 in one stock, in the order of the tape."""
    with gzip.open(RECORDED, "rt") as lines:
        read = list(csv.DictReader(lines))
    quotes = empty(len(read), QUOTE, KIND_QUOTE)
    quotes["venue"] = [ord(line["ex"]) for line in read]
    quotes["condition"], quotes["tape"] = [pack(line["qu_cond"]) for line in read], pack("A")
    for side in ("bid", "ask"):
        quotes[f"{side}_px"] = [round(float(line[side]) * 100) * CENT for line in read]
        quotes[f"{side}_size"] = [int(line[f"{side}_size"]) * 100 for line in read]
    return quotes


def taq(symbols: int, venues: str, rng: np.random.Generator) -> Rows:
    """Each symbol takes a stretch of the recorded day, as long as its turns are many."""
    assert set(recorded()["venue"].tolist()) == set(map(ord, venues))
    turns = rng.integers(1, symbols, BATCH * BATCHES)
    order = np.argsort(turns, kind="stable")
    first = np.searchsorted(turns[order], turns[order])
    nth = np.empty(turns.size, np.int64)
    nth[order] = np.arange(turns.size) - first
    quotes = recorded()[(rng.integers(0, recorded().size, symbols)[turns] + nth) % recorded().size]
    quotes["symbol"], quotes["event_ns"] = turns, np.arange(quotes.size)
    return quotes


def main() -> None:
    """Print a line for each stream, number of venues and number of symbols."""
    print(describe())
    print(f"{'stream':8} {'venues':>6} {'symbols':>8} {'quotes/s':>12} {'walk/s':>12} {'ratio':>6} {'changes':>8}")
    for make in (quiet, sticky, storm):
        for count, venues in VENUES.items():
            for symbols in SYMBOLS:
                measure(
                    make.__name__, venues, symbols, make(symbols, venues, np.random.default_rng(1)).view(EVENT), count
                )
    if not RECORDED.exists():
        print(f"taq: not measured, there is no {RECORDED}")
        return
    for symbols in SYMBOLS:
        venues = "NPBTYZKXJVAM"
        measure("taq", venues, symbols, taq(symbols, venues, np.random.default_rng(1)).view(EVENT), len(venues))


def measure(name: str, venues: str, symbols: int, rows: Rows, count: int) -> None:
    """Print one line."""
    batches = [rows[i : i + BATCH] for i in range(0, rows.size, BATCH)]
    inbox = np.empty(BATCH, EVENT)
    quotes = inbox.view(QUOTE)
    node = Nbbo(symbols, venues, (), BATCH, channels=("nbbo", "bolo", "why"))
    quoted, tops, slots = node.book.quoted.copy(), node.book.tops, node.market.codes[SLOTS]

    def arrive(i: int) -> None:
        inbox[:] = batches[i]

    def step(_: int) -> None:
        node.step(inbox, 0)

    def touch(_: int) -> None:
        walk(quoted, tops, slots, quotes)

    _, ours, _, limit = best_seconds(BATCHES, ROUNDS, arrive, step, arrive, touch)
    counted = node.counters()
    print(
        f"{name:8} {count:6} {symbols:8,} {rows.size / ours:12,.0f} {rows.size / limit:12,.0f}"
        f" {limit / ours:6.2f} {counted['changes'] / counted['quotes']:8.1%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
