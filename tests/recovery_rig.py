"""What the tests of recovery share: a sent stream, its store, and turns of both ends' loops at a given time."""

from collections.abc import Callable

import numpy as np

from fabric.clock import MILLISECOND_NS
from naive_recovery import UNIT, packet, parse
from nodes.exchanges.store import Store
from nodes.feeds.wire import Packets

LINE = 2
"""Index of the line that answers are told to have come on."""
START_NS = 1_000_000_000_000


def body(number: int) -> bytes:
    """What message ``number`` says, of a length of its own."""
    return b"message %d" % number + b"." * (number % 7)


class Sent:
    """An exchange that has sent ``count`` messages in packets of 1 to 3."""

    def __init__(self, transport: int, count: int, **store: int) -> None:
        self.transport = transport
        self.store = Store(transport, **store)
        self.payloads: list[bytes] = []
        number = 1
        while number <= count:
            size = min(1 + number % 3, count - number + 1)
            self.send(number, [body(n) for n in range(number, number + size)])
            number += size

    def send(self, first: int, bodies: list[bytes]) -> None:
        payload = packet(self.transport, first, bodies, sent_ns=START_NS + first)
        self.payloads.append(payload)
        row = np.frombuffer(payload, np.uint8).reshape(1, -1).copy()
        self.store.keep(row, np.array([len(payload)], np.int64), 1)


class Loop:
    """Both ends' loops: a turn is a millisecond, whatever the clock on the wall says."""

    def __init__(self, client, *servers) -> None:
        self.client, self.servers = client, servers
        self.now_ns = START_NS
        self.payloads: list[bytes] = []

    def turn(self, elapsed_ns: int = MILLISECOND_NS) -> list[bytes]:
        """Move on; return the answers of this turn."""
        self.now_ns += elapsed_ns
        self.client.tick(self.now_ns)
        for server in self.servers:
            server.serve(self.now_ns)
        new = payloads_of(self.client.packets(self.now_ns))
        self.payloads += new
        return new

    def until(self, done: Callable[[], bool], turns: int = 3_000) -> None:
        """Turn until it is done; fail after so many turns."""
        for _ in range(turns):
            if done():
                return
            self.turn()
        raise AssertionError(f"not done after {turns} turns: {self.client.counters()}")


def payloads_of(packets: Packets) -> list[bytes]:
    assert (packets.lines == LINE).all()
    return [
        packets.buffer[at : at + length].tobytes()
        for at, length in zip(packets.offsets.tolist(), packets.lengths.tolist(), strict=True)
    ]


def numbers_in(transport: int, payloads: list[bytes]) -> dict[int, bytes]:
    """Number -> message of everything in ``payloads``, each with its length as framed."""
    found: dict[int, bytes] = {}
    for payload in payloads:
        parsed = parse(transport, payload)
        assert parsed is not None
        assert parsed.unit == UNIT[transport]
        found.update(enumerate(parsed.messages, parsed.first))
    return found
