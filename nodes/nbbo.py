"""Quotes of all venues in, changes of the best bid and offer out: the node. It owns the arrays, the kernel the rule.

The composite of the venues in `ProcessorSettings.venues`; ``scope`` of every row says which of them feed it. It is
the *national* best bid and offer, and its rows say so (`STATE_NATIONAL`), only where the topology tells which venues
the market has (`ProcessorSettings.market`), and every one of them is read and alive.

What changes it, besides a quote:

* A line that goes silent (STATUS with the empty symbol and ``stale``, or a LINK row that is not up) takes all
  quotes of its venues out of the composite at once. After it is back only new quotes count: an old price
  is never shown as live. Quotes that arrive while their line is down are counted and not used.
* A venue that ends its day (STATUS with the empty symbol and the event) takes its quotes with it.
* A halt of the whole market sets a bit, as long as one venue says so, and leaves the prices alone. A halt at one
  venue takes that venue's quotes of the symbol out until it trades again.
* A new round lot, or a price band.

When a row is published: when venue, price or size of a side changes, when a state bit does, or when a venue that fed
the symbol is lost. A venue that joins without changing the best, or a trade, shows in the next row. A
symbol that has lost all its venues has no sides and the bit ``stale``; one that has lost some, ``partial``.

A market that stays locked or crossed is published as it is, and told as a fault of the data: `counters` say how many
symbols have been for longer than `GRACE_NS`, in the regular session and while they are not halted. On the recorded day
(tests/nodes/test_nbbo.py) no lock in the session lasted longer than 0.11 s; after the close one lasted 87 s.

Beside the composite, where the topology has this node publish them: ``bolo``, the best odd lots, which are never in
it; and ``why``, who is left out of it and for which reason, published when that changes.
"""

import numpy as np

from fabric import node
from fabric.bus import EVENTS_MAX
from fabric.clock import SECOND_NS
from fabric.node import Runtime
from fabric.records import EVENT, STATE_CROSSED, STATE_HALTED, STATE_LOCKED, Rows, venue_mask
from fabric.recovery import Arrays
from fabric.reference import day_at
from fabric.topology import ProcessorSettings
from nodes import nbbo_kernel, quote_conditions, round_lots, sale_conditions, trading_states
from nodes.sale_conditions_kernel import SOLD_AFTER_CLOSE_NS

GRACE_NS = 5 * SECOND_NS
"""How long a market may be locked or crossed before it is told as a fault."""
LOOK_NS = SECOND_NS
"""How often that is looked at; a market that is locked at each look counts as locked in between."""
NEVER = 2**63 - 1


