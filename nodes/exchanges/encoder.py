"""What the encoders of all wires share: the buffer of packets and the state of their stream."""

from abc import ABC, abstractmethod
from typing import Final

import numpy as np

from fabric.clock import MILLISECOND_NS
from nodes.exchanges.encoder_kernel import PACKET_BYTES, STREAM
from nodes.exchanges.market import Events
from nodes.feeds.trading_day import TradingDay

PACKETS_MAX: Final = 512
"""Packets that are made at once."""


class Encoder(ABC):
    """Events in, packets out, in a buffer that is used again at each call. A wire adds `_fill`."""

    def __init__(self, session: int, *, grid_ns: int = 0, tick_ns: int = MILLISECOND_NS, skew_ns: int = 0) -> None:
        """Number messages from 1 under ``session`` (1 to 2**31 - 1).

        Packets are due at ``grid_ns`` and every ``tick_ns`` before and after it. Stamps are ``skew_ns`` ahead.
        """
        self.packets = np.zeros((PACKETS_MAX, PACKET_BYTES), np.uint8)
        self.lengths = np.zeros(PACKETS_MAX, np.int64)
        self.due_ns = np.zeros(PACKETS_MAX, np.int64)
        self._stream = np.zeros(1, STREAM)
        self._stream["grid_ns"], self._stream["tick_ns"], self._stream["skew_ns"] = grid_ns, tick_ns, skew_ns
        self._day = TradingDay()
        self.restart(session)

    @property
    def session(self) -> int:
        """Number of this incarnation of the stream."""
        return int(self._stream["session"][0])

    def restart(self, session: int) -> None:
        """Begin a new session: numbers start at 1 again."""
        self._stream["session"], self._stream["sequence"], self._stream["offset"] = session, 1, 0
        self._stream["second"] = -1

    @property
    def told(self) -> int:
        """Messages told in this session."""
        return int(self._stream["sequence"][0]) - 1

    def encode(self, events: Events, first: int = 0, used: int = 0) -> tuple[int, int]:
        """Append to the ``used`` packets in the buffer: ``packets[i, :lengths[i]]``, due at ``due_ns[i]``.

        Begins with event ``first``. Returns where it stopped (no more event, or no more room) and how many packets
        there are now.
        """
        if first < events.size:
            self._stream["midnight_ns"] = self._day.at(int(events["event_ns"][first]))
        return self._fill(events, first, used)

    def alone(self, events: Events) -> list[bytes]:
        """The packets of events that leave at once, in an encoder that has nothing else in its buffer."""
        taken, packets = 0, []
        while taken < events.size:
            taken, used = self.encode(events, taken)
            packets += [self.packets[i, : self.lengths[i]].tobytes() for i in range(used)]
        return packets

    @abstractmethod
    def heartbeat(self, now_ns: int) -> None:
        """Put into ``packets[0]`` what the wire sends when there is nothing to say."""

    @abstractmethod
    def _fill(self, events: Events, first: int, used: int) -> tuple[int, int]:
        """As `encode`, which has set the day."""
