"""``fabric up``: start a topology and supervise it until Ctrl-C, SIGTERM or the end of ``--for``."""

import sys
from dataclasses import replace

import click
from rich.console import RenderableType

from fabric import kernels, machine
from fabric import topology as topologies
from fabric.cli import programs, tables
from fabric.cli.arguments import DURATION, run_folder
from fabric.cli.progress import KernelProgress, compile_kernels
from fabric.control import RunFolder
from fabric.environment import Environment
from fabric.errors import FabricError, UsageError
from fabric.launcher import Launcher, Running, supervise
from fabric.logs import Console
from fabric.topology import Topology
from fabric.topology_file import hint

READY_WITHIN_S = 300.0


@click.command("up")
@click.argument("path", metavar="[TOPOLOGY]", default="topology.yaml")
@click.option("--detach", is_flag=True, help="Return when all is ready; the topology runs on until `fabric down`.")
@click.option(
    "--for", "for_ns", type=DURATION, help="Stop by itself after this time (30s, 2m), with a closing summary."
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Start the nodes of this host (may be given again). Default: of each host whose address this machine has.",
)
@click.pass_obj
def command(environment: Environment, path: str, detach: bool, for_ns: int | None, hosts: tuple[str, ...]) -> int:
    """Start every node of TOPOLOGY (topology.yaml) that belongs on this machine, print the endpoints, supervise.

    Ctrl-C drains and stops all; a second one kills. The exit code is 0 after a clean stop, 1 if a node had been
    given up or did not stop as told, 2 for a mistake in the topology, 69 if a port is in use or the topology
    runs already.
    """
    if detach and for_ns is not None:
        raise click.UsageError("--for and --detach exclude each other")
    topology = _here(topologies.load(path), hosts)
    programs.check(topology)
    folder = run_folder(environment, path)
    if not kernels.complete():
        compile_kernels()
    return _detached(topology, folder) if detach else _foreground(topology, folder, for_ns)


def _here(topology: Topology, chosen: tuple[str, ...]) -> Topology:
    """The topology with the hosts whose nodes start here; raises UsageError where there is none."""
    names = [name for name, _ in topology.hosts]
    for name in chosen:
        if name not in names:
            raise UsageError(f"{topology.path} has no host {name!r}{hint(name, names)}")
    here = chosen or (tuple(names) if len(names) == 1 else machine.addressed(topology.hosts))
    if not here:
        known = ", ".join(f"{name} {address}" for name, address in topology.hosts)
        raise UsageError(f"this machine has the address of no host of {topology.path} ({known}): choose one by --host")
    return replace(topology, here=here)


def _foreground(topology: Topology, folder: RunFolder, for_ns: int | None) -> int:
    sys.stdout.flush()  # the console below writes past Python's buffer
    console = Console()

    def show(table: RenderableType) -> None:
        console.write(f"\n{tables.render(table, console.coloured)}\n\n".encode())

    with KernelProgress() as progress:
        launcher = Launcher(topology, folder, console, progress.step)
        with launcher:
            launcher.start()
            code = supervise(launcher, for_ns, lambda: show(tables.endpoints(topology, launcher.status())))
            if for_ns is not None:
                show(tables.nodes(launcher.status_at_stop, tables.terminal_width()))
    return code


def _detached(topology: Topology, folder: RunFolder) -> int:
    running = Running(topology, folder, leashed=False)
    try:
        with KernelProgress() as progress:
            failed = running.wait_ready(READY_WITHIN_S, progress.step)
        table = tables.endpoints(topology, running.status())
    except BaseException:
        running.stop()
        raise
    running.release()
    click.echo(tables.render(table, coloured=False))
    click.echo(f"running, pid {running.pid}; logs in {folder.path / 'logs'}; `fabric down` stops it")
    if failed:
        raise FabricError(f"{', '.join(failed)}: given up (`fabric logs {failed[0]}`); the other nodes run")
    return 0
