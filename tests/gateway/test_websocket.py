"""Real sockets on loopback: Tornado's server, the websockets library, alpaca-py, and raw frames."""

import asyncio
import base64
import contextlib
import ctypes
import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import websockets
from tornado.httpserver import HTTPServer
from tornado.web import Application
from websockets.exceptions import ConnectionClosed, InvalidStatus

from fabric import keys
from fabric.clock import MILLISECOND_NS, SECOND_NS, ManualClock, SystemClock
from fabric.records import EVENT
from fabric.topology import Access, Limits, Plan
from gateway import connection, surge, websocket
from gateway.auth import Credentials, Door
from gateway.connection import Connections
from gateway.delayed import Delayed
from gateway.protocol_kernel import JSON, MSGPACK
from gateway.shared import Shared
from gateway_market import SOURCES, Market, decode

PX = 10**9
MSGPACK_HEADERS = {"Content-Type": "application/msgpack"}
WAIT_S = 20.0
"""Nothing here takes so long, however busy the machine; a test that waits for it fails."""

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets", "ignore:websockets.legacy")


class Running:
    """A served market: `market` to publish in, `url` to connect to."""

    def __init__(self, market: Market, port: int, door: Door, delayed: dict[int, Delayed]) -> None:
        self.market = market
        self.port = port
        self.door = door
        self.delayed = delayed
        self.step: Callable[[], None] = lambda: None

    def url(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    async def pump(self) -> None:
        """What the gateway does every few milliseconds."""
        while True:
            self.step()
            self.market.fanout.flush(self.market.clock.monotonic_ns())
            for delayed in self.delayed.values():
                delayed.turn(self.market.clock.now_ns(), self.market.clock.monotonic_ns())
            self.door.turn()
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def served(
    clock: Any = None,
    limits: Limits | None = None,
    send_buffer: int = 0,
    access: Access | None = None,
    table: Path | None = None,
) -> AsyncIterator[Running]:
    market = Market(clock or SystemClock(), limits)
    topology = market.fanout.topology
    door = Door(access or Access(), topology.limits, Shared(table), market.clock)
    delays = {plan.delay_ns for plan in door._access.plans if plan.delay_ns}
    delayed = {
        delay_ns: Delayed(delay_ns, topology, market.fanout.settings, SOURCES, market.symbols, market.clock)
        for delay_ns in delays
    }
    fanouts = {delay_ns: one.fanout for delay_ns, one in delayed.items()}
    connections = Connections()
    rules = websocket.handlers(market.fanout, market.symbols, door, fanouts, connections=connections)
    server = HTTPServer(Application(rules))
    listening = socket.create_server(("127.0.0.1", 0), backlog=1_024)
    if send_buffer:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # accepted sockets inherit it
    listening.setblocking(False)
    server.add_socket(listening)
    running = Running(market, listening.getsockname()[1], door, delayed)
    pumping = asyncio.create_task(running.pump())
    try:
        yield running
    finally:
        server.stop()
        market.fanout.close_all(1001, "")
        await server.close_all_connections()
        connections.close()
        pumping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pumping
        door.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(50):
            await test()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  (what it waits for has no event: a counter of the fan-out)
            await asyncio.sleep(0.001)


async def hear(ws: Any, encoding: int = JSON) -> list[dict[str, Any]]:
    return decode(await asyncio.wait_for(ws.recv(), WAIT_S), encoding)


async def say(ws: Any, encoding: int = JSON, **message: Any) -> None:
    await ws.send(json.dumps(message) if encoding == JSON else msgpack.packb(message))


async def closing(ws: Any) -> tuple[int, str, list[dict[str, Any]]]:
    """Read to the end: the close code, its words, and the messages before."""
    found: list[dict[str, Any]] = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            found += await hear(ws)
    return ws.close_code, ws.close_reason, found


class Raw:
    """A client that sees every byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, path: str = "/stream", receive_buffer: int = 0, **headers: str) -> "Raw":
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 17)
        raw = cls(reader, writer)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = {
            "Host": f"127.0.0.1:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        return raw

    async def upgraded(self) -> None:
        """Read the answer to the handshake, and the hello."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WAIT_S)
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert await self.frame() == (0x1, b'[{"T":"success","msg":"connected"}]')

    async def frame(self) -> tuple[int, bytes]:
        """One frame: opcode and payload. It must be whole, final and unmasked."""
        first, size = await asyncio.wait_for(self.reader.readexactly(2), WAIT_S)
        assert first & 0xF0 == 0x80, f"not the beginning of a frame: {first:#x}"
        assert size < 128
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.reader.readexactly(8), "big")
        return first & 0xF, await asyncio.wait_for(self.reader.readexactly(size), WAIT_S)

    async def quotes(self) -> list[dict[str, Any]]:
        """The messages of the next data frame."""
        while True:
            opcode, payload = await self.frame()
            if opcode in (0x1, 0x2):
                return decode(payload, JSON if opcode == 0x1 else MSGPACK)
            assert opcode != 0x8, f"closed: {payload!r}"
            if opcode == 0x9:
                self.send(payload, 0xA)

    def send(self, payload: bytes, opcode: int = 0x1) -> None:
        mask = os.urandom(4)
        size = len(payload)
        assert size < 1 << 16
        header = (
            bytes((0x80 | opcode, 0x80 | size))
            if size < 126
            else bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
        )
        self.writer.write(header + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)))

    def say(self, **message: Any) -> None:
        self.send(json.dumps(message).encode())

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


