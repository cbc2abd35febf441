"""Headless Chromium, driven over the DevTools protocol: open a page, look at it, press its keys.

Protocol: chromedevtools.github.io/devtools-protocol.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import websockets
from tornado.httpclient import AsyncHTTPClient

PATH = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--mute-audio",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Page:
    """One tab."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.problems: list[str] = []  # exceptions, console errors and refusals of the content policy
        self.reader = asyncio.create_task(self._read())

    async def send(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        return await self._answers[number]

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str, within_s: float = 30) -> Any:
        """Wait until an expression is true; return its value. A page that a navigation leads to is asked as well."""
        look = f"const value = ({expression}); value ? done(value) : setTimeout(look, 15)"
        asked = f"new Promise(done => {{ const look = () => {{ {look} }}; look() }})"
        async with asyncio.timeout(within_s):
            while True:
                try:
                    return await self.evaluate(asked)
                except RuntimeError as error:
                    if "navigated" not in str(error):
                        raise

    async def open(self, url: str) -> None:
        """Go to a page; returns when it has been loaded, its scripts too."""
        await self.send("Page.enable")
        await self.send("Runtime.enable")
        await self.send("Log.enable")
        await self.send("Page.navigate", url=url)
        await self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    async def press(self, key: str, text: str = "", alt: bool = False) -> None:
        """Press and release one key."""
        common = {"key": key, "code": key, "modifiers": 1 if alt else 0}
        codes = {"Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, "Delete": 46, "Tab": 9}
        common |= {"windowsVirtualKeyCode": codes.get(key, 0)}
        await self.send(
            "Input.dispatchKeyEvent", type="keyDown", text=text or ("\r" if key == "Enter" else ""), **common
        )
        await self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    async def type(self, text: str) -> None:
        for character in text:
            await self.press(character, text=character)

    async def look_like(
        self, width: int, height: int, *, dark: bool = False, calm: bool = False, scale: float = 1
    ) -> None:
        """Take the size of a screen and its user's preferences. ``calm``: prefers-reduced-motion."""
        mobile = width < 700
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"},
        ]
        await self.send("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self, path: Path) -> None:
        image = base64.b64decode((await self.send("Page.captureScreenshot", format="png"))["data"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)  # noqa: ASYNC240  (a picture to a local disk, in a test)

    async def _read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                waiting = self._answers.pop(message["id"])
                if waiting.cancelled():  # nobody waits for it any longer
                    continue
                if "error" in message:
                    waiting.set_exception(RuntimeError(message["error"]["message"]))
                else:
                    waiting.set_result(message["result"])
            elif message["method"] == "Runtime.exceptionThrown":
                self.problems.append(json.dumps(message["params"]["exceptionDetails"]))
            elif message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.problems.append(message["params"]["entry"]["text"])


@contextlib.asynccontextmanager
async def page(profile: Path) -> AsyncIterator[Page]:
    """A browser of its own with one tab; ``profile`` is a fresh folder."""
    assert PATH is not None
    browser = await asyncio.create_subprocess_exec(
        PATH, *FLAGS, f"--user-data-dir={profile}", "about:blank", stderr=asyncio.subprocess.PIPE
    )
    assert browser.stderr is not None
    try:
        async with asyncio.timeout(20):
            while b"DevTools listening" not in (line := await browser.stderr.readline()):
                assert line, "chromium ended before it listened"
        port = line.decode().rsplit(":", 1)[1].split("/")[0]
        drain = asyncio.create_task(browser.stderr.read())  # its chatter must not fill the pipe
        listing = await AsyncHTTPClient(force_instance=True).fetch(f"http://127.0.0.1:{port}/json/list")
        tab = next(entry for entry in json.loads(listing.body) if entry["type"] == "page")
        async with websockets.connect(tab["webSocketDebuggerUrl"], max_size=None) as socket:
            tab_page = Page(socket)
            try:
                yield tab_page
            finally:
                tab_page.reader.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await tab_page.reader
    finally:
        browser.terminate()
        await browser.wait()
        with contextlib.suppress(NameError):
            await drain
