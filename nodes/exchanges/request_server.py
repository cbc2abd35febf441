"""The exchange's end of recovery: answers requests for what was sent, in each exchange's own protocol.

The exchange keeps every packet that it sends in a `Store` and calls `serve` in its loop: nothing blocks, there is no
thread, and what one call does is bounded. What is no longer kept is answered as the protocol says "unavailable", or
not at all where it has no word for it. Requests are limited as the exchanges limit them. Here are MoldUDP64,
SoupBinTCP and IEX-TP; Cboe's is `request_server_pitch`, NYSE's `request_server_xdp`.

Sources: MoldUDP64 1.00 "Request Packet"; SoupBinTCP 3.00; IEX-TP 1.25 "Gap Fill Request".
"""

import itertools
import struct
from typing import Final, Protocol

from fabric.clock import SECOND_NS
from nodes.exchanges.request_sockets import Address, Datagrams, Peer, Quota, TcpServer
from nodes.exchanges.store import Store

ANSWER_BYTES_MAX: Final = 1_400
"""Of messages in an answer that is put together from several packets."""


class RequestServer(Protocol):
    """What an exchange's loop sees of a server."""

    @property
    def address(self) -> Address:
        """(host, port) as bound."""
        ...

    def serve(self, now_ns: int) -> None:
        """Answer what has come; never blocks. ``now_ns`` must not go back."""
        ...

    def counters(self) -> dict[str, int]:
        """Requests, answers and refusals so far."""
        ...

    def close(self) -> None:
        """Close every socket; may be called twice."""
        ...


_MOLD: Final = struct.Struct(">10sQH")
MOLD_PER_SECOND: Final = 1_000


class MoldUdp64Server:
    """MoldUDP64: a request is answered with one packet to where it came from, as much as fits; or with silence."""

    def __init__(self, address: Address, store: Store, session: bytes) -> None:
        """``session`` is the ten bytes of the session in ``store``. Raises UnavailableError."""
        self.session = session
        self._store = store
        self._socket = Datagrams(address)
        self._counts = self._socket.counts
        self._quota = Quota(MOLD_PER_SECOND)

    @property
    def address(self) -> Address:
        return self._socket.address

    def serve(self, now_ns: int) -> None:
        for request, source in self._socket.receive():
            self._counts["requests"] += 1
            if len(request) != _MOLD.size:
                self._counts["malformed"] += 1
                continue
            session, first, count = _MOLD.unpack(request)
            if session != self.session:
                self._counts["wrong_session"] += 1
            elif self._quota.take(now_ns):
                self._counts["limited"] += 1
            else:
                self._answer(first, count, source)

    def counters(self) -> dict[str, int]:
        return dict(self._counts)

    def close(self) -> None:
        self._socket.close()

    def _answer(self, first: int, count: int, source: Address) -> None:
        blocks, taken = b"", 0
        while taken < count and first <= _NUMBER_MAX:
            more, packet = self._store.cut(0, first + taken, count - taken)
            if not more or (blocks and len(blocks) + len(packet) - _MOLD.size > ANSWER_BYTES_MAX):
                break
            blocks += packet[_MOLD.size :]
            taken += more
        if taken:
            self._counts["messages"] += taken
            self._socket.send(_MOLD.pack(self.session, first, taken) + blocks, source)
        else:
            self._counts["unavailable"] += 1


_NUMBER_MAX: Final = 1 << 60
_LENGTH: Final = struct.Struct(">H")
_LOGIN: Final = struct.Struct("6s10s10s20s")
SOUP_HEARTBEAT_NS: Final = SECOND_NS
SOUP_SILENCE_NS_MAX: Final = 15 * SECOND_NS
SOUP_LOGIN_NS_MAX: Final = 5 * SECOND_NS
SOUP_BACKLOG_BYTES: Final = 1 << 16
"""A peer that has so much unsent is given nothing more until it reads."""
SOUP_PACKETS_PER_TURN: Final = 256


