"""DEEP+ 1.0, IEX's feed of single orders: what its messages become on the bus.

| message | row |
|---|---|
| a, M, R, L, C | QUOTE when they change the best of the order book; all orders at the best price count |
| L | TRADE of the displayed order, with the sale flags as conditions, before the quote |
| T | TRADE between orders that were not displayed |
| B | TRADE with mark ``x``; ``original_id`` is the broken trade's |
| H, O, P, D | STATUS of the symbol when it changes, as in `iex` |
| S | STATUS of the venue (empty symbol): ``trading`` is the system event (O S R M E C) |
| a gap, a restart | QUOTE without sides for each symbol that had one: its orders are void |
| I E | counted: no record has a place for them |

A message about an order that is not in the book is counted (``orphans``); after a gap those are the orders from
before it. Quotes of a book that may lack such orders are not firm (``N``) until the next session.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from fabric.records import EVENT, Rows, empty
from fabric.symbols import SymbolTable
from nodes.feeds import deep_plus_kernel, iex_kernel, order_book_kernel, rows_kernel

VENUE: Final = "V"
BLOCK_BYTES_MAX: Final = 65_507
"""The longest UDP payload."""
ROWS_MIN: Final = BLOCK_BYTES_MAX // deep_plus_kernel.ROW_BYTES_MIN
ORDERS_MAX: Final = 1 << 20
LEVELS_MAX: Final = 1 << 19
"""Orders and price levels of all symbols together; memory is taken as they are used."""

TYPE_NAMES: Final = {
    "a": "add_order",
    "M": "order_modify",
    "R": "order_delete",
    "L": "order_executed",
    "C": "clear_book",
    "T": "trade",
    "B": "trade_break",
    "S": "system_event",
    "D": "security_directory",
    "H": "trading_status",
    "O": "operational_halt",
    "P": "short_sale",
    "I": "retail_interest",
    "E": "security_event",
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
_BOOK_NAMES: Final = {
    order_book_kernel.ORDERS: "orders",
    order_book_kernel.LEVELS: "levels",
    order_book_kernel.REFUSED: "orders_refused",
    order_book_kernel.DUPLICATES: "duplicate_orders",
    order_book_kernel.ORPHANS: "orphans",
    order_book_kernel.OVERDRAWN: "overdrawn",
}


class DeepPlus:
    """The messages of DEEP+ (a `Messages`)."""

    def __init__(
        self, symbols: SymbolTable, orders_max: int = ORDERS_MAX, levels_max: int = LEVELS_MAX, rows_max: int = ROWS_MIN
    ) -> None:
        """``orders_max`` and ``levels_max`` bound the book, ``rows_max`` the rows given at once."""
        assert rows_max >= ROWS_MIN
        self.state = deep_plus_kernel.new_state(symbols.capacity, orders_max, levels_max)
        self._symbols = symbols
        self._rows = empty(rows_max, EVENT)
        self._out = rows_kernel.new_out(self._rows)

    def decode(self, buffer: npt.NDArray[np.uint8], blocks: npt.NDArray[np.void]) -> Iterator[Rows]:
        taken = 0
        while taken < blocks.size:
            taken, n = deep_plus_kernel.decode(
                buffer, blocks, taken, ord(VENUE), self._symbols.arrays, self.state, self._out
            )
            if n:
                yield self._rows[:n]

    def counters(self) -> dict[str, int]:
        counts = {name: int(self.state.counters[column]) for column, name in _COUNTER_NAMES.items()}
        book = self.state.book.counters
        return counts | {name: int(book[column]) for column, name in _BOOK_NAMES.items()}

    def messages_by_type(self) -> dict[str, int]:
        types = self.state.types
        names = {TYPE_NAMES.get(chr(kind), f"unknown_{kind:#04x}"): int(types[kind]) for kind in types.nonzero()[0]}
        return dict(sorted(names.items(), key=lambda item: -item[1]))
