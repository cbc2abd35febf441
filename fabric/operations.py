"""What an operator sees: the topology as a graph with rates, lag and state, latency by hop, and what is not well.

`Operations` is pure: the launcher hands it every report of a node and, once a second, how its nodes are; it keeps the
last minutes and makes of them the document that `fabric top`, the page and `GET /v1/ops` show. `docs/operations.md`
tells each member. What is not known is None, never 0.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from fabric.buckets_kernel import COUNT
from fabric.clock import MILLISECOND_NS, SECOND_NS
from fabric.histogram import HOPS, Counts, Window, quantiles_ns, since, unpack
from fabric.topology import ExchangeSettings, FeedSettings, NodeSpec, Topology

JsonObject = dict[str, Any]

KEPT: Final = 300
"""Points of each series: one a second, five minutes."""
WINDOW_NS: Final = 10 * SECOND_NS
"""What a percentile of now is of."""
RATIO_S: Final = 60
"""What a ratio of now is of."""
SILENT_S: Final = 3.0
"""A node reports each second; one that has not for so long is stuck."""
RATES: Final = ("published", "sent", "messages", "written", "accepted", "received", "frames")
"""The counter that a node's rate is taken from: the first of these that it reports."""
ENDS: Final = {"exchange": ("exchange", "feed in"), "feed": ("feed in", "feed out"),
               "processor": ("feed out", "processor out"), "gateway": ("last publisher out", "client"),
               "total": ("feed in", "client")}  # fmt: skip
"""Where each hop begins and ends."""
_OWN_HOP: Final = {"feed": "feed", "processor": "processor", "gateway": "gateway"}
_TOTALLED: Final = (
    "requests", "requests_failed", "reads_memory", "reads_redis", "reads_history", "reads_stale", "reads_missed",
    "taken", "bad",
)  # fmt: skip
_BAD: Final = ("malformed", "bad_frames")


@dataclass(frozen=True)
class Threshold:
    """A figure that somebody is called for, and from where on."""

    name: str
    title: str
    warn: float
    alarm: float
    unit: str
    worse: str = "above"  # or below

    def health(self, value: float | None) -> str:
        """``ok``, ``warn`` or ``alarm``; ok where nothing was measured."""
        if value is None:
            return "ok"
        sign = 1 if self.worse == "above" else -1
        return "alarm" if sign * (value - self.alarm) > 0 else "warn" if sign * (value - self.warn) > 0 else "ok"


LATENCY: Final = Threshold("latency_p99", "p99 feed to client", 200, 500, "ms")
CACHE: Final = Threshold("cache_hit_ratio", "Cache hit ratio", 95, 90, "%", "below")
LAG: Final = Threshold("lag", "Reader lag", 1_000, 10_000, "messages")
CONNECTIONS: Final = Threshold("connections", "Connections", 60, 80, "%")
ERRORS: Final = Threshold("error_rate", "Errors", 0.1, 1, "%")
THRESHOLDS: Final = (LATENCY, CACHE, LAG, CONNECTIONS, ERRORS)
"""The alert rules in docs/monitoring watch the same figures at the same values."""


@dataclass
class _Reporter:
    """What a node has last reported, beside its counters."""

    at_ns: int
    hops: dict[str, Counts] = field(default_factory=dict)
    links: dict[str, JsonObject] = field(default_factory=dict)  # by publisher
    rates: dict[str, float] = field(default_factory=dict)  # messages a second taken, by publisher
    totals: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Point:
    """One second."""

    t: int
    hops: Mapping[str, Sequence[float]]  # p50, p99, p99.9 in ms
    nodes: Mapping[str, tuple[float | None, int | None]]  # rate, lag
    connections: int
    totals: Mapping[str, int]


