"""The store of candles, the same on each engine: what stays of two states of one candle, ranges, and its troubles."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import postgres_server
from candle_rows import MINUTE_NS, START_NS, candle, trade
from fabric.errors import StoreError
from fabric.history import TICK, History, lasting, open_history
from fabric.records import EVENT, KIND_BAR_1D, KIND_BAR_5M, KIND_NBBO, NBBO, NULL, PRICE_UNIT, Rows, empty, pack

SECOND_NS = 10**9
FOR_EVER = (0, 2**63 - 1, 1_000)
FIRST = (START_NS, *(price * PRICE_UNIT for price in (100, 101, 102, 103)), 700, 7, 104 * PRICE_UNIT, 1, 0, 0)


def need_postgres() -> None:
    if postgres_server.find_binaries() is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql")


@pytest.fixture(scope="module", autouse=True)
def postgres() -> Iterator[str]:
    """The address of a server for all tests here; none where it is not installed."""
    if postgres_server.find_binaries() is None:
        yield ""
        return
    with postgres_server.server() as made:
        yield made.url


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path, postgres: str) -> Iterator[History]:
    if request.param == "postgres":
        need_postgres()
    made = open_history(postgres if request.param == "postgres" else str(tmp_path / "history.db"))
    with made._connection() as connection:
        connection.execute("DELETE FROM candle")
        connection.execute("DELETE FROM position")
        connection.execute("DELETE FROM tick")
        connection.commit()
    yield made
    made.close()


def write(store: History, *rows: Rows, name: str = "AAPL") -> None:
    both = np.concatenate(rows)
    store.write([name] * both.size, both)


def test_a_candle_comes_back_as_it_was(store: History) -> None:
    write(store, candle(0), candle(1, close_px=NULL, vwap_px=-5))
    first, second = store.read("AAPL", "1m", *FOR_EVER)
    assert first == FIRST
    assert second == (START_NS + MINUTE_NS, *FIRST[1:4], NULL, 700, 7, -5, 1, 0, 0)
    assert store.read("AAPL", "5m", *FOR_EVER) == []
    assert store.read("MSFT", "1m", *FOR_EVER) == []


def test_ranges_hold_their_start_and_not_their_end_and_keep_the_side_that_is_asked_for(store: History) -> None:
    write(store, *(candle(at) for at in range(10)))

    def starts(*arguments: int, newest: bool = True) -> list[int]:
        return [(found[0] - START_NS) // MINUTE_NS for found in store.read("AAPL", "1m", *arguments, newest=newest)]

    assert starts(START_NS + 2 * MINUTE_NS, START_NS + 5 * MINUTE_NS, 100) == [2, 3, 4]
    assert starts(*FOR_EVER[:2], 3) == [7, 8, 9]
    assert starts(*FOR_EVER[:2], 3, newest=False) == [0, 1, 2]
    assert starts(START_NS + 9 * MINUTE_NS, START_NS + 9 * MINUTE_NS, 5) == []


STATES = (
    {"rev": 1, "trades": 5},
    {"rev": 2, "trades": 6},
    {"rev": 2, "trades": 6, "final": 1},
    {"rev": 1, "trades": 1, "gap": 1, "epoch": 2},
    {"rev": 2, "trades": 2, "gap": 1, "epoch": 2},
)


def test_whatever_the_order_the_last_whole_revision_stays(store: History) -> None:
    for number, order in enumerate(itertools.permutations(STATES)):
        write(store, *(candle(0, **state) for state in order), name=f"S{number}")
        ((*_, trades, _vwap, rev, final, gap),) = store.read(f"S{number}", "1m", *FOR_EVER)
        assert (trades, rev, final, gap) == (6, 2, 1, 0), order


def test_written_again_in_parts_and_any_order_nothing_changes(store: History) -> None:
    chance = random.Random(7)
    rows = [
        candle(at, rev=rev, trades=rev, volume=rev, epoch=epoch, gap=epoch - 1)
        for at in range(20) for rev in (1, 2, 3) for epoch in (1, 2)
    ]  # fmt: skip
    write(store, *rows)
    before = store.read("AAPL", "1m", *FOR_EVER)
    for _ in range(5):
        write(store, *chance.sample(rows, 40))
    assert store.read("AAPL", "1m", *FOR_EVER) == before
    assert [found[8] for found in before] == [3] * 20
    assert [found[10] for found in before] == [0] * 20


def test_of_two_lives_with_a_gap_the_one_with_more_trades_stays(store: History) -> None:
    write(store, candle(0, gap=1, trades=4), candle(0, gap=1, trades=9, epoch=2), candle(0, gap=1, trades=5, epoch=3))
    assert store.read("AAPL", "1m", *FOR_EVER)[0][6] == 9


def test_positions_are_kept_with_the_candles(store: History) -> None:
    assert store.positions() == {}
    store.write(["AAPL"], candle(0), {"candles-1": (1, 10), "candles-2": (1, 20)})
    store.write([], candle(0)[:0], {"candles-1": (2, 3)})
    assert store.positions() == {"candles-1": (2, 3), "candles-2": (1, 20)}


def test_what_cannot_be_written_whole_is_not_written_at_all(store: History) -> None:
    with pytest.raises(StoreError):
        store.write(["AAPL", "MSFT"], np.concatenate([candle(0), candle(0, rev=NULL)]), {"candles-1": (1, 1)})
    assert store.symbols() == []
    assert store.positions() == {}


def test_what_is_old_is_forgotten_by_interval(store: History) -> None:
    for name in ("AAPL", "MSFT"):
        write(store, *(candle(at) for at in range(6)), candle(0, kind=KIND_BAR_5M), name=name)
    assert store.symbols() == ["AAPL", "MSFT"]
    assert store.forget("1m", START_NS + 4 * MINUTE_NS, store.symbols()) == 8
    assert [len(store.read(name, "1m", *FOR_EVER)) for name in ("AAPL", "MSFT")] == [2, 2]
    assert len(store.read("AAPL", "5m", *FOR_EVER)) == 1
    assert store.size_bytes() > 0


def test_people_read_a_view_with_prices_and_times(store: History) -> None:
    write(store, candle(0))
    with store._connection() as connection:
        start, *prices = connection.execute("SELECT start, open, high, low, close FROM candles").fetchone()
    assert str(start)[:10] == "2026-01-02"
    assert prices == [100, 101, 102, 103]


def test_ticks_come_back_as_they_were_and_are_there_once(store: History) -> None:
    rows = [
        trade(0), trade(1, seq=2, price=101 * PRICE_UNIT, condition=0, trade_id=NULL), trade(1, seq=3, venue=ord("Q")),
        trade(2, seq=4, mark=pack("x"), original_id=7), trade(2, seq=1, epoch=2),
    ]  # fmt: skip
    both = np.concatenate([*(row.view(EVENT) for row in rows), candle(0).view(EVENT)])
    for order in (both, both[::-1].copy(), both[2:5]):
        store.write(["AAPL"] * order.size, order, {"nyse": (1, 9)})
    first = (START_NS, "N", 1, 1, 100 * PRICE_UNIT, 50, "@I", 7, "", None)
    second = START_NS + SECOND_NS
    found = store.ticks("AAPL", *FOR_EVER)
    assert found[:3] == [
        first, (second, "N", 1, 2, 101 * PRICE_UNIT, 50, "", None, "", None), (second, "Q", 1, 3, *first[4:])
    ]  # fmt: skip
    assert [tick[1:4] + tick[8:] for tick in found[3:]] == [("N", 1, 4, "x", 7), ("N", 2, 1, "", None)]
    assert store.ticks("AAPL", START_NS, START_NS + SECOND_NS, 10) == [first]
    assert store.ticks("AAPL", *FOR_EVER[:2], 1, newest=False) == [first]
    assert store.ticks("AAPL", *FOR_EVER[:2], 1) == found[-1:]
    assert store.ticks("MSFT", *FOR_EVER) == []
    assert len(store.read("AAPL", "1m", *FOR_EVER)) == 1
    with store._connection() as connection:
        time, *rest = connection.execute("SELECT time, venue, price, size FROM ticks ORDER BY time").fetchone()
    assert str(time)[:10] == "2026-01-02"
    assert rest == ["N", 100, 50]


def test_old_ticks_are_forgotten_of_every_symbol_and_candles_are_not(store: History) -> None:
    for name in ("AAPL", "ZVZZT"):
        store.write([name] * 4, np.concatenate([trade(at, seq=at + 1) for at in range(4)]))
    write(store, candle(0))
    assert store.forget(TICK, START_NS + 3 * SECOND_NS) == 6
    assert [len(store.ticks(name, *FOR_EVER)) for name in ("AAPL", "ZVZZT")] == [1, 1]
    assert store.symbols() == ["AAPL"]


def test_only_closed_candles_and_trades_of_symbols_belong_into_it() -> None:
    rows = [candle(0), candle(1, rev=0), candle(2, symbol=0), candle(3, kind=KIND_BAR_1D), trade(5), trade(6, symbol=0)]
    batch = np.concatenate([row.view(EVENT) for row in [*rows, empty(1, NBBO, KIND_NBBO)]])
    kept = lasting(batch)
    assert kept["event_ns"].tolist() == [START_NS, START_NS + 3 * MINUTE_NS, START_NS + 5 * SECOND_NS]


def test_a_file_of_before_there_were_ticks_gets_their_table(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    before = open_history(str(path))
    write(before, candle(0))
    with before._connection() as connection:
        connection.execute("DROP VIEW ticks")
        connection.execute("DROP TABLE tick")
    before.close()
    store = open_history(str(path))
    store.write(["AAPL"], trade(0))
    assert len(store.ticks("AAPL", *FOR_EVER)) == len(store.read("AAPL", "1m", *FOR_EVER)) == 1
    store.close()


def test_sqlite_tells_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "history.db").write_bytes(b"no database at all" * 100)
    broken = open_history(str(tmp_path / "history.db"))
    with pytest.raises(StoreError, match=r"history\.db: file is not a database"):
        broken.positions()
    missing = open_history(str(tmp_path / "none.db"), read_only=True)
    with pytest.raises(StoreError, match="unable to open"):
        missing.read("AAPL", "1m", *FOR_EVER)
    assert not (tmp_path / "none.db").exists()
    made = open_history(str(tmp_path / "later.db"))
    with made._connection() as connection:
        connection.execute("PRAGMA user_version=99")
    made.close()
    with pytest.raises(StoreError, match="schema 99, this build knows 1"):
        open_history(str(tmp_path / "later.db")).positions()


def test_a_file_that_is_gone_is_told_to_readers_and_made_anew_by_the_writer(tmp_path: Path) -> None:
    """Fault 36. Who has the file open would otherwise go on with one that has no name, and lose all in the end."""
    path = tmp_path / "history.db"
    writer, reader = (open_history(str(path), read_only=only) for only in (False, True))
    write(writer, candle(0))
    assert len(reader.read("AAPL", "1m", *FOR_EVER)) == 1
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(StoreError, match="unable to open"):
        reader.read("AAPL", "1m", *FOR_EVER)
    write(writer, candle(1))
    assert [one[0] for one in reader.read("AAPL", "1m", *FOR_EVER)] == [START_NS + MINUTE_NS]
    with open_history(str(path))._connection() as fresh:
        assert fresh.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    writer.close()
    reader.close()


def test_only_the_file_is_removed_and_what_it_left_beside_it_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    writer = open_history(str(path))
    for at in range(3):
        write(writer, candle(at))
    path.unlink()
    write(writer, candle(7))
    writer.close()
    after = open_history(str(path))
    assert [one[0] for one in after.read("AAPL", "1m", *FOR_EVER)] == [START_NS + 7 * MINUTE_NS]
    after.close()


def test_readers_see_whole_transactions_while_one_writes(tmp_path: Path) -> None:
    writer, reader = (open_history(str(tmp_path / "history.db"), read_only=only) for only in (False, True))
    write(writer, candle(0))
    with writer._connection() as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM candle")
        assert len(reader.read("AAPL", "1m", *FOR_EVER)) == 1
        connection.rollback()
    writer.close()
    reader.close()


def test_a_postgres_that_was_stopped_is_found_again() -> None:
    need_postgres()
    with postgres_server.server() as server:
        store = open_history(server.url)
        write(store, candle(0))
        server.stop()
        with pytest.raises(StoreError, match=r"postgresql://127\.0\.0\.1"):
            store.read("AAPL", "1m", *FOR_EVER)
        server.start()
        assert len(store.read("AAPL", "1m", *FOR_EVER)) == 1
        store.close()


def test_the_password_of_an_address_is_in_no_message() -> None:
    store = open_history("postgresql://someone:secret@127.0.0.1:1/fabric")
    with pytest.raises(StoreError) as error:
        store.positions()
    assert "secret" not in str(error.value)
    assert "127.0.0.1" in str(error.value)
