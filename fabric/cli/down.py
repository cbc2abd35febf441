"""``fabric down``: stop the topology that runs in this folder."""

from pathlib import Path

import click

from fabric.cli.arguments import DURATION, folder_option, run_folder
from fabric.clock import SECOND_NS
from fabric.control import Control
from fabric.environment import Environment
from fabric.errors import FabricError

KILLED_WITHIN_S = 5.0


@click.command("down")
@click.option(
    "--timeout", "timeout_ns", type=DURATION, default=60 * SECOND_NS, show_default="60s", help="Kill after this."
)
@folder_option
@click.pass_obj
def command(environment: Environment, timeout_ns: int, folder: Path) -> None:
    """Drain and stop the running topology; return when nothing of it is left."""
    place = run_folder(environment, folder)
    with Control(place) as control:
        pid = control.ask("down")["pid"]
        if control.wait_end(timeout_ns / SECOND_NS):
            click.echo(f"stopped (pid {pid})")
            return
    with Control(place) as control:
        control.ask("kill")
        if not control.wait_end(KILLED_WITHIN_S):
            raise FabricError(f"the launcher (pid {pid}) does not end")
    raise FabricError(f"not stopped within {timeout_ns / SECOND_NS:g} s: all nodes were killed")
