"""Instants on the command line: RFC 3339 with nanoseconds, in and out."""

import re
from datetime import UTC, datetime
from typing import Any

import click

from fabric.clock import SECOND_NS

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def rfc3339(time_ns: int) -> str:
    """``2026-01-02T15:00:00.000000000Z``"""
    seconds, rest = divmod(time_ns, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


class Instant(click.ParamType[int]):
    """An instant such as ``2018-01-02T14:30:00Z`` or ``2018-01-02T09:30:00.5-05:00``: nanoseconds since the epoch."""

    name = "instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):  # a default
            return value
        found = _RFC3339.fullmatch(str(value).strip())
        try:
            if found is None:
                raise ValueError
            whole = datetime.fromisoformat(found[1] + found[3].upper().replace("Z", "+00:00"))
        except ValueError:
            self.fail(f"{value!r} is no instant: expected one such as 2018-01-02T14:30:00Z", param, ctx)
        return int(whole.timestamp()) * SECOND_NS + int((found[2] or "").ljust(9, "0"))


INSTANT = Instant()
