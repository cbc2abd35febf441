"""Going on after a disconnection: a publisher with a real log, a whole gateway, and clients on real sockets."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgpack
import numpy as np
import pytest
import websockets
import zmq
from websockets.exceptions import ConnectionClosed

from fabric.bus import Inbox, LogReader, Outbox
from fabric.errors import UnavailableError
from fabric.node import Runtime
from fabric.records import BAR, EVENT, KIND_BAR_1M, KIND_STATUS, KIND_TRADE, STATUS, TRADE, Rows, empty, pack
from fabric.topology import JournalSettings, Limits, Publisher, Source, Topology
from gateway import latest_kernel, resume, websocket
from gateway.app import Gateway
from gateway.auth import Door
from gateway.connection import Connections
from gateway.fanout import Fanout
from gateway.latest import Latest
from gateway.protocol_kernel import JSON, MSGPACK
from gateway.shared import Shared
from gateway_market import VENUES, decode
from gateway_rig import FakeRuntime
from support import free_port

PX = 10**9
WAIT_S = 20.0
LIMITS = Limits(symbols_max=64, candles_kept=4, clients_max=64, batch_max=4_096, drain_ns=0)


class Market:
    """A publisher of trades, bars and statuses with a log; it may die and come back."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", folder: Path) -> None:
        self.context = context
        self.publisher = Publisher(
            "feed", f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}",
            ("quote", "trade", "status", "bar.1m"), "VN", journal=JournalSettings(str(folder)),
        )  # fmt: skip
        self.runtime = RealRuntime(self)
        self.epoch = 1_795_392_000_123_456_000
        self.outbox: Outbox | None = None
        self.count = 0
        self.begin()

    def begin(self) -> None:
        """Come up under a new epoch; libzmq lets go of an address in a thread of its own."""
        self.epoch += 1
        while self.outbox is None:
            with contextlib.suppress(UnavailableError):
                self.outbox = Outbox(
                    self.context, self.publisher, self.runtime.symbols, LIMITS, self.runtime.clock,
                    epoch=self.epoch, stamp="feed_ns",
                )  # fmt: skip

    def die(self) -> None:
        assert self.outbox is not None
        self.outbox.close()
        self.outbox = None

    def trade(self, *names: str, venue: str = "V") -> None:
        """One trade of each, with prices that count up."""
        rows = empty(len(names), TRADE, KIND_TRADE)
        rows["symbol"] = [self.runtime.symbols.intern(name) for name in names]
        rows["venue"] = ord(venue)
        rows["price"] = (self.count + 1 + np.arange(len(names))) * PX
        rows["size"], rows["event_ns"], rows["recv_ns"] = 1, self.runtime.clock.now_ns(), self.runtime.clock.now_ns()
        self.count += len(names)
        self._send(rows)

    def bar(self, name: str, minute: int, rev: int) -> None:
        rows = empty(1, BAR, KIND_BAR_1M)
        rows["symbol"], rows["event_ns"], rows["rev"] = self.runtime.symbols.intern(name), minute * 60 * 10**9, rev
        for column in ("open_px", "high_px", "low_px", "close_px"):
            rows[column] = (minute * 10 + rev) * PX
        self._send(rows)

    def halt(self, name: str) -> None:
        rows = empty(1, STATUS, KIND_STATUS)
        rows["symbol"], rows["venue"], rows["trading"] = self.runtime.symbols.intern(name), ord("V"), pack("H")
        rows["upper_px"] = 7 * PX
        self._send(rows)

    def _send(self, rows: Rows) -> None:
        assert self.outbox is not None
        self.outbox.send(rows.view(EVENT))


