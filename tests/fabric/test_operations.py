from dataclasses import replace
from typing import Any

import pytest

from fabric import topology as topologies
from fabric.clock import SECOND_NS
from fabric.histogram import HOPS
from fabric.histogram_kernel import add
from fabric.latency import Latency
from fabric.operations import CACHE, KEPT, LAG, THRESHOLDS, Operations, main_rate

MS = 1_000_000
TEXT = """
venues: {N: {}, Q: {}}
exchanges:
  exchange: {to: [nyse], rate: 10}
feeds:
  nyse: {wire: nyse-pillar, venues: N, lines: ["udp://127.0.0.1:5480"]}
  nasdaq: {wire: nasdaq-itch-5.0, venues: Q, lines: ["udp://127.0.0.1:5484"], host: far}
processors:
  nbbo: {run: "nodes.nbbo:main", reads: [quote], publishes: [nbbo]}
gateways:
  web: {reads: [nbbo]}
"""
HOSTS = """hosts:
  near: {address: 127.0.0.1}
  far: {address: 127.0.0.2, bind: 127.0.0.2}
"""


class Rig:
    """The operators' document of a small topology, fed by hand."""

    def __init__(self) -> None:
        self.operations = Operations(topologies.load_text(TEXT.replace(", host: far", ""), "t.yaml", {}))
        self.now_ns = SECOND_NS
        self.nodes: dict[str, dict[str, Any]] = {}
        for name, role in (("nyse", "feed"), ("nasdaq", "feed"), ("nbbo", "processor"), ("web", "gateway")):
            self.node(name, role)

    def node(self, name: str, role: str = "", **changes: Any) -> None:
        fresh = {
            "name": name, "role": role, "state": "ready", "ready": True, "pid": 1, "uptime_s": 5.0, "restarts": 0,
            "cpu_percent": 1.0, "rss_bytes": 1, "report_age_s": 0.5, "report": {}, "rates": {}, "log_lines_dropped": 0,
        }  # fmt: skip
        self.nodes[name] = self.nodes.get(name, fresh) | changes

    def report(self, node: str, links: Any = (), hops: Any = None, **report: Any) -> None:
        self.nodes[node]["report"] = report
        self.operations.reported(node, {"report": report, "links": list(links), "hops": hops or {}}, self.now_ns)

    def second(self) -> None:
        self.operations.tick(self.nodes.values(), self.now_ns // SECOND_NS)
        self.now_ns += SECOND_NS

    def document(self, from_s: float | None = 0.0) -> dict[str, Any]:
        status = {"state": "ready", "nodes": list(self.nodes.values())}
        return self.operations.document(status, 1.0, self.now_ns, self.now_ns, from_s)

    def shown(self, name: str) -> dict[str, Any]:
        return next(node for node in self.document()["nodes"] if node["name"] == name)

    def threshold(self, name: str) -> tuple[float | None, str]:
        found = next(threshold for threshold in self.document()["thresholds"] if threshold["name"] == name)
        return found["value"], found["health"]


def link(publisher: str, **values: Any) -> dict[str, Any]:
    return {"publisher": publisher, "up": True, "received": 0, "lag": 0, "lag_ns": 0, "lost": 0, "repaired": 0} | values


class Counting:
    """A process that counts latencies."""

    def __init__(self) -> None:
        self.latency = Latency()

    def packed(self, **values_ms: list[float]) -> dict[str, list[int]]:
        for hop, values in values_ms.items():
            for value in values:
                add(self.latency.counts[HOPS.index(hop)], round(value * MS))
        return self.latency.packed()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_hop_is_merged_over_the_processes_that_end_it(rig: Rig) -> None:
    rig.report("nyse", hops=Counting().packed(feed=[1] * 90))
    rig.report("nasdaq", hops=Counting().packed(feed=[40] * 10))
    hop = {hop["name"]: hop for hop in rig.document()["hops"]}["feed"]
    assert (hop["count"], hop["from"], hop["to"]) == (100, "feed in", "feed out")
    assert hop["p50_ms"] == pytest.approx(1, rel=0.04)
    assert hop["p99_ms"] == pytest.approx(40, rel=0.04)
    assert rig.shown("nasdaq")["latency"]["p50_ms"] == pytest.approx(40, rel=0.04)


def test_only_what_was_counted_lately_is_shown(rig: Rig) -> None:
    process = Counting()
    rig.report("nbbo", hops=process.packed(processor=[900] * 50))
    for _ in range(12):
        rig.second()
        rig.report("nbbo", hops=process.packed(processor=[2]))
    hop = {hop["name"]: hop for hop in rig.document()["hops"]}["processor"]
    assert (hop["count"], hop["health"]) == (10, "ok")
    assert hop["max_ms"] == pytest.approx(2, rel=0.04)


def test_the_slow_hop_is_the_only_one_that_is_not_well(rig: Rig) -> None:
    rig.report("nyse", hops=Counting().packed(exchange=[1] * 9, feed=[1] * 9))
    rig.report("nbbo", hops=Counting().packed(processor=[250] * 9))
    rig.report("web", hops=Counting().packed(gateway=[10] * 9, total=[600] * 9))
    health = {hop["name"]: hop["health"] for hop in rig.document()["hops"]}
    assert health == {"exchange": "ok", "feed": "ok", "processor": "warn", "gateway": "ok", "total": "alarm"}
    assert rig.threshold("latency_p99")[1] == "alarm"


def test_the_node_that_is_slow_says_so_and_no_other(rig: Rig) -> None:
    rig.report("nyse", hops=Counting().packed(feed=[1] * 9))
    rig.report("nbbo", hops=Counting().packed(processor=[1_000] * 9))
    assert (rig.shown("nyse")["health"], rig.shown("nyse")["why"]) == ("ok", "")
    assert rig.shown("nbbo")["health"] == "alarm"
    assert "p99 is 1,0" in rig.shown("nbbo")["why"]


def test_what_is_not_measured_is_none_and_not_zero(rig: Rig) -> None:
    document = rig.document()
    assert {hop["p99_ms"] for hop in document["hops"]} == {None}
    assert {(threshold["value"], threshold["health"]) for threshold in document["thresholds"]} == {(None, "ok")}
    assert {(found["up"], found["rate"]) for found in document["links"]} == {(None, None)}


def test_the_lag_of_a_reader_is_that_of_its_slowest_link(rig: Rig) -> None:
    rig.report("nbbo", [link("nyse", lag=5, lag_ns=7 * MS), link("nasdaq", lag=10_001, lag_ns=3 * MS)])
    assert (rig.shown("nbbo")["lag"], rig.shown("nbbo")["lag_ms"]) == (10_001, 7)
    assert rig.shown("nbbo")["health"] == "alarm"
    assert rig.shown("nbbo")["why"] == "10,001 messages behind"
    assert rig.threshold("lag") == (10_001, "alarm")
    health = {(found["from"], found["to"]): found["health"] for found in rig.document()["links"]}
    assert (health["nasdaq", "nbbo"], health["nyse", "nbbo"]) == ("alarm", "ok")


@pytest.mark.parametrize(
    ("change", "health", "why"),
    [
        ({"state": "failed", "ready": False}, "alarm", "it is failed"),
        ({"state": "back-off", "ready": False}, "alarm", "it is back-off"),
        ({"state": "starting", "ready": False}, "warn", "it is starting"),
        ({"report_age_s": 4.2}, "alarm", "it has not reported for 4 s"),
        ({"report": {"line": "stale", "breaker_reason": "silence"}}, "alarm", "its line is stale (silence)"),
        ({"report": {"line": "gap"}}, "warn", "its line is gap"),
        ({"report": {"log_suspended": 1}}, "alarm", "its log is suspended"),
        ({"report": {"line": "live"}}, "ok", ""),
    ],
)
def test_a_node_says_what_is_the_matter_with_it(rig: Rig, change: Any, health: str, why: str) -> None:
    rig.node("nyse", **change)
    assert (rig.shown("nyse")["health"], rig.shown("nyse")["why"]) == (health, why)


def test_a_link_that_is_down_is_told_by_its_reader(rig: Rig) -> None:
    rig.report("nbbo", [link("nyse", up=False), link("nasdaq")])
    assert rig.shown("nbbo")["why"] == "does not hear nyse"
    rig.operations.ended("nbbo")
    assert {found["up"] for found in rig.document()["links"] if found["to"] == "nbbo"} == {None}


def test_rates_of_links_are_those_between_two_reports(rig: Rig) -> None:
    rig.report("nbbo", [link("nyse", received=100)])
    rig.second()
    rig.report("nbbo", [link("nyse", received=350)])
    assert {found["from"]: found["rate"] for found in rig.document()["links"] if found["to"] == "nbbo"}["nyse"] == 250


class TestRatios:
    def test_hits_are_what_memory_and_redis_answered_fresh(self, rig: Rig) -> None:
        rig.report("web", reads_memory=80, reads_redis=8, reads_history=3, reads_stale=5, reads_missed=4)
        assert rig.threshold("cache_hit_ratio") == (88.0, "alarm")
        assert rig.document()["cache"] == {"memory": 80, "redis": 8, "history": 3, "stale": 5, "missed": 4}

    def test_they_are_of_the_last_minute(self, rig: Rig) -> None:
        rig.report("web", reads_memory=0, reads_missed=1_000)
        for second in range(61):
            rig.report("web", reads_memory=10 * second, reads_missed=1_000)
            rig.second()
        assert rig.threshold("cache_hit_ratio") == (100.0, "ok")

    def test_a_node_that_starts_anew_takes_nothing_away(self, rig: Rig) -> None:
        rig.report("web", requests=100, requests_failed=0)
        rig.operations.ended("web")
        rig.report("web", requests=100, requests_failed=10)
        assert rig.document()["errors"]["http_requests"] == 200
        assert rig.threshold("error_rate") == (5.0, "alarm")

    def test_errors_are_the_worse_of_answers_and_messages(self, rig: Rig) -> None:
        rig.report("web", requests=1_000, requests_failed=1, received=0)
        rig.report("nyse", messages=990, malformed=10)
        rig.report("nbbo", received=1_000, bad_frames=0)
        assert rig.threshold("error_rate") == (0.5, "warn")

    def test_connections_are_those_of_all_gateways(self, rig: Rig) -> None:
        rig.report("web", clients=81, clients_max=100, clients_refused=2, clients_cut=1)
        assert rig.threshold("connections") == (81.0, "alarm")
        assert rig.document()["connections"] == {"open": 81, "max": 100, "refused": 2, "cut": 1}


class TestSeries:
    def test_a_second_is_a_point_and_only_so_many_are_kept(self, rig: Rig) -> None:
        for _ in range(KEPT + 20):
            rig.second()
        series = rig.document()["series"]
        assert series["t"] == list(range(21, KEPT + 21))
        assert len(series["hops"]["feed"]["p99_ms"]) == len(series["nodes"]["web"]["rate"]) == KEPT

    def test_all_columns_are_of_the_points_asked_for(self, rig: Rig) -> None:
        process = Counting()
        for second in range(1, 6):
            rig.report("nbbo", [link("nyse", lag=second)], process.packed(processor=[second] if second != 3 else []))
            rig.second()
        series = rig.document(from_s=2)["series"]
        assert series["t"] == [3, 4, 5]
        assert series["hops"]["processor"]["p50_ms"] == [None, pytest.approx(4, rel=0.04), pytest.approx(5, rel=0.04)]
        assert series["nodes"]["nbbo"]["lag"] == [3, 4, 5]
        assert rig.document(from_s=None)["series"] is None


def test_a_node_of_another_machine_is_remote_and_nothing_is_known_of_it() -> None:
    topology = topologies.load_text(TEXT + HOSTS, "t.yaml", {})
    here = Operations(replace(topology, here=("near",)))
    document = here.document({"state": "ready", "nodes": []}, 1.0, 0, 0, 0.0)
    far = next(node for node in document["nodes"] if node["name"] == "nasdaq")
    assert (far["state"], far["health"], far["rate"], far["pid"]) == ("remote", "ok", None, None)


def test_a_rate_is_of_the_first_counter_that_there_is() -> None:
    assert main_rate({"report": {"rate": 7}, "rates": {"published": 1.0}}) == (7, "rate")
    assert main_rate({"report": {}, "rates": {"received": 2.0, "published": 1.0}}) == (1.0, "published")
    assert main_rate({"report": {}, "rates": {}}) == (None, None)


def test_a_threshold_is_beyond_and_not_at() -> None:
    assert [LAG.health(value) for value in (None, 1_000, 1_001, 10_000, 10_001)] == [
        "ok",
        "ok",
        "warn",
        "warn",
        "alarm",
    ]
    assert [CACHE.health(value) for value in (95, 94.9, 90, 89.9)] == ["ok", "warn", "warn", "alarm"]
    assert [threshold.alarm for threshold in THRESHOLDS] == [500, 90, 10_000, 80, 1]


def test_a_histogram_that_is_none_is_refused_by_its_reader() -> None:
    with pytest.raises(ValueError, match="packed histogram"):
        Rig().report("nbbo", hops={"processor": [1]})
