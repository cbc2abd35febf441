"""Quotes of all venues in, changes of the best bid and offer out: the node. It owns the arrays, the kernel the rule.

The composite of the venues in `ProcessorSettings.venues`; ``scope`` of every row says which of them feed it,
so it is the *national* best bid and offer only where all venues of the market are read.

What changes it, besides a quote:

* A line that goes silent (STATUS with the empty symbol and ``stale``, or a LINK row that is not up) takes all
  quotes of its venues out of the composite at once. After it is back only new quotes count: an old price
  is never shown as live. Quotes that arrive while their line is down are counted and not used.
* A halt of a symbol sets a bit and leaves the prices alone. The last word of any venue counts.

When a row is published: when venue, price or size of a side changes, when a state bit does, or when a venue that fed
the symbol is lost. A venue that joins without changing the best, or a trade, shows in the next row. A
symbol that has lost all its venues has no sides and the bit ``stale``; one that has lost some, ``partial``.
"""

import numpy as np

from fabric import node
from fabric.bus import EVENTS_MAX
from fabric.node import Runtime
from fabric.records import NBBO, Rows, venue_mask
from fabric.topology import ProcessorSettings
from nodes import conditions, nbbo_kernel


class Nbbo:
    """The composite of some symbols."""

    def __init__(self, symbols_max: int, venues: str, publishers: tuple[str, ...], batch_max: int) -> None:
        """``venues`` are the letters that may count, ``publishers`` those that each source of the inbox speaks for;
        ``batch_max`` is without the inbox's rows about links.
        """
        self.book = nbbo_kernel.no_book(symbols_max, len(venues))
        slots = np.full(256, -1, np.int64)
        for slot, venue in enumerate(venues):
            slots[ord(venue)] = slot
        self.market = nbbo_kernel.Market(
            slots=slots,
            venues=np.array([ord(venue) for venue in venues], np.int64),
            publishers=np.array([venue_mask(letters) for letters in publishers], np.int64),
            quotes=conditions.quote_table(),
            sales=conditions.sale_table(),
        )
        # Zeroed pages cost nothing until the worst case, all lines lost in one batch, writes to them.
        self._changes = np.zeros(nbbo_kernel.changes_max(symbols_max, len(venues), batch_max + EVENTS_MAX), NBBO)

    def step(self, batch: Rows, now_ns: int) -> Rows:
        """Apply rows of any kinds in the order of arrival; return the NBBO rows made, good until the next step."""
        count = nbbo_kernel.step(self.book, self.market, *nbbo_kernel.views(batch), self._changes)
        return self._changes[:count]

    def warm_up(self) -> None:
        """Compile, or load, the kernel before the first quote."""
        nbbo_kernel.warm_up()

    def counters(self) -> dict[str, int]:
        """Totals since the start, by the names in `nbbo_kernel.COUNTERS`."""
        return dict(zip(nbbo_kernel.COUNTERS, self.book.counters.tolist(), strict=True))


def main(runtime: Runtime) -> None:
    """The program: one shard's composite until told to stop."""
    settings, limits = runtime.spec.settings, runtime.topology.limits
    assert isinstance(settings, ProcessorSettings)
    publishers = tuple(source.publisher.venues for source in runtime.spec.reads)
    processor = Nbbo(limits.symbols_max, settings.venues, publishers, limits.batch_max)
    node.run(processor, runtime.inbox(), runtime.outbox(), runtime)
