"""The history's node: what waits while the store is away, in which bound, and that nothing is lost or doubled."""

import logging
import random
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from candle_rows import MINUTE_NS, START_NS, candle, trade
from fabric.errors import StoreError
from fabric.history import History, open_history
from fabric.history_parquet import DAY_NS, Archive
from fabric.node import Runtime
from fabric.records import EVENT, Rows
from fabric.symbols import SymbolTable
from fabric.topology import HistorySettings
from nodes.history import Buffer, Writer

SETTINGS = HistorySettings("", (("1m", 60 * MINUTE_NS),), rows_max=1_000)
SECOND_NS = 10**9
FOR_EVER = (0, 2**63 - 1, 10_000)


class Store:
    """A real store that the test can take away."""

    def __init__(self, store: History) -> None:
        self.store = store
        self.name = store.name
        self.away = False
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        if self.away:
            raise StoreError("the store is away")
        return getattr(self.store, name)

    def close(self) -> None:
        self.store.close()


class Rig:
    """A writer with its clock in the test's hands."""

    def __init__(self, path: Path, rows_max: int = 1_000) -> None:
        self.symbols = SymbolTable(64)
        self.store = Store(open_history(str(path)))
        self.buffer = Buffer(rows_max)
        runtime = cast(Runtime, SimpleNamespace(symbols=self.symbols, log=logging.getLogger("history")))
        self.writer = Writer(runtime, cast(History, self.store), self.buffer, SETTINGS)
        self.monotonic_ns = 0
        self.position = 0

    def take(self, *rows: Rows, name: str = "AAPL") -> None:
        both = np.concatenate(rows)
        both["symbol"] = self.symbols.intern(name)
        self.position += both.size
        self.writer.take(both.view(EVENT), {"candles-1": (1, self.position)})

    def turn(self) -> None:
        """Let the thread do one turn's work, and account for it."""
        self.monotonic_ns += 3 * SECOND_NS
        self.writer.turn(self.monotonic_ns, START_NS)
        deadline = time.monotonic() + 5
        while self.writer._work is not None and not self.writer._work.done():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        self.writer._settle()

    def minutes(self, name: str = "AAPL") -> list[int]:
        found = self.store.store.read(name, "1m", *FOR_EVER)
        return [(one[0] - START_NS) // MINUTE_NS for one in found]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "history.db")
    yield made
    made.writer.close()


def test_closed_candles_are_written_with_their_positions(rig: Rig) -> None:
    rig.take(candle(0), candle(1, rev=0))
    rig.turn()
    assert rig.minutes() == [0]
    assert rig.store.store.positions() == {"candles-1": (1, 2)}
    assert rig.writer.counters()["written"] == 1


def test_while_the_store_is_away_candles_wait_and_then_are_there_once(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rig.take(candle(0))
    rig.turn()
    rig.store.away = True
    for at in range(1, 60):
        rig.take(candle(at), candle(at - 1, rev=2))
        rig.turn()
    assert rig.minutes() == [0]
    counters = rig.writer.counters()
    assert (counters["waiting"], counters["lost_candles"], counters["store"]) == (118, 0, "the store is away")
    rig.store.away = False
    rig.turn()
    assert rig.minutes() == list(range(60))
    assert rig.writer.counters()["waiting"] == 0
    assert rig.store.store.positions() == {"candles-1": (1, 119)}
    told = [record.message for record in caplog.records]
    assert told == ["history: the store is away; candles wait", "history: works again, 0 candles waited"]


def test_trades_wait_and_are_written_with_the_candles_and_forgotten_in_their_own_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "history.db")
    rig.store.away = True
    rig.take(candle(0).view(EVENT), trade(1).view(EVENT), trade(2, seq=2).view(EVENT))
    rig.turn()
    assert rig.writer.counters()["waiting"] == 3
    rig.store.away = False
    rig.turn()
    assert (rig.writer.counters()["written"], rig.writer.counters()["ticks"]) == (3, 2)
    assert rig.minutes() == [0]
    assert len(rig.store.store.ticks("AAPL", *FOR_EVER)) == 2
    rig.writer._keep_ns = {"tick": -2 * SECOND_NS}
    rig.monotonic_ns += 3_600 * SECOND_NS
    rig.turn()
    assert [tick[3] for tick in rig.store.store.ticks("AAPL", *FOR_EVER)] == [2]
    rig.writer.close()


def test_what_does_not_fit_pushes_out_the_oldest_and_is_counted(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "history.db", rows_max=10)
    rig.store.away = True
    for at in range(25):
        rig.take(candle(at))
    assert (rig.writer.counters()["waiting"], rig.writer.counters()["lost_candles"]) == (10, 15)
    rig.store.away = False
    rig.turn()
    assert rig.minutes() == list(range(15, 25))
    rig.writer.close()


def test_after_a_crash_what_was_not_written_comes_again_and_nothing_twice(tmp_path: Path) -> None:
    """The position says where the log goes on: here it is played from there, and from before."""
    rows = [candle(at, rev=rev) for at in range(30) for rev in (1, 2)]
    first = Rig(tmp_path / "history.db")
    first.take(*rows[:20])
    first.turn()
    first.take(*rows[20:40])  # in the buffer when it is killed
    first.writer._thread.shutdown()
    first.store.close()
    second = Rig(tmp_path / "history.db")
    position = second.writer.positions()["candles-1"][1]
    assert position == 20
    second.take(*rows[position - 5 :])
    second.turn()
    assert second.minutes() == list(range(30))
    assert {one[8] for one in second.store.store.read("AAPL", "1m", *FOR_EVER)} == {2}
    second.writer.close()


def test_a_store_away_at_the_start_is_no_reason_to_end(rig: Rig) -> None:
    rig.store.away = True
    assert rig.writer.positions() == {}


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "history.db")
    rig.take(candle(7))
    rig.writer.close()
    found = sqlite3.connect(tmp_path / "history.db")
    assert found.execute("SELECT count(*) FROM candle").fetchone() == (1,)
    found.close()


