"""``fabric node``: one node in the foreground, as a container or a systemd unit runs it."""

import time
from difflib import get_close_matches

import click

from fabric import machine
from fabric import topology as topologies
from fabric.cli.arguments import run_folder
from fabric.environment import Environment
from fabric.errors import UsageError


@click.command("node")
@click.argument("name")
@click.argument("path", metavar="[TOPOLOGY]", default="topology.yaml")
@click.pass_obj
def command(environment: Environment, name: str, path: str) -> int:
    """Run the node NAME of TOPOLOGY (topology.yaml) in this process, its log on the terminal; its exit code is ours.

    Its epoch is kept in the run folder, as under `fabric up`, so that readers know the new process from the old.
    """
    topology = topologies.load(path)
    names = [node.name for node in topology.nodes]
    if name not in names:
        guess = get_close_matches(name, names, n=1)
        hint = f"; did you mean {guess[0]!r}?" if guess else ""
        raise UsageError(f"{path} has no node {name!r}{hint} (there are {', '.join(names)})")
    machine.check_ports(port for port in machine.ports(topology) if port.node == name and not port.shared)
    warning = machine.raise_file_limit(topology)
    if warning and topology.node(name).role == "gateway":
        click.echo(f"fabric: warning: {warning}", err=True)
    folder = run_folder(environment, path)
    folder.make()
    epoch = folder.next_epoch(name, time.time_ns())
    from fabric.node import start  # numba takes half a second: not for a mistyped name

    return start(topology, name, epoch)
