"""Lines A and B that lose packets, the sequencer, the clients and the request servers, all over real sockets.

Each transport carries numbered messages; what reaches the decoder must be what an undisturbed run gives. The same for
the rows that the feeds make of the simulated exchanges' packets. Time is given: a turn of all loops is a millisecond.
"""

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest

from exchange_rig import RECEIVED_NS, market, said, stream
from fabric.clock import MILLISECOND_NS, SECOND_NS
from fabric.symbols import SymbolTable
from fabric.topology import FeedSettings
from naive_recovery import IEX_PROTOCOL, IEX_SESSION, SESSION, UNIT, message, packet
from nodes.exchanges.cboe import PitchEncoder
from nodes.exchanges.encoder import Encoder
from nodes.exchanges.iex import TopsEncoder
from nodes.exchanges.nasdaq import ItchEncoder
from nodes.exchanges.nyse import XdpEncoder
from nodes.exchanges.request_server import IexTpServer, MoldUdp64Server, SoupServer
from nodes.exchanges.request_server_pitch import GrpServer
from nodes.exchanges.request_server_xdp import XdpServer
from nodes.exchanges.store import Store
from nodes.feeds import iextp_kernel, moldudp64_kernel, pillar_kernel, sequenced_unit_kernel, wires
from nodes.feeds.lines import Lines
from nodes.feeds.pitch_requests import Login
from nodes.feeds.recovery import Recoveries
from nodes.feeds.recovery_iextp import IexTpRecovery
from nodes.feeds.recovery_kernel import IEXTP, MOLDUDP64, PILLAR, SEQUENCED_UNIT
from nodes.feeds.recovery_moldudp64 import MoldUdp64Recovery
from nodes.feeds.recovery_pitch import GrpRecovery
from nodes.feeds.recovery_soupbintcp import SoupRecovery
from nodes.feeds.recovery_xdp import XdpRecovery
from nodes.feeds.sequencer import RECOVERY
from nodes.feeds.wire import Packets, from_payloads
from nodes.feeds.wire_kernel import DATA, GAP, RESTART
from nodes.feeds.wires import SequencedWire, Transport
from recovery_rig import Sent, body
from support import free_port

LOOPBACK = ("127.0.0.1", 0)
LINES = 2
PACKETS = 1_000
PACKETS_A_TURN = 5


class Mark(NamedTuple):
    kind: int
    first: int
    count: int


class Recorder:
    """A decoder that keeps the messages, and makes no rows."""

    def __init__(self, transport: int) -> None:
        self.transport = transport
        self.said: list[Mark | tuple[int, bytes]] = []  # (number, message as framed)

    def decode(self, buffer, blocks) -> Iterator:
        for block in blocks:
            kind = int(block["kind"])
            if kind in (GAP, RESTART):
                self.said.append(Mark(kind, int(block["first"]), int(block["count"])))
            elif kind == DATA:
                at = int(block["start"])
                for i in range(int(block["count"])):
                    size = len(message(self.transport, body_at(buffer, at, self.transport)))
                    if i >= block["skip"]:
                        self.said.append((int(block["first"]) + i, buffer[at : at + size].tobytes()))
                    at += size
        yield from ()

    def counters(self) -> dict[str, int]:
        return {}

    def messages_by_type(self) -> dict[str, int]:
        return {}


def body_at(buffer, at: int, transport: int) -> bytes:
    low, high = int(buffer[at]), int(buffer[at + 1])
    match transport:
        case 1:
            return buffer[at + 2 : at + 2 + (low << 8 | high)].tobytes()
        case 2:
            return buffer[at + 2 : at + 2 + (low | high << 8)].tobytes()
        case 3:
            return buffer[at + 2 : at + low].tobytes()
        case _:
            return buffer[at + 4 : at + (low | high << 8)].tobytes()


def framing(transport: int) -> Transport:
    match transport:
        case 1:
            return Transport(moldudp64_kernel.frame, {i: f"c{i}" for i in range(moldudp64_kernel.N_COUNTERS)} | NAMED)
        case 2:
            names = {i: f"c{i}" for i in range(iextp_kernel.N_COUNTERS)} | NAMED
            return Transport(iextp_kernel.frame, names, (IEX_PROTOCOL,))
        case 3:
            names = {i: f"c{i}" for i in range(sequenced_unit_kernel.N_COUNTERS)} | NAMED
            return Transport(sequenced_unit_kernel.frame, names)
        case _:
            names = {i: f"c{i}" for i in range(pillar_kernel.N_COUNTERS)} | NAMED
            return Transport(pillar_kernel.frame, names, (pillar_kernel.new_streams(8),))


