"""``fabric decode``: what a capture file holds, message by message, without starting anything."""

import importlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import click

from fabric.cli.instants import rfc3339

_DESCRIBE = "nodes.feeds.describe"
"""Wires are known to `nodes` only; they are found by name, as the launcher finds programs."""


@click.command("decode")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; the last one holds the counts.")
@click.option("--limit", type=click.IntRange(min=0), help="Stop after so many messages.")
def command(path: Path, as_json: bool, limit: int | None) -> None:
    """Print what FILE holds, message by message, then the counts: a capture (pcap or pcapng), a daily file of ITCH, or
    lines of ASCII PITCH, each in gzip or not.

    A line is time, sequence, type, symbol, and the fields as the exchange's specification names them.
    """
    counts: Counter[str] = Counter()
    describe = cast(
        "Callable[[Path, Counter[str]], Iterator[dict[str, Any]]]", importlib.import_module(_DESCRIBE).describe
    )
    for message in itertools.islice(describe(path, counts), limit):
        message["t"] = rfc3339(message["t"])
        click.echo(json.dumps(message) if as_json else _line(message))
    if as_json:
        click.echo(json.dumps({"counts": counts}))
    else:
        click.echo("  ".join(f"{name} {count:,}" for name, count in counts.items()))


def _line(message: dict[str, Any]) -> str:
    fields = dict(message)
    head = [str(fields.pop(name) or "-") for name in ("t", "sequence", "type", "symbol")]
    rest = " ".join(f"{name}={_text(name, value)}" for name, value in fields.items())
    return f"{head[0]}  {head[1]:>9}  {head[2]:<18} {head[3]:<8} {rest}"


def _text(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"0x{value:02x}" if name == "flags" else str(value)
