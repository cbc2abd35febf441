"""The slow, obvious twin of `gateway/protocol_kernel.py`: messages as dicts, which libraries write."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgpack

from fabric.records import NULL, unpack
from gateway.protocol_kernel import MSGPACK, REASON_TEXTS, STATUS_TEXTS, STREAM, VENUE


class Price(int):
    """A price in whole units of 1e-9."""


class Instant(int):
    """Nanoseconds since the epoch."""


def message(kind: str, row: Any, symbol: str, dialect: int, stale: bool = False, k: int = 0) -> dict[str, Any]:
    """What a row says to a client; ``kind`` is ``best``, ``own`` or the ``T`` of the message."""
    nulls = dialect == STREAM

    def price(name: str) -> Price | None:
        value = int(row[name]) if name else NULL
        return (None if nulls else Price(0)) if value == NULL else Price(value)

    def amount(name: str) -> int | None:
        value = int(row[name]) if name else NULL
        return (None if nulls else 0) if value == NULL else value

    def plain(name: str) -> int | None:
        return None if int(row[name]) == NULL else int(row[name])

    def flag(name: str) -> bool | None:
        return None if int(row[name]) == NULL else int(row[name]) == 1

    def text(name: str) -> str | None:
        return (unpack(row[name]) if name else "") or (None if nulls else "")

    def letters(name: str) -> list[str]:
        return list(unpack(row[name])) if name else []

    def venue(name: str, exists: str = "") -> str | None:
        there = not exists or int(row[exists]) != NULL
        return (unpack(row[name]) if there else "") or (None if nulls else " ")

    def instant() -> Instant | None:
        value = int(row["event_ns"])
        return (None if nulls else Instant(0)) if value == NULL else Instant(value)

    def sides(bid_venue: str, ask_venue: str) -> dict[str, Any]:
        return {
            "bx": venue(bid_venue, "bid_px"),
            "bp": price("bid_px"),
            "bs": amount("bid_size"),
            "ax": venue(ask_venue, "ask_px"),
            "ap": price("ask_px"),
            "as": amount("ask_size"),
        }

    stamp = {"t": instant()}
    made: dict[str, Any] = {"T": kind, "S": symbol}
    state = 16 if stale else 0
    if kind == "best":
        made = {"T": "q", "S": symbol} | sides("bid_venue", "ask_venue") | {"c": [], "z": text("")} | stamp
        state |= 0 if int(row["state"]) == NULL else int(row["state"])
    elif kind == "own":
        made = {"T": "q", "S": symbol} if dialect == VENUE else {"T": "vq", "S": symbol, "x": venue("venue")}
        made |= sides("venue", "venue") | {"c": letters("condition"), "z": text("tape")} | stamp
    elif kind == "t":
        made |= {"i": plain("trade_id"), "x": venue("venue"), "p": price("price"), "s": amount("size")}
        made |= {"c": letters("condition"), "z": text("tape")} | stamp
    elif kind == "x":
        made |= {"i": plain("original_id"), "x": venue("venue"), "p": price("price"), "s": amount("size")}
        made |= {"a": text(""), "z": text("tape")} | stamp
    elif kind == "c":
        made |= {"x": venue("venue"), "oi": plain("original_id"), "op": price(""), "os": amount(""), "oc": []}
        made |= {"ci": plain("trade_id"), "cp": price("price"), "cs": amount("size"), "cc": letters("condition")}
        made |= {"z": text("tape")} | stamp
    elif kind in ("b", "u", "b5m", "b1h", "now"):
        made |= {"o": price("open_px"), "h": price("high_px"), "l": price("low_px"), "c": price("close_px")}
        made |= {"v": amount("volume")} | stamp | {"n": amount("trades"), "vw": price("vwap_px")}
        made |= {"rev": amount("rev"), "fin": flag("final"), "gap": flag("gap")}
    elif kind == "s":
        missing = None if nulls else ""
        made |= {"sc": text("trading"), "sm": STATUS_TEXTS.get(unpack(row["trading"]), missing)}
        made |= {"rc": text("reason"), "rm": REASON_TEXTS.get(unpack(row["reason"]), missing)}
        made |= {"z": text("tape")} | stamp
    elif kind == "l":
        made |= {"u": price("upper_px"), "d": price("lower_px"), "i": text("indicator"), "z": text("tape")} | stamp
    else:
        assert kind == "venue"
        missing = None if nulls else ""
        made = {"T": kind, "x": venue("venue"), "state": text("venue_state")}
        made |= {"rc": text("reason"), "rm": REASON_TEXTS.get(unpack(row["reason"]), missing)}
        made |= {"from": plain("gap_from"), "to": plain("gap_to")} | stamp
    if state:
        made["st"] = state
    if k:
        made["k"] = k
    return made


def stamped(made: dict[str, Any], row: Any, trace: bool, place: bool, now_ns: int) -> dict[str, Any]:
    """The message with what its row says of its way; ``k`` stays the last of all."""
    added: dict[str, Any] = {}
    if trace:
        columns = {"t1": "recv_ns", "t2": "feed_ns", "t3": "proc_ns"}
        added = {key: None if int(row[name]) == NULL else Instant(row[name]) for key, name in columns.items()}
        added["t4"] = Instant(now_ns)
    if place:
        epoch = None if int(row["epoch"]) == NULL else str(max(int(row["epoch"]), 0))
        added |= {"E": epoch, "N": None if int(row["seq"]) == NULL else int(row["seq"])}
        added["O"] = None if int(row["position"]) == NULL else int(row["position"])
    replaced = {"k": made["k"]} if "k" in made else {}
    return {key: value for key, value in made.items() if key != "k"} | added | replaced


def write(made: dict[str, Any], encoding: int, long_map: bool = False) -> bytes:
    """The message as bytes; ``long_map``: with two bytes for the number of its keys, however few there are."""
    if encoding == MSGPACK:
        fields = b"".join(msgpack.packb(key) + msgpack.packb(_packed(value)) for key, value in made.items())
        if long_map:
            return b"\xde" + len(made).to_bytes(2, "big") + fields
        return bytes(msgpack.Packer().pack_map_header(len(made))) + fields
    return ("{" + ",".join(f'"{key}":{_token(value)}' for key, value in made.items()) + "}").encode()


def _packed(value: Any) -> Any:
    if isinstance(value, Price):
        return float(value) / 1e9
    if isinstance(value, Instant):
        seconds, nanoseconds = divmod(int(value), 10**9)
        return msgpack.Timestamp(seconds, nanoseconds)
    return value


def _token(value: Any) -> str:
    if isinstance(value, Price):
        shortest = format(Decimal(int(value)).scaleb(-9), "f")
        return (shortest.rstrip("0").rstrip(".") if "." in shortest else shortest) if value else "0"
    if isinstance(value, Instant):
        seconds, nanoseconds = divmod(int(value), 10**9)
        return f'"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09}Z"'
    if isinstance(value, list):
        return "[" + ",".join(map(_token, value)) + "]"
    if isinstance(value, str):
        escaped = (f"\\u{ord(c):04x}" if c < " " else f"\\{c}" if c in '"\\' else c for c in value)
        return f'"{"".join(escaped)}"'
    return json.dumps(value)
