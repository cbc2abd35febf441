"""The WebSocket routes, and one client's conversation: reads requests, writes answers, decides nothing.

Tornado reads the request of a handshake (`StreamHandler`), which may be refused with a status. After that a client is
a `Talk` over a `connection.Connection`, and a row of the fan-out, whose compiled flush sends to the descriptor in the
same thread; what is answered to a request goes through the connection.
"""

import asyncio
from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from tornado.web import RequestHandler
from tornado.websocket import WebSocketHandler

from fabric.symbols import SymbolTable
from gateway import protocol, strict
from gateway.auth import AuthError, Credentials, Door, Grant, Visit, from_headers, from_message
from gateway.connection import Connection, Connections, take_over
from gateway.fanout import Client, Fanout
from gateway.protocol import Feed
from gateway.protocol_kernel import JSON, MSGPACK
from gateway.rest import Answering, Problem, problem_document, refuse_secrets_in_query, unauthorized
from gateway.session import AUTH_TIMEOUT_S, Answer, Refusal, Session

RETRY_AFTER_MS = 1_000
"""When to try again where a limit of connections was met."""


@dataclass(frozen=True)
class Shop:
    """What all conversations of a process share."""

    fanouts: Mapping[int, Fanout]  # by their delay in nanoseconds
    symbols: SymbolTable
    door: Door
    feeds: Mapping[str, Feed]
    venues: Sequence[str]  # the feeds whose values `venueQuotes` are
    degraded: Callable[[], bool]
    connections: Connections


def handlers(
    fanout: Fanout,
    symbols: SymbolTable,
    door: Door,
    delayed: Mapping[int, Fanout] | None = None,
    degraded: Callable[[], bool] = lambda: False,
    connections: Connections | None = None,
) -> list[tuple[Any, ...]]:
    """The routes: ``/v2/<feed>`` and ``/stream``.

    ``delayed``: by their delay in nanoseconds, the fan-outs of those whose plan has one; ``degraded``: whether the
    gateway has more to send than it can; ``connections``: where live ones are kept.
    """
    venues = tuple(venue.feed for venue in fanout.topology.venues)
    shop = Shop(
        {0: fanout} | dict(delayed or {}), symbols, door, protocol.feeds(fanout.topology.venues), venues, degraded,
        Connections() if connections is None else connections,
    )  # fmt: skip
    return [(r"/v2/([^/]+)", StreamHandler, {"shop": shop}), (r"/(stream)", StreamHandler, {"shop": shop})]


class _Upgrade:
    """The part of Tornado's WebSocket protocol that we use: none but the moment of the handshake."""

    def __init__(self, handler: "StreamHandler") -> None:
        self._handler = handler

    async def accept_connection(self, handler: RequestHandler) -> None:
        keys = handler.request.headers.get_list("Sec-WebSocket-Key")
        if len(keys) != 1 or not strict.valid_key(keys[0]) or not handler.request.headers.get("Host"):
            handler.set_status(400)
            handler.finish("Sec-WebSocket-Key must be one nonce of 16 bytes in base64, and Host must be given")
            return
        self._handler.open_talk()


