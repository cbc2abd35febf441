"""`fabric replay` of the recorded days through the whole topology, seen from outside and compared with the files.

The readers are stock ones (pyzmq, websockets, redis, HTTP) and the expectations are read from the files by other
code than ours: a day of the tape with the SIP's own answer, a morning of IEX with `naive_iex`.
"""

import csv
import gzip
import hashlib
import itertools
import json
import signal
import subprocess
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis
import websockets.sync.client
import zmq

import naive_iex
from fabric import topology as topologies
from fabric.records import STATE_NATIONAL, STATE_PARTIAL, STATE_STALE
from fabric.topology import Topology
from support import free_port, product_environment
from topologies import ROOT, free_range

pytestmark = pytest.mark.timeout(400)
PATIENCE_MS = 10_000
TAPE_ANSWER = "81fc70dd81959fc5156a963d9929dc2a0358e74c7007d00cd501aba0de0789df"
"""SHA-256 of the best bid and offer after each row of the tape, by a rule that agrees with the SIP on every row."""
TO = "2017-07-10T14:37:32Z"
"""A second before the close, which withdraws every quote of the IEX recording."""
TO_NS = 1_499_697_452 * 10**9

Sides = tuple[naive_iex.Side, naive_iex.Side]
NOTHING: Sides = (None, None)


