"""Trades a second through the candles, beside a random walk over the same rows and bars (the memory limit) and beside
the same minute as a query of Polars and of DuckDB (on one thread each, the trades ready in their own columns).

The walk reads each trade, writes three fields of its symbol's minute and decides nothing. Trades are at random over
the symbols and in the order of time; the passes follow each other within one minute. The node's step is timed whole,
batch by batch, in turns with the walk; before either, the batch is written into one array that is used again and
again, as an inbox does. The queries get all batches at once, which suits them, and make open, high, low,
close, volume, count and average once; the node keeps its bars ready after every batch. Closing is timed apart: rows a
second of the step in which a minute, its fifth and its hour end for all symbols at once. Seconds are of the processor.

Run: pip install '.[bench]'; python benchmarks/bench_candles.py
"""

import os
import time
from collections.abc import Callable
from typing import Any

os.environ["POLARS_MAX_THREADS"] = "1"  # read when it is imported

import duckdb
import numpy as np
import polars as pl
from machine import describe

from fabric.clock import SECOND_NS, ManualClock
from fabric.compiled import lean_kernel
from fabric.records import EVENT, KIND_TRADE, PRICE_UNIT, TRADE, Rows, empty, pack
from nodes.candles import Candles

SYMBOLS = (500, 5_000, 50_000)
BATCH, BATCHES, ROUNDS = 8_192, 64, 8
HOUR_NS = 3_600 * SECOND_NS
START_NS = 490_000 * HOUR_NS
PASS_NS = 60 * SECOND_NS // (ROUNDS + 1)
QUERY = """
    select symbol, arg_min(price, event_ns) filter (priced) as open, max(price) filter (priced) as high,
    min(price) filter (priced) as low, arg_max(price, event_ns) filter (priced) as close, sum(size) as volume,
    count(*) as trades, sum(price::hugeint * size) filter (priced) // sum(size) filter (priced) as average
    from (select *, condition <> 'I' as priced from trades) group by symbol, event_ns // 60000000000
"""


@lean_kernel
def walk(minutes: Any, trades: Any) -> int:
    """Touch what a trade must touch."""
    last = 0
    for i in range(trades.size):
        minute = minutes[trades[i]["symbol"]]
        minute["volume"] += trades[i]["size"]
        minute["close_px"] = trades[i]["price"]
        minute["latest_ns"] = trades[i]["event_ns"]
        last = trades[i]["condition"]
    return last


def stream(symbols: int, rng: np.random.Generator) -> Rows:
    """A part of a minute of trades: mostly regular and intermarket sweeps, a third odd lots."""
    trades = empty(BATCH * BATCHES, TRADE, KIND_TRADE)
    trades["symbol"] = rng.integers(1, symbols, trades.size)
    trades["venue"] = ord("V")
    trades["price"] = 100 * PRICE_UNIT + rng.integers(-50, 50, trades.size) * (PRICE_UNIT // 100)
    trades["size"] = rng.integers(1, 500, trades.size)
    trades["condition"] = rng.choice([pack("@"), pack("F"), pack("I")], trades.size)
    trades["trade_id"] = trades["exchange_seq"] = np.arange(trades.size)
    trades["event_ns"] = START_NS + 1 + np.arange(trades.size) * PASS_NS // trades.size
    return trades


def seconds(work: Callable[[], object]) -> float:
    """Of the processor."""
    start = time.process_time()
    work()
    return time.process_time() - start


def by_polars(frame: pl.DataFrame) -> pl.DataFrame:
    """The minute, by expressions."""
    priced = pl.col("condition") != "I"
    price, size = pl.col("price").filter(priced), pl.col("size").filter(priced)
    bars = frame.lazy().group_by("symbol", pl.col("event_ns") // (60 * SECOND_NS))
    return bars.agg(
        price.sort_by(pl.col("event_ns").filter(priced)).first().alias("open"),
        price.max().alias("high"),
        price.min().alias("low"),
        price.sort_by(pl.col("event_ns").filter(priced)).last().alias("close"),
        pl.col("size").sum().alias("volume"),
        pl.len().alias("trades"),
        ((price.cast(pl.Float64) * size).sum() / size.sum()).alias("average"),
    ).collect()


def main() -> None:
    """Print a line for each number of symbols."""
    print(describe())
    print(
        f"{'symbols':>8} {'trades/s':>12} {'walk/s':>12} {'ratio':>6} {'polars/s':>11} {'duckdb/s':>11}"
        f" {'closing rows/s':>15}"
    )
    for symbols in SYMBOLS:
        trades = stream(symbols, np.random.default_rng(1))
        batches = [trades[i : i + BATCH].view(EVENT) for i in range(0, trades.size, BATCH)]
        inbox = np.empty(BATCH, EVENT)
        named = inbox.view(TRADE)
        node = Candles(symbols, (), BATCH, ManualClock(), event_time=True)
        minutes = np.zeros(symbols, node.bars.minutes.dtype)
        best = np.full((2, BATCHES), np.inf)
        for turn in range(ROUNDS + 1):
            for i, batch in enumerate(batches):
                inbox[:] = batch
                ours = seconds(lambda: node.step(inbox, 0))  # noqa: B023  (called within its turn)
                inbox[:] = batch
                limit = seconds(lambda: walk(minutes, named))  # noqa: B023  (called within its turn)
                if turn:  # the first meets each symbol for the first time
                    best[:, i] = np.minimum(best[:, i], (ours, limit))
            trades["event_ns"] += PASS_NS
        trades_s, walk_s = trades.size / best.sum(axis=1)
        columns = {name: trades[name].copy() for name in ("symbol", "event_ns", "price", "size")}
        columns["event_ns"] -= (ROUNDS + 1) * PASS_NS
        texts = pl.Series(trades["condition"]).replace_strict([pack(c) for c in "@FI"], ["@", "F", "I"])
        frame = pl.DataFrame(columns | {"condition": texts})
        columns["condition"] = frame["condition"].to_numpy().astype(object)
        with duckdb.connect(config={"threads": 1}) as base:
            base.execute("create table trades as select * from columns")
            polars_s = trades.size / min(seconds(lambda: by_polars(frame)) for _ in range(5))  # noqa: B023
            duckdb_s = trades.size / min(seconds(lambda: base.execute(QUERY).fetchnumpy()) for _ in range(5))
        rows = 0

        def close() -> None:
            nonlocal rows
            rows += node.step(np.empty(0, EVENT), START_NS + HOUR_NS + SECOND_NS).size  # noqa: B023
            while (more := node.step(np.empty(0, EVENT), 0).size) > 0:  # noqa: B023
                rows += more

        closing = seconds(close)
        print(
            f"{symbols:8,} {trades_s:12,.0f} {walk_s:12,.0f} {trades_s / walk_s:6.2f} {polars_s:11,.0f}"
            f" {duckdb_s:11,.0f} {rows / closing:15,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