NAMED = {0: "packets"}
GAP_LINE = ("127.0.0.1", free_port(socket.SOCK_DGRAM))


@dataclass
class Way:
    """How one exchange is asked: its transport, and both ends of its request protocol."""

    transport: int
    server: Callable[[Sent], object]
    client: Callable[[tuple[str, int]], object]


WAYS = {
    "moldudp64": Way(
        MOLDUDP64,
        lambda sent: MoldUdp64Server(LOOPBACK, sent.store, SESSION),
        lambda address: MoldUdp64Recovery(0, LINES, (address,)),
    ),
    "soupbintcp": Way(
        MOLDUDP64,
        lambda sent: SoupServer(LOOPBACK, sent.store, SESSION, {"alice": "secret"}),
        lambda address: SoupRecovery(0, LINES, [address], "alice", "secret"),
    ),
    "iextp": Way(
        IEXTP,
        lambda sent: IexTpServer(LOOPBACK, sent.store, IEX_PROTOCOL, UNIT[IEXTP], IEX_SESSION),
        lambda address: IexTpRecovery(0, LINES, (address,), IEX_PROTOCOL),
    ),
    "grp": Way(
        SEQUENCED_UNIT,
        lambda sent: GrpServer(LOOPBACK, sent.store, {"FIRM": "secret"}, [UNIT[SEQUENCED_UNIT]], [GAP_LINE]),
        lambda address: GrpRecovery(0, LINES, [address], Login("0001", "FIRM", "secret"), [GAP_LINE]),
    ),
    "xdp": Way(
        PILLAR,
        lambda sent: XdpServer(LOOPBACK, sent.store, 3, 7, ["FABRIC"]),
        lambda address: XdpRecovery(0, LINES, [address], "FABRIC", 3, 7),
    ),
}


@dataclass
class Market:
    """The feed with its lines, and the exchange with its server."""

    way: Way
    drop_a: set[int]
    drop_b: set[int]
    serve: bool = True
    address: tuple[str, int] | None = None  # of another server than the exchange's own
    packets: int = PACKETS
    others: list[Callable[[int], None]] = field(default_factory=list)

    def run(self) -> "Market":
        transport = self.way.transport
        sent = Sent(transport, 0)
        self.decoder = Recorder(transport)
        self.wire = SequencedWire(framing(transport), self.decoder, "Q", (0, 0), RECOVERY)
        random_ = random.Random(7)
        with ExitStack() as stack:
            lines = stack.enter_context(closing(Lines([LOOPBACK, LOOPBACK])))
            server = stack.enter_context(closing(self.way.server(sent)))
            client = stack.enter_context(closing(self.way.client(self.address or server.address)))
            recoveries = Recoveries({0: client})
            senders = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
            for sender, address in zip(senders, lines.addresses, strict=True):
                sender.connect(address)
            number, made, now_ns, idle = 1, 0, 5 * SECOND_NS, 0
            while idle < 1_500:
                for _ in range(PACKETS_A_TURN):
                    if made < self.packets:
                        size = random_.randrange(1, 4)
                        sent.send(number, [body(n) for n in range(number, number + size)])
                        self._tell(senders, made, sent.payloads[-1])
                        number += size
                        made += 1
                if made == self.packets:
                    self._tell(senders, -1, packet(transport, number, [], sent_ns=now_ns))
                    if not self.wire.waiting:
                        idle += 100
                    idle += 1
                if self.serve:
                    server.serve(now_ns)
                for other in self.others:
                    other(now_ns)
                lines.wait(0)
                batch = lines.receive(now_ns)
                recoveries.observe(batch)
                self._take(batch, now_ns)
                for answers in recoveries.turn(self.wire, now_ns, now_ns):
                    self._take(answers, now_ns)
                now_ns += MILLISECOND_NS
            self.client, self.server = recoveries.counters(), server.counters()
        self.sent = number - 1
        return self

    def _tell(self, senders, index: int, payload: bytes) -> None:
        for sender, dropped in zip(senders, (self.drop_a, self.drop_b), strict=True):
            if index not in dropped:
                sender.send(payload)

    def _take(self, packets: Packets, now_ns: int) -> None:
        for _ in self.wire.decode(packets, now_ns):
            pass

    @property
    def marks(self) -> list[Mark]:
        return [said for said in self.decoder.said if isinstance(said, Mark)]

    def without(self, marks: list[Mark]) -> list[object]:
        """What an undisturbed run says, but for what is inside of these gaps."""
        lost = {n for mark in marks for n in range(mark.first, mark.first + mark.count)}
        return [(number, said) for number, said in self.undisturbed if number not in lost]

    @property
    def messages(self) -> list[object]:
        return [said for said in self.decoder.said if not isinstance(said, Mark)]

    @property
    def undisturbed(self) -> list[object]:
        return [(n, message(self.way.transport, body(n))) for n in range(1, self.sent + 1)]


