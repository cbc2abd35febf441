"""How far the kernels are, shown on the terminal, whoever compiles them: the fork server or a process of their own."""

import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fabric import compiled
from fabric.errors import FabricError

NO_CACHE = "the kernel cache cannot be written: kernels are compiled anew at each start (FABRIC_KERNEL_CACHE moves it)"


class KernelProgress:
    """A bar on a terminal, a line for each module elsewhere, if there is something to compile."""

    def __init__(self, label: str = "compiling kernels") -> None:
        self._label = label
        self._console = Console(stderr=True)
        self._resources = ExitStack()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if not compiled.CACHED:
            self._console.print(NO_CACHE, soft_wrap=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def step(self, done: int, total: int, module: str) -> None:
        """``done`` of ``total`` are compiled, the kernel ``module`` is next; empty at the end."""
        if done == total:
            self._resources.close()
        elif not self._console.is_terminal:
            self._console.print(f"{self._label}: {done + 1}/{total} {module}", soft_wrap=True, highlight=False)
        else:
            if self._bar is None:
                columns = (
                    TextColumn(self._label),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TextColumn("{task.description}"),
                )
                self._bar = self._resources.enter_context(Progress(*columns, console=self._console, transient=True))
                self._bar.add_task(module, total=total)
            self._bar.update(self._bar.task_ids[0], completed=done, description=module)


def compile_kernels(label: str = "compiling kernels", variables: Mapping[str, str] | None = None) -> None:
    """Fill the kernel cache that ``variables`` (default: this process's environment) name, before anything runs.

    A cache that cannot be written is said and is no error: kernels then compile where they are used. Raises
    FabricError, naming the module, when a kernel does not compile.
    """
    module = ""
    with (
        KernelProgress(label) as progress,  # the program says nothing about a full cache
        subprocess.Popen(
            [sys.executable, "-m", "fabric.kernels"],
            cwd=compiled.ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            done, total, module = line.rstrip("\n").split(" ", 2)
            progress.step(int(done), int(total), module)
        complaint = process.stderr.read().strip()
    if process.returncode:
        reason = complaint.splitlines()[-1] if complaint else f"exit code {process.returncode}"
        raise FabricError(f"{module or 'kernels'} did not compile: {reason}")