class SoupServer(TcpServer):
    """SoupBinTCP: who logs in is told all messages of the session from the number it asks for, then the new ones.

    The store holds them as MoldUDP64 packets. Who asks for what is no longer there is told from the oldest that is;
    who falls behind the oldest is dropped.
    """

    def __init__(self, address: Address, store: Store, session: bytes, users: dict[str, str]) -> None:
        """``users`` are names with their passwords. Raises UnavailableError."""
        super().__init__(address)
        self.session = session
        self._store, self._users = store, users
        self._ended = False

    def end(self, now_ns: int) -> None:
        """The session is over: tell everybody, and who logs in from now on."""
        self._ended = True
        for peer in self.peers:
            peer.say(_soup(b"Z"), now_ns)
            peer.leaving = True

    def begin(self, session: bytes) -> None:
        """Another session, of which the store holds nothing yet, is what log-ins get from now on."""
        self.session, self._ended = session, False

    def take(self, peer: Peer, now_ns: int) -> bool:
        data, at = peer.input, 0
        while len(data) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(data, at)
            if len(data) - at < _LENGTH.size + size:
                break
            kind, payload = bytes(data[at + 2 : at + 3]), bytes(data[at + 3 : at + 2 + size])
            at += _LENGTH.size + size
            if kind == b"L" and not peer.name and len(payload) == _LOGIN.size:
                self._log_in(peer, payload, now_ns)
            elif kind == b"O":
                peer.leaving = True
            elif kind not in (b"R", b"U", b"+"):
                return False
        del data[:at]
        return True

    def idle(self, peer: Peer, now_ns: int) -> None:
        if now_ns - peer.heard_ns > SOUP_SILENCE_NS_MAX or (
            not peer.name and now_ns - peer.joined_ns > SOUP_LOGIN_NS_MAX
        ):
            self.counts["silent"] += 1
            peer.output.clear()
            peer.leaving = True
        elif peer.name and not peer.leaving:
            self._tell(peer, now_ns)
            if now_ns - peer.spoke_ns >= SOUP_HEARTBEAT_NS:
                peer.say(_soup(b"H"), now_ns)

    def counters(self) -> dict[str, int]:
        return dict(self.counts)

    def _log_in(self, peer: Peer, payload: bytes, now_ns: int) -> None:
        user, password, session, digits = (field.strip().decode("latin-1") for field in _LOGIN.unpack(payload))
        if self._users.get(user) != password or not digits.isdecimal():
            self.counts["rejected"] += 1
            peer.say(_soup(b"J", b"A"), now_ns)
            peer.leaving = True
        elif session and session.encode() != self.session.strip():
            self.counts["wrong_session"] += 1
            peer.say(_soup(b"J", b"S"), now_ns)
            peer.leaving = True
        else:
            self.counts["logins"] += 1
            oldest, following = self._store.bounds(0)
            following = max(following, 1)
            wanted = int(digits) or following
            self.counts["unavailable"] += wanted < oldest
            peer.name, peer.cursor = user or "-", min(max(wanted, oldest), following)
            peer.say(_soup(b"A", self.session + b"%20d" % peer.cursor), now_ns)
            if self._ended:
                peer.say(_soup(b"Z"), now_ns)
                peer.leaving = True

    def _tell(self, peer: Peer, now_ns: int) -> None:
        for _ in range(SOUP_PACKETS_PER_TURN):
            if len(peer.output) > SOUP_BACKLOG_BYTES:
                return
            taken, packet = self._store.cut(0, peer.cursor, 0xFFFE)
            if not taken:
                break
            at, told = _MOLD.size, bytearray()
            for _ in range(taken):
                (size,) = _LENGTH.unpack_from(packet, at)
                told += _soup(b"S", packet[at + 2 : at + 2 + size])
                at += 2 + size
            peer.say(bytes(told), now_ns)
            peer.cursor += taken
            self.counts["messages"] += taken
        else:
            return
        if peer.cursor < self._store.bounds(0)[0]:
            self.counts["overrun"] += 1
            peer.leaving = True


