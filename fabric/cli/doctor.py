"""``fabric doctor``: is this machine fit for the topology, and what to do where it is not."""

import json
from dataclasses import asdict

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fabric import doctor, topology
from fabric.cli import tables
from fabric.cli.arguments import run_folder
from fabric.control import Control, RunFolder
from fabric.environment import Environment
from fabric.errors import NotRunningError

_STYLES = {"ok": "green", "warn": "yellow", "alarm": "bold red"}


@click.command("doctor")
@click.argument("path", metavar="[TOPOLOGY]", default="topology.yaml")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_obj
def command(environment: Environment, path: str, as_json: bool) -> int:
    """Check this machine for TOPOLOGY (topology.yaml): open files, ports, clock, kernel buffers, cores, memory, disk,
    Redis, compiled kernels. What is not well comes with its fix; nothing is changed.

    The exit code is 1 where something would keep the topology from running, else 0.
    """
    loaded = topology.load(path)
    folder = run_folder(environment, path)
    findings = list(doctor.examine(loaded, folder, _running(folder)))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("check", "", "found", "fix"):
            table.add_column(heading, overflow="fold")
        for finding in findings:
            shown = Text(finding.health, _STYLES[finding.health])
            table.add_row(finding.name, shown, Text(finding.found), Text(finding.fix))
        Console(no_color=not environment.color, width=tables.terminal_width()).print(table)
    return 1 if any(finding.health == "alarm" for finding in findings) else 0


def _running(folder: RunFolder) -> bool:
    try:
        with Control(folder):
            return True
    except NotRunningError:
        return False
