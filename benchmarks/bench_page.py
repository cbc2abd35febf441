"""The page in a browser: how soon it shows a price, what 50 moving rows cost a frame, what it takes over the wire.

A gateway with the page alone: no market shares the machine. The browser is a headless Chromium without a graphics card,
so painting, too, is work of the processor. Each load is one of an empty cache. The rows change as the gateway sends
them: each row's quote and a trade of it every 100 ms, spread over the interval as the gateway's cohorts are. Beside it
an empty page: its frames are the limit of this machine and browser.

Run: python benchmarks/bench_page.py [--loads 10] [--seconds 8] [--rows 50]
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import describe, percentiles
from tornado.websocket import WebSocketHandler

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import chromium  # noqa: E402  (after the path is set)
from gateway_rig import Rig, running  # noqa: E402  (as above)

INTERVAL_S = 0.1
SLICES = 5
"""Parts in which an interval's changes come."""
MARK = """
requestAnimationFrame(function look() {
  const cell = document.querySelector("#rows .bid .price");
  if (!cell || !/[0-9]/.test(cell.textContent)) return requestAnimationFrame(look);
  requestAnimationFrame(() => performance.mark("price"));  // the frame with it has been painted
});
"""
FIRST_PRICE = """
new Promise((done) => (function look() {
  const [mark] = performance.getEntriesByName("price");
  mark ? done(mark.startTime) : setTimeout(look, 10);
})())
"""
WIRE = "performance.getEntries().reduce((sum, entry) => sum + (entry.transferSize ?? 0), 0)"
FRAMES = """
new Promise((done) => {
  const times = [];
  requestAnimationFrame(function frame(now) {
    times.push(now);
    if (now - times[0] < %d) requestAnimationFrame(frame);
    else done(times.slice(1).map((time, i) => time - times[i]));
  });
})
"""
COSTS = {
    "ScriptDuration": "scripts",
    "RecalcStyleDuration": "style",
    "LayoutDuration": "layout",
    "TaskDuration": "in all",
}


class Stream(WebSocketHandler):
    """Plays `/stream`."""

    def initialize(self, opened: list["Stream"]) -> None:
        self.opened = opened

    async def open(self, *_: str) -> None:
        self.opened.append(self)
        await self.write_message('[{"T":"success","msg":"connected"}]')

    async def on_message(self, message: str | bytes) -> None:  # type: ignore[override]  (Tornado allows a coroutine)
        await self.write_message('[{"T":"subscription"}]')


async def move(opened: list[Stream], names: list[str]) -> None:
    """Change every row in each interval, until cancelled."""
    chance = random.Random(1)
    prices = {name: 100.0 + 5 * place for place, name in enumerate(names)}
    while True:
        for part in range(SLICES):
            messages: list[dict[str, Any]] = []
            for name in names[part::SLICES]:
                bid = prices[name] = round(prices[name] + chance.choice((-0.01, 0.01)), 2)
                sides = {"bx": "V", "bp": bid, "bs": 100 * chance.randint(1, 9), "ax": "Q", "ap": bid + 0.02, "as": 300}
                at = {"S": name, "c": [], "z": None, "t": "2026-01-02T15:00:00.000000000Z"}
                messages += [{"T": "q", **at, **sides}, {"T": "t", **at, "x": "V", "p": bid, "s": 100}]
            await opened[-1].write_message(json.dumps(messages))
            await asyncio.sleep(INTERVAL_S / SLICES)


async def loads(page: chromium.Page, rig: Rig, count: int) -> None:
    taken = []
    for _ in range(count):
        await page.send("Network.clearBrowserCache")
        await page.open(f"http://127.0.0.1:{rig.port}/")
        taken.append(await page.evaluate(FIRST_PRICE))
    await asyncio.sleep(1)  # the chart comes behind the prices
    p50, p99, _ = percentiles(taken)
    print(f"first price on screen, {count} loads: p50 {p50:.0f} ms, p99 {p99:.0f} ms; limit 1,000 ms")
    print(f"over the wire: {(await page.evaluate(WIRE)) / 1_000:.0f} kB; limit 300 kB")


async def costs(page: chromium.Page) -> dict[str, float]:
    metrics = (await page.send("Performance.getMetrics"))["metrics"]
    return {metric["name"]: metric["value"] for metric in metrics}


async def frames(page: chromium.Page, name: str, seconds: int) -> float:
    """Frames a second."""
    await page.send("Performance.enable")
    before = await costs(page)
    taken = await page.evaluate(FRAMES % (seconds * 1_000))
    after = await costs(page)
    rate = 1_000 * len(taken) / sum(taken)
    p50, p99, p999 = percentiles(taken)
    each = ", ".join(f"{word} {(after[key] - before[key]) * 1_000 / len(taken):.2f}" for key, word in COSTS.items())
    print(f"{name}: {rate:.1f} frames/s, {p50:.1f} ms apart (p99 {p99:.1f}, p99.9 {p999:.1f}); ms of a frame: {each}")
    return rate


async def measure(options: argparse.Namespace) -> None:
    opened: list[Stream] = []
    names = [f"S{place:02}" for place in range(options.rows)]
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile"
        routes = [(r"/stream", Stream, {"opened": opened})]
        async with running(websockets=routes, symbols_max=options.rows + 8) as rig, chromium.page(profile) as page:
            rig.put(rig.link(1), *[rig.nbbo(name, seq=1_000 - place) for place, name in enumerate(names)])
            await rig.taken()
            await page.look_like(1440, 900, dark=True)
            await page.send("Page.enable")
            blank = await frames(page, "an empty page", 2)
            script = await page.send("Page.addScriptToEvaluateOnNewDocument", source=MARK)
            await loads(page, rig, options.loads)
            await page.send("Page.removeScriptToEvaluateOnNewDocument", **script)
            await page.evaluate(f"localStorage.setItem('fabric.watchlist', {json.dumps(json.dumps(names))})")
            await page.open(f"http://127.0.0.1:{rig.port}/?rows")
            await page.until("document.querySelector('#connection').dataset.state === 'live'")
            moving = asyncio.create_task(move(opened, names))
            await asyncio.sleep(2)
            ours = await frames(page, f"{options.rows} moving rows", options.seconds)
            moving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await moving
            await page.open("about:blank")  # its streams end before the gateway does
            print(f"ratio of frames to the empty page's: {ours / blank:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="The page in a browser")
    parser.add_argument("--loads", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rows", type=int, default=50)
    if chromium.PATH is None:
        parser.error("no chromium: apt-get install chromium")
    print(describe())
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
