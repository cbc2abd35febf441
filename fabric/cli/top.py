"""``fabric top``: the running topology, live in the terminal."""

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fabric.cli import tables
from fabric.cli.arguments import folder_option, run_folder
from fabric.clock import SECOND_NS
from fabric.control import Control, RunFolder
from fabric.environment import Environment
from fabric.operations import WINDOW_NS

EVERY_S = 1.0
SPARK, SPARK_SHORT = 40, 20
"""Seconds that a sparkline shows, one character each; the second in a terminal that is not wide."""
_BARS = "▁▂▃▄▅▆▇█"
_STYLES = {"ok": "green", "warn": "yellow", "alarm": "bold red"}
_MIDDLE = 100
"""A terminal of so many columns has room for sparklines of the nodes, and _ENDS for where hops begin and end."""
_ENDS = 118
_WIDE = 130
"""One of so many has room for long ones and for what each node uses."""


@click.command("top")
@click.option("--once", is_flag=True, help="Print one screen and end, as it does anyway where there is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print the same once, as the JSON of GET /v1/ops.")
@folder_option
@click.pass_obj
def command(environment: Environment, once: bool, as_json: bool, folder: Path) -> None:
    """Watch the topology that runs in this folder: every hop's latency, every node's rate, lag and state.

    Yellow is worth a look, red is beyond a threshold that an alert rule watches (docs/operations.md). Ctrl-C ends it.
    """
    where = run_folder(environment, folder)
    if as_json:
        click.echo(json.dumps(_ask(where), indent=2))
        return
    console = Console(no_color=not environment.color, width=tables.terminal_width())
    if once or not console.is_terminal:
        console.print(screen(_ask(where), console.width))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(screen(_ask(where), console.width), refresh=True)
            time.sleep(EVERY_S)


def _ask(folder: RunFolder) -> dict[str, Any]:
    with Control(folder) as control:
        return control.ask("ops", since=time.time() - SPARK - 1)


def screen(document: dict[str, Any], width: int) -> Group:
    """One screen, from the document of `fabric.operations`."""
    head = Text.assemble(
        (document["state"], "bold green" if document["state"] == "ready" else "bold yellow"),
        f"  up {tables.uptime(document['uptime_s'])}  ",
        f"{document['connections']['open']:,} connection{'' if document['connections']['open'] == 1 else 's'}",
    )
    return Group(head, _thresholds(document), _hops(document, width), _nodes(document, width), _links(document))


def spark(values: Sequence[float | None], width: int = SPARK) -> str:
    """The last ``width`` values as bars from 0 to the greatest of them; a blank where there is none."""
    shown = values[-width:]
    top = max((value for value in shown if value), default=0)
    return "".join(
        " " if value is None else _BARS[0] if not top else _BARS[round(value / top * (len(_BARS) - 1))]
        for value in shown
    )


def _thresholds(document: dict[str, Any]) -> Columns:
    parts = []
    for threshold in document["thresholds"]:
        sign = "under" if threshold["worse"] == "above" else "over"
        text = Text(f"{threshold['title']} ", no_wrap=True)
        text.append(_milliseconds([threshold["value"]])[0], _STYLES[threshold["health"]])
        parts.append(text.append(f" {threshold['unit']} ({sign} {threshold['alarm']:,g})", "dim"))
    return Columns(parts, padding=(0, 3, 0, 0))


def _hops(document: dict[str, Any], width: int) -> Table:
    ends = width >= _ENDS
    seconds = SPARK if width >= _WIDE else SPARK_SHORT
    table = _table("hop", *(("from", "to") if ends else ()))
    for heading in ("messages/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(f"p99, {seconds} s", no_wrap=True)
    series = document["series"]["hops"]
    for hop in document["hops"]:
        rate = hop["count"] / max(1.0, min(document["uptime_s"], WINDOW_NS / SECOND_NS))
        figures = _milliseconds(hop[key] for key in ("p50_ms", "p99_ms", "p999_ms", "max_ms"))
        table.add_row(
            hop["name"], *((hop["from"], hop["to"]) if ends else ()), f"{rate:,.0f}", *figures,
            spark(series[hop["name"]]["p99_ms"], seconds),
            style=None if hop["health"] == "ok" else _STYLES[hop["health"]],
        )  # fmt: skip
    return table


def _nodes(document: dict[str, Any], width: int) -> Table:
    table = _table("node", "state")
    seconds = SPARK if width >= _WIDE else SPARK_SHORT
    for heading in ("rate/s", "lag", "lag ms", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    if width >= _WIDE:
        for heading in ("cpu %", "MB", "restarts"):
            table.add_column(heading, justify="right", no_wrap=True)
    if width >= _MIDDLE:
        table.add_column(f"rate, {seconds} s", no_wrap=True)
    table.add_column("what is the matter", overflow="fold")
    series = document["series"]["nodes"]
    for node in document["nodes"]:
        latency = node["latency"] or {}
        more = []
        if width >= _WIDE:
            memory = None if node["rss_bytes"] is None else round(node["rss_bytes"] / 1e6)
            more = [_figure(node["cpu_percent"]), _figure(memory), _figure(node["restarts"])]
        if width >= _MIDDLE:
            more.append(spark(series[node["name"]]["rate"], seconds) if node["name"] in series else "")
        table.add_row(
            node["name"], Text(node["state"], _STYLES[node["health"]]),
            "-" if node["rate"] is None else f"{node['rate']:,.0f}",
            _figure(node["lag"]), _figure(node["lag_ms"]),
            *_milliseconds(latency.get(key) for key in ("p50_ms", "p99_ms")), *more,
            Text(node["why"], _STYLES[node["health"]]),
        )  # fmt: skip
    return table


def _links(document: dict[str, Any]) -> Text:
    """Only the links that are not well: a line each."""
    text = Text()
    for link in document["links"]:
        if link["health"] != "ok":
            what = "down" if link["up"] is False else f"{link['lag'] or 0:,} messages behind"
            text.append(f"{link['from']} → {link['to']}: {what}\n", _STYLES[link["health"]])
    return text


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,}"


def _milliseconds(values: Iterable[float | None]) -> list[str]:
    return ["-" if value is None else f"{value:,.3g}" if value < 1_000 else f"{value:,.0f}" for value in values]
