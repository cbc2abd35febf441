"""All kernels in one list: found by walking the packages, compiled (or loaded from the cache) by calling each once.

Compiling takes tens of seconds, once for each change of a kernel; loading a second or so. The fork server warms
the kernels of the programs that it will fork; this module knows all of them. Run as a program (``python -m
fabric.kernels``) it fills the cache beforehand, in a process of its own, and prints a line for each step: so do
`fabric test` and whoever builds an image.
"""

import importlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from fabric import compiled

WORK = "--work"
"""Argument that makes this program a `Worker`'s process."""
STAMP = "complete"
"""File in the cache folder, written when every kernel is in it."""
FOLDERS_KEPT = 3
FOLDER_AGE_MIN_S = 3600
"""A younger folder may be another process's, which fills it at this moment; it is never pruned."""

Progress = Callable[[int, int, str], None]
"""Told (kernels done, kernels in all, name of the module that comes next; empty at the end)."""


def modules() -> list[str]:
    """The dotted names of all kernel modules, sorted."""
    return [
        ".".join(path.relative_to(compiled.ROOT).with_suffix("").parts)
        for folder in compiled.FOLDERS
        for path in sorted((compiled.ROOT / folder).rglob("*_kernel.py"))
    ]


def complete() -> bool:
    """Whether the cache holds every kernel, so that `compile_all` will only load."""
    return compiled.CACHE_FOLDER is not None and (compiled.CACHE_FOLDER / STAMP).exists()


def compile_all(progress: Progress | None = None) -> None:
    """Import each kernel module and call its ``warm_up``; mark the cache complete; forget old caches.

    A module without one holds helpers only, which are compiled into their callers. What a kernel raises is a
    mistake of ours and comes through as it is.
    """
    names = modules()
    for done, name in enumerate(names):
        if progress:
            progress(done, len(names), name)
        _warm_up(name)
    if progress:
        progress(len(names), len(names), "")
    if compiled.CACHE_FOLDER is not None and not complete():
        (compiled.CACHE_FOLDER / STAMP).touch()
    prune()


def _warm_up(name: str) -> None:
    module = importlib.import_module(name)
    if hasattr(module, "warm_up"):
        module.warm_up()


def prune() -> None:
    """Remove the caches of sources that are no more: of each module all but the newest few."""
    if compiled.CACHE_FOLDER is None:
        return
    versions: dict[str, list[tuple[float, Path]]] = {}
    for folder in compiled.CACHE_FOLDER.parent.iterdir():
        with suppress(FileNotFoundError):  # another process prunes too
            versions.setdefault(folder.name.rpartition("-")[0], []).append(
                (time.time() - folder.stat().st_mtime, folder)
            )
    used = {compiled.CACHE_FOLDER, *map(compiled.module_folder, modules())}
    for aged in versions.values():
        for age_s, folder in sorted(aged)[FOLDERS_KEPT:]:
            if folder not in used and age_s > FOLDER_AGE_MIN_S:
                shutil.rmtree(folder, ignore_errors=True)


class Worker:
    """A process that compiles one module after another: importing numba costs it a second, once."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fabric.kernels", WORK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def compile(self, name: str) -> None:
        """Fill the cache of a kernel module; raises RuntimeError with what the process said when that fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            print(name, file=self._process.stdin, flush=True)
        if self._process.stdout.readline().strip() != name:
            self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"{name}: {self._errors.read().strip()}")

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            self._process.communicate()
        self._errors.close()


def _compile_side_by_side() -> None:
    """Compile all modules, as many at once as there are cores; the longest sources first."""
    names = sorted(modules(), key=_source_bytes, reverse=True)
    with ExitStack() as resources:
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for _ in range(os.cpu_count() or 1):
            idle.put(resources.enter_context(closing(Worker())))

        def compile_one(name: str) -> None:
            worker = idle.get()
            try:
                worker.compile(name)
            finally:
                idle.put(worker)

        pool = resources.enter_context(ThreadPoolExecutor(os.cpu_count()))
        runs = {pool.submit(compile_one, name): name for name in names}
        for done, run in enumerate(as_completed(runs)):
            print(done, len(names), runs[run], flush=True)  # noqa: T201  (its output is its interface)
            run.result()
    compile_all()  # from the cache: the proof that it is complete
    print(len(names), len(names), "", flush=True)  # noqa: T201


def _source_bytes(name: str) -> int:
    return compiled.ROOT.joinpath(*name.split(".")).with_suffix(".py").stat().st_size


def _work() -> None:
    """Be a `Worker`'s process: names of modules come in, and go out again when they are compiled."""
    for line in sys.stdin:
        _warm_up(line.strip())
        print(line.strip(), flush=True)  # noqa: T201  (its output is its interface)


if __name__ == "__main__":
    if sys.argv[1:] == [WORK]:
        _work()
    elif compiled.CACHED and not complete():
        _compile_side_by_side()
