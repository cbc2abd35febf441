"""Takes new connections at a pace that those who are connected do not feel.

After a restart all clients come at once, and a handshake costs as much as a hundred frames. So connections are accepted
at a rate; the others wait in the kernel's queue, where they cost nothing. At the limit of open files there is one
descriptor in reserve: with it a newcomer is taken, told 503 with a time to come back, and let go, instead of the loop
being woken without end by a connection that it cannot accept.
"""

import asyncio
import errno
import logging
import os
import socket
from contextlib import suppress
from typing import Any, Final

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from fabric.clock import Clock
from gateway.limits import TokenBucket

ACCEPTS_PER_S: Final = 500
"""Of all processes of a gateway together."""
ACCEPTS_BURST: Final = 10
"""At once: some ten milliseconds of work, in which nobody else is served. A loop whose turns are so long that
more than these gather takes fewer a second: whoever is connected already goes before newcomers.
"""
_FULL_PAUSE_S: Final = 1.0
"""When there is not even the reserve."""
_OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE)
_FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

_log = logging.getLogger(__name__)


class Acceptor:
    """Gives an HTTP server the connections of a listening socket from `start` to `stop`; the socket is the caller's."""

    def __init__(self, server: HTTPServer, listening: socket.socket, clock: Clock, rate: float = ACCEPTS_PER_S) -> None:
        """``rate``: connections a second in the long run."""
        self._server = server
        self._listening = listening
        self._clock = clock
        self._bucket = TokenBucket(rate, ACCEPTS_BURST, clock.monotonic_ns())
        self._reserve = -1
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._full = False
        self.accepted = self.refused = self.waits = 0

    def start(self) -> None:
        """Begin to accept, in the running loop."""
        self._keep_reserve()
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def stop(self) -> None:
        """Accept no more. May be called again."""
        if self._stopped:
            return
        self._stopped = True
        asyncio.get_running_loop().remove_reader(self._listening)
        if self._timer is not None:
            self._timer.cancel()
        if self._reserve >= 0:
            os.close(self._reserve)

    def counters(self) -> dict[str, int]:
        """Connections accepted and refused, and how often newcomers had to wait."""
        return {"accepted": self.accepted, "refused": self.refused, "waits": self.waits}

    def _accept(self) -> None:
        """Take those who wait, as many as may come in now."""
        while True:
            if wait_ms := self._bucket.take(self._clock.monotonic_ns()):
                self._pause(wait_ms / 1_000)
                return
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_FILES:  # the newcomer has gone already: accept(2)
                    continue
                if self._refuse(error):
                    continue
                return
            self._full = False
            self.accepted += 1
            self._serve(connection, address)

    def _serve(self, connection: socket.socket, address: Any) -> None:
        stream = IOStream(
            connection, max_buffer_size=self._server.max_buffer_size, read_chunk_size=self._server.read_chunk_size
        )
        self._server.handle_stream(stream, address)

    def _refuse(self, error: OSError) -> bool:
        """Tell one newcomer that there is no room, with the descriptor in reserve; False when nobody waits.

        accept(2) looks for a descriptor before it looks for a connection: the error does not say that there is one.
        """
        if self._reserve < 0:  # it was taken by another part of the process when it was used last
            self._keep_reserve()
            if self._reserve < 0:
                self._pause(_FULL_PAUSE_S)
                return False
        os.close(self._reserve)
        self._reserve = -1
        try:
            connection, _ = self._listening.accept()
            with connection:
                connection.setblocking(False)
                connection.send(_FULL)
        except BlockingIOError:
            return False
        except OSError:  # the newcomer has gone
            pass
        finally:
            self._keep_reserve()
        self.refused += 1
        if not self._full:
            self._full = True
            _log.warning("no more connections: %s; newcomers are told 503", error.strerror)
        return True

    def _keep_reserve(self) -> None:
        with suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _pause(self, seconds: float) -> None:
        """Look again when there is a token; at least one turn of the loop later, so that several come together."""
        self.waits += 1
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening)
        self._timer = loop.call_later(max(seconds, 0.01), self._resume)

    def _resume(self) -> None:
        self._timer = None
        asyncio.get_running_loop().add_reader(self._listening, self._accept)
