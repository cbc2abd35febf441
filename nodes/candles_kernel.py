"""The rule of the candles, compiled (pure): rows in the order of arrival, arrays in, bars out.

Trades change one-minute bars only; the longer bars are folded from them whenever they are published, so
they agree exactly, and a trade costs the same however many intervals there are. Everything in a bar is
independent of the order of arrival: open and close go by (exchange time, exchange sequence, venue), sums are
integers. The notional value is kept in two words with carry (`add_notional`), so the volume-weighted price is the
exact quotient rounded once.

What most trades do is done in the loop of `usual`: a trade of the running minute, in order, that counts for
everything or for volume only. All others, and the first of a symbol or venue in a minute, go through `trade`.

The details of the last trades stand in a ring (`Bars.log`), those of one symbol and minute chained: a cancel, a
correction, and a close that depends on the trades before it, are worked out from them. What the ring has lost
cannot be undone: it is counted, and the bar says `gap`.

Intervals live in slots, one ring of slots for each length (`Plan`); a slot has the list of its symbols, so
closing, publishing and finishing an interval visits the symbols that traded in it and no others. Minute bars
lie side by side for all symbols of one minute: what trades now is close together in memory. A day is folded from
its final minutes (`Bars.days`) and those that may still change.

The estimated exchange time (`CLOCK`) alone opens, closes and finishes intervals, in the order of their
deadlines and at the row that moves it past them.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.native import prefetch
from fabric.records import (
    BAR,
    EVENT,
    GAP,
    KIND_BAR_1M,
    KIND_GAP,
    KIND_LINK,
    KIND_STATUS,
    KIND_TRADE,
    LINK,
    NULL,
    STATUS,
    TRADE,
    empty,
    pack,
)
from nodes.conditions_kernel import allowed
from nodes.sale_conditions_kernel import (
    CTA,
    FIRST,
    HIGH_LOW,
    KNOWN,
    LAST,
    LATE,
    OFFICIAL_CLOSE,
    OFFICIAL_OPEN,
    SOLD,
    SOLD_AFTER_CLOSE_NS,
    VOLUME,
    listing_of,
    plan_of,
)

NO_LIMIT: Final = 2**63 - 1
"""As `latest_ns` of `step`: every exchange time is believed."""
MINUTE_NS: Final = 60_000_000_000
DAY_NS: Final = 24 * 60 * MINUTE_NS
LENGTHS_NS: Final = (MINUTE_NS, 5 * MINUTE_NS, 60 * MINUTE_NS, DAY_NS)
"""Of the intervals, in the order of their kinds (KIND_BAR_1M first); each a multiple of the one before.

A day is one of New York (`Plan.midnights`) and may have 23 or 25 hours.
"""
FIXED: Final = 3
"""The lengths before this one are always the same."""
HOUR: Final = 2
DAY: Final = 3
DAY_MAX_NS: Final = 25 * 60 * MINUTE_NS

SIZE_MAX: Final = 2**31 - 1
"""Shares in one trade."""
PART_BITS: Final = 30
"""Of a price, whose product with a size fits into a word, with room for the carry."""
PART: Final = (1 << PART_BITS) - 1

MINUTE: Final = np.dtype(
    [
        # What every trade touches: one cache line.
        ("usual", "<i4"),  # mask of the venues whose next trade may be usual, and `PRICED`; 0 where none may
        ("trades", "<i4"),
        ("volume", "<i8"),
        ("head", "<i8"),  # its latest trade to arrive, as a position in the log
        ("last_ns", "<i8"),  # of any trade
        ("latest_ns", "<i8"),  # key of the latest trade that was eligible for the close, whether it became it or not
        ("priced_volume", "<i8"),  # of the trades that count for the volume-weighted price
        ("whole", "<i8"),  # their notional value in units of 2**30 prices ...
        ("part", "<i8"),  # ... and the rest
        # What only one with a price does: another.
        ("high_px", "<i8"),
        ("low_px", "<i8"),
        ("close_px", "<i8"),
        ("latest_seq", "<i8"),
        ("latest_venue", "i1"),
        ("close_venue", "i1"),  # of the close
        ("open_venue", "i1"),
        ("_spare", "i1", (5,)),
        ("open_px", "<i8"),
        ("open_ns", "<i8"),
        ("open_seq", "<i8"),
    ]
)
"""A minute of a symbol while it can change: two cache lines. Prices are NULL until a trade sets them.

That of the empty symbol takes what trades without a price would do to prices (`usual`)."""
MINUTE_BYTES: Final = MINUTE.itemsize
PRICED_BIT: Final = 30
PRICED: Final = 1 << PRICED_BIT
"""In `MINUTE`: a later trade with a price cannot change the open."""

ENTRY: Final = np.dtype(
    [
        ("event_ns", "<i8"),
        ("price", "<i8"),
        ("seq", "<i8"),
        ("trade_id", "<i8"),
        ("before", "<i8"),  # position of the trade of the same symbol and minute that arrived before, or -1
        ("size", "<i4"),
        ("rights", "<i2"),  # what it updates; 0 when it was cancelled
        ("venue", "i1"),
        ("_spare", "i1"),
    ]
)
"""A trade in the log."""

DAY_BAR: Final = np.dtype(
    [
        ("end", "<i8"),  # of the day that this is; 0 before the first
        ("open_px", "<i8"),
        ("high_px", "<i8"),
        ("low_px", "<i8"),
        ("close_px", "<i8"),
        ("volume", "<i8"),
        ("priced_volume", "<i8"),
        ("whole", "<i8"),
        ("part", "<i8"),
        ("last_ns", "<i8"),
        ("trades", "<i8"),
        ("close_venue", "<i8"),
    ]
)
"""The minutes of a symbol's day that are final, folded."""

PRINT: Final = np.dtype(
    [
        ("end", "<i8"),  # of its day; 0 before the first
        ("price", "<i8"),
        ("event_ns", "<i8"),
        ("seq", "<i8"),
        ("venue", "<i8"),
        ("plan", "<i8"),
    ]
)
"""An official open or close."""

CACHE_LINE: Final = 64
ROWS_MASK: Final = 2**31 - 1
"""Above every index of a row or symbol."""
AHEAD: Final = 16
"""Rows between asking for a minute's cache lines and using them."""

# Marks of a symbol in a slot.
MEMBER: Final = 1
"""It has a bar."""
CHANGED: Final = 2
"""The running bar differs from what was published."""
INCOMPLETE: Final = 4
"""Messages of this symbol were lost, or a trade was cancelled or corrected that is not known here."""
CONDITIONAL: Final = 8
"""Of a minute: one of its trades may set the close depending on those before it."""

COUNTERS: Final = (
    "trades",
    "malformed",  # no time, or a price or size that is none
    "unknown_condition",  # trades with a code that the table does not list: volume only
    "official",  # prints of an official open or close, which repeat what was traded: never in a volume
    "cancels",  # trades taken out again
    "corrections",  # trades replaced
    "unapplied_cancels",  # cancels and corrections of trades not known here: the bar of that moment is marked
    "skew",  # more than the limit ahead of the clock: put into the running interval
    "late",  # revised a closed bar
    "too_late",  # for a bar that is final: not applied
    "bars",  # rows published
)
(TRADES, MALFORMED, UNKNOWN, OFFICIAL, CANCELS, CORRECTIONS, UNAPPLIED, SKEW, LATE_TRADES, TOO_LATE, PUBLISHED) = range(
    len(COUNTERS)
)

