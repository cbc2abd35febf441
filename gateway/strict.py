"""RFC 6455 to the letter: what Tornado 6.6 lets pass is refused here, with the close code that the RFC gives it.

Tornado accepts close codes that may not be sent (0, 999, 1004 to 1006, 1016, 1100, 2000, 2999), frames without
a mask, lengths that are not the shortest form, a one-byte close body and any text as ``Sec-WebSocket-Key``; and
what it does refuse it answers with a bare TCP close. `StrictProtocol` reads frames itself, and fails a
connection as section 7.1.7 says: a Close frame with the reason, our end of TCP shut, the rest thrown away until
the peer has closed too, so that no reset destroys the Close frame on its way.

Compression is not negotiated (`compression_options` stays None), so every reserved bit is a mistake.
"""

import asyncio
import base64
import binascii
import re
import socket
from contextlib import suppress

from tornado.iostream import StreamClosedError
from tornado.util import _websocket_mask
from tornado.websocket import WebSocketHandler, WebSocketProtocol13

PROTOCOL_ERROR = 1002
BAD_DATA = 1007
TOO_BIG = 1009

LINGER_S = 1.0
"""How long a client that was refused may take to close its end."""
LINGER_BYTES = 1 << 20
"""What of it is thrown away at most, meanwhile."""

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")


class FrameError(Exception):
    """What a client sent that RFC 6455 does not allow: the code to close with, and why."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def valid_close_code(code: int) -> bool:
    """Whether a Close frame may carry ``code`` (RFC 6455, section 7.4, and IANA's registry of close codes)."""
    return code in (1000, 1001, 1002, 1003) or 1007 <= code <= 1014 or 3000 <= code <= 4999


def valid_key(key: str) -> bool:
    """Whether a ``Sec-WebSocket-Key`` is 16 bytes in base64 (section 4.1, item 7)."""
    if not _KEY.fullmatch(key):
        return False
    with suppress(binascii.Error):
        return len(base64.b64decode(key, validate=True)) == 16
    return False


def check_header(first: int, second: int, fragmented: bool) -> None:
    """Judge the first two bytes of a frame, ``fragmented`` inside a message of several; raises FrameError."""
    opcode = first & 0x0F
    if first & 0x70:
        raise FrameError(PROTOCOL_ERROR, "reserved bits without an extension")
    if opcode not in (_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG):
        raise FrameError(PROTOCOL_ERROR, f"opcode {opcode:#x} is reserved")
    if not second & 0x80:
        raise FrameError(PROTOCOL_ERROR, "a client's frame must be masked")
    if opcode >= _CLOSE:
        if not first & 0x80:
            raise FrameError(PROTOCOL_ERROR, "a control frame must not be fragmented")
        if second & 0x7F > 125:
            raise FrameError(PROTOCOL_ERROR, "a control frame has at most 125 bytes")
    elif opcode == _CONTINUATION and not fragmented:
        raise FrameError(PROTOCOL_ERROR, "nothing to continue")
    elif opcode != _CONTINUATION and fragmented:
        raise FrameError(PROTOCOL_ERROR, "a new message inside another")


def parse_close(body: bytes) -> tuple[int | None, str | None]:
    """Code and reason of a Close frame; raises FrameError."""
    if not body:
        return None, None
    code = int.from_bytes(body[:2], "big")
    if len(body) == 1 or not valid_close_code(code):
        raise FrameError(PROTOCOL_ERROR, "close code may not be sent")
    return code, _text(body[2:])


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FrameError(BAD_DATA, "not UTF-8") from None


class StrictProtocol(WebSocketProtocol13):
    """A server's end of a WebSocket that takes only what RFC 6455 allows."""

    _held: bytearray | None = None  # the fragments so far of a message that is not complete
    _held_opcode = _CONTINUATION

    def _handle_websocket_headers(self, handler: WebSocketHandler) -> None:
        super()._handle_websocket_headers(handler)
        keys = handler.request.headers.get_list("Sec-WebSocket-Key")
        if len(keys) != 1 or not valid_key(keys[0]):
            raise ValueError("Sec-WebSocket-Key is not one nonce of 16 bytes in base64")

    async def _receive_frame(self) -> None:
        try:
            await self._receive_strictly()
        except FrameError as error:
            await self._fail(error)

    async def _receive_strictly(self) -> None:
        """Read one frame, and hand on the message that it completes. Raises FrameError, StreamClosedError."""
        first, second = await self._read_bytes(2)
        check_header(first, second, self._held is not None)
        final, opcode, size = bool(first & 0x80), first & 0x0F, second & 0x7F
        if size >= 126:
            longer, shortest = (2, 126) if size == 126 else (8, 1 << 16)
            size = int.from_bytes(await self._read_bytes(longer), "big")
            if size < shortest or size >> 63:
                raise FrameError(PROTOCOL_ERROR, "the length is not in its shortest form")
        held = self._held if opcode == _CONTINUATION else None
        if size + len(held or b"") > self.params.max_message_size:
            raise FrameError(TOO_BIG, f"a message has at most {self.params.max_message_size} bytes")
        mask = await self._read_bytes(4)
        data = _websocket_mask(mask, await self._read_bytes(size)) if size else b""
        if opcode >= _CLOSE:
            self._take_control(opcode, data)
            return
        if held is not None:
            held.extend(data)
            if not final:
                return
            opcode, data = self._held_opcode, bytes(held)
            self._held = None
        elif not final:
            self._held_opcode, self._held = opcode, bytearray(data)
            return
        if not self.client_terminated:
            handled = self._run_callback(self.handler.on_message, _text(data) if opcode == _TEXT else data)
            if handled is not None:
                await handled

    def _take_control(self, opcode: int, data: bytes) -> None:
        if opcode == _CLOSE:
            self.close_code, self.close_reason = parse_close(data)
            self.client_terminated = True
            self.close(self.close_code)
        else:  # Tornado's own: pongs that do not pile up, pings that are answered for
            self._handle_message(opcode, data)

    async def _fail(self, error: FrameError) -> None:
        """Fail the connection (section 7.1.7); returns when it is closed."""
        self.close(error.code, error.reason)
        self.client_terminated = True  # nothing it sends is read as frames any more
        with suppress(StreamClosedError, OSError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while self.stream.writing():  # noqa: ASYNC110  (Tornado has no event for it)
                    await asyncio.sleep(0.01)
                self.stream.socket.shutdown(socket.SHUT_WR)
                left = LINGER_BYTES
                while left > 0:
                    left -= len(await self.stream.read_bytes(LINGER_BYTES, partial=True))
        self._abort()