def losses(seed: int) -> set[int]:
    """One packet in a hundred, but not the first: what comes before a feed joins is not missed."""
    return {i for i in range(1, PACKETS) if random.Random(seed * PACKETS + i).random() < 0.01}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def test_what_one_line_loses_the_other_brings(way):
    seed = random.randrange(1 << 20)
    a, b = losses(seed), losses(seed + 1)
    market = Market(way, a - b, b - a).run()
    assert market.decoder.said == market.undisturbed, f"seed {seed}"
    counts = market.wire.counters()
    assert (counts["lost"], counts["gaps"]) == (0, 0), f"seed {seed}"


def test_what_both_lines_lose_is_asked_for_and_comes(way):
    seed = random.randrange(1 << 20)
    both = losses(seed) | {100, 101, 102, 103, PACKETS - 1}
    market = Market(way, both, both).run()
    assert market.decoder.said == market.undisturbed, f"seed {seed}"
    counts = market.wire.counters()
    assert (counts["lost"], counts["gaps"], market.client["recovery_abandoned"]) == (0, 0, 0), f"seed {seed}"
    assert counts["filled_by_request"] == market.client["recovery_messages"] > 0, f"seed {seed}"


def test_a_server_that_is_silent_costs_the_gap_and_the_feed_goes_on(way):
    market = Market(way, {50, 51, 90}, {50, 51, 90}, serve=False, packets=300).run()
    assert {mark.kind for mark in market.marks} == {GAP}
    assert market.wire.counters()["lost"] == sum(mark.count for mark in market.marks) > 0
    assert market.messages == market.without(market.marks)


def test_a_server_of_another_session_or_one_that_talks_garbage_costs_the_gap_and_the_feed_goes_on(way):
    seed = random.randrange(1 << 32)
    random_ = random.Random(seed)
    kind = socket.SOCK_DGRAM if way in (WAYS["moldudp64"], WAYS["iextp"]) else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as liar, ExitStack() as stack:
        liar.bind(LOOPBACK)
        liar.setblocking(False)
        peers: list[socket.socket] = []
        if kind == socket.SOCK_STREAM:
            liar.listen()

        def answer(now_ns: int) -> None:
            lie = random_.choice(
                [
                    random_.randbytes(random_.randrange(200)),
                    packet(way.transport, 50, [b"lie"], session=b"WRONG     ", iex_session=4),
                    packet(way.transport, 1 << 30, [b"lie"], flag=15),
                    packet(way.transport, 60, [], flag=13),
                    packet(way.transport, 60, [b"lie"])[:-2],
                ]
            )
            if kind == socket.SOCK_DGRAM:
                try:
                    _, source = liar.recvfrom(1_000)
                    liar.sendto(lie, source)
                except BlockingIOError:
                    pass
                return
            with suppress(BlockingIOError):
                peers.append(stack.enter_context(liar.accept()[0]))
            for peer in peers:
                try:
                    peer.send(lie)
                except OSError:
                    peers.remove(peer)

        market = Market(way, {50, 90}, {50, 90}, packets=300, address=liar.getsockname(), others=[answer]).run()
    assert {mark.kind for mark in market.marks} == {GAP}, f"seed {seed}"
    assert market.messages == market.without(market.marks), f"seed {seed}"


@dataclass
class Exchange:
    """A simulated exchange, how its wire is read, and its request server."""

    wire: str
    encoder: Callable[..., Encoder]
    market: dict[str, object]
    transport: int
    server: Callable[[Store], object]
    scheme: str
    settings: dict[str, object] = field(default_factory=dict)


