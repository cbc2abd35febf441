"""The gateway's memory: the latest value of every topic it reads, and the recent candles of every symbol.

What REST answers and what a WebSocket client gets first comes from here, so no read ever waits for
anything outside the process. One thread owns it (the IOLoop's): a batch of the bus is applied whole
between two reads.

A value is **stale** when its processor says so, when the link to its publisher is down, or when that
publisher was lost or born again and the value has not come anew since; a venue's own quote also when the
venue's line is stale, or was and the quote has not come anew since. The last two-sided best bid and offer
stays readable after that (`display`), so that a client sees what was, marked as such, and not nothing.
"""

import mmap
from collections.abc import Sequence

import numpy as np

from fabric.records import CHANNELS, KIND_BAR_1D, KIND_BAR_1M, KIND_GAP, NULL, VENUE_CHANNELS, Rows
from fabric.symbols import SymbolTable
from fabric.topology import Limits, Source, Venue
from gateway import latest_kernel
from gateway.latest_kernel import CANDLE, INTERVALS, LINK_UNKNOWN, Tables

BAR_KINDS = range(KIND_BAR_1M, KIND_BAR_1D + 1)
_MAP_NORESERVE = 0x4000  # mmap(2) on Linux; the mmap module names it from Python 3.13 on


def _lazy_zeros(shape: tuple[int, ...], dtype: np.dtype[np.void]) -> Rows:
    """Zeroed memory that costs nothing until a page of it is written.

    Candle rings of all the symbols there may be are gigabytes of address space, of which a day touches a few
    per cent. numpy would ask for huge pages, and then each ring touched would cost 2 MiB.
    """
    count = int(np.prod(shape))
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    memory = mmap.mmap(-1, max(count * dtype.itemsize, mmap.PAGESIZE), flags=flags)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype, count).reshape(shape)


class Latest:
    """Last rows by symbol id, to be read freely between two calls of `apply`; one that does not exist has seq NULL.

    ``nbbo``, ``last_known``: NBBO[symbols]; ``bolos``: BOLO[symbols]; ``whys``: WHY[symbols];
    ``quotes``: QUOTE[symbols, venues]; ``trades``: TRADE[symbols];
    ``statuses``: STATUS[symbols]; ``venue_statuses``: STATUS[venues]; ``bars[kind]``: BAR[symbols].
    ``tables`` is all of it, as kernels take it.
    """

    def __init__(
        self, limits: Limits, venues: Sequence[Venue], sources: Sequence[Source], symbols: SymbolTable
    ) -> None:
        """``sources`` in the order that the inbox has them: LINK rows name a publisher by its index."""
        self.symbols = symbols
        self.venues = tuple(venue.code for venue in venues)
        candles = _lazy_zeros((INTERVALS, symbols.capacity, limits.candles_kept), CANDLE)
        self.tables: Tables = latest_kernel.make(symbols.capacity, len(venues), len(sources), candles)
        self.nbbo = self.tables.nbbo
        self.bolos = self.tables.bolos
        self.whys = self.tables.whys
        self.last_known = self.tables.last_known
        self.quotes = self.tables.quotes
        self.trades = self.tables.trades
        self.statuses = self.tables.statuses
        self.venue_statuses = self.tables.venue_statuses
        self.bars = {kind: self.tables.bars[kind - KIND_BAR_1M] for kind in BAR_KINDS}
        self._letters = symbols.arrays.names
        self._found: dict[str, int] = {}
        for slot, code in enumerate(self.venues):
            self.tables.venue_slots[ord(code)] = slot
        for index, source in enumerate(sources):
            self._own(index, source)

    def _own(self, index: int, source: Source) -> None:
        """Note what this publisher speaks for: its channels, venues and first letters."""
        publisher = source.publisher
        letters = [ord(letter) for letter in publisher.letters] or list(range(128))
        for channel in publisher.channels:
            kind = CHANNELS.get(channel)
            if kind is None:  # `node`: heartbeats are no values
                continue
            slots = [-1]
            if channel in VENUE_CHANNELS:
                slots += [int(self.tables.venue_slots[ord(code)]) for code in publisher.venues]
            for slot in slots:
                self.tables.owners[kind, slot, letters] = index

    def apply(self, batch: Rows, now_ns: int) -> None:
        """Take over a batch of the inbox (EVENT rows of any kind)."""
        latest_kernel.apply(self.tables, self._letters, latest_kernel.views(batch), now_ns)

    def find(self, name: str) -> int:
        """The id of a symbol that has been heard of on the bus, or -1."""
        symbol = self._found.get(name)
        if symbol is None:
            symbol = self.symbols.find(name)
            if symbol <= 0:
                return -1
            self._found[name] = symbol  # a name keeps its id
        return symbol

    def slot(self, venue: str) -> int:
        """The column of ``quotes`` that belongs to a venue letter; -1 when the topology has no such venue."""
        return int(self.tables.venue_slots[ord(venue)]) if len(venue) == 1 and venue.isascii() else -1

    def stale(self, symbol: int) -> bool:
        """Whether the symbol's best bid and offer is stale; True where there is none."""
        return bool(latest_kernel.nbbo_stale(self.tables, self._letters, symbol))

    def quote_stale(self, symbol: int, slot: int) -> bool:
        """Whether one venue's own quote is stale; True where there is none."""
        return bool(latest_kernel.quote_stale(self.tables, self._letters, symbol, slot))

    def display(self, symbol: int) -> np.void | None:
        """The NBBO row to show: the current one, or the last known when that is stale; None if there never was one."""
        return self.shown(symbol)[0]

    def shown(self, symbol: int) -> tuple[np.void | None, bool]:
        """The row of `display`, and whether the best bid and offer is stale."""
        now, stale = self.nbbo[symbol], self.stale(symbol)
        if stale and self.last_known[symbol]["seq"] != NULL:
            return self.last_known[symbol], True
        return (now if now["seq"] != NULL else None), stale

    def candles(self, symbol: int, kind: int, start_ns: int, end_ns: int, limit: int) -> Rows:
        """The newest ``limit`` candles with ``start_ns <= start < end_ns``, oldest first, as a copy (CANDLE)."""
        interval = kind - KIND_BAR_1M
        out = np.empty(min(limit, self.tables.candles.shape[2]), CANDLE)
        first = self.tables.candles_first[interval, symbol]
        count = self.tables.candles_count[interval, symbol]
        ring = self.tables.candles[interval, symbol]
        return out[: latest_kernel.read_candles(ring, first, count, start_ns, end_ns, out)]

    def links(self) -> list[bool | None]:
        """Whether each source is up, in their order; None before the first word about it."""
        return [None if up == LINK_UNKNOWN else up == 1 for up in self.tables.link_up.tolist()]

    def counters(self) -> dict[str, int]:
        """Rows by channel, gaps, rows without a place, and symbols that have an NBBO."""
        counts = {
            f"rows_{channel.replace('.', '_')}": int(self.tables.counts[kind]) for channel, kind in CHANNELS.items()
        }
        return counts | {
            "gaps": int(self.tables.counts[KIND_GAP]),
            "unplaced": int(self.tables.unplaced[0]),
            "quoted": int(np.count_nonzero(self.nbbo["seq"] != NULL)),
        }
