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
from typing import Any

from tornado.iostream import IOStream, SSLIOStream, StreamBufferFullError, StreamClosedError
from tornado.web import HTTPError
from tornado.websocket import WebSocketHandler, WebSocketProtocol13

from gateway import protocol
from gateway.fanout import Client, Fanout
from gateway.protocol import Feed, ProtocolError
from gateway.protocol_kernel import JSON, MSGPACK
from gateway.session import AUTH_TIMEOUT_S, Answer, Authenticator, OpenDoor, Session
from gateway.strict import StrictProtocol

PING_S = 5.0
"""Between pings, and the time to answer one."""
WRITE_BUFFER_MAX = 256 << 10
"""Bytes that may wait for one client; more, and it is cut."""
UNSENT_MAX = 32 << 10
"""Bytes that the kernel takes beyond what it has sent: old quotes must not queue where nobody can conflate them."""
_TCP_NOTSENT_LOWAT = 25  # tcp(7); the socket module names it from Python 3.12 on

_log = logging.getLogger(__name__)


def handlers(fanout: Fanout, authenticator: Authenticator | None = None) -> list[tuple[Any, ...]]:
    """The routes: ``/v2/<feed>`` and ``/stream``. Without an authenticator every key is accepted."""
    options = {
        "fanout": fanout,
        "authenticator": authenticator or OpenDoor(),
        "feeds": protocol.feeds(fanout.topology.venues),
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


class StreamHandler(WebSocketHandler):
    """A WebSocket of either path."""

    def initialize(self, fanout: Fanout, authenticator: Authenticator, feeds: dict[str, Feed]) -> None:
        self._fanout = fanout
        self._authenticator = authenticator
        self._feeds = feeds
        self._client: Client | None = None
        self._session: Session | None = None
        self._auth_timer: asyncio.TimerHandle | None = None

    def prepare(self) -> None:
        """Refuse an unknown feed before the upgrade."""
        name = self.path_args[0]
        if name not in self._feeds or (name == "stream") != (self.request.path == "/stream"):
            raise HTTPError(404, reason="Unknown feed")

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
        stream.socket.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_MAX)
        feed = self._feeds[feed_name]
        content_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        encoding = MSGPACK if content_type == "application/msgpack" else JSON
        remote = str(self.request.remote_ip)
        name = f"{remote} {self.request.path}"
        fd = -1 if isinstance(stream, SSLIOStream) else stream.socket.fileno()
        self._client = Client(_Connection(websocket, stream, name), fd, feed, encoding, name)
        now_ns = self._fanout.clock.monotonic_ns()
        self._session = Session(feed, encoding, self._client, self._authenticator, remote, now_ns)
        if not self._fanout.add(self._client):
            self._give(Answer([ProtocolError(406).message()], (protocol.CLOSE_SLOW, protocol.WORDS[406])))
            return
        close_fd = stream.close_fd

        def leave_first() -> None:
            self.leave()
            close_fd()

        stream.close_fd = leave_first  # type: ignore[method-assign]
        self._give(self._session.opened())
        if not self._session.authenticated:
            self._auth_timer = asyncio.get_running_loop().call_later(AUTH_TIMEOUT_S, self._check_auth)

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
        if self._client is not None:
            self._fanout.drop(self._client)

    def _check_auth(self) -> None:
        assert self._session is not None
        self._give(self._session.overdue())

    def _give(self, answer: Answer) -> None:
        assert self._client is not None
        if answer.messages:
            self._client.sink.write(protocol.frame(answer.messages, self._client.encoding))
        if answer.close is not None:
            self._client.sink.close(*answer.close)
