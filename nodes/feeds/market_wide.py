"""The market-wide circuit breaker as one state of a feed (pure): the level that halts all trading, if one does.

Wires tell it in two ways. NASDAQ (W) and the plans (ML, AD) say that a level was breached; NYSE, IEX and the others say
it of each symbol, as the reason of its halt. PITCH has no word for either. What ends a halt no wire says of the market:
it is over when a symbol that was halted for it trades again. A level halts once a day, levels 1 and 2 for fifteen
minutes, 3 for the rest of the day (rule 7.12 of the exchanges), so one that is over does not come back with the symbols
that have not been released yet.
"""

from typing import Final

import numpy as np

from fabric.records import Rows, pack
from nodes.feeds.trading_day import TradingDay

LEVELS: Final = {pack(f"{word}{level}"): level for word in ("MWC", "MCB", "") for level in (1, 2, 3)}
"""Reasons that name a level: of NASDAQ and the UTP plan, of IEX, of NYSE and the CTA plan."""
_REASONS: Final = np.array(sorted(LEVELS), np.int64)
_LEVEL_OF: Final = np.array([LEVELS[reason] for reason in sorted(LEVELS)], np.int64)
_TRADES: Final = pack("T")


class MarketWide:
    """What the breaker is, by STATUS rows in their order."""

    def __init__(self) -> None:
        self.level = 0
        """1 to 3 while trading is halted; 0 while it is not."""
        self._reached = 0  # the highest level of the day
        self._halted: set[int] = set()  # symbols that were told to be halted for it, while it holds
        self._day = TradingDay()
        self._midnight_ns = 0

    def take(self, statuses: Rows, now_ns: int) -> bool:
        """Take STATUS rows that came at ``now_ns`` (UTC); tell whether the level is another after them."""
        before = self.level
        midnight_ns = self._day.at(now_ns)
        if midnight_ns != self._midnight_ns:
            self._midnight_ns, self._reached = midnight_ns, 0
            self._end()
        symbols, reasons = statuses["symbol"], statuses["reason"]
        place = np.searchsorted(_REASONS, reasons).clip(max=_REASONS.size - 1)
        levels = np.where(_REASONS[place] == reasons, _LEVEL_OF[place], 0)
        told = int(levels.max(initial=0))
        if told > self._reached:
            self._reached = self.level = told
        elif self.level and not self._halted.isdisjoint(symbols[statuses["trading"] == _TRADES].tolist()):
            self._end()
        if self.level:
            self._halted.update(symbols[(levels > 0) & (symbols != 0)].tolist())
        return self.level != before

    def _end(self) -> None:
        self.level = 0
        self._halted.clear()
