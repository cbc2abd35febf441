from typing import Any

import numpy as np
import pytest

import naive_histogram
from fabric import histogram_kernel
from fabric.buckets_kernel import BUCKETS, COUNT, EARLY, FIRST, SUM, WIDTH
from fabric.clock import SECOND_NS
from fabric.histogram import (
    Window,
    cumulative,
    pack,
    quantiles_ns,
    since,
    unpack,
    upper_ns,
)
from fabric.records import QUOTE, columns, empty

STAMPS = np.array([0, 1], np.int64)


def counted(values: Any, kernel: Any = histogram_kernel.record) -> Any:
    rows = np.zeros((len(values), 24), np.int64)
    rows[:, 1] = values
    found = np.zeros((1, WIDTH), np.int64)
    kernel(found, STAMPS, rows, 0, 0)
    return found[0]


def some_values(seed: int, count: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return [int(2 ** rng.uniform(0, 43)) for _ in range(count)]


def test_every_value_goes_into_the_bucket_whose_bounds_hold_it() -> None:
    edges = [bound + step for bound in naive_histogram.BOUNDS for step in (-1, 0, 1) if bound + step >= 0]
    for values in (edges, some_values(seed=7, count=2_000)):
        wanted = np.bincount([naive_histogram.bucket(value) for value in values], minlength=BUCKETS)
        for kernel in (histogram_kernel.record, histogram_kernel.record.py_func):
            found = counted(values, kernel)
            assert found[FIRST:].tolist() == wanted.tolist()
            assert (found[COUNT], found[SUM], found[EARLY]) == (len(values), sum(values), 0)


def test_the_bounds_are_those_of_the_twin() -> None:
    assert [upper_ns(bucket) for bucket in range(BUCKETS)] == naive_histogram.BOUNDS[1:]


def test_a_value_below_zero_is_counted_as_zero_and_told() -> None:
    found = counted([-5, -(2**62), 10])
    assert (found[COUNT], found[EARLY], found[SUM], found[FIRST]) == (3, 2, 10, 3)


@pytest.mark.parametrize("seed", range(5))
def test_a_percentile_is_at_most_a_thirty_second_above_the_true_one_and_never_below(seed: int) -> None:
    values = [value for value in some_values(seed, 3_000) if value < naive_histogram.VALUE_MAX_NS]
    shares = (0.001, 0.5, 0.9, 0.99, 0.999, 1.0)
    found = quantiles_ns(counted(values), shares)
    assert found is not None
    for share, bound in zip(shares, found, strict=True):
        true = naive_histogram.quantile(values, share)
        assert true < bound <= max(true * 33 / 32, true + 1_024) + 1


def test_nothing_has_no_percentiles() -> None:
    assert quantiles_ns(np.zeros(WIDTH, np.int64), (0.5,)) is None


def test_what_is_packed_is_unpacked() -> None:
    found = counted(some_values(seed=3, count=500))
    assert unpack(pack(found)).tolist() == found.tolist()
    assert unpack(pack(counted([]))).tolist() == [0] * WIDTH


@pytest.mark.parametrize("packed", [[], [1, 2], [1, 2, 3, 4], [1, 5, 0, -1, 1], [1, 5, 0, BUCKETS, 1]])
def test_what_is_no_histogram_is_refused(packed: list[int]) -> None:
    with pytest.raises(ValueError, match=r"packed histogram|bucket is"):
        unpack(packed)


def test_between_two_reports_lies_their_difference_and_after_a_restart_all() -> None:
    first, second = counted([5_000]), counted([5_000, 9_000, 9_000])
    assert since(second, first)[[COUNT, SUM]].tolist() == [2, 18_000]
    assert since(first, None)[COUNT] == 1
    assert since(first, second)[COUNT] == 1, "it was started anew"


def test_bounds_of_prometheus_hold_only_what_is_below_them_for_sure() -> None:
    values = [100_000, 499_900, 700_000, 3_000_000]  # the second shares its bucket with what is above 500 us
    assert cumulative(counted(values), [500_000, 1_000_000, 2**60]) == [1, 3, 4]
    everything = cumulative(counted(some_values(1, 1_000)), [10**n for n in range(4, 12)])
    assert everything == sorted(everything)


def test_a_window_adds_up_processes_and_forgets() -> None:
    window = Window(10 * SECOND_NS)
    window.add("a", counted([5_000]), 0)
    window.add("a", counted([6_000]), 5 * SECOND_NS)
    window.add("b", counted([]), 5 * SECOND_NS)
    assert {key: total[COUNT] for key, total in window.totals(9 * SECOND_NS).items()} == {"a": 2}
    assert {key: total[COUNT] for key, total in window.totals(10 * SECOND_NS).items()} == {"a": 1}
    assert window.totals(20 * SECOND_NS) == {}


def test_an_empty_batch_counts_nothing() -> None:
    found = np.zeros((1, WIDTH), np.int64)
    histogram_kernel.record(found, STAMPS, columns(empty(0, QUOTE)), 0, 0)
    assert not found.any()
