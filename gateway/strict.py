"""RFC 6455 to the letter: what a client's frames and handshake may be, and which close code the rest has (pure).

Tornado 6.6 accepts close codes that may not be sent (0, 999, 1004 to 1006, 1016, 1100, 2000, 2999), frames without
a mask, lengths that are not the shortest form, a one-byte close body and any text as ``Sec-WebSocket-Key``; and
what it does refuse it answers with a bare TCP close. So it only reads the HTTP request of a handshake: from then on
`connection` has the socket, and these rules.

Compression is not negotiated, so every reserved bit is a mistake.
"""

import base64
import binascii
import re
from contextlib import suppress

PROTOCOL_ERROR = 1002
BAD_DATA = 1007
TOO_BIG = 1009

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
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
    if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        raise FrameError(PROTOCOL_ERROR, f"opcode {opcode:#x} is reserved")
    if not second & 0x80:
        raise FrameError(PROTOCOL_ERROR, "a client's frame must be masked")
    if opcode >= CLOSE:
        if not first & 0x80:
            raise FrameError(PROTOCOL_ERROR, "a control frame must not be fragmented")
        if second & 0x7F > 125:
            raise FrameError(PROTOCOL_ERROR, "a control frame has at most 125 bytes")
    elif opcode == CONTINUATION and not fragmented:
        raise FrameError(PROTOCOL_ERROR, "nothing to continue")
    elif opcode != CONTINUATION and fragmented:
        raise FrameError(PROTOCOL_ERROR, "a new message inside another")


def parse_close(body: bytes) -> tuple[int | None, str | None]:
    """Code and reason of a Close frame; raises FrameError."""
    if not body:
        return None, None
    code = int.from_bytes(body[:2], "big")
    if len(body) == 1 or not valid_close_code(code):
        raise FrameError(PROTOCOL_ERROR, "close code may not be sent")
    return code, text_of(body[2:])


def text_of(data: bytes) -> str:
    """The text of a message; raises FrameError."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FrameError(BAD_DATA, "not UTF-8") from None


def frame_size(data: bytes | bytearray, at: int, held: int, most: int) -> tuple[int, int]:
    """Where the mask of the frame at ``data[at:]`` begins and the size of its payload; ``(0, 0)``: more has to come.

    ``held`` is the size of what has come of its message, -1 when it begins one; ``most`` is the longest message's.
    Raises FrameError as soon as anything is wrong.
    """
    if len(data) - at < 2:
        return 0, 0
    first, second = data[at], data[at + 1]
    check_header(first, second, held >= 0)
    size = second & 0x7F
    start = at + 2
    if size >= 126:
        longer, shortest = (2, 126) if size == 126 else (8, 1 << 16)
        if len(data) - start < longer:
            return 0, 0
        size = int.from_bytes(data[start : start + longer], "big")
        start += longer
        if size < shortest or size >> 63:
            raise FrameError(PROTOCOL_ERROR, "the length is not in its shortest form")
    if size + (held if first & 0x0F == CONTINUATION else 0) > most:
        raise FrameError(TOO_BIG, f"a message has at most {most} bytes")
    return start, size
