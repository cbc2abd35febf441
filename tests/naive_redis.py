"""The slow, obvious twin of `gateway/redis_kernel.py`: values by `decimal`, commands by the letter of RESP."""

from decimal import Decimal
from typing import Any

from fabric.records import NULL, STATE_HALTED, unpack

LIVES_MS = {"1m": 60_000, "5m": 300_000, "1h": 3_600_000, "1d": 86_400_000}


def command(*parts: str) -> bytes:
    """One command in RESP."""
    lines = [f"*{len(parts)}"]
    for part in parts:
        lines += [f"${len(part.encode())}", part]
    return "".join(f"{line}\r\n" for line in lines).encode()


def decimals(value: int, unit: int, least: int) -> str:
    """``value / unit`` with no more decimals than needed, but at least ``least``."""
    if value == NULL:
        return "null"
    text = format(Decimal(value) / Decimal(unit), "f")
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(least, '0')}"


def quote_json(row: Any) -> str:
    """The value of ``quote:<symbol>`` for an NBBO row."""

    def whole(name: str) -> str:
        return "null" if row[name] == NULL else str(int(row[name]))

    def letter(name: str) -> str:
        return f'"{unpack(int(row[name]))}"' if unpack(int(row[name])) else "null"

    event_us = NULL if row["event_ns"] == NULL else int(row["event_ns"]) // 1_000
    return (
        f'{{"bid":{decimals(int(row["bid_px"]), 10**9, 2)},"ask":{decimals(int(row["ask_px"]), 10**9, 2)},'
        f'"last":{decimals(int(row["last_px"]), 10**9, 2)},"ts":{decimals(event_us, 10**6, 3)},'
        f'"bid_size":{whole("bid_size")},"ask_size":{whole("ask_size")},'
        f'"bid_venue":{letter("bid_venue")},"ask_venue":{letter("ask_venue")},'
        f'"state":"{"halted" if row["state"] & STATE_HALTED else "live"}"}}'
    )


def candle_json(row: Any) -> str:
    """The value of ``candle:<symbol>:<interval>`` for a BAR row."""
    prices = ",".join(
        f'"{name}":{decimals(int(row[f"{name}_px"]), 10**9, 2)}' for name in ("open", "high", "low", "close")
    )
    return f'{{{prices},"volume":{int(row["volume"])},"start":{int(row["event_ns"]) // 10**9}}}'


def quote_commands(symbol: str, row: Any, changed: bool, ttl_ms: int) -> bytes:
    """SET, and PUBLISH of what changed."""
    value = quote_json(row)
    made = command("SET", f"quote:{symbol}", value, "PX", str(ttl_ms))
    return made + (command("PUBLISH", f"quotes:{symbol}", value) if changed else b"")


def candle_commands(symbol: str, row: Any, interval: str) -> bytes:
    """SET."""
    return command("SET", f"candle:{symbol}:{interval}", candle_json(row), "PX", str(LIVES_MS[interval]))
