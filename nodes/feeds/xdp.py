"""NYSE's feeds (Pillar, XDP): what their messages become on the bus. BBO, Trades and Integrated in one decoder.

| message | row |
|---|---|
| 140 (BBO) | QUOTE, always: it is the venue's whole best bid and offer |
| 100 to 104 (Integrated) | QUOTE when the best price or its size over all orders has changed |
| 103 | and before that TRADE, when it is to be printed |
| 110, 111, 220 | TRADE; of 110 only what is to be printed; a cross is ``@O``, ``@5`` or ``@6``, the early one ``@ T`` |
| 112, 221 | TRADE with mark ``x``; ``original_id`` is the undone trade's; price and size are undefined |
| 222, 113 | TRADE with mark ``c`` and ``original_id``; 113 has no price: it is that of the symbol's last cross |
| 34 | STATUS of the symbol when it changes: ``trading`` H halted, T trading, O accepting orders, C closed; |
| | ``reason`` the halt condition (M is a LULD pause), else the session (E early, O core, L late); ``short_sale`` |
| | 0 off, 1 activated today, 2 continued; price indications are ``lower_px`` and ``upper_px``, ``indicator`` I or G |
| 3 | STATUS of the symbol with its ``round_lot`` when that is new |
| 32, a gap, a restart | QUOTE without sides for each symbol that had one |
| 105, 114, 223, 210 to 216 | counted: no record has a place for them |

Sale conditions are the four slots of the tape as sent, trimmed, ``@`` when there is none. The venue is the market of
the symbol's mapping (N, P, A, C, M) or what the feed is told; the tape follows from the exchange that lists the symbol.

A gap makes the books of its channel unknown: `lost` tells which symbols a refresh must bring back.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from fabric.records import EVENT, Rows, empty
from fabric.symbols import SymbolTable
from nodes.feeds import order_book_kernel, xdp_kernel
from nodes.feeds.rows_kernel import new_out

PACKET_BYTES_MAX: Final = 65_507
"""The longest UDP payload."""
ROWS_MIN: Final = PACKET_BYTES_MAX // xdp_kernel.ROW_BYTES_MIN + xdp_kernel.BLOCK_ROWS_EXTRA
STREAMS_MAX: Final = 64
"""Channels: NYSE's largest feed has about twenty."""
LISTINGS_PER_SYMBOL: Final = 3
"""A symbol is listed once in each of BBO, Trades and Integrated."""
ORDERS_MAX: Final = 1 << 21
LEVELS_MAX: Final = 1 << 19

