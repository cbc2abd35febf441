"""``fabric restart``: a new process for one node."""

import time
from pathlib import Path

import click

from fabric.cli.arguments import folder_option, run_folder
from fabric.control import Control
from fabric.environment import Environment
from fabric.errors import FabricError

WITHIN_S = 60.0
POLL_S = 0.05


@click.command("restart")
@click.argument("node")
@folder_option
@click.pass_obj
def command(environment: Environment, node: str, folder: Path) -> None:
    """Drain NODE and start it again; return when it is ready. Also for a node that was given up."""
    started = time.monotonic()
    with Control(run_folder(environment, folder)) as control:
        before = {found["name"]: found for found in control.ask("status")["nodes"]}.get(node)
        control.ask("restart", node=node)  # refuses an unknown name
        assert before is not None
        while time.monotonic() - started < WITHIN_S:
            now = next(found for found in control.ask("status")["nodes"] if found["name"] == node)
            if now["epoch"] > before["epoch"]:
                if now["ready"]:
                    elapsed = time.monotonic() - started
                    click.echo(f"{node}: ready in {elapsed:.1f} s, pid {before['pid'] or 'none'} -> {now['pid']}")
                    return
                if now["state"] in ("failed", "back-off"):
                    raise FabricError(f"{node}: {now['state']}, exit code {now['exit_code']}: see `fabric logs {node}`")
            time.sleep(POLL_S)
    raise FabricError(f"{node}: not ready within {WITHIN_S:g} s: see `fabric logs {node}`")
