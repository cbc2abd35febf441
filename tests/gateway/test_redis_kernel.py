"""Commands in compiled code equal those of the slow, obvious twin."""

import json

import numpy as np
import pytest

import naive_redis
from fabric.records import BAR, KIND_BAR_1M, KIND_NBBO, NBBO, NULL, PRICE_MAX, STATE_HALTED, Rows, empty, pack
from fabric.symbols import SymbolTable
from gateway import redis_kernel

INTERVALS = ("1m", "5m", "1h", "1d")


def random_quotes(random: np.random.Generator, symbols: SymbolTable, count: int) -> Rows:
    rows = empty(count, NBBO, KIND_NBBO)
    rows["symbol"] = random.integers(1, len(symbols), count)
    for name in ("bid_px", "ask_px", "last_px"):
        exact = random.integers(1, PRICE_MAX, count)
        rows[name] = random.choice([1, 10_000_000, 1_000_000_000, NULL, PRICE_MAX, 185_500_000_000], count)
        rows[name] = np.where(random.random(count) < 0.5, rows[name], exact)
    rows["event_ns"] = random.choice([NULL, 0, 1_704_567_890_123_456_789, 1_704_567_890_000_000_000], count)
    rows["bid_size"] = random.choice([NULL, 0, 100, 2**62], count)
    rows["ask_size"] = random.choice([NULL, 1, 99_999], count)
    rows["bid_venue"] = random.choice([NULL, 0, pack("V"), pack("N")], count)
    rows["ask_venue"] = random.choice([NULL, pack("Q")], count)
    rows["state"] = random.choice([0, STATE_HALTED, 1, STATE_HALTED | 4], count)
    return rows


def table() -> SymbolTable:
    symbols = SymbolTable(16)
    for name in ("AAPL", "A", "BRK.B", "ABCDEFGHIJKLMNOP"):
        symbols.intern(name)
    return symbols


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("count", [0, 1, 200])
def test_quotes(compiled: bool, count: int) -> None:
    seed = 20_260_102
    random, symbols = np.random.default_rng(seed), table()
    rows, changed = random_quotes(random, symbols, count), random.random(count) < 0.5
    out, value = (
        np.zeros(count * redis_kernel.COMMANDS_BYTES, np.uint8),
        np.zeros(redis_kernel.COMMANDS_BYTES, np.uint8),
    )
    encode = redis_kernel.encode_quotes if compiled else redis_kernel.encode_quotes.py_func  # type: ignore[attr-defined]
    used, commands = encode(rows, changed, symbols.arrays.names, symbols.arrays.lengths, 1_000, out, value)
    expected = [
        naive_redis.quote_commands(symbols.name(int(row["symbol"])), row, bool(new), 1_000)
        for row, new in zip(rows, changed, strict=True)
    ]
    assert out[:used].tobytes() == b"".join(expected), f"seed {seed}"
    assert commands == count + changed.sum()


@pytest.mark.parametrize("compiled", [True, False])
def test_candles(compiled: bool) -> None:
    random, symbols = np.random.default_rng(7), table()
    rows = empty(60, BAR, KIND_BAR_1M)
    rows["symbol"] = random.integers(1, len(symbols), 60)
    rows["kind"] = KIND_BAR_1M + random.integers(0, 3, 60)
    for name in ("open_px", "high_px", "low_px", "close_px"):
        rows[name] = random.integers(1, PRICE_MAX, 60)
    rows["volume"], rows["event_ns"] = random.integers(0, 10**12, 60), 1_704_567_840_000_000_000
    out, value = np.zeros(60 * redis_kernel.COMMANDS_BYTES, np.uint8), np.zeros(redis_kernel.COMMANDS_BYTES, np.uint8)
    encode = redis_kernel.encode_candles if compiled else redis_kernel.encode_candles.py_func  # type: ignore[attr-defined]
    used, commands = encode(rows, symbols.arrays.names, symbols.arrays.lengths, out, value)
    expected = [
        naive_redis.candle_commands(symbols.name(int(row["symbol"])), row, INTERVALS[row["kind"] - KIND_BAR_1M])
        for row in rows
    ]
    assert out[:used].tobytes() == b"".join(expected)
    assert commands == 60


def test_the_value_of_a_quote_as_the_contract_shows_it() -> None:
    row = empty(1, NBBO, KIND_NBBO)
    row["bid_px"], row["ask_px"], row["last_px"] = 185_500_000_000, 185_520_000_000, 185_510_000_000
    row["event_ns"], row["state"] = 1_704_567_890_123_000_000, 0
    text = naive_redis.quote_json(row[0])
    assert text.startswith('{"bid":185.50,"ask":185.52,"last":185.51,"ts":1704567890.123,')
    assert json.loads(text)["bid_size"] is None


def test_a_row_never_takes_more_than_its_room() -> None:
    symbols = table()
    row = empty(1, NBBO, KIND_NBBO)
    row["symbol"] = symbols.find("ABCDEFGHIJKLMNOP")
    for name in ("bid_px", "ask_px", "last_px", "event_ns", "bid_size", "ask_size"):
        row[name] = -(2**63) + 1
    row["bid_venue"] = row["ask_venue"] = pack("V")
    assert len(naive_redis.quote_commands("ABCDEFGHIJKLMNOP", row[0], True, 2**62)) <= redis_kernel.COMMANDS_BYTES


def test_warm_up_takes_every_entry() -> None:
    redis_kernel.warm_up()