class Operations:
    """The last minutes of a topology. Times are of the monotonic clock but where they are called UTC."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._local = {node.name: node.role for node in topology.local_nodes()}
        self._reporters: dict[str, _Reporter] = {}
        self._window = Window(WINDOW_NS)  # by (hop, node)
        self._second: dict[str, Counts] = {}  # by hop, since the last tick
        self._totals: Counter[str] = Counter()
        self._points: deque[_Point] = deque(maxlen=KEPT)

    # -- in

    def reported(self, name: str, message: Mapping[str, Any], now_ns: int) -> None:
        """A node has reported: its counters, histograms (`histogram.pack`) and links (`Inbox.links`)."""
        before = self._reporters.get(name) or _Reporter(0)
        hops, links = message.get("hops", {}), message.get("links", [])
        now = _Reporter(now_ns, {hop: unpack(packed) for hop, packed in hops.items() if hop in HOPS})
        for hop, counts in now.hops.items():
            fresh = since(counts, before.hops.get(hop))
            if fresh[COUNT]:
                self._window.add((hop, name), fresh, now_ns)
                self._second[hop] = self._second[hop] + fresh if hop in self._second else fresh
        now.links = {link["publisher"]: link for link in links}
        if before.at_ns:
            now.rates = _rates(before, now)
        now.totals = _totalled(message.get("report", {}), self._local[name])
        for key, value in now.totals.items():
            grown = value - before.totals.get(key, 0)
            self._totals[key] += grown if grown >= 0 else value
        self._reporters[name] = now

    def ended(self, name: str) -> None:
        """A node's process has ended: how its links are is not known, and its counters begin anew."""
        self._reporters.pop(name, None)

    def tick(self, nodes: Iterable[JsonObject], wall_s: int) -> None:
        """A second is over; ``nodes`` as the launcher's status has them, ``wall_s`` in seconds UTC."""
        self._points.append(
            _Point(
                wall_s,
                {hop: _ms(quantiles_ns(counts, (0.5, 0.99, 0.999))) or () for hop, counts in self._second.items()},
                {node["name"]: (main_rate(node)[0], _lag(self._reporters.get(node["name"]))[0]) for node in nodes},
                sum(node["report"].get("clients", 0) for node in nodes if node["ready"]),
                dict(self._totals),
            )
        )
        self._second = {}

    def histograms(self, name: str) -> Mapping[str, Counts]:
        """By hop what a node has counted since its start."""
        reporter = self._reporters.get(name)
        return reporter.hops if reporter else {}

    def books(self, name: str) -> list[JsonObject]:
        """The books of a node's links, of those that have some, each with its publisher (`Inbox.links`)."""
        found = self.links(name).values()
        return [{"publisher": link["publisher"], **link["books"]} for link in found if link.get("books")]

    def links(self, name: str) -> Mapping[str, JsonObject]:
        """By publisher how the links of a node are (`Inbox.links`)."""
        reporter = self._reporters.get(name)
        return reporter.links if reporter else {}

    # -- out

    def document(
        self, status: JsonObject, uptime_s: float, wall_ns: int, now_ns: int, from_s: float | None
    ) -> JsonObject:
        """All of it; ``status`` is the launcher's. ``from_s``: series later than that (None: without series)."""
        found = {node["name"]: node for node in status["nodes"]}
        latency = self._window.totals(now_ns)
        merged = {hop: total for hop in HOPS if (total := _sum(latency, hop)) is not None}
        nodes = [self._node(spec, found.get(spec.name), latency) for spec in self._topology.nodes]
        gateways = [node["report"] for node in found.values() if node["role"] == "gateway" and node["ready"]]
        open_, most = (sum(report.get(key, 0) for report in gateways) for key in ("clients", "clients_max"))
        ratios = _ratios(self._totals, self._minute_ago())
        values = {
            "latency_p99": _quantile_ms(merged.get("total"), 0.99),
            "cache_hit_ratio": ratios[0],
            "lag": max((node["lag"] for node in nodes if node["lag"] is not None), default=None),
            "connections": round(100 * open_ / most, 3) if most else None,
            "error_rate": ratios[1],
        }
        return {
            "v": 1,
            "t": wall_ns / SECOND_NS,
            "state": status["state"],
            "host": list(self._topology.here),
            "uptime_s": uptime_s,
            "nodes": nodes,
            "links": [*self._bus_links(found), *self._lines(found), *self._cache_links(found)],
            "hops": [_hop(hop, merged.get(hop)) for hop in HOPS],
            "thresholds": [_threshold(threshold, values[threshold.name]) for threshold in THRESHOLDS],
            "connections": {
                "open": open_,
                "max": most,
                "refused": sum(report.get("clients_refused", 0) for report in gateways),
                "cut": sum(report.get("clients_cut", 0) for report in gateways),
            },
            "cache": {key: self._totals[f"reads_{key}"] for key in ("memory", "redis", "history", "stale", "missed")},
            "errors": {
                "http_requests": self._totals["requests"],
                "http_errors": self._totals["requests_failed"],
                "messages": self._totals["taken"],
                "messages_bad": self._totals["bad"],
            },
            "series": None if from_s is None else self._series(from_s),
        }

    def _node(self, spec: NodeSpec, node: JsonObject | None, latency: Mapping[Any, Counts]) -> JsonObject:
        hop = _OWN_HOP.get(spec.role)
        known: JsonObject = {
            "name": spec.name,
            "role": spec.role,
            "host": spec.host,
            "state": "remote",
            "health": "ok",
            "why": "",
            **dict.fromkeys(
                ("pid", "uptime_s", "restarts", "cpu_percent", "rss_bytes", "rate", "rate_of", "lag", "lag_ms", "line",
                 "breaker", "clock_offset_ms", "latency", "lost", "gaps", "bad")
            ),
            "letters": spec.publishes.letters if spec.publishes else "",
            "venues": spec.publishes.venues if spec.publishes else "",
            "hop": hop,
        }  # fmt: skip
        if node is None:
            return known
        report, reporter = node["report"], self._reporters.get(spec.name)
        rate, rate_of = main_rate(node)
        lag, lag_ms = _lag(reporter)
        taken = _percentiles(latency.get((hop, spec.name))) if hop else None
        health, why = _node_health(node, lag, reporter, taken)
        return known | {
            **{key: node[key] for key in ("state", "pid", "uptime_s", "restarts", "cpu_percent", "rss_bytes")},
            "health": health,
            "why": why,
            "rate": rate,
            "rate_of": rate_of,
            "lag": lag,
            "lag_ms": lag_ms,
            **{key: report.get(key) for key in ("line", "breaker", "clock_offset_ms", "lost", "gaps")},
            "bad": _bad(report),
            "latency": taken,
        }

    def _bus_links(self, found: Mapping[str, JsonObject]) -> Iterable[JsonObject]:
        for spec in self._topology.nodes:
            reporter = self._reporters.get(spec.name)
            for source in spec.reads:
                name = source.publisher.name
                link = reporter.links.get(name) if reporter else None
                told = _link(name, spec.name, "bus")
                if reporter and link:
                    told |= {key: link[key] for key in ("up", "lag", "lost", "repaired")}
                    told["lag_ms"] = link["lag_ns"] // MILLISECOND_NS
                    told["rate"] = reporter.rates.get(name)
                    told["health"] = "ok" if link["up"] else "alarm"
                    told["health"] = _worse(told["health"], LAG.health(link["lag"]))
                yield told

    def _lines(self, found: Mapping[str, JsonObject]) -> Iterable[JsonObject]:
        """From exchange to feed: packets."""
        for exchange in self._topology.nodes:
            for feed in self._topology.nodes:
                match exchange.settings, feed.settings:
                    case ExchangeSettings(lines=sent), FeedSettings(lines=heard) if set(sent) & set(heard):
                        told = _link(exchange.name, feed.name, "line")
                        node = found.get(feed.name)
                        if node and node["ready"]:
                            line = node["report"].get("line")
                            told |= {"up": None if line is None else line not in ("stale", "waiting")}
                            told |= {"lost": node["report"].get("lost"), "health": _LINE_HEALTH.get(line, "ok")}
                        if exchange.name in found:
                            told["rate"] = main_rate(found[exchange.name])[0]
                        yield told

    def _cache_links(self, found: Mapping[str, JsonObject]) -> Iterable[JsonObject]:
        """From the writer to the servers that it writes to, where one of them is a node here."""
        caches = [spec.name for spec in self._topology.nodes if spec.role == "cache"]
        for spec in self._topology.nodes:
            if spec.role == "writer" and caches:
                told = _link(spec.name, caches[0], "cache")
                node = found.get(spec.name)
                if node and node["ready"] and "breaker" in node["report"]:
                    told["up"] = node["report"]["breaker"] == "closed"
                    told["health"] = "ok" if told["up"] else "alarm"
                    told["rate"] = node["rates"].get("written")
                yield told

    def _series(self, from_s: float) -> JsonObject:
        points = [point for point in self._points if point.t > from_s]
        names = [spec.name for spec in self._topology.nodes if spec.name in self._local]
        ratios = [_ratios(after.totals, before) for before, after in self._minutes(len(points))]
        return {
            "t": [point.t for point in points],
            "hops": {
                hop: {
                    key: [point.hops[hop][i] if point.hops.get(hop) else None for point in points]
                    for i, key in enumerate(("p50_ms", "p99_ms", "p999_ms"))
                }
                for hop in HOPS
            },
            "nodes": {
                name: {
                    "rate": [point.nodes.get(name, (None, None))[0] for point in points],
                    "lag": [point.nodes.get(name, (None, None))[1] for point in points],
                }
                for name in names
            },
            "connections": [point.connections for point in points],
            "cache_hit_percent": [hit for hit, _ in ratios],
            "error_percent": [errors for _, errors in ratios],
        }

    def _minute_ago(self) -> Mapping[str, int]:
        return self._points[-RATIO_S].totals if len(self._points) >= RATIO_S else {}

    def _minutes(self, count: int) -> Iterable[tuple[Mapping[str, int], _Point]]:
        """The last ``count`` points, each after the totals of a minute before it."""
        points = list(self._points)
        for i in range(len(points) - count, len(points)):
            yield points[i - RATIO_S].totals if i >= RATIO_S else {}, points[i]