# Which lines are down, in `Bars.state`.
BY_VENUE: Final = 0
BY_LINK: Final = 1
DOWN_NOW, UP, GAPS = range(3)
"""What became of a line."""
ALL_VENUES: Final = -1
"""As a mask of venues."""

MEMO: Final = 256
"""Texts of conditions whose rights are remembered: of those that depend on nothing but the text."""

_STALE: Final = pack("stale")
_LIVE: Final = pack("live")
_LOST: Final = pack("gap")
_CANCELS: Final = pack("x")
_CORRECTS: Final = pack("c")


# `Bars.state`: what there is once, and a place for each length where the name ends in `+`.
CLOCK: Final = 0  # estimated exchange time; 0 before the first event
SINCE: Final = 1  # time of the first LINK row: what began before is not whole; 0 under event time
DUE: Final = 2  # the next deadline of any
LOGGED: Final = 3  # trades ever logged
DOWN: Final = 4  # + masks of the venues that are down BY_VENUE and BY_LINK
HERE: Final = 6  # end of the minute that was traded in last, and + 1 the slots around it
CLOSED: Final = 11  # + end of the last interval that has closed
DONE: Final = 15  # + end of the last interval that has become final
OPENED: Final = 19  # + end of the last interval that has begun
STATE_WIDTH: Final = 23

# `Bars.slots[..., slot]`
SIZE: Final = 0  # number of members
END: Final = 1  # end of the interval that the slot holds; 0 before the first
LOST: Final = 2  # mask of the venues whose line was down at some time in it

# `Plan.rings[..., length]`
LENGTH: Final = 0  # LENGTHS_NS
START: Final = 1  # first slot of the ring
RING: Final = 2  # its number of slots
WANTED: Final = 3  # 1 for those that are published
PHASE: Final = 4  # when the first of the epoch begins, in ns
COUNT: Final = len(LENGTHS_NS)


class Bars(NamedTuple):
    """The state of all symbols. ``slots`` counts those of all lengths.

    Few and wide arrays: each one more costs a second of compilation, in the calls that take them all.
    """

    minutes: npt.NDArray[np.void]  # [slots of one minute, symbols] MINUTE
    log: npt.NDArray[np.void]  # [a power of two] ENTRY: the latest trades
    days: npt.NDArray[np.void]  # [symbols] DAY_BAR; that of the empty symbol is where bars are folded
    official: npt.NDArray[np.void]  # [symbols, 2] PRINT: open and close
    marks: npt.NDArray[np.int8]  # [slots, symbols]
    revs: npt.NDArray[np.int32]  # [slots, symbols]
    members: npt.NDArray[np.int32]  # [slots, symbols] ids in the order of their first trade
    slots: npt.NDArray[np.int64]  # [3, slots] SIZE, END, LOST
    venues: npt.NDArray[np.int64]  # [symbols] mask of the venues that it has traded on
    state: npt.NDArray[np.int64]  # [STATE_WIDTH]
    scratch: npt.NDArray[np.int64]  # [log] positions, to put trades in order
    memo: npt.NDArray[np.int64]  # [MEMO, 3] condition, tape, rights
    unknown: npt.NDArray[np.int64]  # [2, 256] trades by plan and code that it does not list
    counters: npt.NDArray[np.int64]  # [len(COUNTERS)]


class Plan(NamedTuple):
    """What the rules need to know: data that may be replaced between two steps, except the rings."""

    rings: npt.NDArray[np.int64]  # [5, COUNT] LENGTH, START, RING, WANTED, PHASE
    grace_ns: int  # from the end of an interval to its closing
    horizon_ns: int  # from its end to the last revision
    silence_ns: int  # a loss is noticed at most this long after it began
    publishers: npt.NDArray[np.int64]  # [sources] mask of the venues that each publisher speaks for
    sales: npt.NDArray[np.int64]  # [2, 256] sale conditions (nodes.sale_conditions)
    listing: npt.NDArray[np.int64]  # [3] ASCII code of the market that lists tape A, B, C; 0 where several do
    midnights: npt.NDArray[np.int64]  # [days + 1] when the days begin
    closes: npt.NDArray[np.int64]  # [days] end of the regular session, 0 without one


def make_plan(
    grace_ns: int,
    horizon_ns: int,
    silence_ns: int,
    publishers: Any,
    sales: Any,
    listing: Any,
    midnights: Any,
    closes: Any,
    wanted: Any,
    hour_phase_ns: int = 0,
) -> Plan:
    """Rings long enough that no slot is reused before its interval, and the longest one around it, are final.

    A day is not folded from minutes of the ring that are final. ``wanted``: 1 for each length that is published.
    ``hour_phase_ns``: how long after the hour an hour begins, whole minutes.
    """
    assert 0 <= grace_ns <= MINUTE_NS <= horizon_ns
    assert 0 <= hour_phase_ns < LENGTHS_NS[HOUR]
    assert hour_phase_ns % MINUTE_NS == 0
    lengths = np.array(LENGTHS_NS, np.int64)
    span = lengths + horizon_ns
    span[0] += LENGTHS_NS[FIXED - 1]
    ring = span // lengths + 3
    phases = np.array([hour_phase_ns if k == HOUR else 0 for k in range(COUNT)])
    rings = np.array([lengths, np.cumsum(ring) - ring, ring, wanted, phases], np.int64)
    return Plan(rings, grace_ns, horizon_ns, silence_ns, publishers, sales, listing, midnights, closes)


def no_bars(symbols_max: int, plan: Plan, log_max: int) -> Bars:
    """Empty bars for ids below ``symbols_max``. Memory is touched, and so taken, only where symbols trade."""
    assert log_max & (log_max - 1) == 0
    slots = int(plan.rings[RING].sum())
    memo = np.zeros((MEMO, 3), np.int64)
    memo[:, 1] = -1  # no tape
    return Bars(
        minutes=_on_cache_lines((int(plan.rings[RING, 0]), symbols_max), MINUTE),
        log=np.zeros(log_max, ENTRY),
        days=np.zeros(symbols_max, DAY_BAR),
        official=np.zeros((symbols_max, 2), PRINT),
        marks=np.zeros((slots, symbols_max), np.int8),
        revs=np.zeros((slots, symbols_max), np.int32),
        members=np.zeros((slots, symbols_max), np.int32),
        slots=np.zeros((3, slots), np.int64),
        venues=np.zeros(symbols_max, np.int64),
        state=np.zeros(STATE_WIDTH, np.int64),
        scratch=np.zeros(log_max, np.int64),
        memo=memo,
        unknown=np.zeros((2, 256), np.int64),
        counters=np.zeros(len(COUNTERS), np.int64),
    )


