"""Closed candles as rows, for tests of the history."""

from fabric.records import BAR, KIND_BAR_1M, PRICE_UNIT, Rows, empty

MINUTE_NS = 60 * 10**9
START_NS = 1_767_366_000 * 10**9


def candle(at: int = 0, *, symbol: int = 1, kind: int = KIND_BAR_1M, **columns: int) -> Rows:
    """The candle ``at`` minutes after `START_NS`, closed: revision 1 of epoch 1."""
    row = empty(1, BAR, kind)
    row["symbol"], row["epoch"], row["seq"], row["position"] = symbol, 1, 1, 1
    row["event_ns"] = START_NS + at * MINUTE_NS
    for place, price in enumerate(("open_px", "high_px", "low_px", "close_px", "vwap_px")):
        row[price] = (100 + place) * PRICE_UNIT
    row["volume"], row["trades"], row["rev"], row["final"], row["gap"] = 700, 7, 1, 0, 0
    row["last_ns"] = row["event_ns"]
    for name, value in columns.items():
        row[name] = value
    return row
