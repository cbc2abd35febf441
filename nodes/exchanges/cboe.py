"""The simulated Cboe BZX: a market whose orders leave as real Multicast PITCH messages in Sequenced Units over UDP."""

from typing import TYPE_CHECKING, Final

import numpy as np

from fabric.records import pack
from nodes.exchanges import pitch_encoder_kernel
from nodes.exchanges.encoder import Encoder
from nodes.exchanges.exchange import Program, run
from nodes.exchanges.market import Events

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


PROGRAM: Final = Program("Z", PitchEncoder, pitch_encoder_kernel, by_orders=True)


def main(runtime: "Runtime") -> None:
    """Run the exchange that the node's settings describe, until told to stop."""
    run(PROGRAM, runtime)
