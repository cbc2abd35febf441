"""Bus -> Redis: a node that keeps the latest quotes and candles in the cache.

The bus side (`main`) never waits for Redis: it applies batches to tables, and a few times a second hands
what is due to one thread that writes it. While that thread is busy, flushes are skipped and counted; the next one
takes the latest values, so nothing queues. What could not be written is due again.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fabric.clock import MILLISECOND_NS, SECOND_NS
from fabric.errors import StoreError
from fabric.node import Runtime
from fabric.records import BAR, KIND_BAR_1M, KIND_NBBO, NBBO, NULL, Rows, empty
from fabric.symbols import SymbolTable
from fabric.topology import CacheSettings, Limits, Source
from gateway import redis_kernel
from gateway.latest import Latest
from gateway.latest_kernel import INTERVALS
from gateway.store import ServerInfo, Store, Written

GATHER_NS = 50 * MILLISECOND_NS
"""Values may gather for so long: they are written a few times a second."""
_LONG_AGO_NS = -(1 << 62)


def main(runtime: Runtime) -> None:
    """Keep the cache until told to stop."""
    settings, clock = runtime.spec.settings, runtime.clock
    assert isinstance(settings, CacheSettings)
    pending = Pending(settings, runtime.topology.limits, runtime.spec.reads, runtime.symbols)
    writer = Writer(runtime, Store(settings, clock), pending)
    inbox = runtime.inbox(GATHER_NS)
    redis_kernel.warm_up()
    interval_ns = SECOND_NS // settings.writes_per_second
    flush_ns = clock.monotonic_ns() + interval_ns
    try:
        runtime.ready(f"cache: {settings.mode}")
        while not runtime.stopping():
            wait_ns = flush_ns - clock.monotonic_ns()
            batch = inbox.recv_batch(timeout_ms=min(max(-(-wait_ns // MILLISECOND_NS), 0), 100))
            pending.apply(batch, clock.now_ns())
            if (now_ns := clock.monotonic_ns()) >= flush_ns:
                writer.flush(now_ns, clock.now_ns())
                runtime.report(lambda: {**inbox.counters(), **writer.counters()})
                flush_ns = max(flush_ns + interval_ns, now_ns)
    finally:
        writer.close()


@dataclass(frozen=True)
class Due:
    """What one flush writes: copies, so that the tables may go on."""

    quotes: Rows  # NBBO
    changed: npt.NDArray[np.bool_]  # of the quotes: not only about to expire
    bars: Rows  # BAR


class Pending:
    """The latest values, and which of them the cache does not hold yet, or not for much longer."""

    def __init__(
        self, settings: CacheSettings, limits: Limits, sources: tuple[Source, ...], symbols: SymbolTable
    ) -> None:
        self.symbols = symbols
        # Of the gateway's memory only the latest values are needed: no venues' own quotes, one candle.
        self._latest = Latest(replace(limits, candles_kept=1), (), sources, symbols)
        capacity = symbols.capacity
        self._quotes = redis_kernel.written(capacity)
        self._bars = redis_kernel.written(INTERVALS, capacity)
        self._due_quotes = empty(capacity, NBBO, KIND_NBBO)
        self._changed = np.zeros(capacity, np.bool_)
        self._due_bars = empty(INTERVALS * capacity, BAR, KIND_BAR_1M)
        # A quote is written again when two flushes more would be too late: one of them may be skipped.
        life_ns = settings.quote_ttl_ms * MILLISECOND_NS
        self._refresh_ns = life_ns - 2 * SECOND_NS // settings.writes_per_second

    def apply(self, batch: Rows, now_ns: int) -> None:
        """Take over a batch of the bus; ``now_ns`` is UTC."""
        if batch.size:
            self._latest.apply(batch, now_ns)

    def take(self, monotonic_ns: int, now_ns: int) -> Due:
        """What is to be written now; from here on it counts as written."""
        tables, letters, known = self._latest.tables, self.symbols.arrays.names, len(self.symbols)
        quotes = redis_kernel.due_quotes(
            tables, letters, known, self._quotes, monotonic_ns, self._refresh_ns, self._due_quotes, self._changed
        )
        bars = redis_kernel.due_bars(tables, known, self._bars, now_ns, self._due_bars)
        return Due(self._due_quotes[:quotes].copy(), self._changed[:quotes].copy(), self._due_bars[:bars].copy())

    def settle(self, due: Due, written: Written) -> None:
        """Make due again what was not written; everything, when a server lost what it had."""
        if written.emptied:
            self._quotes["at_ns"], self._bars["seq"] = _LONG_AGO_NS, NULL
        self._quotes["seq"][due.quotes["symbol"][~written.quotes]] = NULL
        bars = due.bars[~written.bars]
        self._bars["seq"][bars["kind"] - KIND_BAR_1M, bars["symbol"]] = NULL


class Writer:
    """The thread that talks to Redis, with room for one flush."""

    def __init__(self, runtime: Runtime, store: Store, pending: Pending) -> None:
        self._runtime = runtime
        self._store = store
        self._pending = pending
        self._thread = ThreadPoolExecutor(1, "redis")
        self._flush: Future[tuple[Written, ServerInfo | None]] | None = None
        self._due: Due | None = None
        self._info: ServerInfo | None = None
        self._info_ns = 0
        self._emptied_ns = NULL
        self._problem = ""
        self.written = self.skipped = self.failed = self.emptied = 0

    def flush(self, monotonic_ns: int, now_ns: int) -> None:
        """Hand over what is due, unless the thread is still busy with the last."""
        if self._flush is not None and not self._flush.done():
            self.skipped += 1
            return
        self._settle(monotonic_ns)
        due = self._pending.take(monotonic_ns, now_ns)
        ask = monotonic_ns - self._info_ns >= SECOND_NS
        self._info_ns = monotonic_ns if ask else self._info_ns
        self._due = due
        self._flush = self._thread.submit(self._write, due, ask)

    def counters(self) -> dict[str, int | float | str]:
        """Values written, flushes skipped, values that failed, times a server was found emptied; breaker and server."""
        info = self._info
        return {
            "written": self.written,
            "skipped": self.skipped,
            "failed": self.failed,
            "emptied": self.emptied,
            "breaker": self._store.state(),
            "server": info.version if info else "",
            "keys": info.keys if info else 0,
        }

    def close(self) -> None:
        """Wait for the flush that runs, which the store's time-outs bound."""
        self._thread.shutdown()
        self._store.close()

    def _write(self, due: Due, ask: bool) -> tuple[Written, ServerInfo | None]:
        written = self._store.write(self._pending.symbols, due.quotes, due.changed, due.bars)
        try:
            return written, self._store.server_info() if ask else None
        except StoreError:
            return written, None

    def _settle(self, monotonic_ns: int) -> None:
        """Account for the last flush."""
        if self._flush is None or self._due is None:
            return
        written, info = self._flush.result()
        self._info = info or self._info
        done = int(written.quotes.sum() + written.bars.sum())
        self.written += done
        self.failed += written.quotes.size + written.bars.size - done
        if written.emptied and monotonic_ns - self._emptied_ns < SECOND_NS:
            written = replace(written, emptied=False)  # a server that evicts: do not write all of it at every flush
        if written.emptied:
            self._emptied_ns = monotonic_ns
            self.emptied += 1
            self._runtime.log.warning("redis lost its keys; writing all of them again")
        self._pending.settle(self._due, written)
        if bool(written.problem) != bool(self._problem):
            if written.problem:
                self._runtime.log.error("redis: %s", written.problem)
            else:
                self._runtime.log.info("redis: works again")
        self._problem = written.problem