EXCHANGES = {
    "nasdaq": Exchange(
        "nasdaq-itch-5.0",
        ItchEncoder,
        {"venue": "Q", "by_orders": True, "renumbers": True},
        MOLDUDP64,
        lambda store: MoldUdp64Server(LOOPBACK, store, b"0000000099"),
        "udp",
    ),
    "nasdaq over tcp": Exchange(
        "nasdaq-itch-5.0",
        ItchEncoder,
        {"venue": "Q", "by_orders": True, "renumbers": True},
        MOLDUDP64,
        lambda store: SoupServer(LOOPBACK, store, b"0000000099", {"FIRM": "secret"}),
        "tcp",
        {"login": ("FIRM", "secret")},
    ),
    "cboe": Exchange(
        "cboe-pitch-2.41",
        PitchEncoder,
        {"venue": "Z", "by_orders": True},
        SEQUENCED_UNIT,
        lambda store: GrpServer(LOOPBACK, store, {"FIRM": "secret"}, [1], [GAP_LINE]),
        "tcp",
        {"login": ("FIRM", "secret"), "answers": (GAP_LINE,)},
    ),
    "iex": Exchange(
        "iex-tops-1.6",
        TopsEncoder,
        {"venue": "V"},
        IEXTP,
        lambda store: IexTpServer(LOOPBACK, store, 0x8003, 1, 99),
        "udp",
    ),
    "nyse": Exchange(
        "nyse-pillar",
        XdpEncoder,
        {"venue": "N", "corrects": True},
        PILLAR,
        lambda store: XdpServer(LOOPBACK, store, 3, 1, ["FIRM"]),
        "tcp",
        {"login": ("FIRM", ""), "product": 3, "channel": 1},
    ),
}


def rows_with(exchange: Exchange, packets: list[bytes], lost: set[int], heartbeat: bytes) -> tuple[np.ndarray, dict]:
    """All rows of a feed whose two lines lose the same packets, and its counters."""
    symbols = SymbolTable(1_000)
    rows: list[np.ndarray] = []
    store = Store(exchange.transport)
    with ExitStack() as stack:
        server = stack.enter_context(closing(exchange.server(store)))
        settings = FeedSettings(
            exchange.wire,
            str(exchange.market["venue"]),
            (("h", 1), ("h", 2)),
            (0, 0),
            recovery=((exchange.scheme, *server.address),),
            **exchange.settings,
        )
        wire = wires.make(settings.wire, symbols, settings.venues, settings.groups, RECOVERY)
        recoveries = stack.enter_context(closing(Recoveries(wires.clients(settings))))

        def take(batch: Packets) -> None:
            rows.extend(part.copy() for part in wire.decode(batch, now_ns))

        now_ns, at, quiet = 5 * SECOND_NS, 0, 0
        while quiet < 20:
            part = range(at, min(at + 10, len(packets)))
            at = part.stop
            for i in part:
                row = np.frombuffer(packets[i], np.uint8).reshape(1, -1).copy()
                store.keep(row, np.array([row.size]), 1)
            told = [packets[i] for i in part if i not in lost]
            if at == len(packets):
                told.append(heartbeat)
                quiet = 0 if wire.waiting else quiet + 1
            for line in range(2):
                batch = from_payloads(told, RECEIVED_NS, line)
                recoveries.observe(batch)
                take(batch)
            server.serve(now_ns)
            for answers in recoveries.turn(wire, RECEIVED_NS, now_ns):
                take(answers)
            now_ns += MILLISECOND_NS
        return np.concatenate(rows), {**wire.counters(), **recoveries.counters()}


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_rows_of_a_feed_that_loses_packets_are_those_of_an_undisturbed_one(name):
    exchange = EXCHANGES[name]
    running = market(**exchange.market)
    encoder = exchange.encoder(running.names, 99)
    _, packets = stream(running, encoder, 10_000)
    encoder.heartbeat(RECEIVED_NS + 10 * SECOND_NS)  # after all that it has sent
    heartbeat = encoder.packets[0, : encoder.lengths[0]].tobytes()
    seed = random.randrange(1 << 32)
    random_ = random.Random(seed)
    lost = {i for i in range(1, len(packets)) if random_.random() < 0.02} | {len(packets) - 1}
    undisturbed, counts = rows_with(exchange, packets, set(), heartbeat)
    assert counts["lost"] == counts["malformed"] == counts["recovery_requests"] == 0
    found, counts = rows_with(exchange, packets, lost, heartbeat)
    assert counts["lost"] == counts["malformed"] == counts["recovery_abandoned"] == 0, f"seed {seed}"
    assert counts["filled_by_request"] > 0, f"seed {seed}"
    header = ["kind", "symbol", "venue", "exchange_seq", "event_ns"]
    assert found[header].tolist() == undisturbed[header].tolist(), f"seed {seed}"
    names = SymbolTable(1_000).names() + list(running.names)
    assert said(found, names) == said(undisturbed, names), f"seed {seed}"
