"""``fabric up``: start a topology and supervise it until Ctrl-C, SIGTERM or the end of ``--for``."""

import sys
import time
from contextlib import ExitStack
from typing import Self

import click
from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fabric import topology as topologies
from fabric.cli import tables
from fabric.cli.arguments import DURATION, run_folder
from fabric.control import RunFolder
from fabric.environment import Environment
from fabric.errors import FabricError
from fabric.launcher import Launcher, Running, supervise
from fabric.logs import Console
from fabric.topology import Topology

SILENT_S = 1.0
"""Kernels that come from the cache are loaded by then, and nothing need be said about them."""
READY_WITHIN_S = 300.0


@click.command("up")
@click.argument("path", metavar="[TOPOLOGY]", default="topology.yaml")
@click.option("--detach", is_flag=True, help="Return when all is ready; the topology runs on until `fabric down`.")
@click.option(
    "--for", "for_ns", type=DURATION, help="Stop by itself after this time (30s, 2m), with a closing summary."
)
@click.pass_obj
def command(environment: Environment, path: str, detach: bool, for_ns: int | None) -> int:
    """Start every node of TOPOLOGY (topology.yaml), print the endpoints, supervise.

    Ctrl-C drains and stops all; a second one kills. The exit code is 0 after a clean stop, 1 if a node had been
    given up or did not stop as told, 2 for a mistake in the topology, 69 if a port is in use or the topology
    runs already.
    """
    if detach and for_ns is not None:
        raise click.UsageError("--for and --detach exclude each other")
    topology = topologies.load(path)
    folder = run_folder(environment, path)
    return _detached(topology, folder) if detach else _foreground(topology, folder, for_ns)


def _foreground(topology: Topology, folder: RunFolder, for_ns: int | None) -> int:
    sys.stdout.flush()  # the console below writes past Python's buffer
    console = Console()

    def show(table: Table) -> None:
        console.write(f"\n{tables.render(table, console.coloured)}\n\n".encode())

    with KernelProgress() as progress:
        launcher = Launcher(topology, folder, console, progress.step)
        with launcher:
            launcher.start()
            code = supervise(launcher, for_ns, lambda: show(tables.endpoints(topology, launcher.status())))
            if for_ns is not None:
                show(tables.nodes(launcher.status_at_stop))
                show(tables.endpoints(topology, launcher.status_at_stop))
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


class KernelProgress:
    """A bar on a terminal, a line for each module elsewhere, if the kernels take longer than loading them does."""

    def __init__(self) -> None:
        self._console = RichConsole(stderr=True)
        self._started = time.monotonic()
        self._resources = ExitStack()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def step(self, done: int, total: int, module: str) -> None:
        """``done`` of ``total`` kernel modules are compiled or loaded, ``module`` is next; empty at the end."""
        if done == total:
            self._resources.close()
        elif time.monotonic() - self._started < SILENT_S:
            return
        elif not self._console.is_terminal:
            self._console.print(f"compiling kernels: {done + 1}/{total} {module}", soft_wrap=True, highlight=False)
        else:
            if self._bar is None:
                text = TextColumn("compiling kernels")
                columns = (
                    text,
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TextColumn("{task.description}"),
                )
                self._bar = self._resources.enter_context(Progress(*columns, console=self._console, transient=True))
                self._bar.add_task(module, total=total)
            self._bar.update(self._bar.task_ids[0], completed=done, description=module)