# --- sessions ---


def test_a_session_of_our_own_dialect() -> None:
    async def test() -> None:
        async with served() as running, websockets.connect(running.url("/stream")) as ws:
            running.market.apply(running.market.nbbo("AAPL", 185_500_000_000))
            assert await hear(ws) == [{"T": "success", "msg": "connected"}]
            await say(ws, action="subscribe", quotes=["AAPL"], req_id="a")
            (answer,) = await hear(ws)
            assert (answer["quotes"], answer["interval_ms"], answer["req_id"]) == (["AAPL"], 100, "a")
            (snapshot,) = await hear(ws)
            assert (snapshot["T"], snapshot["S"], snapshot["bp"], snapshot.get("k")) == ("q", "AAPL", 185.5, None)
            for bid in range(5):
                running.market.apply(running.market.nbbo("AAPL", (bid + 1) * PX))
            (latest,) = await hear(ws)
            assert (latest["bp"], latest["k"]) == (5, 4)
            await say(ws, action="unsubscribe", quotes=["AAPL"])
            assert (await hear(ws))[0]["quotes"] == []

    run(test)


def test_a_session_of_alpacas_dialect_in_msgpack() -> None:
    async def test() -> None:
        async with (
            served() as running,
            websockets.connect(running.url("/v2/sip"), additional_headers=MSGPACK_HEADERS) as ws,
        ):
            assert await hear(ws, MSGPACK) == [{"T": "success", "msg": "connected"}]
            await say(ws, MSGPACK, action="subscribe", quotes=["A"])
            assert (await hear(ws, MSGPACK))[0]["code"] == 401
            await say(ws, MSGPACK, action="auth", key="k", secret="s")
            assert await hear(ws, MSGPACK) == [{"T": "success", "msg": "authenticated"}]
            await say(ws, MSGPACK, action="subscribe", quotes=["A"], trades=["A"])
            assert (await hear(ws, MSGPACK))[0]["corrections"] == ["A"]
            market = running.market
            market.apply(
                *[row for bid in (1, 2, 3) for row in (market.nbbo("A", bid * PX), market.trade("A", bid * PX))]
            )
            found = await hear(ws, MSGPACK)
            assert [(m["T"], m.get("bp", m.get("p"))) for m in found] == [
                ("q", 1),
                ("t", 1),
                ("q", 2),
                ("t", 2),
                ("q", 3),
                ("t", 3),
            ]
            assert isinstance(found[0]["t"], msgpack.Timestamp)

    run(test)


@pytest.mark.parametrize("raw_data", [True, False])
def test_a_stock_alpaca_client_receives_quotes_trades_and_bars(raw_data: bool) -> None:
    from alpaca.data.live import StockDataStream

    async def test() -> None:
        async with served() as running:
            stream = StockDataStream("k", "s", raw_data=raw_data, url_override=running.url("/v2/sip"))
            heard: dict[str, Any] = {}
            done = asyncio.Event()

            def handler(kind: str) -> Callable[[Any], Awaitable[None]]:
                async def keep(value: Any) -> None:
                    heard.setdefault(kind, value)
                    if len(heard) == 5:
                        done.set()

                return keep

            stream.subscribe_quotes(handler("quote"), "AAPL", "BRK.B")
            stream.subscribe_trades(handler("trade"), "*")
            stream.subscribe_bars(handler("bar"), "AAPL")
            stream.subscribe_updated_bars(handler("updated"), "AAPL")
            stream.subscribe_trading_statuses(handler("status"), "AAPL")
            running_client = asyncio.create_task(stream._run_forever())
            await until(lambda: bool(running.market.fanout.subscriptions.of(0)))
            market = running.market
            market.apply(
                market.nbbo("AAPL", 185_500_000_000),
                market.trade("AAPL", 185_510_000_000),
                market.bar("AAPL", 0, 185_520_000_000, 1),
                market.bar("AAPL", 0, 185_530_000_000, 2),
                market.status("AAPL", trading="H", reason="T1", tape="C"),
            )
            await asyncio.wait_for(done.wait(), WAIT_S)
            if raw_data:
                assert (heard["quote"]["bp"], heard["trade"]["p"], heard["bar"]["c"]) == (185.5, 185.51, 185.52)
                assert heard["status"]["rm"] == "Halt - News Pending"
            else:
                quote, trade, bar = heard["quote"], heard["trade"], heard["bar"]
                assert (quote.symbol, quote.bid_price, quote.bid_exchange, quote.ask_size) == ("AAPL", 185.5, "V", 200)
                assert (trade.price, trade.size, trade.conditions, trade.tape) == (185.51, 10, ["@", "I"], "C")
                assert (bar.close, bar.volume, bar.vwap, bar.timestamp.year) == (185.52, 100, 185.52, 2026)
                assert heard["updated"].close == 185.53
                assert heard["status"].status_message == "Trading Halt"
            await stream.stop_ws()
            await stream.close()
            running_client.cancel()
            await asyncio.gather(running_client, return_exceptions=True)

    run(test)


