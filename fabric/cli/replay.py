"""``fabric replay``: the topology on a recording in place of its feeds, under the recording's own clock."""

import importlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fabric import machine, topology
from fabric.cli import tables
from fabric.cli.arguments import DURATION
from fabric.cli.instants import INSTANT, rfc3339
from fabric.cli.progress import KernelProgress
from fabric.control import RunFolder
from fabric.digest import of_log, together
from fabric.errors import CaptureError, FabricError, UnavailableError
from fabric.follow import beginning, folder_in
from fabric.journal import segments
from fabric.launcher import Running
from fabric.topology import Topology

_REPLAY = "nodes.feeds.replay"
"""Recordings are known to `nodes` only; they are found by name, as the launcher finds programs."""
PORT_BASE = 5_700
PORT_STEP = 100
HTTP_PORT = 8_180
PORTS_TRIED = 40
READY_WITHIN_S = 300.0
POLL_S = 0.25
QUIET_S = 2.5
"""Nodes report once a second: what has not moved in all of them for so long has come to rest."""
_SETTLING = ("accepted", "position")  # heartbeats and repetitions move neither
_COUNTS = ("packets", "messages", "quotes", "trades", "nbbo_changes", "gaps", "lost", "duplicates", "malformed")


class Speed(click.ParamType[float]):
    """``1x``, ``10x``, ``0.5x`` or ``max``, which is 0.0."""

    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)x", str(value), re.ASCII)
        if value != "max" and (found is None or float(found[1]) == 0):
            self.fail(f"{value!r} is no speed: expected max or a factor such as 1x, 10x or 0.5x", param, ctx)
        return float(found[1]) if found else 0.0


@click.command("replay")
@click.argument("source", metavar="SOURCE")
@click.argument("path", metavar="[TOPOLOGY]", default="topology.yaml")
@click.option("--speed", type=Speed(), default="max", help="1x as it was recorded, 10x, ... or max (default).")
@click.option("--from", "from_ns", type=INSTANT, help="Leave out what is earlier (2018-01-02T14:30:00Z).")
@click.option("--to", "to_ns", type=INSTANT, help="Leave out this instant and what is later.")
@click.option("--delay", "delay_ns", type=DURATION, default=0, help="Wait before the first message (2s).")
@click.option("--trades", is_flag=True, help="Of a folder of the recorded tape, the trades too.")
@click.option(
    "--by-time", is_flag=True, help="Of logs: have feeds meet by time of publication, not as processors logged it."
)
@click.option("--bare", is_flag=True, help="Processors only: no gateway, cache and history.")
@click.option("--hold", is_flag=True, help="Stay up after the end, until Ctrl-C.")
@click.option("--port-base", type=click.IntRange(1, 65_535), help="First bus port (default: a free range).")
@click.option("--http-port", type=click.IntRange(1, 65_535), help="Port of the first gateway (default: a free one).")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    source: str,
    path: str,
    speed: float,
    from_ns: int | None,
    to_ns: int | None,
    delay_ns: int,
    trades: bool,
    by_time: bool,
    bare: bool,
    hold: bool,
    port_base: int | None,
    http_port: int | None,
    as_json: bool,
) -> int:
    """Start TOPOLOGY with SOURCE in place of its feeds, under SOURCE's own clock; end with a summary.

    SOURCE is a capture file (pcap or pcapng), a daily file of ITCH, lines of ASCII PITCH (each in gzip or not), or
    recorded quotes (a CSV file, or a folder of them), or the durable logs of feeds (.fabric/journal, or one in it).
    Of a folder of all logs each processor takes the turns of its order log again, so that it says what it said live.
    A running topology is not touched: this one has ports and a run folder of its own.

    The summary has a hash of what the processors said, by channel, equal from run to run; of a logged run also the
    hash of what they said live (`fabric journal hash`).
    """
    if trades:
        source = _with_trades(source)
    info = importlib.import_module(_REPLAY).inspect(source)
    loaded = topology.load(path)
    follows = {} if by_time or info.wire != "log" else _followed(loaded, Path(source))

    with tempfile.TemporaryDirectory(prefix="fabric-replay-") as folder:

        def placed(base: int, http: int) -> Topology:
            wire = "" if info.wire in ("taq", "pitch-ascii", "log") else info.wire
            return topology.with_source(
                loaded, source, base_port=base, http_port=http, venues=info.venues, market=info.market, wire=wire,
                speed=speed, from_ns=from_ns, to_ns=to_ns, delay_ns=delay_ns, history=str(Path(folder, "history.db")),
                bare=bare, follows=follows,
            )  # fmt: skip

        replayed = _on_free_ports(placed, port_base, http_port)
        running = Running(replayed, RunFolder(Path(folder)))
        try:
            with KernelProgress() as progress:
                failed = running.wait_ready(READY_WITHIN_S, progress.step)
            if failed:
                raise FabricError(f"{', '.join(failed)}: did not start:\n{_last_words(running, failed[0])}")
            click.echo(tables.render(tables.endpoints(replayed, running.status()), coloured=False), err=as_json)
            summary = _summary(_settled(running, replayed), replayed, source)
            click.echo(json.dumps(summary, indent=2) if as_json else _text(summary))
            if hold:
                _hold()
        finally:
            running.stop()
    if summary["error"]:
        raise CaptureError(summary["error"])
    return 0


