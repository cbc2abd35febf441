"""Is the gateway alive, may clients be sent to it, and its counters for Prometheus.

`Health` is pure: the loop tells it what happened and when, and it judges. Alive means that the loop turns.
Ready means that the first values are in and that it is not draining. A lost link or store makes a gateway
that was ready ``degraded``, not unready: otherwise one fault upstream would take every gateway out of its
balancer at once, while each could still answer, truthfully, with values marked as stale.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from fabric import __version__
from fabric.clock import MILLISECOND_NS, SECOND_NS
from gateway.rest import Handler, JsonObject, Service

TURN_MAX_NS = 5 * SECOND_NS
"""A loop that has not turned for so long is dead."""
FIRST_VALUES_WAIT_NS = 3 * SECOND_NS
"""So long a gateway waits for links that do not come up before it serves without them."""


class Health:
    """Judges from what the loop reports. All times are of the monotonic clock."""

    def __init__(self, links: Sequence[str], started_ns: int) -> None:
        """``links``: the names of the publishers that are read."""
        self.ready = False
        self.draining = False
        self._links = dict.fromkeys(links, False)
        self._suspended: Sequence[str] = ()
        self._started_ns = started_ns
        self._turned_ns = started_ns

    def turned(
        self, now_ns: int, links: Sequence[bool | None], first_values: bool, suspended: Sequence[str] = ()
    ) -> None:
        """The loop has turned: which links are up, whether each has brought its last values, and the publishers whose
        log is ``suspended``.
        """
        self._turned_ns = now_ns
        self._suspended = suspended
        self._links = dict(zip(self._links, (up is True for up in links), strict=True))
        if not self.ready:
            self.ready = first_values or now_ns - self._started_ns >= FIRST_VALUES_WAIT_NS

    def live(self, now_ns: int) -> JsonObject:
        """``status`` ok or dead, and the check behind it."""
        idle_ms = (now_ns - self._turned_ns) // MILLISECOND_NS
        alive = now_ns - self._turned_ns < TURN_MAX_NS
        return _report("ok" if alive else "dead", {"loop": ("ok" if alive else "stopped", f"turned {idle_ms} ms ago")})

    def readiness(self, now_ns: int, store: str) -> JsonObject:
        """``status`` ok, degraded or unready, and every check. ``store``: ok, off, or what is wrong with it."""
        live = self.live(now_ns)
        checks = {"loop": (live["checks"]["loop"]["status"], live["checks"]["loop"]["detail"])}
        checks["draining"] = ("yes", "stopping") if self.draining else ("no", "")
        checks["first_values"] = ("ok", "") if self.ready else ("waiting", "not every link is up with its last values")
        for name, up in self._links.items():
            checks[f"link {name}"] = ("ok", "") if up else ("down", "its values are marked as stale")
        for name in self._suspended:
            checks[f"log {name}"] = ("suspended", "its messages go out unlogged")
        checks["store"] = ("ok", "") if store in ("ok", "off") else ("failing", store)
        if live["status"] != "ok" or self.draining or not self.ready:
            return _report("unready", checks)
        whole = all(self._links.values()) and checks["store"][0] == "ok" and not self._suspended
        return _report("ok" if whole else "degraded", checks)


def _report(status: str, checks: Mapping[str, tuple[str, str]]) -> JsonObject:
    return {
        "status": status,
        "checks": {name: {"status": state, "detail": detail} for name, (state, detail) in checks.items()},
    }


# Metrics.

Counters = Callable[[], Mapping[str, int]]


GAUGES = frozenset(
    (
        "inbox_links",
        "inbox_links_up",
        "inbox_symbols",
        "latest_quoted",
        "fanout_clients",
        "fanout_entries",
        "access_keys",
        "candles_followers",
        "delayed_waiting",
        "delayed_clients",
        "fanout_degraded",
        "fanout_pending",
        "resume_waiting",
    )
)
"""The counters that may go down, as ``<part>_<name>``."""
UNITS = {
    "inbox_bytes_in": ("inbox_received_bytes", 1.0, True),
    "inbox_lag": ("inbox_lag_messages", 1.0, False),
    "inbox_lag_ms": ("inbox_lag_seconds", 1e-3, False),
    "fanout_bytes": ("fanout_sent_bytes", 1.0, True),
    "fanout_late_ns_max": ("fanout_late_max_seconds", 1e-9, False),
}
"""Those with a unit: their names as Prometheus has them, with base units at their ends, the factor to that unit, and
whether they count up.
"""
_EACH_LINK = re.compile(r"inbox_lag_(ms_)?(.+)")


class Counted(Collector):
    """Plain integers as they are when a scrape comes: the hot path never meets a metrics library."""

    def __init__(self, parts: Mapping[str, Counters], labelled: Mapping[tuple[str, str], Counters]) -> None:
        """``parts``: part of the program -> its counters; ``labelled``: (counter, label) -> its count by label."""
        self._parts = parts
        self._labelled = labelled

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("fabric_build", "The version that runs", value={"version": __version__})
        waiting = GaugeMetricFamily(
            "fabric_link_lag_messages", "Messages of a publisher that were not taken yet", labels=("publisher",)
        )
        waited = GaugeMetricFamily(
            "fabric_link_lag_seconds", "How long the next message of a publisher has waited", labels=("publisher",)
        )
        for part, counters in self._parts.items():
            for name, value in counters().items():
                whole = f"{part}_{name}"
                if whole not in UNITS and (found := _EACH_LINK.fullmatch(whole)):
                    family = waited if found[1] else waiting
                    family.add_metric((found[2],), value * (1e-3 if found[1] else 1.0))
                else:
                    yield _metric(part, name, value)
        yield from (waiting, waited)
        for (name, label), counters in self._labelled.items():
            counts = CounterMetricFamily(f"fabric_{name}", f"{name.replace('_', ' ')} by {label}", labels=(label,))
            for labelled_as, count in sorted(counters().items()):
                counts.add_metric((labelled_as,), count)
            yield counts


def _metric(part: str, name: str, value: float) -> Metric:
    """A counter as Prometheus' conventions have it: ``_total`` where it only grows, base units."""
    whole = f"{part}_{name}"
    text = f"{part}: {name.replace('_', ' ')}"
    shown, scale, grows = UNITS.get(whole, (whole, 1.0, whole not in GAUGES))
    if grows:
        return CounterMetricFamily(f"fabric_{shown}", text, value=value * scale)
    return GaugeMetricFamily(f"fabric_{shown}", text, value=value * scale)


def registry(parts: Mapping[str, Counters], labelled: Mapping[tuple[str, str], Counters]) -> CollectorRegistry:
    """This process's own registry: the parts' counters, and its memory, processor time and descriptors."""
    made = CollectorRegistry()
    made.register(Counted(parts, labelled))
    ProcessCollector(registry=made)
    return made


# HTTP.


class HealthHandler(Handler):
    """``GET /livez``, ``/readyz`` and its alias ``/healthz``: 200 or 503; with ``?verbose`` every check."""

    def initialize(self, service: Service, judge: Callable[[], JsonObject]) -> None:  # type: ignore[override]
        super().initialize(service)
        self._judge = judge

    def get(self) -> None:
        report = self._judge()
        self.set_status(200 if report["status"] in ("ok", "degraded") else 503)
        self.answer(report if "verbose" in self.request.query_arguments else {"status": report["status"]})


class MetricsHandler(Handler):
    """``GET /metrics``, in Prometheus' text format."""

    def initialize(self, service: Service, registry: CollectorRegistry) -> None:  # type: ignore[override]
        super().initialize(service)
        self._registry = registry

    def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest(self._registry))
