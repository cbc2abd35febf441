"""Lines of ASCII PITCH: golden lines from the specification's tables, a plain twin, lies, and the recorded flow."""

import gzip
import random
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest

import naive_pitch as naive
from fabric.errors import CaptureError
from fabric.records import EVENT, NULL, QUOTE, Rows, columns, empty
from fabric.symbols import SymbolTable
from nodes.feeds import pitch_ascii, pitch_ascii_kernel, pitch_kernel
from nodes.feeds.pitch_ascii import PitchAscii
from nodes.feeds.rows_kernel import new_out
from nodes.feeds.trading_day import midnight_ns
from support import random_count

FUZZ = random_count(20_000)
DAY = date(2008, 5, 1)
MIDNIGHT = midnight_ns(DAY)
OPEN_MS, OPEN = 34_200_000, MIDNIGHT + 34_200 * naive.SECOND_NS
CENT = 10_000_000
# From the tables: milliseconds @0, type @8, id @9, side @21, shares @22, symbol @28, price @34, the rest behind.
GOLDEN = b"""\
34200001A0000000000A1B000100ZVZZT 0000101000Y
34200002d0000000000A2S000200ZVXYZABC0000101100YMPIDN
34200003E0000000000A10000300000000000ZZ
34200004X0000000000A1000040
34200005P0000000000A3B000150ZVZZT 0000101050000000000100
34200006r0000000000A3B000099ZVXYZABC0000101050000000000101
34200007B0000000000ZZ
34200008HZVZZT   H1  
34200009sZVXYZABC
34200010IZVZZT   C00000000000000000000000000000000000000000000000000
34200011JZVZZT   C000001010000000001000
"""  # noqa: W291  (fields are padded with blanks)


class Decoder:
    """A recording with room for little."""

    def __init__(self, rows_max: int = pitch_kernel.ROWS_A_MESSAGE, symbols_max: int = 512) -> None:
        self.symbols = SymbolTable(symbols_max)
        self.wire = PitchAscii(self.symbols, DAY, "Z", 1 << 12, 1 << 12, rows_max)

    def rows(self, data: bytes) -> Rows:
        parts = [part.copy() for part in self.wire.decode(data)]
        parts += [part.copy() for part in self.wire.end()]
        return np.concatenate(parts) if parts else empty(0, EVENT)

    def take(self, *lines: str) -> list[naive.Row]:
        return naive.rows_of(self.rows("".join(f"{line}\n" for line in lines).encode()), self.symbols)

    def __getitem__(self, counter: str) -> int:
        return self.wire.counters()[counter]


@pytest.fixture
def market() -> Decoder:
    return Decoder()


def add(order: str, side: str, size: int, symbol: str, price: int, ms: int = OPEN_MS) -> str:
    return f"{ms:08}A{order:0>12}{side}{size:06}{symbol:6}{price:010}Y"


def test_golden_lines(market: Decoder) -> None:
    rows = naive.rows_of(market.rows(GOLDEN), market.symbols)
    assert rows == [
        ("quote", "ZVZZT", 1, OPEN + 1_000_000, 1010 * CENT, 100, None, None, "R"),
        ("quote", "ZVXYZABC", 2, OPEN + 2_000_000, None, None, 1011 * CENT, 200, "R"),
        ("trade", "ZVZZT", 3, OPEN + 3_000_000, 1010 * CENT, 30, "I", 35 * 36 + 35, None, None),
        ("quote", "ZVZZT", 3, OPEN + 3_000_000, 1010 * CENT, 70, None, None, "R"),
        ("quote", "ZVZZT", 4, OPEN + 4_000_000, 1010 * CENT, 30, None, None, "R"),
        ("trade", "ZVZZT", 5, OPEN + 5_000_000, 10_105_000_000, 150, "@", 36 * 36, None, None),
        ("trade", "ZVXYZABC", 6, OPEN + 6_000_000, 10_105_000_000, 99, "I", 36 * 36 + 1, None, None),
        ("trade", "ZVZZT", 7, OPEN + 7_000_000, 1010 * CENT, 30, "I", None, "x", 35 * 36 + 35),
        ("status", "ZVZZT", 8, OPEN + 8_000_000, "H", "1", ""),
        ("quote", "ZVZZT", 8, OPEN + 8_000_000, 1010 * CENT, 30, None, None, "N"),
        ("quote", "ZVXYZABC", 9, OPEN + 9_000_000, None, None, None, None, "R"),
    ]
    assert set(market.wire.messages_by_type()) == set(pitch_ascii.TYPE_NAMES.values())
    assert market["malformed"] == market["unknown"] == 0


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("head", ["", "S"])
def test_endings_and_the_sequenced_mark_make_no_difference(market: Decoder, head: str, ending: str) -> None:
    lines = [add("1", "B", 100, "A", 10_000), "", add("2", "S", 100, "A", 10_100)]
    rows = market.rows(
        "".join(head + line + ending for line in lines).encode().replace(b"S\r\n", b"\r\n").replace(b"S\n", b"\n")
    )
    assert rows["exchange_seq"].tolist() == [1, 2]


