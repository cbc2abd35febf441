"""The history: candles written a second, and how long a chart's query takes, beside bare SQLite.

2,000,000 one-minute candles of 5,000 symbols are written as they close, minute by minute, through `History.write`;
beside it the same rows by a bare `executemany` without the rule of revisions. Then queries as a chart makes them, 400
candles of a random symbol up to a random instant, through `History.read`; beside it the same by bare SQL. The same
through a PostgreSQL of its own on this machine, which does not sync. And as many candles as the Parquet file of a day,
read for one symbol at a time as research does.

Run: python benchmarks/bench_history.py [--rows 2000000] [--queries 5000] [--store sqlite|postgres|parquet]
"""

import argparse
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import cast

import numpy as np
from machine import describe, percentiles

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import postgres_server  # noqa: E402  (after the path is set)
from fabric import history_parquet  # noqa: E402  (as above)
from fabric.history import Candle, History, open_history  # noqa: E402  (as above)
from fabric.records import BAR, KIND_BAR_1M, PRICE_UNIT, Rows, empty  # noqa: E402  (as above)

SYMBOLS = 5_000
MINUTE_NS = 60 * 10**9
START_NS = 1_767_366_000 * 10**9
DAY_START_NS = START_NS // history_parquet.DAY_NS * history_parquet.DAY_NS
CANDLES = 400
NAMES = [f"S{number:04}" for number in range(SYMBOLS)]


def minute(number: int) -> Rows:
    """The candles of all symbols that close with one minute."""
    rows = empty(SYMBOLS, BAR, KIND_BAR_1M)
    rows["event_ns"], rows["epoch"], rows["rev"], rows["final"], rows["gap"] = START_NS + number * MINUTE_NS, 1, 1, 0, 0
    for place, price in enumerate(("open_px", "high_px", "low_px", "close_px", "vwap_px")):
        rows[price] = (100 + place + np.arange(SYMBOLS) % 50) * PRICE_UNIT
    rows["volume"], rows["trades"], rows["last_ns"] = 700, 7, rows["event_ns"]
    return rows