def _on_cache_lines(shape: tuple[int, int], dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Zeroed records that begin on a cache line."""
    size = shape[0] * shape[1] * dtype.itemsize
    raw = np.zeros(size + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def rows_max(symbols_max: int, batch_max: int, horizon_ns: int) -> int:
    """The most rows that one step can make.

    A symbol's bars that are not final before the step (the horizon's, and two more of each length) may all become
    final in it, and those two close before and be published as running, each minute with its day. A trade touches one
    bar of each length: it revises it, or makes one that closes and becomes final; and it may change the close of every
    later minute of the horizon. Each interval that closes is told, empty or not, for a day and the horizon at most.
    """
    bars = sum(horizon_ns // length + 2 for length in LENGTHS_NS)
    minutes = horizon_ns // MINUTE_NS + 3
    told = sum((DAY_MAX_NS + horizon_ns) // length + 2 for length in LENGTHS_NS)
    return symbols_max * (bars + minutes + 4 * len(LENGTHS_NS)) + (2 + minutes) * len(LENGTHS_NS) * batch_max + told


@lean_kernel
def step(
    bars: Any,
    plan: Any,
    rows: Any,
    trades: Any,
    statuses: Any,
    links: Any,
    gaps: Any,
    now_ns: int,
    carried_ns: int,
    latest_ns: int,
    publish: bool,
    out: Any,
    count: int,
) -> int:
    """Apply ``rows`` in order, write the bars that are due to ``out`` from ``count`` on; return the new count.

    ``trades`` to ``gaps`` are views of ``rows``. ``carried_ns`` is the exchange time as the passing of time alone
    makes it, ``latest_ns`` the latest that is believed, ``now_ns`` what stands in for it before there is any; no row
    takes it further than that.
    With ``publish`` running bars that have changed are written too. ``out`` has room for `rows_max` more rows.
    """
    if bars.state[CLOCK] > 0:
        count = advance(bars, plan, carried_ns, out, count)
    known_ns = NO_LIMIT if latest_ns == NO_LIMIT else now_ns
    i = 0
    while i < rows.size:
        end = bars.state[HERE]
        first, i = i, usual(
            trades, i, bars.minutes[bars.state[HERE + 1]], bars.log, bars.memo, bars.state,
            end - MINUTE_NS, min(end, bars.state[DUE], known_ns),
        )  # fmt: skip
        bars.counters[TRADES] += i - first
        if i == rows.size:
            break
        kind = rows[i]["kind"]
        if kind == KIND_TRADE:
            count = trade(bars, plan, trades[i], now_ns, latest_ns, out, count)
        elif kind == KIND_STATUS:
            count = status(bars, plan, statuses[i], now_ns, latest_ns, out, count)
        elif kind == KIND_LINK:
            if bars.state[CLOCK] == 0 and latest_ns != NO_LIMIT:
                bars.state[SINCE] = now_ns
            how = UP if links[i]["up"] == 1 else DOWN_NOW
            line(bars, plan, BY_LINK, plan.publishers[links[i]["publisher"]], how)
        elif kind == KIND_GAP and gaps[i]["channel_kind"] == KIND_TRADE:
            mark(bars, plan, gaps[i]["symbol"], 0)
        i += 1
    if publish:
        count = publish_running(bars, plan, out, count)
    return count


@lean_kernel
def usual(trades: Any, start: int, minutes: Any, log: Any, memo: Any, state: Any, begin_ns: int, until_ns: int) -> int:
    """Apply ``trades[start:]`` up to the first that is not usual, and return its place.

    Usual is a trade from ``begin_ns`` on and before ``until_ns``: of the minute at `HERE`, whose ``minutes`` these are,
    neither past the next deadline nor ahead of our clock. Its rights follow from its text alone (``memo``), it changes
    no open, and of those that set the close it is the latest.
    """
    log_mask = log.size - 1
    clock, logged = state[CLOCK], state[LOGGED]  # here, so that they are not read again behind every store
    address = minutes.ctypes.data
    i = start
    while i < trades.size:
        if i + AHEAD < trades.size:
            ahead = address + trades[(i + AHEAD) & ROWS_MASK]["symbol"] * MINUTE_BYTES
            prefetch(ahead)
            prefetch(ahead + CACHE_LINE)
        row = trades[i & ROWS_MASK]  # spares a look whether the index is negative
        event_ns = row["event_ns"]
        symbol = row["symbol"] & ROWS_MASK
        price = row["price"]
        size = row["size"]
        venue = row["venue"]
        condition = row["condition"]
        tape = row["tape"]
        known = memo[(condition ^ (condition >> 7) ^ (condition >> 14) ^ tape) & (MEMO - 1)]
        rights = known[2]
        # Priced or not is as good as random to the processor: what depends on it is arithmetic, not a branch.
        priced = rights // HIGH_LOW & 1
        minute = minutes[symbol]
        needed = 1 << ((venue - 65) & 31) | priced << PRICED_BIT
        early = (max(event_ns, begin_ns) - minute["latest_ns"] - 1) >> 63 & priced
        if not (
            row["kind"] == KIND_TRADE
            and begin_ns <= event_ns
            and event_ns < until_ns
            and needed & ~minute["usual"] | early == 0
            and known[0] == condition
            and known[1] == tape
            and row["mark"] <= 0
            and price > 0
            and size > 0
            and size <= SIZE_MAX
        ):
            break
        clock = max(clock, event_ns)
        seq = row["exchange_seq"]
        entry = log[logged & log_mask]
        entry["event_ns"] = event_ns
        entry["price"] = price
        entry["seq"] = seq
        entry["trade_id"] = row["trade_id"]
        entry["before"] = minute["head"]
        entry["size"] = size
        entry["rights"] = rights & ~KNOWN
        entry["venue"] = venue
        minute["head"] = logged
        minute["trades"] += 1
        minute["volume"] += size
        minute["last_ns"] = max(minute["last_ns"], event_ns)
        logged += 1
        minute = minutes[symbol & -priced]  # without a price it goes where nobody reads
        minute["latest_ns"] = event_ns
        minute["priced_volume"] += size
        add_notional(minute, price, size)
        minute["high_px"] = max(minute["high_px"], price)
        minute["low_px"] = min(minute["low_px"], price)
        minute["close_px"] = price
        minute["latest_seq"] = seq
        minute["latest_venue"] = venue
        minute["close_venue"] = venue
        i += 1
    state[CLOCK], state[LOGGED] = clock, logged
    return i


@lean_kernel
def trade(bars: Any, plan: Any, row: Any, now_ns: int, latest_ns: int, out: Any, count: int) -> int:
    """Put any trade into its minute, or take one out; publish what was closed already."""
    bars.counters[TRADES] += 1
    price = row["price"]
    size = row["size"]
    event_ns = row["event_ns"]
    symbol = row["symbol"]
    undoes = row["mark"] > 0  # names the trade that it cancels or corrects, and not always a price
    if event_ns <= 0 or symbol == 0 or (not undoes and (price <= 0 or size <= 0 or size > SIZE_MAX)):
        bars.counters[MALFORMED] += 1
        return count
    if event_ns > latest_ns:
        bars.counters[SKEW] += 1
        event_ns = bars.state[CLOCK] if bars.state[CLOCK] > 0 else now_ns
    if event_ns > bars.state[CLOCK]:
        count = advance(bars, plan, believed(bars, plan, event_ns, now_ns, latest_ns), out, count)
    venue = row["venue"]
    if undoes:
        return undo(bars, plan, row, out, count)
    rights = rights_of(bars, plan, row["condition"], row["tape"], venue, event_ns)
    prints = rights & (OFFICIAL_OPEN | OFFICIAL_CLOSE)
    if prints == OFFICIAL_OPEN or prints == OFFICIAL_CLOSE:
        bars.counters[OFFICIAL] += 1
        return official(bars, plan, row, event_ns, 0 if prints == OFFICIAL_OPEN else 1, out, count)
    rights &= HIGH_LOW | LAST | FIRST | SOLD | VOLUME
    if rights & (HIGH_LOW | FIRST | VOLUME) == 0:  # two codes that leave nothing between them
        bars.counters[OFFICIAL] += 1
        return count

    end = bars.state[HERE]
    if not end - MINUTE_NS <= event_ns < end:
        end = event_ns - event_ns % MINUTE_NS + MINUTE_NS
        if end <= bars.state[DONE]:
            bars.counters[TOO_LATE] += 1
            return count
        go_to(bars, plan, end)
    elif end <= bars.state[DONE]:
        bars.counters[TOO_LATE] += 1
        return count
    bars.venues[symbol] |= venue_bit(venue)
    if end <= bars.state[CLOSED]:
        bars.counters[LATE_TRADES] += 1

    slot = bars.state[HERE + 1]
    minute = bars.minutes[slot, symbol]
    if not bars.marks[slot, symbol] & MEMBER:
        clear(minute)
    entry = bars.log[bars.state[LOGGED] & (bars.log.size - 1)]
    entry["event_ns"] = event_ns
    entry["price"] = price
    entry["seq"] = row["exchange_seq"]
    entry["trade_id"] = row["trade_id"]
    entry["before"] = minute["head"]
    entry["size"] = size
    entry["rights"] = rights
    entry["venue"] = venue
    minute["head"] = bars.state[LOGGED]
    bars.state[LOGGED] += 1
    add(minute, entry)
    set_close(bars, plan, slot, symbol, entry)
    return revise(bars, plan, end, symbol, out, count)


@lean_kernel
def rights_of(bars: Any, plan: Any, condition: int, tape: int, venue: int, event_ns: int) -> int:
    """What a trade with these conditions updates. Remembers what depends on the text alone; counts unknown codes."""
    table = plan_of(tape)
    rights = allowed(plan.sales, table, condition)
    if not rights & KNOWN:
        bars.counters[UNKNOWN] += 1
        left = max(condition, 0)
        while left:
            if not plan.sales[table, left & 0xFF] & KNOWN:
                bars.unknown[table, left & 0xFF] += 1
            left >>= 8
        return rights & (HIGH_LOW | FIRST | VOLUME)
    usual = rights & (HIGH_LOW | LAST | VOLUME)
    if usual == VOLUME and not rights & FIRST:
        rights = VOLUME | KNOWN
        remember(bars, condition, tape, rights)
    elif usual == HIGH_LOW | LAST | VOLUME and rights & LATE:
        rights = HIGH_LOW | LAST | FIRST | VOLUME | KNOWN
        remember(bars, condition, tape, rights)
    elif rights & FIRST and not rights & LATE and event_ns > last_eligible_ns(plan, event_ns):
        rights &= ~(LAST | FIRST | SOLD)
    if rights & LAST:
        rights &= ~SOLD
    if rights & SOLD and venue == listing_of(plan.listing, tape):
        rights |= LAST  # of the listing market it always may
        rights &= ~SOLD
    return rights


@lean
def remember(bars: Any, condition: int, tape: int, rights: int) -> None:
    """Have `usual` know these rights, which depend on the text alone."""
    known = bars.memo[(condition ^ (condition >> 7) ^ (condition >> 14) ^ tape) & (MEMO - 1)]
    known[0] = condition
    known[1] = tape
    known[2] = rights


@lean
def last_eligible_ns(plan: Any, ns: int) -> int:
    """Until when a late report of the UTP plan may set the last price of this day; always where it has no session."""
    day = day_of(plan.midnights, ns)
    if day < 0 or plan.closes[day] == 0:
        return NO_LIMIT
    return plan.closes[day] + SOLD_AFTER_CLOSE_NS


@lean
def clear(minute: Any) -> None:
    """An empty minute in place of what its slot held before."""
    minute["head"] = -1
    empty_minute(minute)


@lean
def empty_minute(minute: Any) -> None:
    """Take everything out of a minute but its trades."""
    minute["open_px"] = NULL
    minute["high_px"] = NULL
    minute["low_px"] = NULL
    minute["close_px"] = NULL
    minute["open_ns"] = NO_LIMIT
    minute["latest_ns"] = 0
    minute["latest_seq"] = NULL
    minute["latest_venue"] = 0
    minute["volume"] = 0
    minute["priced_volume"] = 0
    minute["whole"] = 0
    minute["part"] = 0
    minute["last_ns"] = 0
    minute["trades"] = 0
    minute["close_venue"] = 0


@lean
def add(minute: Any, entry: Any) -> None:
    """Let one trade change what its rights allow, but for the close."""
    rights = entry["rights"]
    price = entry["price"]
    size: Any = np.int64(entry["size"])
    if rights & HIGH_LOW:
        if minute["open_px"] == NULL:
            minute["high_px"] = price
            minute["low_px"] = price
        minute["high_px"] = max(minute["high_px"], price)
        minute["low_px"] = min(minute["low_px"], price)
        if minute["open_px"] == NULL or before(
            entry["event_ns"], entry["seq"], entry["venue"], minute["open_ns"], minute["open_seq"], minute["open_venue"]
        ):
            minute["open_px"] = price
            minute["open_ns"] = entry["event_ns"]
            minute["open_seq"] = entry["seq"]
            minute["open_venue"] = entry["venue"]
    if rights & VOLUME:
        minute["volume"] += size
        minute["trades"] += 1
        if rights & HIGH_LOW:
            minute["priced_volume"] += size
            add_notional(minute, price, size)
    minute["last_ns"] = max(minute["last_ns"], entry["event_ns"])


@lean
def set_close(bars: Any, plan: Any, slot: int, symbol: int, entry: Any) -> None:
    """Let one more trade of a minute set its close, if it may.

    In order it is compared with the close alone. A trade that came before another matters only in a minute whose
    close depends on the order of its trades.
    """
    rights = entry["rights"]
    if not rights & FIRST:
        return
    if not rights & LAST:
        bars.marks[slot, symbol] |= CONDITIONAL
    minute = bars.minutes[slot, symbol]
    if before(
        entry["event_ns"], entry["seq"], entry["venue"],
        minute["latest_ns"], minute["latest_seq"], minute["latest_venue"],
    ):  # fmt: skip
        if bars.marks[slot, symbol] & CONDITIONAL:
            find_close(bars, plan, slot, symbol)
        return
    venue = minute["close_venue"]
    if minute["close_px"] == NULL and not rights & LAST:
        venue = venue_before(bars, plan, slot, symbol)
    take_close(minute, entry, venue)


@lean
def take_close(minute: Any, entry: Any, venue: int) -> int:
    """Let the latest trade so far set the close; ``venue`` is that of the last price, 0 when there is none today.

    Returns the venue of the last price after it.
    """
    minute["latest_ns"] = entry["event_ns"]
    minute["latest_seq"] = entry["seq"]
    minute["latest_venue"] = entry["venue"]
    rights = entry["rights"]
    if rights & LAST or venue == 0 or (rights & SOLD and venue == entry["venue"]):
        minute["close_px"] = entry["price"]
        minute["close_venue"] = entry["venue"]
        venue = entry["venue"]
    return venue


@lean
def venue_before(bars: Any, plan: Any, slot: int, symbol: int) -> int:
    """The venue of the last price of the day before this minute; 0 when there was none."""
    end = bars.slots[END, slot] - MINUTE_NS
    day_end = end_around(plan, DAY, end)
    while end > bars.state[DONE] and end_around(plan, DAY, end - MINUTE_NS) == day_end:
        j = slot_of(plan, 0, end)
        if bars.slots[END, j] == end and bars.marks[j, symbol] & MEMBER and bars.minutes[j, symbol]["close_px"] != NULL:
            return bars.minutes[j, symbol]["close_venue"]
        end -= MINUTE_NS
    day = bars.days[symbol]
    return day["close_venue"] if day["end"] == day_end and bars.slots[END, slot] - MINUTE_NS != day_end else 0


@lean_kernel
def find_close(bars: Any, plan: Any, slot: int, symbol: int) -> bool:
    """Find the close of a minute anew from its trades in their order; return whether its price has changed.

    Of trades that the log has lost nothing is known: the minute says so and keeps what it had.
    """
    minute = bars.minutes[slot, symbol]
    count = 0
    position = minute["head"]
    while position >= 0:
        if position + bars.log.size < bars.state[LOGGED]:
            bars.marks[slot, symbol] |= INCOMPLETE
            return False
        entry = bars.log[position & (bars.log.size - 1)]
        if entry["rights"] & FIRST:
            # Newest first, so this one goes before those of the same key; mostly it is the earliest of all so far.
            at = count
            while at > 0:
                other = bars.log[bars.scratch[at - 1] & (bars.log.size - 1)]
                if before(
                    entry["event_ns"], entry["seq"], entry["venue"], other["event_ns"], other["seq"], other["venue"]
                ) or (
                    entry["event_ns"] == other["event_ns"]
                    and entry["seq"] == other["seq"]
                    and entry["venue"] == other["venue"]
                ):
                    break
                bars.scratch[at] = bars.scratch[at - 1]
                at -= 1
            bars.scratch[at] = position
            count += 1
        position = entry["before"]
    price = minute["close_px"]
    minute["close_px"] = NULL
    minute["close_venue"] = 0
    minute["latest_ns"] = 0
    minute["latest_seq"] = NULL
    minute["latest_venue"] = 0
    venue = venue_before(bars, plan, slot, symbol)
    for i in range(count - 1, -1, -1):
        venue = take_close(minute, bars.log[bars.scratch[i] & (bars.log.size - 1)], venue)
    return minute["close_px"] != price


@lean_kernel
def revise(bars: Any, plan: Any, end: int, symbol: int, out: Any, count: int) -> int:
    """A minute has changed: note or publish it, and every later one whose close changed with it.

    `HERE` may stand at another minute afterwards.
    """
    count = note(bars, plan, symbol, out, count)
    later = end + MINUTE_NS
    while later <= bars.state[CLOCK] + 2 * MINUTE_NS:  # an exchange whose clock is ahead may be in the next minute
        slot = slot_of(plan, 0, later)
        if (
            bars.slots[END, slot] == later
            and bars.marks[slot, symbol] & (MEMBER | CONDITIONAL) == MEMBER | CONDITIONAL
            and find_close(bars, plan, slot, symbol)
        ):
            go_to(bars, plan, later)
            count = note(bars, plan, symbol, out, count)
        later += MINUTE_NS
    return count


@lean
def note(bars: Any, plan: Any, symbol: int, out: Any, count: int) -> int:
    """The minute at `HERE` has changed: it runs and is to be published, or was closed and is published now."""
    for k in range(COUNT):
        slot = bars.state[HERE + 1 + k]
        marks = bars.marks[slot, symbol]
        if not marks & MEMBER:
            bars.members[slot, bars.slots[SIZE, slot]] = symbol
            bars.slots[SIZE, slot] += 1
            bars.revs[slot, symbol] = 0
            marks |= MEMBER
        if bars.slots[END, slot] > bars.state[CLOSED + k]:
            bars.marks[slot, symbol] = marks | CHANGED
            if k == 0:
                minute = bars.minutes[slot, symbol]
                minute["usual"] = bars.venues[symbol] | (PRICED if minute["open_ns"] <= minute["latest_ns"] else 0)
        else:
            bars.marks[slot, symbol] = marks
            bars.revs[slot, symbol] += 1
            count = write(bars, plan, k, slot, symbol, 0, out, count)
    return count


@lean_kernel
def undo(bars: Any, plan: Any, row: Any, out: Any, count: int) -> int:
    """Cancel or correct the trade that a row names, wherever in the horizon it is."""
    symbol = row["symbol"]
    corrects = row["mark"] == _CORRECTS and row["price"] > 0 and 0 < row["size"] <= SIZE_MAX
    known = row["original_id"] != NULL and (row["mark"] == _CANCELS or corrects)
    end = end_around(plan, 0, bars.state[CLOCK]) + MINUTE_NS if known else 0
    while end > bars.state[DONE]:
        slot = slot_of(plan, 0, end)
        if bars.slots[END, slot] == end and bars.marks[slot, symbol] & MEMBER:
            position = bars.minutes[slot, symbol]["head"]
            while position >= 0 and position + bars.log.size >= bars.state[LOGGED]:
                entry = bars.log[position & (bars.log.size - 1)]
                if entry["rights"] and entry["trade_id"] == row["original_id"] and entry["venue"] == row["venue"]:
                    return replace(bars, plan, row, entry, end, slot, out, count)
                position = entry["before"]
        end -= MINUTE_NS
    bars.counters[UNAPPLIED] += 1
    mark(bars, plan, symbol, 0)
    return count


@lean
def replace(bars: Any, plan: Any, row: Any, entry: Any, end: int, slot: int, out: Any, count: int) -> int:
    """Take a trade out of its minute, or put in its place, at its time, what it should have been."""
    symbol = row["symbol"]
    minute = bars.minutes[slot, symbol]
    go_to(bars, plan, end)
    position = minute["head"]
    while position >= 0:
        if position + bars.log.size < bars.state[LOGGED]:  # the rest of the minute is not known any more
            bars.counters[UNAPPLIED] += 1
            for k in range(COUNT):
                bars.marks[bars.state[HERE + 1 + k], symbol] |= INCOMPLETE
            return revise(bars, plan, end, symbol, out, count)
        position = bars.log[position & (bars.log.size - 1)]["before"]
    if row["mark"] == _CANCELS:
        bars.counters[CANCELS] += 1
        entry["rights"] = 0
    else:
        bars.counters[CORRECTIONS] += 1
        entry["price"] = row["price"]
        entry["size"] = row["size"]
        if row["trade_id"] != NULL:
            entry["trade_id"] = row["trade_id"]
        if row["condition"] > 0:
            venue: Any = np.int64(entry["venue"])
            rights = rights_of(bars, plan, row["condition"], row["tape"], venue, entry["event_ns"])
            entry["rights"] = rights & (HIGH_LOW | LAST | FIRST | SOLD | VOLUME)
    if end <= bars.state[CLOSED]:
        bars.counters[LATE_TRADES] += 1
    empty_minute(minute)
    position = minute["head"]
    bars.marks[slot, symbol] &= ~CONDITIONAL
    while position >= 0:
        left = bars.log[position & (bars.log.size - 1)]
        if left["rights"]:
            add_earlier(minute, left)
            if left["rights"] & (LAST | FIRST) == FIRST:
                bars.marks[slot, symbol] |= CONDITIONAL
        position = left["before"]
    find_close(bars, plan, slot, symbol)
    return revise(bars, plan, end, symbol, out, count)


@lean
def add_earlier(minute: Any, entry: Any) -> None:
    """As `add`, for one that arrived before all that are in: of two that cannot be told apart it opens."""
    opens = (
        entry["rights"] & HIGH_LOW
        and minute["open_px"] != NULL
        and entry["event_ns"] == minute["open_ns"]
        and entry["seq"] == minute["open_seq"]
        and entry["venue"] == minute["open_venue"]
    )
    add(minute, entry)
    if opens:
        minute["open_px"] = entry["price"]


@lean
def official(bars: Any, plan: Any, row: Any, event_ns: int, which: int, out: Any, count: int) -> int:
    """Keep the official open (0) or close (1) of the day, as the listing market prints it; the latest counts."""
    symbol = row["symbol"]
    listing = listing_of(plan.listing, row["tape"])
    end = end_around(plan, DAY, event_ns)
    if end <= bars.state[DONE + DAY] or (listing != 0 and listing != row["venue"]):
        return count
    held = bars.official[symbol, which]
    if held["end"] != end:
        if held["end"] > bars.state[DONE + DAY]:  # that of the day before is still to be published
            return count
    elif before(event_ns, row["exchange_seq"], row["venue"], held["event_ns"], held["seq"], held["venue"]):
        return count
    held["end"] = end
    held["price"] = row["price"]
    held["event_ns"] = event_ns
    held["seq"] = row["exchange_seq"]
    held["venue"] = row["venue"]
    held["plan"] = plan_of(row["tape"])
    slot = open_slot(bars, plan, DAY, end)
    if bars.marks[slot, symbol] & MEMBER and end <= bars.state[CLOSED + DAY]:
        bars.revs[slot, symbol] += 1
        count = write(bars, plan, DAY, slot, symbol, 0, out, count)
    return count


@lean
def clear_day(day: Any, end: int) -> None:
    """An empty day."""
    day["end"] = end
    day["open_px"] = NULL
    day["high_px"] = NULL
    day["low_px"] = NULL
    day["close_px"] = NULL
    day["volume"] = 0
    day["priced_volume"] = 0
    day["whole"] = 0
    day["part"] = 0
    day["last_ns"] = 0
    day["trades"] = 0
    day["close_venue"] = 0


@lean
def fold(total: Any, minute: Any) -> None:
    """Add the next minute in time to a day or a longer interval."""
    if minute["open_px"] != NULL:
        if total["open_px"] == NULL:
            total["open_px"] = minute["open_px"]
            total["high_px"] = minute["high_px"]
            total["low_px"] = minute["low_px"]
        total["high_px"] = max(total["high_px"], minute["high_px"])
        total["low_px"] = min(total["low_px"], minute["low_px"])
    if minute["close_px"] != NULL:
        total["close_px"] = minute["close_px"]
        total["close_venue"] = minute["close_venue"]
    total["volume"] += minute["volume"]
    total["trades"] += minute["trades"]
    total["priced_volume"] += minute["priced_volume"]
    part = total["part"] + minute["part"]
    total["whole"] += minute["whole"] + (part >> PART_BITS)
    total["part"] = part & PART
    total["last_ns"] = max(total["last_ns"], minute["last_ns"])


@lean
def before(ns: int, seq: int, venue: int, other_ns: int, other_seq: int, other_venue: int) -> bool:
    """Whether a trade comes before another; of two that cannot be told apart the one that arrived first does."""
    if ns != other_ns:
        return ns < other_ns
    if seq != other_seq:
        return seq < other_seq
    return venue < other_venue


@lean
def add_notional(minute: Any, price: int, size: int) -> None:
    """Add ``price * size`` in two words: below 2**62 of the price's low bits, and below 2**52 of those above."""
    part = minute["part"] + (price & PART) * size
    minute["whole"] += (price >> PART_BITS) * size + (part >> PART_BITS)
    minute["part"] = part & PART


