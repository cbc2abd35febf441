"""The simulated IEX: a market whose events leave as real TOPS 1.6 packets over UDP."""

from contextlib import closing
from typing import TYPE_CHECKING, Final

import numpy as np

from fabric.records import pack
from fabric.topology import ExchangeSettings
from nodes.exchanges import iex_encoder_kernel, market_kernel, sender_kernel
from nodes.exchanges.exchange import Exchange, run
from nodes.exchanges.market import BATCH_MAX, Events, Market
from nodes.exchanges.pacing import Pacer
from nodes.exchanges.sender import Sender

if TYPE_CHECKING:
    from fabric.node import Runtime

VENUE: Final = "V"


def main(runtime: "Runtime") -> None:
    """Run the exchange that the node's settings describe, until told to stop."""
    settings = runtime.spec.settings
    assert isinstance(settings, ExchangeSettings)
    for kernels in (market_kernel, iex_encoder_kernel, sender_kernel):
        kernels.warm_up()
    pacer = Pacer(runtime.clock)
    rate = settings.rate * settings.surge
    market = Market(settings.symbols, settings.seed, pacer.start_ns, rate=rate, venue=VENUE, shape=settings.shape)
    encoder = TopsEncoder(market.names, session_id(settings.seed, pacer.start_ns))
    with closing(Sender(settings.lines, encoder.packets, encoder.lengths)) as sender:
        runtime.ready(f"{settings.symbols} symbols, {rate:,.0f} messages/s to {len(settings.lines)} lines")
        market.skip_to(pacer.now_ns())  # the opening begins now, not when this was begun
        run(Exchange(market, encoder, sender, pacer), pacer, runtime)


class TopsEncoder:
    """Events in, IEX-TP packets out, in a buffer that is used again at each call."""

    def __init__(self, names: tuple[str, ...], session: int, events_max: int = BATCH_MAX) -> None:
        """Number messages from 1 under ``session`` (32 bits); take up to ``events_max`` events at once."""
        packets = iex_encoder_kernel.packets_for(events_max)
        self.packets = np.zeros((packets, iex_encoder_kernel.PACKET_BYTES), np.uint8)
        self.lengths = np.zeros(packets, np.int64)
        self._symbols = np.array([pack(name.ljust(8)) for name in names], np.int64)
        self._stream = np.zeros(1, iex_encoder_kernel.STREAM)
        self._stream["session"], self._stream["sequence"] = session, 1

    def encode(self, events: Events, send_ns: int) -> int:
        """Fill ``packets[i, :lengths[i]]`` and return how many; no events make a heartbeat."""
        return iex_encoder_kernel.encode(events, self._symbols, self._stream, self.packets, self.lengths, send_ns)


def session_id(seed: int, start_ns: int) -> int:
    """A session id that differs between starts: 31 bits, never 0."""
    return market_kernel.mix(seed ^ market_kernel.mix(start_ns)) >> 33 & 0x7FFFFFFF or 1
