"""Cboe's US equities markets on Multicast PITCH: what their messages become on the bus.

| message | row |
|---|---|
| Add, Executed, Reduce, Modify, Delete | QUOTE when price or size of all orders at the best of a side has changed |
| Executed, Executed at Price/Size | TRADE as well, before the quote; ``trade_id`` is the execution's number |
| Trade (long, short, expanded) | TRADE: hidden and routed orders, which are in no book |
| Trade Break | TRADE with mark ``x`` and what was printed; ``original_id`` is the broken trade's |
| Trading Status | STATUS of the symbol when it changes: ``trading`` is A, H, Q, S or T, ``short_sale`` 0 or 1 |
| End of Session | STATUS of the venue (empty symbol): ``trading`` is C; one for each unit |
| Unit Clear, a gap, a restart | QUOTE without sides for each symbol of the unit that had one |
| Time, auctions, retail price improvement | counted: no record has a place for them |

Every symbol begins suspended (S): its first status is told whatever it is. Quotes of a symbol whose status is known
and not T have the condition ``N`` (not firm), others ``R``. PITCH has no sale conditions, so a trade gets what the
tape would say of its time and size: ``T`` outside of 9:30 to 16:00 in New York, ``I`` below 100 shares, ``@`` when
neither. The tape is undefined: the wire does not say it.

Executed at Price/Size may tell more shares than were displayed: what it says is left is taken. A Modify keeps the
order's side; one that changes nothing loses priority, which no row shows.

After a gap the orders of the unit are void. Quotes then tell the orders that have come since, until an image of
the book is taken (a spin, `pitch_requests`); its blocks have the number 0, for rows without ``exchange_seq``.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from fabric.records import EVENT, Rows, empty
from fabric.symbols import SymbolTable
from nodes.feeds import order_book_kernel, pitch_kernel
from nodes.feeds.rows_kernel import new_out
from nodes.feeds.sequenced_unit_kernel import MESSAGES_MAX
from nodes.feeds.trading_day import TradingDay

MARKETS: Final = {"Z": "BZX", "Y": "BYX", "J": "EDGA", "K": "EDGX"}
"""Participant letter -> market."""
ORDERS_MAX: Final = 1 << 20
"""Open orders of one market at one time."""
LEVELS_MAX: Final = 1 << 19
UNITS_MAX: Final = 128
"""Streams of one feed: a market has 32 units or fewer."""
TRADES_MAX: Final = 1 << 18
"""Trades remembered for breaks: consecutive numbers, so the last so many of a unit where units share it evenly."""
ROWS_MIN: Final = MESSAGES_MAX * pitch_kernel.ROWS_A_MESSAGE
ROWS_MAX: Final = 4_096

TYPE_NAMES: Final = {
    pitch_kernel.TIME: "time",
    pitch_kernel.ADD_LONG: "add_order_long",
    pitch_kernel.ADD_SHORT: "add_order_short",
    pitch_kernel.ADD_EXPANDED: "add_order_expanded",
    pitch_kernel.EXECUTED: "order_executed",
    pitch_kernel.EXECUTED_AT: "order_executed_at_price_size",
    pitch_kernel.REDUCE_LONG: "reduce_size_long",
    pitch_kernel.REDUCE_SHORT: "reduce_size_short",
    pitch_kernel.MODIFY_LONG: "modify_order_long",
    pitch_kernel.MODIFY_SHORT: "modify_order_short",
    pitch_kernel.DELETE_ORDER: "delete_order",
    pitch_kernel.TRADE_LONG: "trade_long",
    pitch_kernel.TRADE_SHORT: "trade_short",
    pitch_kernel.TRADE_EXPANDED: "trade_expanded",
    pitch_kernel.TRADE_BREAK: "trade_break",
    pitch_kernel.END_OF_SESSION: "end_of_session",
    pitch_kernel.SYMBOL_MAPPING: "symbol_mapping",
    pitch_kernel.TRADING_STATUS: "trading_status",
    pitch_kernel.AUCTION_UPDATE: "auction_update",
    pitch_kernel.AUCTION_SUMMARY: "auction_summary",
    pitch_kernel.UNIT_CLEAR: "unit_clear",
    pitch_kernel.RETAIL_IMPROVEMENT: "retail_price_improvement",
    pitch_kernel.FUTURE_DEFINITION: "future_instrument_definition",
}
_COUNTER_NAMES: Final = {
    pitch_kernel.MESSAGES: "messages",
    pitch_kernel.QUOTES: "quotes",
    pitch_kernel.TRADES: "trades",
    pitch_kernel.BREAKS: "trade_breaks",
    pitch_kernel.STATUSES: "statuses",
    pitch_kernel.CLEARS: "clears",
    pitch_kernel.WITHDRAWN: "withdrawn",
    pitch_kernel.UNTIMED: "untimed",
    pitch_kernel.UNKNOWN: "unknown",
    pitch_kernel.NOT_EQUITIES: "not_equities",
    pitch_kernel.UNENCODABLE: "unencodable",
    pitch_kernel.NO_SYMBOL: "refused",
    pitch_kernel.UNKNOWN_BREAKS: "unknown_breaks",
    pitch_kernel.UNITS: "malformed_units",
    pitch_kernel.LENGTH: "malformed_length",
    pitch_kernel.MESSAGE: "malformed_message",
}
_BOOK_COUNTER_NAMES: Final = {
    order_book_kernel.ORDERS: "orders",
    order_book_kernel.LEVELS: "levels",
    order_book_kernel.REFUSED: "orders_refused",
    order_book_kernel.DUPLICATES: "orders_duplicate",
    order_book_kernel.ORPHANS: "orders_orphaned",
    order_book_kernel.OVERDRAWN: "orders_overdrawn",
}


def counters_of(state: pitch_kernel.State) -> dict[str, int]:
    """Everything counted so far, by name."""
    counts = {name: int(state.counters[column]) for column, name in _COUNTER_NAMES.items()}
    counts["malformed"] = sum(count for name, count in counts.items() if name.startswith("malformed_"))
    return counts | {name: int(state.book.counters[column]) for column, name in _BOOK_COUNTER_NAMES.items()}


class Pitch:
    """The messages of one market (a `Messages`)."""

    def __init__(
        self,
        symbols: SymbolTable,
        venue: str = "Z",
        orders_max: int = ORDERS_MAX,
        levels_max: int = LEVELS_MAX,
        rows_max: int = ROWS_MAX,
    ) -> None:
        """``venue`` is the participant letter of the market (`MARKETS`), ``rows_max`` bounds the rows given at once."""
        assert venue in MARKETS
        assert rows_max >= ROWS_MIN
        self.state = pitch_kernel.new_state(symbols.capacity, orders_max, levels_max, UNITS_MAX, TRADES_MAX)
        self._venue = ord(venue)
        self._symbols = symbols
        self._day = TradingDay()
        self._sizes = pitch_kernel.message_bytes()
        self._rows = empty(rows_max, EVENT)
        self._out = new_out(self._rows)

    def decode(self, buffer: npt.NDArray[np.uint8], blocks: npt.NDArray[np.void]) -> Iterator[Rows]:
        self.state.progress[:] = 0
        taken = 0
        while taken < blocks.size:
            day_ns = self._day.at(int(blocks[taken]["recv_ns"]))
            taken, n = pitch_kernel.decode(
                buffer,
                blocks,
                taken,
                self._venue,
                day_ns,
                self._day.next_midnight_ns,
                self._sizes,
                self._symbols.arrays,
                self.state,
                self._out,
            )
            if n:
                yield self._rows[:n]

    def counters(self) -> dict[str, int]:
        return counters_of(self.state)

    def messages_by_type(self) -> dict[str, int]:
        types = self.state.types
        names = {TYPE_NAMES.get(int(kind), f"unknown_{kind:#04x}"): int(types[kind]) for kind in types.nonzero()[0]}
        return dict(sorted(names.items(), key=lambda item: -item[1]))
