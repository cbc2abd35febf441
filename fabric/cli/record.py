"""``fabric record``: what the feeds of the running topology receive, as capture files."""

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import click

from fabric import topology
from fabric.cli.arguments import DURATION, run_folder
from fabric.cli.instants import rfc3339
from fabric.clock import SECOND_NS
from fabric.environment import Environment
from fabric.errors import FabricError
from fabric.recording import Recorded, Recorder

TURN_S = 0.2
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


class Size(click.ParamType[int]):
    """Bytes, such as ``500mb`` or ``2gb``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):  # a default
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]b)?", str(value).strip().lower(), re.ASCII)
        if found is None or float(found[1]) <= 0:
            self.fail(f"{value!r} is no size: expected bytes, such as 500mb or 2gb", param, ctx)
        return round(float(found[1]) * _UNITS[found[2] or ""])


@click.command("record")
@click.argument("feeds", metavar="[FEED]...", nargs=-1)
@click.option("--topology", "path", default="topology.yaml", show_default=True, help="The topology that runs, or will.")
@click.option("--to", "target", type=click.Path(path_type=Path), help="Folder for FEED.pcapng (default: a new one).")
@click.option("--for", "for_ns", type=DURATION, help="Stop after this (30s, 10m); default: at Ctrl-C.")
@click.option("--bytes", "bytes_max", type=Size(), default=10**10, show_default="10gb", help="Stop at this, all files.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_obj
def command(
    environment: Environment, feeds: tuple[str, ...], path: str, target: Path | None, for_ns: int | None,
    bytes_max: int, as_json: bool,
) -> int:  # fmt: skip
    """Record the packets that FEED (default: every feed) takes from its lines, in nanoseconds, one pcapng file each.

    The feeds themselves pass on what they receive, so nothing is taken away from them and no right is needed but to
    the run folder. Begin before `fabric up` to have a day from its first packet: feeds that build a book from every
    order cannot be replayed from its middle. `fabric replay FILE` gives the quotes that the feed gave. The exit code is
    1 where packets were lost.
    """
    loaded = topology.load(path)
    known = [spec.name for spec in loaded.nodes if spec.role == "feed"]
    for name in feeds:
        if name not in known:
            raise FabricError(f"no feed {name!r} (there are {', '.join(known) or 'none'})")
    folder = target or Path(time.strftime("recorded-%Y%m%dT%H%M%SZ", time.gmtime()))
    for name in feeds or known:
        if (folder / f"{name}.pcapng").exists():
            raise FabricError(f"{folder / name}.pcapng: is there already; nothing is overwritten")
    recorder = Recorder(run_folder(environment, path), folder, feeds, bytes_max)
    stopped: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    until_ns = time.monotonic_ns() + for_ns if for_ns else None
    click.echo(f"recording to {folder}{f' for {for_ns / SECOND_NS:g} s' if for_ns else ', until Ctrl-C'}", err=True)
    try:
        while not stopped and not recorder.full and (until_ns is None or time.monotonic_ns() < until_ns):
            recorder.turn(TURN_S)
    except KeyboardInterrupt:
        click.echo(err=True)
    finally:
        signal.signal(signal.SIGTERM, before)
        recorder.close()
    recorded = sorted(recorder.recorded.items())
    if as_json:
        click.echo(json.dumps([_described(name, each) for name, each in recorded], indent=2))
    for _, each in recorded if not as_json else ():
        click.echo(
            f"{each.path}: {each.packets:,} packets, {each.size / 1e6:,.1f} MB, {rfc3339(each.first_ns)} to "
            f"{rfc3339(each.last_ns)}, lost {each.kernel_drops:,} before the feed and {each.dropped:,} behind it"
        )
    if not recorded:
        click.echo("no feed has sent anything: does the topology run here?", err=True)
    return 0 if recorded and not any(each.lost for _, each in recorded) else 1


def _described(name: str, each: Recorded) -> dict[str, Any]:
    return {
        "feed": name,
        "file": str(each.path),
        "packets": each.packets,
        "bytes": each.size,
        "first": rfc3339(each.first_ns),
        "last": rfc3339(each.last_ns),
        "dropped": each.dropped,
        "kernel_drops": each.kernel_drops,
    }
