"""Quotes a second through the composite, beside a random walk over the same rows and books: the memory limit.

The walk reads each quote and the symbol's best, writes the venue's slot and decides nothing. Three streams, each at
random over symbols and 16 venues: in `quiet` no quote reaches the best, in `sticky` a venue keeps its prices and
changes sizes, in `storm` every quote is new. The node's step is timed whole, batch by batch, in turns with the walk.

Run: python benchmarks/bench_nbbo.py
"""

from typing import Any

import numpy as np
from machine import best_seconds, describe

from fabric.compiled import lean_kernel
from fabric.records import EVENT, KIND_QUOTE, PRICE_UNIT, QUOTE, Rows, empty, pack
from nodes.nbbo import Nbbo

VENUES = "ABCHJKLMNPQTUVXY"
SYMBOLS = (500, 5_000, 50_000)
BATCH, BATCHES, ROUNDS = 8_192, 32, 12
CENT = PRICE_UNIT // 100


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
        quoted[symbol, slot]["arrival"] = i
    return total


def storm(symbols: int, rng: np.random.Generator) -> Rows:
    """Every quote has new prices, a few cents from the middle, and new sizes."""
    quotes = empty(BATCH * BATCHES, QUOTE, KIND_QUOTE)
    quotes["symbol"] = rng.integers(1, symbols, quotes.size)
    quotes["venue"] = np.frombuffer(VENUES.encode(), np.uint8)[rng.integers(0, len(VENUES), quotes.size)]
    quotes["bid_px"] = 100 * PRICE_UNIT - rng.geometric(0.1, quotes.size) * CENT
    quotes["ask_px"] = 100 * PRICE_UNIT + rng.geometric(0.1, quotes.size) * CENT
    quotes["bid_size"], quotes["ask_size"] = rng.integers(1, 20, (2, quotes.size)) * 100
    quotes["condition"] = pack("R")
    quotes["event_ns"] = np.arange(quotes.size)
    return quotes


def sticky(symbols: int, rng: np.random.Generator) -> Rows:
    """A venue keeps its prices in a symbol; one quote in three has another bid size."""
    quotes = storm(symbols, rng)
    venue_of_symbol = quotes["symbol"] * 32 + quotes["venue"] - ord("A")
    for name in ("bid_px", "ask_px", "bid_size", "ask_size"):
        kept = quotes[name][rng.integers(0, quotes.size, 32 * symbols)]
        changes = rng.random(quotes.size) < (1 / 3 if name == "bid_size" else 0)
        quotes[name] = np.where(changes, quotes[name], kept[venue_of_symbol])
    return quotes


def quiet(symbols: int, rng: np.random.Generator) -> Rows:
    """One venue sets the best of each symbol once; all others quote far from it."""
    quotes = storm(symbols, rng)
    quotes["bid_px"] -= 10 * PRICE_UNIT
    quotes["ask_px"] += 10 * PRICE_UNIT
    quotes["venue"][quotes["venue"] == ord(VENUES[0])] = ord(VENUES[1])
    first = quotes[:symbols]
    first["symbol"], first["venue"] = np.arange(symbols), ord(VENUES[0])
    first["bid_px"], first["ask_px"] = 99 * PRICE_UNIT, 101 * PRICE_UNIT
    return quotes


def main() -> None:
    """Print a line for each stream and number of symbols."""
    print(describe())
    print(f"{'stream':8} {'symbols':>8} {'quotes/s':>12} {'walk/s':>12} {'ratio':>6} {'changes':>8}")
    for make in (quiet, sticky, storm):
        for symbols in SYMBOLS:
            rows = make(symbols, np.random.default_rng(1)).view(EVENT)
            batches = [rows[i : i + BATCH] for i in range(0, rows.size, BATCH)]
            quotes = [batch.view(QUOTE) for batch in batches]
            node = Nbbo(symbols, VENUES, (), BATCH)
            quoted, tops, slots = node.book.quoted.copy(), node.book.tops, node.market.slots
            ours, limit = best_seconds(
                BATCHES,
                ROUNDS,
                lambda i: node.step(batches[i], 0),  # noqa: B023
                lambda i: walk(quoted, tops, slots, quotes[i]),  # noqa: B023
            )
            counted = node.counters()
            print(
                f"{make.__name__:8} {symbols:8,} {rows.size / ours:12,.0f} {rows.size / limit:12,.0f}"
                f" {limit / ours:6.2f} {counted['changes'] / counted['quotes']:8.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
