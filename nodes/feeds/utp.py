"""UQDF and UTDF, the UTP plan's consolidated tape of what Nasdaq lists (tape C): see `tape`.

The condition of a quote is the plan's own letter, with another before it where that keeps the quote, or a side of it,
from the NBBO: ``N`` (not firm) for both sides outside of the price bands, ``e`` (offer only) for a bid above them,
``f`` (bid only) for an offer below them.
STATUS: ``trading`` is the plan's action (H halt, Q quotes resume, T trading, P volatility pause) and ``reason`` its
code; the action of one market is that market's row, with the reason OPER. ``short_sale`` is 0, 1 or 2, ``indicator`` A
to F of the price bands. The combined quotes QC and QD are read as the QE and QF that they replace; odd lots are counted
only. Sale conditions are the plan's own letters: some mean another thing than on the other tape. A quote wipe-out
withdraws the quotes of its originator, and those of all participants when that is the processor.
"""

from typing import Final

from fabric.symbols import SymbolTable
from nodes.feeds import utp_kernel
from nodes.feeds.tape import Tape

TYPE_NAMES: Final = {
    "QE": "short_quote",
    "QF": "long_quote",
    "QC": "short_combined_quote",
    "QD": "long_combined_quote",
    "QA": "short_odd_lot_quote",
    "QB": "long_odd_lot_quote",
    "QM": "market_maker_quote",
    "TA": "short_trade",
    "TW": "long_trade",
    "TM": "fractional_short_trade",
    "TN": "fractional_long_trade",
    "TZ": "trade_cancel",
    "TO": "fractional_trade_cancel",
    "TY": "trade_correction",
    "TP": "fractional_trade_correction",
    "TH": "as_of_trade",
    "TQ": "fractional_as_of_trade",
    "AA": "administrative",
    "AB": "directory",
    "AC": "circuit_breaker_levels",
    "AD": "circuit_breaker_status",
    "AE": "auction_collar",
    "AH": "trading_action",
    "AK": "market_trading_action",
    "AP": "price_bands",
    "AR": "session_close_recap",
    "AU": "closing_trade_summary",
    "AV": "short_sale",
    "AZ": "closing_trade_summary_old",
    "CC": "session_close",
    "CI": "start_of_day",
    "CJ": "end_of_day",
    "CO": "session_open",
    "CP": "quote_wipe_out",
    "CS": "end_of_last_sale_eligibility",
    "CX": "end_of_trade_reporting",
    "CZ": "end_of_transmissions",
    "VM": "total_volume",
}


class Utp(Tape):
    """Both feeds of the plan."""

    def __init__(self, symbols: SymbolTable, rows_max: int = 0) -> None:
        kernel = utp_kernel
        super().__init__(symbols, kernel.decode, kernel.LAYOUTS, kernel.ROW_BYTES_MIN, TYPE_NAMES, rows_max)