def test_pieces_that_cut_lines_and_a_last_line_without_its_end() -> None:
    whole, pieces = Decoder(), Decoder()
    wanted = whole.rows(GOLDEN)
    found = [part.copy() for i in range(len(GOLDEN) - 1) for part in pieces.wire.decode(GOLDEN[i : i + 1])]
    found += [part.copy() for part in pieces.wire.end()]
    assert (columns(np.concatenate(found)) == columns(wanted)).all()
    assert pieces.wire.counters() == whole.wire.counters()


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param("3420000", id="short"),
        pytest.param("342000 0A", id="time"),
        pytest.param("90000000" + add("1", "B", 1, "A", 1)[8:], id="a time beyond any day"),
        pytest.param(add("1", "B", 1, "A", 1)[:-1], id="shorter than its type"),
        pytest.param(add("a", "B", 1, "A", 1), id="id"),
        pytest.param(add("1", "b", 1, "A", 1), id="side"),
        pytest.param(add("1", "B", 1, "A", 1).replace("B000001", "B00000A"), id="shares"),
        pytest.param(add("1", "B", 1, "", 1), id="symbol"),
        pytest.param(add("1", "B", 1, "A", 1).replace("0000000001Y", "00000.0001Y"), id="price"),
        pytest.param("34200000HA        0  ", id="status"),
        pytest.param("34200000B00000000000-", id="execution"),
        pytest.param("x" * 3_000, id="no line at all"),
    ],
)
def test_a_line_that_cannot_be_read_costs_itself(market: Decoder, bad: str) -> None:
    rows = market.take(add("7", "B", 1, "A", 100), bad, add("8", "S", 1, "A", 200))
    assert [row[0] for row in rows] == ["quote", "quote"]
    assert (market["malformed_message"], market["messages"]) == (1, 3)


def test_unknown_types_orphans_and_prices_that_no_record_holds_are_counted(market: Decoder) -> None:
    high = add("2", "B", 1, "A", 9_999_999_999)  # 999,999.9999
    lines = [add("1", "B", 1, "A", 0), "34200000Z", f"34200000X{'9':0>12}000001", high]
    assert [row[4] for row in market.take(*lines)] == [999_999_999_900_000]
    assert (market["unencodable"], market["unknown"], market["orders_orphaned"], market["malformed"]) == (1, 1, 1, 0)


def naive_rows(lines: Iterator[bytes], twin: naive.NaiveBook) -> Iterator[list[naive.Row]]:
    """The plain reading: each line's fields by their places."""
    naive.DAY[0] = MIDNIGHT
    for number, line in enumerate(lines, 1):
        text = line.strip().removeprefix(b"S").decode()
        kind, when = text[8], MIDNIGHT + int(text[:8]) * 1_000_000
        order, size = int(text[9:21], 36), int(text[22:28] if kind in "AP" else text[21:27])
        if kind in "AP":
            symbol, price = text[28:34].strip(), int(text[34:44]) * 100_000
            twin.meet(symbol)
            if kind == "A":
                yield twin.add(0, number, when, order, text[21], size, symbol, price)
            else:
                yield twin.trade(symbol, number, when, price, size, int(text[44:56], 36))
        elif kind == "E":
            yield twin.execute(number, when, order, size, int(text[27:39], 36))
        else:
            assert kind == "X"
            yield twin.cut(number, when, order, size) if twin.known(order) else []


