"""Closed candles and trades as rows, for tests of the history."""

from fabric.records import BAR, KIND_BAR_1M, KIND_TRADE, PRICE_UNIT, TRADE, Rows, empty, pack

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


def trade(at: int = 0, *, symbol: int = 1, seq: int = 1, **columns: int) -> Rows:
    """A trade ``at`` seconds after `START_NS` at NYSE, number ``seq`` of its topic."""
    row = empty(1, TRADE, KIND_TRADE)
    row["symbol"], row["venue"], row["epoch"], row["seq"] = symbol, ord("N"), 1, seq
    row["event_ns"] = START_NS + at * 10**9
    row["price"], row["size"], row["condition"], row["trade_id"], row["mark"] = 100 * PRICE_UNIT, 50, pack("@I"), 7, 0
    for name, value in columns.items():
        row[name] = value
    return row
