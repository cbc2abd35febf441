"""The simulated NYSE: a market whose quotes and trades leave as real Pillar packets (BBO and Trades) over UDP."""

from typing import TYPE_CHECKING, Final

import numpy as np

from fabric.records import pack
from nodes.exchanges import xdp_encoder_kernel
from nodes.exchanges.encoder import Encoder
from nodes.exchanges.exchange import Program, run
from nodes.exchanges.market import Events

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

    def heartbeat(self, now_ns: int) -> None:
        xdp_encoder_kernel.heartbeat(self._stream, self.packets, self.lengths, now_ns)

    def _fill(self, events: Events, first: int, used: int) -> tuple[int, int]:
        return xdp_encoder_kernel.encode(
            events, first, used, self._names, self._owns, self._restricted, self._stream, self.packets, self.lengths,
            self.due_ns,
        )  # fmt: skip


PROGRAM: Final = Program("N", XdpEncoder, xdp_encoder_kernel, corrects=True)


def main(runtime: "Runtime") -> None:
    """Run the exchange that the node's settings describe, until told to stop."""
    run(PROGRAM, runtime)
