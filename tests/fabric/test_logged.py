"""What a durable log holds, as rows: each message as the codec reads it, in the order of the log."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fabric import codec, logged
from fabric.clock import SystemClock
from fabric.errors import CodecError
from fabric.journal import Cursor, Journal, Query
from fabric.journal_kernel import append_all
from fabric.logged import rows_of
from fabric.records import KIND_QUOTE, QUOTE, columns, empty
from fabric.symbols import SymbolTable
from fabric.topology import JournalSettings

COUNT = 3 * logged.ROWS_MAX + 17
"""More than are decoded at once, and more than a block of a file holds."""
NAMES = ("AAPL", "MSFT", "BRK.B", "A", "ZVZZT")


def quotes(count: int) -> list[codec.Frames]:
    symbols = SymbolTable(16)
    ids = [symbols.intern(name) for name in NAMES]
    rng = np.random.default_rng(6)
    rows = empty(count, QUOTE, KIND_QUOTE)
    rows["symbol"], rows["venue"], rows["epoch"] = rng.choice(ids, count), ord("V"), 1
    rows["seq"] = rows["position"] = np.arange(count) + 1
    rows["bid_px"] = rng.integers(1, 10**12, count)
    return codec.encode(rows, symbols)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "feed", JournalSettings("", bytes_max=64 << 20), SystemClock(), 1)
    yield made
    made.close()


def append(log: Journal, frames: list[codec.Frames]) -> None:
    data, ends = codec.lay_out(frames)
    done = 0
    while done < len(frames):
        done = int(append_all(log.state, data, ends, done, 1, 1, 1))
        if done < len(frames):
            log.wait_for_room()


def test_every_message_comes_as_the_codec_reads_it_in_its_order(log: Journal) -> None:
    frames = quotes(COUNT)
    append(log, frames)
    symbols, own = SymbolTable(16), SymbolTable(16)
    found = list(rows_of(Cursor(log.listing, Query()), symbols))
    assert len(found) > 3
    wanted = codec.decode(frames, own)
    assert np.array_equal(columns(np.concatenate(found)), columns(wanted))
    assert [symbols.name(i) for i in range(len(symbols))] == [own.name(i) for i in range(len(own))]


def test_only_what_the_cursor_wants_is_read(log: Journal) -> None:
    append(log, quotes(1_000))
    symbols = SymbolTable(16)
    cursor = Cursor(log.listing, Query(first=100, last=900, prefixes=(b"quote.A|", b"quote.BRK")))
    (rows,) = rows_of(cursor, symbols)
    assert rows["position"].min() >= 100
    assert rows["position"].max() <= 900
    assert {symbols.name(int(symbol)) for symbol in np.unique(rows["symbol"])} == {"A", "BRK.B"}


def test_an_empty_log_has_no_rows(log: Journal) -> None:
    assert list(rows_of(Cursor(log.listing, Query()), SymbolTable(4))) == []


def test_a_message_that_this_build_cannot_read_is_named_by_its_position(log: Journal) -> None:
    frames = quotes(5)
    append(log, [*frames[:3], (frames[3][0], frames[3][1][:-4]), frames[4]])
    reading = rows_of(Cursor(log.listing, Query()), SymbolTable(16))
    assert next(reading)["position"].tolist() == [1, 2, 3]
    with pytest.raises(CodecError, match="position 4 of the log"):
        next(reading)