@lean
def average(whole: int, part: int, volume: int) -> int:
    """``(whole * 2**30 + part) / volume`` rounded to the nearest, halves up: long division in steps of ten bits, for
    volumes below 2**53. NULL without volume.
    """
    if volume == 0:
        return NULL
    quotient = whole // volume
    rest = whole % volume
    for shift in (20, 10, 0):
        rest = rest * 1_024 + ((part >> shift) & 1_023)
        quotient = quotient * 1_024 + rest // volume
        rest %= volume
    return quotient + (1 if rest * 2 >= volume else 0)


@lean
def venue_bit(venue: int) -> int:
    """The bit of a venue letter in a mask: bit 0 is A; 0 for what is no letter."""
    return 1 << (venue - 65) if 65 <= venue <= 90 else 0


@lean_kernel
def day_of(midnights: Any, ns: int) -> int:
    """The place of the day that holds ``ns``, or -1 outside of the calendar."""
    low = 0
    high = midnights.size - 1
    if ns < midnights[0] or ns >= midnights[high]:
        return -1
    while high - low > 1:
        middle = (low + high) // 2
        if midnights[middle] <= ns:
            low = middle
        else:
            high = middle
    return low


@lean_kernel
def end_around(plan: Any, k: int, ns: int) -> int:
    """The end of the interval of length ``k`` that holds ``ns``."""
    if k == DAY:
        day = day_of(plan.midnights, ns)
        if day >= 0:
            return plan.midnights[day + 1]
    length = plan.rings[LENGTH, k]
    phase = plan.rings[PHASE, k]
    end = (ns - phase) // length * length + length + phase
    if k == DAY and ns < plan.midnights[0]:
        return min(end, plan.midnights[0])
    return end