def _soup(kind: bytes, payload: bytes = b"") -> bytes:
    return _LENGTH.pack(1 + len(payload)) + kind + payload


_IEX_REQUEST: Final = struct.Struct("<BBHIII")
_IEX_RANGE: Final = struct.Struct("<qq")
_IEX_HEADER: Final = struct.Struct("<BBHIIHHqqq")
_BY_SEQUENCE: Final = 1
IEX_MESSAGES_MAX: Final = 1_000
IEX_RANGES_MAX: Final = 64
IEX_PER_SECOND: Final = 500


class IexTpServer:
    """IEX-TP gap fill over UDP: segments to where the request came from, at most 1,000 messages for one request.

    The end of a range is taken to belong to it. Requests by byte offset are ignored and counted, as are invalid ones.
    """

    def __init__(self, address: Address, store: Store, protocol: int, channel: int, session: int) -> None:
        """Serve the channel's current ``session``. Raises UnavailableError."""
        self.session = session
        self._store, self._protocol, self._channel = store, protocol, channel
        self._socket = Datagrams(address)
        self._counts = self._socket.counts
        self._quota = Quota(IEX_PER_SECOND)

    @property
    def address(self) -> Address:
        return self._socket.address

    def serve(self, now_ns: int) -> None:
        for request, source in self._socket.receive():
            self._counts["requests"] += 1
            ranges = self._ranges(request)
            if ranges is not None and self._quota.take(now_ns):
                self._counts["limited"] += 1
            elif ranges == []:
                self._socket.send(self._empty(now_ns), source)
            elif ranges is not None:
                self._answer(ranges, source)

    def counters(self) -> dict[str, int]:
        return dict(self._counts)

    def close(self) -> None:
        self._socket.close()

    def _ranges(self, request: bytes) -> list[tuple[int, int]] | None:
        """The ranges of a valid request: (first, last); None, and counted, for another."""
        if len(request) < _IEX_REQUEST.size:
            self._counts["malformed"] += 1
            return None
        version, kind, protocol, channel, session, count = _IEX_REQUEST.unpack_from(request)
        if (version, kind) != (1, _BY_SEQUENCE) or len(request) != _IEX_REQUEST.size + count * _IEX_RANGE.size:
            self._counts["malformed"] += 1
            return None
        if (protocol, channel, session) != (self._protocol, self._channel, self.session):
            self._counts["wrong_session"] += 1
            return None
        ranges = list(_IEX_RANGE.iter_unpack(request[_IEX_REQUEST.size :]))
        bounds = [0, *(number for span in ranges for number in span)]
        rising = all(a <= b for a, b in ranges) and all(
            before[1] < after[0] for before, after in itertools.pairwise(ranges)
        )
        if not rising or min(bounds) < 0 or max(bounds) > _NUMBER_MAX or count > IEX_RANGES_MAX:
            self._counts["malformed"] += 1
            return None
        return [(first, last) for first, last in ranges]

    def _answer(self, ranges: list[tuple[int, int]], source: Address) -> None:
        room = IEX_MESSAGES_MAX
        for first, last in ranges:
            while first <= last and room:
                taken, packet = self._store.cut(self._channel & 0xFFFF, first, min(last - first + 1, room))
                if not taken:
                    self._counts["unavailable"] += 1
                    break
                self._socket.send(packet, source)
                self._counts["messages"] += taken
                first += taken
                room -= taken

    def _empty(self, now_ns: int) -> bytes:
        """A segment without messages: it tells the next number and the next byte."""
        _, following = self._store.bounds(self._channel & 0xFFFF)
        offset = 0
        if following:
            _, packet = self._store.cut(self._channel & 0xFFFF, following - 1, 1)
            fields = _IEX_HEADER.unpack_from(packet)
            offset = fields[7] + fields[5]
        head = (1, 0, self._protocol, self._channel, self.session, 0, 0, offset, max(following, 1), now_ns)
        return _IEX_HEADER.pack(*head)
