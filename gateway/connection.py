"""A WebSocket after its handshake: one descriptor, and what waits on its way in and out. No Tornado from here on.

Tornado reads the request of a handshake and refuses what is none (`websocket`). `take_over` then answers it and takes
the descriptor away from Tornado, whose stream, request and handler are freed: a client that waits for values is an
object with a dozen slots, and nothing runs for it until its socket has something to say. What a client sends is read by
the rules of `strict`; one that breaks them is failed as section 7.1.7 of RFC 6455 says: a Close frame with the reason,
our end of TCP shut, the rest thrown away until the peer has closed too, so that no reset destroys the Close frame.

The fan-out's compiled flush sends straight to the descriptor, in the same thread. Three rules keep frames whole and in
order: it leaves a connection alone that holds bytes (`Peer.blocked` to `Peer.freed`); it has left one before its
descriptor is closed, whose number is another's at once; and it has left one before a Close frame, after which nothing
may come (`Peer.leaving`).
"""

import asyncio
import base64
import hashlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Final, Protocol

from tornado.util import _websocket_mask
from tornado.web import RequestHandler

from gateway import strict
from gateway.strict import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, FrameError

READ_BYTES: Final = 16 << 10
"""Of one read: a client speaks rarely and briefly."""
WAITING_MAX: Final = 256 << 10
"""Bytes that may wait for one client; more, and it is cut."""
UNSENT_MAX: Final = 32 << 10
"""Bytes that the kernel takes beyond what it has sent: old quotes must not queue where nobody can conflate them."""
PING_S: Final = 20.0
"""Between pings, and the time to answer one: for those on the way who cut what is idle, and for a page that hangs. A
ping costs as much as ten frames."""
LOST_MS: Final = 10_000
"""A host that acknowledges nothing for so long is gone: the kernel finds out, at no cost (RFC 1122, RFC 5482)."""
CLOSE_WAIT_S: Final = 5.0
"""How long a client may take to answer a Close frame."""
LINGER_S = 1.0
"""How long a client that was refused may take to close its end."""
LINGER_BYTES: Final = 1 << 20
"""What of it is thrown away at most, meanwhile."""
INTERNAL_ERROR: Final = 1011
TRY_AGAIN_LATER: Final = 1013

_PROBE_S: Final = 4  # without data a host is asked after so long, and twice more
_TCP_NOTSENT_LOWAT: Final = 25  # tcp(7); the socket module names it from Python 3.12 on
_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_MAX),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_MS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
)
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_OPEN, _CLOSING, _DONE, _FAILED, _CLOSED = range(5)
# _CLOSING: our Close frame is out, the peer's is awaited; _DONE: both are; _FAILED: ours is, nothing is read any more.

_log = logging.getLogger(__name__)


class Peer(Protocol):
    """Whoever speaks through a connection."""

    def heard(self, message: str | bytes) -> None:
        """A whole message of the client."""
        ...

    def blocked(self) -> None:
        """The connection holds bytes: nobody may send to its descriptor."""
        ...

    def freed(self) -> None:
        """The socket has taken them."""
        ...

    def leaving(self) -> None:
        """A Close frame comes next, or the end of the descriptor. Called once or more."""
        ...


class Connections:
    """All connections of a process, so that none outlives it."""

    def __init__(self) -> None:
        self.open: set[Connection] = set()

    def close(self) -> None:
        """End them at once."""
        for connection in list(self.open):
            connection.abort()


