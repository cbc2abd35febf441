"""The simulated market: one seeded stream of events that every simulated exchange encodes for its own wire.

`Market.take` gives the events that are due: first the opening spin (the venue opens, every symbol is listed,
trading, quoted), then the flow, in which the bells, halts and repeated announcements stand at their times. It is
deterministic for its arguments and never looks at a clock. What the model is meant to resemble, and what it is not,
stands in docs/simulation.md.
"""

import heapq
import random
from bisect import bisect_right
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from fabric.clock import SECOND_NS
from fabric.records import pack
from nodes import round_lots
from nodes.exchanges import market_events_kernel, market_kernel
from nodes.exchanges.market_events_kernel import (
    ADD,
    BANDS,
    BID,
    DIRECTORY,
    DOLLAR,
    EVENT,
    EXTENDED_HOURS,
    LISTING,
    MINUTE_NS,
    QUOTE,
    SHORT_SALE,
    STATUS,
    SYSTEM,
    mix,
    unit,
)

Events = npt.NDArray[np.void]

POPULAR: Final = {
    "SPY": 520, "NVDA": 120, "AAPL": 185, "TSLA": 240, "QQQ": 440, "AMZN": 175, "MSFT": 410,
    "META": 480, "GOOG": 165, "F": 12, "BRK.B": 410, "IBM": 185, "GE": 160,
}  # fmt: skip
"""The most popular symbols, the first most of all, and the dollars around which they trade."""

SPIN_NS: Final = SECOND_NS // 2
"""How long the opening spin takes: 15,000 messages of 5,000 symbols are then one packet every millisecond."""

POPULARITY_EXPONENT: Final = 1.0
POPULARITY_SHIFT: Final = 10
"""Share of the symbol of rank r ~ 1 / (r + shift)**exponent (Zipf-Mandelbrot): 1.5 % for the first of 5,000."""

USUAL_RATE: Final = 10_000
"""Messages a second of a venue, for how far a price moves between two quotes of a symbol."""

OPEN_MINUTE: Final = 9 * 60 + 30
CLOSE_MINUTE: Final = 16 * 60
OUTSIDE_SESSION: Final = 0.01
"""Factor on the rate before the open and after the close."""

BATCH_MAX: Final = 8_192
"""Events that `Market.take` gives at once."""

HALT_MIN_NS: Final = 5 * SECOND_NS
HALT_MAX_NS: Final = 30 * SECOND_NS
"""How long a halt lasts: seconds, not the five minutes and more of a real one, so that one can be watched."""

BAND: Final = 0.05
"""The bands of a pause, from the reference price (tier 1 of Limit Up-Limit Down)."""

SHORT_SALE_EVERY: Final = 50
"""One symbol in so many is under a short-sale restriction."""

NEVER_NS: Final = 2**62

_ANNOUNCE_EVERY_NS: Final = SECOND_NS // 10
"""About so often some symbols are announced again."""


