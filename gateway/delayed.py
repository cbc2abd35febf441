"""The market as it was: what a plan with a delay sees, within bounded memory.

Rows of the bus wait here for the delay and then enter a second `Latest` and `Fanout`, so everything that clients
get (quotes, snapshots, stale marks, candles, REST) is what everyone saw so long ago. All ticks of fifteen minutes
would be gigabytes. So the best bid and offer of a symbol is kept once in `SAMPLE_NS`, the last one before each
beat; bars are kept when their interval is over; states are kept, since they are few. Single trades, running bars
and the quotes of each venue are not, and a plan with a delay does not have those channels.

At most `ROWS_MAX` rows wait (230 MB): beyond that a beat is left out and counted.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np

from fabric.clock import SECOND_NS, Clock
from fabric.records import BAR, EVENT, KIND_BAR_1H, KIND_BAR_1M, KIND_LINK, KIND_NBBO, KIND_STATUS, Rows, empty
from fabric.symbols import SymbolTable
from fabric.topology import GatewaySettings, Source, Topology
from gateway.fanout import Fanout
from gateway.latest import Latest

SAMPLE_NS: Final = 15 * SECOND_NS
ROWS_MAX: Final = 1_200_000
DELAYED_CHANNELS: Final = ("quotes", "bars", "updatedBars", "dailyBars", "bars5m", "bars1h", "statuses", "lulds")


class DelayLine:
    """Rows that wait; pure but for its memory. All times are of the monotonic clock."""

    def __init__(self, delay_ns: int, capacity: int) -> None:
        """``capacity``: of the symbol table."""
        self._delay_ns = delay_ns
        self._waiting: deque[tuple[int, Rows]] = deque()
        self._beat_ns: int | None = None
        self._sample = empty(capacity, EVENT)
        self._changed = np.zeros(capacity, np.bool_)
        self.rows = 0
        self.left_out = 0

    def put(self, batch: Rows, now_ns: int) -> None:
        """Take what of a batch is kept."""
        if self._beat_ns is None:
            self._beat_ns = now_ns + SAMPLE_NS
        elif now_ns >= self._beat_ns:
            self._beat(now_ns)
        kinds = batch["kind"]
        quotes = batch[kinds == KIND_NBBO]
        self._sample[quotes["symbol"]] = quotes  # the last of several stays
        self._changed[quotes["symbol"]] = True
        bars = (kinds >= KIND_BAR_1M) & (kinds <= KIND_BAR_1H) & (batch.view(BAR)["rev"] > 0)
        links = kinds == KIND_LINK
        if links.any():  # what came before a publisher was lost must not come out after it was back
            self._beat(now_ns)
        others = batch[bars | links | (kinds == KIND_STATUS)]
        if others.size:
            self._keep(others.copy(), now_ns)

    def due(self, now_ns: int) -> list[Rows]:
        """The rows whose time has come, in their order."""
        if self._beat_ns is not None and now_ns >= self._beat_ns:
            self._beat(now_ns)
        found = []
        while self._waiting and self._waiting[0][0] + self._delay_ns <= now_ns:
            found.append(self._waiting.popleft()[1])
            self.rows -= found[-1].size
        return found

    def _beat(self, now_ns: int) -> None:
        """Keep what has changed since the last beat."""
        self._beat_ns = now_ns + SAMPLE_NS
        changed = np.flatnonzero(self._changed)
        self._changed[:] = False
        if changed.size:
            self._keep(self._sample[changed], now_ns)

    def _keep(self, rows: Rows, now_ns: int) -> None:
        if self.rows + rows.size > ROWS_MAX:
            self.left_out += rows.size
            return
        self._waiting.append((now_ns, rows))
        self.rows += rows.size


class Delayed:
    """A delay line, and the memory and fan-out behind it."""

    def __init__(
        self,
        delay_ns: int,
        topology: Topology,
        settings: GatewaySettings,
        sources: Sequence[Source],
        symbols: SymbolTable,
        clock: Clock,
    ) -> None:
        self._line = DelayLine(delay_ns, symbols.capacity)
        self._delay_ns = delay_ns
        self.latest = Latest(topology.limits, topology.venues, sources, symbols)
        self.fanout = Fanout(topology, settings, symbols, self.latest, clock)

    def take(self, batch: Rows, now_ns: int) -> None:
        """A batch of the bus; ``now_ns`` is monotonic."""
        self._line.put(batch, now_ns)

    def turn(self, wall_ns: int, now_ns: int) -> bool:
        """Let rows out whose time has come, and serve clients; True when some of them still wait."""
        for rows in self._line.due(now_ns):
            self.latest.apply(rows, wall_ns - self._delay_ns)
            self.fanout.apply(rows)
        return self.fanout.flush(now_ns)

    def counters(self) -> dict[str, int]:
        """Rows that wait and that found no room, and those of the fan-out."""
        counters = self.fanout.counters()
        return {"waiting": self._line.rows, "left_out": self._line.left_out, "clients": counters["clients"]}