class RealRuntime(FakeRuntime):
    """The launcher's part, with the real bus."""

    def __init__(self, market: Market) -> None:
        super().__init__(free_port(), LIMITS)
        self.market = market
        source = Source(market.publisher, ("quote.", "trade.", "status.", "bar.1m."))
        self.spec = replace(self.spec, reads=(source,))
        self.topology = Topology("topology.yaml", (self.spec,), VENUES, LIMITS)
        self.opened: list[Inbox | LogReader] = []

    def inbox(self) -> Any:
        self.opened.append(Inbox(self.market.context, self.spec.reads, self.symbols, LIMITS, self.clock))
        return self.opened[-1]

    def log_reader(self) -> LogReader:
        reader = LogReader(self.market.context, [self.market.publisher], self.symbols, LIMITS, self.clock)
        self.opened.append(reader)
        return reader


@contextlib.asynccontextmanager
async def gateway(market: Market) -> AsyncIterator[str]:
    """One life of a gateway; its address."""
    runtime = RealRuntime(market)
    latest_kernel.warm_up()
    latest = Latest(LIMITS, VENUES, runtime.spec.reads, runtime.symbols)
    fanout = Fanout(runtime.topology, cast(Any, runtime.spec.settings), runtime.symbols, latest, runtime.clock)
    door = Door(runtime.topology.access, LIMITS, Shared(None), runtime.clock)
    connections = Connections()
    door_way = Gateway(
        cast(Runtime, runtime), latest, cast(Any, fanout), None, door, connections=connections, fanout=fanout
    )
    rules = websocket.handlers(fanout, runtime.symbols, door, connections=connections)
    serving = asyncio.create_task(door_way.serve(rules))
    beating = asyncio.create_task(_beat(market))
    try:
        await asyncio.wait_for(runtime.is_ready.wait(), WAIT_S)
        yield f"ws://127.0.0.1:{cast(Any, runtime.spec.settings).port}"
    finally:
        runtime.stopped = True
        await serving
        beating.cancel()
        for opened in runtime.opened:
            opened.close()


async def _beat(market: Market) -> None:
    """What a publisher does beside sending."""
    while True:
        if market.outbox is not None:
            market.outbox.tick()
        await asyncio.sleep(0.005)


@pytest.fixture
def market(context: "zmq.Context[zmq.Socket[bytes]]", tmp_path: Path) -> Iterator[Market]:
    made = Market(context, tmp_path)
    yield made
    if made.outbox is not None:
        made.outbox.close()


class Reader:
    """A client that keeps what it needs to come back."""

    def __init__(self, url: str, encoding: int = JSON) -> None:
        self.url, self.encoding = url, encoding
        self.at: dict[str, list[Any]] = {}
        self.prices: list[float] = []
        self.heard: list[dict[str, Any]] = []

    @contextlib.asynccontextmanager
    async def connected(self, **subscription: Any) -> AsyncIterator[None]:
        """Subscribed, behind what has been heard before."""
        headers = {"Content-Type": "application/msgpack"} if self.encoding == MSGPACK else {}
        async with websockets.connect(self.url + "/stream", additional_headers=headers) as self.ws:
            request = {"action": "subscribe", "interval_ms": 0, "resume": self.at, **subscription}
            await self.ws.send(json.dumps(request) if self.encoding == JSON else msgpack.packb(request))
            yield

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                for message in decode(await self.ws.recv(), self.encoding):
                    self.heard.append(message)
                    self.take(message)

    def take(self, message: dict[str, Any]) -> None:
        """As docs/websocket.md tells."""
        if message["T"] == "mark":
            self.at = message["at"]
        elif "O" in message:
            for place in self.at.values():
                if place[0] == message["E"]:
                    place[1] = max(place[1], message["O"])
        if message["T"] == "t":
            self.prices.append(message["p"])

    async def has(self, count: int) -> None:
        await self.until(lambda: len(self.prices) >= count)

    async def marked(self) -> None:
        """Hear one more mark: all that was published before has come."""
        before = self.kinds("mark")
        await self.until(lambda: self.kinds("mark") > before)

    def kinds(self, kind: str) -> int:
        return sum(message["T"] == kind for message in self.heard)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(50):
            await test()

    asyncio.run(bounded())