class Nbbo:
    """The composite of some symbols."""

    def __init__(
        self,
        symbols_max: int,
        venues: str,
        publishers: tuple[str, ...],
        batch_max: int,
        market: str = "",
        channels: tuple[str, ...] = ("nbbo",),
    ) -> None:
        """``venues`` are the letters that may count, ``publishers`` those that each source of the inbox speaks for,
        ``market`` those of all venues that there are, if known; ``batch_max`` is without the inbox's rows about links.
        ``channels`` are published: nbbo always, bolo and why if named.
        """
        self.book = nbbo_kernel.no_book(symbols_max, len(venues))
        codes = np.zeros((8, 256), np.int64)
        codes[nbbo_kernel.SLOTS] = -1
        for slot, venue in enumerate(venues):
            codes[nbbo_kernel.SLOTS, ord(venue)] = slot
        columns = np.zeros(32, np.int64)
        for slot, venue in enumerate(venues):
            columns[nbbo_kernel.place_of(venue_mask(venue))] = slot
        codes[nbbo_kernel.SALES : nbbo_kernel.STATES] = sale_conditions.sale_table()
        codes[nbbo_kernel.STATES] = trading_states.states()
        codes[nbbo_kernel.EVENTS] = trading_states.events()
        self.market = nbbo_kernel.Market(
            codes=codes,
            venues=np.array([ord(venue) for venue in venues], np.int64),
            bits=np.array([venue_mask(venue) for venue in venues], np.int64),
            columns=columns,
            publishers=np.array([venue_mask(letters) for letters in publishers], np.int64),
            alone=trading_states.reasons_here_alone(),
            tapes=venue_mask(trading_states.TAPES),
            national=venue_mask(market),
            lot=0,
            tells=nbbo_kernel.TELLS_BOLO * ("bolo" in channels) | nbbo_kernel.TELLS_WHY * ("why" in channels),
            listing=sale_conditions.listing(),
            day_ns=0,
            late_ns=0,
        )
        self._begin_day(0)
        self._looked_ns = 0
        self._since_ns = {bit: np.full(symbols_max, NEVER, np.int64) for bit in (STATE_LOCKED, STATE_CROSSED)}
        # Zeroed pages cost nothing until the worst case, all lines lost in one batch, writes to them.
        self._changes = np.zeros(nbbo_kernel.changes_max(symbols_max, len(venues), batch_max + EVENTS_MAX), EVENT)
        self._out = nbbo_kernel.make_out(self._changes)

    def step(self, batch: Rows, now_ns: int) -> Rows:
        """Apply rows of any kinds in the order of arrival; return the rows made, good until the next step."""
        if not self._day.start_ns <= now_ns < self._day.end_ns:
            self._begin_day(now_ns)
        count = nbbo_kernel.step(self.book, self.market, *nbbo_kernel.views(batch), self._out)
        if abs(now_ns - self._looked_ns) >= LOOK_NS:
            self._look(now_ns)
        return self._changes[:count]

    def arrays(self) -> Arrays:
        """All that `step` may change; the tables of a day follow from the time."""
        return dict(self.book._asdict())

    def used(self, symbols: int) -> Arrays:
        """The same as far as ``symbols`` can have touched it."""
        by_symbol = ("quoted", "tops", "facts")
        return {name: array[:symbols] if name in by_symbol else array for name, array in self.arrays().items()}

    def _begin_day(self, now_ns: int) -> None:
        """Take the tables that are in force on the day of New York that holds ``now_ns``."""
        day = self._day = day_at(now_ns)
        self.market.codes[: nbbo_kernel.SLOTS] = quote_conditions.tables(day.date)
        self.market = self.market._replace(
            lot=round_lots.default(day.date),
            day_ns=day.start_ns,
            late_ns=NEVER if day.close_ns is None else day.close_ns + SOLD_AFTER_CLOSE_NS,
        )

    def _look(self, now_ns: int) -> None:
        """Note since when each market is locked or crossed, in the regular session and not halted."""
        self._looked_ns = now_ns
        day, symbols = self._day, 1 + int(self.book.lines[nbbo_kernel.SYMBOLS])
        regular = day.open_ns is not None and day.close_ns is not None and day.open_ns <= now_ns < day.close_ns
        states = self.book.tops["state"][:symbols]
        for bit, since_ns in self._since_ns.items():
            holds = (states & (bit | STATE_HALTED) == bit) & regular
            since_ns[:symbols] = np.where(holds, np.minimum(since_ns[:symbols], now_ns), NEVER)

    def warm_up(self) -> None:
        """Compile, or load, the kernel before the first quote."""
        nbbo_kernel.warm_up()

    def counters(self) -> dict[str, int]:
        """Totals by the names in `nbbo_kernel.COUNTERS`, symbols that are locked or crossed for too long, and quotes
        with unknown conditions by plan and code.
        """
        counts = dict(zip(nbbo_kernel.COUNTERS, self.book.counters.tolist(), strict=True))
        for name, since_ns in zip(("locked_long", "crossed_long"), self._since_ns.values(), strict=True):
            counts[name] = int(np.count_nonzero(since_ns <= self._looked_ns - GRACE_NS))
        for plan, code in np.argwhere(self.book.unknown).tolist():
            shown = chr(code) if chr(code).isalnum() and code < 128 else f"0x{code:02x}"
            counts[f"unknown_condition_{quote_conditions.PLAN_NAMES[plan]}_{shown}"] = int(
                self.book.unknown[plan, code]
            )
        return counts


def main(runtime: Runtime) -> None:
    """The program: one shard's composite until told to stop."""
    settings, limits, own = runtime.spec.settings, runtime.topology.limits, runtime.spec.publishes
    assert isinstance(settings, ProcessorSettings)
    assert own is not None
    publishers = tuple(source.publisher.venues for source in runtime.spec.reads)
    processor = Nbbo(limits.symbols_max, settings.venues, publishers, limits.batch_max, settings.market, own.channels)
    node.run(processor, runtime.inbox(), runtime.outbox(), runtime)
