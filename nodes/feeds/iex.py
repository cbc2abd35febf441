"""TOPS 1.6 and DEEP 1.0: what their messages become on the bus.

| message | row |
|---|---|
| Q (TOPS) | QUOTE, always: it is IEX's whole best bid and offer |
| 8, 5 (DEEP) | QUOTE when the event is complete (flag 0x01) and the best of the level book has changed |
| T | TRADE |
| B | TRADE with mark ``x``; ``original_id`` is the broken trade's, ``trade_id`` undefined |
| H, O, P, D | STATUS of the symbol when it changes: ``trading`` is H, O, P or T and ``reason`` IEX's own; |
| | halted on IEX alone (O) is ``trading`` H with ``reason`` OPER, until it ends; ``short_sale`` 0 or 1; ``round_lot`` |
| S | STATUS of the venue (empty symbol): ``trading`` is the system event (O S R M E C) |
| a gap, a restart | QUOTE without sides for each symbol that had one |
| I E X A | counted: no record has a place for them |

A side with price 0 or size 0 does not exist (NULL). Quote condition is ``R``; ``N`` (not firm, and so not eligible
for the NBBO on any tape) when the flag 0x80 says that the symbol is not available for trading on IEX. Each quote
carries it, so a reader that came late, or lost the H message, still knows. Sale conditions are the tape's:
``F`` intermarket sweep, ``T`` extended hours, ``I`` odd lot, ``X`` single-price cross, in this order, ``@`` when none;
trade-through exempt (0x10) is not a sale condition on the tape. The tape is undefined: the wire does not say it.

After a gap no quote can be known to hold: each is withdrawn and comes back when IEX tells it again. A TOPS quote is
whole in itself. A book of DEEP levels may lack those that have not changed since the gap, or since who comes late came:
its quotes are not firm (``N``) until the next session.
Symbols are taken as sent, in the form of IEX's own directory (``BRK.B``).
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from fabric.records import EVENT, Rows, empty
from fabric.symbols import SymbolTable
from nodes.feeds import iex_kernel, level_book_kernel, rows_kernel
from nodes.feeds.iex_kernel import PROTOCOL_DEEP, PROTOCOL_TOPS

VENUE: Final = "V"
BLOCK_BYTES_MAX: Final = 65_507
"""The longest UDP payload."""
ROWS_MIN: Final = BLOCK_BYTES_MAX // iex_kernel.ROW_BYTES_MIN
DEEP_LEVELS_MAX: Final = 1 << 19
"""Price levels of all symbols together: 8,000 symbols with 65 levels each."""

TYPE_NAMES: Final = {
    "Q": "quote",
    "8": "price_level_buy",
    "5": "price_level_sell",
    "T": "trade",
    "B": "trade_break",
    "S": "system_event",
    "D": "security_directory",
    "H": "trading_status",
    "O": "operational_halt",
    "P": "short_sale",
    "I": "retail_interest",
    "E": "security_event",
    "X": "official_price",
    "A": "auction",
}
_COUNTER_NAMES: Final = {
    iex_kernel.MESSAGES: "messages",
    iex_kernel.QUOTES: "quotes",
    iex_kernel.TRADES: "trades",
    iex_kernel.BREAKS: "trade_breaks",
    iex_kernel.STATUSES: "statuses",
    iex_kernel.WITHDRAWN: "withdrawn",
    iex_kernel.UNKNOWN: "unknown",
    iex_kernel.UNENCODABLE: "unencodable",
    iex_kernel.REFUSED: "refused",
    iex_kernel.MESSAGE: "malformed_message",
}


class Iex:
    """The messages of one feed of IEX (a `Messages`)."""

    def __init__(self, protocol: int, symbols: SymbolTable, levels_max: int, rows_max: int = ROWS_MIN) -> None:
        """``levels_max`` bounds the level book (1 for TOPS, which has none), ``rows_max`` the rows given at once."""
        assert rows_max >= ROWS_MIN
        self.state = iex_kernel.new_state(symbols.capacity, levels_max)
        self._protocol = protocol
        self._symbols = symbols
        self._rows = empty(rows_max, EVENT)
        self._out = rows_kernel.new_out(self._rows)

    def decode(self, buffer: npt.NDArray[np.uint8], blocks: npt.NDArray[np.void]) -> Iterator[Rows]:
        taken = 0
        while taken < blocks.size:
            taken, n = iex_kernel.decode(
                buffer, blocks, taken, self._protocol, ord(VENUE), self._symbols.arrays, self.state, self._out
            )
            if n:
                yield self._rows[:n]

    def counters(self) -> dict[str, int]:
        counts = {name: int(self.state.counters[column]) for column, name in _COUNTER_NAMES.items()}
        if self._protocol == PROTOCOL_DEEP:
            book = self.state.book.counters
            counts["levels"] = int(book[level_book_kernel.IN_USE])
            counts["levels_refused"] = int(book[level_book_kernel.REFUSED])
            counts["levels_removed"] = int(book[level_book_kernel.REMOVED])
            counts["levels_absent"] = int(book[level_book_kernel.ABSENT])
        return counts

    def messages_by_type(self) -> dict[str, int]:
        types = self.state.types
        names = {TYPE_NAMES.get(chr(kind), f"unknown_{kind:#04x}"): int(types[kind]) for kind in types.nonzero()[0]}
        return dict(sorted(names.items(), key=lambda item: -item[1]))


def tops(symbols: SymbolTable) -> Iex:
    """TOPS 1.6: the best bid and offer in each quote; no book."""
    return Iex(PROTOCOL_TOPS, symbols, levels_max=1)


def deep(symbols: SymbolTable) -> Iex:
    """DEEP 1.0: the best bid and offer of a level book."""
    return Iex(PROTOCOL_DEEP, symbols, levels_max=DEEP_LEVELS_MAX)