def test_a_long_subscribe_comes_in_fragments() -> None:
    async def test() -> None:
        symbols = [f"LONGSYMBOL{i:05}" for i in range(2_500)]
        packed = msgpack.packb({"action": "subscribe", "quotes": symbols})
        assert 32_768 < len(packed) < websocket.protocol.MESSAGE_BYTES_MAX
        async with (
            served() as running,
            websockets.connect(running.url("/stream"), additional_headers=MSGPACK_HEADERS) as ws,
        ):
            await hear(ws, MSGPACK)
            await ws.send(packed[at : at + 32_768] for at in range(0, len(packed), 32_768))
            assert (await hear(ws, MSGPACK))[0]["quotes"] == symbols

    run(test)


# --- the handshake ---


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/v2/nope", {}, 404),
        ("/v2/stream", {}, 404),
        ("/stream", {"Origin": "https://evil.example"}, 403),
        ("/stream", {"Origin": "https://ours.example"}, 101),
        ("/v2/nyse", {}, 101),
        ("/stream", {"Sec_WebSocket_Version": "12"}, 426),
        ("/stream", {"Upgrade": "h2c"}, 400),
        ("/stream", {"Sec_WebSocket_Key": ""}, 400),
    ],
)
def test_a_handshake_is_answered_before_anything_else(path: str, headers: dict[str, str], expected: int) -> None:
    async def test() -> None:
        async with served() as running:
            raw = await Raw.connect(running.port, path, **headers)
            head = await asyncio.wait_for(raw.reader.readuntil(b"\r\n\r\n"), WAIT_S)
            assert head.split()[1] == str(expected).encode()
            if expected != 101:
                assert b"application/problem+json" in head
                assert json.loads(await asyncio.wait_for(raw.reader.readuntil(b"}"), WAIT_S))["status"] == expected
            await raw.close()

    run(test)


def test_a_full_house_says_so() -> None:
    async def test() -> None:
        async with served(limits=Limits(symbols_max=10, clients_max=1, candles_kept=1)) as running:
            async with (
                websockets.connect(running.url("/stream")) as first,
                websockets.connect(running.url("/stream")) as ws,
            ):
                code, _, found = await closing(ws)
                assert (code, found[0]["code"]) == (1013, 406)
                await hear(first)
            await until(lambda: running.market.fanout.counters()["clients"] == 0)
            async with websockets.connect(running.url("/stream")) as again:
                assert (await hear(again))[0]["msg"] == "connected"

    run(test)


# --- mistakes ---


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([b"\x80"], 1003),
        (["{"] * 5, 1008),
    ],
)
def test_mistakes_that_end_a_session(messages: list[str | bytes], code: int) -> None:
    async def test() -> None:
        async with served() as running, websockets.connect(running.url("/stream")) as ws:
            for message in messages:
                await ws.send(message)
            assert (await closing(ws))[0] == code

    run(test)


def test_a_message_beyond_the_limit_ends_the_session() -> None:
    async def test() -> None:
        async with served() as running, websockets.connect(running.url("/stream")) as ws:
            await hear(ws)
            await ws.send("x" * (websocket.protocol.MESSAGE_BYTES_MAX + 1))
            with pytest.raises(ConnectionClosed) as found:
                await hear(ws)
            assert found.value.rcvd is None or found.value.rcvd.code == 1009

    run(test)


def test_who_does_not_authenticate_in_time_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "AUTH_TIMEOUT_S", 0.02)

    async def test() -> None:
        async with served() as running, websockets.connect(running.url("/v2/sip")) as ws:
            code, words, found = await closing(ws)
            assert (code, words) == (4408, "auth timeout")
            assert found[-1]["code"] == 404

    run(test)


def test_what_is_refused_in_a_session_changes_nothing_else(tmp_path: Path) -> None:
    """Bad input 38, 40, 42, 45 and 46: each has its code, and the session goes on with what it had."""
    path = tmp_path / "keys.json"
    key, secret = keys.make("u", "few", 0)
    keys.add(path, key)
    plan = Plan("few", symbols=("A*", "MSFT"), wildcards=False, symbols_max=3)
    access = Access(str(path), plans=(plan,))

    async def test() -> None:
        async with served(access=access) as running, websockets.connect(running.url("/v2/sip")) as ws:
            await hear(ws)
            await say(ws, action="auth", key=key.id, secret=secret)
            assert (await hear(ws))[0]["msg"] == "authenticated"
            await say(ws, action="auth", key=key.id, secret=secret)
            assert (await hear(ws))[0]["msg"] == "already authenticated"
            await say(ws, action="subscribe", quotes=["AAPL", "IBM", "MSFT"])
            refused, listing = await hear(ws)
            assert (refused["code"], refused["field"], "IBM" in refused["detail"]) == (409, "quotes", True)
            assert listing["quotes"] == ["AAPL", "MSFT"], "the others are subscribed"
            for pattern in ("*", "A*"):
                await say(ws, action="subscribe", quotes=[pattern])
                refused, listing = await hear(ws)
                assert (refused["code"], listing["quotes"]) == (409, ["AAPL", "MSFT"])
            await say(ws, action="subscribe", quotes=["AA", "AB"])
            (refused,) = await hear(ws)
            assert (refused["code"], refused["msg"]) == (405, "symbol limit exceeded")
            await say(ws, action="subscribe", quotes=["MSFT", "AAPL"])
            assert (await hear(ws))[0]["quotes"] == ["AAPL", "MSFT"], "as it was, and twice is once"
            await say(ws, action="unsubscribe", quotes=["AB", "IBM"], trades=["AAPL"])
            assert (await hear(ws))[0]["quotes"] == ["AAPL", "MSFT"]

    run(test)


