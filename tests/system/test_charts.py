"""The page and the history on the default market, as a user runs it."""

import asyncio
import json
import os
import signal
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import chromium
from fabric.launcher import Running
from fabric.topology import Topology
from redis_servers import wait_for
from topologies import ROOT, default_topology, product

pytestmark = pytest.mark.timeout(400)
ARTEFACTS = ROOT / "artefacts"
SHOWN_WITHIN_S = 6.0
"""Two seconds for the product; here the browser and twenty processes share two cores."""


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

    def stored(self) -> int:
        """Candles in the file, as anybody's SQLite reads it."""
        with closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True)) as found:
            count: int = found.execute("SELECT count(*) FROM candle").fetchone()[0]
        return count


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    folder = tmp_path_factory.mktemp("market")
    topology = default_topology(folder)
    with product(topology, folder / "run") as launcher:
        yield Market(topology, launcher, folder / ".fabric" / "history.db")


def test_closed_candles_reach_the_store_and_a_stopped_store_costs_none(market: Market) -> None:
    wait_for(lambda: market.store.exists() and market.stored() > 0, 90)
    with closing(sqlite3.connect(market.store, isolation_level=None, timeout=30)) as holder:
        holder.execute("BEGIN IMMEDIATE")  # nobody else can write
        wait_for(lambda: market.node("history")["report"].get("failures", 0) > 1, 60)
        assert market.get("/quotes/AAPL")["state"] == "live"
        holder.execute("ROLLBACK")
    wait_for(lambda: market.node("history")["report"].get("store") == "ok", 30)
    wait_for(lambda: market.node("history")["report"].get("waiting") == 0, 30)
    assert market.node("history")["report"]["lost_candles"] == 0
    with closing(sqlite3.connect(f"file:{market.store}?mode=ro", uri=True)) as found:
        minutes = found.execute(
            "SELECT start, count(*) FROM candle WHERE interval = '1m' AND rev >= 1 GROUP BY start ORDER BY start"
        ).fetchall()
    assert minutes, "no minute has closed"


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
            feed = market.node("iex")["pid"]
            begun = asyncio.get_running_loop().time()
            os.kill(feed, signal.SIGKILL)
            await page.until("document.querySelector('#banner').textContent.includes('IEX')")
            assert asyncio.get_running_loop().time() - begun < SHOWN_WITHIN_S
            await page.evaluate("location.hash = '#operations'")
            await page.until("document.querySelector('[data-node=\"nbbo-1\"]') !== null")
            for name, look in LOOKS.items():
                await page.look_like(**look)
                await asyncio.sleep(0.4)
                await page.screenshot(ARTEFACTS / f"operations-{name}.png")
            complaints = [text for text in page.problems if "v1/ops" not in text and "404" not in text]
            assert not complaints

    asyncio.run(steps())


LOOKS: dict[str, dict[str, Any]] = {
    "desktop-dark": {"width": 1440, "height": 900, "dark": True},
    "desktop-light": {"width": 1440, "height": 900},
    "phone-dark": {"width": 390, "height": 844, "dark": True, "scale": 2},
    "phone-light": {"width": 390, "height": 844, "scale": 2},
}
