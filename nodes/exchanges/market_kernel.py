"""The flow of a simulated market, compiled: who quotes or trades what next, and at which prices (pure).

The fair price of a symbol is no state but a function of (seed, symbol, time): a sum of nine interpolated
noises whose periods grow by four from 0.27 s to 4.9 h and whose amplitudes grow with the root of the
period, so that it moves like a random walk within a day and never leaves its neighbourhood. Exchanges in
different processes, and one that was restarted, therefore quote around one price without knowing each other.

Arrivals are a Poisson process. One in nine is a trade: it prints at the venue's best, and the quote that it
leaves behind follows at the same instant; so one message in ten is a trade.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import inlined, kernel

# Kinds of a market event.
QUOTE = 1  # a venue's best bid and offer, whole
TRADE = 2  # a print at the venue's best; bid and ask are those it met
STATUS = 3  # `code`: a trading status, as the ASCII code of its letter (T trading, H halted)
DIRECTORY = 4  # the symbol is listed: `size` is its round lot, `price` its last close
SYSTEM = 5  # of the whole venue; `code` as ASCII: O S R M E C (start and end of messages, system hours, regular hours)

# Bits of `code` in quotes and trades.
EXTENDED_HOURS = 1
ODD_LOT = 2

EVENT = np.dtype(
    [
        ("kind", "<i8"),
        ("symbol", "<i8"),  # index into the market's names
        ("venue", "<i8"),  # ASCII code of the participant letter
        ("event_ns", "<i8"),  # the exchange's time: when the event is due on the wire
        ("bid_px", "<i8"),
        ("bid_size", "<i8"),
        ("ask_px", "<i8"),
        ("ask_size", "<i8"),
        ("price", "<i8"),
        ("size", "<i8"),
        ("side", "<i8"),  # of a trade: 1 when the buyer took the ask, -1 when the seller hit the bid
        ("code", "<i8"),
        ("trade_id", "<i8"),
    ]
)
"""Prices in 1e-9 of a dollar, sizes in shares; columns that a kind does not use are 0."""

LISTING = np.dtype(
    [
        ("base_px", "<f8"),  # the price around which it moves
        ("volatility", "<f8"),  # standard deviation of its relative move in one second
        ("spread", "<f8"),  # usual spread as a part of the price
        ("depth", "<f8"),  # usual displayed size in round lots
        ("round_lot", "<i8"),
        ("accept", "<f8"),  # Walker's alias table: stay with the drawn row below this,
        ("alias", "<i8"),  # else go to this one
    ]
)

BOOK = np.dtype(
    [("bid_px", "<i8"), ("bid_size", "<i8"), ("ask_px", "<i8"), ("ask_size", "<i8"), ("spread_ticks", "<i8")]
)

FLOW = np.dtype([("random", "<i8"), ("next_ns", "<i8"), ("trade_id", "<i8")])


class MarketArrays(NamedTuple):
    """The state of a market, as kernels take it."""

    listings: npt.NDArray[np.void]  # LISTING[symbols]
    books: npt.NDArray[np.void]  # BOOK[symbols]
    flow: npt.NDArray[np.void]  # FLOW[1]: the random state, when the next arrival is due, the last trade's number
    minutes: npt.NDArray[np.float64]  # [1440] factor on the rate by minute of the New York day


TRADE_ARRIVALS = 1 / 9
MESSAGES_PER_ARRIVAL = 1 + TRADE_ARRIVALS
DOLLAR = 1_000_000_000
MINUTE_NS = 60_000_000_000

# splitmix64 (Steele, Lea, Flood 2014), its unsigned constants written as the signed integers of the same bits.
_GAMMA = -0x61C8864680B583EB
_MIX_1 = -0x40A7B892E31B1A47
_MIX_2 = -0x6B2FB644ECCEEE15
_UNIT = 2.0**-53

_NOISE_SHIFT = 28  # the shortest period is 2**28 ns
_NOISE_OCTAVES = 9


@inlined
def mix(value: int) -> int:
    """Scramble 64 bits (the finalizer of splitmix64)."""
    value = (value ^ ((value >> 30) & 0x3FFFFFFFF)) * _MIX_1
    value = (value ^ ((value >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return value ^ ((value >> 31) & 0x1FFFFFFFF)


@inlined
def _unit(bits: int) -> float:
    """The upper 53 bits as a number in [0, 1)."""
    return ((bits >> 11) & 0x1FFFFFFFFFFFFF) * _UNIT


@inlined
def _uniform(flow: Any) -> float:
    """Draw from [0, 1)."""
    flow["random"] += _GAMMA
    return _unit(mix(flow["random"]))


@inlined
def fair_px(base_px: float, volatility: float, seed: int, symbol: int, at_ns: int) -> float:
    """The price around which all venues quote ``symbol`` at ``at_ns``; a pure function."""
    moved = 0.0
    key = mix(seed ^ mix(symbol + 1))
    for octave in range(_NOISE_OCTAVES):
        shift = _NOISE_SHIFT + 2 * octave
        period_ns = 1 << shift
        cell = at_ns >> shift
        left = _unit(mix(key + cell * 16 + octave))
        right = _unit(mix(key + (cell + 1) * 16 + octave))
        between = (at_ns - (cell << shift)) / period_ns
        noise = 2.0 * (left + (right - left) * between) - 1.0
        moved += noise * math.sqrt(period_ns * 1e-9)
    return base_px * max(0.5, 1.0 + volatility * moved)


@inlined
def tick_px(price: float) -> int:
    """The smallest step of a quote: 0.01, and 0.0001 below one dollar (17 CFR 242.612)."""
    return 10_000_000 if price >= DOLLAR else 100_000


@inlined
def _lots(flow: Any, mean: float) -> int:
    """Draw a number of round lots, at least one: geometric, as far as that matters."""
    return 1 + int(-math.log(1.0 - _uniform(flow)) * mean)


@inlined
def _centre(book: Any, listing: Any, flow: Any, fair: float) -> None:
    """Quote around the fair price, with a spread that wanders and returns to what is usual."""
    tick = tick_px(fair)
    usual = max(1, round(fair * listing["spread"] / tick))
    wander = int(_uniform(flow) * 3.0) - 1
    spread = max(1, usual + (book["spread_ticks"] - usual) * 3 // 4 + wander * max(1, usual // 4))
    bid = max(1, round((fair - spread * tick * 0.5) / tick)) * tick
    ask = bid + spread * tick
    if bid < DOLLAR < ask:  # one side on each side of a dollar: the upper one has the coarser step
        ask += -ask % 10_000_000
    book["spread_ticks"] = spread
    book["bid_px"], book["ask_px"] = bid, ask
    book["bid_size"] = _lots(flow, listing["depth"]) * listing["round_lot"]
    book["ask_size"] = _lots(flow, listing["depth"]) * listing["round_lot"]


@inlined
def _requote(book: Any, listing: Any, flow: Any, fair: float) -> None:
    """Move the quote if the fair price has left it, or one time in eight; else change the size of one side."""
    if not book["bid_px"] <= fair <= book["ask_px"] or _uniform(flow) < 0.125:
        _centre(book, listing, flow, fair)
        return
    size = _lots(flow, listing["depth"]) * listing["round_lot"]
    if _uniform(flow) < 0.5:
        book["bid_size"] = size if size != book["bid_size"] else size + listing["round_lot"]
    else:
        book["ask_size"] = size if size != book["ask_size"] else size + listing["round_lot"]


@inlined
def _take(book: Any, listing: Any, flow: Any, side: int, size: int) -> None:
    """Take ``size`` from one side of the book; a side that is used up comes back one step away."""
    lot = listing["round_lot"]
    if side > 0:
        left = (book["ask_size"] - size) // lot * lot
        if left == 0:
            book["ask_px"] += tick_px(book["ask_px"])
            left = _lots(flow, listing["depth"]) * lot
        book["ask_size"] = left
    else:
        left = (book["bid_size"] - size) // lot * lot
        if left == 0:
            book["bid_px"] -= tick_px(book["bid_px"] - 1)
            left = _lots(flow, listing["depth"]) * lot
        book["bid_size"] = left


@inlined
def _write(event: Any, kind: int, symbol: int, venue: int, event_ns: int, book: Any, code: int) -> None:
    """Fill an event with the book as it stands."""
    event["kind"], event["symbol"], event["venue"], event["event_ns"] = kind, symbol, venue, event_ns
    event["bid_px"], event["bid_size"] = book["bid_px"], book["bid_size"]
    event["ask_px"], event["ask_size"] = book["ask_px"], book["ask_size"]
    event["price"], event["size"], event["side"], event["trade_id"] = 0, 0, 0, 0
    event["code"] = code


@kernel
def open_books(market: Any, seed: int, at_ns: int) -> None:
    """Give every symbol its first quote."""
    flow = market.flow[0]
    for symbol in range(market.listings.size):
        listing = market.listings[symbol]
        fair = fair_px(listing["base_px"], listing["volatility"], seed, symbol, at_ns)
        _centre(market.books[symbol], listing, flow, fair)


@kernel
def generate(
    market: Any, events: Any, until_ns: int, rate: float, day_ns: int, seed: int, venue: int, code: int
) -> int:
    """Write the events that are due by ``until_ns``, in order, as far as ``events`` has room; return how many.

    ``rate`` is in messages a second, above 0; ``day_ns`` the instant from which
    `MarketArrays.minutes` counts; ``code`` marks quotes and trades (EXTENDED_HOURS or 0).
    """
    flow = market.flow[0]
    symbols = market.listings.size
    gap_ns = 1e9 * MESSAGES_PER_ARRIVAL / rate
    count = 0
    while flow["next_ns"] <= until_ns and count + 2 <= events.size:
        now_ns = flow["next_ns"]
        row = _uniform(flow) * symbols
        symbol = int(row)
        if row - symbol >= market.listings[symbol]["accept"]:
            symbol = market.listings[symbol]["alias"]
        listing = market.listings[symbol]
        book = market.books[symbol]
        if _uniform(flow) < TRADE_ARRIVALS:
            side = 1 if _uniform(flow) < 0.5 else -1
            shown = book["ask_size"] if side > 0 else book["bid_size"]
            lot = listing["round_lot"]
            if _uniform(flow) < 0.4 and lot > 1:
                size = 1 + int(_uniform(flow) * (lot - 1))
            else:
                size = min(shown, _lots(flow, 1.5) * lot)
            trade = events[count]
            _write(trade, TRADE, symbol, venue, now_ns, book, code | (ODD_LOT if size < lot else 0))
            flow["trade_id"] += 1
            trade["price"] = book["ask_px"] if side > 0 else book["bid_px"]
            trade["size"], trade["side"], trade["trade_id"] = size, side, flow["trade_id"]
            count += 1
            _take(book, listing, flow, side, size)
        else:
            _requote(book, listing, flow, fair_px(listing["base_px"], listing["volatility"], seed, symbol, now_ns))
        _write(events[count], QUOTE, symbol, venue, now_ns, book, code)
        count += 1
        minute = min(max((now_ns - day_ns) // MINUTE_NS, 0), market.minutes.size - 1)
        wait_ns = -math.log(1.0 - _uniform(flow)) * gap_ns / market.minutes[minute]
        flow["next_ns"] = now_ns + int(wait_ns + 0.5)
    return count


def empty_arrays(symbols: int) -> MarketArrays:
    """The arrays of a market of that size, zeroed, with the rate the same in every minute."""
    return MarketArrays(
        listings=np.zeros(symbols, LISTING),
        books=np.zeros(symbols, BOOK),
        flow=np.zeros(1, FLOW),
        minutes=np.ones(1440),
    )


def warm_up() -> None:
    """Compile or load every entry kernel with the array types of the live path."""
    market, events = empty_arrays(1), np.zeros(2, EVENT)
    market.listings["base_px"], market.listings["accept"], market.listings["round_lot"] = 50.0 * DOLLAR, 1.0, 100
    mix(1)
    open_books(market, 1, 0)
    generate(market, events, 0, 1.0, 0, 1, ord("V"), 0)
