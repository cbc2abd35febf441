"""What the simulated market is made of: its records, its dice and the price that all venues share (pure).

The fair price of a symbol is no state but a function of (seed, symbol, time): a sum of nine interpolated
noises whose periods grow by four from 0.27 s to 4.9 h and whose amplitudes grow with the root of the
period, so that it moves like a random walk within a day and never leaves its neighbourhood. Exchanges in
different processes, and one that was restarted, therefore quote around one price without knowing each other.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import inlined

# Kinds of a market event. Every event carries the venue's best bid and offer.
QUOTE = 1  # a venue's best bid and offer, whole; a side of size 0 does not exist
TRADE = 2  # a print at the venue's best; bid and ask are those it met
STATUS = 3  # `code`: a trading status, as the ASCII code of its letter (T trading, H halted); `reason`
DIRECTORY = 4  # the symbol is listed: `size` is its round lot, `price` its last close
SYSTEM = 5  # of the whole venue; `code` as ASCII: O S R M E C (start and end of messages, system hours, regular hours)
SHORT_SALE = 6  # `code` as ASCII: 1 when the symbol may not be sold short below the best bid (Rule 201), else 0
BANDS = 7  # the prices between which a paused symbol may open again: bid_px and ask_px; `price` is the reference
BREAK = 8  # the trade `trade_id` is void; price and size are its
CORRECTION = 9  # the trade `original_id` is replaced: by `trade_id`, at `price` for `size`
# Of a venue whose wire tells single orders; bid and ask are the best after it.
ADD = 10  # an order is entered: order_id, side, price, size
EXECUTE = 11  # `size` shares of the order traded at its `price`
CANCEL = 12  # `size` shares of the order are taken back, some are left
DELETE = 13  # the rest of the order, `size` shares, is taken back
REPLACE = 14  # the order `original_id` is now `order_id` (on some wires the same), at `price` for `size`
HIDDEN = 15  # a trade with an order that was not displayed

# Bits of `code` in quotes, trades and orders.
EXTENDED_HOURS = 1
ODD_LOT = 2

BID = 0  # the sides, as rows of `MarketArrays.orders`
ASK = 1
DEPTH = 6
"""Orders that one side of a symbol may have at once."""

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
        ("side", "<i8"),  # 1 buys, -1 sells: who took in a TRADE, whose order it is in the kinds of orders
        ("code", "<i8"),
        ("reason", "<i8"),  # of a status, packed text as in fabric.records
        ("trade_id", "<i8"),
        ("order_id", "<i8"),
        ("original_id", "<i8"),  # the order that is replaced, or the trade that is corrected
    ]
)
"""Prices in 1e-9 of a dollar, sizes in shares; columns that a kind does not use are 0."""

LISTING = np.dtype(
    [
        ("base_px", "<f8"),  # the price around which it moves
        ("volatility", "<f8"),  # standard deviation of its relative move in one second
        ("spread", "<f8"),  # usual spread as a part of the price
        ("margin", "<f8"),  # what a new quote keeps away from the fair price, as a part of it
        ("depth", "<f8"),  # usual displayed size in round lots
        ("round_lot", "<i8"),
        ("accept", "<f8"),  # Walker's alias table: stay with the drawn row below this,
        ("alias", "<i8"),  # else go to this one
    ]
)

BOOK = np.dtype(
    [
        ("bid_px", "<i8"),
        ("bid_size", "<i8"),
        ("ask_px", "<i8"),
        ("ask_size", "<i8"),
        ("spread_ticks", "<i8"),
        ("halted", "<i8"),  # 1: nothing happens to the symbol
    ]
)

ORDER = np.dtype([("id", "<i8"), ("px", "<i8"), ("size", "<i8")])
"""An order in the book; id 0 is a free place."""

FLOW = np.dtype(
    [
        ("random", "<i8"),
        ("next_ns", "<i8"),  # when the next arrival is due
        ("trade_id", "<i8"),  # the last given
        ("order_id", "<i8"),
        ("renumbers", "<i8"),  # 1: an order that is replaced gets a new number
        ("turn", "<i8"),  # 1 + the symbol whose turn it is; 0: drawn by its share
        ("corrects", "<i8"),  # 1: half of the wrong trades are corrected, not broken
        ("wrong_kind", "<i8"),  # a trade that is to be taken back: 0 none, BREAK or CORRECTION
        ("wrong_ns", "<i8"),  # not before this
        ("wrong_symbol", "<i8"),
        ("wrong_id", "<i8"),
        ("wrong_px", "<i8"),
        ("wrong_size", "<i8"),
        ("wrong_code", "<i8"),
    ]
)


class MarketArrays(NamedTuple):
    """The state of a market, as kernels take it."""

    listings: npt.NDArray[np.void]  # LISTING[symbols]
    books: npt.NDArray[np.void]  # BOOK[symbols]: the best as it was last told
    orders: npt.NDArray[np.void]  # ORDER[symbols, 2, DEPTH], or of no symbols at a venue that tells no orders
    flow: npt.NDArray[np.void]  # FLOW[1]
    minutes: npt.NDArray[np.float64]  # [1440] factor on the rate by minute of the New York day


DOLLAR = 1_000_000_000
MINUTE_NS = 60_000_000_000
_CENT = 10_000_000

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
def unit(bits: int) -> float:
    """The upper 53 bits as a number in [0, 1)."""
    return ((bits >> 11) & 0x1FFFFFFFFFFFFF) * _UNIT


@inlined
def uniform(flow: Any) -> float:
    """Draw from [0, 1)."""
    flow["random"] += _GAMMA
    return unit(mix(flow["random"]))


@inlined
def lots(flow: Any, mean: float) -> int:
    """Draw a number of round lots, at least one: geometric, as far as that matters."""
    return 1 + int(-math.log(1.0 - uniform(flow)) * mean)


@inlined
def fair_px(base_px: float, volatility: float, seed: int, symbol: int, at_ns: int) -> float:
    """The price around which all venues quote ``symbol`` at ``at_ns``; a pure function."""
    moved = 0.0
    key = mix(seed ^ mix(symbol + 1))
    for octave in range(_NOISE_OCTAVES):
        shift = _NOISE_SHIFT + 2 * octave
        period_ns = 1 << shift
        cell = at_ns >> shift
        left = unit(mix(key + cell * 16 + octave))
        right = unit(mix(key + (cell + 1) * 16 + octave))
        between = (at_ns - (cell << shift)) / period_ns
        noise = 2.0 * (left + (right - left) * between) - 1.0
        moved += noise * math.sqrt(period_ns * 1e-9)
    return base_px * max(0.5, 1.0 + volatility * moved)


@inlined
def tick_px(price: float) -> int:
    """The smallest step of a quote: 0.01, and 0.0001 below one dollar (17 CFR 242.612)."""
    return _CENT if price >= DOLLAR else 100_000


@inlined
def behind(price: int, side: int, ticks: int) -> int:
    """The price ``ticks`` steps worse than ``price`` for a buyer (BID) or a seller (ASK); always a valid price."""
    if side == ASK:
        worse = price + ticks * tick_px(price)
        return worse + (-worse % _CENT if worse >= DOLLAR else 0)
    return max(price - ticks * tick_px(price - 1), 100_000)


@inlined
def write(event: Any, kind: int, symbol: int, venue: int, event_ns: int, book: Any, code: int) -> None:
    """Fill an event with the best as it stands; what the kind has besides is the caller's to add."""
    event["kind"], event["symbol"], event["venue"], event["event_ns"] = kind, symbol, venue, event_ns
    event["bid_px"], event["bid_size"] = book["bid_px"], book["bid_size"]
    event["ask_px"], event["ask_size"] = book["ask_px"], book["ask_size"]
    event["price"], event["size"], event["side"], event["code"] = 0, 0, 0, code
    event["reason"], event["trade_id"], event["order_id"], event["original_id"] = 0, 0, 0, 0


def empty_arrays(symbols: int, *, by_orders: bool = False) -> MarketArrays:
    """The arrays of a market of that size, zeroed, with the rate the same in every minute."""
    return MarketArrays(
        listings=np.zeros(symbols, LISTING),
        books=np.zeros(symbols, BOOK),
        orders=np.zeros((symbols if by_orders else 0, 2, DEPTH), ORDER),
        flow=np.zeros(1, FLOW),
        minutes=np.ones(1440),
    )


def warm_up() -> None:
    """Nothing to do: these helpers are compiled into the kernels that use them."""
