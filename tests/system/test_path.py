"""The default topology as processes at 50,000 updates a second: UDP packets to bots, WebSockets, REST and Redis."""

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import redis
import websockets.sync.client
import zmq

from fabric import audit
from fabric.bus import Inbox
from fabric.client import Client, Update
from fabric.clock import SystemClock
from fabric.launcher import Running
from fabric.records import KIND_NBBO
from fabric.symbols import SymbolTable
from fabric.topology import GatewaySettings, Limits, Source, Topology
from topologies import default_topology, product

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets", "ignore:websockets.legacy"),  # alpaca-py
]
PATIENCE_S = 30.0


class Market:
    """A running default topology, and where its doors are."""

    def __init__(self, topology: Topology, launcher: Running) -> None:
        self.topology, self.launcher = topology, launcher
        gateway = next(node.settings for node in topology.nodes if node.role == "gateway")
        assert isinstance(gateway, GatewaySettings)
        self.http = f"http://127.0.0.1:{gateway.port}"
        self.ws = f"ws://127.0.0.1:{gateway.port}"

    def endpoint(self, name: str) -> str:
        return next(p.endpoint for p in self.topology.publishers() if p.name == name)

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(self.http + path, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def counted(self, name: str) -> int:
        """A counter of the gateway's fan-out, as of now."""
        with urllib.request.urlopen(self.http + "/metrics", timeout=10) as answer:
            lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")
        whole = f"fabric_fanout_{name}"
        return int(float(lines.get(f"{whole}_total") or lines[whole]))

    def reports(self) -> dict[str, dict[str, Any]]:
        return {node["name"]: node["report"] for node in self.launcher.status()["nodes"]}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    folder = tmp_path_factory.mktemp("market")
    topology = default_topology(folder)
    with product(topology, folder / "run") as launcher:
        made = Market(topology, launcher)
        wait_until(lambda: made.reports()["nbbo-1"].get("accepted", 0) > 50_000)
        yield made


def wait_until(happened: Any, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.05)


def test_a_bot_on_every_nbbo_holds_every_number(market: Market) -> None:
    sources = [Source(p, ("nbbo.",)) for p in market.topology.publishers() if "nbbo" in p.channels]
    symbols = SymbolTable(20_000)
    last: dict[int, int] = {}
    received = 0
    with zmq.Context() as context, closing(Inbox(context, sources, symbols, Limits(), SystemClock())) as inbox:
        end = time.monotonic() + 6
        while time.monotonic() < end:
            rows = inbox.recv_batch(100)
            rows = rows[rows["kind"] == KIND_NBBO]
            received += rows.size
            for symbol, seq in zip(rows["symbol"].tolist(), rows["seq"].tolist(), strict=True):
                assert seq == last.get(symbol, seq - 1) + 1
                last[symbol] = seq
        counters = inbox.counters()
    assert received > 30_000, "half of what the composite changes in this time"
    assert len(last) == 5_000
    assert (counters["lost"], counters["gaps"], counters["bad_frames"]) == (0, 0, 0)


def test_nothing_is_dropped_or_lost_on_the_way(market: Market) -> None:
    time.sleep(2)  # two reports
    reports = market.reports()
    feeds = [reports[name] for name in ("nyse", "nasdaq", "bzx", "iex")]
    assert [report["kernel_drops"] for report in feeds] == [0, 0, 0, 0]
    for name, report in reports.items():
        for counter in ("gaps", "lost", "bad_frames", "malformed", "refused", "not_ours"):
            assert report.get(counter, 0) == 0, f"{name} reports {counter}"
    assert min(report["published"] for report in feeds) > 20_000


def test_ten_lines_of_pyzmq_read_plain_maps(market: Market) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.connect(market.endpoint("nbbo-1"))
        socket.subscribe("nbbo.AAPL|")
        assert socket.poll(10_000)
        topic, payload = socket.recv_multipart()
    quote = msgpack.unpackb(payload)
    assert topic == b"nbbo.AAPL|"
    assert (quote["T"], quote["S"], quote["V"]) == ("nbbo", "AAPL", 1)
    assert quote["bx"] in "NQZV"
    assert 0 < quote["bp"] < quote["ap"]
    assert set(quote) == {
        *"VTSNEOX",
        "t1",
        "t2",
        "t3",
        "t",
        "bp",
        "bs",
        "bx",
        "ap",
        "as",
        "ax",
        "bv",
        "av",
        "lp",
        "st",
        "sc",
        "bt",
        "at",
    }


def test_the_client_in_five_lines(market: Market) -> None:
    seen: list[Update] = []
    with Client("nbbo.MSFT|", topology_file=market.topology.path) as client:
        for event in client:
            seen += [event] if isinstance(event, Update) else []
            if len(seen) == 20:
                break
    assert {update.topic for update in seen} == {"nbbo.MSFT|"}
    numbers = [update.payload["N"] for update in seen]
    assert numbers == list(range(numbers[0], numbers[0] + 20))


def test_rest_serves_the_live_quote_and_candles(market: Market) -> None:
    status, quote = market.get("/quotes/AAPL")
    assert status == 200
    assert quote["symbol"] == "AAPL"
    assert quote["state"] == "live"
    assert quote["bid"] < quote["ask"]
    assert quote["age_ms"] < 2_500
    status, many = market.get("/quotes?symbols=AAPL,MSFT")
    assert status == 200
    assert "MSFT" in json.dumps(many)
    status, candles = market.get("/candles/AAPL?interval=1m")
    assert status == 200
    assert candles
    assert market.get("/quotes/NOSUCH")[0] == 404
    assert market.get("/readyz")[0] == 200


def test_redis_holds_every_quote_and_publishes_changes(market: Market) -> None:
    (url,) = market.topology.cache.servers
    with closing(redis.Redis.from_url(url)) as client:
        wait_until(lambda: sum(1 for _ in client.scan_iter("quote:*", count=1_000)) >= 4_990)
        value = json.loads(client.get("quote:AAPL") or b"null")
        assert {"bid", "ask", "last", "ts"} <= set(value)
        assert abs(value["ts"] - time.time()) < 5
        assert 0 < client.pttl("quote:AAPL") <= 1_000
        with closing(client.pubsub()) as channel:
            channel.subscribe("quotes:AAPL")
            kinds = [channel.get_message(timeout=10.0)["type"] for _ in range(2)]
        assert kinds == ["subscribe", "message"]
    wait_until(lambda: market.reports()["redis-writer"].get("keys", 0) >= 5_000)


def test_a_websocket_gets_the_newest_value_of_each_symbol_at_its_interval(market: Market) -> None:
    with websockets.sync.client.connect(f"{market.ws}/stream") as socket:
        assert json.loads(socket.recv(5)) == [{"T": "success", "msg": "connected"}]
        socket.send(json.dumps({"action": "subscribe", "quotes": ["AAPL", "MS*"], "interval_ms": 100}))
        got: Counter[str] = Counter()
        times: list[str] = []
        end = time.monotonic() + 3
        while time.monotonic() < end:
            for message in json.loads(socket.recv(5)):
                if message["T"] == "q":
                    got[message["S"]] += 1
                    times += [message["t"]] if message["S"] == "AAPL" else []
    assert 10 <= got["AAPL"] <= 35
    assert "MSFT" in got
    assert all(symbol == "AAPL" or symbol.startswith("MS") for symbol in got)
    assert times == sorted(times)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "parsed"])