def _followed(loaded: Topology, logs: Path) -> dict[str, int]:
    """The processors whose order logs reach back to their beginning, each with the first position that both its turns
    and its own log have; none where one of them cannot be followed.
    """
    found = {}
    for node in loaded.nodes:
        if node.role == "processor" and node.publishes is not None:
            folder = folder_in(logs, node.name)
            begun = beginning(segments(folder)) if folder.is_dir() else None
            if begun is None:
                why = "does not reach back to its beginning" if folder.is_dir() else "is not there"
                click.echo(f"the order log of {node.name} {why}: feeds meet by time of publication", err=True)
                return {}
            own = segments(logs / node.name)
            found[node.name] = max(begun[1] + 1, own[0].first if own else 1)
    return found


def _live(replayed: Topology, reports: dict[str, Any]) -> dict[str, str]:
    """The hash of what the processors said live where they were replayed."""
    return together(
        of_log(Path(node.follows.folder, node.name), node.publishes.channels, first, report["hashed_last"])
        for node in replayed.nodes
        if node.follows and node.publishes and (first := (report := reports[node.name]).get("hashed_first"))
    )


def _with_trades(folder: str) -> str:
    if not Path(folder).is_dir():
        raise click.UsageError("--trades goes with a folder; name a file of trades after the quotes, separated by ':'")
    found = [p for kind in ("quotes", "trades") for p in sorted(Path(folder).glob(f"{kind}_*.csv*"))]
    return os.pathsep.join(map(str, found)) or folder


def _on_free_ports(placed: Callable[[int, int], Topology], base: int | None, http: int | None) -> Topology:
    """The topology on the ports asked for, or on the first range that nobody has; raises UnavailableError."""
    for attempt in range(PORTS_TRIED):
        candidate = placed(base or PORT_BASE + PORT_STEP * attempt, http or HTTP_PORT + attempt)
        try:
            machine.check_ports(machine.ports(candidate))
        except UnavailableError:
            if attempt == PORTS_TRIED - 1 or (base is not None and http is not None):
                raise
        else:
            break
    return candidate


def _settled(running: Running, replayed: Topology) -> dict[str, Any]:
    """Wait until the recording is at its end and nothing moves in any node; return the reports by node."""
    plays = [node.name for node in replayed.nodes if node.follows or node.name == "replay"]
    last: dict[str, Any] = {}
    quiet_since = time.monotonic()
    while True:
        nodes = {node["name"]: node for node in running.status()["nodes"]}
        for name in plays:
            if nodes[name]["state"] == "failed":
                raise FabricError(f"the replay failed:\n{_last_words(running, name)}")
        reports = {name: node["report"] for name, node in nodes.items()}
        moving = {name: [report.get(key) for key in _SETTLING] for name, report in reports.items()}
        if moving != last or not all(reports[name].get("done") for name in plays):
            last, quiet_since = moving, time.monotonic()
        elif time.monotonic() - quiet_since >= QUIET_S:
            return reports
        time.sleep(POLL_S)


def _last_words(running: Running, name: str) -> str:
    log = running.folder.log_path(name)
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:]) if log.exists() else "(it has no log)"


def _summary(reports: dict[str, Any], replayed: Topology, source: str) -> dict[str, Any]:
    replay = reports.get("replay") or {"first_ns": 0, "last_ns": 0, "symbols": 0, "error": ""}
    followed = [reports[node.name] for node in replayed.nodes if node.follows]
    said = [{k.removeprefix("hash_"): v for k, v in each.items() if k.startswith("hash_")} for each in reports.values()]
    composites = [n.name for n in replayed.nodes if n.publishes is not None and "nbbo" in n.publishes.channels]
    counted = {**replay, "nbbo_changes": sum(reports[name].get("changes", 0) for name in composites)}
    prefix = "message_"
    return {
        "source": source,
        "first": rfc3339(replay["first_ns"]) if replay["first_ns"] else None,
        "last": rfc3339(replay["last_ns"]) if replay["last_ns"] else None,
        **{name: counted.get(name, 0) for name in _COUNTS},
        "messages_by_type": {k.removeprefix(prefix): v for k, v in replay.items() if k.startswith(prefix)},
        "symbols": replay["symbols"],
        "turns": sum(report["turns"] for report in followed),
        "records": sum(report["records"] for report in followed),
        "took_ms": max((report["took_ms"] for report in followed), default=0),
        "hash": together(said),
        "live": _live(replayed, reports) if followed else None,
        "error": replay["error"],
    }


def _text(summary: dict[str, Any]) -> str:
    lines = [summary["source"]]
    if summary["first"]:
        lines[0] += f": {summary['first']} to {summary['last']}, {summary['symbols']:,} symbols"
        lines += [f"  {name.replace('_', ' '):<14}{summary[name]:>12,}" for name in _COUNTS]
        types = "  ".join(f"{name} {count:,}" for name, count in summary["messages_by_type"].items())
        lines.append(f"  by type: {types}")
    if summary["turns"]:
        lines.append(f"  {summary['turns']:,} turns of the processors, {summary['records']:,} records in "
                     f"{summary['took_ms'] / 1e3:,.1f} s")  # fmt: skip
    for channel, text in summary["hash"].items():
        live = summary["live"] and summary["live"].get(channel)
        same = "" if live is None else "  as live" if live == text else f"  NOT AS LIVE: {live}"
        lines.append(f"  hash of {channel:<8} {text}{same}")
    return "\n".join(lines)


def _hold() -> None:
    click.echo("replayed to its end; the last values stay until Ctrl-C", err=True)
    try:
        while True:
            time.sleep(3_600)
    except KeyboardInterrupt:
        click.echo(err=True)