def test_old_candles_are_forgotten_once_an_hour(rig: Rig) -> None:
    rig.take(candle(-100), candle(-50), candle(0))
    rig.turn()
    assert rig.minutes() == [-50, 0]
    assert rig.writer.counters()["forgotten"] == 1


def test_the_buffer_gives_parts_in_order_and_keeps_what_was_not_taken() -> None:
    buffer = Buffer(100)
    chance = random.Random(1)
    put: list[int] = []
    taken: list[int] = []
    for number in range(200):
        positions: Mapping[str, tuple[int, int]] = {"candles-1": (1, number)}
        rows = np.concatenate([candle(number)] * chance.randint(0, 3) or [candle(0)[:0]])
        buffer.put(rows, positions)
        put += [number] * rows.size
        if chance.random() < 0.6:
            parts, behind = buffer.first(5)
            if chance.random() < 0.7:
                buffer.drop(parts)
                taken += [int(at - START_NS) // MINUTE_NS for part in parts for at in part["event_ns"].tolist()]
                assert behind.get("candles-1", (1, 0))[1] >= (taken[-1] if taken else 0)
    parts, _ = buffer.first(1_000)
    rest = [int(at - START_NS) // MINUTE_NS for part in parts for at in part["event_ns"].tolist()]
    assert taken + rest == put
    assert buffer.lost == 0


def test_a_day_that_is_over_becomes_a_file_of_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    store = open_history(str(tmp_path / "history.db"))
    day_ns = START_NS // DAY_NS * DAY_NS
    rows = np.concatenate([candle(at, close_px=-(2**63) if at == 1 else 103 * 10**9) for at in range(3)])
    store.write(["AAPL"] * 3, rows)
    archive = Archive(str(tmp_path / "archive"))
    assert archive.catch_up(store, store.symbols(), day_ns + DAY_NS + 3_600 * SECOND_NS) == 0, "its day is not settled"
    assert archive.catch_up(store, store.symbols(), day_ns + DAY_NS + 3 * 3_600 * SECOND_NS) == 1
    assert archive.catch_up(store, store.symbols(), day_ns + DAY_NS + 3 * 3_600 * SECOND_NS) == 0
    found = parquet.read_table(tmp_path / "archive" / "1m" / "2026-01-02.parquet").to_pydict()
    assert found["symbol"] == ["AAPL"] * 3
    assert found["close"] == [103.0, None, 103.0]
    assert [int(at.timestamp()) for at in found["start"]] == [
        (START_NS + at * MINUTE_NS) // SECOND_NS for at in range(3)
    ]
    store.close()
