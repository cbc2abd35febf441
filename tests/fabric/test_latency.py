"""What a process counts of the hops that it ends, and how far an exchange's clock is off."""

from fabric import histogram_kernel
from fabric.buckets_kernel import SUM
from fabric.clock import SECOND_NS
from fabric.histogram import HOPS
from fabric.latency import ClockOffset, Latency
from fabric.records import NBBO, NULL, QUOTE, Rows, empty


def test_a_row_is_counted_where_it_has_both_stamps_and_is_live() -> None:
    rows = empty(4, NBBO)
    rows["feed_ns"] = [NULL, 1_000, 100, 1_000]
    rows["proc_ns"] = [9_000, NULL, 9_000, 5_096]
    latency = Latency()
    latency.processed(rows, since_ns=500)
    assert latency.packed() == {"processor": [1, 4_096, 0, 4, 1]}


def test_only_the_way_from_the_exchange_has_the_clocks_difference_taken_off() -> None:
    rows = fed(event_ns=10_000_000, recv_ns=3_010_000_000, feed_ns=3_010_050_000)
    latency = Latency()
    latency.fed(rows, 0, offset_ns=2_999_000_000)
    assert {hop: found[SUM] for hop, found in latency.packed().items()} == {"exchange": 1_000_000, "feed": 50_000}


def fed(**stamps: int) -> Rows:
    rows = empty(1, QUOTE)
    for name, value in stamps.items():
        rows[name] = value
    return rows


def test_the_offset_is_the_least_delay_of_ten_minutes() -> None:
    offset = ClockOffset()
    for second in range(1_200):
        backlog = 5_000 if 300 <= second < 800 else 0
        offset.add(-70 + backlog + second % 7, second * SECOND_NS)
        assert offset.offset_ns == -70, "a backlog of minutes is no clock"
    for second in range(1_200, 1_900):  # a step of the exchange's clock is one, ten minutes later
        offset.add(900 + second % 7, second * SECOND_NS)
    assert offset.offset_ns == 900


def test_clients_are_counted_in_the_last_two_histograms() -> None:
    latency = Latency()
    histogram_kernel.add.py_func(latency.to_clients[0], 2_000)
    histogram_kernel.add.py_func(latency.to_clients[1], 4_000)
    assert list(latency.packed()) == ["gateway", "total"]
    assert HOPS[-2:] == ("gateway", "total")
