"""Nanoseconds to count a latency, beside numpy and HdrHistogram's Python package; and its share of a node.

All count the same log-normal latencies, as rows of the bus or as the plain numbers that the peers take. The last lines
time a processor's step with and without the histogram, in turns, on batches as small and as large as they come.

Run: python benchmarks/bench_latency.py  (hdrhistogram: pip install '.[bench]')
"""

from importlib.util import find_spec
from typing import Any

import numpy as np
from bench_nbbo import storm
from machine import best_seconds, describe

from fabric.buckets_kernel import BUCKETS
from fabric.histogram import quantiles_ns
from fabric.latency import Latency
from fabric.records import EVENT, NBBO, empty
from nodes.nbbo import Nbbo

COUNT, ROUNDS = 8_192, 40


def main() -> None:
    """Print a line a way to count, then a line a batch size."""
    print(describe())
    rng = np.random.default_rng(1)
    values = rng.lognormal(13, 1, COUNT).astype(np.int64)
    rows = empty(COUNT, NBBO)
    rows["feed_ns"], rows["proc_ns"] = 10**18, 10**18 + values
    latency = Latency()
    bounds = np.geomspace(1_000, 10**12, BUCKETS)
    counts = np.zeros(BUCKETS + 1, np.int64)

    def with_numpy(_: int) -> None:
        taken = rows["proc_ns"] - rows["feed_ns"]
        counts[:] += np.bincount(np.searchsorted(bounds, taken), minlength=BUCKETS + 1)

    works = {"compiled": lambda _: latency.processed(rows, 0), "numpy": with_numpy}
    if find_spec("hdrh") is not None:
        works["hdrhistogram"] = _hdr(values.tolist())
    latency.processed(rows, 0)
    for name, seconds in zip(works, best_seconds(1, ROUNDS, *works.values()), strict=True):
        print(f"{name:14} {seconds / COUNT * 1e9:8.1f} ns a value")
    found = quantiles_ns(latency.counts[2], (0.5, 0.99, 0.999))
    print("p50, p99, p99.9: counted", found, "true", np.percentile(values, (50, 99, 99.9)).astype(int).tolist())
    for batch in (16, 256, 4_096):
        share(batch)


def _hdr(values: list[int]) -> Any:
    from hdrh.histogram import HdrHistogram

    histogram = HdrHistogram(1, 3_600_000_000_000, 2)

    def record(_: int) -> None:
        for value in values:
            histogram.record_value(value)

    return record


def share(batch: int) -> None:
    """What the histogram adds to the step of a processor of the best bid and offer."""
    rows = storm(5_000, "NPQV", np.random.default_rng(1)).view(EVENT)[: 64 * batch]
    rows["feed_ns"] = 10**18
    pieces = [rows[i : i + batch] for i in range(0, rows.size, batch)]
    node, latency = Nbbo(5_000, "NPQV", (), batch, channels=("nbbo",)), Latency()
    kept: list[Any] = [None]

    def step(i: int) -> None:
        kept[0] = node.step(pieces[i], 0)
        kept[0]["proc_ns"] = 10**18 + 50_000

    plain, counting = best_seconds(len(pieces), 10, step, lambda _: latency.processed(kept[0], 0))
    print(
        f"batches of {batch:5,}: step {plain / rows.size * 1e9:6.0f} ns a quote, counting {counting / plain:6.1%} of it"
    )


if __name__ == "__main__":
    main()