@lean_kernel
def start_of(plan: Any, k: int, end: int) -> int:
    """The start of the interval of length ``k`` that ends at ``end``."""
    if k == DAY:
        day = day_of(plan.midnights, end - 1)
        if day >= 0:
            return plan.midnights[day]
        last = plan.midnights[plan.midnights.size - 1]
        start = (end - 1) // DAY_NS * DAY_NS
        return max(start, last) if end > last else start
    return end - plan.rings[LENGTH, k]


@lean
def slot_of(plan: Any, k: int, end: int) -> int:
    """The slot of the interval of length ``k`` that ends at ``end``."""
    return plan.rings[START, k] + (end - 1 - plan.rings[PHASE, k]) // plan.rings[LENGTH, k] % plan.rings[RING, k]


@lean_kernel
def open_slot(bars: Any, plan: Any, k: int, end: int) -> int:
    """Return the interval's slot, emptied if it held an earlier one. A line that is down now is lost to it, and all
    lines are to one that began before we listened.
    """
    slot = slot_of(plan, k, end)
    if bars.slots[END, slot] != end:
        bars.slots[END, slot] = end
        bars.slots[SIZE, slot] = 0
        bars.slots[LOST, slot] = bars.state[DOWN + BY_VENUE] | bars.state[DOWN + BY_LINK]
        if start_of(plan, k, end) < bars.state[SINCE]:
            bars.slots[LOST, slot] = ALL_VENUES
        bars.marks[slot, :] = 0
    return slot


