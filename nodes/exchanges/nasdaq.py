"""The simulated NASDAQ: a market whose orders leave as real TotalView-ITCH 5.0 messages in MoldUDP64 over UDP."""

from typing import TYPE_CHECKING, Final

import numpy as np

from fabric.records import pack
from fabric.topology import FeedSettings
from nodes.exchanges import itch_encoder_kernel
from nodes.exchanges.encoder import Encoder
from nodes.exchanges.exchange import Exchange, Program, run
from nodes.exchanges.itch_messages_kernel import SESSION_BYTES
from nodes.exchanges.market import Events
from nodes.exchanges.request_server import MoldUdp64Server, SoupServer
from nodes.feeds import recovery_kernel

if TYPE_CHECKING:
    from fabric.node import Runtime


class ItchEncoder(Encoder):
    """Events in, MoldUDP64 packets out."""

    def __init__(self, names: tuple[str, ...], session: int, **settings: int) -> None:
        """``settings`` as for any `Encoder`; the session's text is its number in ten digits."""
        self._names = np.array([pack(name) for name in names], np.int64)
        self._session = np.zeros(SESSION_BYTES, np.uint8)
        super().__init__(session, **settings)

    def restart(self, session: int) -> None:
        super().restart(session)
        self._session[:] = np.frombuffer(f"{session:010d}".encode(), np.uint8)

    @property
    def session_name(self) -> bytes:
        """The session as the wire names it."""
        return self._session.tobytes()

    def heartbeat(self, now_ns: int) -> None:
        itch_encoder_kernel.heartbeat(self._session, self._stream, self.packets, self.lengths)

    def _fill(self, events: Events, first: int, used: int) -> tuple[int, int]:
        return itch_encoder_kernel.encode(
            events, first, used, self._names, self._session, self._stream, self.packets, self.lengths, self.due_ns
        )


def servers(feed: FeedSettings, exchange: Exchange) -> list[MoldUdp64Server | SoupServer]:
    """Requests over UDP, or SoupBinTCP, at each address that the feed asks. Raises UnavailableError."""
    assert exchange.store
    encoder = exchange.encoder
    assert isinstance(encoder, ItchEncoder)
    made: list[MoldUdp64Server | SoupServer] = []
    for scheme, host, port in feed.recovery:
        if scheme == "udp":
            made.append(MoldUdp64Server((host, port), exchange.store, encoder.session_name))
        else:
            users = {feed.login[0]: feed.login[1]}
            made.append(SoupServer((host, port), exchange.store, encoder.session_name, users))

    def renew() -> None:
        for server in made:
            if isinstance(server, SoupServer):
                server.end(exchange.made_ns)
                server.begin(encoder.session_name)
            else:
                server.session = encoder.session_name

    exchange.renewals.append(renew)
    return made


PROGRAM: Final = Program(
    "Q", ItchEncoder, itch_encoder_kernel, recovery_kernel.MOLDUDP64, servers, by_orders=True, renumbers=True
)


def main(runtime: "Runtime") -> None:
    """Run the exchange that the node's settings describe, until told to stop."""
    run(PROGRAM, runtime)