def bare(path: Path, minutes: int) -> float:
    """Seconds for as many rows of the same columns, inserted plainly in the same transactions."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        names = ", ".join(f"c{place}" for place in range(15))
        key = "PRIMARY KEY (symbol, interval, c0)"
        connection.execute(f"CREATE TABLE t (symbol, interval, {names}, {key}) WITHOUT ROWID")
        sql = f"INSERT INTO t VALUES ({', '.join('?' * 17)})"
        spent = 0.0
        for number in range(minutes):
            start = START_NS + number * MINUTE_NS
            values = [(name, "1m", start, *[185 * PRICE_UNIT] * 5, *[7] * 9) for name in NAMES]
            begun = time.perf_counter()
            connection.execute("BEGIN")
            connection.executemany(sql, values)
            connection.execute("COMMIT")
            spent += time.perf_counter() - begun
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description="The history of candles, written and read")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--queries", type=int, default=5_000)
    parser.add_argument("--store", choices=sorted(STORES), help="only this one, not all one after the other")
    options = parser.parse_args()
    print(describe())
    for name, measure in STORES.items():
        if options.store in (None, name):
            measure(max(1, options.rows // SYMBOLS), options.queries)


def sqlite(minutes: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        store = open_history(str(path))
        spent = fill("SQLite", store, minutes)
        sample = max(1, minutes // 8)
        plain = bare(Path(folder) / "bare.db", sample) / sample * minutes
        rate = minutes * SYMBOLS / plain
        print(f"SQLite: a bare insert {rate:,.0f} a second: ratio {plain / spent:.2f}")
        store.close()
        reader = open_history(str(path), read_only=True)
        asked = questions(count, minutes)
        show("SQLite: chart query", queries(asked, lambda name, end: reader.read(name, "1m", 0, end, CANDLES)))
        show("SQLite: the same by bare SQL", queries(asked, plain_query(path)))
        reader.close()


def postgres(minutes: int, count: int) -> None:
    if postgres_server.find_binaries() is None:
        print("PostgreSQL: not installed")
        return
    with postgres_server.server() as server:
        store = open_history(server.url)
        fill("PostgreSQL", store, minutes)
        asked = questions(count, minutes)
        show("PostgreSQL: chart query", queries(asked, lambda name, end: store.read(name, "1m", 0, end, CANDLES)))
        store.close()


def parquet(minutes: int, count: int) -> None:
    """A day of all symbols as its file, and single ones read from it."""
    from pyarrow import parquet as files

    with tempfile.TemporaryDirectory() as folder:
        archive = history_parquet.Archive(folder)
        begun, used = time.perf_counter(), time.process_time()
        archive.write(cast(History, Day(minutes)), NAMES, "1m", DAY_START_NS)
        spent, cpu = time.perf_counter() - begun, time.process_time() - used
        path = archive.path("1m", DAY_START_NS)
        rows = files.read_metadata(path).num_rows
        print(f"Parquet: {rows:,} of a day, {rows / spent:,.0f} a second, {cpu / rows * 1e6:.1f} us of a core each, "
              f"{path.stat().st_size / rows:.0f} bytes each")  # fmt: skip
        asked = questions(count // 20, minutes)
        show(
            "Parquet: a symbol's day",
            queries(asked, lambda name, _: files.read_table(path, filters=[("symbol", "=", name)])),
        )


class Day:
    """A store that has the day already: what the archive takes is measured without reading it."""

    def __init__(self, minutes: int) -> None:
        chance = np.random.default_rng(1)
        self._prices = (chance.integers(10_000, 20_000, (minutes, 5)) * (PRICE_UNIT // 100)).tolist()
        self._minutes = range(minutes)

    def read(self, symbol: str, interval: str, start_ns: int, *_: int, newest: bool) -> list[Candle]:
        volume = 700 + ord(symbol[-1])
        return [
            (START_NS + at * MINUTE_NS, *prices[:4], volume + at % 97, 7, prices[4], 1, 0, 0)
            for at, prices in zip(self._minutes, self._prices, strict=True)
        ]


STORES = {"sqlite": sqlite, "postgres": postgres, "parquet": parquet}


def fill(name: str, store: History, minutes: int) -> float:
    """Write the candles of so many minutes; return the seconds that took."""
    spent, cpu = written(store, minutes)
    count = minutes * SYMBOLS
    print(f"{name}: {count:,} written, {count / spent:,.0f} a second, {cpu / count * 1e6:.1f} us of a core each, "
          f"{store.size_bytes() / count:.0f} bytes each")  # fmt: skip
    return spent


def written(store: History, minutes: int) -> tuple[float, float]:
    """Seconds for so many minutes of all symbols, and of them seconds of this process on a core."""
    spent = cpu = 0.0
    for number in range(minutes):
        rows = minute(number)
        begun, used = time.perf_counter(), time.process_time()
        store.write(NAMES, rows, {"candles-1": (1, number)})
        spent += time.perf_counter() - begun
        cpu += time.process_time() - used
    return spent, cpu


def questions(count: int, minutes: int) -> list[tuple[str, int]]:
    """Symbols, and instants up to which their chart is asked for."""
    chance = random.Random(1)
    ends = [START_NS + chance.randint(1, minutes) * MINUTE_NS for _ in range(count)]
    return [(chance.choice(NAMES), end) for end in ends]


def plain_query(path: Path) -> Callable[[str, int], object]:
    """The rows as SQLite gives them to whoever asks for all columns."""
    connection = sqlite3.connect(path)
    sql = "SELECT * FROM candle WHERE symbol = ? AND interval = '1m' AND start < ? ORDER BY start DESC LIMIT ?"
    return lambda name, end: connection.execute(sql, (name, end, CANDLES)).fetchall()


def queries(asked: list[tuple[str, int]], query: Callable[[str, int], object]) -> list[float]:
    """Milliseconds of each."""
    taken = []
    for name, end in asked:
        begun = time.perf_counter()
        query(name, end)
        taken.append((time.perf_counter() - begun) * 1_000)
    return taken


def show(name: str, taken: list[float]) -> None:
    p50, p99, p999 = percentiles(taken)
    print(f"{name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, p99.9 {p999:.2f} ms")


if __name__ == "__main__":
    main()