@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
def test_what_was_missed_comes_once_and_in_order(market: Market, encoding: int) -> None:
    async def test() -> None:
        async with gateway(market) as url:
            client = Reader(url, encoding)
            async with client.connected(trades=["A", "B"]):
                await client.marked()
                market.trade("A", "B", "C", "A")
                await client.has(3)
            witness = Reader(url, encoding)
            async with witness.connected(trades=["B"]):
                await witness.marked()
                market.trade("C", "A", "B")
                market.trade("B", venue="N")
                await witness.has(2)  # the gateway has them: who comes now is given them from the log
            async with client.connected(trades=["A", "B"]):
                await client.has(6)
                market.trade("A")
                await client.has(7)
            assert client.prices == [1, 2, 4, 6, 7, 8, 9]
            assert client.kinds("gap") == 0
            assert [message["messages"] for message in client.heard if message["T"] == "resumed"] == [3]

    run(test)


def test_what_is_published_while_a_client_comes_back_is_neither_lost_nor_doubled(market: Market) -> None:
    """The part from the log and the live part meet under load, again and again."""

    async def test() -> None:
        names = [f"S{number}" for number in range(40)]

        async def publish() -> None:
            while True:
                market.trade(*names)
                await asyncio.sleep(0.005)

        async with gateway(market) as url:
            client = Reader(url)
            async with client.connected(trades=["S*"]):
                await client.marked()
            publishing = asyncio.create_task(publish())
            for times in range(1, 9):
                async with client.connected(trades=["S*"]):
                    await client.until(lambda times=times: client.kinds("resumed") == times)
                    await client.has(len(client.prices) + 400)
            publishing.cancel()
            assert client.kinds("resumed") == 8
            assert client.prices == sorted(set(client.prices)), "none twice, none late"
            told = sum(message["missed"] for message in client.heard if message["T"] == "gap")
            assert len(client.prices) + told == client.prices[-1], "none lost unsaid"

    run(test)


def test_over_a_restart_of_the_gateway(market: Market) -> None:
    async def test() -> None:
        async with gateway(market) as url:
            client = Reader(url)
            async with client.connected(trades=["*"]):
                await client.marked()
                market.trade("A", "B")
                await client.has(2)
                with contextlib.suppress(ConnectionClosed):
                    await client.marked()
        market.trade("A", "NEW", "B")
        async with gateway(market) as url:
            client.url = url
            async with client.connected(trades=["*"]):
                await client.has(5)
                market.trade("NEW")
                await client.has(6)
        assert client.prices == [1, 2, 3, 4, 5, 6]
        assert client.kinds("gap") == 0

    run(test)


def test_over_a_restart_of_the_publisher(market: Market) -> None:
    async def test() -> None:
        async with gateway(market) as url:
            client = Reader(url)
            async with client.connected(trades=["A"]):
                await client.marked()
                market.trade("A")
                await client.has(1)
            market.trade("A", "A")
            market.die()
            market.begin()
            market.trade("A")
            other = Reader(url)
            async with other.connected(trades=["A"]):
                await other.until(lambda: any(str(market.epoch) in map(str, place) for place in other.at.values()))
            async with client.connected(trades=["A"]):
                await client.has(4)
                market.trade("A")
                await client.has(5)
        assert client.prices == [1, 2, 3, 4, 5]
        assert client.kinds("gap") == 0

    run(test)


def test_bars_and_statuses_come_too_and_quotes_by_snapshot(market: Market) -> None:
    async def test() -> None:
        async with gateway(market) as url:
            client = Reader(url)
            wanted = {name: ["A"] for name in ("bars", "updatedBars", "statuses", "lulds", "quotes")}
            async with client.connected(**wanted):
                await client.marked()
            for rev in (0, 1, 2):
                market.bar("A", 1, rev)
                market.bar("B", 1, rev)
            market.halt("A")
            client.heard.clear()
            async with client.connected(**wanted):
                await client.until(lambda: client.kinds("resumed") == 1)
        found = [(message["T"], message.get("c", message.get("sc"))) for message in client.heard if "O" in message]
        assert found == [("b", 11), ("u", 12), ("s", "H"), ("l", None)]

    run(test)


