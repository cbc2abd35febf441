"""The simulated market: one seeded stream of events that every simulated exchange encodes for its own wire.

`Market.take` gives the events that are due: first the opening spin (the venue opens, every symbol is listed,
trading, quoted), then the flow. It is deterministic for its arguments and never looks at a clock. What the
model is meant to resemble, and what it is not, stands in docs/simulation.md.
"""

import random
from bisect import bisect_left, bisect_right
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from fabric.clock import SECOND_NS
from nodes.exchanges import market_kernel
from nodes.exchanges.market_kernel import (
    DIRECTORY,
    DOLLAR,
    EVENT,
    EXTENDED_HOURS,
    LISTING,
    QUOTE,
    STATUS,
    SYSTEM,
)

Events = npt.NDArray[np.void]

POPULAR: Final = {
    "SPY": 520, "NVDA": 120, "AAPL": 185, "TSLA": 240, "QQQ": 440, "AMZN": 175, "MSFT": 410,
    "META": 480, "GOOG": 165, "F": 12, "BRK.B": 410, "IBM": 185, "GE": 160,
}  # fmt: skip
"""The most popular symbols, the first most of all, and the dollars around which they trade."""

SPIN_NS: Final = SECOND_NS // 2
"""How long the opening spin takes: 15,000 messages of 5,000 symbols are then one packet a millisecond."""

POPULARITY_EXPONENT: Final = 1.0
POPULARITY_SHIFT: Final = 10
"""Share of the symbol of rank r ~ 1 / (r + shift)**exponent (Zipf-Mandelbrot): 1.5 % for the first of 5,000."""

OPEN_MINUTE: Final = 9 * 60 + 30
CLOSE_MINUTE: Final = 16 * 60
OUTSIDE_SESSION: Final = 0.01
"""Factor on the rate before the open and after the close."""

BATCH_MAX: Final = 8_192
"""Events that `Market.take` gives at once."""

LOOK_AHEAD_NS: Final = 16_000_000
"""The flow is made for so long in advance: one call of the kernel for many ticks. A change of rate waits for it."""

