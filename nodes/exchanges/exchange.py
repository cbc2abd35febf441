"""The loop of a simulated exchange, whatever its wire: at each tick take what is due, encode it, send it."""

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import numpy.typing as npt

from fabric.clock import SECOND_NS
from nodes.exchanges.market import Events, Market
from nodes.exchanges.pacing import CATCH_UP_NS, Pacer
from nodes.exchanges.sender import Sender

if TYPE_CHECKING:
    from fabric.node import Runtime

HEARTBEAT_NS: Final = SECOND_NS
"""A line that has been silent for so long is told that it is alive."""


class Encoder(Protocol):
    """What turns market events into the packets of a wire."""

    packets: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64]

    def encode(self, events: Events, send_ns: int) -> int:
        """Fill ``packets[i, :lengths[i]]`` and return how many; no events make a heartbeat."""
        ...


class Exchange:
    """A market, its encoder and its lines."""

    def __init__(self, market: Market, encoder: Encoder, sender: Sender, pacer: Pacer) -> None:
        self._market, self._encoder, self._sender, self._pacer = market, encoder, sender, pacer
        self._ticked_ns = self._spoke_ns = pacer.start_ns
        self.messages = self.packets = self.skipped = 0

    def tick(self, now_ns: int) -> None:
        """Send what is due at ``now_ns``, or a heartbeat after a second of silence."""
        if now_ns - self._ticked_ns > CATCH_UP_NS:
            self.skipped += self._market.skip_to(now_ns - CATCH_UP_NS)
        self._ticked_ns = now_ns
        events = self._market.take(now_ns)
        if events.size:
            oldest_ns = int(events["event_ns"][0])
            while events.size:
                self._send(events, now_ns)
                events = self._market.take(now_ns)
            self._pacer.sent(oldest_ns)
        elif now_ns - self._spoke_ns >= HEARTBEAT_NS:
            self._send(events, now_ns)

    def counters(self) -> dict[str, int | float | str]:
        """What has been sent since the start, and how late since the last call."""
        late_max, late_p99 = self._pacer.late_ms()
        return {
            "messages": self.messages,
            "packets": self.packets,
            "skipped": self.skipped,
            "refused": self._sender.refused,
            "late_ms_max": round(late_max, 3),
            "late_ms_p99": round(late_p99, 3),
        }

    def _send(self, events: Events, now_ns: int) -> None:
        packets = self._encoder.encode(events, now_ns)
        self._sender.send(packets)
        self.messages += events.size
        self.packets += packets
        self._spoke_ns = now_ns


def run(exchange: Exchange, pacer: Pacer, runtime: "Runtime") -> None:
    """Tick until told to stop; report once a second, with the rate of that second."""
    reported_ns, messages = pacer.start_ns, 0
    while not runtime.stopping():
        now_ns = pacer.wait()
        exchange.tick(now_ns)
        if now_ns - reported_ns >= SECOND_NS:
            rate = round((exchange.messages - messages) * SECOND_NS / (now_ns - reported_ns))
            runtime.report({"rate": rate, **exchange.counters()})
            reported_ns, messages = now_ns, exchange.messages
