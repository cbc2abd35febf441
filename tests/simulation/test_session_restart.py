"""An exchange that begins a new session, as each wire tells it: the feed goes on as one that has seen nothing else."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from exchange_rig import RECEIVED_NS, said, stream
from fabric.clock import MILLISECOND_NS, SECOND_NS
from fabric.records import KIND_QUOTE, NULL, QUOTE
from fabric.symbols import SymbolTable
from nodes.exchanges.cboe import PitchEncoder
from nodes.exchanges.encoder import Encoder
from nodes.exchanges.iex import TopsEncoder
from nodes.exchanges.market import Market
from nodes.exchanges.nasdaq import ItchEncoder
from nodes.exchanges.nyse import XdpEncoder
from nodes.feeds import wires
from nodes.feeds.sequencer import LINES
from nodes.feeds.wire import from_payloads

APART_NS = 4 * SECOND_NS
PACKETS_A_TURN = 10
LATE = 5
"""The last packets of the old session come on line B after the first of the new one have come on line A."""


@dataclass
class Exchange:
    wire: str
    venue: str
    encoder: Callable[..., Encoder]
    by_orders: bool = False
    renumbers: bool = False
    names_sessions: bool = True  # else what is late cannot be told from what is new


EXCHANGES = {
    "nasdaq": Exchange("nasdaq-itch-5.0", "Q", ItchEncoder, by_orders=True, renumbers=True),
    "cboe": Exchange("cboe-pitch-2.41", "Z", PitchEncoder, by_orders=True, names_sessions=False),
    "iex": Exchange("iex-tops-1.6", "V", TopsEncoder),
    "nyse": Exchange("nyse-pillar", "N", XdpEncoder),
}


class Feed:
    """Lines A and B of a wire, a turn a millisecond."""

    def __init__(self, exchange: Exchange) -> None:
        self.symbols = SymbolTable(1_000)
        self.wire = wires.make(exchange.wire, self.symbols, exchange.venue, (0, 0), LINES)
        self.now_ns = 5 * SECOND_NS

    def take(self, packets: list[bytes], line: int) -> list[np.ndarray]:
        batch = from_payloads(packets, RECEIVED_NS, line)
        return [part.copy() for part in self.wire.decode(batch, self.now_ns)]

    def run(self, packets: list[bytes], late: list[bytes], keep: int = 0) -> np.ndarray:
        """Rows of packets on both lines; ``late`` come on B after the first turn, the last ``keep`` never do."""
        rows = []
        for at in range(0, len(packets), PACKETS_A_TURN):
            turn = slice(at, at + PACKETS_A_TURN)
            rows += self.take(packets[turn], 0)
            rows += self.take([*(late if at == PACKETS_A_TURN else []), *packets[: len(packets) - keep][turn]], 1)
            self.now_ns += MILLISECOND_NS
        return np.concatenate(rows)


def quotes_of(rows: np.ndarray, symbols: SymbolTable) -> list[tuple[str, bool]]:
    """Symbol of each quote, and whether it has a side."""
    quotes = rows[rows["kind"] == KIND_QUOTE].view(QUOTE)
    return [(symbols.name(int(row["symbol"])), bool(row["bid_px"] != NULL or row["ask_px"] != NULL)) for row in quotes]


@pytest.mark.parametrize("name", EXCHANGES)
def test_after_a_restart_a_feed_is_as_one_that_has_seen_nothing_before(name: str) -> None:
    exchange = EXCHANGES[name]
    encoder: Encoder | None = None
    sessions: list[list[bytes]] = []
    for number in range(2):
        settings = {"venue": exchange.venue, "by_orders": exchange.by_orders, "renumbers": exchange.renumbers}
        market = Market(300, 3, RECEIVED_NS + number * APART_NS, rate=20_000.0, **settings)
        if encoder is None:
            encoder = exchange.encoder(market.names, 98)
        else:
            encoder.restart(99)
        sessions.append(stream(market, encoder, 8_000)[1])
    keep = LATE if exchange.names_sessions else 0
    feed, fresh = Feed(exchange), Feed(exchange)
    before = feed.run(sessions[0], [], keep)
    feed.now_ns += 2 * SECOND_NS
    after = feed.run(sessions[1], sessions[0][len(sessions[0]) - keep :])
    alone = fresh.run(sessions[1], [])

    counts = feed.wire.counters()
    assert [counts[key] for key in ("lost", "gaps", "malformed", "restarts")] == [0, 0, 0, 1]
    late = counts["late"] + counts.get("late_packets", 0)
    assert (late > 0) == (keep > 0)
    found, expected = said(after, feed.symbols.names()), said(alone, fresh.symbols.names())
    assert (found.quotes, found.trades) == (expected.quotes, expected.trades)
    assert len(found.quotes) > 1_000
    standing = {symbol for symbol, has_side in dict(quotes_of(before, feed.symbols)).items() if has_side}
    first = dict(reversed(quotes_of(after, feed.symbols)))
    assert len(standing) > 250
    assert not any(first[symbol] for symbol in standing), "all that stood was withdrawn before anything new"
