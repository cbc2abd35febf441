"""What the nodes of a launcher count, in Prometheus' text format 0.0.4 (prometheus.io, "Exposition formats").

Pure: from the launcher's status and `Operations` to text. Every number that a node reports is a metric with the labels
``node`` and ``role``: a counter ``fabric_<key>_total``, or what `_GAUGES` makes of it. Units are seconds and bytes.
Latencies are histograms over `BOUNDS_S`, folded from the finer ones that nodes keep.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fabric import __version__
from fabric.buckets_kernel import COUNT, EARLY, SUM
from fabric.clock import SECOND_NS
from fabric.histogram import cumulative
from fabric.operations import Operations

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class _Gauge:
    name: str
    help: str
    scale: float = 1.0


_MS: Final = 0.001
_GAUGES: Final = {
    "links": _Gauge("fabric_links", "Publishers that the node reads"),
    "links_up": _Gauge("fabric_links_up", "Publishers that the node reads and hears"),
    "symbols": _Gauge("fabric_symbols", "Symbols that the node knows"),
    "lag": _Gauge("fabric_lag_messages", "Messages that the node has not taken yet, of its slowest link"),
    "lag_ms": _Gauge("fabric_lag_seconds", "How long the next message has been waiting for the node", _MS),
    "position": _Gauge("fabric_position", "Position of the newest message in the publisher's log"),
    "log_first": _Gauge("fabric_log_first_position", "Position of the oldest message that the log still holds"),
    "log_synced": _Gauge("fabric_log_synced_position", "Position up to which the log is on disk"),
    "log_suspended": _Gauge("fabric_log_suspended", "1 while messages go out unlogged"),
    "skew_ms": _Gauge("fabric_clock_ahead_seconds", "How far the exchange's clock is ahead, lately", _MS),
    "clock_offset_ms": _Gauge("fabric_clock_offset_seconds", "Least delay from the exchange in ten minutes", _MS),
    "waiting": _Gauge("fabric_history_waiting_candles", "Closed candles that the store has not taken yet"),
    "size_mb": _Gauge("fabric_history_size_bytes", "What the history's store takes on its disk", 2**20),
    "recovery_missing": _Gauge("fabric_recovery_missing_messages", "Messages that were asked for and have not come"),
    "order_suspended": _Gauge("fabric_order_log_suspended", "1 while the order of what is read goes unlogged"),
    "checkpoint_us": _Gauge("fabric_checkpoint_seconds", "For how long the last checkpoint held the node up", 1e-6),
    "checkpoint_bytes": _Gauge("fabric_checkpoint_bytes", "Size of the last checkpoint"),
    "recovered_ms": _Gauge("fabric_recovered_seconds", "What the node's last way back to where it was took", _MS),
    "orders": _Gauge("fabric_orders", "Orders in the feed's book"),
    "levels": _Gauge("fabric_levels", "Price levels in the feed's book"),
    "locked_long": _Gauge("fabric_locked_symbols", "Symbols locked for more than 5 s, in the regular session"),
    "crossed_long": _Gauge("fabric_crossed_symbols", "Symbols crossed for more than 5 s, in the regular session"),
    "clients": _Gauge("fabric_clients", "WebSocket clients"),
    "clients_max": _Gauge("fabric_clients_max", "WebSocket clients that there may be"),
    "degraded": _Gauge("fabric_degraded", "1 in a surge: clients are served at longer intervals"),
    "keys": _Gauge("fabric_cache_keys", "Keys in the cache"),
    "memory_bytes": _Gauge("fabric_cache_memory_bytes", "Memory that the cache uses"),
    "rate": _Gauge("fabric_exchange_messages_per_second", "What a simulated exchange sends"),
    "late_ms_max": _Gauge("fabric_exchange_late_seconds_max", "How late an exchange was at most", _MS),
    "late_ms_p99": _Gauge("fabric_exchange_late_seconds_p99", "How late an exchange was, 99th percentile", _MS),
}
"""Reported numbers that may go down, or that have a unit to be changed. All others count up."""
_COUNTERS: Final = {
    "bytes_in": ("fabric_received_bytes_total", "Bytes read from the bus"),
    "bytes_out": ("fabric_sent_bytes_total", "Bytes sent"),
    "udp_bytes": ("fabric_udp_received_bytes_total", "Bytes of packets from the exchange"),
    "order_bytes": ("fabric_order_log_written_bytes_total", "Bytes appended to the log of the order of what is read"),
    "log_bytes": ("fabric_log_written_bytes_total", "Bytes appended to the log"),
    "requests": ("fabric_http_requests_total", "HTTP requests answered"),
    "requests_failed": ("fabric_http_requests_failed_total", "HTTP requests answered with 5xx, health checks aside"),
    "lost": ("fabric_lost_messages_total", "Messages that are lost for good"),
}
"""Counters that are called otherwise than their key."""
_UNKNOWN_CONDITION: Final = re.compile(r"unknown_condition_([a-z]+)_(.+)")
_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_]")
"""A key of somebody's own node may hold anything; one wrong name would spoil the whole scrape."""
_LINE: Final = {"live": 1.0, "gap": 1.0, "recover": 1.0, "stale": 0.0, "waiting": 0.0}


@dataclass
class _Family:
    kind: str
    help: str
    values: list[tuple[str, Mapping[str, str], float]] = field(default_factory=list)  # suffix, labels, value


