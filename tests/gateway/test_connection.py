"""RFC 6455 as raw frames: what each must be answered, over real sockets. The cases are ours, after Autobahn's list."""

import asyncio
import base64
import socket
import struct
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from gateway import websocket
from gateway.connection import Connection, Connections, take_over

MASK = b"\x01\x02\x03\x04"
TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
LIMIT = 70_000
WAIT_S = 10.0
KEY = base64.b64encode(bytes(range(16))).decode()


def frame(
    payload: bytes = b"",
    opcode: int = TEXT,
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    form: int | None = None,
    size: int | None = None,
) -> bytes:
    """One frame; ``form`` forces 126 or 127 as the form of the length, ``size`` another length than is sent."""
    size = len(payload) if size is None else size
    form = form or (size if size < 126 else 126 if size < 1 << 16 else 127)
    head = bytes((fin << 7 | rsv << 4 | opcode, masked << 7 | form))
    if form == 126:
        head += struct.pack("!H", size)
    elif form == 127:
        head += struct.pack("!Q", size)
    if masked:
        return head + MASK + bytes(byte ^ MASK[i % 4] for i, byte in enumerate(payload))
    return head + payload


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(struct.pack("!H", code) + reason, CLOSE)


class Echo(WebSocketHandler):
    """Sends back what it hears, over a `Connection`."""

    everyone = Connections()

    def get_websocket_protocol(self) -> Any:
        return websocket._Upgrade(self)  # type: ignore[arg-type]

    def open_talk(self) -> None:
        self._on_close_called = True
        connection, early = take_over(self, "test", self.everyone, LIMIT)
        connection.start(Echoing(connection))
        connection.take(early)


class Echoing:
    """A `connection.Peer`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def heard(self, message: str | bytes) -> None:
        text = isinstance(message, str)
        data = message.encode() if isinstance(message, str) else message
        size = len(data)
        if size < 126:
            form = bytes((size,))
        else:
            form = b"\x7e" + struct.pack("!H", size) if size < 1 << 16 else b"\x7f" + struct.pack("!Q", size)
        self.connection.write(bytes((0x81 if text else 0x82,)) + form + data)

    def blocked(self) -> None:
        pass

    def freed(self) -> None:
        pass

    def leaving(self) -> None:
        pass


class Stock(WebSocketHandler):
    """The same over Tornado's own protocol."""

    async def on_message(self, message: str | bytes) -> None:
        await self.write_message(message, binary=isinstance(message, bytes))


@asynccontextmanager
async def serving(handler: type[RequestHandler]) -> Any:
    server = HTTPServer(Application([("/", handler)]))
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    server.add_socket(listening)
    try:
        yield listening.getsockname()[1]
    finally:
        server.stop()
        await server.close_all_connections()
        Echo.everyone.close()


