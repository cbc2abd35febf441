"""The history: candles written a second, and how long a chart's query takes, beside bare SQLite.

2,000,000 one-minute candles of 5,000 symbols are written as they close, minute by minute, through `History.write`;
beside it the same rows by a bare `executemany` without the rule of revisions. Then queries as a chart makes them, 400
candles of a random symbol up to a random instant, through `History.read`; beside it the same by bare SQL. Then a tenth
of it through a PostgreSQL of its own on this machine, which does not sync, and a day as a Parquet file, read for one
symbol as research does.

Run: python benchmarks/bench_history.py [--rows 2000000] [--queries 5000]
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

import numpy as np
from machine import describe, percentiles

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import postgres_server  # noqa: E402  (after the path is set)
from fabric import history_parquet  # noqa: E402  (as above)
from fabric.history import History, open_history  # noqa: E402  (as above)
from fabric.records import BAR, KIND_BAR_1M, PRICE_UNIT, Rows, empty  # noqa: E402  (as above)

SYMBOLS = 5_000
MINUTE_NS = 60 * 10**9
START_NS = 1_767_366_000 * 10**9
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
    options = parser.parse_args()
    minutes = max(1, options.rows // SYMBOLS)
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        store = open_history(str(path))
        spent, cpu = written(store, minutes)
        count = minutes * SYMBOLS
        sample = max(1, minutes // 8)
        plain = bare(Path(folder) / "bare.db", sample) / sample * minutes
        print(f"written: {count:,} candles, {count / spent:,.0f} a second, {cpu / count * 1e6:.1f} us of a core each, "
              f"{store.size_bytes() / count:.0f} bytes each; a bare insert {count / plain:,.0f} a second: "
              f"ratio {plain / spent:.2f}")  # fmt: skip
        reader = open_history(str(path), read_only=True)
        asked = questions(options.queries, minutes)
        ours = queries(asked, lambda name, end: reader.read(name, "1m", 0, end, CANDLES))
        show(f"chart query of {CANDLES}", ours)
        show("the same by bare SQL", queries(asked, plain_query(path)))
        reader.close()
        fewer = max(1, minutes // 10)
        parquet(store, Path(folder) / "archive")
        store.close()
    if postgres_server.find_binaries() is None:
        print("PostgreSQL: not installed")
        return
    with postgres_server.server() as server:
        postgres = open_history(server.url)
        spent, cpu = written(postgres, fewer)
        count = fewer * SYMBOLS
        print(f"PostgreSQL: {count:,} candles, {count / spent:,.0f} a second, {cpu / count * 1e6:.1f} us of a core, "
              f"{postgres.size_bytes() / count:.0f} bytes each")  # fmt: skip
        some = questions(options.queries // 5, fewer)
        show("PostgreSQL: chart query", queries(some, lambda name, end: postgres.read(name, "1m", 0, end, CANDLES)))
        postgres.close()


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


def parquet(store: History, folder: Path) -> None:
    """The first day of a tenth of the symbols to its file, and one of them read from it."""
    from pyarrow import parquet as files

    archive = history_parquet.Archive(str(folder))
    day_ns = START_NS // history_parquet.DAY_NS * history_parquet.DAY_NS
    begun = time.perf_counter()
    archive.write(store, NAMES[: SYMBOLS // 10], "1m", day_ns)
    spent = time.perf_counter() - begun
    path = archive.path("1m", day_ns)

    def read(name: str) -> object:
        return files.read_table(path, filters=[("symbol", "=", name)])

    count = files.read_metadata(path).num_rows
    size = path.stat().st_size / count
    print(f"Parquet: {count:,} candles of a day, {count / spent:,.0f} a second, {size:.1f} bytes each")
    names = [(name, 0) for name in NAMES[: SYMBOLS // 10 : 10]]
    show(
        "Parquet: a symbol's day",
        queries(names, lambda name, _: files.read_table(path, filters=[("symbol", "=", name)])),
    )


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