class Connection:
    """The server's end of one WebSocket; used in its loop's thread only. A `fanout.Sink`."""

    __slots__ = (
        "_all", "_answered", "_got", "_held", "_held_opcode", "_left", "_loop", "_message_max", "_needed", "_peer",
        "_state", "_timer", "_waiting", "fd", "name",
    )  # fmt: skip

    def __init__(self, fd: int, name: str, everyone: Connections, message_max: int) -> None:
        """``fd`` is this connection's own from now on. Nothing is read before `start`. ``name`` is for the log."""
        self.fd = fd
        self.name = name
        self._all = everyone
        self._message_max = message_max
        self._loop = asyncio.get_running_loop()
        self._peer: Peer | None = None
        self._state = _OPEN
        self._got: bytearray | None = None  # of a frame that has not come whole
        self._needed = 2  # how long that must be before it is worth a look
        self._held: bytearray | None = None  # the fragments so far of a message that is not complete
        self._held_opcode = TEXT
        self._waiting: bytearray | None = None  # what the socket has not taken
        self._answered = True  # the last ping
        self._left = LINGER_BYTES  # of a client that has failed
        self._timer: asyncio.TimerHandle | None = None
        everyone.open.add(self)

    def start(self, peer: Peer) -> None:
        """Read for ``peer``."""
        self._peer = peer
        self._loop.add_reader(self.fd, self._readable)
        self._timer = self._loop.call_later(PING_S, self._ping)

    @property
    def closing(self) -> bool:
        """Whether a Close frame has been sent, or the descriptor closed."""
        return self._state != _OPEN

    def write(self, data: bytes) -> None:
        """Send whole frames, or the rest of one, after what waits; nothing after a Close frame. Never raises."""
        if self._state != _OPEN:
            return
        if self._waiting is not None and len(self._waiting) + len(data) > WAITING_MAX:
            _log.warning("%s: cut: more than %d bytes wait for it", self.name, WAITING_MAX)
            self.close(TRY_AGAIN_LATER, "slow client")
            return
        self._send(data)

    def close(self, code: int | None, reason: str = "") -> None:
        """Send a Close frame after what waits, and end when the client has answered."""
        if self._state != _OPEN:
            return
        self._leave()
        self._state = _CLOSING
        self._set_timer(CLOSE_WAIT_S, self.abort)
        body = b"" if code is None else code.to_bytes(2, "big") + reason.encode()
        self._send(bytes((0x80 | CLOSE, len(body))) + body)

    def abort(self) -> None:
        """End at once. May be called again."""
        if self._state == _CLOSED:
            return
        self._leave()
        self._state = _CLOSED
        self._all.open.discard(self)
        self._loop.remove_reader(self.fd)
        self._loop.remove_writer(self.fd)
        self._set_timer(0, None)
        self._waiting = self._got = self._held = self._peer = None
        os.close(self.fd)

    # --- out ---

    def _send(self, data: bytes) -> None:
        if self._waiting is not None:
            self._waiting += data
            return
        try:
            sent = os.write(self.fd, data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.abort()
            return
        if sent < len(data):
            self._waiting = bytearray(data[sent:])
            self._loop.add_writer(self.fd, self._writable)
            if self._peer is not None and self._state == _OPEN:
                self._peer.blocked()

    def _writable(self) -> None:
        assert self._waiting is not None
        try:
            del self._waiting[: os.write(self.fd, self._waiting)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        if self._waiting:
            return
        self._waiting = None
        self._loop.remove_writer(self.fd)
        if self._state == _OPEN:
            assert self._peer is not None
            self._peer.freed()
        else:
            self._finish()

    def _finish(self) -> None:
        """Nothing waits and nothing will: close, or, of a client that has failed, our end."""
        if self._waiting is not None:
            return
        if self._state == _DONE:
            self.abort()
        elif self._state == _FAILED:
            borrowed = socket.socket(fileno=self.fd)
            try:
                borrowed.shutdown(socket.SHUT_WR)
            except OSError:
                self.abort()
            finally:
                borrowed.detach()

    def _ping(self) -> None:
        if not self._answered:
            _log.info("%s: gone: it has not answered a ping", self.name)
            self.abort()
            return
        self._answered = False
        self._timer = self._loop.call_later(PING_S, self._ping)
        self.write(bytes((0x80 | PING, 0)))

    # --- in ---

    def _readable(self) -> None:
        try:
            data = os.read(self.fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.abort()
        elif self._state == _FAILED:
            self._left -= len(data)
            if self._left < 0:
                self.abort()
        elif self._state != _DONE:
            self.take(data)

    def take(self, data: bytes | bytearray) -> None:
        """Take bytes that the client has sent: every frame that is whole now."""
        if self._got is not None:
            self._got += data
            if len(self._got) < self._needed:
                return
            data, self._got = self._got, None
        at = 0
        try:
            while self._state in (_OPEN, _CLOSING):
                after = self._frame(data, at)
                if after == at:
                    break
                at = after
        except FrameError as error:
            self._fail(error)
            return
        if at < len(data) and self._state in (_OPEN, _CLOSING):
            self._got = bytearray(data[at:])

    def _frame(self, data: bytes | bytearray, at: int) -> int:
        """Take the frame at ``data[at:]``; return where the next begins, ``at`` if it is not whole."""
        held = -1 if self._held is None else len(self._held)
        start, size = strict.frame_size(data, at, held, self._message_max)
        self._needed = start + 4 + size - at if start else len(data) - at + 1
        if not start or len(data) - at < self._needed:
            return at
        after = start + 4 + size
        payload = _websocket_mask(bytes(data[start : start + 4]), bytes(data[start + 4 : after])) if size else b""
        final, opcode = bool(data[at] & 0x80), data[at] & 0x0F
        if opcode >= CLOSE:
            self._control(opcode, payload)
            return after
        if opcode == CONTINUATION:
            assert self._held is not None
            self._held += payload
            if not final:
                return after
            opcode, payload = self._held_opcode, bytes(self._held)
            self._held = None
        elif not final:
            self._held_opcode, self._held = opcode, bytearray(payload)
            return after
        message = payload if opcode == BINARY else strict.text_of(payload)
        if self._state == _OPEN:
            assert self._peer is not None
            try:
                self._peer.heard(message)
            except Exception:  # noqa: BLE001  (a mistake of ours ends this connection, and no other)
                _log.exception("%s: a message could not be answered", self.name)
                self.close(INTERNAL_ERROR, "internal error")
        return after

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            code, _ = strict.parse_close(payload)
            self.close(code)
            if self._state == _CLOSING:
                self._state = _DONE
                self._finish()
        elif opcode == PING:
            self.write(bytes((0x80 | PONG, len(payload))) + payload)
        else:
            self._answered = True

    def _fail(self, error: FrameError) -> None:
        """Fail the connection (section 7.1.7)."""
        self.close(error.code, str(error))
        if self._state == _CLOSING:
            self._state = _FAILED
            self._set_timer(LINGER_S, self.abort)
            self._finish()

    # --- end ---

    def _leave(self) -> None:
        if self._peer is not None:
            self._peer.leaving()

    def _set_timer(self, seconds: float, then: Callable[[], None] | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if then is None else self._loop.call_later(seconds, then)


def take_over(handler: RequestHandler, name: str, everyone: Connections, message_max: int) -> tuple[Connection, bytes]:
    """Answer the handshake of ``handler`` and take its descriptor; what the client has said already comes with it.

    Raises OSError where it has gone.
    """
    key = handler.request.headers["Sec-WebSocket-Key"]
    accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest())
    handler.set_status(101)
    handler.application.log_request(handler)
    stream = handler.detach()
    early = b""
    if stream._read_buffer_size:
        reading = asyncio.ensure_future(stream.read_bytes(stream._read_buffer_size))
        early = reading.result()  # it is there: nothing is waited for
    try:
        if stream.closed():
            raise ConnectionError("gone during its handshake")
        for level, option, value in _OPTIONS:
            stream.socket.setsockopt(level, option, value)
        fd = os.dup(stream.socket.fileno())
    finally:
        stream.close()
    connection = Connection(fd, name, everyone, message_max)
    connection.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    if connection.closing:
        raise ConnectionError("gone during its handshake")
    return connection, early
