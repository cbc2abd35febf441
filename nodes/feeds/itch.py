"""TotalView-ITCH 5.0: what its messages become on the bus.

| message | row |
|---|---|
| A F X D U | QUOTE when the order book's best of that side has changed, in price or in size |
| E | TRADE at the order's price; then QUOTE as above |
| C | TRADE at the message's price when it is printable; then QUOTE as above |
| P | TRADE (a hidden order's; the book is not touched) |
| Q | TRADE of a cross, when it has shares |
| B | TRADE with mark ``x``; ``original_id`` is the broken trade's, price and size are not told |
| H, h, R, Y, J | STATUS of the symbol with all that is known of it; then QUOTE when it became firm or ceased to be |
| S | STATUS of the venue (empty symbol): ``trading`` is the system event (O S Q M E C) |
| W | STATUS of the venue: ``reason`` is MWC1, MWC2 or MWC3, the level of the market-wide circuit breaker |
| a gap, a restart | QUOTE without sides for each symbol that had one |
| L V K I N O | counted: no record has a place for them |

Quote condition is ``R``, and ``N`` (not firm) for a symbol that is halted, paused, in quotation only, halted on this
market alone, or in the directory without having been released. STATUS: ``trading`` is H, P, Q or T and ``reason``
NASDAQ's (a halt on this market alone is H with ``OPER``), ``short_sale`` the Reg SHO action (0, 1, 2), ``round_lot``
the directory's, ``upper_px`` and ``lower_px`` the collars of a reopening auction until trading resumes.

Sale conditions are the tape's: ``T`` outside of market hours (by the system events, before one by the clock), ``I`` for
fewer shares than a round lot, ``@`` for neither; a cross has ``O`` at the opening, ``6`` at the close, ``5`` after a
halt, ``X`` else. The tape is the directory's: C for NASDAQ's own listings, A for NYSE's, B for the others.

After a gap, and for who begins in the middle of a session, the book starts empty, and a side is told only while it is
known to be whole: at better prices than the worst at which an order has been executed since (see the kernel).
Symbols are taken as sent.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from fabric.records import EVENT, Rows, empty
from fabric.symbols import SymbolTable
from nodes.feeds import itch_kernel, order_book_kernel, rows_kernel
from nodes.feeds.trading_day import TradingDay

NASDAQ: Final = "Q"
BLOCK_BYTES_MAX: Final = 1 << 17
"""No transport's block is longer."""
ROWS_MIN: Final = BLOCK_BYTES_MAX // itch_kernel.ROW_BYTES_MIN
ORDERS_MAX: Final = 1 << 22
LEVELS_MAX: Final = 1 << 21
"""Orders and price levels of all symbols together; a busy day of NASDAQ has about half as many."""

TYPE_NAMES: Final = {
    "S": "system_event",
    "R": "stock_directory",
    "H": "trading_action",
    "h": "operational_halt",
    "Y": "reg_sho",
    "L": "participant_position",
    "V": "breaker_levels",
    "W": "breaker_status",
    "K": "ipo_quotation",
    "J": "auction_collar",
    "A": "add",
    "F": "add_attributed",
    "E": "executed",
    "C": "executed_with_price",
    "X": "cancel",
    "D": "delete",
    "U": "replace",
    "P": "trade",
    "Q": "cross_trade",
    "B": "broken_trade",
    "I": "imbalance",
    "N": "retail_interest",
    "O": "direct_listing",
}
_COUNTER_NAMES: Final = {
    itch_kernel.MESSAGES: "messages",
    itch_kernel.QUOTES: "quotes",
    itch_kernel.TRADES: "trades",
    itch_kernel.BREAKS: "trade_breaks",
    itch_kernel.STATUSES: "statuses",
    itch_kernel.WITHDRAWN: "withdrawn",
    itch_kernel.UNKNOWN: "unknown",
    itch_kernel.UNPRINTED: "unprinted",
    itch_kernel.UNENCODABLE: "unencodable",
    itch_kernel.UNLISTED: "unlisted",
    itch_kernel.REFUSED: "refused",
    itch_kernel.MESSAGE: "malformed_message",
}
_BOOK_NAMES: Final = {
    order_book_kernel.ORDERS: "orders",
    order_book_kernel.LEVELS: "levels",
    order_book_kernel.REFUSED: "orders_refused",
    order_book_kernel.DUPLICATES: "orders_duplicate",
    order_book_kernel.ORPHANS: "orders_orphaned",
    order_book_kernel.OVERDRAWN: "orders_overdrawn",
}


class Itch:
    """The messages of one market that speaks ITCH 5.0 (a `Messages`)."""

    def __init__(
        self,
        symbols: SymbolTable,
        venue: str = NASDAQ,
        orders_max: int = ORDERS_MAX,
        levels_max: int = LEVELS_MAX,
        rows_max: int = ROWS_MIN,
    ) -> None:
        """``venue`` is the market's letter (Q; B for BX, X for PSX); ``rows_max`` bounds the rows given at once."""
        assert rows_max >= ROWS_MIN
        self.state = itch_kernel.new_state(symbols.capacity, orders_max, levels_max)
        self._symbols = symbols
        self._venue = ord(venue)
        self._day = TradingDay()
        self._rows = empty(rows_max, EVENT)
        self._out = rows_kernel.new_out(self._rows)

    def decode(self, buffer: npt.NDArray[np.uint8], blocks: npt.NDArray[np.void]) -> Iterator[Rows]:
        taken = 0
        while taken < blocks.size:
            midnight_ns = self._day.at(int(blocks["recv_ns"][taken]))
            taken, n = itch_kernel.decode(
                buffer,
                blocks,
                taken,
                self._venue,
                midnight_ns,
                self._day.next_midnight_ns,
                self._symbols.arrays,
                self.state,
                self._out,
            )
            if n:
                yield self._rows[:n]

    def counters(self) -> dict[str, int]:
        counts = {name: int(self.state.counters[column]) for column, name in _COUNTER_NAMES.items()}
        counts["malformed"] = counts["malformed_message"]
        if self.state.progress[itch_kernel.PARTIAL]:
            counts["sides_unknown"] = int((self.state.whole[2 : 2 * len(self._symbols)] == itch_kernel.UNPROVEN).sum())
        else:
            counts["sides_unknown"] = 0
        counts |= {name: int(self.state.book.counters[column]) for column, name in _BOOK_NAMES.items()}
        return counts

    def messages_by_type(self) -> dict[str, int]:
        types = self.state.types
        names = {TYPE_NAMES.get(chr(kind), f"unknown_{kind:#04x}"): int(types[kind]) for kind in types.nonzero()[0]}
        return dict(sorted(names.items(), key=lambda item: -item[1]))
