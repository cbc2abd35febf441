"""Alive, ready, degraded; and what Prometheus reads."""

from prometheus_client import generate_latest

from fabric.clock import SECOND_NS
from gateway.health import FIRST_VALUES_WAIT_NS, TURN_MAX_NS, Health, registry


def status(health: Health, now_ns: int = 0, store: str = "ok") -> str:
    return str(health.readiness(now_ns, store)["status"])


def test_ready_when_every_link_has_brought_its_last_values() -> None:
    health = Health(["nbbo", "candles"], started_ns=0)
    health.turned(1, [True, None], first_values=False)
    assert status(health) == "unready"
    health.turned(2, [True, True], first_values=True)
    assert status(health) == "ok"


def test_a_link_that_does_not_come_up_delays_readiness_only_so_long() -> None:
    health = Health(["nbbo"], started_ns=0)
    health.turned(FIRST_VALUES_WAIT_NS, [None], first_values=False)
    assert status(health) == "degraded"


def test_what_fails_later_degrades_and_does_not_unready() -> None:
    health = Health(["nbbo"], started_ns=0)
    health.turned(1, [True], first_values=True)
    health.turned(2, [False], first_values=False)
    report = health.readiness(2, "ok")
    assert report["status"] == "degraded"
    assert report["checks"]["link nbbo"]["status"] == "down"
    health.turned(3, [True], first_values=True)
    assert status(health, 3, "connection refused") == "degraded"
    assert status(health, 3, "off") == "ok"


def test_draining_is_unready_at_once_and_still_alive() -> None:
    health = Health([], started_ns=0)
    health.turned(1, [], first_values=True)
    health.draining = True
    assert status(health) == "unready"
    assert health.live(1)["status"] == "ok"


def test_a_loop_that_no_longer_turns_is_dead_and_unready() -> None:
    health = Health([], started_ns=0)
    health.turned(SECOND_NS, [], first_values=True)
    assert health.live(SECOND_NS + TURN_MAX_NS - 1)["status"] == "ok"
    assert health.live(SECOND_NS + TURN_MAX_NS)["status"] == "dead"
    assert status(health, SECOND_NS + TURN_MAX_NS) == "unready"


def test_metrics_are_the_counters_at_the_time_of_the_scrape() -> None:
    counters = {"received": 5, "links": 2}
    made = registry({"inbox": lambda: counters}, {("bad_frames", "reason"): lambda: {"truncated": 3}})
    text = generate_latest(made).decode()
    assert "fabric_inbox_received_total 5.0" in text
    assert "fabric_inbox_links 2.0" in text  # a gauge: no _total
    assert 'fabric_bad_frames_total{reason="truncated"} 3.0' in text
    assert "process_resident_memory_bytes" in text
    counters["received"] = 6
    assert "fabric_inbox_received_total 6.0" in generate_latest(made).decode()


def test_metrics_have_base_units_and_one_name_for_all_publishers() -> None:
    """Prometheus, "Metric and label naming": seconds and bytes, a label for what differs in kind only."""
    inbox = {"bytes_in": 7, "lag": 5, "lag_ms": 1_500, "lag_nbbo-1": 5, "lag_ms_nbbo-1": 1_500, "lag_iex": 0}
    parts = {"inbox": lambda: inbox, "fanout": lambda: {"bytes": 9, "late_ns_max": 2_000_000}}
    lines = generate_latest(registry(parts, {})).decode().splitlines()
    expected = {
        "fabric_inbox_received_bytes_total 7.0", "fabric_inbox_lag_messages 5.0", "fabric_inbox_lag_seconds 1.5",
        'fabric_link_lag_messages{publisher="nbbo-1"} 5.0', 'fabric_link_lag_messages{publisher="iex"} 0.0',
        'fabric_link_lag_seconds{publisher="nbbo-1"} 1.5', "fabric_fanout_sent_bytes_total 9.0",
        "fabric_fanout_late_max_seconds 0.002",
    }  # fmt: skip
    ours = {line for line in lines if line.startswith("fabric_") and not line.startswith("fabric_build")}
    assert ours == expected


def test_a_suspended_log_is_named_and_only_degrades() -> None:
    """Fault 29."""
    health = Health(["feed"], started_ns=0)
    health.turned(1, [True], first_values=True, suspended=["feed"])
    report = health.readiness(2, "ok")
    assert report["status"] == "degraded"
    assert report["checks"]["log feed"]["status"] == "suspended"
