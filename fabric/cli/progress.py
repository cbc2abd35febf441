"""Compile the kernels in a process of their own while the terminal shows how far it is."""

import subprocess
import sys
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fabric import compiled
from fabric.errors import FabricError

NO_CACHE = "the kernel cache cannot be written: kernels are compiled anew at each start (FABRIC_KERNEL_CACHE moves it)"


def compile_kernels(label: str = "compiling kernels", variables: Mapping[str, str] | None = None) -> None:
    """Fill the kernel cache that ``variables`` (default: this process's environment) name; silent when it is full.

    A bar on a terminal, a line for each module elsewhere, both on stderr. A cache that cannot be written is said
    and is no error: nodes then compile in memory, at each start. Raises FabricError when a kernel does not compile.
    """
    console = Console(stderr=True)
    if not compiled.CACHED:
        console.print(NO_CACHE, soft_wrap=True)
        return
    with subprocess.Popen(
        [sys.executable, "-m", "fabric.kernels"],
        cwd=compiled.ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        steps = (line.rstrip("\n").split(" ", 2) for line in process.stdout)
        name = _show(console, label, ((int(done), int(total), module) for done, total, module in steps))
        complaint = process.stderr.read().strip()
    if process.returncode:
        reason = complaint.splitlines()[-1] if complaint else f"exit code {process.returncode}"
        raise FabricError(f"kernel {name} did not compile: {reason}")


def _show(console: Console, label: str, steps: Iterator[tuple[int, int, str]]) -> str:
    """Show each step; return the module of the last one."""
    module = "?"
    if not console.is_terminal:
        for done, total, module in steps:
            if module:
                console.print(f"{label}: {done + 1}/{total} {module}", soft_wrap=True, highlight=False)
        return module
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[module]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = None
        for done, total, module in steps:
            if task is None:
                task = progress.add_task(label, total=total, module=module)
            progress.update(task, completed=done, module=module)
    return module
