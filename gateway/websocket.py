"""One client's WebSocket connection: reads requests, writes answers, decides nothing.

Tornado does the handshake, the frames that come in, pings and the closing. What goes out is framed by us and
written to the stream, or by the fan-out's compiled flush straight to the descriptor; both run in the loop's
thread, and the flush leaves a stream alone that has bytes waiting, so frames stay whole and in order.

Two traps decide the shape. A descriptor's number is reused as soon as it is closed, long before ``on_close``:
the client must leave the fan-out before its stream closes the descriptor. And nothing may follow a Close
frame: it must leave before one is written.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tornado.iostream import IOStream, SSLIOStream, StreamBufferFullError, StreamClosedError
from tornado.websocket import WebSocketHandler, WebSocketProtocol13

from fabric.symbols import SymbolTable
from gateway import protocol
from gateway.auth import AuthError, Credentials, Door, Grant, Visit, from_headers, from_message
from gateway.fanout import Client, Fanout
from gateway.protocol import Feed
from gateway.protocol_kernel import JSON, MSGPACK
from gateway.rest import Answering, Problem, refuse_secrets_in_query, unauthorized
from gateway.session import AUTH_TIMEOUT_S, Answer, Refusal, Session
from gateway.strict import StrictProtocol

PING_S = 20.0
"""Between pings, and the time to answer one: for those on the way who cut what is idle, and for a page that hangs. A
ping costs as much as ten frames."""
LOST_MS = 10_000
"""A host that acknowledges nothing for so long is gone: the kernel finds out, at no cost (RFC 1122, RFC 5482)."""
_PROBE_S = 4  # without data a host is asked after so long, and twice more
WRITE_BUFFER_MAX = 256 << 10
"""Bytes that may wait for one client; more, and it is cut."""
UNSENT_MAX = 32 << 10
"""Bytes that the kernel takes beyond what it has sent: old quotes must not queue where nobody can conflate them."""
RETRY_AFTER_MS = 1_000
"""When to try again where a limit of connections was met."""
_TCP_NOTSENT_LOWAT = 25  # tcp(7); the socket module names it from Python 3.12 on

_log = logging.getLogger(__name__)


def handlers(
    fanout: Fanout,
    symbols: SymbolTable,
    door: Door,
    delayed: Mapping[int, Fanout] | None = None,
    degraded: Callable[[], bool] = lambda: False,
) -> list[tuple[Any, ...]]:
    """The routes: ``/v2/<feed>`` and ``/stream``.

    ``delayed``: by their delay in nanoseconds, the fan-outs of those whose plan has one; ``degraded``: whether the
    gateway has more to send than it can.
    """
    options = {
        "fanouts": {0: fanout} | dict(delayed or {}),
        "symbols": symbols,
        "door": door,
        "feeds": protocol.feeds(fanout.topology.venues),
        "degraded": degraded,
    }
    return [
        (r"/v2/([^/]+)", StreamHandler, options),
        (r"/(stream)", StreamHandler, options),
    ]


class _Protocol(StrictProtocol):
    """Lets the handler know before a Close frame is written; after that nothing else is."""

    handler: "StreamHandler"

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        self.handler.leave()
        try:
            super().close(code, reason)
        except StreamBufferFullError:  # not even the Close frame has room
            self._abort()


class _Connection:
    """A `fanout.Sink`: the stream of a WebSocket."""

    def __init__(self, websocket: WebSocketProtocol13, stream: IOStream, name: str) -> None:
        self._websocket = websocket
        self._stream = stream
        self._name = name

    def writing(self) -> bool:
        return self._stream.writing()

    def write(self, data: bytes) -> None:
        if self._websocket.is_closing():
            return
        try:
            self._stream.write(data)
        except StreamBufferFullError:
            _log.warning("%s: cut: more than %d bytes wait for it", self._name, WRITE_BUFFER_MAX)
            self.close(protocol.CLOSE_SLOW, protocol.WORDS[407])
        except StreamClosedError:  # the read loop notices too, and ends the session
            return

    def close(self, code: int, reason: str) -> None:
        self._websocket.close(code, reason)

    def abort(self) -> None:
        self._stream.close()


class StreamHandler(Answering, WebSocketHandler):
    """A WebSocket of either path; a `session.Host`."""

    def initialize(
        self,
        fanouts: Mapping[int, Fanout],
        symbols: SymbolTable,
        door: Door,
        feeds: dict[str, Feed],
        degraded: Callable[[], bool],
    ) -> None:
        self._fanouts = fanouts
        self._fanout = fanouts[0]
        self._symbols = symbols
        self._door = door
        self._feeds = feeds
        self.degraded = degraded
        self._grant: Grant | None = None  # known before the upgrade
        self._proven = False
        self._visit: Visit | None = None  # None before the opening and after the end
        self._client: Client | None = None
        self._session: Session | None = None
        self._auth_timer: asyncio.TimerHandle | None = None

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        """Before the upgrade: an unknown feed 404, credentials that are wrong 401 or not for this feed 403."""
        name = self.path_args[0]
        if name not in self._feeds or (name == "stream") != (self.request.path == "/stream"):
            raise Problem(404, "unknown_feed", f"no feed {name[:32]!r}; there are {', '.join(self._feeds)}")
        refuse_secrets_in_query(self.request, ("ticket",))
        ticket = self.get_query_argument("ticket", "")
        try:
            given = Credentials(ticket, ticket=True) if ticket else from_headers(self.request.headers)
            if given is not None or not self._feeds[name].alpaca or not self._door.open:
                self._grant = self._door.identify(given, self._address)
        except AuthError:
            if given is not None:
                raise unauthorized(given=True) from None
        self._proven = given is not None and not self._door.open
        if self._grant is not None and not self._grant.sees_feed(self._right):
            raise Problem(403, "forbidden", f"the feed {self._right!r} is not in the plan {self._grant.plan.name!r}")

    def check_origin(self, origin: str) -> bool:
        """Pages of other sites only where the topology lists their origin."""
        return origin in self._fanout.settings.origins

    @property
    def ping_interval(self) -> float:
        return PING_S

    @property
    def ping_timeout(self) -> float:
        return PING_S

    @property
    def max_message_size(self) -> int:
        return protocol.MESSAGE_BYTES_MAX

    def get_websocket_protocol(self) -> WebSocketProtocol13 | None:
        made = super().get_websocket_protocol()
        return _Protocol(self, False, made.params) if isinstance(made, WebSocketProtocol13) else None

    def open(self, feed_name: str) -> None:
        """Join the fan-out and say hello."""
        websocket = self.ws_connection
        assert isinstance(websocket, WebSocketProtocol13)
        stream = websocket.stream
        assert stream is not None
        stream.max_write_buffer_size = WRITE_BUFFER_MAX
        stream.set_nodelay(True)
        for option, value in (
            (_TCP_NOTSENT_LOWAT, UNSENT_MAX),
            (socket.TCP_USER_TIMEOUT, LOST_MS),
            (socket.TCP_KEEPIDLE, _PROBE_S),
            (socket.TCP_KEEPINTVL, _PROBE_S),
            (socket.TCP_KEEPCNT, 2),
        ):
            stream.socket.setsockopt(socket.IPPROTO_TCP, option, value)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        feed = self._feeds[feed_name]
        content_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        encoding = MSGPACK if content_type == "application/msgpack" else JSON
        name = f"{self._address} {self.request.path}"
        fd = -1 if isinstance(stream, SSLIOStream) else stream.socket.fileno()
        self._client = Client(_Connection(websocket, stream, name), fd, feed, encoding, name)
        visit = Visit(self._address, self._replaced, self._ended, self._warn)
        if not self._door.arrive(visit):
            self._refuse(Refusal(406, protocol.CLOSE_FLOOD, "too many connections from this address"))
            return
        self._visit = visit
        if not self._fanout.add(self._client):
            self._refuse(Refusal(406, protocol.CLOSE_SLOW, "the gateway is full"))
            return
        close_fd = stream.close_fd

        def leave_first() -> None:
            self.leave()
            close_fd()

        stream.close_fd = leave_first  # type: ignore[method-assign]
        if self._grant is not None:
            try:
                self._admit(self._grant, takeover=False)
            except Refusal as refusal:
                self._refuse(refusal)
                return
        now_ns = self._fanout.clock.monotonic_ns()
        venues = [venue.feed for venue in self._fanout.topology.venues]
        self._session = Session(feed, encoding, self._client, self, now_ns, self._grant, self._proven, venues)
        self._give(self._session.opened())
        if not self._session.authenticated:
            self._auth_timer = asyncio.get_running_loop().call_later(AUTH_TIMEOUT_S, self._check_auth)

    # As a session's host.

    def authenticate(self, key: str, secret: str, takeover: bool, known: Grant | None) -> Grant:
        try:
            grant = self._door.identify(from_message(key, secret), self._address)
        except AuthError:
            raise Refusal(402, protocol.CLOSE_UNAUTHORIZED) from None
        if known is not None and grant.user != known.user:
            raise Refusal(403, protocol.CLOSE_UNAUTHORIZED, "a connection stays its user's")
        if not grant.sees_feed(self._right):
            detail = f"the feed {self._right!r} is not in the plan {grant.plan.name!r}"
            raise Refusal(409, protocol.CLOSE_FORBIDDEN, detail)
        self._admit(grant, takeover)
        return grant

    def take_message(self, grant: Grant) -> int:
        return self._door.take_message(grant)

    def count_symbols(self, patterns: Sequence[str]) -> int:
        named = {pattern for pattern in patterns if not pattern.endswith("*")}
        prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
        if prefixes:
            named |= {name for name in self._symbols.names()[1:] if name.startswith(prefixes)}
        return len(named)

    def _admit(self, grant: Grant, takeover: bool) -> None:
        """Make the connection the user's, with the values that the plan has. Raises Refusal."""
        assert self._visit is not None
        assert self._client is not None
        if not self._door.admit(self._visit, grant, takeover):
            detail = f"the plan {grant.plan.name!r} has {grant.plan.connections}"
            raise Refusal(406, protocol.CLOSE_FLOOD, detail, retry_after_ms=RETRY_AFTER_MS)
        fanout = self._fanouts.get(grant.plan.delay_ns)
        if fanout is None:  # a token may say what no plan has
            raise Refusal(409, protocol.CLOSE_FORBIDDEN, f"no values of {grant.plan.delay_ns} ns ago")
        if fanout is not self._client.fanout:
            self._fanout.drop(self._client)
            if not fanout.add(self._client):
                raise Refusal(406, protocol.CLOSE_SLOW, "the gateway is full")

    @property
    def _address(self) -> str:
        return str(self.request.remote_ip)

    @property
    def _right(self) -> str:
        """The feed that a plan must have."""
        feed = self._feeds[self.path_args[0]]
        return feed.name if feed.venue >= 0 else "sip"

    # As the door has it.

    def _replaced(self) -> None:
        self._refuse(Refusal(406, protocol.CLOSE_REPLACED, "a new login has taken the place of this one", retry=False))

    def _ended(self) -> None:
        self._refuse(Refusal(402, protocol.CLOSE_UNAUTHORIZED, "the key was revoked, or it or the token has ended"))

    def _warn(self, left_ms: int) -> None:
        self._give(Answer([{"T": "expiring", "msg": "authenticate again", "expires_in_ms": left_ms}]))

    def on_message(self, message: str | bytes) -> None:
        """Answer one message; one that comes after our Close frame is not read."""
        if self.ws_connection is not None and not self.ws_connection.is_closing():
            assert self._session is not None
            self._give(self._session.handle(message, self._fanout.clock.monotonic_ns()))

    def on_close(self) -> None:
        self.leave()

    def leave(self) -> None:
        """Leave the fan-out: from now on nothing is sent to the descriptor."""
        if self._auth_timer is not None:
            self._auth_timer.cancel()
        if self._client is not None and self._client.fanout is not None:
            self._client.fanout.drop(self._client)
        if self._visit is not None:
            visit, self._visit = self._visit, None
            self._door.depart(visit)

    def _check_auth(self) -> None:
        assert self._session is not None
        self._give(self._session.overdue())

    def _refuse(self, refusal: Refusal) -> None:
        self._give(Answer([refusal.message()], (refusal.close, refusal.words)))

    def _give(self, answer: Answer) -> None:
        assert self._client is not None
        if answer.messages:
            self._client.sink.write(protocol.frame(answer.messages, self._client.encoding))
        if answer.close is not None:
            self._client.sink.close(*answer.close)
