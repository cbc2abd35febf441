"""The store of closed candles: what charts read once a gateway's memory ends. One small interface, SQL behind it.

    history = open_history(url)            # a file: SQLite; postgresql://...: PostgreSQL, with TimescaleDB where it is
    history.write(names, rows, positions)  # BAR rows that have closed, and how far the logs are read: one transaction
    history.read("AAPL", "1m", start_ns, end_ns, limit, newest=True)

Where it is asked for it keeps ticks too: trades as they came, cancellations and corrections among them. A tick is
(symbol, time, venue, epoch, seq): what the bus numbered, so writing it again changes nothing.

A candle is (symbol, interval, start). Writing is idempotent: of two states of one candle the same one stays, in
whatever order and however often they are written. From one life of its processor (``epoch``) that is the higher
revision, and the final one; of two lives the one without a gap, and of two with one that of more trades: a processor
that was restarted knows only what came since.

Prices are whole units of 1e-9, times ns UTC, undefined is NULL; the view ``candles`` shows them as people write them.
The engines differ in three methods (`history_sqlite`, `history_postgres`).
"""

import importlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fabric.errors import StoreError, UnavailableError
from fabric.records import BAR, EVENT, KIND_BAR_1M, KIND_TRADE, NULL, TRADE, Rows, columns, unpack

INTERVALS = ("1m", "5m", "1h", "1d")
TICK = "tick"
"""What retention calls ticks, beside the intervals."""
INTERVAL_NS = dict(zip(INTERVALS, (60 * 10**9, 300 * 10**9, 3_600 * 10**9, 86_400 * 10**9), strict=True))
CHUNK = 4_096
"""Candles of one transaction: what a reader that comes between waits for, and what a failure costs."""
FORGET_SYMBOLS = 256
"""Symbols whose old candles go in one transaction."""

Candle = tuple[int, ...]
"""start, open, high, low, close, volume, trades, vwap, rev, final, gap; NULL where undefined."""
Tick = tuple[Any, ...]
"""time, venue (a letter), epoch, seq, price, size, condition, trade_id, mark ("", "x" or "c"), original_id; None where
undefined. Texts as in TRADE."""

_STORED = {
    "start": "event_ns",
    "open": "open_px",
    "high": "high_px",
    "low": "low_px",
    "close": "close_px",
    "volume": "volume",
    "trades": "trades",
    "vwap": "vwap_px",
    "last": "last_ns",
    "official_open": "official_open_px",
    "official_close": "official_close_px",
    "rev": "rev",
    "final": "final",
    "gap": "gap",
    "epoch": "epoch",
}
"""Column of the table -> column of a BAR row."""
_READ = ("start", "open", "high", "low", "close", "volume", "trades", "vwap", "rev", "final", "gap")
_KEY = ("symbol", "interval", "start")
_BY_BAR = [(BAR.names or ()).index(column) for column in _STORED.values()]

CREATE = (
    "CREATE TABLE IF NOT EXISTS candle (symbol TEXT NOT NULL, interval TEXT NOT NULL, "
    + ", ".join(f"{name} BIGINT{' NOT NULL' if name in ('start', 'rev', 'epoch') else ''}" for name in _STORED)
    + f", PRIMARY KEY ({', '.join(_KEY)}))",
    "CREATE TABLE IF NOT EXISTS position (publisher TEXT PRIMARY KEY, epoch BIGINT NOT NULL, position BIGINT NOT NULL)",
)
_TICK = {
    "time": "event_ns",
    "venue": "venue",
    "epoch": "epoch",
    "seq": "seq",
    "price": "price",
    "size": "size",
    "condition": "condition",
    "trade_id": "trade_id",
    "mark": "mark",
    "original_id": "original_id",
}
"""Column of the table of ticks -> column of a TRADE row."""
_TICK_TEXTS = ("venue", "condition", "mark")
_BY_TRADE = [(TRADE.names or ()).index(column) for column in _TICK.values()]
CREATE_TICK = (
    "CREATE TABLE IF NOT EXISTS tick (symbol TEXT NOT NULL, "
    + ", ".join(f"{name} {'TEXT' if name in _TICK_TEXTS else 'BIGINT'}" for name in _TICK)
    + ", PRIMARY KEY (symbol, time, venue, epoch, seq))"
)
TICK_COLUMNS = "price / 1e9 AS price, size, condition, trade_id, mark, original_id"
_PRICES = ("open", "high", "low", "close", "vwap", "official_open", "official_close")
VIEW_COLUMNS = ", ".join(f"{name} / 1e9 AS {name}" for name in _PRICES) + ", volume, trades, rev, final, gap"


