"""Recorded consolidated quotes and trades (NYSE Daily TAQ as CSV, gzip or not) -> rows.

Columns as in the header line: quotes ``ts_us,seq,ex,bid,bid_size,ask,ask_size,qu_cond,natbbo_ind``, trades
``ts_us,seq,ex,cond,size,price,corr,trf``. Quote sizes are round lots of 100 and become shares. The order of
a file is the order of arrival at the tape and is kept; trades, which have a sequence of their own, are merged
in by time, behind the quotes of the same instant. The files name no symbol: their one stock appears as `SYMBOL`.
They are of the CTA plan, listed at NYSE: tape A. A whole recording is held in memory, 192 bytes a row.
"""

import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from fabric.errors import CaptureError
from fabric.records import EVENT, KIND_QUOTE, KIND_TRADE, NULL, PRICE_MAX, PRICE_UNIT, QUOTE, TRADE, Rows, empty, pack

SYMBOL: Final = "XXX"
TAPE: Final = "A"
ROUND_LOT: Final = 100
QUOTE_COLUMNS: Final = {
    "ts_us": "i8",
    "seq": "i8",
    "ex": "S8",
    "bid": "f8",
    "bid_size": "i8",
    "ask": "f8",
    "ask_size": "i8",
    "qu_cond": "S8",
    "natbbo_ind": "S8",
}
TRADE_COLUMNS: Final = {
    "ts_us": "i8",
    "seq": "i8",
    "ex": "S8",
    "cond": "S8",
    "size": "i8",
    "price": "f8",
    "corr": "i8",
    "trf": "S8",
}
_GZIP: Final = b"\x1f\x8b"

Table = npt.NDArray[np.void]


def is_taq(path: Path) -> bool:
    """Whether a file's first line is the header of quotes or trades; raises CaptureError when it cannot be read."""
    return _header(_text(path)) in (_columns(QUOTE_COLUMNS), _columns(TRADE_COLUMNS))


def files(folder: Path, kind: str) -> list[Path]:
    """The ``quotes`` or ``trades`` files of a folder, in the order of their names, which hold the date."""
    return sorted(path for path in folder.iterdir() if path.name.startswith(f"{kind}_") and ".csv" in path.suffixes)


def load(paths: Sequence[Path], symbol: int) -> Rows:
    """The EVENT rows of quote and trade files together, as rows of ``symbol`` (an id); raises CaptureError.

    Trades that the tape has corrected or cancelled (a correction indicator other than 0) are left out.
    """
    quotes, trades = [empty(0, EVENT)], [empty(0, EVENT)]
    for path in paths:
        text = _text(path)
        if _header(text) == _columns(QUOTE_COLUMNS):
            quotes.append(_quotes(_table(path, text, QUOTE_COLUMNS), symbol))
        elif _header(text) == _columns(TRADE_COLUMNS):
            trades.append(_trades(_table(path, text, TRADE_COLUMNS), symbol))
        else:
            expected = f"{_columns(QUOTE_COLUMNS)!r} or {_columns(TRADE_COLUMNS)!r}"
            raise CaptureError(f"{path}: line 1: expected the columns {expected}; found {_header(text)[:100]!r}")
    return _merged(np.concatenate(quotes), np.concatenate(trades))


def _columns(columns: dict[str, str]) -> str:
    return ",".join(columns)


def _text(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw.startswith(_GZIP) else raw
    except (OSError, EOFError, zlib.error) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise CaptureError(f"{path}: {reason}") from error


def _header(text: bytes) -> str:
    return text[:1024].partition(b"\n")[0].strip().decode("ascii", "replace")


def _table(path: Path, text: bytes, columns: dict[str, str]) -> Table:
    dtype = np.dtype(list(columns.items()))
    if not text.partition(b"\n")[2].strip():
        return np.zeros(0, dtype)
    try:
        return np.loadtxt(io.BytesIO(text), dtype, delimiter=",", skiprows=1, comments=None, encoding="ascii", ndmin=1)
    except (ValueError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise CaptureError(f"{path}: not the values that its header promises: {reason}") from error


def _rows(table: Table, dtype: np.dtype[np.void], kind: int, symbol: int) -> Rows:
    rows = empty(table.size, dtype, kind)
    rows["symbol"] = symbol
    rows["venue"] = table["ex"].copy().view("<i8") & 0xFF
    rows["exchange_seq"] = table["seq"]
    rows["event_ns"] = rows["recv_ns"] = table["ts_us"] * 1_000
    rows["tape"] = pack(TAPE)
    return rows


def _price(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.rint(values * PRICE_UNIT).astype(np.int64)


def _quotes(table: Table, symbol: int) -> Rows:
    rows = _rows(table, QUOTE, KIND_QUOTE, symbol)
    for side in ("bid", "ask"):
        price, lots = _price(table[side]), table[f"{side}_size"]
        exists = (price > 0) & (price <= PRICE_MAX) & (lots > 0)
        rows[f"{side}_px"] = np.where(exists, price, NULL)
        rows[f"{side}_size"] = np.where(exists, lots * ROUND_LOT, NULL)
    rows["condition"] = table["qu_cond"].copy().view("<i8")
    return rows.view(EVENT)


def _trades(table: Table, symbol: int) -> Rows:
    good = table[(table["corr"] == 0) & (table["price"] > 0) & (table["price"] <= PRICE_MAX / PRICE_UNIT)]
    rows = _rows(good, TRADE, KIND_TRADE, symbol)
    rows["price"] = _price(good["price"])
    rows["size"] = good["size"]
    codes = np.strings.replace(good["cond"], b" ", b"").astype("S8")  # the tape's four slots, blank where empty
    rows["condition"] = np.where(codes == b"", b"@", codes).astype("S8").view("<i8")
    return rows.view(EVENT)


def _merged(quotes: Rows, trades: Rows) -> Rows:
    """Both in one array: the order of the quotes is kept, a trade comes behind the quotes of its time."""
    reached = np.maximum.accumulate(quotes["event_ns"])
    in_time = trades[np.argsort(trades["event_ns"], kind="stable")]
    place = np.arange(in_time.size) + np.searchsorted(reached, in_time["event_ns"], side="right")
    merged = empty(quotes.size + trades.size, EVENT)
    is_trade = np.zeros(merged.size, np.bool_)
    is_trade[place] = True
    merged[is_trade], merged[~is_trade] = in_time, quotes
    return merged