class _Families:
    """All samples of a scrape by metric: those of one name must stand together."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}

    def add(self, name: str, kind: str, text: str, value: float, labels: Mapping[str, str], suffix: str = "") -> None:
        self._families.setdefault(name, _Family(kind, text)).values.append((suffix, labels, value))

    def lines(self) -> Iterator[str]:
        for name, family in sorted(self._families.items()):
            yield f"# HELP {name} {family.help}"
            yield f"# TYPE {name} {family.kind}"
            for suffix, labels, value in family.values:
                shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
                yield f"{name}{suffix}{{{shown}}} {_number(value)}" if shown else f"{name}{suffix} {_number(value)}"


def exposition(status: Mapping[str, Any], operations: Operations) -> str:
    """The metrics of all nodes of a launcher; ``status`` is its own."""
    found = _Families()
    found.add("fabric_build_info", "gauge", "The version that runs", 1, {"version": __version__})
    for node in status["nodes"]:
        labels = {"node": node["name"], "role": node["role"]}
        _process(found, node, labels)
        _reported(found, node["report"], labels)
        for hop, counts in operations.histograms(node["name"]).items():
            _latency(found, counts, {"hop": hop, **labels})
        for publisher, link in operations.links(node["name"]).items():
            _link(found, link, {"publisher": publisher, "reader": node["name"]})
    return "\n".join(found.lines()) + "\n"


def _process(found: _Families, node: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    ready = 1 if node["ready"] else 0
    found.add("fabric_node_ready", "gauge", "1 where the node works", ready, labels)
    found.add("fabric_node_failed", "gauge", "1 where the launcher has given the node up",
              1 if node["state"] == "failed" else 0, labels)  # fmt: skip
    found.add("fabric_node_restarts_total", "counter", "How often the node was started again", node["restarts"], labels)
    for key, name, text, scale in (
        ("uptime_s", "fabric_node_uptime_seconds", "Since the node's last start", 1),
        ("cpu_percent", "fabric_node_cpu_ratio", "Processor time used in the last second, in cores", 0.01),
        ("rss_bytes", "fabric_node_resident_memory_bytes", "Resident memory of the node", 1),
        ("report_age_s", "fabric_node_report_age_seconds", "Since the node's last report", 1),
    ):
        if node[key] is not None:
            found.add(name, "gauge", text, node[key] * scale, labels)
    found.add("fabric_node_log_lines_dropped_total", "counter", "Lines that the node wrote faster than they are kept",
              node["log_lines_dropped"], labels)  # fmt: skip


def _reported(found: _Families, report: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    for key, value in report.items():
        if key == "line" and value in _LINE:
            found.add("fabric_line_up", "gauge", "1 while the exchange's line is heard", _LINE[value], labels)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if key.startswith("lag_") and key not in _GAUGES:  # of one publisher: it stands at the link
            continue
        if key.startswith("reads_"):
            found.add("fabric_reads_total", "counter", "Reads of a known symbol, by where they were answered", value,
                      {"source": key.removeprefix("reads_"), **labels})  # fmt: skip
        elif told := _UNKNOWN_CONDITION.fullmatch(key):
            found.add("fabric_unknown_conditions_total", "counter", "Quotes and trades with a code that no table lists",
                      value, {"plan": told[1], "code": told[2], **labels})  # fmt: skip
        elif gauge := _GAUGES.get(key):
            found.add(gauge.name, "gauge", gauge.help, value * gauge.scale, labels)
        else:
            name, text = _COUNTERS.get(key) or (
                f"fabric_{_NOT_IN_NAMES.sub('_', key)}_total", f"{key.replace('_', ' ').capitalize()}, counted"
            )  # fmt: skip
            found.add(name, "counter", text, value, labels)


def _latency(found: _Families, counts: Any, labels: Mapping[str, str]) -> None:
    name, text = "fabric_hop_latency_seconds", "What messages took for a hop, which ends in this node"
    below = cumulative(counts, [round(bound * SECOND_NS) for bound in BOUNDS_S])
    for bound, count in zip(BOUNDS_S, below, strict=True):
        found.add(name, "histogram", text, count, {**labels, "le": f"{bound:g}"}, "_bucket")
    found.add(name, "histogram", text, int(counts[COUNT]), {**labels, "le": "+Inf"}, "_bucket")
    found.add(name, "histogram", text, int(counts[SUM]) / SECOND_NS, labels, "_sum")
    found.add(name, "histogram", text, int(counts[COUNT]), labels, "_count")
    found.add("fabric_hop_latency_negative_total", "counter", "Latencies below zero, counted as zero",
              int(counts[EARLY]), labels)  # fmt: skip


def _link(found: _Families, link: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    found.add("fabric_link_up", "gauge", "1 while the reader hears the publisher", int(link["up"]), labels)
    found.add("fabric_link_lag_messages", "gauge", "Messages that the reader has not taken yet", link["lag"], labels)
    found.add("fabric_link_lag_seconds", "gauge", "How long the next of them has been waiting",
              link["lag_ns"] / SECOND_NS, labels)  # fmt: skip
    for key in ("received", "lost", "repaired"):
        found.add(f"fabric_link_{key}_messages_total", "counter", f"Messages {key}, by link", link[key], labels)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