class History(ABC):
    """A store of candles. Any number of threads may read; writing is for one. Every method raises StoreError."""

    name = ""
    """What messages call it: without user and password."""
    _mark = "?"
    """How its SQL writes a parameter."""

    def __init__(self) -> None:
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._closed = False

    # What the engines differ in.

    @abstractmethod
    def _connect(self) -> Any:
        """A connection whose transactions are begun and ended by hand; its tables exist."""

    @abstractmethod
    def _begin(self, connection: Any) -> None:
        """Begin a transaction that writes."""

    @abstractmethod
    def size_bytes(self) -> int:
        """What the store takes on its disk."""

    def _leads_there(self, connection: Any) -> bool:
        """Whether an idle connection still leads to the store that its address names."""
        return True

    @property
    @abstractmethod
    def _errors(self) -> tuple[type[Exception], ...]:
        """What its library raises."""

    # What they share.

    def write(self, names: Sequence[str], rows: Rows, positions: Mapping[str, tuple[int, int]] | None = None) -> None:
        """Store BAR and TRADE rows, ``names[i]`` being the symbol of the i-th, and by publisher (epoch, position) up to
        which its log has been dealt with. All of it or nothing.
        """
        table, kinds = columns(rows), rows["kind"].tolist()
        candles, ticks = [], []
        for name, kind, bar, trade in zip(
            names, kinds, table[:, _BY_BAR].tolist(), table[:, _BY_TRADE].tolist(), strict=True
        ):
            if kind == KIND_TRADE:
                ticks.append((name, *_tick(trade)))
            else:
                candles.append((name, INTERVALS[kind - KIND_BAR_1M], *bar))
        with self._connection() as connection:
            self._begin(connection)
            cursor = connection.cursor()
            if candles:
                cursor.executemany(self._sql(_upsert()), candles)
            if ticks:
                cursor.executemany(self._sql(_INSERT_TICK), ticks)
            if positions:
                told = [(name, *position) for name, position in positions.items()]
                cursor.executemany(self._sql(_UPSERT_POSITION), told)
            connection.commit()

    def read(
        self, symbol: str, interval: str, start_ns: int, end_ns: int, limit: int, *, newest: bool = True
    ) -> list[Candle]:
        """Candles with ``start_ns <= start < end_ns``, the oldest first; of more than ``limit`` the newest ones, or the
        oldest ones.
        """
        order = "DESC" if newest else "ASC"
        where = "symbol = ? AND interval = ? AND start >= ? AND start < ?"
        sql = self._sql(f"{_SELECT} WHERE {where} ORDER BY start {order} LIMIT ?")
        with self._connection() as connection:
            found: list[Candle] = connection.execute(sql, (symbol, interval, start_ns, end_ns, limit)).fetchall()
            connection.rollback()
        return found[::-1] if newest else found

    def ticks(self, symbol: str, start_ns: int, end_ns: int, limit: int, *, newest: bool = True) -> list[Tick]:
        """Ticks with ``start_ns <= time < end_ns``, chosen and ordered as by `read`."""
        order = "DESC" if newest else "ASC"
        keys = ", ".join(f"{name} {order}" for name in ("time", "venue", "epoch", "seq"))
        sql = self._sql(
            f"SELECT {', '.join(_TICK)} FROM tick WHERE symbol = ? AND time >= ? AND time < ? ORDER BY {keys} LIMIT ?"
        )
        with self._connection() as connection:
            found: list[Tick] = connection.execute(sql, (symbol, start_ns, end_ns, limit)).fetchall()
            connection.rollback()
        return found[::-1] if newest else found

    def positions(self) -> dict[str, tuple[int, int]]:
        """By publisher how far its log has been dealt with."""
        with self._connection() as connection:
            found = connection.execute("SELECT publisher, epoch, position FROM position").fetchall()
            connection.rollback()
        return {name: (epoch, position) for name, epoch, position in found}

    def symbols(self) -> list[str]:
        """Every symbol of which there is a candle, in alphabetical order."""
        return self._symbols("candle")

    def forget(self, interval: str, before_ns: int, symbols: Sequence[str] | None = None) -> int:
        """Delete candles, or with `TICK` ticks, that began before ``before_ns``, of these symbols or of all; return how
        many.
        """
        count = 0
        rest: list[int | str]
        if interval == TICK:
            sql, rest = "DELETE FROM tick WHERE symbol = ? AND time < ?", [before_ns]
        else:
            sql, rest = "DELETE FROM candle WHERE symbol = ? AND start < ? AND interval = ?", [before_ns, interval]
        if symbols is None:
            symbols = self._symbols(TICK if interval == TICK else "candle")
        for first in range(0, len(symbols), FORGET_SYMBOLS):
            with self._connection() as connection:
                self._begin(connection)
                for symbol in symbols[first : first + FORGET_SYMBOLS]:
                    count += connection.execute(self._sql(sql), (symbol, *rest)).rowcount
                connection.commit()
        return count

    def _symbols(self, table: str) -> list[str]:
        found: list[str] = []
        sql = self._sql(f"SELECT min(symbol) FROM {table} WHERE symbol > ?")  # a step in the key each, not a scan
        with self._connection() as connection:
            last: str | None = ""
            while last := connection.execute(sql, (last,)).fetchone()[0]:
                found.append(last)
            connection.rollback()
        return found

    def close(self) -> None:
        """Close every connection; may be called again."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for connection in idle:
            connection.close()

    def _sql(self, text: str) -> str:
        return text.replace("?", self._mark)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """An idle connection or a new one; after an error it is thrown away, and made anew by who comes next."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        try:
            if connection is not None and not self._leads_there(connection):
                connection.close()
                connection = None
            connection = connection or self._connect()
            yield connection
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, self._errors):
                raise StoreError(f"{self.name}: {_words(error)}") from error
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()


