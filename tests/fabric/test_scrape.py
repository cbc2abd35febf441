import selectors
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fabric.errors import UnavailableError
from fabric.scrape import CONNECTIONS_MAX, REQUEST_MAX, ScrapeServer


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """A server of one page, driven by a thread as the launcher drives it."""
    with selectors.DefaultSelector() as selector:
        server = ScrapeServer("127.0.0.1", 0, selector, {"/metrics": lambda: ("text/x", "x" * 3_000_000 + "end")})
        ours, theirs = socket.socketpair()
        with ours, theirs:
            over = threading.Event()
            selector.register(ours, selectors.EVENT_READ, over.set)

            def drive() -> None:
                while not over.is_set():
                    for key, _ in selector.select():
                        if selector.get_map().get(key.fd) is key:
                            key.data()

            thread = threading.Thread(target=drive)
            thread.start()
            yield server.address
            theirs.send(b"x")
            thread.join()
        server.close()


def test_a_page_comes_whole_however_slowly_it_is_read(address: tuple[str, int]) -> None:
    with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/metrics?x=1") as answer:
        assert answer.headers["Content-Type"] == "text/x"
        assert answer.read().endswith(b"xend")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("POST", "/metrics", 405)])
def test_what_is_not_there_is_refused(address: tuple[str, int], method: str, path: str, status: int) -> None:
    request = urllib.request.Request(f"http://{address[0]}:{address[1]}{path}", method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    with refused.value as answer:
        assert answer.code == status


def test_head_is_answered_without_the_page(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"HEAD /metrics HTTP/1.1\r\n\r\n")
        head = b""
        while data := connection.recv(4_096):
            head += data
    assert b"Content-Length: 3000003" in head
    assert head.endswith(b"\r\n\r\n")


def test_a_request_in_pieces_is_put_together(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        for piece in (b"GET /met", b"rics HTTP/1.1\r\nHost: x", b"\r\n\r\n"):
            connection.sendall(piece)
        assert connection.recv(15) == b"HTTP/1.1 200 OK"


def test_a_request_without_end_is_cut(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(b"GET /" + b"x" * (REQUEST_MAX + 1))
        assert _ended(connection)


def _ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:  # it was cut with bytes unread
        return True


def test_those_who_stay_for_nothing_make_room_for_a_new_one(address: tuple[str, int]) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(address)) for _ in range(CONNECTIONS_MAX)]
        with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/metrics") as answer:
            assert answer.status == 200
        assert _ended(idle[0])


def test_a_port_in_use_is_named(address: tuple[str, int]) -> None:
    with selectors.DefaultSelector() as selector, pytest.raises(UnavailableError, match=str(address[1])):
        ScrapeServer(*address, selector, {})