class Doors:
    """Where a replay will be reached, known before it runs."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.base, self.http_port = free_range(40), free_port()
        self.topology: Topology = topologies.with_source(
            topologies.load(ROOT / "topology.yaml", {}), str(source), base_port=self.base, http_port=self.http_port
        )
        self.http, self.ws = (f"{scheme}://127.0.0.1:{self.http_port}" for scheme in ("http", "ws"))

    def endpoints(self, channel: str) -> list[str]:
        return [p.endpoint for p in self.topology.publishers() if channel in p.channels]

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.http + path, timeout=10) as answer:
            return json.load(answer)

    @contextmanager
    def replayed(self, log: Path, *options: str) -> Iterator[dict[str, Any]]:
        """The summary of a replay that is at its end and holds; it ends as after Ctrl-C."""
        command = [sys.executable, "-m", "fabric", "replay", str(self.source), "--hold", "--json", *options]
        command += ["--port-base", str(self.base), "--http-port", str(self.http_port)]
        with log.open("w") as errors, subprocess.Popen(
            command, cwd=ROOT, env=product_environment(), stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:  # fmt: skip
            try:
                assert process.stdout is not None
                text = ""
                for line in process.stdout:
                    text += line
                    if line == "}\n":
                        break
                assert text, log.read_text()
                yield json.loads(text)
            finally:
                process.send_signal(signal.SIGINT)
                try:
                    code = process.wait(60)
                finally:
                    process.kill()
        assert code == 0, log.read_text()


# A day of the tape


def test_a_raw_subscriber_sees_every_nbbo_change_of_the_tape(shared_data: Path, tmp_path: Path) -> None:
    doors = Doors(shared_data / "taq_nbbo" / "quotes_2018-01-02.csv.gz")
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.subscribe("nbbo.")
        for endpoint in doors.endpoints("nbbo"):
            socket.connect(endpoint)
        with doors.replayed(tmp_path / "log", "--speed", "max", "--delay", "2s") as summary:
            changes = list(_numbered(socket, summary["nbbo_changes"]))
    counted = {name: summary[name] for name in ("quotes", "trades", "nbbo_changes", "gaps", "lost", "malformed")}
    assert counted == {"quotes": 220_557, "trades": 0, "nbbo_changes": 58_372, "gaps": 0, "lost": 0, "malformed": 0}
    assert [change["N"] for change in changes] == list(range(1, 58_373))
    lines = [_tape_line(change) for change in changes]
    assert all(a != b for a, b in itertools.pairwise(lines)), "each is a change of venue, price or size"
    assert {change["S"] for change in changes} == {"XXX"}
    assert {bool(change["st"] & STATE_NATIONAL) for change in changes} == {True}, "all venues that quoted are read"
    assert {change["st"] & (STATE_PARTIAL | STATE_STALE) for change in changes} == {0}
    agreed, answer = _after_each_row(doors.source, changes)
    assert agreed == 220_557, "rows of the file whose official indicator is what our changes say"
    assert answer == TAPE_ANSWER


def _numbered(socket: "zmq.Socket[bytes]", count: int) -> Iterator[dict[str, Any]]:
    """The messages up to number ``count``, without repetitions of a value at rest."""
    last = 0
    while last < count:
        assert socket.poll(PATIENCE_MS), f"silent after number {last}"
        _, payload = socket.recv_multipart()
        change = msgpack.unpackb(payload)
        if change["N"] != last:
            yield change
        last = change["N"]


def _tape_line(change: dict[str, Any]) -> str:
    sides = ((change[f"{side}x"], change[f"{side}p"], change[f"{side}s"]) for side in "ba")
    return ",".join(f"{x},{round(px * 100)},{size // 100}" if px is not None else ",0,0" for x, px, size in sides)


def _indicator(change: dict[str, Any] | None, venue: str) -> str:
    """What the tape says of a quote of ``venue``: A no change, O no side left, G the quote is all of it, U else."""
    if change is None:
        return "A"
    holders = {change["bx"], change["ax"]} - {None}
    return "O" if not holders else "G" if holders == {venue} else "U"


def _after_each_row(path: Path, changes: list[dict[str, Any]]) -> tuple[int, str]:
    """How many rows of the file have the indicator that our changes give them; and SHA-256 over a line for each: its
    number, and the change that is then in force.
    """
    agreed, digest = 0, hashlib.sha256()
    following = iter(changes)
    change = next(following, None)
    line = ",0,0,,0,0"
    with gzip.open(path, "rt") as rows:
        for row in csv.DictReader(rows):
            caused = change if change is not None and change["X"] == int(row["seq"]) else None
            agreed += _indicator(caused, row["ex"]) == row["natbbo_ind"]
            if caused is not None:
                line = _tape_line(caused)
                change = next(following, None)
            digest.update(f"{row['seq']},{line}\n".encode())
    assert change is None, "every change belongs to a row, in their order"
    return agreed, digest.hexdigest()


# A morning of IEX


class Truth:
    """What `naive_iex` reads in the capture before ``to_ns``."""

    def __init__(self, path: Path, to_ns: int) -> None:
        self.quotes: dict[str, Sides] = {}
        self.times: dict[str, int] = {}
        self.not_firm: set[str] = set()
        self.volumes: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))  # by the minute's first second
        self.broken: set[tuple[str, int]] = set()  # minutes of which a trade was broken
        trades: dict[bytes, tuple[str, int, int]] = {}  # by id
        for message in naive_iex.messages(path):
            if message.time_ns >= to_ns:
                break
            if message.type == "Q":
                self.quotes[message.symbol] = naive_iex.quote_sides(message.body)
                self.times[message.symbol] = message.event_ns
                change = self.not_firm.add if message.body[1] & 0x80 else self.not_firm.discard
                change(message.symbol)
            elif message.type == "T":
                minute = message.event_ns // (60 * 10**9) * 60
                size = int.from_bytes(message.body[18:22], "little")
                self.volumes[message.symbol][minute] += size
                trades[message.body[30:38]] = message.symbol, minute, size
            elif message.type == "B":
                symbol, minute, size = trades[message.body[30:38]]
                self.volumes[symbol][minute] -= size
                self.broken.add((symbol, minute))

    def composite(self) -> dict[str, Sides]:
        """The best of each symbol that has one; a quote that is not firm (0x80) takes no part in it."""
        return {s: sides for s, sides in self.quotes.items() if sides != NOTHING and s not in self.not_firm}


def _side(price: float | None, size: int | None) -> naive_iex.Side:
    return None if price is None or size is None else (round(price * 10_000), size)


@pytest.fixture(scope="module")
def capture(shared_data: Path) -> Path:
    return shared_data / "iex" / "TOPS16.pcapng.gz"


@pytest.fixture(scope="module")
def before_close(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Doors, Truth]]:
    doors = Doors(capture)
    with doors.replayed(tmp_path_factory.mktemp("replay") / "log", "--speed", "max", "--to", TO):
        yield doors, Truth(capture, TO_NS)


def _snapshot(endpoint: str, prefix: str) -> dict[str, dict[str, Any]]:
    """The last values under a prefix from the ROUTER of a publisher, by topic."""
    values = {}
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(endpoint)
        dealer.send_multipart([b"1", b"last", prefix.encode()])
        more = True
        while more:
            assert dealer.poll(PATIENCE_MS)
            _, summary, *frames = dealer.recv_multipart()
            more = msgpack.unpackb(summary)["more"]
            values |= {t.decode(): msgpack.unpackb(p) for t, p in zip(frames[::2], frames[1::2], strict=True)}
    return values


def _bus_sides(value: dict[str, Any]) -> Sides:
    return _side(value["bp"], value["bs"]), _side(value["ap"], value["as"])


def test_the_recording_is_not_a_dull_one(before_close: tuple[Doors, Truth]) -> None:
    _, truth = before_close
    assert len(truth.quotes) == 7_799
    assert len(truth.composite()) == 22
    assert truth.not_firm == {"ZEUS", "PATH"}


def test_the_snapshot_of_the_feed_is_the_last_quote_of_each_symbol(before_close: tuple[Doors, Truth]) -> None:
    doors, truth = before_close
    publisher = doors.topology.node("replay").publishes
    assert publisher is not None
    values = _snapshot(publisher.snapshot_endpoint, "quote.")
    assert {value["S"]: _bus_sides(value) for value in values.values()} == truth.quotes
    assert {value["S"]: value["t"] for value in values.values()} == truth.times
    assert {value["S"] for value in values.values() if "N" in value["c"]} == truth.not_firm


def test_the_snapshots_of_the_shards_are_the_composite(before_close: tuple[Doors, Truth]) -> None:
    doors, truth = before_close
    found: dict[str, Sides] = {}
    for publisher in doors.topology.publishers():
        if "nbbo" in publisher.channels:
            values = _snapshot(publisher.snapshot_endpoint, "nbbo.")
            assert all(value["S"][0] in publisher.letters for value in values.values())
            found |= {value["S"]: _bus_sides(value) for value in values.values()}
    assert {symbol: sides for symbol, sides in found.items() if sides != NOTHING} == truth.composite()


def test_a_subscriber_that_comes_late_hears_each_value_at_rest(before_close: tuple[Doors, Truth]) -> None:
    """Raw SUB: within five seconds what is silent is said again."""
    doors, truth = before_close
    heard: dict[str, Sides] = {}
    wanted = truth.composite()
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.subscribe("nbbo.")
        for endpoint in doors.endpoints("nbbo"):
            socket.connect(endpoint)
        while not wanted.keys() <= heard.keys():
            assert socket.poll(PATIENCE_MS), f"not heard: {wanted.keys() - heard.keys()}"
            value = msgpack.unpackb(socket.recv_multipart()[1])
            heard[value["S"]] = _bus_sides(value)
    assert {symbol: sides for symbol, sides in heard.items() if sides != NOTHING} == wanted


def test_rest_has_the_last_quote_of_every_symbol(before_close: tuple[Doors, Truth]) -> None:
    doors, truth = before_close
    live: dict[str, Sides] = {}
    told: set[str] = set()
    names = sorted(truth.quotes)
    for start in range(0, len(names), 500):
        answer = doors.get("/quotes?symbols=" + ",".join(map(urllib.request.quote, names[start : start + 500])))
        told |= {value["symbol"] for value in answer["quotes"] + answer["missing"]}
        assert {value["code"] for value in answer["missing"]} <= {"no_quote"}, "the symbol is known, without a quote"
        for value in answer["quotes"]:
            if value["state"] == "live":
                sides = _side(value["bid"], value["bid_size"]), _side(value["ask"], value["ask_size"])
                live[value["symbol"]] = sides
    assert told == set(names)
    assert live == truth.composite()


def test_a_websocket_gets_every_value_at_rest(before_close: tuple[Doors, Truth]) -> None:
    doors, truth = before_close
    composite: dict[str, Sides] = {}
    venue: dict[str, Sides] = {}
    with websockets.sync.client.connect(f"{doors.ws}/stream", max_size=None) as socket:
        socket.send(json.dumps({"action": "subscribe", "quotes": ["*"], "venueQuotes": ["*"]}))
        while len(venue) < len(truth.quotes) or not truth.composite().keys() <= composite.keys():
            for message in json.loads(socket.recv(10)):
                if message["T"] in ("q", "vq"):
                    table = venue if message["T"] == "vq" else composite
                    table[message["S"]] = _bus_sides(message)
    assert venue == truth.quotes
    assert {symbol: sides for symbol, sides in composite.items() if sides != NOTHING} == truth.composite()


def test_redis_holds_the_quotes_at_rest_while_the_feed_lives(before_close: tuple[Doors, Truth]) -> None:
    doors, truth = before_close
    (url,) = doors.topology.cache.servers
    with closing(redis.Redis.from_url(url, decode_responses=True)) as client:
        for _ in range(3):  # each further round is later than a life of one second
            found = {}
            for key in client.scan_iter("quote:*", count=1_000):
                value = json.loads(client.get(key) or "null")
                found[key.removeprefix("quote:")] = tuple(_side(value[s], value[f"{s}_size"]) for s in ("bid", "ask"))
                assert 0 < client.pttl(key) <= 1_000
            assert found == truth.composite()
            with closing(client.pubsub()) as nothing:
                nothing.subscribe("quotes:none")
                nothing.get_message(timeout=1)
                nothing.get_message(timeout=1.2)


def test_the_whole_recording_is_counted_and_ends_without_quotes(capture: Path, tmp_path: Path) -> None:
    doors = Doors(capture)
    truth = Truth(capture, 2**63)
    with doors.replayed(tmp_path / "log", "--speed", "max") as summary:
        names = sorted(truth.volumes)
        quotes = doors.get("/quotes?symbols=" + ",".join(names))["quotes"]
        bars = {name: doors.get(f"/candles/{name}?interval=1m&limit=100")["candles"] for name in names}
        with closing(redis.Redis.from_url(doors.topology.cache.servers[0])) as client:
            left = list(client.scan_iter("quote:*"))
    names_of_counts = ("packets", "messages", "quotes", "trades", "gaps", "lost", "duplicates", "malformed", "symbols")
    counts = [summary[name] for name in names_of_counts]
    assert counts == [13_022, 57_674, 27_217, 6_390, 0, 0, 0, 0, 7_799]
    assert truth.composite() == {}
    assert {quote["state"] for quote in quotes} == {"stale"}, "the close withdrew every quote"
    assert left == []
    volumes = {name: {bar["start"]: bar["volume"] for bar in found} for name, found in bars.items()}
    assert volumes == truth.volumes
    last_minute = max(start for found in truth.volumes.values() for start in found)
    assert summary["last"][:16] == datetime.fromtimestamp(last_minute, UTC).isoformat()[:16]
    assert len(truth.broken) == 3
    for name, found in bars.items():
        for bar in found:
            revised = (name, bar["start"]) in truth.broken
            assert bar["rev"] == (bar["start"] < last_minute) + revised, "closed once, as no trade was late"
