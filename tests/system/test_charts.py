"""The page and the history on the default market, as a user runs it."""

import asyncio
import json
import os
import signal
import sqlite3
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest

import chromium
from fabric.journal import Cursor, Query, records, segments
from fabric.launcher import Running
from fabric.records import NULL
from fabric.topology import Topology
from redis_servers import wait_for
from topologies import ROOT, default_topology, product

pytestmark = pytest.mark.timeout(400)
ARTEFACTS = ROOT / "artefacts"
SHOWN_WITHIN_S = 2.0
"""The quicker of two kills: the browser and twenty processes share two cores with whatever else runs."""
STOPPED_S = float(os.environ.get("FABRIC_STORE_STOPPED", "2"))
"""How long the store is held after the history has noticed."""


class Market:
    """The default topology at work."""

    def __init__(self, topology: Topology, launcher: Running, store: Path) -> None:
        self.topology, self.launcher, self.store = topology, launcher, store
        self.http = f"http://127.0.0.1:{topology.node('web').settings.port}"  # type: ignore[union-attr]

    def node(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(node for node in self.launcher.status()["nodes"] if node["name"] == name)
        return found

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.http + path, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    folder = tmp_path_factory.mktemp("market")
    topology = default_topology(folder)
    with product(topology, folder / "run") as launcher:
        yield Market(topology, launcher, folder / ".fabric" / "history.db")


def told(folder: Path, last: int) -> dict[tuple[str, str, int], tuple[int, ...]]:
    """What a publisher's log up to a position says of each closed candle, by symbol, interval and start: revision,
    close, volume, trades.
    """
    found = segments(folder)
    closed = {}
    for _, _, _, topic, payload in records(Cursor(lambda: found, Query(last=last, prefixes=(b"bar.",)))):
        bar = msgpack.unpackb(payload, timestamp=2)
        if bar["S"] and bar["rev"]:
            close = NULL if bar["c"] is None else round(bar["c"] * 1e9)
            interval = topic.decode().split(".")[1]
            closed[bar["S"], interval, bar["t"]] = bar["rev"], close, bar["v"], bar["n"]
    return closed


def test_a_store_that_is_stopped_under_load_costs_no_candle_and_the_live_path_nothing(market: Market) -> None:
    """The file is locked over the end of a minute; then it holds exactly what the logs of the processors say."""
    wait_for(market.store.exists, 30)
    wait_for(lambda: time.time() % 60 < 40, 30)  # so that nearly every symbol trades before the minute's end
    ages = []
    with closing(sqlite3.connect(market.store, isolation_level=None, timeout=30)) as holder:
        holder.execute("BEGIN IMMEDIATE")  # nobody else can write
        wait_for(lambda: market.node("history")["report"].get("failures", 0) > 1, 90)
        end = time.monotonic() + STOPPED_S
        while time.monotonic() < end:
            quote = market.get("/quotes/AAPL")
            assert quote["state"] == "live"
            ages.append(quote["age_ms"])
            minutes = market.get("/candles/AAPL?limit=5")["candles"]
            time.sleep(0.2)
        assert len(minutes) > 1, "memory has the minute that the store has not"
        holder.execute("ROLLBACK")
    wait_for(lambda: market.node("history")["report"].get("store") == "ok", 30)
    wait_for(lambda: market.node("history")["report"].get("waiting") == 0, 30)
    assert market.node("history")["report"]["lost_candles"] == 0
    with closing(sqlite3.connect(f"file:{market.store}?mode=ro", uri=True)) as found:
        found.execute("BEGIN")  # candles and positions of one instant
        positions = dict(found.execute("SELECT publisher, position FROM position").fetchall())
        columns = "symbol, interval, start, rev, coalesce(close, ?), volume, trades"
        rows = found.execute(f"SELECT {columns} FROM candle", (NULL,)).fetchall()
    logs = market.store.parent / "journal"
    wanted = {key: one for name, last in positions.items() for key, one in told(logs / name, last).items()}
    stored = {(row[0], row[1], row[2]): row[3:] for row in rows}
    assert len(positions) == 3
    assert len(wanted) > 4_000, "at least a minute of nearly all symbols"
    assert stored == wanted
    assert len(rows) == len(stored), "none twice"
    assert max(ages) < 2_500


@pytest.mark.skipif(chromium.PATH is None, reason="no chromium: apt-get install chromium")
def test_the_page_shows_the_market_and_a_killed_feed(market: Market, tmp_path: Path) -> None:
    async def steps() -> None:
        async with chromium.page(tmp_path / "profile") as page:
            await page.look_like(1440, 900, dark=True)
            await page.open(f"{market.http}/")
            price = "document.querySelector('tr[data-symbol=AAPL] .bid .price')?.textContent"
            await page.until(f"/[0-9]/.test({price})")
            first = await page.evaluate(price)
            await page.until(f"{price} !== {json.dumps(first)}")
            volume = "Number(document.querySelector('#legend [data-name=V]')?.textContent.replaceAll(',', ''))"
            start = "document.querySelector('#legend').dataset.start"
            await page.until(f"{volume} > 0")
            before, minute = await page.evaluate(volume), await page.evaluate(start)
            await page.until(f"{volume} > {before} || {start} !== '{minute}'")
            await page.until("document.querySelectorAll('#tape li').length > 8")
            await page.until("document.querySelectorAll('#ladder [data-standing=best]').length === 2")
            for name, look in LOOKS.items():
                await page.look_like(**look)
                await asyncio.sleep(0.4)  # the chart takes its new size in the next frames
                await page.screenshot(ARTEFACTS / f"market-{name}.png")
            for interval in ("5m", "1h", "1m"):
                await page.evaluate(f"document.querySelector('[data-interval=\"{interval}\"]').click()")
                await page.until(f"document.querySelector('#chart').ariaLabel.includes('of {interval}')")
            await page.until("document.querySelector('#banner').hidden")
            shown_s = []
            for feed, name in (("iex", "IEX"), ("nyse", "NYSE")):
                killed = market.node(feed)["pid"]
                begun = time.monotonic()
                os.kill(killed, signal.SIGKILL)
                await page.until(f"document.querySelector('#banner').textContent.includes('{name}')")
                shown_s.append(time.monotonic() - begun)
            assert min(shown_s) < SHOWN_WITHIN_S, shown_s
            await page.evaluate("location.hash = '#operations'")
            await page.until("document.querySelector('[data-node=\"nbbo-1\"]') !== null")
            for name, look in LOOKS.items():
                await page.look_like(**look)
                await asyncio.sleep(0.4)
                await page.screenshot(ARTEFACTS / f"operations-{name}.png")
            assert not page.problems

    asyncio.run(steps())


LOOKS: dict[str, dict[str, Any]] = {
    "desktop-dark": {"width": 1440, "height": 900, "dark": True},
    "desktop-light": {"width": 1440, "height": 900},
    "phone-dark": {"width": 390, "height": 844, "dark": True, "scale": 2},
    "phone-light": {"width": 390, "height": 844, "scale": 2},
}
