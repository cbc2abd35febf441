"""What request servers are built of: bounded sockets that never block, and limits on how often one may ask."""

import select
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from fabric.clock import SECOND_NS
from fabric.errors import UnavailableError

Address = tuple[str, int]

REQUESTS_PER_TURN: Final = 64
"""Datagrams read in one call."""
REQUEST_BYTES_MAX: Final = 2_048
PEERS_MAX: Final = 16
INPUT_BYTES_MAX: Final = 1 << 14
OUTPUT_BYTES_MAX: Final = 1 << 20
READ_BYTES: Final = 1 << 13
ACCEPTS_PER_TURN: Final = 4


@dataclass(slots=True)
class _Span:
    length_ns: int
    letter: str
    limit: int
    began_ns: int = 0
    taken: int = 0


class Quota:
    """So many in a second, a minute, a day, each begun by the first request after the last one has passed (pure)."""

    def __init__(self, per_second: int, per_minute: int | None = None, per_day: int | None = None) -> None:
        """None: no such limit."""
        limits = ((1, "S", per_second), (60, "M", per_minute), (86_400, "D", per_day))
        self._spans = [_Span(seconds * SECOND_NS, letter, limit) for seconds, letter, limit in limits if limit]

    def take(self, now_ns: int) -> str:
        """Count one request; the empty text when it is within all limits, else S, M or D for the one it breaks."""
        for span in self._spans:
            if now_ns - span.began_ns >= span.length_ns:
                span.began_ns, span.taken = now_ns, 0
        for span in self._spans:
            if span.taken >= span.limit:
                return span.letter
        for span in self._spans:
            span.taken += 1
        return ""


class Datagrams:
    """A bound UDP socket: requests come in, answers go to where they came from or to a group."""

    def __init__(self, address: Address) -> None:
        """Bind ``address``; port 0 takes a free one. Raises UnavailableError."""
        self.counts: Counter[str] = Counter()
        self._socket = _bound(address, socket.SOCK_DGRAM)

    @property
    def address(self) -> Address:
        """(host, port) as bound."""
        return _name(self._socket)

    def receive(self) -> Iterator[tuple[bytes, Address]]:
        """Requests that have come, and from where; at most `REQUESTS_PER_TURN`."""
        for _ in range(REQUESTS_PER_TURN):
            try:
                yield self._socket.recvfrom(REQUEST_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                self.counts["errors"] += 1

    def send(self, payload: bytes, address: Address) -> None:
        """Send, or count that the operating system would not."""
        try:
            self._socket.sendto(payload, address)
            self.counts["packets"] += 1
        except OSError:
            self.counts["errors"] += 1

    def close(self) -> None:
        """Close the socket; may be called twice."""
        self._socket.close()


@dataclass(slots=True, eq=False)
class Peer:
    """A connection: what has come and waits to be read, and what waits to be sent."""

    socket: socket.socket
    joined_ns: int
    heard_ns: int
    spoke_ns: int
    input: bytearray = field(default_factory=bytearray)
    output: bytearray = field(default_factory=bytearray)
    name: str = ""  # empty: not logged in
    cursor: int = 0  # of a stream: number of the next message
    quota: Quota | None = None
    leaving: bool = False  # close when `output` is sent

    def say(self, data: bytes, now_ns: int) -> None:
        """Send soon."""
        self.output += data
        self.spoke_ns = now_ns


class TcpServer:
    """A listening socket and its connections; what is said on them is a subclass's."""

    def __init__(self, address: Address) -> None:
        """Listen on ``address``; port 0 takes a free one. Raises UnavailableError."""
        self.counts: Counter[str] = Counter()
        self.peers: list[Peer] = []
        self._listener = _bound(address, socket.SOCK_STREAM)
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    @property
    def address(self) -> Address:
        """(host, port) as bound."""
        return _name(self._listener)

    def serve(self, now_ns: int) -> None:
        """Accept, read, answer, send; never blocks."""
        ready = {descriptor for descriptor, _ in self._epoll.poll(0)}
        if self._listener.fileno() in ready:
            self._accept(now_ns)
        for peer in list(self.peers):
            if peer.socket.fileno() in ready and not self._read(peer, now_ns):
                self.drop(peer)
                continue
            self.idle(peer, now_ns)
            if not self._flush(peer) or (peer.leaving and not peer.output):
                self.drop(peer)

    def joined(self, peer: Peer, now_ns: int) -> None:
        """A connection has come."""

    def take(self, peer: Peer, now_ns: int) -> bool:
        """Read what is whole in ``peer.input`` and remove it; False: the peer does not speak our language."""
        raise NotImplementedError

    def idle(self, peer: Peer, now_ns: int) -> None:
        """Each call, for every peer: heartbeats, silence, a stream to be carried on."""

    def drop(self, peer: Peer) -> None:
        """Close a connection."""
        if peer in self.peers:
            self.peers.remove(peer)
            peer.socket.close()
            self.counts["left"] += 1

    def close(self) -> None:
        """Close every socket; may be called twice."""
        for peer in list(self.peers):
            self.drop(peer)
        self._listener.close()
        self._epoll.close()

    def _accept(self, now_ns: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if len(self.peers) >= PEERS_MAX:
                connection.close()
                self.counts["turned_away"] += 1
                continue
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._epoll.register(connection.fileno(), select.EPOLLIN)
            self.counts["joined"] += 1
            peer = Peer(connection, now_ns, now_ns, now_ns)
            self.peers.append(peer)
            self.joined(peer, now_ns)

    def _read(self, peer: Peer, now_ns: int) -> bool:
        try:
            data = peer.socket.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data or len(peer.input) + len(data) > INPUT_BYTES_MAX:
            return False
        peer.input += data
        peer.heard_ns = now_ns
        if not self.take(peer, now_ns):
            self.counts["malformed"] += 1
            return False
        return True

    def _flush(self, peer: Peer) -> bool:
        if peer.output:
            try:
                del peer.output[: peer.socket.send(peer.output)]
            except BlockingIOError:
                pass
            except OSError:
                return False
        if len(peer.output) > OUTPUT_BYTES_MAX:
            self.counts["slow"] += 1
            return False
        return True


def _bound(address: Address, kind: int) -> socket.socket:
    host, port = address
    sock = None
    try:
        family = socket.getaddrinfo(host, port, type=kind)[0][0]
        sock = socket.socket(family, kind)
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen(PEERS_MAX)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise UnavailableError(f"request server {host}:{port}: {error.strerror or error}") from error
    return sock


def _name(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return str(host), int(port)
