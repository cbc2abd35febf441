"""The watchdog: what it says of a loop that a callback blocks, and that it is silent otherwise."""

import asyncio
import logging
import re
import time

import pytest

from gateway.watchdog import LOOKS, Watchdog

BLOCKED_AFTER_S = 0.1
LOG = logging.getLogger("web")


async def turn(watchdog: Watchdog, seconds: float) -> None:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        watchdog.turned()
        await asyncio.sleep(BLOCKED_AFTER_S / LOOKS / 2)


def block_the_loop() -> None:
    time.sleep(4 * BLOCKED_AFTER_S)


def test_each_block_is_one_stack_and_one_line_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        with Watchdog(LOG, BLOCKED_AFTER_S) as watchdog:
            for block in (1, 2):
                asyncio.get_running_loop().call_soon(block_the_loop)
                while len(caplog.records) < 2 * block:
                    await turn(watchdog, BLOCKED_AFTER_S)

    asyncio.run(play())
    found = [record.getMessage() for record in caplog.records]
    assert len(found) == 4
    for stuck, over in (found[:2], found[2:]):
        assert re.match(r"the loop has not turned for \d\.\d s; it is in\n", stuck)
        assert "in block_the_loop\n    time.sleep(" in stuck
        blocked = re.fullmatch(r"the loop turns again: it was blocked for (\d\.\d) s", over)
        assert blocked is not None
        assert float(blocked[1]) >= 4 * BLOCKED_AFTER_S


def test_a_loop_that_turns_is_no_news_and_the_thread_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def play(watchdog: Watchdog) -> None:
        with watchdog:
            await turn(watchdog, 1.2)

    watchdog = Watchdog(LOG, 1.0)
    asyncio.run(play(watchdog))
    assert caplog.records == []
    assert not watchdog._thread.is_alive()
