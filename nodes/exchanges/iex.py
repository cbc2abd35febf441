"""The simulated IEX: a market whose events leave as real TOPS 1.6 packets over UDP."""

from typing import TYPE_CHECKING, Final

import numpy as np

from fabric.records import pack
from nodes.exchanges import iex_encoder_kernel
from nodes.exchanges.encoder import Encoder
from nodes.exchanges.exchange import Program, run
from nodes.exchanges.market import Events

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


PROGRAM: Final = Program("V", TopsEncoder, iex_encoder_kernel)


def main(runtime: "Runtime") -> None:
    """Run the exchange that the node's settings describe, until told to stop."""
    run(PROGRAM, runtime)