NEVER_NS: Final = 2**62


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
    rows["round_lot"] = np.select([dollars <= 250, dollars <= 1_000, dollars <= 10_000], [100, 40, 10], 1)
    share = 1.0 / (rank + POPULARITY_SHIFT) ** POPULARITY_EXPONENT
    rows["accept"], rows["alias"] = _alias_table(share / share.sum())
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
        self.day_ns = open_ns - OPEN_MINUTE * market_kernel.MINUTE_NS  # true midnight but for days that set clocks
        self.extended = not open_ns <= at_ns < close_ns
        if at_ns < open_ns:
            self.codes, self.begin_ns, self.end_ns = "OS", int(day.timestamp()) * SECOND_NS, open_ns
        elif at_ns < close_ns:
            self.codes, self.begin_ns, self.end_ns = "OSR", open_ns, close_ns
        else:
            self.codes, self.begin_ns, self.end_ns = "OSRM", close_ns, int(tomorrow.timestamp()) * SECOND_NS

    def minute(self, at_ns: int) -> int:
        """The row of `intraday_shape` for an instant of this day."""
        return min(max((at_ns - self.day_ns) // market_kernel.MINUTE_NS, 0), 1439)


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
    ) -> None:
        """Open at ``start_ns`` with that many symbols (1 to 20,000).

        ``rate`` is in messages a second and may be changed at any time; 0 is silence. ``shape`` is ``flat`` (every
        hour is a trading hour, at that rate) or ``intraday`` (the rate is the session's mean). Markets of one seed
        share listings and fair prices, so that venues quote around one price; each venue has its own flow.
        """
        assert 1 <= symbols <= 20_000
        assert shape in {"flat", "intraday"}
        self.names = tickers(symbols)
        self.rate = rate
        self._seed = seed
        self._venue = ord(venue)
        self._shape = shape
        self._phase = _Phase(shape, start_ns)
        self._events = np.zeros(BATCH_MAX, EVENT)
        self._arrays = market_kernel.empty_arrays(symbols)
        self._arrays.listings[:] = list_symbols(self.names, seed)
        if shape == "intraday":
            self._arrays.minutes[:] = intraday_shape()
        flow = self._arrays.flow
        flow["random"] = market_kernel.mix(market_kernel.mix(seed) ^ self._venue)
        self._earliest_ns = start_ns + SPIN_NS  # the flow begins here, or where it was resumed
        flow["next_ns"] = self._earliest_ns
        flow["trade_id"] = start_ns // 1_000  # so that the numbers of a restarted exchange do not repeat
        market_kernel.open_books(self._arrays, seed, start_ns)
        self._made = self._opening_spin(start_ns)  # events that are made and not yet taken
        self._opened = False

    @property
    def listings(self) -> npt.NDArray[np.void]:
        """LISTING rows, in the order of `names`."""
        return self._arrays.listings

    def take(self, until_ns: int) -> Events:
        """The next events that are due by ``until_ns``, in order, as a view that is good until the next call.

        At most `BATCH_MAX`; call again until it returns none.
        """
        if self._made.size == 0:
            self._opened = True  # the opening is over
            self._made = self._make(until_ns)
        count = bisect_right(self._made["event_ns"], until_ns, hi=min(self._made.size, BATCH_MAX))
        due, self._made = self._made[:count], self._made[count:]
        return due

    def skip_to(self, at_ns: int) -> int:
        """Give up what was due before ``at_ns`` and return how many messages that is (what was not yet made: about).

        The opening spin is moved instead: a symbol that was never listed would never be seen.
        """
        flow = self._arrays.flow
        if self._made.size and not self._opened:
            late_ns = max(0, at_ns - int(self._made["event_ns"][0]))
            self._made["event_ns"] += late_ns
            self._earliest_ns += late_ns
            flow["next_ns"] = self._earliest_ns
            return 0
        made = bisect_left(self._made["event_ns"], at_ns)
        self._made = self._made[made:]
        late_ns = max(0, at_ns - int(flow["next_ns"][0]))
        flow["next_ns"] += late_ns
        self._earliest_ns = at_ns
        return made + round(late_ns / SECOND_NS * self.rate * self._arrays.minutes[self._phase.minute(at_ns)])

    def _make(self, until_ns: int) -> Events:
        """Make the events of the flow that are due by ``until_ns`` and those of the time after it."""
        if self.rate <= 0:
            return self._events[:0]
        count = market_kernel.generate(
            self._arrays,
            self._events,
            min(until_ns + LOOK_AHEAD_NS, self._phase.end_ns - 1),
            self.rate,
            self._phase.day_ns,
            self._seed,
            self._venue,
            EXTENDED_HOURS if self._phase.extended else 0,
        )
        if count or until_ns < self._phase.end_ns:
            return self._events[:count]
        return self._next_phase()

    def _opening_spin(self, start_ns: int) -> Events:
        """All events before the flow, spread evenly over `SPIN_NS`: system, directory, status, first quotes."""
        listings, codes = self.listings, self._phase.codes
        spin = np.zeros(len(codes) + 3 * listings.size, EVENT)
        spin["venue"] = self._venue
        spin["event_ns"] = start_ns + np.arange(spin.size) * SPIN_NS // spin.size
        system, directory, status, quotes = np.split(spin, len(codes) + np.arange(3) * listings.size)
        system["kind"], system["code"] = SYSTEM, [ord(code) for code in codes]
        directory["kind"], status["kind"], quotes["kind"] = DIRECTORY, STATUS, QUOTE
        for rows in (directory, status, quotes):
            rows["symbol"] = np.arange(listings.size)
        directory["size"], directory["price"] = listings["round_lot"], listings["base_px"]
        status["code"] = ord("T")
        for name in ("bid_px", "bid_size", "ask_px", "ask_size"):
            quotes[name] = self._arrays.books[name]
        quotes["code"] = EXTENDED_HOURS if self._phase.extended else 0
        return spin

    def _next_phase(self) -> Events:
        """Enter the phase that follows; the SYSTEM event that announces it, at the instant at which it began.

        Midnight has none: the simulated market goes on into the next day. The next arrival is brought forward to
        the bell, for it was drawn under the rate of the phase that is over.
        """
        ended = self._phase
        self._phase = _Phase(self._shape, ended.end_ns)
        self._arrays.flow["next_ns"] = max(self._phase.begin_ns, self._earliest_ns)
        event = self._events[: len(self._phase.codes) > len(ended.codes)]
        event[:] = np.zeros((), EVENT)
        event["kind"], event["venue"], event["code"] = SYSTEM, self._venue, ord(self._phase.codes[-1])
        event["event_ns"] = self._phase.begin_ns
        return event
