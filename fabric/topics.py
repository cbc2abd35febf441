"""Topic names of the bus: build, parse, and who can match a prefix (pure).

``<channel>.<SYMBOL>|`` for one value a symbol, ``<channel>.<SYMBOL>|<venue>`` for one a venue, and
``node.<name>|`` for a publisher's heartbeat. ``|`` ends the symbol, so ``nbbo.AAPL|`` is exactly AAPL and
``nbbo.A`` every symbol that begins with A. Source: contracts, "The bus".
"""

from dataclasses import dataclass

from fabric.records import CHANNELS, SYMBOL_MAX, VENUE_CHANNELS

NODE_CHANNEL = "node"
MORE_CHANNEL = "more"
"""Word to nodes that read a publisher's log in memory (`fabric.bus.tail`): no channel that anybody else asks for."""
BY_LENGTH = tuple(sorted((*CHANNELS, NODE_CHANNEL), key=len, reverse=True))


@dataclass(frozen=True)
class Topic:
    """A whole topic, taken apart. ``venue`` is empty where the channel has none."""

    channel: str
    symbol: str
    venue: str = ""


def build(channel: str, symbol: str, venue: str = "") -> str:
    """The topic of one value: ``build("quote", "AAPL", "V")`` is ``quote.AAPL|V``."""
    return f"{channel}.{symbol}|{venue}"


def parse(topic: str) -> Topic:
    """Take a whole topic apart; raises ValueError naming what is wrong with it."""
    channel = channel_of(topic)
    if channel is None:
        raise ValueError(f"topic {topic!r}: no channel of {', '.join(sorted(BY_LENGTH))} and a dot at its start")
    symbol, bar, venue = topic[len(channel) + 1 :].partition("|")
    if not bar:
        raise ValueError(f"topic {topic!r}: no '|' after the symbol")
    if len(symbol) > SYMBOL_MAX and channel != NODE_CHANNEL:
        raise ValueError(f"topic {topic!r}: symbol longer than {SYMBOL_MAX} bytes")
    if venue and (channel not in VENUE_CHANNELS or len(venue) != 1 or not "A" <= venue <= "Z"):
        raise ValueError(f"topic {topic!r}: {venue!r} after '|' is no venue letter")
    return Topic(channel, symbol, venue)


def channel_of(prefix: str) -> str | None:
    """The channel that a topic or prefix names in full (with its dot), or None."""
    return next((channel for channel in BY_LENGTH if prefix.startswith(channel + ".")), None)


def prefix_channels(prefix: str) -> tuple[str, ...]:
    """The channels that a subscription to ``prefix`` can deliver; it may stop inside the channel's name."""
    whole = channel_of(prefix)
    if whole is not None:
        return (whole,)
    return tuple(channel for channel in BY_LENGTH if (channel + ".").startswith(prefix))


def first_letter(prefix: str) -> str:
    """The first character of the symbols that match a prefix; empty when it leaves that open."""
    channel = channel_of(prefix)
    return "" if channel is None else prefix[len(channel) + 1 : len(channel) + 2]
