"""Batches of bus rows into the tables of latest values, compiled (pure): `apply`, and the rule of what is stale.

Rows of one batch are applied in their order of arrival. Everything that is kept is written in place; nothing
is allocated. The tables are one named tuple of arrays, so other kernels of the gateway can take it whole.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import kernel, lean, lean_kernel
from fabric.records import (
    BAR,
    BOLO,
    EVENT,
    KIND_BAR_1D,
    KIND_BAR_1M,
    KIND_BOLO,
    KIND_GAP,
    KIND_LINK,
    KIND_NBBO,
    KIND_QUOTE,
    KIND_STATUS,
    KIND_TRADE,
    KIND_WHY,
    LINK,
    NBBO,
    NULL,
    QUOTE,
    STATE_STALE,
    STATUS,
    TRADE,
    WHY,
    Rows,
    empty,
    pack,
)

INTERVALS = KIND_BAR_1D - KIND_BAR_1M + 1
MARK_CANCEL = pack("x")
MARK_CORRECTION = pack("c")
STALE_LINE = pack("stale")
LINK_UNKNOWN = -1

CANDLE = np.dtype(
    [
        ("start_ns", "<i8"),
        ("open_px", "<i8"),
        ("high_px", "<i8"),
        ("low_px", "<i8"),
        ("close_px", "<i8"),
        ("volume", "<i8"),
        ("trades", "<i8"),
        ("vwap_px", "<i8"),
        ("rev", "<i4"),
        ("final", "<i2"),
        ("gap", "<i2"),
    ]
)
"""A bar without its way through the bus: what is kept of history. 72 bytes."""


class Tables(NamedTuple):
    """Every array of `Latest`, as kernels take them. ``symbol`` indexes are ids of the process's SymbolTable.

    A row that does not exist has ``seq`` NULL.
    """

    nbbo: Rows  # NBBO[symbols]
    bolos: Rows  # BOLO[symbols]
    whys: Rows  # WHY[symbols]
    last_known: Rows  # NBBO[symbols] the last that was two-sided and not stale
    quotes: Rows  # QUOTE[symbols, venues]
    trades: Rows  # TRADE[symbols] the last to arrive, of any venue
    statuses: Rows  # STATUS[symbols] the last to arrive, of any venue
    venue_statuses: Rows  # STATUS[venues] of the whole venue (empty symbol)
    bars: Rows  # BAR[4, symbols] the bar with the latest start: 1m, 5m, 1h, 1d
    candles: Rows  # CANDLE[4, symbols, kept] a ring each, in order of start
    candles_first: npt.NDArray[np.int64]  # [4, symbols] place of the oldest in the ring
    candles_count: npt.NDArray[np.int64]  # [4, symbols]
    venue_slots: npt.NDArray[np.int64]  # [128] ASCII code of a venue letter -> slot, or -1
    owners: npt.NDArray[np.int64]  # [kinds, venues + 1, 128] publisher by kind, venue slot (last: none), first letter
    link_up: npt.NDArray[np.int64]  # [publishers] 1 up, 0 down, LINK_UNKNOWN before the first word
    link_since_ns: npt.NDArray[np.int64]  # [publishers] when that last changed
    losses: npt.NDArray[np.int64]  # [publishers] how often its link was lost
    epochs: npt.NDArray[np.int64]  # [publishers] the newest incarnation heard
    line_stale: npt.NDArray[np.int64]  # [venues] 1 while the last word about the venue's line is `stale`
    line_losses: npt.NDArray[np.int64]  # [venues] how often its line became stale
    nbbo_heard: npt.NDArray[np.int64]  # [symbols] its publisher's losses when the row came
    quotes_heard: npt.NDArray[np.int64]  # [symbols, venues] likewise
    quotes_line_heard: npt.NDArray[np.int64]  # [symbols, venues] its line's losses when the row came
    counts: npt.NDArray[np.int64]  # [KIND_GAP + 1] rows applied, by kind
    unplaced: npt.NDArray[np.int64]  # [1] rows that no table has a place for: an unknown venue or kind


class Batch(NamedTuple):
    """One batch of the bus under the names of each kind: nine views of the same rows."""

    events: Rows
    nbbos: Rows
    quotes: Rows
    trades: Rows
    statuses: Rows
    bars: Rows
    links: Rows
    bolos: Rows
    whys: Rows


@lean_kernel
def owner(tables: Any, letters: Any, kind: int, symbol: int, slot: int) -> int:
    """Return the publisher of this kind, venue slot (-1 for none) and symbol, or -1."""
    letter = np.int64(letters[symbol, 0])
    if letter >= 128:
        return -1
    return tables.owners[kind, slot, letter]


@lean_kernel
def source_lost(tables: Any, publisher: int, epoch: int, heard: int) -> bool:
    """Whether ``publisher`` was lost or born again since a value came in ``epoch`` and after ``heard`` losses.

    That its link is up again says nothing of a value: it may have changed meanwhile. Only its next row does.
    """
    if publisher < 0:
        return False
    return tables.link_up[publisher] == 0 or heard < tables.losses[publisher] or epoch < tables.epochs[publisher]


@lean_kernel
def quote_lost(tables: Any, letters: Any, symbol: int, slot: int, epoch: int) -> bool:
    """Whether the venue's line is stale, or it or the publisher was lost since the quote came in ``epoch``."""
    if tables.line_stale[slot] != 0 or tables.quotes_line_heard[symbol, slot] < tables.line_losses[slot]:
        return True
    publisher = owner(tables, letters, KIND_QUOTE, symbol, slot)
    return source_lost(tables, publisher, epoch, tables.quotes_heard[symbol, slot])


