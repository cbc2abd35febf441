"""What an exchange has sent, kept for those who lost it: the store of a request server."""

from typing import Final

import numpy as np
import numpy.typing as npt

from nodes.exchanges import store_kernel

BYTES_MAX: Final = 32 << 20
PACKETS_MAX: Final = 1 << 16
PACKET_BYTES_MAX: Final = 9_216


class Store:
    """A bounded memory of packets: the oldest are forgotten first."""

    def __init__(self, transport: int, bytes_max: int = BYTES_MAX, packets_max: int = PACKETS_MAX) -> None:
        """``transport`` is one of `nodes.feeds.recovery_kernel`."""
        self.transport = transport
        self._arrays = store_kernel.new_store(bytes_max, packets_max)
        self._out = np.zeros(PACKET_BYTES_MAX, np.uint8)

    def keep(self, packets: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int64], count: int) -> None:
        """Keep ``packets[i, :lengths[i]]`` for i below ``count``; those without whole messages are not kept."""
        store_kernel.keep(self._arrays, packets, lengths, count, self.transport)

    def cut(self, unit: int, first: int, count: int) -> tuple[int, bytes]:
        """A packet with messages from ``first``, up to ``count``, as far as one packet kept holds them.

        Returns how many it has, and the packet; (0, b"") when ``first`` is not there: too old, or never sent.
        """
        taken, length = store_kernel.cut(self._arrays, unit, first, count, self.transport, self._out)
        return int(taken), self._out[:length].tobytes()

    def bounds(self, unit: int) -> tuple[int, int]:
        """Number of the oldest message of a unit that is still there, and of the next one; (0, 0): nothing is."""
        first, following = store_kernel.bounds(self._arrays, unit)
        return int(first), int(following)

    def forget(self) -> None:
        """Forget all: a new session begins."""
        heads = self._arrays.heads
        heads[store_kernel.OLDEST] = heads[store_kernel.WRITTEN]

    @property
    def packets(self) -> int:
        """Packets kept."""
        heads = self._arrays.heads
        return int(heads[store_kernel.WRITTEN] - heads[store_kernel.OLDEST])