def test_mutated_lines_never_crash_or_cost_later_ones() -> None:
    seed = 3
    chance, market = random.Random(seed), Decoder(rows_max=4_096)
    lines = GOLDEN.splitlines()
    for number in range(FUZZ // 200):
        data = bytearray()
        for _ in range(200):
            line = bytearray(chance.choice(lines))
            for _ in range(chance.randrange(3)):
                at = chance.randrange(len(line)) if line else 0
                line[at : at + chance.randrange(3)] = chance.choice(
                    (b"", b"\n", b" ", b"\xff", b"0", b"Z", b"-", b"\0")
                )
            data += line + b"\n"
        data += f"\n36000000P{'1':0>12}B{number % 9_000 + 1:06}OK    0000010000{'1':0>12}\n".encode()
        rows = market.rows(bytes(data))
        assert rows["event_ns"][-1] == MIDNIGHT + 36_000 * naive.SECOND_NS, f"seed {seed}, round {number}"
    assert market["malformed_message"] > FUZZ // 20


def test_compiled_and_plain_python_decode_alike() -> None:
    results = []
    for use in (pitch_ascii_kernel.decode, pitch_ascii_kernel.decode.py_func):
        symbols, rows = SymbolTable(8), empty(64, EVENT)
        state = pitch_kernel.new_state(8, 64, 64, 1, 64)
        progress = np.zeros(pitch_ascii_kernel.N_PROGRESS, np.int64)
        buffer = np.frombuffer(GOLDEN, np.uint8)
        taken, n = use(buffer, 0, buffer.size, 90, MIDNIGHT, symbols.arrays, state, progress, new_out(rows))
        results.append((taken, columns(rows[:n]).tolist(), state.counters.tolist(), progress.tolist()))
    assert results[0] == results[1]
    assert results[0][0] == len(GOLDEN)


def test_warming_up_compiles_what_the_live_path_calls(market: Decoder) -> None:
    pitch_ascii_kernel.warm_up()
    compiled = list(pitch_ascii_kernel.decode.signatures)
    market.rows(GOLDEN)
    assert pitch_ascii_kernel.decode.signatures == compiled


class TestFiles:
    def test_packed_or_not_and_a_day_in_the_name(self, tmp_path: Path) -> None:
        plain, packed = tmp_path / "bzx_20080501.txt", tmp_path / "bzx.20080501.gz"
        plain.write_bytes(GOLDEN)
        packed.write_bytes(gzip.compress(GOLDEN))
        symbols = SymbolTable(16)
        rows = pitch_ascii.load([plain, packed], symbols)
        assert rows.size == 22
        assert rows["event_ns"][0] == rows["event_ns"][11] == OPEN + 1_000_000
        assert pitch_ascii.is_pitch_ascii(packed)
        assert pitch_ascii.day_of(Path("20081399_x")) == pitch_ascii.NO_DAY

    def test_what_is_none(self, tmp_path: Path) -> None:
        other, empty_file, cut = tmp_path / "other", tmp_path / "empty", tmp_path / "cut.gz"
        other.write_bytes(b"ts_us,seq,ex\n")
        empty_file.write_bytes(b"")
        cut.write_bytes(gzip.compress(GOLDEN)[:40])
        assert not pitch_ascii.is_pitch_ascii(other)
        assert not pitch_ascii.is_pitch_ascii(empty_file)
        with pytest.raises(CaptureError, match=r"other: line 1: expected a message of PITCH"):
            pitch_ascii.load([other], SymbolTable(8))
        for path in (cut, tmp_path / "absent"):
            with pytest.raises(CaptureError, match=path.name):
                pitch_ascii.load([path], SymbolTable(8))


class TestRecorded:
    """The BATS sample: known answers of its README."""

    def test_known_answers_and_a_plain_reading(self, shared_data: Path) -> None:
        path = shared_data / "bats_pitch_ascii/pitch_set1.txt.gz"
        market = Decoder(rows_max=64)
        data = gzip.decompress(path.read_bytes())
        rows = market.rows(data)
        found = naive.rows_of(rows, market.symbols)
        twin = naive.NaiveBook()
        wanted, executions, at_best = [], 0, 0
        for line, made in zip(data.splitlines(), naive_rows(iter(data.splitlines()), twin), strict=True):
            wanted += made
            if line[9:10] == b"E":
                executions += 1
                before = last_quote(wanted[: -len(made)], str(made[0][1]))
                at_best += made[0][4] in (before[4], before[6])
        assert found == wanted
        by_type = {"add_order": 7_930, "order_cancel": 7_364, "trade": 18, "order_executed": 9}
        assert market.wire.messages_by_type() == by_type
        assert (executions, at_best) == (9, 9)
        assert (market["orders"], len(market.symbols) - 1) == (588, 192)  # 191 with orders, one with a trade alone
        wrong = ("malformed", "unknown", "orders_orphaned", "orders_overdrawn", "orders_duplicate", "orders_refused")
        assert not any(market[name] for name in wrong)
        assert never_locked_or_crossed(rows)
        assert volumes(found) == VOLUMES


VOLUMES = {
    "OIH": 5000, "SPY": 2000, "ZVZZT": 577, "AAPL": 495, "UYG": 400, "FXP": 320, "DXD": 200, "MDT": 100, "DIS": 100
}  # fmt: skip


def last_quote(rows: list[naive.Row], symbol: str) -> naive.Row:
    return next(row for row in reversed(rows) if row[:2] == ("quote", symbol))


def never_locked_or_crossed(rows: Rows) -> bool:
    quotes = rows[rows["kind"] == 1].view(QUOTE)
    both = (quotes["bid_px"] != NULL) & (quotes["ask_px"] != NULL)
    return bool(both.any()) and bool((quotes["bid_px"] < quotes["ask_px"])[both].all())


def volumes(rows: list[naive.Row]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        if row[0] == "trade":
            found[str(row[1])] = found.get(str(row[1]), 0) + int(str(row[5]))
    return found
