"""What operators see of real processes: a slow processor is that hop everywhere, and the alert rules hold."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import yaml
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import chromium
from fabric import topology as topologies
from fabric.launcher import Running
from topologies import ROOT, free_range, product

pytestmark = pytest.mark.timeout(600)
MONITORING = ROOT / "docs" / "monitoring"
ARTEFACTS = ROOT / "artefacts"
TEXT = """
venues: {{V: {{}}}}
exchanges:
  exchange: {{to: [feed], rate: 1000, symbols: 100}}
feeds:
  feed: {{wire: iex-tops-1.6, venues: V, lines: [["udp://127.0.0.1:{line}"]]}}
processors:
  nbbo: {{run: "slow_programs:nbbo", reads: [quote, trade, status], publishes: [nbbo, bolo, why]}}
gateways:
  web: {{port: {web}, reads: [nbbo, quote, trade, status]}}
cache: {{server: off}}
journal: off
metrics: {{port: {metrics}}}
ports: {{base: {base}, span: 20}}
"""


class Rig:
    """A running topology whose processor is slow, with one client who takes every tick."""

    def __init__(self, launcher: Running, web: int, metrics: int) -> None:
        self.launcher, self._web, self._metrics = launcher, web, metrics
        self.http = f"http://127.0.0.1:{web}"

    def operations(self, query: str = "") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(_get(f"http://127.0.0.1:{self._web}/v1/ops{query}"))
        return found

    def metrics(self) -> str:
        return _get(f"http://127.0.0.1:{self._metrics}/metrics")

    def own(self) -> str:
        return _get(f"http://127.0.0.1:{self._web}/metrics")

    def merged(self) -> str:
        return _get(f"http://127.0.0.1:{self._web}/v1/ops/metrics")

    def command(self, *arguments: str) -> str:
        environment = os.environ | {"FABRIC_RUN_DIR": str(self.launcher.folder.path), "COLUMNS": "160"}
        done = subprocess.run(
            [sys.executable, "-m", "fabric.cli.main", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("monitoring")
    base = free_range(30)
    text = TEXT.format(base=base, line=base + 21, web=base + 22, metrics=base + 23)
    path = folder / "topology.yaml"
    path.write_text(text)
    over = Event()
    with product(topologies.load(path, {}), folder / "run") as launcher:
        client = Thread(target=_take_every_tick, args=(base + 22, over))
        client.start()
        try:
            found = Rig(launcher, base + 22, base + 23)
            _wait(lambda: all(hop["count"] > 100 for hop in found.operations()["hops"]))
            yield found
        finally:
            over.set()
            client.join()


def _take_every_tick(port: int, over: Event) -> None:
    with connect(f"ws://127.0.0.1:{port}/v2/sip") as client:
        client.recv()
        client.send(json.dumps({"action": "auth", "key": "any", "secret": "any"}))
        client.send(json.dumps({"action": "subscribe", "quotes": ["*"], "trades": ["*"]}))
        while not over.is_set():
            try:
                client.recv(timeout=0.5)
            except TimeoutError:
                continue
            except ConnectionClosed:
                return


def _wait(condition: Any, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)


class TestASlowProcessor:
    def test_is_exactly_that_hop_in_the_operators_document(self, rig: Rig) -> None:
        document = rig.operations()
        health = {hop["name"]: hop["health"] for hop in document["hops"]}
        assert health == {"exchange": "ok", "feed": "ok", "processor": "alarm", "gateway": "ok", "total": "alarm"}
        latency = {node["name"]: node["latency"] for node in document["nodes"] if node["latency"]}
        assert max(latency, key=lambda name: latency[name]["p99_ms"]) == "nbbo"
        assert latency["nbbo"]["p50_ms"] >= 700
        threshold = document["thresholds"][0]
        assert (threshold["name"], threshold["health"]) == ("latency_p99", "alarm")

    @pytest.mark.skipif(chromium.PATH is None, reason="no chromium: apt-get install chromium")
    def test_is_exactly_that_hop_in_the_page(self, rig: Rig, tmp_path: Path) -> None:
        async def steps() -> None:
            async with chromium.page(tmp_path / "profile") as page:
                await page.look_like(1440, 900, dark=True)
                await page.open(f"{rig.http}/#operations")
                hops = "[...document.querySelectorAll('[data-hop]')]"
                shown = f"{hops}.map(hop => hop.dataset.hop + ' ' + hop.dataset.health).join()"
                await page.until(
                    f"{shown} === 'exchange ok,feed ok,processor alarm,gateway ok,total alarm'", within_s=60
                )
                boxes = "[...document.querySelectorAll('[data-node][data-health=alarm]')].map(box => box.dataset.node)"
                await page.until(f"{boxes}.join() === 'nbbo'", within_s=60)
                figure = "document.querySelector('[data-hop=processor] .p50 b').textContent"
                slow = await page.evaluate(figure)
                assert slow.endswith(" s") or float(slow.removesuffix(" ms")) >= 700
                await page.screenshot(ARTEFACTS / "operations-slow-processor.png")
                assert not page.problems

        asyncio.run(steps())

    def test_is_exactly_that_hop_in_top(self, rig: Rig) -> None:
        lines = [line.strip() for line in rig.command("top", "--once").splitlines()]
        found = {
            hop: next(line for line in lines if line.startswith(hop)) for hop in ("feed ", "processor ", "gateway ")
        }
        p99 = {hop: float(re.findall(r"[\d,.]+", line)[2].replace(",", "")) for hop, line in found.items()}
        assert p99["processor "] > 700 > 200 > max(p99["feed "], p99["gateway "])

    def test_is_exactly_that_hop_in_the_metrics(self, rig: Rig) -> None:
        below = {
            hop: _sample(rig.metrics(), "fabric_hop_latency_seconds_bucket", hop=hop, le="0.5")
            / _sample(rig.metrics(), "fabric_hop_latency_seconds_count", hop=hop)
            for hop in ("exchange", "feed", "processor", "gateway")
        }
        assert below["processor"] < 0.1
        assert min(below["exchange"], below["feed"], below["gateway"]) > 0.95


def _sample(text: str, name: str, **labels: str) -> float:
    for line in text.splitlines():
        if line.startswith(f"{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no {name} with {labels}")


class TestOperations:
    def test_series_grow_by_a_point_a_second_and_can_be_followed(self, rig: Rig) -> None:
        first = rig.operations()["series"]["t"]
        assert [after - before for before, after in pairwise(first)].count(1) >= len(first) * 0.7
        later: list[float] = []
        _wait(lambda: later.extend(rig.operations(f"?since={first[-1]}")["series"]["t"]) or len(later) > 0)
        assert min(later) > first[-1]
        assert rig.operations("?series=0")["series"] is None

    def test_links_and_nodes_are_the_topology(self, rig: Rig) -> None:
        document = rig.operations()
        links = {(link["from"], link["to"]): link for link in document["links"]}
        assert set(links) == {("feed", "nbbo"), ("feed", "web"), ("nbbo", "web"), ("exchange", "feed")}
        assert all(link["up"] for link in links.values())
        assert links["feed", "web"]["rate"] > 0
        assert [node["name"] for node in document["nodes"]] == ["feed", "nbbo", "web", "exchange"]
        assert document["connections"]["open"] == 1

    def test_a_bad_parameter_is_named(self, rig: Rig) -> None:
        for query, parameter in (("?since=yesterday", "since"), ("?series=2", "series"), ("?more=1", "more")):
            with pytest.raises(urllib.error.HTTPError) as refused:
                rig.operations(query)
            with refused.value as answer:
                assert (answer.code, json.loads(answer.read())["parameter"]) == (400, parameter)

    def test_a_killed_feed_shows_within_two_seconds_and_comes_back(self, rig: Rig) -> None:
        os.kill(rig.launcher.node("feed")["pid"], 9)
        killed = time.monotonic()

        def feed() -> dict[str, Any]:
            return next(node for node in rig.operations("?series=0")["nodes"] if node["name"] == "feed")

        _wait(lambda: feed()["health"] != "ok" or feed()["restarts"] == 1, 2.0)
        assert time.monotonic() - killed < 2.0
        _wait(lambda: feed()["health"] == "ok" and feed()["restarts"] == 1)


class TestMetrics:
    def test_promtool_finds_nothing_wrong_with_them(self, rig: Rig) -> None:
        done = subprocess.run(
            [_promtool(), "check", "metrics"], input=rig.metrics(), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")

    def test_a_gateways_own_metrics_follow_the_conventions(self, rig: Rig) -> None:
        text = rig.own()
        checked = subprocess.run(
            [_promtool(), "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
        assert re.search(r"^fabric_inbox_received_bytes_total [1-9]", text, re.MULTILINE)

    def test_the_gateway_gives_the_same_metrics(self, rig: Rig) -> None:
        assert _names(rig.merged()) == _names(rig.metrics())

    def test_every_metric_of_the_rules_and_the_dashboard_exists(self, rig: Rig) -> None:
        names = _names(rig.metrics()) | {"fabric_log_suspended"}  # this topology keeps no log
        assert _asked_for(_expressions()) - names == set()


def _names(text: str) -> set[str]:
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}


def _asked_for(expressions: list[str]) -> set[str]:
    return {name for text in expressions for name in re.findall(r"\bfabric_[a-z_]+", text)}


def _expressions() -> list[str]:
    rules = [rule["expr"] for rule in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]]
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    return rules + [target["expr"] for panel in panels for target in panel["targets"]]


def _promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return found


def test_promtool_takes_the_rules_and_what_they_do() -> None:
    """Each rule that has a threshold is tried below and above it."""
    tests = Path(__file__).resolve().parents[1] / "data" / "monitoring"
    for arguments in (
        ["check", "rules", str(MONITORING / "alerts.yml")],
        ["check", "config", str(MONITORING / "prometheus.yml")],
        ["test", "rules", str(tests / "alerts_test.yml")],
    ):
        done = subprocess.run([_promtool(), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_parses_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    expressions = [target["expr"].replace("$__rate_interval", "1m") for panel in panels for target in panel["targets"]]
    rules = [{"record": f"panel:{i}", "expr": text} for i, text in enumerate(expressions)]
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([_promtool(), "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