class Peer:
    """A client of raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, key: str = KEY, extra: str = "") -> "tuple[Peer, bytes]":
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{extra}"
        key_line = f"Sec-WebSocket-Key: {key}\r\n" if key else ""
        writer.write(f"{head}{key_line}Sec-WebSocket-Version: 13\r\n\r\n".encode())
        return cls(reader, writer), await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT_S)

    async def heard(self) -> list[tuple[int, bytes]]:
        """Every frame until the server closes."""
        found = []
        with suppress(asyncio.IncompleteReadError, ConnectionResetError):
            while True:
                first, size = await asyncio.wait_for(self.reader.readexactly(2), WAIT_S)
                if size == 126:
                    (size,) = struct.unpack("!H", await self.reader.readexactly(2))
                elif size == 127:
                    (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
                found.append((first & 0x0F, await self.reader.readexactly(size)))
        return found

    async def end(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


def exchange(sent: list[bytes], handler: type[RequestHandler] = Echo) -> list[tuple[int, bytes]]:
    """Send bytes, one write each; return every frame that comes until the server closes."""

    async def talk() -> list[tuple[int, bytes]]:
        async with serving(handler) as port:
            peer, head = await Peer.connect(port)
            assert head.startswith(b"HTTP/1.1 101 ")
            for piece in sent:
                peer.writer.write(piece)
            heard = await peer.heard()
            await peer.end()
            return heard

    return asyncio.run(talk())


GOODBYE = close(1000)

TAKEN_BY_TORNADO = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999]
"""Close codes that may not be sent, and that Tornado 6.6 echoes."""

REFUSED = {
    **{
        f"close code {code}": ([close(code)], 1002) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999)
    },
    "close code 5000": ([close(5000)], 1002),
    "close code 65535": ([close(65535)], 1002),
    "a close body of one byte": ([frame(b"\x03", CLOSE)], 1002),
    "a close reason that is not UTF-8": ([close(1000, b"\xff\xfe")], 1007),
    "a close frame of 126 bytes": ([close(1000, b"x" * 124)], 1002),
    "a text without a mask": ([frame(b"hello", masked=False)], 1002),
    "a ping without a mask": ([frame(b"", PING, masked=False)], 1002),
    "a length of 125 in the form of 126": ([frame(b"x" * 125, form=126)], 1002),
    "a length of 5 in the form of 127": ([frame(b"hello", form=127)], 1002),
    "a length of 65535 in the form of 127": ([frame(b"x" * 65535, form=127)], 1002),
    "a length with its highest bit": ([frame(b"", form=127, size=1 << 63)], 1002),
    **{f"reserved bit {bit}": ([frame(b"x", rsv=bit)], 1002) for bit in (1, 2, 4, 7)},
    "a reserved bit in a ping": ([frame(b"", PING, rsv=1)], 1002),
    **{f"opcode {opcode}": ([frame(b"", opcode)], 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a ping in fragments": ([frame(b"", PING, fin=False)], 1002),
    "a close in fragments": ([frame(b"", CLOSE, fin=False)], 1002),
    "a ping of 126 bytes": ([frame(b"x" * 126, PING)], 1002),
    "a continuation of nothing": ([frame(b"x", 0x0)], 1002),
    "a continuation of what is complete": ([frame(b"x", fin=False), frame(b"y", 0x0), frame(b"z", 0x0)], 1002),
    "a message inside a message": ([frame(b"x", fin=False), frame(b"y")], 1002),
    "a text that is not UTF-8": ([frame(b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80")], 1007),
    "a text that ends inside a character": ([frame(b"\xce")], 1007),
    "a text of fragments that is not UTF-8": ([frame(b"ab\xce", fin=False), frame(b"ab", 0x0)], 1007),
    "a message beyond the limit": ([frame(b"", BINARY, size=LIMIT + 1)], 1009),
    "fragments beyond the limit": ([frame(b"x" * LIMIT, BINARY, fin=False), frame(b"x", 0x0)], 1009),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_rfc_forbids_fails_the_connection_with_its_code(name: str) -> None:
    """Bad input 33, 34. Nothing is answered but the Close frame, and nothing follows it."""
    sent, code = REFUSED[name]
    heard = exchange([*sent, frame(b"never echoed")])
    assert [opcode for opcode, _ in heard if opcode != TEXT or b"never" in _] == [CLOSE], heard
    assert struct.unpack("!H", heard[-1][1][:2]) == (code,)
    assert heard[-1][1][2:].decode()


def test_stock_tornado_takes_some_of_these() -> None:
    """A reason for a protocol of our own: where this fails, Tornado has learnt it."""
    assert [code for code in TAKEN_BY_TORNADO if exchange([close(code)], Stock)] == TAKEN_BY_TORNADO
    assert exchange([frame(b"hi", masked=False), GOODBYE], Stock)[0] == (TEXT, b"hi")
    assert exchange([frame(b"hello", form=127), GOODBYE], Stock)[0] == (TEXT, b"hello")


TAKEN: dict[str, tuple[list[bytes], list[tuple[int, bytes]]]] = {
    "an empty text": ([frame(b"")], [(TEXT, b"")]),
    "125 bytes": ([frame(b"x" * 125)], [(TEXT, b"x" * 125)]),
    "126 bytes": ([frame(b"x" * 126)], [(TEXT, b"x" * 126)]),
    "65535 bytes": ([frame(b"x" * 65535)], [(TEXT, b"x" * 65535)]),
    "65536 bytes": ([frame(b"x" * 65536, BINARY)], [(BINARY, b"x" * 65536)]),
    "the longest message": ([frame(b"x" * LIMIT, BINARY)], [(BINARY, b"x" * LIMIT)]),
    "a byte at a time": ([bytes((byte,)) for byte in frame("κόσμε".encode())], [(TEXT, "κόσμε".encode())]),
    "a character over two fragments": ([frame(b"\xce", fin=False), frame(b"\xba", 0x0)], [(TEXT, "κ".encode())]),
    "empty fragments": ([frame(b"", fin=False), frame(b"", 0x0, fin=False), frame(b"x", 0x0)], [(TEXT, b"x")]),
    "a ping between fragments": (
        [frame(b"a", BINARY, fin=False), frame(b"p", PING), frame(b"b", 0x0)],
        [(PONG, b"p"), (BINARY, b"ab")],
    ),
    "a ping of 125 bytes": ([frame(b"x" * 125, PING)], [(PONG, b"x" * 125)]),
    "a pong that nobody asked for": ([frame(b"x", PONG), frame(b"y")], [(TEXT, b"y")]),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_the_rfc_allows_is_taken(name: str) -> None:
    sent, answers = TAKEN[name]
    assert exchange([*sent, GOODBYE]) == [*answers, (CLOSE, struct.pack("!H", 1000))]


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999])
def test_a_close_is_echoed(code: int) -> None:
    assert exchange([close(code, "κ".encode())]) == [(CLOSE, struct.pack("!H", code))]


def test_a_close_without_a_code_is_echoed_without_one() -> None:
    assert exchange([frame(b"", CLOSE)]) == [(CLOSE, b"")]


def test_what_comes_after_a_close_is_not_read() -> None:
    assert exchange([close(1000), frame(b"late"), frame(b"", PING)]) == [(CLOSE, struct.pack("!H", 1000))]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "x",
        KEY[:-2],
        KEY + "=",
        KEY.replace("=", "-"),
        base64.b64encode(b"x" * 15).decode(),
        "A" * 24,
        KEY + " " + KEY,
    ],
)
def test_a_key_that_is_no_nonce_is_refused(key: str) -> None:
    """Bad input 47."""

    async def talk() -> bytes:
        async with serving(Echo) as port:
            peer, head = await Peer.connect(port, key)
            await peer.end()
            return head

    assert asyncio.run(talk()).startswith(b"HTTP/1.1 400 ")


def test_two_keys_are_refused() -> None:
    async def talk() -> bytes:
        async with serving(Echo) as port:
            peer, head = await Peer.connect(port, extra=f"Sec-WebSocket-Key: {KEY}\r\n")
            await peer.end()
            return head

    assert asyncio.run(talk()).startswith(b"HTTP/1.1 400 ")


def test_compression_is_not_negotiated() -> None:
    async def talk() -> bytes:
        async with serving(Echo) as port:
            peer, head = await Peer.connect(port, extra="Sec-WebSocket-Extensions: permessage-deflate\r\n")
            await peer.end()
            return head

    assert b"Extensions" not in asyncio.run(talk())


def test_a_refused_client_that_stays_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, our end is shut, and after a while the connection is gone whatever it does."""
    monkeypatch.setattr("gateway.connection.LINGER_S", 0.2)

    async def talk() -> None:
        async with serving(Echo) as port:
            peer, _ = await Peer.connect(port)
            peer.writer.write(frame(b"x", masked=False))
            assert [opcode for opcode, _ in await peer.heard()] == [CLOSE]
            with pytest.raises(ConnectionError):
                await go_on(peer)
            await peer.end()

    async def go_on(peer: Peer) -> None:
        for _ in range(1_000):
            peer.writer.write(b"x" * 1_000)
            await peer.writer.drain()
            await asyncio.sleep(0.005)

    asyncio.run(talk())


