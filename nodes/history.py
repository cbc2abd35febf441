"""Candles -> the history store: the node. Closed candles wait in a bounded buffer for a thread that writes them, and
so do trades, where the topology asks for ticks (`history.ticks`): then it reads them too.

The bus side never waits for the store: it puts what lasts of each batch (`fabric.history.lasting`) into the `Buffer`;
the thread takes from there each `WRITE_EVERY_NS`, for candles close all at once. While the store is away they wait;
what is more than `rows_max` pushes out the oldest, and is counted as ``lost``. With each transaction goes how far the
publishers' logs have been read, so after a crash of anything the logs bring what had not been written, and what had
been is written again to no effect.

Once an hour the same thread forgets what is older than its interval is kept, and writes the days that are over to the
archive, where there is one.
"""

import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from fabric import history, history_parquet
from fabric.clock import MILLISECOND_NS, SECOND_NS
from fabric.errors import StoreError
from fabric.history import CHUNK, TICK, History
from fabric.node import Runtime
from fabric.records import KIND_TRADE, Rows
from fabric.topology import HistorySettings

GATHER_NS = 100 * MILLISECOND_NS
"""Candles in progress, which are not stored, come thousands a second: take them seldom and many at once. At 10,000 a
second a reader that gathers for so long is no further behind than what an operator is warned of (1,000 messages).
"""
RECEIVE_MS = 100
WRITE_EVERY_NS = 2 * SECOND_NS
"""Candles may gather for so long: each transaction touches a page of the file for each of its symbols."""
RETRY_NS = SECOND_NS
"""How soon a store that failed is tried again."""
TIDY_EVERY_NS = 3_600 * SECOND_NS
STOP_S = 3.0
"""What writing the last candles may take."""

Positions = Mapping[str, tuple[int, int]]


def main(runtime: Runtime) -> None:
    """Keep the history until told to stop."""
    settings, clock = runtime.spec.settings, runtime.clock
    assert isinstance(settings, HistorySettings)
    store = history.open_history(settings.url)
    archive = history_parquet.Archive(settings.archive) if settings.archive else None
    writer = Writer(runtime, store, Buffer(settings.rows_max), settings, archive)
    inbox = runtime.inbox(GATHER_NS, complete=True)
    inbox.resume(writer.positions())
    try:
        while not runtime.stopping():
            batch = inbox.recv_batch(RECEIVE_MS)
            if batch.size:
                writer.take(batch, inbox.positions())
            writer.turn(clock.monotonic_ns(), clock.now_ns())
            runtime.ready(store.name)
            runtime.report(lambda: {**inbox.counters(), **writer.counters()})
    finally:
        writer.close()


class Buffer:
    """Candles that wait for the store, oldest first, with the position behind each part; at most ``rows_max`` of them.

    For one thread that puts and one that takes.
    """

    def __init__(self, rows_max: int) -> None:
        self.rows_max = rows_max
        self.lost = 0
        self._parts: deque[tuple[Rows, Positions]] = deque()
        self._rows = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Candles that wait."""
        return self._rows

    def put(self, rows: Rows, positions: Positions) -> None:
        """Add rows at the end, and how far their publishers' logs are read with them; the oldest go when it is full."""
        with self._lock:
            if not rows.size and self._parts:  # nothing to store, but the logs have been read on
                self._parts[-1] = (self._parts[-1][0], positions)
                return
            self._parts.append((rows, positions))
            self._rows += rows.size
            while self._rows > self.rows_max:
                oldest, _ = self._parts.popleft()
                self._rows -= oldest.size
                self.lost += oldest.size

    def first(self, rows_max: int) -> tuple[list[Rows], Positions]:
        """The oldest parts, of ``rows_max`` rows or one part, and what to note behind them."""
        with self._lock:
            parts: list[Rows] = []
            count, positions = 0, dict[str, tuple[int, int]]()
            for rows, behind in self._parts:
                if parts and count + rows.size > rows_max:
                    break
                parts.append(rows)
                count += rows.size
                positions.update(behind)
            return parts, positions

    def drop(self, parts: list[Rows]) -> None:
        """Take out what `first` gave, as far as it is still there."""
        with self._lock:
            for rows in parts:
                if self._parts and self._parts[0][0] is rows:
                    self._parts.popleft()
                    self._rows -= rows.size


