"""One client's conversation: what each of its messages is answered (pure but for the fan-out it is given).

The handler (`websocket`) reads and writes; what may be said, in which order and how often, is decided here.
The time is an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from fabric.clock import SECOND_NS
from gateway import protocol
from gateway.limits import Strikes, TokenBucket
from gateway.protocol import Auth, Feed, Message, ProtocolError, Subscribe, Unsubscribe
from gateway.protocol_kernel import JSON

AUTH_TIMEOUT_S: Final = 10
BAD_MESSAGES_MAX: Final = 5  # within the window: then the connection is closed
FLOOD_MAX: Final = 10  # messages beyond the rate within the window
WINDOW_NS: Final = 10 * SECOND_NS
MESSAGES_PER_S: Final = 20
MESSAGES_BURST: Final = 100


class Authenticator(Protocol):
    """Who may come in."""

    def authenticate(self, key: str, secret: str, remote: str) -> bool:
        """Whether the client at address ``remote`` may use the stream with this key."""
        ...


class OpenDoor:
    """Lets everyone in: what a gateway on loopback does by default."""

    def authenticate(self, key: str, secret: str, remote: str) -> bool:
        return True


class Subscriber(Protocol):
    """What a session needs of the fan-out, for its own client."""

    interval_ms: int

    def subscribe(self, channels: Mapping[str, Sequence[str]], interval_ms: int, snapshot: bool) -> None:
        """Add to what the client gets; raises ProtocolError (405) and changes nothing."""
        ...

    def unsubscribe(self, channels: Mapping[str, Sequence[str]]) -> None:
        """Take away from what the client gets."""
        ...

    def subscribed(self) -> Mapping[str, Sequence[str]]:
        """The patterns that are subscribed, by channel."""
        ...


@dataclass(frozen=True)
class Answer:
    """What to send, and with which code and words to close after it."""

    messages: list[Message] = field(default_factory=list)
    close: tuple[int, str] | None = None


class Session:
    """The state of one conversation."""

    def __init__(
        self,
        feed: Feed,
        encoding: int,
        subscriber: Subscriber,
        authenticator: Authenticator,
        remote: str,
        now_ns: int,
    ) -> None:
        self._feed = feed
        self._encoding = encoding
        self._subscriber = subscriber
        self._authenticator = authenticator
        self._remote = remote
        self._greeted = False  # an auth message was accepted
        self._bad = Strikes(BAD_MESSAGES_MAX, WINDOW_NS)
        self._flood = Strikes(FLOOD_MAX, WINDOW_NS)
        self._bucket = TokenBucket(MESSAGES_PER_S, MESSAGES_BURST, now_ns)

    @property
    def authenticated(self) -> bool:
        """Whether requests are served: /stream is open to whoever was let in, /v2 wants its auth message first."""
        return self._greeted or not self._feed.alpaca

    def opened(self) -> Answer:
        """The first words to a client."""
        return Answer([protocol.success("connected")])

    def overdue(self) -> Answer:
        """What to do `AUTH_TIMEOUT_S` after the opening."""
        if self.authenticated:
            return Answer()
        return Answer([ProtocolError(404).message()], (protocol.CLOSE_AUTH_TIMEOUT, protocol.WORDS[404]))

    def handle(self, data: str | bytes, now_ns: int) -> Answer:
        """Answer one message; ``now_ns`` is monotonic."""
        if isinstance(data, str) != (self._encoding == JSON):
            found, expected = ("text", "binary") if isinstance(data, str) else ("binary", "text")
            return Answer(close=(protocol.CLOSE_UNSUPPORTED, f"{found} frame, expected {expected}"))
        wait_ms = self._bucket.take(now_ns)
        if wait_ms > 0:
            error = ProtocolError(406, detail=f"more than {MESSAGES_PER_S} messages a second", retry_after_ms=wait_ms)
            close = (protocol.CLOSE_FLOOD, "too many messages") if self._flood.add(now_ns) else None
            return Answer([error.message()], close)
        try:
            request = protocol.parse(data, self._encoding)
        except ProtocolError as error:
            close = (protocol.CLOSE_POLICY, "too many bad messages") if self._bad.add(now_ns) else None
            return Answer([error.message(protocol.req_id_of(data, self._encoding))], close)
        try:
            return self._serve(request)
        except ProtocolError as error:
            close = (protocol.CLOSE_UNAUTHORIZED, protocol.WORDS[402]) if error.code == 402 else None
            return Answer([error.message(request.req_id)], close)

    def _serve(self, request: protocol.Request) -> Answer:
        if isinstance(request, Auth):
            if self._greeted:
                raise ProtocolError(403)
            if not self._authenticator.authenticate(request.key, request.secret, self._remote):
                raise ProtocolError(402)
            self._greeted = True
            return Answer([protocol.success("authenticated", request.req_id)])
        if not self.authenticated:
            raise ProtocolError(401)
        if isinstance(request, Subscribe):
            self._subscribe(request)
        elif isinstance(request, Unsubscribe):
            self._subscriber.unsubscribe(request.channels)
        listing = self._subscriber.subscribed()
        return Answer([protocol.subscription(listing, self._subscriber.interval_ms, request.req_id)])

    def _subscribe(self, request: Subscribe) -> None:
        for channel, patterns in request.channels.items():
            if not patterns or self._feed.venue < 0:
                continue
            if channel == "venueQuotes":
                raise ProtocolError(410, channel, f"/v2/{self._feed.name} has the quotes of its venue as `quotes`")
            if channel in protocol.BAR_CHANNELS and not self._feed.composite_bars:
                raise ProtocolError(410, channel, "bars are of all venues together: /v2/sip or /stream")
        interval_ms = self._subscriber.interval_ms if request.interval_ms is None else request.interval_ms
        self._subscriber.subscribe(request.channels, interval_ms, request.snapshot)
