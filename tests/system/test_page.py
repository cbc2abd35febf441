"""The page in a real browser: prices, search, staleness, reconnection, keyboard, and nothing against its policy."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import WebSocketHandler

import chromium
from fabric import keys
from fabric.history import open_history
from fabric.records import BAR, EVENT, KIND_BAR_5M, Rows, venue_mask
from fabric.topology import Access
from gateway.app import PAGE, Rule
from gateway.assets import Page
from gateway.auth import AuthError, Credentials
from gateway_rig import Rig, running

pytestmark = [
    pytest.mark.skipif(chromium.PATH is None, reason="no chromium: apt-get install chromium"),
    pytest.mark.timeout(120),
]
ARTEFACTS = Path(__file__).parents[2] / "artefacts"
STALE = 16


class Stream(WebSocketHandler):
    """Plays `/stream`: greets, notes what it is asked, answers unless it is mute, and sends what the test says."""

    opened: list["Stream"]
    asked: list[dict[str, Any]]
    mute = False

    def initialize(self, opened: list["Stream"], asked: list[dict[str, Any]]) -> None:
        self.opened, self.asked = opened, asked

    async def open(self, *_: str) -> None:
        self.opened.append(self)
        await self.write_message('[{"T":"success","msg":"connected"}]')

    async def on_message(self, message: str | bytes) -> None:  # type: ignore[override]
        request = json.loads(message)
        if request.get("req_id") != "ping":
            self.asked.append(request)
        if not self.mute:
            await self.write_message('[{"T":"subscription"}]')


class Stage:
    """A browser on the page of a gateway."""

    def __init__(self, rig: Rig, page: chromium.Page) -> None:
        self.rig = rig
        self.page = page
        self.opened: list[Stream] = []
        self.asked: list[dict[str, Any]] = []

    async def open(self) -> None:
        await self.page.open(f"http://127.0.0.1:{self.rig.port}/")

    async def reload(self) -> None:
        """Load the page again; returns when the new one is there."""
        await self.page.evaluate("window.isOld = true, setTimeout(() => location.reload()), null")
        await self.page.until("!window.isOld && document.readyState === 'complete'")

    async def say(self, *messages: dict[str, Any]) -> None:
        await self.opened[-1].write_message(json.dumps(messages))

    async def shows(self, symbol: str, cell: str, text: str) -> None:
        """Wait until a cell of the symbol's row has this text."""
        row = f"tr[data-symbol={json.dumps(symbol)}] {cell}"
        await self.page.until(f"document.querySelector({json.dumps(row)})?.textContent === {json.dumps(text)}")

    async def asks(self, request: dict[str, Any]) -> None:
        """Wait until this is the last that the stream has been asked."""
        for _ in range(3_000):
            if self.asked and self.asked[-1] == request:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"asked {self.asked[-1:]}, not {request}")

    async def has_asked(self, streams: int) -> None:
        """Wait until so many streams have been opened and something was asked on each."""
        for _ in range(3_000):
            if len(self.opened) >= streams and len(self.asked) >= streams:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{len(self.opened)} streams, asked {self.asked}")

    async def symbols(self) -> list[str]:
        found: list[str] = await self.page.evaluate(
            "[...document.querySelectorAll('#rows tr')].map(row => row.dataset.symbol)"
        )
        return found


def quote(symbol: str, bid: float | None, ask: float | None, **more: Any) -> dict[str, Any]:
    sides = {"bx": "V", "bp": bid, "bs": 300, "ax": "V", "ap": ask, "as": 100}
    return {"T": "q", "S": symbol, **sides, "c": [], "z": None, "t": "2026-01-02T15:00:00.000000000Z", **more}


