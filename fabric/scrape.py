"""A small HTTP server for whoever scrapes metrics: GET of a few fixed paths, one answer a connection.

Driven by the launcher's selector, whose keys' ``data`` is the function to call when something can be done. Every
resource has a bound: `CONNECTIONS_MAX` connections (the oldest is cut for a new one), `REQUEST_MAX` bytes a request.
"""

import selectors
import socket
from collections.abc import Callable, Mapping
from functools import partial

from fabric.errors import UnavailableError

CONNECTIONS_MAX = 16
REQUEST_MAX = 8 * 1024
Page = Callable[[], tuple[str, str]]
"""Makes a page: its content type and its text."""


class ScrapeServer:
    """Serves ``pages`` (by path) at one address."""

    def __init__(self, host: str, port: int, selector: selectors.BaseSelector, pages: Mapping[str, Page]) -> None:
        """Raises UnavailableError where the address cannot be had."""
        self._selector = selector
        self._pages = pages
        self._connections: dict[socket.socket, bytes] = {}  # what has come, or what has not gone out yet
        self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.setblocking(False)
        try:
            self._listener.bind((host, port))
        except OSError as error:
            self._listener.close()
            raise UnavailableError(f"metrics: cannot listen on {host}:{port}: {error.strerror}") from error
        self._listener.listen(CONNECTIONS_MAX)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        found: tuple[str, int] = self._listener.getsockname()[:2]
        return found

    def close(self) -> None:
        """Cut all connections and listen no more."""
        for connection in list(self._connections):
            self._cut(connection)
        self._selector.unregister(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone already, or there is no descriptor left: the next one may have more luck
            return
        if len(self._connections) >= CONNECTIONS_MAX:
            self._cut(next(iter(self._connections)))
        connection.setblocking(False)
        self._connections[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ, partial(self._read, connection))

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(REQUEST_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        request = self._connections[connection] + data
        if not data or len(request) > REQUEST_MAX:
            self._cut(connection)
        elif b"\r\n\r\n" in request or b"\n\n" in request:
            self._connections[connection] = self._answer(request)
            self._selector.modify(connection, selectors.EVENT_WRITE, partial(self._write, connection))
        else:
            self._connections[connection] = request

    def _write(self, connection: socket.socket) -> None:
        unsent = self._connections[connection]
        try:
            unsent = unsent[connection.send(unsent) :]
        except BlockingIOError:
            return
        except OSError:
            unsent = b""
        self._connections[connection] = unsent
        if not unsent:
            self._cut(connection)

    def _answer(self, request: bytes) -> bytes:
        method, _, rest = request.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        page = self._pages.get(rest.partition(" ")[0].partition("?")[0])
        status, kind, text = "200 OK", "text/plain; charset=utf-8", ""
        if method not in ("GET", "HEAD"):
            status, text = "405 Method Not Allowed", "GET only\n"
        elif page is None:
            status, text = "404 Not Found", f"there are {', '.join(self._pages)}\n"
        else:
            kind, text = page()
        body = text.encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        return head.encode() + (b"" if method == "HEAD" else body)

    def _cut(self, connection: socket.socket) -> None:
        del self._connections[connection]
        self._selector.unregister(connection)
        connection.close()