def vanish(sock: socket.socket) -> None:
    """Be a host without power: whatever comes for this socket is thrown away, and nothing is answered, not even by TCP.

    A filter of one instruction, "keep 0 bytes" (socket(7), SO_ATTACH_FILTER).
    """
    code = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0), 8)
    sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 1, ctypes.addressof(code)))


@pytest.mark.parametrize("found_by", ["ping", "tcp"])
def test_a_host_that_vanishes_without_a_word_is_let_go(monkeypatch: pytest.MonkeyPatch, found_by: str) -> None:
    """Fault 22: by a ping that nobody answers where nothing is sent, by TCP where nobody acknowledges."""
    never_s = 1_000
    lost_ms = 300 if found_by == "tcp" else never_s * 1_000
    options = [(level, name, lost_ms if name == socket.TCP_USER_TIMEOUT else value)
               for level, name, value in connection._OPTIONS]  # fmt: skip
    monkeypatch.setattr(connection, "_OPTIONS", options)
    monkeypatch.setattr(connection, "PING_S", 0.2 if found_by == "ping" else never_s)

    async def test() -> None:
        async with served() as running:
            raw, other = [await Raw.connect(running.port) for _ in range(2)]
            for each in (raw, other):
                await each.upgraded()
                each.say(action="subscribe", quotes=["A"])
                await each.quotes()
            vanish(raw.writer.get_extra_info("socket"))
            answering = asyncio.create_task(other.quotes())  # answers pings
            if found_by == "tcp":
                running.market.apply(running.market.nbbo("A", PX))
            await until(lambda: running.market.fanout.counters()["clients"] == 1)
            running.market.apply(running.market.nbbo("A", 2 * PX))
            assert (await answering)[-1]["T"] == "q"
            for each in (raw, other):
                await each.close()

    run(test)


