"""All kernels in one list: found by walking the packages, compiled (or loaded from the cache) by calling each once.

Compiling takes tens of seconds, once for each change of a kernel; loading a second or so. The fork server warms
the kernels of the programs that it will fork; this module knows all of them. Run as a program (``python -m
fabric.kernels``) it fills the cache beforehand, in a process of its own, and prints a line for each step: so do
`fabric test` and whoever builds an image.
"""

import importlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from fabric import compiled

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


def _compile_side_by_side() -> None:
    """Compile each module in a process of its own, as many at once as there are cores; the longest sources first."""
    names = sorted(modules(), key=_source_bytes, reverse=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = {pool.submit(_compile_alone, name): name for name in names}
        for done, run in enumerate(as_completed(runs)):
            print(done, len(names), runs[run], flush=True)  # noqa: T201  (its output is its interface)
            run.result()
    compile_all()  # from the cache: the proof that it is complete
    print(len(names), len(names), "", flush=True)  # noqa: T201


def _source_bytes(name: str) -> int:
    return compiled.ROOT.joinpath(*name.split(".")).with_suffix(".py").stat().st_size


def _compile_alone(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", "fabric.kernels", name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip()}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _warm_up(sys.argv[1])
    elif compiled.CACHED and not complete():
        _compile_side_by_side()
