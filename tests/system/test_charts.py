"""The page and the history on the default market, as a user runs it."""

import asyncio
import json
import os
import signal
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import pytest
import redis

import chromium
from fabric.history import open_history
from fabric.journal import Cursor, Query, records, segments
from fabric.launcher import Running
from fabric.records import BAR, KIND_BAR_1M, NULL, PRICE_UNIT, empty
from fabric.topology import Topology
from redis_servers import wait_for
from topologies import ROOT, default_topology, product

pytestmark = pytest.mark.timeout(400)
ARTEFACTS = ROOT / "artefacts"
SHOWN_WITHIN_S = 2.0
"""The quickest of up to three kills: the browser and twenty processes share two cores with whatever else runs. Without
other work each takes 0.4 to 0.7 s."""
VENUES = (("iex", "IEX"), ("nyse", "NYSE"), ("bzx", "Cboe BZX"))
STOPPED_S = float(os.environ.get("FABRIC_STORE_STOPPED", "2"))
"""How long the store is held after the history has noticed."""
TRADED_S = 25.0
"""After so long nearly every symbol has traded."""
BEFORE = 600
"""Minutes that the store has of some symbols from before the topology was started."""
KNOWN = ("AAPL", "MSFT", "SPY", "QQQ", "IBM")


class Market:
    """The default topology at work."""

    def __init__(self, topology: Topology, launcher: Running, store: Path) -> None:
        self.topology, self.launcher, self.store = topology, launcher, store
        self.started = time.time()
        self.http = f"http://127.0.0.1:{topology.node('web').settings.port}"  # type: ignore[union-attr]

    def node(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(node for node in self.launcher.status()["nodes"] if node["name"] == name)
        return found

    def find(self, symbol: str) -> bool:
        """Whether the gateway has a candle and both prices of it."""
        try:
            found, quote = self.get(f"/candles/{symbol}")["candles"], self.get(f"/quotes/{symbol}")
        except urllib.error.HTTPError:
            return False
        return bool(found and quote["bid"])

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.http + path, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    folder = tmp_path_factory.mktemp("market")
    topology = default_topology(folder)
    with product(topology, folder / "run") as launcher:
        made = Market(topology, launcher, folder / ".fabric" / "history.db")
        remember(made)
        yield made


def remember(market: Market) -> None:
    """Give the store candles of a market that ran until this one's first candle: epoch 1, as no publisher's is."""
    chance = np.random.default_rng(1)
    with closing(open_history(str(market.store))) as store:
        for symbol in KNOWN:
            wait_for(lambda symbol=symbol: market.find(symbol), 60)
            first, price = market.get(f"/candles/{symbol}")["candles"][0], market.get(f"/quotes/{symbol}")["bid"]
            close = price - np.cumsum(chance.normal(0, 0.05, BEFORE + 1))[::-1]
            rows = empty(BEFORE, BAR, KIND_BAR_1M)
            rows["event_ns"] = (round(first["start"]) - 60 * (BEFORE - np.arange(BEFORE))) * 10**9
            rows["open_px"], rows["close_px"] = cents(close[:-1]), cents(close[1:])
            rows["high_px"] = np.maximum(rows["open_px"], rows["close_px"]) + cents(chance.exponential(0.02, BEFORE))
            rows["low_px"] = np.minimum(rows["open_px"], rows["close_px"]) - cents(chance.exponential(0.02, BEFORE))
            rows["volume"], rows["epoch"], rows["rev"] = chance.integers(10_000, 90_000, BEFORE), 1, 1
            rows["trades"], rows["final"], rows["gap"], rows["vwap_px"] = 100, 1, 0, rows["close_px"]
            store.write([symbol] * BEFORE, rows)


def cents(prices: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.rint(prices * 100).astype(np.int64) * (PRICE_UNIT // 100)


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
            await scroll_back(page)
            shown_s: list[float] = []
            while not shown_s or (shown_s[-1] >= SHOWN_WITHIN_S and len(shown_s) < len(VENUES)):
                shown_s.append(await shown_after_kill(market, page, *VENUES[len(shown_s)]))
            assert shown_s[-1] < SHOWN_WITHIN_S, shown_s
            await page.evaluate("location.hash = '#operations'")
            await page.until("document.querySelector('[data-node=\"nbbo-1\"]') !== null")
            for name, look in LOOKS.items():
                await page.look_like(**look)
                await asyncio.sleep(0.4)
                await page.screenshot(ARTEFACTS / f"operations-{name}.png")
            assert not page.problems

    asyncio.run(steps())


async def shown_after_kill(market: Market, page: chromium.Page, feed: str, name: str) -> float:
    """Seconds until the page names the venue whose feed is killed, of which nothing was said before."""
    named = f"document.querySelector('#banner').textContent.includes('{name}')"
    await page.until(f"!{named}", 60)
    killed = market.node(feed)["pid"]
    begun = time.monotonic()
    os.kill(killed, signal.SIGKILL)
    await page.until(named)
    return time.monotonic() - begun


async def scroll_back(page: chromium.Page) -> None:
    """With the keys, until everything is there: each minute once and none missing, from before the start until now."""
    await page.evaluate("document.querySelector('#chart').focus()")
    there = "Number(document.querySelector('#chart').dataset.count)"
    while await page.evaluate(there) < BEFORE:
        await page.press("ArrowLeft")
    span = await page.evaluate(
        "document.querySelector('#legend').dataset.start - document.querySelector('#chart').dataset.oldest"
    )
    assert await page.evaluate(there) == span // 60 + 1
    await page.screenshot(ARTEFACTS / "market-scrolled-back.png")
    await page.press("End")


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
    """The file is locked over the end of a minute; then it holds exactly what the logs of the processors say.

    Meanwhile a gateway that starts anew has only the minute that runs, and Redis, whose writer was stopped in the last
    seconds of the minute before, only that one: pages of candles cross all three.
    """
    wait_for(lambda: time.time() - market.started > TRADED_S, TRADED_S + 5)
    ages = []
    with closing(sqlite3.connect(market.store, isolation_level=None, timeout=30)) as holder:
        wait_for(lambda: 50 < time.time() % 60 < 58, 70)
        holder.execute("BEGIN IMMEDIATE")  # nobody else can write
        writer = market.node("redis-writer")["pid"]
        os.kill(writer, signal.SIGSTOP)
        keep_in_redis(market)
        wait_for(lambda: market.node("history")["report"].get("failures", 0) > 1, 90)
        end = time.monotonic() + STOPPED_S
        while time.monotonic() < end:
            quote = market.get("/quotes/AAPL")
            assert quote["state"] == "live"
            ages.append(quote["age_ms"])
            minutes = market.get("/candles/AAPL?limit=5")["candles"]
            time.sleep(0.2)
        assert len(minutes) > 1, "memory has the minute that the store has not"
        try:
            pages, sources = scrolled_back(market)
        finally:
            os.kill(writer, signal.SIGCONT)
        holder.execute("ROLLBACK")
    wait_for(lambda: market.node("history")["report"].get("store") == "ok", 30)
    wait_for(lambda: market.node("history")["report"].get("waiting") == 0, 30)
    assert market.node("history")["report"]["lost_candles"] == 0
    with closing(sqlite3.connect(f"file:{market.store}?mode=ro", uri=True)) as found:
        found.execute("BEGIN")  # candles and positions of one instant
        positions = dict(found.execute("SELECT publisher, position FROM position").fetchall())
        columns = "symbol, interval, start, rev, coalesce(close, ?), volume, trades"
        rows = found.execute(f"SELECT {columns} FROM candle WHERE epoch > 1", (NULL,)).fetchall()
    logs = market.store.parent / "journal"
    wanted = {key: one for name, last in positions.items() for key, one in told(logs / name, last).items()}
    stored = {(row[0], row[1], row[2]): row[3:] for row in rows}
    assert len(positions) == 3
    assert len(wanted) > 4_000, "at least a minute of nearly all symbols"
    assert stored == wanted
    assert len(rows) == len(stored), "none twice"
    assert max(ages) < 2_500
    assert "memory, redis, history" in sources, "for one of the symbols no late trade brings the minute to memory"
    for symbol, starts in pages.items():
        before = [
            start for name, interval, start in stored if (name, interval) == (symbol, "1m") and start < starts[-1]
        ]
        assert len(starts) > BEFORE
        assert starts == sorted({*starts[:BEFORE], *before, starts[-1]}), f"{symbol}: each minute once, none missing"


def keep_in_redis(market: Market) -> None:
    """Candles that are in Redis live on; else, a minute after its last trade, so slow a machine would find none."""
    with closing(redis.Redis.from_url(market.topology.cache.servers[0])) as client:
        for symbol in KNOWN:
            client.persist(f"candle:{symbol}:1m")


def scrolled_back(market: Market) -> tuple[dict[str, list[int]], list[str]]:
    """By symbol the starts of all its minutes, from the pages of a gateway that has just started; and where the first
    pages came from.
    """
    before = market.node("web")
    os.kill(before["pid"], signal.SIGKILL)
    wait_for(lambda: market.node("web")["epoch"] != before["epoch"] and market.node("web")["ready"], 60)
    sources, found = [], {}
    for symbol in KNOWN:
        path = f"/candles/{symbol}?limit=500"

        def first(path: str = path) -> Any:
            try:
                with urllib.request.urlopen(market.http + path, timeout=10) as answer:
                    return answer.headers["X-Data-Source"], json.load(answer)
            except OSError:  # it has only just started
                return "", None

        wait_for(lambda first=first: "memory" in first()[0], 60)
        source, answer = first()
        sources.append(source)
        starts = [round(one["start"]) * 10**9 for one in answer["candles"]]
        while answer["older"]:
            answer = market.get(f"{path}&end={answer['older']}")
            starts = [round(one["start"]) * 10**9 for one in answer["candles"]] + starts
        found[symbol] = starts
    return found, sources


LOOKS: dict[str, dict[str, Any]] = {
    "desktop-dark": {"width": 1440, "height": 900, "dark": True},
    "desktop-light": {"width": 1440, "height": 900},
    "phone-dark": {"width": 390, "height": 844, "dark": True, "scale": 2},
    "phone-light": {"width": 390, "height": 844, "scale": 2},
}
