"""New connections come in at a pace; at the limit of open files they are told so, and nobody else is disturbed."""

import asyncio
import resource
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from fabric.clock import SystemClock
from gateway import accepting
from gateway.accepting import Acceptor


class Hello(RequestHandler):
    def get(self) -> None:
        self.finish("hello")


Scene = Callable[[Acceptor, tuple[str, int]], Awaitable[None]]


def scenario(scene: Scene, rate: float = 1_000.0) -> None:
    """A server behind an acceptor, for the time of a scene."""

    async def play() -> None:
        server = HTTPServer(Application([("/", Hello)]))
        with socket.create_server(("127.0.0.1", 0), backlog=1_000) as listening:
            listening.setblocking(False)
            acceptor = Acceptor(server, listening, SystemClock(), rate)
            acceptor.start()
            try:
                await asyncio.wait_for(scene(acceptor, listening.getsockname()), 20)
            finally:
                acceptor.stop()
                await server.close_all_connections()

    asyncio.run(play())


async def get(address: tuple[str, int]) -> bytes:
    """One request on a connection of its own; the first line of the answer."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return line


def test_connections_beyond_the_burst_come_in_at_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "ACCEPTS_BURST", 10)

    async def scene(acceptor: Acceptor, address: tuple[str, int]) -> None:
        started = time.monotonic()
        answers = await asyncio.gather(*(get(address) for _ in range(30)))
        took_s = time.monotonic() - started
        assert answers == [b"HTTP/1.1 200 OK\r\n"] * 30
        assert acceptor.accepted == 30
        assert acceptor.waits > 0
        assert took_s > 20 / 50 - 0.05, "20 beyond the burst, at 50 a second"

    scenario(scene, rate=50.0)


def test_one_that_leaves_before_its_turn_is_no_harm() -> None:
    async def scene(acceptor: Acceptor, address: tuple[str, int]) -> None:
        for _ in range(20):
            socket.create_connection(address).close()
        assert await get(address) == b"HTTP/1.1 200 OK\r\n"

    scenario(scene)


def test_at_the_limit_of_open_files_newcomers_are_told_and_others_served(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(acceptor: Acceptor, address: tuple[str, int]) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        reader, writer = await asyncio.open_connection(*address)  # was there before
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(request)
        await reader.readuntil(b"hello")
        with ExitStack() as stack:
            waiting = [stack.enter_context(socket.socket()) for _ in range(5)]
            fillers: list[socket.socket] = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
            try:
                while True:
                    try:
                        fillers.append(stack.enter_context(socket.socket()))
                    except OSError:
                        break
                for client in waiting:
                    client.setblocking(False)
                    client.connect_ex(address)
                loop = asyncio.get_running_loop()
                for client in waiting:
                    assert (await loop.sock_recv(client, 100)).startswith(b"HTTP/1.1 503 Service Unavailable")
                turns = acceptor.refused
                writer.write(request)
                await reader.readuntil(b"hello")
                assert acceptor.refused == turns == 5, "the loop is not woken again and again"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert await get(address) == b"HTTP/1.1 200 OK\r\n"
        writer.close()
        await writer.wait_closed()

    scenario(scene)
    assert [record.message for record in caplog.records if "no more connections" in record.message] == [
        "no more connections: Too many open files; newcomers are told 503"
    ]


def test_after_the_stop_nobody_comes_in() -> None:
    async def scene(acceptor: Acceptor, address: tuple[str, int]) -> None:
        acceptor.stop()
        with socket.create_connection(address) as client:
            client.setblocking(False)
            await asyncio.sleep(0)
            with pytest.raises(BlockingIOError):
                client.recv(1)
        assert acceptor.accepted == 0

    scenario(scene)
