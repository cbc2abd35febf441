"""``fabric status``: the nodes of the topology that runs in this folder."""

import json
from pathlib import Path

import click
from rich.console import Console

from fabric.cli import tables
from fabric.cli.arguments import folder_option, run_folder
from fabric.control import Control
from fabric.environment import Environment


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print all that is known as JSON: every counter, epochs, rates.")
@folder_option
@click.pass_obj
def command(environment: Environment, as_json: bool, folder: Path) -> None:
    """Show each node: state, process, restarts, rate, what it uses and the counters that matter."""
    with Control(run_folder(environment, folder)) as control:
        status = control.ask("status")
    if as_json:
        click.echo(json.dumps(status, indent=2))
        return
    width = tables.terminal_width()
    Console(no_color=not environment.color, width=width).print(tables.nodes(status, width))
    click.echo(f"{status['state']}: {status['topology']}, launcher pid {status['pid']}")
