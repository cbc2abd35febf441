"""All kernels in one list: found by walking the packages, compiled (or loaded from the cache) by calling each once.

Compiling takes tens of seconds, once for each change of a kernel; loading a second or so. The fork server warms
the kernels of the programs that it will fork; this module knows all of them. Run as a program (``python -m
fabric.kernels``) it fills the cache beforehand, in a process of its own, and prints a line for each step: so do
`fabric test` and whoever builds an image.
"""

import importlib
import shutil
import time
from collections.abc import Callable
from contextlib import suppress

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
        module = importlib.import_module(name)
        if hasattr(module, "warm_up"):
            module.warm_up()
    if progress:
        progress(len(names), len(names), "")
    if compiled.CACHE_FOLDER is not None and not complete():
        (compiled.CACHE_FOLDER / STAMP).touch()
    prune()


def prune() -> None:
    """Remove all but the newest caches beside the one in use."""
    if compiled.CACHE_FOLDER is None:
        return
    ages_s = {}
    for folder in compiled.CACHE_FOLDER.parent.iterdir():
        with suppress(FileNotFoundError):  # another process prunes too
            ages_s[folder] = time.time() - folder.stat().st_mtime
    for folder in sorted(ages_s, key=ages_s.__getitem__)[FOLDERS_KEPT:]:
        if folder != compiled.CACHE_FOLDER and ages_s[folder] > FOLDER_AGE_MIN_S:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if compiled.CACHED and not complete():
        compile_all(lambda *step: print(*step, flush=True))  # noqa: T201  (its output is its interface)
