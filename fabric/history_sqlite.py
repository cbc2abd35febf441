"""Candles in a file: SQLite, the engine of one machine.

In WAL mode readers never wait for the writer nor it for them; with ``synchronous=NORMAL`` a killed process loses
nothing, and a power cut at most the last seconds, which the position beside them then asks from the publishers' logs
again. A file that was removed or replaced meanwhile is left for the one that its path names now: SQLite itself would
go on writing into a file that nobody finds again. Sources: sqlite.org/wal.html, sqlite.org/pragma.html,
sqlite.org/howtocorrupt.html (section 2.5).
"""

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

from fabric.errors import StoreError
from fabric.history import CREATE, CREATE_TICK, TICK_COLUMNS, VIEW_COLUMNS, History

SCHEMA = 1
"""`user_version` of the files that this build writes."""
BUSY_S = 1.0
CACHE_KIB = 32_768
"""Of each connection: the inner pages of the tree stay in memory."""
_VIEW = (
    "CREATE VIEW IF NOT EXISTS candles AS SELECT symbol, interval, "
    f"strftime('%Y-%m-%dT%H:%M:%SZ', start / 1000000000, 'unixepoch') AS start, {VIEW_COLUMNS} FROM candle"
)
_VIEW_TICK = (
    "CREATE VIEW IF NOT EXISTS ticks AS SELECT symbol, strftime('%Y-%m-%dT%H:%M:%S', time / 1000000000, 'unixepoch') "
    f"|| printf('.%09dZ', time % 1000000000) AS time, venue, {TICK_COLUMNS} FROM tick"
)


class _Connection(sqlite3.Connection):
    file: tuple[int, int] | None = None
    """Device and inode of what it has open."""


class SqliteHistory(History):
    """The history in the file at ``path``. ``read_only``: the file must be there, and is never written."""

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        super().__init__()
        self.name = path
        self._path = Path(path)
        self._read_only = read_only

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return (sqlite3.Error, OSError)

    def _connect(self) -> Any:
        mode = "ro" if self._read_only else "rwc"
        if not self._read_only:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_S, isolation_level=None,
            check_same_thread=False, factory=_Connection,
        )  # fmt: skip
        try:
            connection.file = self._file()
            connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            if not self._read_only:
                self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _leads_there(self, connection: Any) -> bool:
        return connection.file is not None and connection.file == self._file()

    def _file(self) -> tuple[int, int] | None:
        with suppress(OSError):
            found = self._path.stat()
            return found.st_dev, found.st_ino
        return None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, SCHEMA):
            raise StoreError(f"{self.name}: written by another version (schema {found}, this build knows {SCHEMA})")
        if not found:
            table, position = CREATE
            for statement in (f"{table} WITHOUT ROWID", position, _VIEW, f"PRAGMA user_version={SCHEMA}"):
                connection.execute(statement)
        for statement in (f"{CREATE_TICK} WITHOUT ROWID", _VIEW_TICK):  # files of older builds have none
            connection.execute(statement)

    def _begin(self, connection: Any) -> None:
        connection.execute("BEGIN IMMEDIATE")

    def size_bytes(self) -> int:
        files = (self._path, self._path.with_name(self._path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())
