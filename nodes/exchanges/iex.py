"""The simulated IEX: a market whose events leave as real TOPS 1.6 packets over UDP."""

from typing import TYPE_CHECKING, Final

import numpy as np

from fabric.records import pack
from fabric.topology import FeedSettings
from nodes.exchanges import iex_encoder_kernel
from nodes.exchanges.encoder import Encoder
from nodes.exchanges.exchange import Exchange, Program, run
from nodes.exchanges.market import Events
from nodes.exchanges.request_server import IexTpServer
from nodes.feeds import iex_kernel, recovery_kernel

if TYPE_CHECKING:
    from fabric.node import Runtime


class TopsEncoder(Encoder):
    """Events in, IEX-TP packets out."""

    def __init__(self, names: tuple[str, ...], session: int, **settings: int) -> None:
        """``settings`` as for any `Encoder`."""
        self._symbols = np.array([pack(name.ljust(8)) for name in names], np.int64)
        super().__init__(session, **settings)

    def heartbeat(self, now_ns: int) -> None:
        iex_encoder_kernel.heartbeat(self._stream, self.packets, self.lengths, now_ns)

    def _fill(self, events: Events, first: int, used: int) -> tuple[int, int]:
        return iex_encoder_kernel.encode(
            events, first, used, self._symbols, self._stream, self.packets, self.lengths, self.due_ns
        )


def servers(feed: FeedSettings, exchange: Exchange) -> list[IexTpServer]:
    """Gap fill over UDP, at each address that the feed asks. Raises UnavailableError."""
    assert exchange.store
    made: list[IexTpServer] = []
    for _, host, port in feed.recovery:
        made.append(
            IexTpServer(
                (host, port), exchange.store, iex_kernel.PROTOCOL_TOPS, iex_encoder_kernel.CHANNEL,
                exchange.encoder.session,
            )
        )  # fmt: skip

    def renew() -> None:
        for server in made:
            server.session = exchange.encoder.session

    exchange.renewals.append(renew)
    return made


PROGRAM: Final = Program("V", TopsEncoder, iex_encoder_kernel, recovery_kernel.IEXTP, servers)


def main(runtime: "Runtime") -> None:
    """Run the exchange that the node's settings describe, until told to stop."""
    run(PROGRAM, runtime)