@lean_kernel
def nbbo_stale(tables: Any, letters: Any, symbol: int) -> bool:
    """Whether the symbol's best bid and offer may no longer be taken as live; True where there is none."""
    row = tables.nbbo[symbol]
    if row["seq"] == NULL:
        return True
    if row["state"] & STATE_STALE != 0 or (row["bid_px"] == NULL and row["ask_px"] == NULL):
        return True
    publisher = owner(tables, letters, KIND_NBBO, symbol, -1)
    return source_lost(tables, publisher, row["epoch"], tables.nbbo_heard[symbol])


@lean_kernel
def quote_stale(tables: Any, letters: Any, symbol: int, slot: int) -> bool:
    """Whether the quote of the venue in ``slot`` may no longer be taken as live; True where there is none."""
    row = tables.quotes[symbol, slot]
    if row["seq"] == NULL:
        return True
    return quote_lost(tables, letters, symbol, slot, row["epoch"])


@lean
def _fill_candle(candle: Any, bar: Any) -> None:
    candle["start_ns"] = bar["event_ns"]
    candle["open_px"] = bar["open_px"]
    candle["high_px"] = bar["high_px"]
    candle["low_px"] = bar["low_px"]
    candle["close_px"] = bar["close_px"]
    candle["volume"] = bar["volume"]
    candle["trades"] = bar["trades"]
    candle["vwap_px"] = bar["vwap_px"]
    candle["rev"] = max(bar["rev"], 0)  # NULL is 0 in these three
    candle["final"] = max(bar["final"], 0)
    candle["gap"] = max(bar["gap"], 0)


@lean_kernel
def upsert(ring: Any, first: int, count: int, bar: Any) -> tuple[int, int]:
    """Put ``bar`` where its start belongs in ``ring``; return the new ``(first, count)``.

    A lower revision never replaces a higher one. A bar older than everything in a full ring is not kept.
    """
    kept = ring.size
    start_ns = bar["event_ns"]
    after = count  # how many of the ring come before the new one; nearly always all, or all but the last
    while after > 0 and ring[(first + after - 1) % kept]["start_ns"] > start_ns:
        after -= 1
    if after > 0 and ring[(first + after - 1) % kept]["start_ns"] == start_ns:
        if bar["rev"] >= ring[(first + after - 1) % kept]["rev"] or bar["rev"] == NULL:
            _fill_candle(ring[(first + after - 1) % kept], bar)
        return first, count
    if count == kept:
        if after == 0:
            return first, count
        first = (first + 1) % kept  # the oldest goes
        after -= 1
        count -= 1
    for i in range(count, after, -1):
        ring[(first + i) % kept] = ring[(first + i - 1) % kept]
    _fill_candle(ring[(first + after) % kept], bar)
    return first, count + 1


