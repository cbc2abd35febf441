"""``fabric journal``: what a log holds, what is wrong with it, and the same rows in Parquet."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from fabric import codec, topology
from fabric import journal_kernel as jk
from fabric.cli.main import run
from fabric.clock import SystemClock
from fabric.journal import Journal, files
from fabric.records import KIND_QUOTE, KIND_TRADE, NULL, QUOTE, TRADE, columns, empty
from fabric.symbols import SymbolTable

TEXT = """
venues: {V: {}}
feeds: {iex: {wire: iex-tops-1.6, venues: V, lines: ["udp://127.0.0.1:5490"]}}
cache: {server: off}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A topology whose feed has logged three quotes and two trades."""
    file = tmp_path / "topology.yaml"
    file.write_text(TEXT)
    (publisher,) = topology.load(file, {}).publishers()
    assert publisher.journal is not None
    symbols = SymbolTable(8)
    quotes, trades = empty(3, QUOTE, KIND_QUOTE), empty(2, TRADE, KIND_TRADE)
    for rows in (quotes, trades):
        rows["symbol"], rows["venue"], rows["epoch"] = symbols.intern("AAPL"), ord("V"), 1
    quotes["bid_px"], quotes["bid_size"] = [185_500_000_000, 185_510_000_000, NULL], [100, 200, NULL]
    trades["price"], trades["size"] = 185_505_000_000, 7
    data, ends = codec.lay_out([*codec.encode(quotes, symbols), *codec.encode(trades, symbols)])
    log = Journal(Path(publisher.journal.folder) / "iex", publisher.journal, SystemClock(), 1)
    assert jk.append_all(log.state, data, ends, 0, 1, SystemClock().now_ns(), 1) == 5
    assert columns(quotes).shape[0] == 3
    log.close()
    return file


def test_ls_counts_what_is_there(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["journal", "ls", "--topology", str(path), "--json"]) == 0
    (log,) = json.loads(capsys.readouterr().out)
    assert [log[key] for key in ("publisher", "records", "first", "last", "holes")] == ["iex", 5, 1, 5, 0]
    assert run(["journal", "ls", "--topology", str(path)]) == 0
    assert "5 records  1 to 5" in capsys.readouterr().out


def test_ls_says_of_an_empty_log_that_it_is_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has no first position and no time; least of all one in 1970."""
    file = tmp_path / "topology.yaml"
    file.write_text(TEXT)
    assert run(["journal", "ls", "--topology", str(file)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["iex", "empty"],
        ["all", "0", "records", "0.0", "MB"],
    ]


def test_verify_finds_a_broken_record(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["journal", "verify", "--topology", str(path)]) == 0
    assert "sound" in capsys.readouterr().out
    (file,) = files(path.parent / ".fabric" / "journal" / "iex")
    raw = bytearray(file.read_bytes())
    raw[300] ^= 4
    file.write_bytes(raw)
    assert run(["journal", "verify", "--topology", str(path)]) == 1
    assert "1 positions are missing" in capsys.readouterr().out


def test_export_writes_the_keys_of_the_bus_with_nulls(path: Path, tmp_path: Path) -> None:
    assert run(["journal", "export", "iex", str(tmp_path / "out"), "--topology", str(path)]) == 0
    quotes = pyarrow.parquet.read_table(tmp_path / "out" / "quote.parquet").to_pydict()
    assert quotes["S"] == ["AAPL"] * 3
    assert quotes["bp"] == [185.5, 185.51, None]
    assert quotes["bs"] == [100, 200, None]
    trades = pyarrow.parquet.read_table(tmp_path / "out" / "trade.parquet").to_pydict()
    assert (trades["p"], trades["s"], trades["x"]) == ([185.505] * 2, [7, 7], ["V", "V"])


def test_a_publisher_that_keeps_no_log_is_named(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["journal", "ls", "nbbo-1", "--topology", str(path)]) == 1
    assert "no publisher 'nbbo-1' keeps a log (there are iex)" in capsys.readouterr().err