def test_a_surge_is_announced_lengthens_intervals_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 37 at its smallest: turns that come late, on a real clock and a real socket."""
    monkeypatch.setattr(surge, "JUDGED_NS", 200 * MILLISECOND_NS)
    monkeypatch.setattr(surge, "CALM_FOR", 2)
    monkeypatch.setattr(surge, "CALM_NS", surge.LATE_NS)  # a busy machine is calm too

    async def test() -> None:
        async with served() as running, websockets.connect(running.url("/stream")) as ws:
            await hear(ws)
            await say(ws, action="subscribe", quotes=["A"], interval_ms=100, hb=True)
            assert (await hear(ws))[0]["interval_ms"] == 100
            late = True

            def step() -> None:
                running.market.apply(running.market.nbbo("A", PX))
                if late:
                    time.sleep(0.16)  # the loop itself is held up

            running.step = step
            modes: list[tuple[str, int]] = []
            gaps: list[float] = []
            before = 0.0
            while len(modes) < 2:
                for message in await hear(ws):
                    if message["T"] == "mode":
                        modes.append((message["mode"], message["interval_ms"]))
                        before = 0.0
                        if late:
                            monkeypatch.setattr(surge, "CALM_FOR", 10)  # time for a few frames
                        late = False
                    elif message["T"] == "q" and modes:
                        now = time.monotonic()
                        gaps += [now - before] if before else []
                        before = now
            assert modes == [("degraded", 500), ("normal", 100)]
            assert gaps
            assert min(gaps) > 0.25, "every 500 ms"

    run(test)


def test_the_server_says_goodbye() -> None:
    async def test() -> None:
        async with served() as running, websockets.connect(running.url("/stream")) as ws:
            await hear(ws)
            running.market.fanout.close_all(1012, "restarting")
            assert (await closing(ws))[:2] == (1012, "restarting")
            assert running.market.fanout.counters()["clients"] == 0

    run(test)


# --- frames whole and in order ---


def test_five_hundred_clients_get_whole_frames_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PING_S", 60.0)  # one thread reads for them all: on a busy machine not soon enough

    async def test() -> None:
        async with served() as running:
            market = running.market
            symbols = [f"S{i}" for i in range(50)]
            bids = dict.fromkeys(symbols, 0)

            def publish(count: int) -> None:
                rows = []
                for place in range(count):
                    symbol = symbols[place % 50]
                    bids[symbol] += 1
                    rows.append(market.nbbo(symbol, bids[symbol] * PX))
                market.apply(*rows)

            publish(50)
            raws = await asyncio.gather(*[Raw.connect(running.port) for _ in range(500)])
            for number, raw in enumerate(raws):
                await raw.upgraded()
                raw.say(action="subscribe", quotes=[symbols[(number + i) % 50] for i in range(5)], interval_ms=100)
            for raw in raws:
                assert (await raw.quotes())[0]["T"] == "subscription"
            last: list[dict[str, int]] = [{} for _ in raws]
            updates = [0] * 500

            async def read(number: int, final: int) -> None:
                mine = last[number]
                while len(mine) < 5 or min(mine.values()) < final:
                    for message in await raws[number].quotes():
                        if message["T"] != "q":
                            continue
                        bid = round(message["bp"])
                        assert bid > mine.get(message["S"], 0)
                        updates[number] += 1 + message.get("k", 0)
                        mine[message["S"]] = bid

            async def publish_all() -> None:
                for _ in range(20):
                    publish(50)
                    await asyncio.sleep(0.02)

            await asyncio.gather(publish_all(), *[read(number, 21) for number in range(500)])
            assert set(updates) <= set(range(5 * 20, 5 * 21 + 1))
            await asyncio.gather(*[raw.close() for raw in raws])

    run(test)


def test_a_socket_that_takes_little_at_a_time_gets_every_frame_whole() -> None:
    async def test() -> None:
        async with served(send_buffer=4_096) as running:
            market = running.market
            raws = [await Raw.connect(running.port, receive_buffer=8_192) for _ in range(10)]
            for raw in raws:
                await raw.upgraded()
                raw.say(action="subscribe", quotes=["*"], interval_ms=0)
                assert (await raw.quotes())[0]["T"] == "subscription"
            bid = 0

            def step() -> None:
                nonlocal bid
                if bid < 2_000:
                    market.apply(*[market.nbbo(f"SYMBOL{i}", (bid + i + 1) * PX) for i in range(100)])
                    bid += 100

            running.step = step

            async def read(raw: Raw) -> int:
                newest, count = 0, 0
                latest: dict[str, int] = {}
                while newest < 2_000:
                    raw.send(b"are you there", 0x9)  # pongs go between the frames, never into them
                    for message in await raw.quotes():
                        if message["T"] == "q":
                            newest = round(message["bp"])
                            assert newest > latest.get(message["S"], 0)
                            latest[message["S"]] = newest
                            count += 1 + message.get("k", 0)
                return count

            counts = await asyncio.gather(*map(read, raws))
            assert market.fanout.counters()["partial"] > 0
            assert set(counts) == {2_000}
            await asyncio.gather(*[raw.close() for raw in raws])

    run(test)


def test_a_client_that_never_reads_is_cut_and_costs_one_frame(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        clock = ManualClock(1)
        async with served(clock, send_buffer=8_192) as running:
            market = running.market
            raw = await Raw.connect(running.port, receive_buffer=4_096)
            await raw.upgraded()
            raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
            raw.say(action="subscribe", quotes=["*"], trades=["*"], interval_ms=100)
            built = 0

            def step() -> None:
                nonlocal built
                counters = market.fanout.counters()
                if counters["clients"] and counters["entries"] == 0 and not market.fanout.subscriptions.of(0):
                    return
                clock.advance(20 * MILLISECOND_NS)
                market.apply(
                    *[row for i in range(100) for row in (market.nbbo(f"S{i}", PX), market.trade(f"S{i}", PX))]
                )
                if counters["partial"] and not built:
                    built = counters["frames"]

            running.step = step
            await until(lambda: market.fanout.counters()["clients"] == 0)
            running.step = lambda: None
            counters = market.fanout.counters()
            assert counters["slow_cut"] == 1
            assert counters["frames"] == built, "frames were made for a client that does not read"
            raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
            while True:
                opcode, payload = await raw.frame()
                if opcode == 0x8:
                    break
                last = payload
            assert int.from_bytes(payload[:2], "big") == 1013
            assert json.loads(last)[0]["code"] == 407
            raw.send(payload, 0x8)
            assert await asyncio.wait_for(raw.reader.read(), WAIT_S) == b""
            await raw.close()

    run(test)
    assert len([record for record in caplog.records if record.name.startswith("gateway")]) == 1


def test_nothing_follows_a_close_frame() -> None:
    async def test() -> None:
        async with served() as running:
            market = running.market
            bid = 0

            def step() -> None:
                nonlocal bid
                bid += 1
                market.apply(*[market.nbbo(f"S{i}", bid * PX) for i in range(20)])

            running.step = step
            for _ in range(30):
                raw = await Raw.connect(running.port)
                await raw.upgraded()
                raw.say(action="subscribe", quotes=["*"], interval_ms=0)
                for _ in range(3):
                    await raw.quotes()
                raw.send((1000).to_bytes(2, "big"), 0x8)
                while (await raw.frame())[0] != 0x8:
                    pass
                assert await asyncio.wait_for(raw.reader.read(), WAIT_S) == b""
                await raw.close()

    run(test)


def test_nothing_follows_our_own_close_frame() -> None:
    async def test() -> None:
        async with served() as running:
            market = running.market
            raw = await Raw.connect(running.port)
            await raw.upgraded()
            raw.say(action="subscribe", quotes=["*"], interval_ms=0)
            await raw.quotes()
            market.fanout.close_all(1012, "restarting")
            turns = 0

            def step() -> None:
                nonlocal turns
                turns += 1
                market.apply(market.nbbo("A", turns * PX))

            running.step = step
            kind, told = await raw.frame()
            assert kind == 0x1
            assert json.loads(told)[0].keys() == {"T", "mode", "reconnect_ms"}
            assert await raw.frame() == (0x8, (1012).to_bytes(2, "big") + b"restarting")
            await until(lambda: turns > 10)
            raw.send((1012).to_bytes(2, "big"), 0x8)
            assert await asyncio.wait_for(raw.reader.read(), WAIT_S) == b""
            await raw.close()

    run(test)


def test_a_client_has_left_before_its_descriptor_is_anyone_elses() -> None:
    async def test() -> None:
        async with served() as running:
            raw = await Raw.connect(running.port)
            await raw.upgraded()
            (client,) = running.market.fanout._each()
            client.sink.abort()
            assert running.market.fanout.counters()["clients"] == 0  # now, not when `on_close` comes
            assert running.market.fanout._fan.clients["fd"][0] == -1
            await raw.close()

    run(test)


def test_a_reused_descriptor_never_gets_another_clients_frame() -> None:
    async def test() -> None:
        async with served() as running:
            market = running.market
            bid = 0

            def step() -> None:
                nonlocal bid
                bid += 1
                market.apply(*[market.nbbo(f"S{i}", bid * PX) for i in range(20)])

            running.step = step

            async def come_and_go(number: int) -> None:
                for turn in range(10):
                    raw = await Raw.connect(running.port)
                    await raw.upgraded()  # it fails on any byte of a quote before the answer to the handshake
                    raw.say(action="subscribe", quotes=["*"], interval_ms=0)
                    assert (await raw.quotes())[0]["T"] == "subscription"
                    if (number + turn) % 2:
                        await raw.quotes()
                    sock = raw.writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # leave by reset
                    await raw.close()

            await asyncio.gather(*map(come_and_go, range(12)))
            await until(lambda: market.fanout.counters()["clients"] == 0)

    run(test)


def test_a_refused_handshake_is_no_client() -> None:
    async def test() -> None:
        async with served() as running:
            with pytest.raises(InvalidStatus):
                await websockets.connect(running.url("/v2/nope"))
            assert running.market.fanout.counters()["clients"] == 0

    run(test)


# --- access ---


class Guarded:
    """A file of keys beside a table of limits, and the access that names them."""

    def __init__(self, folder: Path, **access: Any) -> None:
        self.table = folder / "limits.table"
        self.path = folder / "keys.json"
        plans = (Plan(), *access.pop("plans", ()))
        self.access = Access(str(self.path), plans=plans, **access)

    def key(self, user: str = "alice", plan: str = "full", expires: int | None = None) -> tuple[str, str]:
        key, secret = keys.make(user, plan, time.time_ns(), expires)
        keys.add(self.path, key)
        return key.id, secret

    def served(self, **options: Any) -> contextlib.AbstractAsyncContextManager[Running]:
        return served(access=self.access, table=self.table, **options)


def bearer(key: tuple[str, str]) -> dict[str, str]:
    return {"Authorization": f"Bearer {key[0]}.{key[1]}"}


async def login(ws: Any, key: tuple[str, str], **more: Any) -> list[dict[str, Any]]:
    await hear(ws)
    await say(ws, action="auth", key=key[0], secret=key[1], **more)
    return await hear(ws)


@pytest.mark.parametrize("path", ["/v2/sip", "/stream"])
def test_nobody_is_served_before_saying_who_they_are(tmp_path: Path, path: str) -> None:
    """Bad input 35, 36, 38."""
    guarded = Guarded(tmp_path)
    key = guarded.key()

    async def test() -> None:
        async with guarded.served() as running:
            async with websockets.connect(running.url(path)) as ws:
                await hear(ws)
                await say(ws, action="subscribe", quotes=["A"])
                assert (await hear(ws))[0]["code"] == 401
                await say(ws, action="auth", key=key[0], secret=key[1])
                assert (await hear(ws))[0]["msg"] == "authenticated"
                await say(ws, action="auth", key=key[0], secret=key[1])
                assert (await hear(ws))[0]["code"] == 403
                await say(ws, action="subscribe", quotes=["A"])
                assert (await hear(ws))[0]["quotes"] == ["A"]
            refusals = []
            for wrong in ((key[0], "wrong"), ("FK" + "A" * 18, key[1])):
                async with websockets.connect(running.url(path)) as ws:
                    (error,) = await login(ws, wrong)
                    refusals.append((error, (await closing(ws))[:2]))
            assert refusals[0] == refusals[1]
            assert (refusals[0][0]["code"], refusals[0][1]) == (402, (4401, "auth failed"))

    run(test)


def test_a_stock_alpaca_stream_logs_in_with_a_key(tmp_path: Path) -> None:
    from alpaca.data.live import StockDataStream

    guarded = Guarded(tmp_path)
    key = guarded.key()

    async def test() -> None:
        async with guarded.served() as running:
            stream = StockDataStream(*key, url_override=running.url("/v2/sip"))
            heard: asyncio.Queue[Any] = asyncio.Queue()
            stream.subscribe_quotes(heard.put, "AAPL")
            going = asyncio.create_task(stream._run_forever())
            await until(lambda: bool(running.market.fanout.subscriptions.of(0)))
            running.market.apply(running.market.nbbo("AAPL", 185_500_000_000))
            assert (await asyncio.wait_for(heard.get(), WAIT_S)).bid_price == 185.5
            await stream.stop_ws()
            await stream.close()
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)

    run(test)


def test_wscat_from_npm_logs_in_and_subscribes(tmp_path: Path) -> None:
    """Another maker's client, with headers and from a pipe."""
    wscat = Path(__file__).parents[2] / ".fabric" / "npm" / "node_modules" / ".bin" / "wscat"
    if not wscat.exists():
        pytest.skip(f"no {wscat}: npm install --prefix .fabric/npm wscat")
    guarded = Guarded(tmp_path)
    key = guarded.key()

    async def test() -> None:
        async with guarded.served() as running:
            running.market.apply(running.market.nbbo("AAPL", 185_500_000_000))
            command = [str(wscat), "--no-color", "-c", running.url("/stream"), "-H", f"X-API-Key: {'.'.join(key)}"]
            command += ["-x", '{"action":"subscribe","quotes":["AAPL"]}', "-w", "1"]
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)  # it ends with its input
            assert process.stdout is not None
            said = await asyncio.wait_for(process.stdout.read(), WAIT_S)
            await process.wait()
            assert b'"msg":"authenticated"' in said
            assert b'"T":"q","S":"AAPL"' in said
            assert b'"bp":185.5' in said

    run(test)


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("/stream", {"Authorization": "Bearer FK.wrong"}, 401, "unauthorized"),
        ("/stream", {"X-API-Key": "x"}, 401, "unauthorized"),
        ("/stream?ticket=x.y", {}, 401, "unauthorized"),
        ("/stream?api_key=x", {}, 400, "secret_in_query"),
        ("/v2/sip?key=x&secret=y", {}, 400, "secret_in_query"),
        ("/v2/nope", {}, 404, "unknown_feed"),
    ],
)
def test_a_handshake_is_refused_before_the_upgrade_and_says_why(
    tmp_path: Path, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    guarded = Guarded(tmp_path)

    async def test() -> None:
        async with guarded.served() as running:
            with pytest.raises(InvalidStatus) as caught:
                await websockets.connect(running.url(path), additional_headers=headers)
            response = caught.value.response
            assert (response.status_code, json.loads(response.body)["code"]) == (status, code)
            assert response.headers["Content-Type"] == "application/problem+json"
            if status == 401:
                assert response.headers["WWW-Authenticate"] == 'Bearer realm="fabric", error="invalid_token"'

    run(test)


def test_headers_and_tickets_are_enough(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    key = guarded.key()

    async def test() -> None:
        async with guarded.served() as running:
            grant = running.door.identify(Credentials(*key), "")
            forms: list[tuple[str, dict[str, str]]] = [
                ("/stream", bearer(key)),
                ("/v2/sip", {"X-API-Key": ".".join(key)}),
                ("/stream", {"APCA-API-KEY-ID": key[0], "APCA-API-SECRET-KEY": key[1]}),
                (f"/stream?ticket={running.door.ticket(grant)}", {}),
            ]
            for path, headers in forms:
                async with websockets.connect(running.url(path), additional_headers=headers) as ws:
                    assert [message["msg"] for message in await hear(ws)] == ["connected", "authenticated"]
                    await say(ws, action="subscribe", quotes=["A"])
                    assert (await hear(ws))[0]["quotes"] == ["A"]
            with pytest.raises(InvalidStatus):  # a ticket opens once
                await websockets.connect(running.url(forms[-1][0]))
            async with websockets.connect(running.url("/v2/sip")) as ws:
                assert (await login(ws, ("ticket", running.door.ticket(grant))))[0]["msg"] == "authenticated"

    run(test)


def test_revocation_closes_live_sockets_and_no_others(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    key, other = guarded.key(), guarded.key("bob")

    async def test() -> None:
        async with guarded.served() as running:
            async with (
                websockets.connect(running.url("/stream"), additional_headers=bearer(key)) as ws,
                websockets.connect(running.url("/stream"), additional_headers=bearer(other)) as stays,
            ):
                await hear(ws)
                await hear(stays)
                keys.revoke(guarded.path, key[0], time.time_ns())
                running.door.look()
                code, words, found = await closing(ws)
                assert (code, words, found[0]["code"]) == (4401, "auth failed", 402)
                await say(stays, action="unsubscribe")
                assert (await hear(stays))[0]["T"] == "subscription"
            await until(lambda: running.market.fanout.counters()["clients"] == 0)

    run(test)


def test_a_key_that_ends_warns_and_closes(tmp_path: Path) -> None:
    """Bad input 39."""
    guarded = Guarded(tmp_path)
    key = guarded.key(expires=int(time.time()) + 2)

    async def test() -> None:
        async with (
            guarded.served() as running,
            websockets.connect(running.url("/stream"), additional_headers=bearer(key)) as ws,
        ):
            await hear(ws)
            (warning,) = await hear(ws)
            assert warning["T"] == "expiring"
            assert 0 < warning["expires_in_ms"] <= 2_000
            assert (await closing(ws))[0] == 4401

    run(test)


def test_a_new_login_may_replace_the_old_one(tmp_path: Path) -> None:
    """Bad input 43: without the wish 406, with it the older connection goes; over two processes' doors."""
    guarded = Guarded(tmp_path, plans=(Plan("one", connections=1),))
    key = guarded.key(plan="one")

    async def test() -> None:
        async with guarded.served() as running, guarded.served() as elsewhere:
            async with websockets.connect(running.url("/v2/sip")) as old:
                assert (await login(old, key))[0]["msg"] == "authenticated"
                async with websockets.connect(elsewhere.url("/v2/sip")) as refused:
                    (error,) = await login(refused, key)
                    assert (error["code"], error["retry_after_ms"]) == (406, 1_000)
                    assert (await closing(refused))[:2] == (4429, "connection limit exceeded")
                async with websockets.connect(elsewhere.url("/v2/sip")) as new:
                    assert (await login(new, key, takeover=True))[0]["msg"] == "authenticated"
                    code, _, found = await closing(old)
                    assert (code, found[0]["code"], found[0]["retry"]) == (4409, 406, False)
                    await say(new, action="subscribe", quotes=["A"])
                    assert (await hear(new))[0]["quotes"] == ["A"]
            async with websockets.connect(running.url("/v2/sip")) as again:
                await until(lambda: not elsewhere.market.fanout.counters()["clients"])
                assert (await login(again, key))[0]["msg"] == "authenticated"

    run(test)


def test_an_address_has_a_limit_of_connections(tmp_path: Path) -> None:
    async def test() -> None:
        limits = Limits(symbols_max=10, candles_kept=1, clients_max=10, address_connections=1)
        async with served(limits=limits) as running:
            async with websockets.connect(running.url("/stream")) as first:
                with pytest.raises(InvalidStatus) as refused:
                    await websockets.connect(running.url("/v2/sip"))
                response = refused.value.response
                assert (response.status_code, response.headers["Retry-After"]) == (429, "1")
                assert json.loads(response.body or b"")["code"] == "too_many_connections"
                await hear(first)
            await until(lambda: not running.market.fanout.counters()["clients"])
            async with websockets.connect(running.url("/stream")) as again:
                assert (await hear(again))[0]["msg"] == "connected"

    run(test)


def test_a_feed_that_is_not_in_the_plan_is_closed(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path, plans=(Plan("venue", feeds=("iex",)),))
    key = guarded.key(plan="venue")

    async def test() -> None:
        async with guarded.served() as running:
            async with websockets.connect(running.url("/v2/sip")) as ws:
                assert (await login(ws, key))[0]["code"] == 409
                assert (await closing(ws))[0] == 4403
            with pytest.raises(InvalidStatus) as caught:
                await websockets.connect(running.url("/stream"), additional_headers=bearer(key))
            assert caught.value.response.status_code == 403
            async with websockets.connect(running.url("/v2/iex"), additional_headers=bearer(key)) as ws:
                assert len(await hear(ws)) == 2

    run(test)


def test_a_flood_is_told_and_then_closed(tmp_path: Path) -> None:
    """Bad input 44: counted for the user, whichever of its connections speaks."""
    guarded = Guarded(tmp_path, plans=(Plan("slow", messages=1),))
    key = guarded.key(plan="slow")

    async def test() -> None:
        async with (
            guarded.served() as running,
            websockets.connect(running.url("/stream"), additional_headers=bearer(key)) as one,
            websockets.connect(running.url("/stream"), additional_headers=bearer(key)) as two,
        ):
            await hear(one)
            await hear(two)
            for _ in range(5):
                await say(one, action="unsubscribe")
                assert (await hear(one))[0]["T"] == "subscription"
            await say(two, action="unsubscribe")
            (error,) = await hear(two)
            assert error["code"] == 406
            assert 0 < error["retry_after_ms"] <= 1_000
            for _ in range(9):
                await say(two, action="unsubscribe")
            assert (await closing(two))[:2] == (4429, "too many messages")

    run(test)


def test_a_delayed_plan_sees_the_market_as_it_was(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path, public="delayed", plans=(Plan("delayed", delay_ns=900 * SECOND_NS),))
    key = guarded.key()

    async def test() -> None:
        clock = ManualClock(time.time_ns())
        async with guarded.served(clock=clock) as running:
            (delayed,) = running.delayed.values()
            market = running.market

            def publish(bid: int) -> None:
                row = market.nbbo("A", bid * PX)
                market.apply(row)
                delayed.take(row.view(EVENT), clock.monotonic_ns())

            def step() -> None:
                clock.advance(SECOND_NS)

            publish(1)
            async with (
                websockets.connect(running.url("/stream")) as late,
                websockets.connect(running.url("/stream"), additional_headers=bearer(key)) as live,
            ):
                for ws in (late, live):
                    await hear(ws)
                    await say(ws, action="subscribe", quotes=["A"], trades=["A"], req_id=1)
                assert [message["T"] for message in await hear(late)] == ["error", "subscription"]
                assert [message["T"] for message in await hear(live)] == ["subscription"]
                since_ns = clock.monotonic_ns()
                running.step = step
                assert (await hear(live))[0]["bp"] == 1
                while (was := (await hear(late))[0])["T"] == "mode":
                    pass  # a clock that leaps makes a surge
                assert was["bp"] == 1
                assert (clock.monotonic_ns() - since_ns) / SECOND_NS >= 900
            await until(lambda: not delayed.counters()["clients"])

    run(test)


def test_who_leaves_during_the_handshake_is_counted_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        limits = Limits(symbols_max=10, candles_kept=1, clients_max=10, address_connections=1)
        async with served(limits=limits) as running:

            def gone(*_: Any) -> Any:
                raise ConnectionError

            with monkeypatch.context() as patch:
                patch.setattr(websocket, "take_over", gone)
                for _ in range(3):
                    with contextlib.suppress(Exception):
                        await asyncio.wait_for(websockets.connect(running.url("/stream")), 0.3)
            async with websockets.connect(running.url("/stream")) as ws:
                assert (await hear(ws))[0]["msg"] == "connected"

    run(test)
