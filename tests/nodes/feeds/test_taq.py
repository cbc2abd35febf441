"""The recorded tape as rows: hand-written files, broken ones, and the recording's known answers."""

import csv
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from fabric.errors import CaptureError
from fabric.records import KIND_TRADE, NULL, QUOTE, TRADE, unpack
from nodes.feeds import taq

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data" / "taq_nbbo"
recorded = pytest.mark.skipif(not SAMPLES.exists(), reason="the recorded samples (../shared/data) are not here")
QUOTES = """ts_us,seq,ex,bid,bid_size,ask,ask_size,qu_cond,natbbo_ind
1000000,11,N,136.50,1,0.00,0,R,G
1000001,12,P,0.00,3,175.9,2,C,A
1000001,13,V,1.0001,5,1.0002,0,R,A
"""
TRADES = """ts_us,seq,ex,cond,size,price,corr,trf
1000002,3,D,F I,7,158.005,0,N
1000001,2,N,,100,158,0,
1000003,4,N,F,100,158,8,
1000000,1,T,FTI,2,157.8,0,
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "quotes_2018-01-02.csv.gz").write_bytes(gzip.compress(QUOTES.encode()))
    (tmp_path / "trades_2018-01-02.csv").write_text(TRADES)
    (tmp_path / "README.md").write_text("quotes_")
    return tmp_path


def test_quotes(folder: Path) -> None:
    rows = taq.load(taq.files(folder, "quotes"), symbol=3).view(QUOTE)
    assert rows["symbol"].tolist() == [3, 3, 3]
    assert "".join(map(chr, rows["venue"])) == "NPV"
    assert rows["exchange_seq"].tolist() == [11, 12, 13]
    assert rows["event_ns"].tolist() == rows["recv_ns"].tolist() == [1_000_000_000, 1_000_001_000, 1_000_001_000]
    assert rows["bid_px"].tolist() == [136_500_000_000, NULL, 1_000_100_000]
    assert rows["bid_size"].tolist() == [100, NULL, 500]
    assert rows["ask_px"].tolist() == [NULL, 175_900_000_000, NULL]
    assert rows["ask_size"].tolist() == [NULL, 200, NULL]
    assert [unpack(text) for text in rows["condition"]] == ["R", "C", "R"]
    assert [unpack(text) for text in rows["tape"]] == ["A", "A", "A"]


def test_trades_are_merged_by_time_behind_the_quotes(folder: Path) -> None:
    rows = taq.load([*taq.files(folder, "quotes"), *taq.files(folder, "trades")], symbol=1)
    assert rows["exchange_seq"].tolist() == [11, 1, 12, 13, 2, 3]
    trades = rows[rows["kind"] == KIND_TRADE].view(TRADE)
    assert [unpack(text) for text in trades["condition"]] == ["FTI", "@", "FI"]
    assert trades["price"].tolist() == [157_800_000_000, 158_000_000_000, 158_005_000_000]
    assert trades["size"].tolist() == [2, 100, 7]
    assert "".join(map(chr, trades["venue"])) == "TND"


def test_files_of_a_folder(folder: Path) -> None:
    (folder / "quotes_2018-01-01.csv").write_text("")
    assert [path.name for path in taq.files(folder, "quotes")] == ["quotes_2018-01-01.csv", "quotes_2018-01-02.csv.gz"]


def test_a_file_with_only_its_header(tmp_path: Path) -> None:
    path = tmp_path / "quotes_.csv"
    path.write_text(QUOTES.splitlines()[0] + "\n")
    assert taq.is_taq(path)
    assert taq.load([path], symbol=1).size == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "line 1: expected the columns"),
        ("ts_us,seq\n1,2\n", "line 1: expected the columns"),
        (QUOTES + "1000002,14,N,abc,1,2,3,R,A\n", "not the values that its header promises"),
        (QUOTES + "1000002,14\n", "not the values that its header promises"),
    ],
)
def test_broken_files_are_one_clear_error(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "quotes_.csv"
    path.write_text(text)
    with pytest.raises(CaptureError, match=expected) as caught:
        taq.load([path], symbol=1)
    assert str(path) in str(caught.value)


def test_a_missing_and_a_cut_file(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="none"):
        taq.load([tmp_path / "none"], symbol=1)
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(QUOTES.encode())[:-9])
    with pytest.raises(CaptureError, match=r"cut\.csv\.gz"):
        taq.is_taq(cut)


@recorded
def test_recorded_day() -> None:
    rows = taq.load([*taq.files(SAMPLES, "quotes"), *taq.files(SAMPLES, "trades")], symbol=1)
    trades = rows[rows["kind"] == KIND_TRADE].view(TRADE)
    quotes = rows[rows["kind"] != KIND_TRADE].view(QUOTE)
    venues, counts = np.unique(quotes["venue"], return_counts=True)
    per_venue = {chr(venue): int(count) for venue, count in zip(venues, counts, strict=True)}
    assert per_venue == {
        "N": 49_536, "P": 31_241, "B": 29_587, "T": 26_838, "Y": 24_550, "Z": 21_894,
        "K": 18_412, "X": 8_175, "J": 6_519, "V": 2_343, "A": 1_206, "M": 256,
    }  # fmt: skip
    assert (trades.size, int(trades["size"].sum())) == (39_470, 5_553_205)
    ours = hashlib.sha256()
    told = (quotes[name].tolist() for name in ("exchange_seq", "bid_px", "bid_size"))
    for seq, px, size in zip(*told, strict=True):
        ours.update(b"%d,%d,%d\n" % ((seq, px, size) if px != NULL else (seq, 0, 0)))
    theirs = hashlib.sha256()
    with gzip.open(SAMPLES / "quotes_2018-01-02.csv.gz", "rt") as file:
        for line in csv.DictReader(file):
            dollars, _, cents = line["bid"].partition(".")
            px, lots = int(dollars) * 10**9 + int(cents.ljust(9, "0")), int(line["bid_size"])
            theirs.update(
                b"%d,%d,%d\n" % ((int(line["seq"]), px, lots * 100) if px and lots else (int(line["seq"]), 0, 0))
            )
    assert ours.hexdigest() == theirs.hexdigest()
