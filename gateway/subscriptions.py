"""Who wants what: channels and patterns by client, and clients by pattern (pure).

A pattern is a symbol, a prefix that ends in ``*``, or ``*``. It is kept as it was said, so that a symbol which
is traded for the first time today finds those who asked for it yesterday.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

Wanted = Mapping[str, Sequence[str]]


class Subscriptions:
    """The patterns of every client (a number) by channel, in the order in which they were subscribed."""

    def __init__(self) -> None:
        self._wanted: dict[int, dict[str, dict[str, None]]] = {}
        self._clients: defaultdict[str, dict[tuple[int, str], None]] = defaultdict(dict)

    def add(self, client: int, wanted: Wanted) -> None:
        """Subscribe; what is subscribed already stays as it is."""
        mine = self._wanted.setdefault(client, {})
        for channel, patterns in wanted.items():
            held = mine.setdefault(channel, {})
            for pattern in patterns:
                held[pattern] = None
                self._clients[pattern][client, channel] = None

    def remove(self, client: int, wanted: Wanted) -> None:
        """Unsubscribe; what is not subscribed is no mistake."""
        mine = self._wanted.get(client, {})
        for channel, patterns in wanted.items():
            held = mine.get(channel, {})
            for pattern in patterns:
                if pattern in held:
                    del held[pattern]
                    self._forget(client, channel, pattern)

    def drop(self, client: int) -> None:
        """Forget a client."""
        for channel, patterns in self._wanted.pop(client, {}).items():
            for pattern in patterns:
                self._forget(client, channel, pattern)

    def of(self, client: int) -> dict[str, list[str]]:
        """The patterns of a client by channel."""
        return {channel: list(patterns) for channel, patterns in self._wanted.get(client, {}).items()}

    def wanting(self, symbol: str) -> Iterator[tuple[int, str]]:
        """Each (client, channel) that wants ``symbol``, once."""
        seen: dict[tuple[int, str], None] = {}
        for pattern in (symbol, *(f"{symbol[:end]}*" for end in range(len(symbol) + 1))):
            if pattern in self._clients:
                seen |= self._clients[pattern]
        return iter(seen)

    def _forget(self, client: int, channel: str, pattern: str) -> None:
        clients = self._clients[pattern]
        del clients[client, channel]
        if not clients:
            del self._clients[pattern]