class Writer:
    """The thread that talks to the store."""

    def __init__(
        self,
        runtime: Runtime,
        store: History,
        buffer: Buffer,
        settings: HistorySettings,
        archive: history_parquet.Archive | None = None,
    ) -> None:
        self._runtime = runtime
        self._store = store
        self._buffer = buffer
        self._keep_ns = dict(settings.keep_ns)
        self._archive = archive
        self._thread = ThreadPoolExecutor(1, "history")
        self._work: Future[None] | None = None
        self._due_ns = 0
        self._tidy_ns: int | None = None
        self._problem = ""
        self._size_bytes = 0
        self.written = self.ticks = self.transactions = self.failures = self.forgotten = self.archived = 0

    def positions(self) -> Positions:
        """How far the publishers' logs have been dealt with by who wrote here last; none where the store is away."""
        try:
            return self._store.positions()
        except StoreError as error:
            self._runtime.log.warning("the store does not say how far it is; going on from now: %s", error)
            return {}

    def take(self, batch: Rows, positions: Positions) -> None:
        """Put the closed candles and the trades of a batch of the bus where the thread finds them."""
        self._buffer.put(history.lasting(batch), positions)

    def turn(self, monotonic_ns: int, now_ns: int) -> None:
        """Hand the thread what is due, unless it is still busy; never waits."""
        if monotonic_ns < self._due_ns or (self._work is not None and not self._work.done()):
            return
        self._settle()
        tidy = self._tidy_ns is None or monotonic_ns - self._tidy_ns >= TIDY_EVERY_NS
        self._tidy_ns = monotonic_ns if tidy else self._tidy_ns
        self._due_ns = monotonic_ns + (RETRY_NS if self._problem else WRITE_EVERY_NS)
        self._work = self._thread.submit(self._write, now_ns if tidy else None)

    def counters(self) -> dict[str, int | float | str]:
        """Rows written, ticks of these; rows waiting, lost; transactions, failures; forgotten, archived files; what
        the store says.
        """
        return {
            "written": self.written,
            "ticks": self.ticks,
            "waiting": len(self._buffer),
            "lost_candles": self._buffer.lost,
            "transactions": self.transactions,
            "failures": self.failures,
            "forgotten": self.forgotten,
            "archived": self.archived,
            "size_mb": self._size_bytes >> 20,
            "store": self._problem or "ok",
        }

    def close(self) -> None:
        """Write what waits, as far as the store takes it in `STOP_S`."""
        last = self._thread.submit(self._write, None)
        try:
            last.result(STOP_S)
        except TimeoutError:
            self._runtime.log.warning("the store did not take the last %d candles in time", len(self._buffer))
        except StoreError as error:
            self._runtime.log.warning("%d candles were not written: %s", len(self._buffer), error)
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._store.close()

    def _settle(self) -> None:
        """Look at how the last turn of the thread ended; say so when that has changed."""
        problem = ""
        if self._work is not None:
            error = self._work.exception()
            if error is not None and not isinstance(error, StoreError):
                raise error
            problem = str(error or "")
        if problem:
            self.failures += 1
        if bool(problem) != bool(self._problem):
            if problem:
                self._runtime.log.error("history: %s; candles wait", problem)
            else:
                self._runtime.log.info("history: works again, %d candles waited", len(self._buffer))
        self._problem = problem

    # In the thread.

    def _write(self, tidy_at_ns: int | None) -> None:
        names = self._runtime.symbols
        while len(self._buffer):
            parts, positions = self._buffer.first(CHUNK)
            rows = np.concatenate(parts)
            self._store.write([names.name(symbol) for symbol in rows["symbol"].tolist()], rows, positions)
            self._buffer.drop(parts)
            self.written += rows.size
            self.ticks += int(np.count_nonzero(rows["kind"] == KIND_TRADE))
            self.transactions += 1
        if tidy_at_ns is not None:
            self._tidy(tidy_at_ns)

    def _tidy(self, now_ns: int) -> None:
        symbols = self._store.symbols()
        if self._archive is not None:
            self.archived += self._archive.catch_up(self._store, symbols, now_ns)
        for interval, keep_ns in self._keep_ns.items():
            self.forgotten += self._store.forget(interval, now_ns - keep_ns, None if interval == TICK else symbols)
        self._size_bytes = self._store.size_bytes()