def tickers(count: int) -> tuple[str, ...]:
    """The symbols of the market, the most popular first: the same for every seed, each at most 8 bytes.

    The known names are followed by all single letters, so that every first letter occurs; then by two to five
    letters, the shorter the more popular, of which some are second classes of shares (``XYZ.A``).
    """
    draw = random.Random(1)  # of its methods only random() is promised to stay the same over Python versions
    first, later = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "ABCFMNPRST", "ABCDEGHLMNOPRSTVWXZ"
    names = dict.fromkeys([*POPULAR, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
    while len(names) < count:
        rank = len(names)
        length = 2 + sum(draw.random() < chance for chance in (0.9, min(0.9, rank / 4_000), rank / 100_000))
        name = first[int(draw.random() * len(first))]
        name += "".join(later[int(draw.random() * len(later))] for _ in range(length - 1))
        if draw.random() < 0.02:
            name += ".A" if draw.random() < 0.5 else ".B"
        names[name] = None
    return tuple(names)[:count]


def list_symbols(names: tuple[str, ...], seed: int) -> npt.NDArray[np.void]:
    """Give each symbol its price, spread, depth, lot and share of the flow; LISTING rows in order of popularity."""
    draw = np.random.default_rng(seed)
    rank = np.arange(1, len(names) + 1)
    rows = np.zeros(len(names), LISTING)
    dollars = np.clip(np.exp(draw.normal(np.log(35.0), 1.1, len(names))), 1.0, 1_000.0)
    for i, name in enumerate(names):
        dollars[i] = POPULAR.get(name, dollars[i])
    rows["base_px"] = np.rint(dollars * 100) * (DOLLAR // 100)
    rows["volatility"] = 1.2e-4 * np.exp(draw.normal(0.0, 0.3, len(names)))  # about 2 % in a trading day
    rows["spread"] = 0.5e-4 * rank**0.45  # half a basis point for the first, 23 for number 5,000
    rows["depth"] = (2.0 + 400.0 / dollars) / (1.0 + np.log10(rank))
    rows["round_lot"] = round_lots.lots(rows["base_px"], date.max)
    share = np.asarray(1.0 / (rank + POPULARITY_SHIFT) ** POPULARITY_EXPONENT, np.float64)
    share /= share.sum()
    rows["margin"] = rows["volatility"] * np.sqrt(1.0 / (share * USUAL_RATE))
    rows["accept"], rows["alias"] = _alias_table(share)
    return rows


def _alias_table(share: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Walker's alias method (Vose 1991): draw an index by ``share`` with one comparison."""
    accept, alias = share * share.size, np.arange(share.size)
    small = [int(i) for i in np.flatnonzero(accept < 1)]
    large = [int(i) for i in np.flatnonzero(accept >= 1)]
    while small and large:
        low, high = small.pop(), large[-1]
        alias[low] = high
        accept[high] -= 1 - accept[low]
        if accept[high] < 1:
            small.append(large.pop())
    accept[small + large] = 1.0  # what rounding has left over
    return accept, alias


def intraday_shape() -> npt.NDArray[np.float64]:
    """Factor on the rate by minute of the New York day; its mean from 9:30 to 16:00 is 1.

    A U over the session, bursts in the first and last minutes, and `OUTSIDE_SESSION` around it.
    """
    minutes = np.full(1440, OUTSIDE_SESSION)
    session = minutes[OPEN_MINUTE:CLOSE_MINUTE]
    session[:] = 1.0 + 1.5 * np.linspace(-1.0, 1.0, session.size) ** 2
    session[:5] *= (3.0, 2.0, 1.6, 1.4, 1.2)
    session[-5:] *= (1.2, 1.4, 1.6, 2.0, 2.5)
    session /= session.mean()
    return minutes


class _Phase:
    """Which part of the New York day runs: before the session, in it, or after it."""

    def __init__(self, shape: str, at_ns: int) -> None:
        """Begin with the phase of ``at_ns``; the flat shape is one session without end."""
        if shape == "flat":
            self.begin_ns, self.end_ns, self.day_ns = at_ns, NEVER_NS, 0
            self.codes, self.extended = "OSR", False
            return
        new_york = ZoneInfo("America/New_York")
        day = datetime.fromtimestamp(at_ns // SECOND_NS, new_york).replace(hour=0, minute=0, second=0)
        tomorrow = (day + timedelta(days=1)).replace(hour=0)
        open_ns = int(day.replace(hour=9, minute=30).timestamp()) * SECOND_NS
        close_ns = int(day.replace(hour=16).timestamp()) * SECOND_NS
        self.day_ns = open_ns - OPEN_MINUTE * MINUTE_NS  # true midnight but for days that set clocks
        self.extended = not open_ns <= at_ns < close_ns
        if at_ns < open_ns:
            self.codes, self.begin_ns, self.end_ns = "OS", int(day.timestamp()) * SECOND_NS, open_ns
        elif at_ns < close_ns:
            self.codes, self.begin_ns, self.end_ns = "OSR", open_ns, close_ns
        else:
            self.codes, self.begin_ns, self.end_ns = "OSRM", close_ns, int(tomorrow.timestamp()) * SECOND_NS

    def minute(self, at_ns: int) -> int:
        """The row of `intraday_shape` for an instant of this day."""
        return min(max((at_ns - self.day_ns) // MINUTE_NS, 0), 1439)


class Halt(NamedTuple):
    """A symbol does not trade, at any venue."""

    start_ns: int
    end_ns: int
    symbol: int
    reason: str  # T1: news; LUDP: paused, the price would have left its bands


def halts_of_minute(seed: int, symbols: int, halts_per_hour: float, minute: int) -> list[Halt]:
    """The halts that begin in a minute (counted from the epoch): a pure function, so that all venues halt together."""
    key = mix(mix(seed) ^ mix(minute))
    found = []
    for number in range(int(halts_per_hour / 60 + unit(key))):
        when, length, which, why = (unit(mix(key + 4 * number + k)) for k in range(1, 5))
        start_ns = minute * MINUTE_NS + int(when * MINUTE_NS)
        end_ns = start_ns + HALT_MIN_NS + int(length * (HALT_MAX_NS - HALT_MIN_NS))
        # the popular ones more often, for the market moves most where it trades most
        found.append(Halt(start_ns, end_ns, int(which**3 * symbols), "LUDP" if why < 0.75 else "T1"))
    return sorted(found)


class Market:
    """What happens at one venue, in the order of time."""

    def __init__(
        self,
        symbols: int,
        seed: int,
        start_ns: int,
        *,
        rate: float,
        venue: str = "V",
        shape: str = "flat",
        even: bool = False,
        by_orders: bool = False,
        renumbers: bool = False,
        corrects: bool = False,
        halts_per_hour: float = 0.0,
        announce_ns: int = 0,
    ) -> None:
        """Open at ``start_ns`` with that many symbols (1 to 20,000).

        ``rate`` is in messages a second and may be changed at any time; 0 is silence. ``shape`` is ``flat`` (every
        hour is a trading hour, at that rate) or ``intraday`` (the rate is the session's mean). Markets of one seed
        share listings, fair prices and halts, so that venues quote around one price; each venue has its own flow.

        ``even``: each symbol in turn, at equal distances, ``rate`` of them a second; else the popular ones more often.
        ``by_orders``: the venue tells single orders, not quotes; ``renumbers``: one that is replaced gets a new number.
        ``corrects``: its wire has corrections of trades.
        ``announce_ns``: every symbol's listing and status are told again in this time, which comes on top of the
        rate; 0 is never.
        """
        assert 1 <= symbols <= 20_000
        assert shape in {"flat", "intraday"}
        self.names = tickers(symbols)
        self.rate = rate
        self._seed = seed
        self._venue = ord(venue)
        self._shape = shape
        self._halts_per_hour = halts_per_hour
        self._phase = _Phase(shape, start_ns)
        self._events = np.zeros(BATCH_MAX, EVENT)
        self._arrays = market_events_kernel.empty_arrays(symbols, by_orders=by_orders)
        self._arrays.listings[:] = list_symbols(self.names, seed)
        if shape == "intraday":
            self._arrays.minutes[:] = intraday_shape()
        flow = self._arrays.flow
        flow["random"] = mix(mix(seed) ^ self._venue)
        self._earliest_ns = start_ns + SPIN_NS  # the flow begins here, or where it was resumed
        flow["next_ns"] = self._earliest_ns
        flow["trade_id"] = flow["order_id"] = start_ns // 1_000  # the numbers of a restarted exchange do not repeat
        flow["turn"] = 1 if even else 0
        flow["renumbers"], flow["corrects"] = renumbers, corrects
        # What stands at fixed times: (when, tie breaker, what writes its events and how many it wrote).
        self._agenda: list[tuple[int, int, Callable[[int], int]]] = []
        self._agenda_made = 0
        self._plan(self._phase.end_ns, self._next_phase)
        if halts_per_hour:
            self._resume_halts(start_ns)
        self._announced = 0
        if announce_ns:
            self._announce_symbols = max(1, round(symbols * _ANNOUNCE_EVERY_NS / announce_ns))
            self._announce_every_ns = announce_ns * self._announce_symbols // symbols
            self._plan(start_ns + SPIN_NS, self._announce)
        self._spin = self._opening_spin(start_ns)  # what is not yet taken of it

    @property
    def listings(self) -> npt.NDArray[np.void]:
        """LISTING rows, in the order of `names`."""
        return self._arrays.listings

    @property
    def books(self) -> npt.NDArray[np.void]:
        """BOOK rows, in the order of `names`: the best bid and offer as last told."""
        return self._arrays.books

    @property
    def orders(self) -> npt.NDArray[np.void]:
        """ORDER[symbols, 2, DEPTH]: what stands in the book of a venue that tells orders; id 0 is no order."""
        return self._arrays.orders

    def take(self, until_ns: int) -> Events:
        """The next events that are due by ``until_ns``, in order, as a view that is good until the next call.

        At most `BATCH_MAX`; call again until it returns none.
        """
        if self._spin.size:
            count = bisect_right(self._spin["event_ns"], until_ns, hi=min(self._spin.size, BATCH_MAX))
            due, self._spin = self._spin[:count], self._spin[count:]
            return due
        if self.rate <= 0:
            return self._events[:0]
        while True:
            at_ns = self._agenda[0][0]
            count = self._generate(min(until_ns, at_ns - 1))
            if count or until_ns < at_ns:
                return self._events[:count]
            _, _, act = heapq.heappop(self._agenda)
            count = act(at_ns)
            if count:
                return self._events[:count]

    def image(self, symbols: npt.NDArray[np.int64], at_ns: int) -> Events:
        """All that is to be said of some symbols as they are now, stamped ``at_ns``, for who has missed it.

        Listings, short sales, statuses, then quotes or standing orders, the oldest first.
        """
        restricted = symbols[symbols % SHORT_SALE_EVERY == SHORT_SALE_EVERY - 1]
        if self.orders.size:
            places = np.nonzero(self.orders["id"][symbols])
            standing = self.orders[symbols][places]
            by_age = np.argsort(standing["id"])
            where, side, standing = places[0][by_age], places[1][by_age], standing[by_age]
        else:
            where = np.flatnonzero(self.books["halted"][symbols] == 0)
        rows = np.zeros(2 * symbols.size + restricted.size + where.size, EVENT)
        listed, short_sale, status, quoted = np.split(rows, np.cumsum([symbols.size, restricted.size, symbols.size]))
        self._list(listed, symbols)
        short_sale["kind"], short_sale["symbol"], short_sale["code"] = SHORT_SALE, restricted, ord("1")
        self._tell_status(status, symbols)
        quoted["symbol"], quoted["code"] = symbols[where], self._hours
        if self.orders.size:
            quoted["kind"], quoted["side"] = ADD, np.where(side == BID, 1, -1)
            quoted["order_id"], quoted["price"], quoted["size"] = standing["id"], standing["px"], standing["size"]
        else:
            quoted["kind"] = QUOTE
            for name in ("bid_px", "bid_size", "ask_px", "ask_size"):
                quoted[name] = self.books[name][symbols[where]]
        rows["venue"], rows["event_ns"] = self._venue, at_ns
        return rows

    def skip_to(self, at_ns: int) -> int:
        """Give up what was due before ``at_ns`` and return about how many messages that is.

        The opening spin is moved instead: a symbol that was never listed would never be seen.
        """
        flow = self._arrays.flow
        if self._spin.size:
            late_ns = max(0, at_ns - int(self._spin["event_ns"][0]))
            self._spin["event_ns"] += late_ns
            self._earliest_ns += late_ns
            flow["next_ns"] = self._earliest_ns
            return 0
        late_ns = max(0, at_ns - int(flow["next_ns"][0]))
        flow["next_ns"] += late_ns
        self._earliest_ns = at_ns
        return round(late_ns / SECOND_NS * self.rate * self._arrays.minutes[self._phase.minute(at_ns)])

    def _generate(self, until_ns: int) -> int:
        return market_kernel.generate(
            self._arrays,
            self._events,
            until_ns,
            self.rate,
            self._phase.day_ns,
            self._seed,
            self._venue,
            self._hours,
        )

    @property
    def _hours(self) -> int:
        """The mark of quotes, orders and trades at this time of the day."""
        return EXTENDED_HOURS if self._phase.extended else 0

    def _plan(self, at_ns: int, act: Callable[[int], int]) -> None:
        self._agenda_made += 1
        heapq.heappush(self._agenda, (at_ns, self._agenda_made, act))

    def _opening_spin(self, start_ns: int) -> Events:
        """All events before the flow, spread evenly over `SPIN_NS`: system, directory, status, first quotes."""
        listings, codes = self.listings, self._phase.codes
        restricted = np.arange(SHORT_SALE_EVERY - 1, listings.size, SHORT_SALE_EVERY)
        before = len(codes) + 2 * listings.size + restricted.size
        spin = np.zeros(before + 2 * listings.size + market_kernel.STATUS_MAX, EVENT)
        quoted = market_kernel.open_books(self._arrays, spin[before:], self._seed, start_ns, self._venue, self._hours)
        spin = spin[: before + quoted]
        system, directory, short_sale, status, _ = np.split(
            spin, np.cumsum([len(codes), listings.size, restricted.size, listings.size])
        )
        system["kind"], system["code"] = SYSTEM, [ord(code) for code in codes]
        self._list(directory, np.arange(listings.size))
        short_sale["kind"], short_sale["symbol"], short_sale["code"] = SHORT_SALE, restricted, ord("1")
        self._tell_status(status, np.arange(listings.size))
        spin["venue"] = self._venue
        spin["event_ns"] = start_ns + np.arange(spin.size) * SPIN_NS // spin.size
        return spin

    def _list(self, rows: Events, symbols: npt.NDArray[np.int64]) -> None:
        rows["kind"], rows["symbol"] = DIRECTORY, symbols
        rows["size"], rows["price"] = self.listings["round_lot"][symbols], self.listings["base_px"][symbols]

    def _tell_status(self, rows: Events, symbols: npt.NDArray[np.int64]) -> None:
        rows["kind"], rows["symbol"] = STATUS, symbols
        halted = self._arrays.books["halted"][symbols] != 0
        rows["code"] = np.where(halted, ord("H"), ord("T"))
        rows["reason"] = np.where(halted, self._reasons[symbols] if self._halts_per_hour else 0, 0)

    def _announce(self, at_ns: int) -> int:
        """Tell some symbols' listing and status again."""
        symbols = np.arange(self._announced, self._announced + self._announce_symbols) % self.listings.size
        self._announced = int(symbols[-1]) + 1
        rows = self._events[: 2 * symbols.size]
        rows[:] = np.zeros((), EVENT)
        self._list(rows[: symbols.size], symbols)
        self._tell_status(rows[symbols.size :], symbols)
        rows["venue"], rows["event_ns"] = self._venue, max(at_ns, self._earliest_ns)
        self._plan(max(at_ns, self._earliest_ns) + self._announce_every_ns, self._announce)
        return rows.size

    def _resume_halts(self, start_ns: int) -> None:
        """Begin with the halts that hold at ``start_ns``, and with those of the minute that come."""
        self._reasons = np.zeros(self.listings.size, np.int64)
        minute = start_ns // MINUTE_NS
        for halt in self._halts_of(minute - 1) + self._halts_of(minute):
            if halt.start_ns > start_ns:
                self._plan_halt(halt)
            elif halt.end_ns > start_ns and not self._arrays.books["halted"][halt.symbol]:
                self._arrays.books["halted"][halt.symbol] = 1
                self._reasons[halt.symbol] = pack(halt.reason)
                self._plan_end(halt)
        self._plan((minute + 1) * MINUTE_NS, self._plan_minute)

    def _halts_of(self, minute: int) -> list[Halt]:
        return halts_of_minute(self._seed, self.listings.size, self._halts_per_hour, minute)

    def _plan_minute(self, at_ns: int) -> int:
        """Put the halts of the minute that begins on the agenda."""
        for halt in self._halts_of(at_ns // MINUTE_NS):
            self._plan_halt(halt)
        self._plan(at_ns + MINUTE_NS, self._plan_minute)
        return 0

    def _plan_halt(self, halt: Halt) -> None:
        self._plan(halt.start_ns, lambda _: self._begin_halt(halt))

    def _plan_end(self, halt: Halt) -> None:
        self._plan(halt.end_ns, lambda at_ns: self._end_halt(halt.symbol, at_ns))

    def _begin_halt(self, halt: Halt) -> int:
        """Halt a symbol; one that is halted already stays so until its own end."""
        if self._arrays.books["halted"][halt.symbol]:
            return 0
        self._plan_end(halt)
        self._reasons[halt.symbol] = reason = pack(halt.reason)
        count = self._set_trading(0, halt.symbol, ord("H"), reason, halt.start_ns)
        if halt.reason == "LUDP":
            listing, bands = self.listings[halt.symbol], self._events[count : count + 1]
            bands[:] = np.zeros((), EVENT)
            fair = market_events_kernel.fair_px(
                listing["base_px"], listing["volatility"], self._seed, halt.symbol, halt.start_ns
            )
            bands["kind"], bands["symbol"], bands["venue"] = BANDS, halt.symbol, self._venue
            bands["event_ns"], bands["price"] = self._events["event_ns"][0], _cents(fair)
            bands["bid_px"], bands["ask_px"] = _cents(fair * (1 - BAND)), _cents(fair * (1 + BAND))
            count += 1
        return count

    def _end_halt(self, symbol: int, at_ns: int) -> int:
        self._reasons[symbol] = 0
        return self._set_trading(0, symbol, ord("T"), 0, at_ns)

    def _set_trading(self, count: int, symbol: int, letter: int, reason: int, at_ns: int) -> int:
        return market_kernel.set_trading(
            self._arrays,
            self._events,
            count,
            symbol,
            letter,
            reason,
            max(at_ns, self._earliest_ns),
            self._seed,
            self._venue,
            self._hours,
        )

    def _next_phase(self, at_ns: int) -> int:
        """Enter the phase that follows; the SYSTEM event that announces it, at the instant at which it began.

        Midnight has none: the simulated market goes on into the next day. The next arrival is brought forward to
        the bell, for it was drawn under the rate of the phase that is over.
        """
        ended = self._phase
        self._phase = _Phase(self._shape, at_ns)
        self._plan(self._phase.end_ns, self._next_phase)
        self._arrays.flow["next_ns"] = max(at_ns, self._earliest_ns)
        event = self._events[: len(self._phase.codes) > len(ended.codes)]
        event[:] = np.zeros((), EVENT)
        event["kind"], event["venue"], event["code"] = SYSTEM, self._venue, ord(self._phase.codes[-1])
        event["event_ns"] = at_ns
        return event.size


def _cents(price: float) -> int:
    return max(1, round(price / (DOLLAR // 100))) * (DOLLAR // 100)
