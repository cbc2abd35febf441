"""The page in a real browser: prices, search, staleness, reconnection, keyboard, and nothing against its policy."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tornado.websocket import WebSocketHandler

import chromium
from fabric.records import venue_mask
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

    async def say(self, *messages: dict[str, Any]) -> None:
        await self.opened[-1].write_message(json.dumps(messages))

    async def shows(self, symbol: str, cell: str, text: str) -> None:
        """Wait until a cell of the symbol's row has this text."""
        row = f"tr[data-symbol={json.dumps(symbol)}] {cell}"
        await self.page.until(f"document.querySelector({json.dumps(row)})?.textContent === {json.dumps(text)}")

    async def symbols(self) -> list[str]:
        found: list[str] = await self.page.evaluate(
            "[...document.querySelectorAll('#rows tr')].map(row => row.dataset.symbol)"
        )
        return found


def quote(symbol: str, bid: float | None, ask: float | None, **more: Any) -> dict[str, Any]:
    sides = {"bx": "V", "bp": bid, "bs": 300, "ax": "V", "ap": ask, "as": 100}
    return {"T": "q", "S": symbol, **sides, "c": [], "z": None, "t": "2026-01-02T15:00:00.000000000Z", **more}


def play(tmp_path: Path, steps: Callable[[Stage], Awaitable[None]], names: tuple[str, ...]) -> None:
    """Run ``steps`` with the page not yet opened; at the end the browser must have nothing to complain about."""

    async def stage() -> None:
        opened: list[Stream] = []
        asked: list[dict[str, Any]] = []
        routes = [(r"/stream", Stream, {"opened": opened, "asked": asked})]
        async with running(websockets=routes) as rig, chromium.page(tmp_path / "profile") as page:
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
            "action": "subscribe", "quotes": list(USUAL), "trades": list(USUAL), "interval_ms": 250
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
        assert not await stage.page.evaluate(f"{classes}.contains('stale')")
        await stage.say(quote("AAPL", None, None, st=STALE))
        await stage.shows("AAPL", ".badge", "stale")
        await stage.shows("AAPL", ".bid .price", "185.50")
        assert await stage.page.evaluate(f"{classes}.contains('stale')")
        await stage.say(quote("AAPL", 186, 186.01, st=8))
        await stage.shows("AAPL", ".badge", "halted")
        await stage.shows("AAPL", ".bid .price", "186.00")
        assert not await stage.page.evaluate(f"{classes}.contains('stale')")
        await stage.say(quote("AAPL", 186, 186.01, st=64))
        await stage.shows("AAPL", ".badge", "at limit")

    play(tmp_path, steps, USUAL)


def test_a_lost_connection_is_told_marks_everything_and_comes_back(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        await stage.open()
        await stage.shows("AAPL", ".bid .price", "185.50")
        await stage.page.until("document.querySelector('#connection').dataset.state === 'live'")
        stage.opened[0].close(1012, "restarting")
        await stage.page.until("document.querySelectorAll('tr.stale').length === 10")
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
        assert stage.asked[-1] == {"action": "subscribe", "quotes": ["ABT"], "trades": ["ABT"], "interval_ms": 250}

        await page.press("ArrowUp", alt=True)
        assert (await stage.symbols())[-2:] == ["ABT", "IBM"]
        await page.press("ArrowDown")
        assert await page.evaluate("document.activeElement.dataset.symbol") == "IBM"
        await page.press("Delete")
        assert "IBM" not in await stage.symbols()
        assert await page.evaluate("document.activeElement.dataset.symbol") == "ABT"
        assert stage.asked[-1] == {"action": "unsubscribe", "quotes": ["IBM"], "trades": ["IBM"]}

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

    play(tmp_path, steps, USUAL)


def test_a_row_explains_its_best_bid_and_offer(tmp_path: Path) -> None:
    async def steps(stage: Stage) -> None:
        rig, page = stage.rig, stage.page
        rig.put(rig.quote("AAPL", bid_size=300), rig.why("AAPL", ask_condition=venue_mask("V")))
        await rig.taken()
        await page.look_like(1280, 860, dark=True)
        await stage.open()
        await stage.shows("AAPL", ".bid .price", "185.50")
        await page.evaluate("document.querySelector('tr[data-symbol=AAPL] .name').click()")
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
        await page.press("Enter")
        await page.until("document.querySelector('#explain h2').textContent === 'MSFT'")
        await page.evaluate("document.querySelector('#explain .close').click()")
        await page.until("!document.querySelector('#explain').open")

    play(tmp_path, steps, USUAL)
