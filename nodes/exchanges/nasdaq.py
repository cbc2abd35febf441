"""The simulated NASDAQ: a market whose orders leave as real TotalView-ITCH 5.0 messages in MoldUDP64 over UDP."""

from typing import TYPE_CHECKING, Final

import numpy as np

from fabric.records import pack
from nodes.exchanges import itch_encoder_kernel
from nodes.exchanges.encoder import Encoder
from nodes.exchanges.exchange import Program, run
from nodes.exchanges.itch_messages_kernel import SESSION_BYTES
from nodes.exchanges.market import Events

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

    def heartbeat(self, now_ns: int) -> None:
        itch_encoder_kernel.heartbeat(self._session, self._stream, self.packets, self.lengths)

    def _fill(self, events: Events, first: int, used: int) -> tuple[int, int]:
        return itch_encoder_kernel.encode(
            events, first, used, self._names, self._session, self._stream, self.packets, self.lengths, self.due_ns
        )


PROGRAM: Final = Program("Q", ItchEncoder, itch_encoder_kernel, by_orders=True, renumbers=True)


def main(runtime: "Runtime") -> None:
    """Run the exchange that the node's settings describe, until told to stop."""
    run(PROGRAM, runtime)
