"""What every benchmark prints first and how it counts: the machine, percentiles, the best of several rounds."""

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np


def describe() -> str:
    """The machine in one line: processor, cores that this process may use, load, Python."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")), "?")
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"machine: {model}, {cores} cores, load {load:.1f}, Python {platform.python_version()}"


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """p50, p99 and p99.9."""
    p50, p99, p999 = np.percentile(values, [50, 99, 99.9])
    return float(p50), float(p99), float(p999)


def best_seconds(pieces: int, rounds: int, *works: Callable[[int], object]) -> list[float]:
    """For each work the seconds that ``work(0) ... work(pieces - 1)`` take, each piece at its best of ``rounds``.

    The works take turns piece by piece, so that what else the machine does falls on all alike.
    """
    best = np.full((len(works), pieces), np.inf)
    for _ in range(rounds):
        for piece in range(pieces):
            for i, work in enumerate(works):
                start = time.perf_counter()
                work(piece)
                best[i, piece] = min(best[i, piece], time.perf_counter() - start)
    return [float(seconds) for seconds in best.sum(axis=1)]
