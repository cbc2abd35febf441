"""CQS and CTS, the CTA plan's consolidated tape of what NYSE and all but Nasdaq list (tapes A and B): see `tape`.

The condition of a quote is the plan's own letter, with another before it where the plan keeps the quote, or a side of
it, from the NBBO for a reason that is not its condition: ``N`` (not firm) for a security status other than a
market-wide circuit breaker, ``e`` (offer only) for a bid above the upper price band, ``f`` (bid only) for an offer
below the lower one. STATUS: ``trading`` is H or T, ``reason`` the plan's letter (D I M P X Y 1 2 3 ...),
``short_sale`` A C D E, or 0 for none, ``indicator`` the price band's (CTS: A to J; CQS: 0 or 9). A trade's id is the
participant's reference number.
"""

from typing import Final

from fabric.symbols import SymbolTable
from nodes.feeds import cta_kernel
from nodes.feeds.tape import Tape

TYPE_NAMES: Final = {
    "QL": "long_quote",
    "QQ": "short_quote",
    "QA": "quote_auction_status",
    "TL": "long_trade",
    "TR": "fractional_long_trade",
    "TT": "short_trade",
    "TH": "fractional_short_trade",
    "TX": "trade_cancel",
    "TE": "fractional_trade_cancel",
    "TC": "trade_correction",
    "TO": "fractional_trade_correction",
    "TS": "trading_status",
    "TA": "auction_status",
    "AA": "start_of_end_of_day_summary",
    "AB": "end_of_end_of_day_summary",
    "AC": "start_of_start_of_day_summary",
    "AD": "end_of_start_of_day_summary",
    "AH": "administrative",
    "AS": "symbol_reference",
    "CA": "start_of_day",
    "CC": "finra_close",
    "CL": "reset_sequence",
    "CM": "start_of_test",
    "CN": "end_of_test",
    "CO": "finra_open",
    "CP": "disaster_recovery",
    "CT": "line_integrity",
    "CZ": "end_of_day",
    "II": "index",
    "IQ": "bid_and_offer_index",
    "MK": "circuit_breaker_levels",
    "ML": "circuit_breaker_status",
    "MM": "circuit_breaker_decline",
    "MN": "adjusted_volume",
    "MO": "trades_and_dollar_value",
    "MP": "crossing_session",
    "MV": "fractional_adjusted_volume",
    "PC": "prior_day_correction",
    "PE": "fractional_prior_day_cancel",
    "PL": "prior_day_trade",
    "PO": "fractional_prior_day_correction",
    "PR": "fractional_prior_day_trade",
    "PX": "prior_day_cancel",
    "SA": "consolidated_start_of_day",
    "SB": "participant_start_of_day",
    "SC": "consolidated_end_of_day",
    "SD": "participant_end_of_day",
    "SP": "fractional_participant_end_of_day",
    "ST": "fractional_consolidated_end_of_day",
}


class Cta(Tape):
    """Both feeds of the plan."""

    def __init__(self, symbols: SymbolTable, rows_max: int = 0) -> None:
        kernel = cta_kernel
        super().__init__(symbols, kernel.decode, kernel.LAYOUTS, kernel.ROW_BYTES_MIN, TYPE_NAMES, rows_max)
