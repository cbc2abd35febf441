"""Values of rows as JSON has them (pure)."""

from datetime import UTC, datetime
from functools import lru_cache

from fabric.clock import SECOND_NS
from fabric.records import NULL, PRICE_UNIT


def rfc3339(time_ns: int) -> str | None:
    """The instant in UTC with nine digits; None for NULL."""
    if time_ns == NULL:
        return None
    seconds, nanoseconds = divmod(time_ns, SECOND_NS)
    return f"{_second(seconds)}.{nanoseconds:09d}Z"


@lru_cache(4_096)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def decimal(price: int) -> float | None:
    """The price in units of the currency; None for NULL."""
    return None if price == NULL else price / PRICE_UNIT


def number(value: int) -> int | None:
    """The integer; None for NULL."""
    return None if value == NULL else value