TYPE_NAMES: Final = {
    xdp_kernel.RESET: "sequence_reset",
    xdp_kernel.TIME_REFERENCE: "source_time_reference",
    xdp_kernel.MAPPING: "symbol_index_mapping",
    xdp_kernel.UNAVAILABLE: "message_unavailable",
    xdp_kernel.CLEAR: "symbol_clear",
    xdp_kernel.SECURITY_STATUS: "security_status",
    xdp_kernel.REFRESH_HEADER: "refresh_header",
    xdp_kernel.ADD: "add_order",
    xdp_kernel.MODIFY: "modify_order",
    xdp_kernel.DELETE: "delete_order",
    xdp_kernel.EXECUTION: "order_execution",
    xdp_kernel.REPLACE: "replace_order",
    xdp_kernel.IMBALANCE: "imbalance",
    xdp_kernel.ADD_REFRESH: "add_order_refresh",
    xdp_kernel.NON_DISPLAYED: "non_displayed_trade",
    xdp_kernel.CROSS: "cross_trade",
    xdp_kernel.BREAK: "trade_break",
    xdp_kernel.CROSS_CORRECTION: "cross_correction",
    xdp_kernel.RETAIL: "retail_interest",
    xdp_kernel.QUOTE: "quote",
    xdp_kernel.TRF_TRADE: "trf_trade",
    xdp_kernel.TRF_CORRECTION: "trf_correction",
    xdp_kernel.TRF_PRIOR_DAY: "trf_prior_day_trade",
    xdp_kernel.TRF_PRIOR_DAY_CANCEL: "trf_prior_day_cancel",
    xdp_kernel.TRF_CANCEL: "trf_cancel",
    xdp_kernel.TRADE: "trade",
    xdp_kernel.TRADE_CANCEL: "trade_cancel",
    xdp_kernel.TRADE_CORRECTION: "trade_correction",
    xdp_kernel.SUMMARY: "stock_summary",
}
_COUNTER_NAMES: Final = {
    xdp_kernel.MESSAGES: "messages",
    xdp_kernel.QUOTES: "quotes",
    xdp_kernel.TRADES: "trades",
    xdp_kernel.BREAKS: "trade_breaks",
    xdp_kernel.STATUSES: "statuses",
    xdp_kernel.WITHDRAWN: "withdrawn",
    xdp_kernel.LOST: "lost_books",
    xdp_kernel.UNKNOWN: "unknown",
    xdp_kernel.NO_MAPPING: "no_mapping",
    xdp_kernel.NO_PRICE: "no_price",
    xdp_kernel.NOT_PRINTED: "not_printed",
    xdp_kernel.UNMATCHED: "unmatched_corrections",
    xdp_kernel.REFRESHES: "refreshes",
    xdp_kernel.REFRESHES_OLD: "refreshes_old",
    xdp_kernel.REFRESHES_BROKEN: "refreshes_broken",
    xdp_kernel.HAD: "had_in_refresh",
    xdp_kernel.REFUSED: "refused",
    xdp_kernel.SIZE: "malformed_size",
    xdp_kernel.MESSAGE: "malformed_message",
}
_BOOK_COUNTER_NAMES: Final = {
    order_book_kernel.ORDERS: "orders",
    order_book_kernel.LEVELS: "levels",
    order_book_kernel.REFUSED: "orders_refused",
    order_book_kernel.DUPLICATES: "orders_duplicate",
    order_book_kernel.ORPHANS: "orphans",
    order_book_kernel.OVERDRAWN: "overdrawn",
}


class Xdp:
    """The messages of one feed of NYSE's group (a `Messages`)."""

    def __init__(
        self,
        symbols: SymbolTable,
        venue: str = "",
        orders_max: int = ORDERS_MAX,
        levels_max: int = LEVELS_MAX,
        rows_max: int = ROWS_MIN,
    ) -> None:
        """``venue`` overrides the market of the mappings; the bounds are those of the order book and of the rows."""
        assert rows_max >= ROWS_MIN
        listings_max = LISTINGS_PER_SYMBOL * symbols.capacity
        self.state = xdp_kernel.new_state(STREAMS_MAX, listings_max, orders_max, levels_max)
        self._venue = ord(venue) if venue else 0
        self._symbols = symbols
        self._rows = empty(rows_max, EVENT)
        self._out = new_out(self._rows)

    def decode(self, buffer: npt.NDArray[np.uint8], blocks: npt.NDArray[np.void]) -> Iterator[Rows]:
        taken = 0
        while taken < blocks.size:
            taken, n = xdp_kernel.decode(
                buffer, blocks, taken, self._venue, self._symbols.arrays, self.state, self._out
            )
            if n:
                yield self._rows[:n]

    def lost(self) -> list[tuple[int, int]]:
        """(stream, symbol index) of each listing whose quote or book a gap made unknown: what to ask a refresh of."""
        listings = self.state.listings[: self.state.used[0]]
        gone = listings[(listings["lost"] == 1) & (listings["unit"] != 0)]
        return list(zip(self.state.streams["stream"][gone["row"]].tolist(), gone["index"].tolist(), strict=True))

    def counters(self) -> dict[str, int]:
        counts = {name: int(self.state.counters[column]) for column, name in _COUNTER_NAMES.items()}
        counts["malformed"] = sum(count for name, count in counts.items() if name.startswith("malformed_"))
        book = self.state.book.counters
        return counts | {name: int(book[column]) for column, name in _BOOK_COUNTER_NAMES.items()}

    def messages_by_type(self) -> dict[str, int]:
        types = self.state.types
        names = {TYPE_NAMES.get(kind, f"unknown_{kind}"): int(types[kind]) for kind in types.nonzero()[0].tolist()}
        return dict(sorted(names.items(), key=lambda item: -item[1]))