@lean_kernel
def go_to(bars: Any, plan: Any, end: int) -> None:
    """Open the slots around the minute that ends at ``end`` and remember them: the next trade is mostly there too."""
    bars.state[HERE] = end
    for k in range(COUNT):
        bars.state[HERE + 1 + k] = open_slot(bars, plan, k, end_around(plan, k, end - 1))


@lean
def believed(bars: Any, plan: Any, event_ns: int, now_ns: int, latest_ns: int) -> int:
    """What the exchange's ``event_ns`` makes of the time: never more than ours, or one exchange whose clock is ahead
    would begin the bars of all too early, and close them.

    The first of all begins the listening, and is no older than the horizon: what is older could not change a bar.
    Under event time nothing was before the first event, and any time is right.
    """
    if latest_ns == NO_LIMIT:
        return event_ns
    if bars.state[CLOCK] > 0:
        return min(event_ns, now_ns)
    if bars.state[SINCE] == 0:
        bars.state[SINCE] = now_ns
    return min(max(event_ns, now_ns - plan.horizon_ns), now_ns)


@lean_kernel
def advance(bars: Any, plan: Any, now_ns: int, out: Any, count: int) -> int:
    """Move the exchange time to ``now_ns``; close and finish what is due by then, earliest deadline first.

    The work has a bound, however far that is: once all that has bars is final, the empty intervals are passed over.
    """
    if bars.state[CLOCK] == 0:
        pass_over(bars, plan, now_ns)
    else:
        all_final_ns = bars.state[CLOCK] + DAY_MAX_NS + plan.horizon_ns
        if now_ns > all_final_ns:
            count = complete(bars, plan, all_final_ns, out, count)
            pass_over(bars, plan, now_ns)
    bars.state[CLOCK] = max(bars.state[CLOCK], now_ns)
    return complete(bars, plan, now_ns, out, count)