def play(
    tmp_path: Path,
    steps: Callable[[Stage], Awaitable[None]],
    names: tuple[str, ...],
    said: Sequence[dict[str, Any]] = (),
    **options: Any,
) -> None:
    """Run ``steps`` with the page not yet opened; at the end the browser must have nothing to complain about.

    The last of ``said`` is what the launcher tells operators; of nothing, that there is none.
    """

    async def stage() -> None:
        opened: list[Stream] = []
        asked: list[dict[str, Any]] = []
        routes: list[Rule] = [(r"/stream", Stream, {"opened": opened, "asked": asked})]

        async def operations() -> dict[str, Any]:
            return said[-1]

        async with running(websockets=routes, **options) as rig, chromium.page(tmp_path / "profile") as page:
            if said:
                rig.gateway._launcher.operations = operations
            rig.put(rig.link(1), *[rig.nbbo(name, seq=10 - place) for place, name in enumerate(names)])
            await rig.taken()
            made = Stage(rig, page)
            made.opened, made.asked = opened, asked
            await steps(made)
            complaints = [text for text in page.problems if "ERR_CONNECTION" not in text and "WebSocket" not in text]
            assert not complaints

    asyncio.run(stage())


USUAL = ("AAPL", "MSFT", "AMZN", "NVDA", "TSLA", "GOOG", "META", "SPY", "QQQ", "IBM")


