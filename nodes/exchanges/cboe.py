"""The simulated Cboe BZX: a market whose orders leave as real Multicast PITCH messages in Sequenced Units over UDP."""

from typing import TYPE_CHECKING, Final

import numpy as np

from fabric.records import pack
from fabric.topology import FeedSettings
from nodes.exchanges import pitch_encoder_kernel
from nodes.exchanges.encoder import Encoder
from nodes.exchanges.exchange import Exchange, Program, run
from nodes.exchanges.market import Events
from nodes.exchanges.pitch_messages_kernel import HEADER_BYTES
from nodes.exchanges.request_server_pitch import GrpServer, SpinServer
from nodes.feeds import recovery_kernel

if TYPE_CHECKING:
    from fabric.node import Runtime


class PitchEncoder(Encoder):
    """Events in, Sequenced Unit packets out."""

    def __init__(self, names: tuple[str, ...], session: int, **settings: int) -> None:
        """``settings`` as for any `Encoder`; the wire has no word for the session, a new one begins at number 1."""
        self._names = np.array([pack(name) for name in names], np.int64)
        self._restricted = np.zeros(len(names), np.int64)
        super().__init__(session, **settings)

    def heartbeat(self, now_ns: int) -> None:
        pitch_encoder_kernel.heartbeat(self._stream, self.packets, self.lengths)

    def _fill(self, events: Events, first: int, used: int) -> tuple[int, int]:
        return pitch_encoder_kernel.encode(
            events, first, used, self._names, self._restricted, self._stream, self.packets, self.lengths, self.due_ns
        )


class OpenOrders:
    """The book of the unit as the stream has told it, for the spin server."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._encoder = PitchEncoder(exchange.market.names, 1)

    def __call__(self) -> tuple[int, list[bytes]]:
        """Number of the last message, and a Time, every status and every order."""
        exchange = self._exchange
        symbols = np.arange(len(exchange.market.names))
        self._encoder.restart(1)
        messages: list[bytes] = []
        for packet in self._encoder.alone(exchange.market.image(symbols, exchange.made_ns)):
            at = HEADER_BYTES
            while at < len(packet):
                messages.append(packet[at : at + packet[at]])
                at += packet[at]
        return exchange.encoder.told, messages


def servers(feed: FeedSettings, exchange: Exchange) -> list[GrpServer | SpinServer]:
    """The gap request proxy, and the spin server of the unit, where the feed asks them. Raises UnavailableError."""
    assert exchange.store
    users = {feed.login[0]: feed.login[1]}
    made: list[GrpServer | SpinServer] = []
    for _, host, port in feed.recovery:
        made.append(GrpServer((host, port), exchange.store, users, (pitch_encoder_kernel.UNIT,), feed.answers))
    for host, port in feed.spins[: pitch_encoder_kernel.UNIT]:
        made.append(SpinServer((host, port), OpenOrders(exchange), users))
    return made


PROGRAM: Final = Program(
    "Z", PitchEncoder, pitch_encoder_kernel, recovery_kernel.SEQUENCED_UNIT, servers, by_orders=True
)


def main(runtime: "Runtime") -> None:
    """Run the exchange that the node's settings describe, until told to stop."""
    run(PROGRAM, runtime)