@lean
def pass_over(bars: Any, plan: Any, now_ns: int) -> None:
    """Be at ``now_ns`` without visiting what lies before: nothing that is not final has a bar."""
    for k in range(COUNT):
        bars.state[CLOSED + k] = start_of(plan, k, end_around(plan, k, now_ns - plan.grace_ns))
        bars.state[DONE + k] = start_of(plan, k, end_around(plan, k, now_ns - plan.horizon_ns))
        bars.state[OPENED + k] = bars.state[DONE + k]
    bars.state[DUE] = bars.state[OPENED]


@lean_kernel
def complete(bars: Any, plan: Any, now_ns: int, out: Any, count: int) -> int:
    """Open, close and finish what is due by ``now_ns``.

    An interval is opened when it begins, traded in or not: which lines are down then is part of it. An exchange whose
    clock is ahead has traded in it before.
    """
    while bars.state[DUE] <= now_ns:
        due = NO_LIMIT
        which = 0
        for k in range(COUNT):
            if bars.state[OPENED + k] < due:
                due, which = bars.state[OPENED + k], k
        for k in range(COUNT):
            closing = end_around(plan, k, bars.state[CLOSED + k]) + plan.grace_ns
            if closing < due:
                due, which = closing, COUNT + k
        for k in range(COUNT):
            finishing = end_around(plan, k, bars.state[DONE + k]) + plan.horizon_ns
            if finishing < due:
                due, which = finishing, 2 * COUNT + k
        bars.state[DUE] = due
        if due > now_ns:
            break
        if which < COUNT:
            bars.state[OPENED + which] = end_around(plan, which, due)
            slot = open_slot(bars, plan, which, bars.state[OPENED + which])
            if start_of(plan, which, bars.state[OPENED + which]) >= bars.state[SINCE]:
                bars.slots[LOST, slot] = bars.state[DOWN + BY_VENUE] | bars.state[DOWN + BY_LINK]
        elif which < 2 * COUNT:
            count = close(bars, plan, which - COUNT, out, count)
        else:
            count = finish(bars, plan, which - 2 * COUNT, out, count)
    return count


@lean
def close(bars: Any, plan: Any, k: int, out: Any, count: int) -> int:
    """Publish the bars of the next interval of length ``k`` as closed, revision 1; and that they are complete.

    With a minute the days of its symbols are published as they stand.
    """
    end = end_around(plan, k, bars.state[CLOSED + k])
    bars.state[CLOSED + k] = end
    slot = slot_of(plan, k, end)
    for j in range(bars.slots[SIZE, slot]):
        symbol = bars.members[slot, j]
        bars.marks[slot, symbol] &= ~CHANGED
        if k == 0:
            bars.minutes[slot, symbol]["usual"] = 0
        bars.revs[slot, symbol] += 1
        count = write(bars, plan, k, slot, symbol, 0, out, count)
    if k == 0:
        day = slot_of(plan, DAY, end_around(plan, DAY, end - 1))
        for j in range(bars.slots[SIZE, slot]):
            count = write(bars, plan, DAY, day, bars.members[slot, j], 0, out, count)
    return tell(plan, k, end, bars.slots[SIZE, slot], out, count)


@lean
def finish(bars: Any, plan: Any, k: int, out: Any, count: int) -> int:
    """Publish the bars of the next interval of length ``k`` once more, as final; fold final minutes into their day."""
    end = end_around(plan, k, bars.state[DONE + k])
    bars.state[DONE + k] = end
    slot = slot_of(plan, k, end)
    if bars.slots[END, slot] == end:
        for j in range(bars.slots[SIZE, slot]):
            symbol = bars.members[slot, j]
            count = write(bars, plan, k, slot, symbol, 1, out, count)
            if k == 0:
                day = bars.days[symbol]
                day_end = end_around(plan, DAY, end - 1)
                if day["end"] != day_end:
                    clear_day(day, day_end)
                fold(day, bars.minutes[slot, symbol])
    return count