def test_prices_move_and_look_good(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        await stage.page.look_like(1280, 860, dark=True)
        await stage.open()
        await stage.page.until("document.querySelector('#connection').dataset.state === 'live'")
        await stage.shows("AAPL", ".bid .price", "185.50")
        assert await stage.symbols() == list(USUAL)
        assert stage.asked[0] == {
            "action": "subscribe", "quotes": list(USUAL), "trades": list(USUAL), "interval_ms": 100
        }  # fmt: skip

        await stage.say(quote("AAPL", 185.51, 185.53), {"T": "t", "S": "AAPL", "p": 185.52, "s": 100})
        await stage.shows("AAPL", ".bid .price", "185.51")
        await stage.shows("AAPL", ".ask .price", "185.53")
        await stage.shows("AAPL", ".last .price", "185.52")
        await stage.shows("AAPL", ".gap", "0.02")
        await stage.shows("AAPL", ".bid .size", "300 V")
        row = "document.querySelector('tr[data-symbol=AAPL]')"
        assert await stage.page.evaluate(f"{row}.querySelector('.bid .price').dataset.move") == "up"
        await stage.say(quote("AAPL", 185.49, None, st=4))
        await stage.shows("AAPL", ".bid .price", "185.49")
        await stage.shows("AAPL", ".ask .price", "–")
        await stage.shows("AAPL", ".badge", "one side")
        assert await stage.page.evaluate(f"{row}.querySelector('.bid .price').dataset.move") == "down"

        await stage.say(*[quote(name, 100 + place, 100.01 + place) for place, name in enumerate(USUAL)])
        await stage.shows("IBM", ".bid .price", "109.00")
        await stage.page.until("document.querySelector('#tape li .at')?.textContent === '185.52'")
        await stage.page.screenshot(ARTEFACTS / "page-desktop-dark.png")
        await stage.page.look_like(1280, 860)
        await stage.page.screenshot(ARTEFACTS / "page-desktop-light.png")
        await stage.page.look_like(390, 844, scale=2)
        await stage.page.screenshot(ARTEFACTS / "page-phone-light.png")
        wide = await stage.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, "the phone's page must not scroll sideways"

    play(tmp_path, steps, USUAL)


def test_what_is_stale_or_halted_is_marked_and_keeps_its_last_values(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        await stage.open()
        await stage.shows("AAPL", ".bid .price", "185.50")
        await stage.page.until("document.querySelector('#connection').dataset.state === 'live'")
        classes = "document.querySelector('tr[data-symbol=AAPL]').classList"
        await stage.page.until(f"!{classes}.contains('stale')")
        await stage.say(quote("AAPL", None, None, st=STALE))
        await stage.shows("AAPL", ".badge", "stale")
        await stage.shows("AAPL", ".bid .price", "185.50")
        assert await stage.page.evaluate(f"{classes}.contains('stale')")
        await stage.say(quote("AAPL", 186, 186.01, st=8))
        await stage.shows("AAPL", ".badge", "halted")
        await stage.shows("AAPL", ".bid .price", "186.00")
        await stage.page.until(f"!{classes}.contains('stale')")
        await stage.say(quote("AAPL", 186, 186.01, st=64))
        await stage.shows("AAPL", ".badge", "at limit")

    play(tmp_path, steps, USUAL)


def test_a_lost_connection_is_told_marks_everything_and_comes_back(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        await stage.open()
        await stage.shows("AAPL", ".bid .price", "185.50")
        await stage.page.until("document.querySelector('#connection').dataset.state === 'live'")
        await stage.page.until("document.querySelectorAll('tr.stale').length === 0")
        await stage.has_asked(1)
        stage.opened[0].close(1012, "restarting")
        await stage.page.until("document.querySelectorAll('tr.stale').length === 10")
        await stage.has_asked(2)
        await stage.page.until("document.querySelector('#connection').dataset.state === 'live'")
        await stage.page.until("document.querySelectorAll('tr.stale').length === 0")
        assert len(stage.opened) == 2
        assert stage.asked[-1]["quotes"] == list(USUAL)

    play(tmp_path, steps, USUAL)


def test_a_server_that_no_longer_answers_is_given_up(tmp_path: Path) -> None:
    """Its TCP connection stands, as after a pulled cable: only the missing answer tells."""

    async def steps(stage: Stage) -> None:
        await stage.open()
        await stage.page.until("document.querySelector('#connection').dataset.state === 'live'")
        stage.opened[0].mute = True
        await stage.page.until("document.querySelector('#connection').dataset.state === 'waiting'")
        await stage.page.until("document.querySelector('#connection').dataset.state === 'live'")
        assert len(stage.opened) == 2

    play(tmp_path, steps, USUAL)


def test_a_symbol_is_found_added_moved_removed_and_remembered_by_keyboard(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        page = stage.page
        await stage.open()
        await stage.shows("AAPL", ".bid .price", "185.50")
        await page.press("/", text="/")
        await page.type("ab")
        await page.until("document.querySelectorAll('#results [role=option]').length === 2")
        await page.press("ArrowDown")
        assert await page.evaluate("document.querySelector('#results [aria-selected=true]').textContent") == "ABT"
        await page.press("Enter")
        await page.until("document.activeElement.dataset.symbol === 'ABT'")
        await stage.shows("ABT", ".bid .price", "185.50")
        await stage.asks({"action": "subscribe", "quotes": ["ABT"], "trades": ["ABT"], "interval_ms": 100})

        await page.press("ArrowUp", alt=True)
        assert (await stage.symbols())[-2:] == ["ABT", "IBM"]
        await page.press("ArrowDown")
        assert await page.evaluate("document.activeElement.dataset.symbol") == "IBM"
        await page.press("Delete")
        assert "IBM" not in await stage.symbols()
        assert await page.evaluate("document.activeElement.dataset.symbol") == "ABT"
        await stage.asks({"action": "unsubscribe", "quotes": ["IBM"], "trades": ["IBM"]})

        kept = await stage.symbols()
        await stage.open()
        await page.until(f"document.querySelectorAll('#rows tr').length === {len(kept)}")
        assert await stage.symbols() == kept

    play(tmp_path, steps, (*USUAL, "ABNB", "ABT"))


def test_a_market_without_most_of_the_usual_names_adds_its_busiest(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        await stage.open()
        await stage.shows("ZVZZT", ".bid .price", "185.50")
        assert await stage.symbols() == ["AAPL", "ZVZZT", "ZWZZT"]

    play(tmp_path, steps, ("ZVZZT", "ZWZZT", "AAPL"))


def test_no_motion_for_who_wants_none(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        await stage.page.look_like(1280, 860, calm=True)
        await stage.open()
        await stage.page.until("document.querySelector('#connection').dataset.state === 'live'")
        await stage.shows("AAPL", ".bid .price", "185.50")
        await stage.say(quote("AAPL", 186, 186.01))
        await stage.shows("AAPL", ".bid .price", "186.00")
        price = "document.querySelector('tr[data-symbol=AAPL] .bid .price')"
        assert await stage.page.evaluate(f"{price}.getAnimations({{subtree: true}}).length") == 0
        assert await stage.page.evaluate(f"getComputedStyle({price}, '::before').opacity") == "1"
        name = "document.querySelector('tr[data-symbol=AAPL] .name')"
        assert await stage.page.evaluate(f"getComputedStyle({price}).color === getComputedStyle({name}).color")

    play(tmp_path, steps, USUAL)


def test_a_price_that_moved_is_marked_for_a_moment(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        await stage.open()
        await stage.page.until("document.querySelector('#connection').dataset.state === 'live'")
        await stage.shows("AAPL", ".bid .price", "185.50")
        price = "document.querySelector('tr[data-symbol=AAPL] .bid .price')"
        watching = (
            f"window.marks = []; new MutationObserver(() => marks.push({price}.className))"
            f".observe({price}, {{attributeFilter: ['class']}})"
        )
        await stage.page.evaluate(watching)
        await stage.say(quote("AAPL", 185.51, 185.52))
        await stage.page.until("marks.join() === 'price fresh,price'")

    play(tmp_path, steps, USUAL)


def test_a_change_of_every_row_is_laid_out_once(tmp_path: Path) -> None:
    """What is read back from the page between two writes has it laid out in between: of 50 rows, some 200 times."""
    names = [f"S{place:02}" for place in range(50)]

    async def layouts(page: chromium.Page) -> int:
        metrics = (await page.send("Performance.getMetrics"))["metrics"]
        return int(next(metric["value"] for metric in metrics if metric["name"] == "LayoutCount"))

    async def steps(stage: Stage) -> None:
        page = stage.page
        await stage.open()
        await page.evaluate(f"localStorage.setItem('fabric.watchlist', {json.dumps(json.dumps(names))})")
        await stage.open()
        await page.until("document.querySelector('#connection').dataset.state === 'live'")
        await stage.shows("S49", ".bid .price", "185.50")
        await page.send("Performance.enable")
        before = await layouts(page)
        for step in range(4):
            await stage.say(*[quote(name, 186 + step, 187 + step) for name in names])
            await stage.shows("S49", ".bid .price", f"{186 + step}.00")
        assert await layouts(page) - before < 50  # 4 of the prices, those of ages, venues and lines

    play(tmp_path, steps, tuple(names))


def test_a_row_explains_its_best_bid_and_offer(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        rig, page = stage.rig, stage.page
        rig.put(rig.quote("AAPL", bid_size=300), rig.why("AAPL", ask_condition=venue_mask("V")))
        await rig.taken()
        await page.look_like(1280, 860, dark=True)
        await stage.open()
        await stage.shows("AAPL", ".bid .price", "185.50")
        await page.evaluate("document.querySelector('#why').click()")
        side = "document.querySelector('#explain [data-side={}] li[data-venue=V]')"
        await page.until(f"{side.format('bid')}?.dataset.standing === 'best'")
        assert await page.evaluate(f"{side.format('ask')}.dataset.standing") == "out"
        text = await page.evaluate("document.querySelector('#explain').innerText")
        assert "AAPL" in text
        assert "not the NBBO" in text
        assert "the condition of the quote is not eligible" in text
        assert "round lot 40" in text
        await page.screenshot(ARTEFACTS / "page-explain-dark.png")
        rig.put(rig.quote("AAPL", seq=2, bid_px=185_400_000_000), rig.nbbo("AAPL", seq=12, bid_px=185_400_000_000))
        await rig.taken()
        await page.until(f"{side.format('bid')}.querySelector('.at').textContent === '185.40'")
        await page.look_like(390, 844, scale=2)
        await page.screenshot(ARTEFACTS / "page-explain-phone.png")
        await page.press("Escape")
        await page.until("!document.querySelector('#explain').open")
        await page.evaluate("document.querySelector('tr[data-symbol=MSFT]').focus()")
        await page.press("e", text="e")
        await page.until("document.querySelector('#explain h2').textContent === 'MSFT'")
        await page.evaluate("document.querySelector('#explain .close').click()")
        await page.until("!document.querySelector('#explain').open")

    play(tmp_path, steps, USUAL)


MINUTE_NS = 60_000_000_000
LEGEND = "document.querySelector('#legend [data-name={}]')?.textContent"


def minutes(rig: Rig, count: int) -> Rows:
    """Closed minutes of AAPL up to the one that runs, which is the last."""
    now_ns = rig.runtime.clock.now_ns() // MINUTE_NS * MINUTE_NS
    rows = rig.bars("AAPL", count, now_ns - (count - 1) * MINUTE_NS).view(BAR)
    rows["rev"][-1] = 0
    return rows


def test_the_candle_that_runs_grows_and_intervals_are_switched(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        rig, page = stage.rig, stage.page
        rows = minutes(rig, 40)
        five = rows[-1:].copy()
        five["kind"], five["volume"] = KIND_BAR_5M, 12_345
        rig.put(rows.view(EVENT), five.view(EVENT))
        await rig.taken()
        await page.look_like(1280, 860)
        await stage.open()
        await page.until(f"{LEGEND.format('C')} === '11.00'")
        assert await page.evaluate("document.querySelector('#chart').dataset.count") == "40"
        for number, close in enumerate((11.5, 12.25, 12.5)):
            row = rows[-1:].copy()
            row["seq"], row["close_px"], row["volume"] = 100 + number, round(close * 10**9), 1_000 + number
            rig.put(row.view(EVENT))
            await page.until(f"{LEGEND.format('C')} === '{close:.2f}'")
            await page.until(f"{LEGEND.format('V')} === '{1_000 + number:,}'")
        row["seq"], row["event_ns"], row["volume"] = 200, row["event_ns"] + MINUTE_NS, 5
        rig.put(row.view(EVENT))
        await page.until("document.querySelector('#chart').dataset.count === '41'")
        await page.evaluate("document.querySelector('[data-interval=\"5m\"]').click()")
        await page.until(f"{LEGEND.format('V')} === '12,345'")
        await page.press("ArrowLeft")
        await page.evaluate("document.querySelector('[aria-checked=true]').focus()")
        await page.press("ArrowLeft")
        await page.until("document.querySelector('#chart').dataset.count === '41'")

    play(tmp_path, steps, USUAL)


def test_scrolling_back_brings_what_is_older_without_a_seam(tmp_path: Path) -> None:
    store = open_history(str(tmp_path / "history.db"))

    async def steps(stage: Stage) -> None:
        rig, page = stage.rig, stage.page
        rows = minutes(rig, 1_000)
        rows["rev"] = 1
        store.write(["AAPL"] * rows.size, rows)
        rig.put(rows[-30:].view(EVENT))
        await rig.taken()
        await page.look_like(1280, 860)
        await stage.open()
        count = "Number(document.querySelector('#chart').dataset.count)"
        await page.until(f"{count} >= 400")
        await page.evaluate("document.querySelector('#chart').focus()")
        for _ in range(60):
            if await page.evaluate(f"{count} === 1000"):
                break
            await page.press("ArrowLeft")
            await asyncio.sleep(0.05)
        assert await page.evaluate(count) == 1_000

    play(tmp_path, steps, USUAL, history=store, candles_kept=1_000)


def test_the_ladder_shows_the_winner_of_each_side_and_why_others_are_out(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        rig, page = stage.rig, stage.page
        rig.put(rig.quote("AAPL", bid_size=300), rig.why("AAPL", ask_condition=venue_mask("V")))
        await rig.taken()
        await stage.open()
        side = "document.querySelector('#ladder [data-side={}] li[data-venue=V]')"
        await page.until(f"{side.format('bid')}?.dataset.standing === 'best'")
        assert await page.evaluate(f"{side.format('ask')}.dataset.standing") == "out"
        assert "not eligible" in await page.evaluate(f"{side.format('ask')}.querySelector('.why').textContent")

    play(tmp_path, steps, USUAL)


def test_a_publisher_that_is_lost_is_told_within_two_seconds_and_so_is_its_return(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        rig, page = stage.rig, stage.page
        await stage.open()
        await stage.shows("AAPL", ".bid .price", "185.50")
        await page.until("document.querySelector('#banner').hidden")
        await asyncio.sleep(1.1)  # the page has asked once
        rig.put(rig.link(0))
        begun = asyncio.get_running_loop().time()
        await page.until("document.querySelector('#banner').textContent.includes('nbbo is down')")
        assert asyncio.get_running_loop().time() - begun < 2
        rig.put(rig.link(1))
        await page.until("document.querySelector('#banner').textContent.includes('was lost and is back')")

    play(tmp_path, steps, USUAL)


def test_a_busy_gateway_says_so(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        await stage.open()
        await stage.page.until("document.querySelector('#connection').dataset.state === 'live'")
        await stage.say({"T": "mode", "mode": "degraded", "interval_ms": 500})
        await stage.page.until("document.querySelector('#banner').textContent.includes('500 ms')")
        await stage.say({"T": "mode", "mode": "normal", "interval_ms": 100})
        await stage.page.until("document.querySelector('#banner').hidden")

    play(tmp_path, steps, USUAL)


# Operations


def operators(time_s: int, state: str = "ready", processor: str = "ready", p99: float | None = 6.5) -> dict[str, Any]:
    """An answer as the description of `/v1/ops` has it, of three nodes."""
    health = "ok" if processor == "ready" else "alarm"
    nodes = [
        {"name": name, "role": role, "state": "ready", "health": "ok", "why": "", "rate": 4_012.0, "lag": 0}
        for name, role in (("iex", "feed"), ("nbbo", "processor"), ("web", "gateway"))
    ]
    nodes[1] |= {"state": processor, "health": health, "why": "ended by signal 9" if health == "alarm" else ""}
    links = [{"from": "iex", "to": "nbbo", "kind": "bus", "up": True, "rate": 4_012.0, "health": "ok"}]
    links.append({"from": "nbbo", "to": "web", "kind": "bus", "up": health == "ok", "rate": None, "health": health})
    figures = {"p50_ms": 2.25, "p99_ms": p99, "p999_ms": 9.0}
    hop = {"name": "processor", "from": "feed out", "to": "processor out", "count": 10, "health": "ok", **figures}
    gauge = {
        "name": "latency_p99",
        "title": "p99 feed to client",
        "value": p99,
        "warn": 200,
        "alarm": 500,
        "unit": "ms",
    }
    judged = "alarm" if p99 is not None and p99 > 500 else "ok"
    return {
        "v": 1, "t": time_s + 0.5, "state": state, "uptime_s": 61.2, "nodes": nodes, "links": links, "hops": [hop],
        "thresholds": [{**gauge, "worse": "above", "health": judged}],
        "connections": {"open": 12, "max": 20_000, "refused": 0, "cut": 0},
        "series": {"t": [time_s], "hops": {"processor": {name: [value] for name, value in figures.items()}}},
    }  # fmt: skip


def test_operators_see_nodes_links_thresholds_and_latencies(tmp_path: Path) -> None:
    said = [operators(1_795_382_400)]

    async def steps(stage: Stage) -> None:
        page = stage.page
        await page.look_like(1280, 900, dark=True)
        await stage.open()
        await page.evaluate("document.querySelector('a[href=\"#operations\"]').click()")
        await page.until("document.querySelector('[data-node=nbbo]')?.dataset.state === 'ready'")
        assert await page.evaluate("document.querySelectorAll('#operations path').length") == 2
        await page.until("document.querySelector('[data-name=latency_p99] b').textContent === '6.5 ms'")
        await page.until("document.querySelector('[data-hop=processor] .p99 b').textContent === '6.5 ms'")
        await page.until("document.querySelector('[data-hop=processor] canvas') !== null")
        said.append(operators(1_795_382_401, "degraded", "back-off", 480.0))
        await page.until("document.querySelector('[data-node=nbbo]').dataset.health === 'alarm'")
        await page.until(
            "document.querySelector('#operations .state p').textContent.includes('nbbo: ended by signal 9')"
        )
        await page.until("document.querySelector('#operations path[data-up=no]') !== null")
        await page.until("document.querySelector('[data-hop=processor] .p99 b').textContent === '480 ms'")
        await page.screenshot(ARTEFACTS / "page-operations-dark.png")
        said.append(operators(1_795_382_402, p99=1_250.0))  # every node works, and yet it is not well
        await page.until("document.querySelector('#operations .state').dataset.state === 'degraded'")
        await page.until("document.querySelector('#operations .state h2').textContent.includes('p99 feed to client')")
        await page.until("document.querySelector('[data-name=latency_p99] b').textContent === '1.25 s'")
        await page.look_like(390, 844, scale=2)
        await page.screenshot(ARTEFACTS / "page-operations-phone.png")
        assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0

    play(tmp_path, steps, USUAL, said=said)


def test_without_the_operators_data_the_view_shows_what_the_gateway_knows(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        page = stage.page
        await stage.open()
        await page.evaluate("location.hash = '#operations'")
        await page.until("document.querySelector('[data-node=nbbo]') !== null")
        stage.rig.put(stage.rig.link(0))
        await page.until("document.querySelector('[data-node=nbbo]').dataset.health === 'alarm'")
        stage.page.problems[:] = [text for text in page.problems if "503" not in text]

    play(tmp_path, steps, USUAL)


def test_a_gateway_with_keys_asks_for_one_and_the_stream_gets_a_ticket(tmp_path: Path) -> None:
    """The key goes out in a header only, survives a reload of the tab, and a wrong one is told; a ticket opens once."""
    path = tmp_path / "keys.json"
    key, secret = keys.make("page", "full", 0)
    keys.add(path, key)
    access = Access(str(path))

    async def steps(stage: Stage) -> None:
        await stage.open()
        await stage.page.until("document.querySelector('#door')?.open")
        await stage.page.type("FKWRONG.wrong")
        await stage.page.press("Enter")
        await stage.page.until("document.querySelector('#door .note').textContent.includes('not one that is let in')")
        assert not stage.opened, "no handshake without a ticket"
        await stage.page.type(f"{key.id}.{secret}")
        await stage.page.press("Enter")
        await stage.shows("AAPL", ".bid .price", "185.50")
        await stage.page.until("document.querySelector('#connection').dataset.state === 'live'")
        assert not await stage.page.evaluate("document.querySelector('#door')?.open")
        await stage.reload()
        await stage.page.until("document.querySelector('#connection')?.dataset.state === 'live'")
        assert not await stage.page.evaluate("document.querySelector('#door').open")
        tickets = [stream.get_query_argument("ticket") for stream in stage.opened]
        assert len(set(tickets)) == len(tickets) == 2
        for ticket in tickets:
            assert stage.rig.door.identify(Credentials(ticket, ticket=True), "").user == "key page"
            with pytest.raises(AuthError):
                stage.rig.door.identify(Credentials(ticket, ticket=True), "")
        assert secret not in await stage.page.evaluate("performance.getEntries().map(entry => entry.name).join(' ')")
        refused = [text for text in stage.page.problems if "401" in text]
        assert refused, "the browser notes each refusal by itself"
        stage.page.problems[:] = [text for text in stage.page.problems if text not in refused]

    play(tmp_path, steps, USUAL, access=access)


def test_the_page_is_small(tmp_path: Path) -> None:
    """All of it, both views: what a browser that unpacks gzip takes over the wire."""

    async def ask(path: str) -> int:
        async with running() as rig:
            client = AsyncHTTPClient()
            found = await client.fetch(
                f"http://127.0.0.1:{rig.port}{path}", decompress_response=False, headers={"Accept-Encoding": "gzip"}
            )
            assert found.headers["Content-Encoding"] == "gzip"
            return len(found.body)

    assert asyncio.run(ask("/")) < 10_000
    assert Page(PAGE).packed_bytes() < 300_000
