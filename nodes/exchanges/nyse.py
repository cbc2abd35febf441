"""The simulated NYSE: a market whose quotes and trades leave as real Pillar packets (BBO and Trades) over UDP."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np

from fabric.records import pack
from fabric.topology import FeedSettings
from nodes.exchanges import xdp_encoder_kernel
from nodes.exchanges.encoder import Encoder
from nodes.exchanges.exchange import Exchange, Program, run
from nodes.exchanges.market import Events
from nodes.exchanges.request_server_xdp import Image, XdpServer
from nodes.exchanges.xdp_messages_kernel import HEADER_BYTES, MAPPING_BYTES
from nodes.feeds import recovery_kernel

if TYPE_CHECKING:
    from fabric.node import Runtime


class XdpEncoder(Encoder):
    """Events in, Pillar packets out."""

    def __init__(self, names: tuple[str, ...], session: int, **settings: int) -> None:
        """``settings`` as for any `Encoder`; the wire tells a new session by a sequence reset."""
        self._names = np.array([pack(name) for name in names], np.int64)
        self._owns = np.zeros(len(names), np.int64)
        self._restricted = np.zeros(len(names), np.int64)
        super().__init__(session, **settings)

    def restart(self, session: int) -> None:
        super().restart(session)
        self._owns[:] = 0

    def own(self, symbol: int) -> int:
        """Messages so far about a symbol."""
        return int(self._owns[symbol])

    def heartbeat(self, now_ns: int) -> None:
        xdp_encoder_kernel.heartbeat(self._stream, self.packets, self.lengths, now_ns)

    def _fill(self, events: Events, first: int, used: int) -> tuple[int, int]:
        return xdp_encoder_kernel.encode(
            events, first, used, self._names, self._owns, self._restricted, self._stream, self.packets, self.lengths,
            self.due_ns,
        )  # fmt: skip


class Refreshes:
    """What the stream has told of each symbol, for the request server (`request_server_xdp.Images`)."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._encoder = XdpEncoder(exchange.market.names, 1)

    def refresh(self, index: int) -> Iterator[Image]:
        encoder = self._exchange.encoder
        assert isinstance(encoder, XdpEncoder)
        for symbol in self._symbols(index):
            messages = self._messages(symbol)
            yield Image(encoder.told, encoder.own(symbol), messages)

    def mappings(self, index: int) -> Iterator[bytes]:
        for symbol in self._symbols(index):
            yield next(message for message in self._messages(symbol) if len(message) == MAPPING_BYTES)

    def _symbols(self, index: int) -> range:
        count = len(self._exchange.market.names)
        if index == 0:
            return range(count)
        return range(index - 1, index) if index <= count else range(0)

    def _messages(self, symbol: int) -> list[bytes]:
        """Time reference, mapping, status and quote of a symbol."""
        self._encoder.restart(1)
        messages = []
        for packet in self._encoder.alone(self._exchange.market.image(np.array([symbol]), self._exchange.made_ns)):
            at = HEADER_BYTES
            while at < len(packet):
                size = int.from_bytes(packet[at : at + 2], "little")
                messages.append(packet[at : at + size])
                at += size
        return messages


def servers(feed: FeedSettings, exchange: Exchange) -> list[XdpServer]:
    """The request server, at each address that the feed asks. Raises UnavailableError."""
    assert exchange.store
    retransmissions, refreshes = (*feed.answers, None, None)[:2]
    return [
        XdpServer(
            (host, port),
            exchange.store,
            feed.product,
            feed.channel,
            [feed.login[0]],
            Refreshes(exchange),
            retransmissions,
            refreshes or retransmissions,
        )
        for _, host, port in feed.recovery
    ]


PROGRAM: Final = Program("N", XdpEncoder, xdp_encoder_kernel, recovery_kernel.PILLAR, servers, corrects=True)


def main(runtime: "Runtime") -> None:
    """Run the exchange that the node's settings describe, until told to stop."""
    run(PROGRAM, runtime)