def test_an_unchanged_alpaca_stream_client_gets_quotes_trades_and_bars(market: Market, raw: bool) -> None:
    from alpaca.data.enums import DataFeed
    from alpaca.data.live import StockDataStream

    stream = StockDataStream("key", "secret", raw_data=raw, feed=DataFeed.SIP, url_override=f"{market.ws}/v2/sip")
    got: Counter[str] = Counter()
    enough = threading.Event()

    def count(kind: str) -> Any:
        async def handler(message: Any) -> None:
            symbol = message["S"] if raw else message.symbol
            assert symbol in ("AAPL", "MSFT", "SPY")
            got[kind] += 1
            if got["quote"] > 100 and got["trade"] and got["bar"]:
                enough.set()

        return handler

    stream.subscribe_quotes(count("quote"), "AAPL", "MSFT")
    stream.subscribe_trades(count("trade"), "AAPL", "MSFT")
    stream.subscribe_bars(count("bar"), "AAPL", "SPY")

    async def run() -> None:
        task = asyncio.create_task(stream._run_forever())
        await asyncio.to_thread(enough.wait, 90)
        await stream.stop_ws()
        await task

    asyncio.run(run())
    assert enough.is_set(), f"got {dict(got)}"


def test_what_a_venue_says_itself_is_at_its_own_feed(market: Market) -> None:
    with websockets.sync.client.connect(f"{market.ws}/v2/iex") as socket:
        socket.recv(5)
        socket.send(json.dumps({"action": "auth", "key": "any", "secret": "any"}))
        assert json.loads(socket.recv(5))[0]["msg"] == "authenticated"
        socket.send(json.dumps({"action": "subscribe", "quotes": ["AAPL"]}))
        seen = []
        while not seen:
            seen = [message for message in json.loads(socket.recv(5)) if message["T"] == "q"]
    assert (seen[0]["S"], seen[0]["bx"], seen[0]["ax"]) == ("AAPL", "V", "V")