@lean_kernel
def apply(tables: Any, letters: Any, batch: Any, now_ns: int) -> None:
    """Apply one `Batch`; ``letters`` is the symbol table's ``names``."""
    events, nbbos, quotes, trades, statuses, bars, links, bolos, whys = batch
    for i in range(events.size):
        kind = events[i]["kind"]
        if kind == KIND_LINK:
            publisher = links[i]["publisher"]
            if 0 <= publisher < tables.link_up.size:
                if tables.link_up[publisher] != links[i]["up"]:
                    tables.link_up[publisher] = links[i]["up"]
                    tables.link_since_ns[publisher] = now_ns
                if links[i]["up"] == 0:
                    tables.losses[publisher] += 1
                tables.epochs[publisher] = max(tables.epochs[publisher], events[i]["epoch"])
            tables.counts[kind] += 1
            continue
        if kind < KIND_QUOTE or kind > KIND_GAP:
            tables.unplaced[0] += 1
            continue
        if kind == KIND_GAP:  # what was lost comes again by itself; the fan-out tells the clients
            tables.counts[kind] += 1
            continue
        symbol = events[i]["symbol"]
        venue = events[i]["venue"]
        slot = -1
        if venue != 0:
            slot = tables.venue_slots[venue & 127]
            if slot < 0:
                tables.unplaced[0] += 1
                continue
        tables.counts[kind] += 1
        publisher = owner(tables, letters, kind, symbol, slot)
        heard = 0
        if publisher >= 0:
            heard = tables.losses[publisher]
            tables.epochs[publisher] = max(tables.epochs[publisher], events[i]["epoch"])
        if kind == KIND_NBBO:
            tables.nbbo[symbol] = nbbos[i]
            tables.nbbo_heard[symbol] = heard
            if nbbos[i]["bid_px"] != NULL and nbbos[i]["ask_px"] != NULL and nbbos[i]["state"] & STATE_STALE == 0:
                tables.last_known[symbol] = nbbos[i]
        elif kind == KIND_BOLO:
            tables.bolos[symbol] = bolos[i]
        elif kind == KIND_WHY:
            tables.whys[symbol] = whys[i]
        elif kind == KIND_QUOTE:
            if slot >= 0:
                tables.quotes[symbol, slot] = quotes[i]
                tables.quotes_heard[symbol, slot] = heard
                tables.quotes_line_heard[symbol, slot] = tables.line_losses[slot]
        elif kind == KIND_TRADE:
            held = tables.trades[symbol]
            mark = trades[i]["mark"]
            if mark == 0 or mark == NULL:
                tables.trades[symbol] = trades[i]
            elif held["seq"] != NULL and held["venue"] == venue and held["trade_id"] == trades[i]["original_id"]:
                tables.trades[symbol] = trades[i]
                if mark == MARK_CANCEL:
                    tables.trades[symbol]["seq"] = NULL
        elif kind == KIND_STATUS:
            if symbol != 0:
                tables.statuses[symbol] = statuses[i]
            elif slot >= 0:
                tables.venue_statuses[slot] = statuses[i]
                stale = 1 if statuses[i]["venue_state"] == STALE_LINE else 0
                if stale > tables.line_stale[slot]:
                    tables.line_losses[slot] += 1
                tables.line_stale[slot] = stale
        elif KIND_BAR_1M <= kind <= KIND_BAR_1D:
            interval = kind - KIND_BAR_1M
            if bars[i]["event_ns"] >= tables.bars[interval, symbol]["event_ns"]:  # NULL is below every time
                tables.bars[interval, symbol] = bars[i]
            first, count = upsert(
                tables.candles[interval, symbol],
                tables.candles_first[interval, symbol],
                tables.candles_count[interval, symbol],
                bars[i],
            )
            tables.candles_first[interval, symbol] = first
            tables.candles_count[interval, symbol] = count


