"""Candles in PostgreSQL: the engine beyond one machine; every gateway that reaches it reads the same history.

Where the TimescaleDB extension is installed tables are hypertables of chunks of time; else they are plain ones. The
server must answer within `TIMEOUT_S`, so that a store that hangs is one that is away. Sources: PostgreSQL manual,
"INSERT", "Client Connection Defaults"; docs.timescale.com, create_hypertable (integer time).
"""

from typing import Any
from urllib.parse import urlsplit

import psycopg

from fabric.history import CREATE, CREATE_TICK, TICK_COLUMNS, VIEW_COLUMNS, History

TIMEOUT_S = 5
CHUNK_NS = 7 * 86_400 * 10**9
_LOCK = 0x6661627269630001
"""Advisory lock, held while the tables are made: two that start at once would both find none."""
_VIEW = (
    f"CREATE OR REPLACE VIEW candles AS SELECT symbol, interval, to_timestamp(start / 1e9) AS start, {VIEW_COLUMNS} "
    "FROM candle"
)
_VIEW_TICK = (
    f"CREATE OR REPLACE VIEW ticks AS SELECT symbol, to_timestamp(time / 1e9) AS time, venue, {TICK_COLUMNS} FROM tick"
)
_TABLES = {"candle": ((*CREATE, _VIEW), "start"), "tick": ((CREATE_TICK, _VIEW_TICK), "time")}
"""Table -> what makes it, and its column of time."""


class PostgresHistory(History):
    """The history in the database that ``url`` names."""

    _mark = "%s"

    def __init__(self, url: str) -> None:
        super().__init__()
        parts = urlsplit(url)
        self.name = f"postgresql://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
        self._url = url
        self._made = False

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return (psycopg.Error, OSError)

    def _connect(self) -> Any:
        connection = psycopg.connect(
            self._url,
            connect_timeout=TIMEOUT_S,
            application_name="fabric",
            options=f"-c statement_timeout={TIMEOUT_S * 1000} -c lock_timeout={TIMEOUT_S * 1000}",
            keepalives_idle=TIMEOUT_S,
            tcp_user_timeout=TIMEOUT_S * 1000,
        )
        try:
            if not self._made:
                self._make(connection)
                self._made = True
        except BaseException:
            connection.close()
            raise
        return connection

    def _make(self, connection: Any) -> None:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        for table, (statements, time) in _TABLES.items():
            if connection.execute("SELECT to_regclass(%s)", (table,)).fetchone()[0] is not None:
                continue
            for statement in statements:
                connection.execute(statement)
            there = connection.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'")
            if there.fetchone()[0]:
                connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
                by_range = f"by_range('{time}', {CHUNK_NS})"
                connection.execute(f"SELECT create_hypertable('{table}', {by_range}, if_not_exists => true)")
        connection.commit()

    def _begin(self, connection: Any) -> None:
        """psycopg begins one with the first statement."""

    def size_bytes(self) -> int:
        with self._connection() as connection:
            found = connection.execute("SELECT pg_total_relation_size('candle')").fetchone()[0]
            connection.rollback()
        return int(found)
