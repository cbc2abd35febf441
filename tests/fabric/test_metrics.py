from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from fabric import metrics
from fabric import topology as topologies
from fabric.buckets_kernel import WIDTH
from fabric.histogram import pack
from fabric.histogram_kernel import add
from fabric.operations import Operations

TEXT = """
venues: {N: {}}
feeds:
  nyse: {wire: nyse-pillar, venues: N, lines: ["udp://127.0.0.1:5480"]}
processors:
  nbbo: {run: "nodes.nbbo:main", reads: [quote], publishes: [nbbo]}
"""


def scraped(report: dict[str, Any], links: Any = (), hops: Any = None, **changes: Any) -> dict[str, Any]:
    """What a parser of Prometheus makes of one node: family -> (type, {labels and suffix: value})."""
    operations = Operations(topologies.load_text(TEXT, "t.yaml", {}))
    operations.reported("nbbo", {"report": report, "links": list(links), "hops": hops or {}}, 1)
    node = {
        "name": "nbbo", "role": "processor", "state": "ready", "ready": True, "restarts": 3, "uptime_s": 5.0,
        "cpu_percent": 12.5, "rss_bytes": 1_000, "report_age_s": 0.5, "report": report, "log_lines_dropped": 0,
    }  # fmt: skip
    text = metrics.exposition({"nodes": [node | changes]}, operations)
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "a metric's samples stand together"
    return {
        family.name: (family.type, {(s.name, *sorted(s.labels.items())): s.value for s in family.samples})
        for family in families
    }


def only(found: dict[str, Any], family: str) -> tuple[str, float]:
    kind, samples = found[family]
    (value,) = samples.values()
    return kind, value


def test_a_counter_keeps_its_name_and_a_gauge_has_its_unit() -> None:
    found = scraped({"published": 7, "lag": 2, "lag_ms": 1_500, "bytes_in": 9, "clock_offset_ms": -0.25})
    assert only(found, "fabric_published") == ("counter", 7)
    assert only(found, "fabric_lag_messages") == ("gauge", 2)
    assert only(found, "fabric_lag_seconds") == ("gauge", 1.5)
    assert only(found, "fabric_received_bytes") == ("counter", 9)
    assert only(found, "fabric_clock_offset_seconds") == ("gauge", -0.00025)


def test_what_waits_and_how_large_the_history_is_are_gauges() -> None:
    found = scraped({"waiting": 12, "size_mb": 3, "written": 9})
    assert only(found, "fabric_history_waiting_candles") == ("gauge", 12)
    assert only(found, "fabric_history_size_bytes") == ("gauge", 3 << 20)
    assert only(found, "fabric_written") == ("counter", 9)


def test_markets_that_are_locked_or_crossed_are_gauges() -> None:
    found = scraped({"locked": 12, "locked_long": 2, "crossed_long": 1})
    assert only(found, "fabric_locked_symbols") == ("gauge", 2)
    assert only(found, "fabric_crossed_symbols") == ("gauge", 1)
    assert only(found, "fabric_locked") == ("counter", 12)


def test_a_code_of_the_market_and_a_key_of_somebody_are_no_part_of_a_name() -> None:
    """Sale conditions are printable characters, such as ``@`` and a backslash."""
    kind, samples = scraped({"unknown_condition_cta_@": 2, 'unknown_condition_utp_"': 3})["fabric_unknown_conditions"]
    assert kind == "counter"
    assert sorted((dict(key[1:])["plan"], dict(key[1:])["code"], value) for key, value in samples.items()) == [
        ("cta", "@", 2), ("utp", '"', 3)
    ]  # fmt: skip
    assert only(scraped({"my own key, 99 %": 4}), "fabric_my_own_key__99__") == ("counter", 4)


def test_words_are_no_metrics_but_a_line_is_up_or_not() -> None:
    assert only(scraped({"line": "live", "server": "valkey 9", "replaying": True}), "fabric_line_up") == ("gauge", 1)
    found = scraped({"line": "stale", "server": "valkey 9", "replaying": True})
    assert only(found, "fabric_line_up") == ("gauge", 0)
    assert not {"fabric_server", "fabric_replaying"} & set(found)


def test_a_process_tells_its_state_and_what_it_uses() -> None:
    found = scraped({}, state="failed", ready=False, cpu_percent=None, rss_bytes=None)
    assert only(found, "fabric_node_failed") == ("gauge", 1)
    assert only(found, "fabric_node_ready") == ("gauge", 0)
    assert only(found, "fabric_node_restarts") == ("counter", 3)
    assert "fabric_node_cpu_ratio" not in found
    assert only(scraped({}), "fabric_node_cpu_ratio") == ("gauge", 0.125)


def test_a_hop_is_a_histogram_in_seconds() -> None:
    counts = np.zeros(WIDTH, np.int64)
    for value_ns in (100_000, 400_000_000, 3_000_000_000):
        add(counts, value_ns)
    kind, samples = scraped({}, hops={"processor": pack(counts)})["fabric_hop_latency_seconds"]
    labels = (("hop", "processor"), ("node", "nbbo"), ("role", "processor"))
    below = {
        dict(key[1:])["le"]: value for key, value in samples.items() if key[0] == "fabric_hop_latency_seconds_bucket"
    }
    assert kind == "histogram"
    assert (below["0.0005"], below["0.2"], below["0.5"], below["2"], below["+Inf"]) == (1, 1, 2, 2, 3)
    assert samples["fabric_hop_latency_seconds_count", *labels] == 3
    assert samples["fabric_hop_latency_seconds_sum", *labels] == 3.4001


def test_a_link_is_told_by_its_reader() -> None:
    link = {"publisher": 'ny"s\\e', "up": False, "received": 5, "lag": 3, "lag_ns": 2 * 10**9, "lost": 1, "repaired": 0}
    _, samples = scraped({}, [link])["fabric_link_lag_seconds"]
    assert samples == {("fabric_link_lag_seconds", ("publisher", 'ny"s\\e'), ("reader", "nbbo")): 2.0}


def test_reads_are_one_counter_by_where_they_were_answered() -> None:
    kind, samples = scraped({"reads_memory": 8, "reads_stale": 1})["fabric_reads"]
    assert kind == "counter"
    assert {dict(key[1:])["source"]: value for key, value in samples.items()} == {"memory": 8, "stale": 1}