def test_a_venue_has_only_its_own(market: Market) -> None:
    async def test() -> None:
        async with gateway(market) as url:
            client = Reader(url.replace("/stream", ""))
            async with client.connected(trades=["A"]):
                await client.marked()
            market.trade("A", venue="V")
            market.trade("A", venue="N")
            async with websockets.connect(f"{url}/v2/iex") as ws:
                await ws.send(json.dumps({"action": "auth", "key": "k", "secret": "s"}))
                await ws.send(json.dumps({"action": "subscribe", "trades": ["A"], "resume": client.at}))
                heard: list[dict[str, Any]] = []
                while not any(message["T"] == "resumed" for message in heard):
                    heard += json.loads(await asyncio.wait_for(ws.recv(), WAIT_S))
            assert [message["p"] for message in heard if message["T"] == "t"] == [1]

    run(test)


def lost(place: tuple[int, int], market: Market) -> dict[str, list[int]]:
    return {"feed": [place[0] + market.epoch, place[1]]}


@pytest.mark.parametrize(
    ("places", "why"),
    [
        ({"other": [1, 1]}, "of another topology"),
        ({"feed": [2**62, 1]}, "an epoch that has not been"),
    ],
)
def test_what_cannot_be_had_is_a_gap(market: Market, places: dict[str, list[int]], why: str) -> None:
    async def test() -> None:
        market.trade("A", "A", "A")
        async with gateway(market) as url:
            client = Reader(url)
            client.at = places
            async with client.connected(trades=["A"], bars=["B"]):
                client.at = {}
                await client.until(lambda: client.kinds("mark") == 1)
                market.trade("A")
                await client.has(1)
            gaps = [message for message in client.heard if message["T"] == "gap"]
            expected = [{"T": "gap", "channel": channel, "missed": None} for channel in ("bars", "trades")]
            assert gaps == expected, why
            assert client.prices == [4]

    run(test)


def test_a_log_that_does_not_answer_is_a_gap_and_live_goes_on(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(resume, "WAIT_NS", 300_000_000)
        monkeypatch.setattr(LogReader, "_send", lambda *_: None)
        async with gateway(market) as url:
            client = Reader(url)
            async with client.connected(trades=["A"]):
                await client.marked()
            market.trade("A")
            async with client.connected(trades=["A"]):
                await client.until(lambda: client.kinds("gap") == 1)
                market.trade("A")
                await client.has(1)
            assert client.prices == [2]

    run(test)


def test_a_trace_tells_each_hop(market: Market) -> None:
    async def test() -> None:
        async with gateway(market) as url, websockets.connect(f"{url}/stream") as ws:
            await ws.send(json.dumps({"action": "subscribe", "trades": ["A"], "trace": True, "interval_ms": 0}))
            heard: list[dict[str, Any]] = []
            while not any(message["T"] == "subscription" for message in heard):
                heard += json.loads(await asyncio.wait_for(ws.recv(), WAIT_S))
            market.trade("A")
            (trade,) = json.loads(await asyncio.wait_for(ws.recv(), WAIT_S))
            assert trade["t3"] is None, "no processor was on its way"
            assert trade["t1"] <= trade["t2"] <= trade["t4"], "RFC 3339 in one zone sorts as text"
            assert "O" not in trade
            await ws.send(json.dumps({"action": "subscribe", "trace": False}))
            await ws.recv()
            market.trade("A")
            assert "t1" not in json.loads(await asyncio.wait_for(ws.recv(), WAIT_S))[0]

    run(test)
