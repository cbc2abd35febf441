"""Rows for the bus as decoders write them, compiled (pure): QUOTE, TRADE and STATUS in one array, in order of arrival.

All helpers are `lean`, so that decoders which count no references can use them; others can as well.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean
from fabric.records import KIND_QUOTE, KIND_STATUS, KIND_TRADE, NULL, QUOTE, STATUS, TRADE, Rows, pack

CANCELS = pack("x")
CORRECTS = pack("c")
_LIVE = pack("live")
_BREAKER = pack("MWC")


class Out(NamedTuple):
    """One array of rows under the names of each kind that is written."""

    quotes: npt.NDArray[np.void]
    trades: npt.NDArray[np.void]
    statuses: npt.NDArray[np.void]


class Stamp(NamedTuple):
    """What every row of one message has in common."""

    symbol: Any
    venue: Any
    tape: Any
    sequence: Any
    event_ns: Any
    recv_ns: Any


def new_out(rows: Rows) -> Out:
    """``rows`` (EVENT) under every kind's names."""
    return Out(rows.view(QUOTE), rows.view(TRADE), rows.view(STATUS))


@lean
def put_header(row: Any, kind: int, stamp: Any) -> None:
    """Write the columns that every kind has; the sender's own are left undefined."""
    row["kind"] = kind
    row["symbol"] = stamp.symbol
    row["venue"] = stamp.venue
    row["seq"] = NULL
    row["epoch"] = NULL
    row["position"] = NULL
    row["exchange_seq"] = stamp.sequence
    row["event_ns"] = stamp.event_ns
    row["recv_ns"] = stamp.recv_ns
    row["feed_ns"] = NULL
    row["proc_ns"] = NULL


@lean
def put_quote(row: Any, stamp: Any, bid_px: int, bid_size: int, ask_px: int, ask_size: int, condition: int) -> None:
    """Write a QUOTE row; a side that is not there has NULL price and size."""
    put_header(row, KIND_QUOTE, stamp)
    row["bid_px"] = bid_px
    row["bid_size"] = bid_size
    row["ask_px"] = ask_px
    row["ask_size"] = ask_size
    row["condition"] = condition
    row["tape"] = stamp.tape


@lean
def put_trade(
    row: Any, stamp: Any, price: int, size: int, condition: int, trade_id: int, mark: int, original_id: int
) -> None:
    """Write a TRADE row; ``mark`` is CANCELS, CORRECTS or NULL."""
    put_header(row, KIND_TRADE, stamp)
    row["price"] = price
    row["size"] = size
    row["condition"] = condition
    row["trade_id"] = trade_id
    row["tape"] = stamp.tape
    row["mark"] = mark
    row["original_id"] = original_id


@lean
def put_status(row: Any, stamp: Any, trading: int, reason: int) -> None:
    """Write a STATUS row with every further column undefined: the caller sets what it knows."""
    put_header(row, KIND_STATUS, stamp)
    row["trading"] = trading
    row["reason"] = reason
    row["upper_px"] = NULL
    row["lower_px"] = NULL
    row["indicator"] = NULL
    row["short_sale"] = NULL
    row["round_lot"] = NULL
    row["venue_state"] = NULL
    row["gap_from"] = NULL
    row["gap_to"] = NULL
    row["tape"] = stamp.tape


@lean
def put_breaker(row: Any, stamp: Any, level: int) -> None:
    """Write a STATUS row of a whole venue: ``level`` (the character 1, 2 or 3) of the market-wide circuit breaker.

    The reason is NASDAQ's and the UTP plan's code of its level, MWC1 to MWC3, whoever speaks.
    """
    put_status(row, stamp, NULL, _BREAKER | level << 24)
    row["venue_state"] = _LIVE


@lean
def is_level(level: int) -> bool:
    """Whether a character is a level of the market-wide circuit breaker."""
    return 49 <= level <= 51


def warm_up() -> None:
    """Nothing to do: these helpers are part of the machine code of the kernels that use them."""
