from fabric.clock import MILLISECOND_NS, SECOND_NS
from gateway.limits import Rate, Strikes, TokenBucket


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst=3, now_ns=5)
    assert [bucket.take(5) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(5) == 100
    assert bucket.take(5 + 60 * MILLISECOND_NS) == 40
    assert bucket.take(5 + 100 * MILLISECOND_NS) == 0
    assert bucket.take(5 + 100 * MILLISECOND_NS) == 100


def test_a_bucket_never_gathers_more_than_its_burst() -> None:
    bucket = TokenBucket(rate=10, burst=3, now_ns=0)
    assert [bucket.take(60 * SECOND_NS) for _ in range(4)] == [0, 0, 0, 100]


def test_the_wait_is_never_said_to_be_nothing() -> None:
    bucket = TokenBucket(rate=1_000_000, burst=1, now_ns=0)
    assert bucket.take(0) == 0
    assert bucket.take(999) == 1


def test_strikes_count_within_their_window_only() -> None:
    strikes = Strikes(limit=3, window_ns=10)
    assert [strikes.add(now) for now in (0, 6, 10, 15, 16)] == [False, False, False, True, True]


def test_a_bucket_that_is_one_instant() -> None:
    rate = Rate(10, 3)
    since_ns, wait_ns = rate.take(-(1 << 62), 0)
    assert (wait_ns, rate.left(since_ns, 0)) == (0, 2)
    for _ in range(2):
        since_ns, wait_ns = rate.take(since_ns, 0)
    assert (wait_ns, rate.left(since_ns, 0)) == (0, 0)
    assert rate.take(since_ns, 0) == (since_ns, 100_000_000)
    assert rate.take(since_ns, 60_000_000) == (since_ns, 40_000_000)
    assert rate.left(since_ns, 10**12) == 3
