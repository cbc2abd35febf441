"""Trades a second through the candles, beside a random walk over the same rows and bars: the memory limit.

The walk reads each trade, writes three fields of its symbol's minute and decides nothing. Trades are at random over
the symbols and in the order of time, the same minute in each pass. The node's
step is timed whole, batch by batch, against the walk in turns; closing is timed apart: rows a second of
the step in which a minute, its fifth and its hour end for all symbols at once.

Run: python benchmarks/bench_candles.py
"""

import time
from typing import Any

import numpy as np
from machine import best_seconds, describe

from fabric.clock import SECOND_NS, ManualClock
from fabric.compiled import lean_kernel
from fabric.records import EVENT, KIND_TRADE, PRICE_UNIT, TRADE, Rows, empty, pack
from nodes.candles import Candles

SYMBOLS = (500, 5_000, 50_000)
BATCH, BATCHES, ROUNDS = 8_192, 32, 12
HOUR_NS = 3_600 * SECOND_NS
START_NS = 490_000 * HOUR_NS


@lean_kernel
def walk(minutes: Any, trades: Any) -> int:
    """Touch what a trade must touch."""
    last = 0
    for i in range(trades.size):
        minute = minutes[trades[i]["symbol"]]
        minute["volume"] += trades[i]["size"]
        minute["close_px"] = trades[i]["price"]
        minute["close_ns"] = trades[i]["event_ns"]
        last = trades[i]["condition"]
    return last


def stream(symbols: int, rng: np.random.Generator) -> Rows:
    """A minute of trades: mostly regular and intermarket sweeps, a third odd lots."""
    trades = empty(BATCH * BATCHES, TRADE, KIND_TRADE)
    trades["symbol"] = rng.integers(1, symbols, trades.size)
    trades["venue"] = ord("V")
    trades["price"] = 100 * PRICE_UNIT + rng.integers(-50, 50, trades.size) * (PRICE_UNIT // 100)
    trades["size"] = rng.integers(1, 500, trades.size)
    trades["condition"] = rng.choice([0, pack("F"), pack("I")], trades.size)
    trades["exchange_seq"] = np.arange(trades.size)
    trades["event_ns"] = START_NS + np.arange(trades.size) * (60 * SECOND_NS // trades.size)
    return trades


def main() -> None:
    """Print a line for each number of symbols."""
    print(describe())
    print(f"{'symbols':>8} {'trades/s':>12} {'walk/s':>12} {'ratio':>6} {'closing rows/s':>15}")
    for symbols in SYMBOLS:
        trades = stream(symbols, np.random.default_rng(1))
        batches = [trades[i : i + BATCH].view(EVENT) for i in range(0, trades.size, BATCH)]
        named = [batch.view(TRADE) for batch in batches]
        node = Candles(symbols, (), BATCH, ManualClock(), event_time=True)
        minutes = node.bars.minutes[0].copy()

        ours, limit = best_seconds(
            BATCHES,
            ROUNDS,
            lambda i: node.step(batches[i], 0),  # noqa: B023
            lambda i: walk(minutes, named[i]),  # noqa: B023
        )
        start = time.perf_counter()
        rows = node.step(np.empty(0, EVENT), START_NS + HOUR_NS + SECOND_NS).size
        while (more := node.step(np.empty(0, EVENT), 0).size) > 0:
            rows += more
        closing = rows / (time.perf_counter() - start)
        print(
            f"{symbols:8,} {trades.size / ours:12,.0f} {trades.size / limit:12,.0f}"
            f" {limit / ours:6.2f} {closing:15,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
