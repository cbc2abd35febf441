"""Candles as an archive: one Parquet file for each interval and day (UTC), for research and for what is forgotten.

    archive/1m/2026-11-20.parquet      symbol, start, open, high, low, close, volume, trades, vwap, rev, gap

Prices are numbers of the currency. A file is written once, when its day has been over for `SETTLED_NS`, and
appears whole or not at all. Source: parquet.apache.org/docs/file-format.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fabric.clock import SECOND_NS
from fabric.errors import StoreError, UnavailableError
from fabric.history import INTERVALS, History
from fabric.records import NULL, PRICE_UNIT

DAY_NS = 86_400 * SECOND_NS
SETTLED_NS = 2 * 3_600 * SECOND_NS
"""After midnight UTC, so that the day's last revisions are in."""
BACK_DAYS = 7
"""How far back a day that is missing is made up for."""
GROUP_ROWS = 32_768
"""Rows of one row group: what a write holds in memory, and what is read of a file for one symbol."""
_PRICES = ("open", "high", "low", "close", "vwap")
_COLUMNS = ("start", "open", "high", "low", "close", "volume", "trades", "vwap", "rev", "final", "gap")


class Archive:
    """The files under ``folder``."""

    def __init__(self, folder: str) -> None:
        """Raises UnavailableError without pyarrow."""
        try:
            import pyarrow as _  # noqa: F401, ICN001
        except ImportError as error:
            raise UnavailableError("history.archive needs pyarrow: pip install 'market-fabric[export]'") from error
        self._folder = Path(folder)
        self._empty: set[Path] = set()

    def path(self, interval: str, day_ns: int) -> Path:
        """The file of the day that begins at ``day_ns``."""
        return self._folder / interval / f"{datetime.fromtimestamp(day_ns // SECOND_NS, UTC):%Y-%m-%d}.parquet"

    def catch_up(self, store: History, symbols: Sequence[str], now_ns: int) -> int:
        """Write the days that are over and missing; return how many files were written. Raises StoreError."""
        over_ns = (now_ns - SETTLED_NS) // DAY_NS * DAY_NS
        return sum(
            self.write(store, symbols, interval, over_ns - back * DAY_NS)
            for interval in INTERVALS
            for back in range(1, BACK_DAYS + 1)
        )

    def write(self, store: History, symbols: Sequence[str], interval: str, day_ns: int) -> bool:
        """Write one day, unless it is there or empty; whether it was. Raises StoreError."""
        import pyarrow as pa
        from pyarrow import parquet

        path = self.path(interval, day_ns)
        if path in self._empty or path.exists():
            return False
        fresh = path.with_suffix(".new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer: Any = None
            for group in _groups(store, symbols, interval, day_ns):
                table = pa.table(group)
                writer = writer or parquet.ParquetWriter(fresh, table.schema, compression="zstd")
                writer.write_table(table)
            if writer is None:
                self._empty.add(path)
                return False
            writer.close()
            fresh.replace(path)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from error
        return True


def _groups(store: History, symbols: Sequence[str], interval: str, day_ns: int) -> Iterator[dict[str, Any]]:
    """Columns of some `GROUP_ROWS` candles at a time, by symbol and start."""
    names: list[str] = []
    found: list[tuple[int, ...]] = []
    for symbol in symbols:
        candles = store.read(symbol, interval, day_ns, day_ns + DAY_NS, GROUP_ROWS, newest=False)
        names += [symbol] * len(candles)
        found += candles
        if len(found) >= GROUP_ROWS:
            yield _columns(names, found)
            names, found = [], []
    if found:
        yield _columns(names, found)


def _columns(names: list[str], candles: list[tuple[int, ...]]) -> dict[str, Any]:
    import pyarrow as pa

    values = np.array(candles, np.int64)
    table: dict[str, Any] = {"symbol": pa.array(names)}  # as plain text: of dictionaries readers skip no group
    for place, name in enumerate(_COLUMNS):
        raw = np.ascontiguousarray(values[:, place])
        if name == "start":
            table[name] = pa.array(raw).cast(pa.timestamp("ns", "UTC"))
        elif name in _PRICES:
            table[name] = pa.array(raw / PRICE_UNIT, mask=raw == NULL)
        elif name == "gap":
            table[name] = pa.array(raw != 0)
        elif name != "final":
            table[name] = pa.array(raw)
    return table