@kernel
def read_candles(ring: Any, first: int, count: int, start_ns: int, end_ns: int, out: Any) -> int:
    """Copy the candles with ``start_ns <= start < end_ns`` to ``out`` in order, the newest ones if not all fit."""
    kept = ring.size
    low = 0
    while low < count and ring[(first + low) % kept]["start_ns"] < start_ns:
        low += 1
    high = count
    while high > low and ring[(first + high - 1) % kept]["start_ns"] >= end_ns:
        high -= 1
    low = max(low, high - out.size)
    for i in range(low, high):
        out[i - low] = ring[(first + i) % kept]
    return high - low


def make(symbols_max: int, venues: int, publishers: int, candles: Rows) -> Tables:
    """Allocate the tables; ``candles`` is CANDLE[3, symbols_max, kept], zeroed, from whoever manages its memory."""
    return Tables(
        nbbo=empty(symbols_max, NBBO, KIND_NBBO),
        bolos=empty(symbols_max, BOLO, KIND_BOLO),
        whys=empty(symbols_max, WHY, KIND_WHY),
        last_known=empty(symbols_max, NBBO, KIND_NBBO),
        quotes=empty(symbols_max * venues, QUOTE, KIND_QUOTE).reshape(symbols_max, venues),
        trades=empty(symbols_max, TRADE, KIND_TRADE),
        statuses=empty(symbols_max, STATUS, KIND_STATUS),
        venue_statuses=empty(venues, STATUS, KIND_STATUS),
        bars=empty(INTERVALS * symbols_max, BAR, KIND_BAR_1M).reshape(INTERVALS, symbols_max),
        candles=candles,
        candles_first=np.zeros((INTERVALS, symbols_max), np.int64),
        candles_count=np.zeros((INTERVALS, symbols_max), np.int64),
        venue_slots=np.full(128, -1, np.int64),
        owners=np.full((KIND_LINK, venues + 1, 128), -1, np.int64),
        link_up=np.full(publishers, LINK_UNKNOWN, np.int64),
        link_since_ns=np.zeros(publishers, np.int64),
        losses=np.zeros(publishers, np.int64),
        epochs=np.full(publishers, NULL, np.int64),
        line_stale=np.zeros(venues, np.int64),
        line_losses=np.zeros(venues, np.int64),
        nbbo_heard=np.zeros(symbols_max, np.int64),
        quotes_heard=np.zeros((symbols_max, venues), np.int64),
        quotes_line_heard=np.zeros((symbols_max, venues), np.int64),
        counts=np.zeros(KIND_GAP + 1, np.int64),
        unplaced=np.zeros(1, np.int64),
    )


def views(rows: Rows) -> Batch:
    """Rows of any kind under the names of each."""
    return Batch(*[rows.view(dtype) for dtype in (EVENT, NBBO, QUOTE, TRADE, STATUS, BAR, LINK, BOLO, WHY)])


def warm_up() -> None:
    """Compile or load every entry kernel with the array types of the live path."""
    candles = np.zeros((INTERVALS, 1, 1), CANDLE)
    tables = make(1, 1, 1, candles)
    letters = np.zeros((1, 16), np.uint8)
    apply(tables, letters, views(empty(0, EVENT)), 0)
    nbbo_stale(tables, letters, 0)
    quote_stale(tables, letters, 0, 0)
    read_candles(candles[0, 0], 0, 0, 0, 0, np.zeros(1, CANDLE))