@lean_kernel
def publish_running(bars: Any, plan: Any, out: Any, count: int) -> int:
    """Publish the running bars that have changed since they were last published, but for days."""
    for k in range(FIXED):
        end = bars.state[CLOSED + k] + plan.rings[LENGTH, k]
        while end - plan.rings[LENGTH, k] <= bars.state[CLOCK]:
            slot = slot_of(plan, k, end)
            if bars.slots[END, slot] == end:
                for j in range(bars.slots[SIZE, slot]):
                    symbol = bars.members[slot, j]
                    if bars.marks[slot, symbol] & CHANGED:
                        bars.marks[slot, symbol] &= ~CHANGED
                        if k == 0:
                            bars.minutes[slot, symbol]["usual"] = 0
                        count = write(bars, plan, k, slot, symbol, 0, out, count)
            end += plan.rings[LENGTH, k]
    return count


@lean_kernel
def status(bars: Any, plan: Any, row: Any, now_ns: int, latest_ns: int, out: Any, count: int) -> int:
    """Take the time from any status, and the state of a venue's line from one without a symbol."""
    if bars.state[CLOCK] < row["event_ns"] <= latest_ns:
        count = advance(bars, plan, believed(bars, plan, row["event_ns"], now_ns, latest_ns), out, count)
    told = row["venue_state"]
    if row["symbol"] == 0 and (told == _STALE or told == _LIVE or told == _LOST):
        line(
            bars, plan, BY_VENUE, venue_bit(row["venue"]), UP if told == _LIVE else DOWN_NOW if told == _STALE else GAPS
        )
    return count


@lean_kernel
def line(bars: Any, plan: Any, reason: int, venues: int, how: int) -> None:
    """A line went down, came back, or lost packets: the intervals around now have lost messages of these venues."""
    if how != GAPS:
        venues &= bars.state[DOWN + reason] if how == UP else ~bars.state[DOWN + reason]
        bars.state[DOWN + reason] ^= venues
    if venues:
        mark(bars, plan, -1, venues)


@lean_kernel
def mark(bars: Any, plan: Any, symbol: int, venues: int) -> None:
    """Messages were lost just now: of one symbol, or (-1) of all symbols of some venues. The next publication of
    each bar around now says so; how far back "now" goes is `Plan.silence_ns`.
    """
    if bars.state[CLOCK] == 0:
        return
    for k in range(COUNT):
        end = end_around(plan, k, max(bars.state[CLOCK] - plan.silence_ns, bars.state[DONE + k]))
        while True:
            slot = open_slot(bars, plan, k, end)
            bars.slots[LOST, slot] |= venues
            if symbol >= 0:
                bars.marks[slot, symbol] |= INCOMPLETE
            if end > bars.state[CLOCK]:
                break
            end = end_around(plan, k, end)


@lean
def tell(plan: Any, k: int, end: int, published: int, out: Any, count: int) -> int:
    """Say that an interval is complete: a row of the empty symbol, behind all its bars."""
    if plan.rings[WANTED, k] == 0:
        return count
    begin(out, count, KIND_BAR_1M + k, 0, start_of(plan, k, end))
    out[count]["trades"] = published
    return count + 1


@lean_kernel
def begin(out: Any, count: int, kind: int, symbol: int, start: int) -> None:
    """A row with nothing in it yet; the outbox fills seq, epoch, position and the stamp."""
    row = out[count]
    row["kind"] = kind
    row["symbol"] = symbol
    row["venue"] = 0
    row["seq"] = NULL
    row["epoch"] = NULL
    row["position"] = NULL
    row["proc_ns"] = NULL
    row["exchange_seq"] = NULL
    row["event_ns"] = start
    row["recv_ns"] = NULL
    row["feed_ns"] = NULL
    row["open_px"] = NULL
    row["high_px"] = NULL
    row["low_px"] = NULL
    row["close_px"] = NULL
    row["volume"] = NULL
    row["vwap_px"] = NULL
    row["last_ns"] = NULL
    row["rev"] = 1
    row["final"] = 0
    row["gap"] = 0
    row["official_open_px"] = NULL
    row["official_close_px"] = NULL


@lean_kernel
def write(bars: Any, plan: Any, k: int, slot: int, symbol: int, final: int, out: Any, count: int) -> int:
    """Fold the minutes of a symbol's interval into ``out[count]``; return the new count."""
    if plan.rings[WANTED, k] == 0:
        return count
    total = bars.days[0]
    end = bars.slots[END, slot]
    clear_day(total, end)
    at = start_of(plan, k, end) + MINUTE_NS
    if k == DAY:
        day = bars.days[symbol]
        if day["end"] == end:
            bars.days[0] = day
        at = max(at, bars.state[DONE] + MINUTE_NS)
        end = min(end, end_around(plan, 0, bars.state[CLOCK]))
    j = slot_of(plan, 0, at)
    while at <= end:
        if bars.slots[END, j] == at and bars.marks[j, symbol] & MEMBER:
            fold(total, bars.minutes[j, symbol])
        at += MINUTE_NS
        j = j + 1 if j + 1 < plan.rings[RING, 0] else 0

    begin(out, count, KIND_BAR_1M + k, symbol, start_of(plan, k, bars.slots[END, slot]))
    row = out[count]
    row["open_px"] = total["open_px"]
    row["high_px"] = total["high_px"]
    row["low_px"] = total["low_px"]
    row["close_px"] = total["close_px"]
    row["volume"] = total["volume"]
    row["trades"] = total["trades"]
    row["vwap_px"] = average(total["whole"], total["part"], total["priced_volume"])
    if total["last_ns"] > 0:
        row["last_ns"] = total["last_ns"]
    if k == DAY:
        opening = bars.official[symbol, 0]
        if opening["end"] == bars.slots[END, slot]:
            row["official_open_px"] = opening["price"]
            if opening["plan"] == CTA:
                row["open_px"] = opening["price"]
        closing = bars.official[symbol, 1]
        if closing["end"] == bars.slots[END, slot]:
            row["official_close_px"] = closing["price"]
    row["rev"] = bars.revs[slot, symbol]
    row["final"] = final
    row["gap"] = 1 if bars.marks[slot, symbol] & INCOMPLETE or bars.slots[LOST, slot] & bars.venues[symbol] else 0
    bars.counters[PUBLISHED] += 1
    return count + 1


def views(rows: Any) -> tuple[Any, Any, Any, Any, Any]:
    """The arguments ``rows, trades, statuses, links, gaps`` of `step`, all of them the same memory."""
    return rows, rows.view(TRADE), rows.view(STATUS), rows.view(LINK), rows.view(GAP)


def warm_up() -> None:
    """Compile, or load, with the array types of the live path."""
    one, table = np.zeros(1, np.int64), np.zeros((2, 256), np.int64)
    plan = make_plan(
        0, MINUTE_NS, 0, one, table, np.zeros(3, np.int64), np.array([0, DAY_NS]), one, np.ones(4, np.int64)
    )
    step(no_bars(1, plan, 1), plan, *views(empty(0, EVENT)), 0, 0, 0, False, empty(1, BAR), 0)