_LINE_HEALTH: Final = {"stale": "alarm", "gap": "warn", "recover": "warn", "waiting": "warn"}
_STATE_HEALTH: Final = {"failed": "alarm", "back-off": "alarm", "stopped": "warn", "ready": "ok"}
_WORSE: Final = ("ok", "warn", "alarm")


def main_rate(node: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """A node's own rate a second and the counter behind it; ``node`` as the launcher's status has it."""
    if "rate" in node["report"]:
        return node["report"]["rate"], "rate"
    return next(((node["rates"][name], name) for name in RATES if name in node["rates"]), (None, None))


def _rates(before: _Reporter, now: _Reporter) -> dict[str, float]:
    elapsed_s = (now.at_ns - before.at_ns) / SECOND_NS
    return {
        name: round(max(0, link["received"] - before.links[name]["received"]) / elapsed_s, 1)
        for name, link in now.links.items()
        if name in before.links and elapsed_s > 0
    }


def _totalled(report: Mapping[str, Any], role: str) -> dict[str, int]:
    """The counters that ratios are made of; ``taken``: messages read, from the bus or from an exchange."""
    found = {key: report.get(key, 0) for key in _TOTALLED}
    taken = report.get("received", 0) + (report.get("messages", 0) if role == "feed" else 0)
    return found | {"bad": _bad(report), "taken": taken}


def _bad(report: Mapping[str, Any]) -> int:
    return sum(report.get(key, 0) for key in _BAD)


def _lag(reporter: _Reporter | None) -> tuple[int | None, int | None]:
    """The worst of a node's links: messages, and milliseconds."""
    if reporter is None or not reporter.links:
        return None, None
    links = reporter.links.values()
    return max(link["lag"] for link in links), max(link["lag_ns"] for link in links) // MILLISECOND_NS


def _node_health(
    node: Mapping[str, Any], lag: int | None, reporter: _Reporter | None, latency: Mapping[str, float] | None
) -> tuple[str, str]:
    """How a node is, and what is the matter with it; ``latency`` of the hop that it ends."""
    state, report = node["state"], node["report"]
    reasons = [(_STATE_HEALTH.get(state, "warn"), f"it is {state}")]
    if state == "ready":
        age_s = node["report_age_s"]
        if age_s is not None and age_s > SILENT_S:
            reasons.append(("alarm", f"it has not reported for {age_s:.0f} s"))
        line = report.get("line")
        if line in _LINE_HEALTH:
            why = report.get("breaker_reason")
            reasons.append((_LINE_HEALTH[line], f"its line is {line}{f' ({why})' if why else ''}"))
        if lag is not None:
            reasons.append((LAG.health(lag), f"{lag:,} messages behind"))
        down = [name for name, link in reporter.links.items() if not link["up"]] if reporter else []
        if down:
            reasons.append(("alarm", f"does not hear {', '.join(down)}"))
        if latency is not None and LATENCY.health(latency["p99_ms"]) == "alarm":
            reasons.append(("alarm", f"its p99 is {latency['p99_ms']:,.0f} ms"))
        if node["role"] == "writer" and report.get("breaker", "closed") != "closed":
            reasons.append(("alarm", f"the store's breaker is {report['breaker']}"))
        if report.get("log_suspended"):
            reasons.append(("alarm", "its log is suspended"))
        if report.get("degraded"):
            reasons.append(("warn", "a surge: clients are served at longer intervals"))
    health = max((health for health, _ in reasons), key=_WORSE.index)
    return health, "; ".join(why for found, why in reasons if found != "ok")


def _worse(one: str, other: str) -> str:
    return max(one, other, key=_WORSE.index)


def _link(publisher: str, reader: str, kind: str) -> JsonObject:
    unknown = dict.fromkeys(("up", "rate", "lag", "lag_ms", "lost", "repaired"))
    return {"from": publisher, "to": reader, "kind": kind, **unknown, "health": "ok"}


def _sum(latency: Mapping[Any, Counts], hop: str) -> Counts | None:
    parts = [counts for (name, _), counts in latency.items() if name == hop]
    return np.sum(parts, axis=0) if parts else None


def _ms(values_ns: Sequence[int] | None) -> list[float] | None:
    return None if values_ns is None else [round(value / MILLISECOND_NS, 3) for value in values_ns]


def _quantile_ms(counts: Counts | None, share: float) -> float | None:
    found = None if counts is None else _ms(quantiles_ns(counts, (share,)))
    return found[0] if found else None


def _percentiles(counts: Counts | None) -> JsonObject | None:
    """The percentiles that are shown; the greatest is the bound of the last bucket that is used."""
    found = None if counts is None else _ms(quantiles_ns(counts, (0.5, 0.9, 0.99, 0.999, 1)))
    if counts is None or found is None:
        return None
    named = zip(("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms"), found, strict=True)
    return {"count": int(counts[COUNT]), **dict(named)}


def _hop(hop: str, counts: Counts | None) -> JsonObject:
    found = _percentiles(counts) or {
        "count": 0, **dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")),
    }  # fmt: skip
    start, end = ENDS[hop]
    return {"name": hop, "from": start, "to": end, **found, "health": LATENCY.health(found["p99_ms"])}


def _threshold(threshold: Threshold, value: float | None) -> JsonObject:
    return {
        "name": threshold.name,
        "title": threshold.title,
        "value": value,
        "warn": threshold.warn,
        "alarm": threshold.alarm,
        "unit": threshold.unit,
        "worse": threshold.worse,
        "health": threshold.health(value),
    }


def _ratios(now: Mapping[str, int], before: Mapping[str, int]) -> tuple[float | None, float | None]:
    """Between two totals: reads answered fresh from memory or the cache, and what went wrong, both in per cent.

    The second is the worse of two: answers that failed of all answers, and unreadable messages of all messages.
    """

    def grown(*keys: str) -> int:
        return sum(now.get(key, 0) - before.get(key, 0) for key in keys)

    reads = grown("reads_memory", "reads_redis", "reads_history", "reads_stale", "reads_missed")
    hits = round(100 * grown("reads_memory", "reads_redis") / reads, 3) if reads else None
    shares = [
        100 * grown(wrong) / total
        for wrong, total in (("requests_failed", grown("requests")), ("bad", grown("taken", "bad")))
        if total
    ]
    return hits, round(max(shares), 4) if shares else None
