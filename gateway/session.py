"""One client's conversation: what each of its messages is answered (pure but for the fan-out it is given).

The handler (`websocket`) reads and writes; what may be said, in which order and how often, is decided here.
The time is an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from fabric.clock import SECOND_NS
from gateway import protocol
from gateway.auth import Grant
from gateway.delayed import DELAYED_CHANNELS
from gateway.limits import Strikes, TokenBucket
from gateway.protocol import Auth, Feed, Message, Places, ProtocolError, Subscribe, Unsubscribe
from gateway.protocol_kernel import JSON

AUTH_TIMEOUT_S: Final = 10
BAD_MESSAGES_MAX: Final = 5  # within the window: then the connection is closed
FLOOD_MAX: Final = 10  # messages beyond the rate within the window
WINDOW_NS: Final = 10 * SECOND_NS
MESSAGES_PER_S: Final = 20
MESSAGES_BURST: Final = 100
NAMED_MAX: Final = 10  # patterns of one channel that an error names


class Host(Protocol):
    """What a session asks of the gateway around it."""

    def authenticate(self, key: str, secret: str, takeover: bool, known: Grant | None) -> Grant:
        """Let the client in, or in again when it is ``known``; raises Refusal."""
        ...

    def take_message(self, grant: Grant) -> int:
        """One message of a user: 0, or how many milliseconds it is too early."""
        ...

    def count_symbols(self, patterns: Sequence[str]) -> int:
        """How many symbols the patterns mean, with those that are named and not known yet."""
        ...

    def degraded(self) -> bool:
        """Whether the gateway has more to send than it can."""
        ...


class Refusal(ProtocolError):  # noqa: N818  (what it is, and not of ours)
    """A client that is not let in: the error, and the code to close with."""

    def __init__(self, code: int, close: int, detail: str = "", **extra: Any) -> None:
        super().__init__(code, "", detail, **extra)
        self.close = close


class Subscriber(Protocol):
    """What a session needs of the fan-out, for its own client."""

    interval_ms: int

    def subscribe(
        self, channels: Mapping[str, Sequence[str]], interval_ms: int, snapshot: bool, resume: Places | None = None
    ) -> None:
        """Add to what the client gets, of streams from ``resume`` on; raises ProtocolError (405, 409) and changes
        nothing.
        """
        ...

    def unsubscribe(self, channels: Mapping[str, Sequence[str]]) -> None:
        """Take away from what the client gets."""
        ...

    def choose(self, fields: Sequence[str] | None, heartbeat: bool | None, trace: bool | None) -> None:
        """Which keys its data has (empty: all), and whether it gets heartbeats and the stamps of each hop; None leaves
        it as it was.
        """
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

    __slots__ = (
        "_bad", "_bucket", "_encoding", "_feed", "_flood", "_greeted", "_host", "_subscriber", "_venues", "grant",
    )  # fmt: skip

    def __init__(
        self,
        feed: Feed,
        encoding: int,
        subscriber: Subscriber,
        host: Host,
        now_ns: int,
        grant: Grant | None = None,
        proven: bool = False,
        venues: Sequence[str] = (),
    ) -> None:
        """``grant``: what is known of the client already, None where it must say who it is; ``proven``: by its own
        credentials. ``venues``: the feeds whose values `venueQuotes` are.
        """
        self._feed = feed
        self._encoding = encoding
        self._subscriber = subscriber
        self._host = host
        self.grant = grant
        self._greeted = proven
        self._venues = venues
        self._bad = Strikes(BAD_MESSAGES_MAX, WINDOW_NS)
        self._flood = Strikes(FLOOD_MAX, WINDOW_NS)
        self._bucket = TokenBucket(MESSAGES_PER_S, MESSAGES_BURST, now_ns)

    @property
    def authenticated(self) -> bool:
        """Whether requests are served."""
        return self.grant is not None

    def opened(self) -> Answer:
        """The first words to a client."""
        hello = [protocol.success("connected")]
        return Answer([*hello, protocol.success("authenticated")] if self._greeted else hello)

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
        if wait_ms := self._too_early(now_ns):
            most = MESSAGES_PER_S if self.grant is None else self.grant.plan.messages
            error = ProtocolError(406, detail=f"more than {most} messages a second", retry_after_ms=wait_ms)
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
            close = (error.close, error.words) if isinstance(error, Refusal) else None
            return Answer([error.message(request.req_id)], close)

    def _too_early(self, now_ns: int) -> int:
        """Milliseconds until a message is allowed; 0 when one is now."""
        if self.grant is not None and self.grant.user:
            return self._host.take_message(self.grant)
        return self._bucket.take(now_ns)

    def _serve(self, request: protocol.Request) -> Answer:
        if isinstance(request, Auth):
            return self._authenticate(request)
        if self.grant is None:
            raise ProtocolError(401)
        refused: list[Message] = []
        if isinstance(request, Subscribe):
            refused = self._subscribe(request, self.grant)
        elif isinstance(request, Unsubscribe):
            self._subscriber.unsubscribe(request.channels)
        listing = self._subscriber.subscribed()
        return Answer([*refused, protocol.subscription(listing, self._subscriber.interval_ms, request.req_id)])

    def _authenticate(self, request: Auth) -> Answer:
        """Once; and again before a token ends, as the same user."""
        known = self.grant if self._greeted else None
        if known is not None and known.expires_ns is None:
            raise ProtocolError(403)
        self.grant = self._host.authenticate(request.key, request.secret, request.takeover, known)
        self._greeted = True
        return Answer([protocol.success("authenticated", request.req_id)])

    def _subscribe(self, request: Subscribe, grant: Grant) -> list[Message]:
        """Subscribe to what the plan has; return an error for what it has not. Raises ProtocolError, and changes
        nothing, where the feed or a limit forbids the whole.
        """
        for channel, patterns in request.channels.items():
            if not patterns or self._feed.venue < 0:
                continue
            if channel == "venueQuotes":
                raise ProtocolError(410, channel, f"/v2/{self._feed.name} has the quotes of its venue as `quotes`")
            if channel in protocol.BAR_CHANNELS and not self._feed.composite_bars:
                raise ProtocolError(410, channel, "bars are of all venues together: /v2/sip or /stream")
        channels: dict[str, Sequence[str]] = {}
        refused: dict[str, list[str]] = {}
        for channel, patterns in request.channels.items():
            seen = [pattern for pattern in patterns if self._sees(grant, channel, pattern)]
            channels[channel] = seen
            if len(seen) < len(patterns):
                refused[channel] = [pattern for pattern in patterns if pattern not in seen]
        self._check_count(channels, grant)
        interval_ms = self._subscriber.interval_ms if request.interval_ms is None else request.interval_ms
        self._subscriber.subscribe(channels, interval_ms, request.snapshot, request.resume)
        if (request.fields, request.heartbeat, request.trace) != (None, None, None):
            self._subscriber.choose(request.fields, request.heartbeat, request.trace)
        if not refused:
            return []
        named = "; ".join(f"{channel}: {' '.join(patterns[:NAMED_MAX])}" for channel, patterns in refused.items())
        return [ProtocolError(409, next(iter(refused)), f"not in the plan {grant.plan.name!r}: {named}").message(
            request.req_id
        )]  # fmt: skip

    def _sees(self, grant: Grant, channel: str, pattern: str) -> bool:
        if pattern.endswith("*") and not grant.plan.wildcards:
            return False
        if grant.plan.delay_ns and channel not in DELAYED_CHANNELS:
            return False
        if channel == "venueQuotes" and not all(grant.sees_feed(venue) for venue in self._venues):
            return False
        return grant.sees_channel(channel) and grant.sees(pattern)

    def _check_count(self, channels: Mapping[str, Sequence[str]], grant: Grant) -> None:
        """Raise ProtocolError (405) when a channel would have more symbols than the plan allows."""
        most, why = grant.plan.symbols_max, f"the plan {grant.plan.name!r}"
        if grant.plan.symbols_surge and self._host.degraded():
            most, why = grant.plan.symbols_surge, f"{why} while the gateway is degraded"
        if not most:
            return
        held = self._subscriber.subscribed()
        for channel, patterns in channels.items():
            if patterns:
                count = self._host.count_symbols([*held.get(channel, ()), *patterns])
                if count > most:
                    raise ProtocolError(405, channel, f"{count} symbols, at most {most} by {why}")