@pytest.mark.parametrize("answers", [True, False])
def test_who_answers_no_ping_is_gone(monkeypatch: pytest.MonkeyPatch, answers: bool) -> None:
    """Fault 22: a host that vanished, or a page that hangs, whose end of TCP still looks alive."""
    monkeypatch.setattr("gateway.connection.PING_S", 0.1)

    async def talk() -> int:
        async with serving(Echo) as port:
            peer, _ = await Peer.connect(port)
            pings = 0
            while pings < 5:
                head = await asyncio.wait_for(peer.reader.read(2), WAIT_S)
                if not head:
                    break
                assert head == bytes((0x80 | PING, 0))
                pings += 1
                if answers:
                    peer.writer.write(frame(b"", PONG))
            open_ = len(Echo.everyone.open)
            assert open_ == answers
            await peer.end()
            return pings

    assert asyncio.run(talk()) == (5 if answers else 1)


def test_bytes_that_wait_are_bounded_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """A client that reads nothing: the peer is told when bytes begin to wait, and too many cut it with 1013."""

    async def talk() -> list[str]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        everyone, told = Connections(), []

        class Telling(Echoing):
            def blocked(self) -> None:
                told.append("blocked")

            def freed(self) -> None:
                told.append("freed")

            def leaving(self) -> None:
                told.append("leaving")

        connection = Connection(ours.detach(), "slow", everyone, LIMIT)
        connection.start(Telling(connection))
        message = bytes((0x82, 126, 0x80, 0)) + b"x" * 0x8000
        with theirs:
            while "blocked" not in told:
                connection.write(message)
            theirs.setblocking(False)
            while "freed" not in told:
                with suppress(BlockingIOError):
                    theirs.recv(1 << 16)
                await asyncio.sleep(0)
            for _ in range(100):
                connection.write(message)
            assert connection.closing
            connection.abort()
        assert not everyone.open
        return told

    told = asyncio.run(talk())
    assert told[:4] == ["blocked", "freed", "blocked", "leaving"]
    assert [record.getMessage() for record in caplog.records] == ["slow: cut: more than 262144 bytes wait for it"]
