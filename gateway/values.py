"""Values of rows as JSON has them (pure)."""

from datetime import UTC, datetime

from fabric.clock import SECOND_NS
from fabric.records import NULL, PRICE_UNIT


def rfc3339(time_ns: int) -> str | None:
    """The instant in UTC with nine digits; None for NULL."""
    if time_ns == NULL:
        return None
    seconds, nanoseconds = divmod(time_ns, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def decimal(price: int) -> float | None:
    """The price in units of the currency; None for NULL."""
    return None if price == NULL else price / PRICE_UNIT


def number(value: int) -> int | None:
    """The integer; None for NULL."""
    return None if value == NULL else value
