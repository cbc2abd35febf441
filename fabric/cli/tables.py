"""Tables of a running topology for a terminal: where it is reached, how its nodes are."""

import shutil
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table

from fabric.operations import main_rate
from fabric.topology import CacheSettings, GatewaySettings, Topology

COUNTERS = (
    "kernel_drops", "gaps", "lost", "missed", "duplicates", "malformed", "bad_frames", "refused", "skew",
    "symbols_refused", "published", "messages", "accepted", "frames", "clients", "symbols", "written", "keys",
    "server", "line",
)  # fmt: skip
"""Of all that nodes report, what the table shows; `fabric status --json` has the rest."""
WIDTH = 160
"""Of an output that is no terminal, in characters."""
_LINE_WIDTH = 68
"""Of a node's line without its name and counters."""
_COUNTERS_WIDTH_MIN = 60
"""Where less is left beside a node's line, the counters have a table of their own."""
_ZERO_MATTERS = ("kernel_drops", "gaps", "lost")
_STYLES = {"ready": "green", "failed": "bold red", "back-off": "red", "starting": "yellow", "stopping": "yellow"}


def terminal_width() -> int:
    """Of standard output, or what COLUMNS says, or `WIDTH`."""
    return shutil.get_terminal_size((WIDTH, 0)).columns


def nodes(status: dict[str, Any], width: int) -> Group:
    """One line a node, from the launcher's status; its counters at the end, or below where the terminal is narrow."""
    table, below = (Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)) for _ in range(2))
    for heading in ("node", "state"):
        table.add_column(heading, no_wrap=True)
    for heading in ("pid", "up", "restarts", "rate/s", "cpu %", "MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    below.add_column("node", no_wrap=True)
    longest = max((len(node["name"]) for node in status["nodes"]), default=0)
    beside = width - longest >= _LINE_WIDTH + _COUNTERS_WIDTH_MIN
    (table if beside else below).add_column("counters", overflow="fold")
    for node in status["nodes"]:
        state = node["state"]
        counters = _counters(node["report"])
        table.add_row(
            node["name"],
            f"[{_STYLES.get(state, 'default')}]{state}[/]",
            _text(node["pid"]),
            uptime(node["uptime_s"]),
            str(node["restarts"]),
            _rate(node),
            _text(node["cpu_percent"]),
            _text(node["rss_bytes"] and round(node["rss_bytes"] / 1e6)),
            *([counters] if beside else []),
        )
        if counters and not beside:
            below.add_row(node["name"], counters)
    return Group(table, below) if below.rows else Group(table)


def endpoints(topology: Topology, status: dict[str, Any]) -> Table:
    """Where clients, bots and Redis readers connect; what the cache reports of itself stands with it."""
    found = {node["name"]: node for node in status["nodes"]}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    for node in topology.nodes:
        if isinstance(node.settings, GatewaySettings):
            host = f"[{node.settings.host}]" if ":" in node.settings.host else node.settings.host
            address = f"{host}:{node.settings.port}"
            table.add_row("page", f"http://{address}/", node.name)
            table.add_row("WebSocket", f"ws://{address}/v2/sip  ws://{address}/stream", node.name)
            table.add_row("REST", f"http://{address}/quotes/AAPL", node.name)
    for node in topology.nodes:
        if node.publishes is not None:
            letters = f" [{node.publishes.letters}]" if node.publishes.letters else ""
            channels = ", ".join(node.publishes.channels) + letters
            snapshot = f"snapshots {node.publishes.snapshot_endpoint}"
            table.add_row(
                "bus", f"{node.publishes.endpoint}  {snapshot}", f"{node.name}: {channels}".replace("[", r"\[")
            )
    for node in topology.local_nodes():
        if node.role == "cache" or (node.role == "writer" and topology.cache.mode != "embedded"):
            table.add_row(
                "Redis", _servers(topology.cache), _counters(found[node.name]["report"]) or found[node.name]["detail"]
            )
    return table


def render(table: RenderableType, coloured: bool, width: int = WIDTH) -> str:
    """A table as text, for an output that must not be waited for."""
    text = StringIO()
    Console(file=text, force_terminal=coloured, no_color=not coloured, width=width).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def uptime(seconds: float | None) -> str:
    """``12.3 s``, ``4:05``, ``3:00:09``."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def _rate(node: dict[str, Any]) -> str:
    rate, _ = main_rate(node)
    return "-" if rate is None else f"{rate:,.0f}"


def _counters(report: dict[str, Any]) -> str:
    shown = [(name, report[name]) for name in COUNTERS if name in report]
    return "  ".join(
        f"{name}={value:,}" if isinstance(value, int) else f"{name}={value}"
        for name, value in shown
        if value or name in _ZERO_MATTERS
    )


def _servers(cache: CacheSettings) -> str:
    """The addresses, without user and password."""
    return " ".join(
        url if "@" not in url else f"{url.split('://')[0]}://{url.rpartition('@')[2]}" for url in cache.servers
    )