def open_history(url: str, *, read_only: bool = False) -> History:
    """The store at ``url``: a file's path, or postgresql://. Connects at first use. Raises UnavailableError where the
    library that it needs is not installed.
    """
    if "://" not in url:
        sqlite: History = importlib.import_module("fabric.history_sqlite").SqliteHistory(url, read_only=read_only)
        return sqlite
    try:
        postgres: History = importlib.import_module("fabric.history_postgres").PostgresHistory(url)
    except ImportError as error:
        raise UnavailableError(
            "a history in PostgreSQL needs psycopg: pip install 'market-fabric[postgres]'"
        ) from error
    return postgres


def lasting(rows: Rows) -> Rows:
    """Of a batch the rows that belong into a history: of symbols, the candles that have closed and the trades (EVENT, a
    copy).
    """
    kinds = rows["kind"]
    bars = (kinds >= KIND_BAR_1M) & (kinds < KIND_BAR_1M + len(INTERVALS))
    kept: Rows = rows[((bars & (rows.view(BAR)["rev"] > 0)) | (kinds == KIND_TRADE)) & (rows["symbol"] > 0)].view(EVENT)
    return kept


def _tick(values: list[int]) -> tuple[int | str | None, ...]:
    """The columns of a TRADE row as they are stored; a trade without a time has none to be found by: 0."""
    time, *rest = (None if value == NULL else value for value in values)
    named = zip(list(_TICK)[1:], rest, strict=True)
    return time or 0, *((unpack(value or 0) if name in _TICK_TEXTS else value) for name, value in named)


def _upsert() -> str:
    names = (*_KEY[:2], *_STORED)
    values = ", ".join("?" if name in _KEY else f"NULLIF(?, {NULL + 1} - 1)" for name in names)
    updates = ", ".join(f"{name} = excluded.{name}" for name in names if name not in _KEY)
    later = "excluded.epoch = candle.epoch AND (excluded.rev, excluded.final) > (candle.rev, candle.final)"
    fuller = "(-excluded.gap, excluded.trades) > (-candle.gap, candle.trades)"
    return (
        f"INSERT INTO candle ({', '.join(names)}) VALUES ({values}) ON CONFLICT ({', '.join(_KEY)}) DO UPDATE "
        f"SET {updates} WHERE {later} OR (excluded.epoch <> candle.epoch AND {fuller})"
    )


_SELECT = "SELECT " + ", ".join(f"coalesce({name}, {NULL + 1} - 1)" for name in _READ) + " FROM candle"
_INSERT_TICK = (
    f"INSERT INTO tick (symbol, {', '.join(_TICK)}) VALUES ({', '.join('?' * (1 + len(_TICK)))}) ON CONFLICT DO NOTHING"
)
_UPSERT_POSITION = (
    "INSERT INTO position (publisher, epoch, position) VALUES (?, ?, ?) ON CONFLICT (publisher) "
    "DO UPDATE SET epoch = excluded.epoch, position = excluded.position"
)


def _words(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return text or type(error).__name__