def test_prices_are_the_same_through_every_door(market: Market) -> None:
    """What REST and Redis say of a symbol at an instant is what the bus said of it at that instant."""
    (url,) = market.topology.cache.servers
    said: dict[tuple[str, int], tuple[float, float]] = {}  # (symbol, N) -> bid and ask
    stamped: dict[tuple[str, int], set[tuple[float, float]]] = {}  # (symbol, microsecond) -> the same
    answers = []
    with Client("nbbo.A", topology_file=market.topology.path) as client, closing(redis.Redis.from_url(url)) as cache:

        def listen(seconds: float) -> None:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for event in client.poll(20):
                    if isinstance(event, Update):
                        p = event.payload
                        said[p["S"], p["N"]] = p["bp"], p["ap"]
                        stamped.setdefault((p["S"], p["t"] // 1_000), set()).add((p["bp"], p["ap"]))

        listen(2)
        names = sorted({name for name, _ in said})[::5]
        for name in names:
            answers.append((name, market.get(f"/quotes/{name}")[1], json.loads(cache.get(f"quote:{name}") or b"null")))
            listen(0.01)
        listen(1)
    assert len(answers) > 20
    compared = 0
    for name, rest, kept in answers:
        if (name, rest["seq"]) in said and kept is not None and (name, round(kept["ts"] * 1e6)) in stamped:
            compared += 1
            assert said[name, rest["seq"]] == (rest["bid"], rest["ask"])
            assert (kept["bid"], kept["ask"]) in stamped[name, round(kept["ts"] * 1e6)], name
    assert compared >= 0.8 * len(answers), "most values were heard on the bus too"


def test_the_path_is_quick(market: Market) -> None:
    """Not a timed test of speed: an NBBO that takes a second to come would be a queue somewhere."""
    sources = [Source(p, ("nbbo.",)) for p in market.topology.publishers() if "nbbo" in p.channels]
    ages = []
    symbols = SymbolTable(20_000)
    with zmq.Context() as context, closing(Inbox(context, sources, symbols, Limits(), SystemClock())) as inbox:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            rows = inbox.recv_batch(100)
            live = rows[(rows["kind"] == KIND_NBBO)]
            ages += (time.time_ns() - live["recv_ns"]).tolist()[-50:]
    assert np.median(ages) < 1e9


def test_what_clients_are_offered_is_accounted_for_to_the_message(market: Market) -> None:
    """The last hop: a client each 100 ms and one of every tick count what they get; one that does not read is cut."""
    wants = ({"quotes": ["A*"], "trades": ["A*"], "interval_ms": 100}, {"quotes": ["B*"], "trades": ["B*"]})
    heard: Counter[str] = Counter()
    numbers: dict[tuple[str, str], list[tuple[int, int]]] = {}  # epoch and symbol -> (N, k) of each NBBO

    def count(messages: list[dict[str, Any]]) -> set[str]:
        for message in messages:
            heard["delivered"] += message["T"] in ("q", "t", "x", "c")
            heard["replaced"] += message.get("k", 0)
            heard["missed"] += message["missed"] if message["T"] == "gap" else 0
            if message["T"] == "q":
                numbers.setdefault((message["E"], message["S"]), []).append((message["N"], message.get("k", 0)))
        return {message["T"] for message in messages}

    wait_until(lambda: market.counted("clients") == 0)  # those of other tests have gone
    before = {name: market.counted(name) for name in ("delivered", "replaced", "missed")}
    with (
        websockets.sync.client.connect(f"{market.ws}/stream") as conflated,
        websockets.sync.client.connect(f"{market.ws}/stream") as ticks,
    ):
        for socket, want in zip((conflated, ticks), wants, strict=True):
            socket.recv(5)
            socket.send(json.dumps({"action": "subscribe", "interval_ms": 0, "resume": {}, **want}))
        deadline = time.monotonic() + PATIENCE_S
        while heard["replaced"] < 500 or heard["delivered"] < 2_000:
            assert time.monotonic() < deadline, heard
            for socket in (conflated, ticks):
                count(json.loads(socket.recv(5)))
        for socket, want in zip((conflated, ticks), wants, strict=True):
            channels = {name: want[name] for name in ("quotes", "trades")}
            socket.send(json.dumps({"action": "unsubscribe", "req_id": "end", **channels}))
            while True:
                messages = json.loads(socket.recv(5))
                count(messages)
                if any(message.get("req_id") == "end" for message in messages):
                    break
        assert market.counted("pending") == 0
        grew = {name: market.counted(name) - before[name] for name in before}
        assert grew == {name: heard[name] for name in before}, "the gateway counts what its clients count"
    for (_, symbol), found in numbers.items():
        stood_for = sum(1 + k for _, k in found[1:])  # more than published where a line's state was told again
        assert stood_for >= found[-1][0] - found[0][0], symbol

    left = market.counted("left")
    with websockets.sync.client.connect(f"{market.ws}/stream", max_queue=1) as stuck:
        stuck.recv(5)
        stuck.send(json.dumps({"action": "subscribe", "quotes": ["*"], "interval_ms": 0}))
        wait_until(lambda: market.counted("slow_cut") > 0)
        wait_until(lambda: market.counted("clients") == 0)
    assert market.counted("left") > left, "what a client that is cut had not been given is counted"
    (hop,) = audit.to_clients(market.launcher.status())
    assert hop.balanced, hop
    assert hop.delivered >= 2_000


def test_page_is_served_with_a_strict_policy(market: Market) -> None:
    with urllib.request.urlopen(market.http + "/", timeout=10) as answer:
        assert "script-src 'self';" in answer.headers["Content-Security-Policy"]
        assert b"<html" in answer.read()


def test_the_topology_is_told(market: Market, tmp_path: Path) -> None:
    status, told = market.get("/topology")
    assert status == 200
    assert "nbbo-1" in json.dumps(told)