class StreamHandler(Answering, WebSocketHandler):
    """The handshake of either path."""

    def initialize(self, shop: Shop) -> None:
        self._shop = shop
        self._grant: Grant | None = None  # known before the upgrade
        self._proven = False

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        """Before the upgrade: an unknown feed 404, credentials that are wrong 401 or not for this feed 403."""
        name = self.path_args[0]
        if name not in self._shop.feeds or (name == "stream") != (self.request.path == "/stream"):
            raise Problem(404, "unknown_feed", f"no feed {name[:32]!r}; there are {', '.join(self._shop.feeds)}")
        refuse_secrets_in_query(self.request, ("ticket",))
        ticket = self.get_query_argument("ticket", "")
        try:
            given = Credentials(ticket, ticket=True) if ticket else from_headers(self.request.headers)
            if given is not None or not self._shop.feeds[name].alpaca or not self._shop.door.open:
                self._grant = self._shop.door.identify(given, str(self.request.remote_ip))
        except AuthError:
            if given is not None:
                raise unauthorized(given=True) from None
        self._proven = given is not None and not self._shop.door.open
        if self._grant is not None and not self._grant.sees_feed(_right(self._shop.feeds[name])):
            detail = f"the feed {_right(self._shop.feeds[name])!r} is not in the plan {self._grant.plan.name!r}"
            raise Problem(403, "forbidden", detail)

    def finish(self, chunk: str | bytes | dict[Any, Any] | None = None) -> Future[None]:
        """Tornado refuses a handshake with a line of text or none, and so do we: make it a problem document."""
        status = self.get_status()
        if status >= HTTPStatus.BAD_REQUEST and not isinstance(chunk, bytes):
            self.set_header("Content-Type", "application/problem+json")
            detail = str(chunk or "the version of the WebSocket protocol is 13")
            chunk = msgspec.json.encode(problem_document(status, "bad_handshake", detail, self.request.path[:128], {}))
        return super().finish(chunk)

    def check_origin(self, origin: str) -> bool:
        """Pages of other sites only where the topology lists their origin."""
        return origin in self._shop.fanouts[0].settings.origins

    def get_websocket_protocol(self) -> Any:
        """What `accept_connection` is called of; None, for another version than 13, is answered with 426."""
        return _Upgrade(self) if self.request.headers.get("Sec-WebSocket-Version") == "13" else None

    def open_talk(self) -> None:
        """The handshake is good: go on without Tornado, whose part of it ends here. Raises Problem (429)."""
        feed = self._shop.feeds[self.path_args[0]]
        content_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        encoding = MSGPACK if content_type == "application/msgpack" else JSON
        talk = Talk(self._shop, feed, encoding, str(self.request.remote_ip))
        if not talk.arrive():
            detail = "too many connections from this address"
            raise Problem(429, "too_many_connections", detail, retry_after=RETRY_AFTER_MS // 1_000)
        name = f"{self.request.remote_ip} {self.request.path}"
        self._on_close_called = True  # Tornado's: it does not see the end
        try:
            connection, early = take_over(self, name, self._shop.connections, protocol.MESSAGE_BYTES_MAX)
        except OSError:
            talk.depart()
            return
        connection.start(talk)
        talk.open(connection, self._grant, self._proven)
        connection.take(early)
        self.ws_connection = None
        self._break_cycles()


def _right(feed: Feed) -> str:
    """The feed that a plan must have."""
    return feed.name if feed.venue >= 0 else "sip"


class Talk:
    """One client's conversation; a `session.Host` and a `connection.Peer`."""

    __slots__ = (
        "_address", "_auth_timer", "_client", "_connection", "_encoding", "_feed", "_session", "_shop", "_visit",
    )  # fmt: skip
    _connection: Connection
    _client: Client
    _session: Session

    def __init__(self, shop: Shop, feed: Feed, encoding: int, address: str) -> None:
        self._shop = shop
        self._feed = feed
        self._encoding = encoding
        self._address = address
        self._visit: Visit | None = None  # None before the arrival and after the end
        self._auth_timer: asyncio.TimerHandle | None = None

    def arrive(self) -> bool:
        """Be counted as a connection of its address; False where that has as many as it may."""
        visit = Visit(self._address, self._replaced, self._ended, self._warn)
        if not self._shop.door.arrive(visit):
            return False
        self._visit = visit
        return True

    def open(self, connection: Connection, grant: Grant | None, proven: bool) -> None:
        """Join the fan-out and say hello; ``grant``, ``proven``: as in `Session`."""
        self._connection = connection
        self._client = Client(connection, connection.fd, self._feed, self._encoding, connection.name)
        if not self._shop.fanouts[0].add(self._client):
            self._refuse(Refusal(406, protocol.CLOSE_SLOW, "the gateway is full"))
            return
        if grant is not None:
            try:
                self._admit(grant, takeover=False)
            except Refusal as refusal:
                self._refuse(refusal)
                return
        now_ns = self._shop.fanouts[0].clock.monotonic_ns()
        self._session = Session(
            self._feed, self._encoding, self._client, self, now_ns, grant, proven, self._shop.venues
        )
        self._give(self._session.opened())
        if not self._session.authenticated:
            self._auth_timer = asyncio.get_running_loop().call_later(AUTH_TIMEOUT_S, self._check_auth)

    # As a session's host.

    def authenticate(self, key: str, secret: str, takeover: bool, known: Grant | None) -> Grant:
        try:
            grant = self._shop.door.identify(from_message(key, secret), self._address)
        except AuthError:
            raise Refusal(402, protocol.CLOSE_UNAUTHORIZED) from None
        if known is not None and grant.user != known.user:
            raise Refusal(403, protocol.CLOSE_UNAUTHORIZED, "a connection stays its user's")
        if not grant.sees_feed(_right(self._feed)):
            detail = f"the feed {_right(self._feed)!r} is not in the plan {grant.plan.name!r}"
            raise Refusal(409, protocol.CLOSE_FORBIDDEN, detail)
        self._admit(grant, takeover)
        return grant

    def take_message(self, grant: Grant) -> int:
        return self._shop.door.take_message(grant)

    def degraded(self) -> bool:
        return self._shop.degraded()

    def count_symbols(self, patterns: Sequence[str]) -> int:
        named = {pattern for pattern in patterns if not pattern.endswith("*")}
        prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
        if prefixes:
            named |= {name for name in self._shop.symbols.names()[1:] if name.startswith(prefixes)}
        return len(named)

    def _admit(self, grant: Grant, takeover: bool) -> None:
        """Make the connection the user's, with the values that the plan has. Raises Refusal."""
        assert self._visit is not None
        if not self._shop.door.admit(self._visit, grant, takeover):
            detail = f"the plan {grant.plan.name!r} has {grant.plan.connections}"
            raise Refusal(406, protocol.CLOSE_FLOOD, detail, retry_after_ms=RETRY_AFTER_MS)
        fanout = self._shop.fanouts.get(grant.plan.delay_ns)
        if fanout is None:  # a token may say what no plan has
            raise Refusal(409, protocol.CLOSE_FORBIDDEN, f"no values of {grant.plan.delay_ns} ns ago")
        if fanout is not self._client.fanout:
            self._shop.fanouts[0].drop(self._client)
            if not fanout.add(self._client):
                raise Refusal(406, protocol.CLOSE_SLOW, "the gateway is full")

    # As the door has it.

    def _replaced(self) -> None:
        self._refuse(Refusal(406, protocol.CLOSE_REPLACED, "a new login has taken the place of this one", retry=False))

    def _ended(self) -> None:
        self._refuse(Refusal(402, protocol.CLOSE_UNAUTHORIZED, "the key was revoked, or it or the token has ended"))

    def _warn(self, left_ms: int) -> None:
        self._give(Answer([{"T": "expiring", "msg": "authenticate again", "expires_in_ms": left_ms}]))

    # As the connection has it.

    def heard(self, message: str | bytes) -> None:
        """Answer one message."""
        self._give(self._session.handle(message, self._shop.fanouts[0].clock.monotonic_ns()))

    def blocked(self) -> None:
        self._client.blocked()

    def freed(self) -> None:
        self._client.freed()

    def leaving(self) -> None:
        """Leave the fan-out: from now on nothing is sent to the descriptor."""
        if self._auth_timer is not None:
            self._auth_timer.cancel()
        if self._client.fanout is not None:
            self._client.fanout.drop(self._client)
        self.depart()

    def depart(self) -> None:
        """Be no connection of the address, or of a user, any more."""
        if self._visit is not None:
            visit, self._visit = self._visit, None
            self._shop.door.depart(visit)

    def _check_auth(self) -> None:
        self._give(self._session.overdue())

    def _refuse(self, refusal: Refusal) -> None:
        self._give(Answer([refusal.message()], (refusal.close, refusal.words)))

    def _give(self, answer: Answer) -> None:
        if answer.messages:
            self._connection.write(protocol.frame(answer.messages, self._encoding))
        if answer.close is not None:
            self._connection.close(*answer.close)
