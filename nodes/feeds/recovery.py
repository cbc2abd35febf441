"""Asking the exchange again for what was lost: which ranges, how often, how long to wait.

The sequencer says what is missing, a client (`recovery_moldudp64`, `recovery_soupbintcp`, `recovery_iextp`,
`recovery_pitch`, `recovery_xdp`) asks the exchange's request server for it in that exchange's own protocol, and what
comes back goes through framing and sequencer like any other packet. A client never blocks and never grows: a server
that is away, silent, refuses or lies costs the range that was asked for, is counted, and the gap stays a gap.

An answer is held against what was asked before anybody reads it: another session, numbers that nobody asked for, or
fewer messages than it states are dropped, so a lying server cannot restart a stream or open a gap in it.

CTA and UTP have no such protocol (a retransmission is an operational request to SIAC): their gaps stay gaps.
"""

import select
import socket
from collections import Counter, deque
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fabric.clock import MILLISECOND_NS, SECOND_NS
from nodes.feeds.recovery_kernel import ANY_SESSION, MALFORMED, MOLDUDP64, numbers
from nodes.feeds.wire import Packets, from_payloads

DATAGRAM_BYTES_MAX: Final = 9_216
"""A jumbo frame; a longer datagram is cut, and is then malformed."""
RECEIVE_BUFFER_BYTES: Final = 4 << 20
PACKETS_PER_TURN: Final = 256
"""Answers taken at once: what a flood of them may cost a turn of the feed's loop."""
UNIT_MASK: Final = 0xFFFF
"""The unit or channel in a stream; above it stands the group of lines."""
NOTHING: Final = from_payloads([])


class Recovery(Protocol):
    """What a feed sees of a client. One thread owns it; times are monotonic and given, except ``now_ns``."""

    def request(self, stream: int, session: int, first: int, count: int, monotonic_ns: int) -> bool:
        """Ask for messages ``first`` to ``first + count``; False when the client has no room to remember it.

        To be said again and again as long as they are missing, and that is all: what is under way is not asked for
        twice, what could not be had is not tried again at once, what is no longer said is forgotten.
        """
        ...

    def refresh(self, index: int) -> bool:
        """Ask for the whole state of a symbol index, where the exchange refreshes symbols one by one (NYSE)."""
        ...

    def observe(self, packets: Packets) -> None:
        """See what came on the lines: some protocols need more of a packet than the sequencer keeps."""
        ...

    def packets(self, now_ns: int) -> Packets:
        """Answers so far, stamped ``now_ns``: to be framed and sequenced like packets of a line."""
        ...

    def tick(self, monotonic_ns: int) -> None:
        """Send what is due: requests, repeats, heartbeats, log-ins."""
        ...

    def fileno(self) -> int:
        """One descriptor that becomes readable when there is something for `tick` or `packets`."""
        ...

    def counters(self) -> dict[str, int]:
        """Everything counted so far; names begin with ``recovery_``."""
        ...

    def close(self) -> None:
        """Close every socket; may be called twice."""
        ...


class Misses(Protocol):
    """Who knows what is missing: a feed's wire."""

    def missing(self, monotonic_ns: int) -> npt.NDArray[np.void]:
        """Ranges (``stream``, ``session``, ``first``, ``count``) to ask for now; good until the next call."""
        ...

    def lost(self) -> Sequence[tuple[int, int]]:
        """(stream, symbol index) of what a gap made unknown, where symbols can be refreshed one by one."""
        ...


REFRESH_EVERY_NS: Final = 500 * MILLISECOND_NS
"""So often it is looked which symbols a gap made unknown."""
REFRESH_SINGLY_MAX: Final = 64
"""When more symbols of a group are unknown, one refresh of all is asked for: servers count requests."""


class Recoveries:
    """The clients of a feed, one for each group of lines that has a server, between its wire and its loop."""

    def __init__(self, clients: Mapping[int, Recovery]) -> None:
        """``clients`` by group."""
        self._clients = dict(clients)
        self._looked_ns = 0

    def filenos(self) -> list[int]:
        """Descriptors that become readable when there is something for `turn`."""
        return [client.fileno() for client in self._clients.values()]

    def observe(self, packets: Packets) -> None:
        """See a batch of the lines."""
        for client in self._clients.values():
            client.observe(packets)

    def turn(self, wire: Misses, now_ns: int, monotonic_ns: int) -> Iterator[Packets]:
        """Ask for what the wire misses, and give what has come, to be decoded like packets of a line."""
        for wanted in wire.missing(monotonic_ns) if self._clients else ():
            client = self._clients.get(int(wanted["stream"]) >> 16)
            if client is not None:
                stream, session = int(wanted["stream"]), int(wanted["session"])
                client.request(stream, session, int(wanted["first"]), int(wanted["count"]), monotonic_ns)
        if self._clients and monotonic_ns - self._looked_ns >= REFRESH_EVERY_NS:
            self._looked_ns = monotonic_ns
            self._refresh(wire.lost())
        for client in self._clients.values():
            client.tick(monotonic_ns)
            packets = client.packets(now_ns)
            if packets.offsets.size:
                yield packets

    def _refresh(self, lost: Sequence[tuple[int, int]]) -> None:
        """Ask for what a gap made unknown: symbol by symbol, or for all of a group when there are many."""
        for group, client in self._clients.items():
            indexes = [index for stream, index in lost if stream >> 16 == group]
            for index in indexes if len(indexes) <= REFRESH_SINGLY_MAX else (0,):
                client.refresh(index)

    def counters(self) -> dict[str, int]:
        """Those of the clients, added up."""
        counts: Counter[str] = Counter()
        for client in self._clients.values():
            counts.update(client.counters())
        return dict(counts)

    def close(self) -> None:
        """Close every client."""
        for client in self._clients.values():
            client.close()


@dataclass(slots=True, eq=False)
class Range:
    """Numbers that are missing: ``first`` to ``stop``, exclusive."""

    stream: int
    session: int
    first: int
    stop: int
    asked_stop: int = 0  # asked for up to here; not above `first`: nothing is under way
    due_ns: int = 0  # when it may be asked for (again)
    heard_ns: int = 0  # when somebody last said that it is missing
    tries: int = 0  # since something of it last came

    def overlaps(self, stream: int, session: int, first: int, stop: int) -> bool:
        """Whether numbers of a stream are among these."""
        return (self.stream, self.session) == (stream, session) and self.first < stop and self.stop > first


class Limits(NamedTuple):
    """What a server can be asked, and how patiently."""

    count_max: int  # messages in one request
    per_second: int  # requests in any second
    one_packet: bool = False  # an answer is one packet, however many messages were asked for
    flight_max: int = 16  # ranges under way at once
    ranges_max: int = 256  # remembered at all
    tries_max: int = 6  # without anything coming of it
    patience_ns: int = 100 * MILLISECOND_NS  # for the first answer; doubles with each try
    patience_ns_max: int = 2 * SECOND_NS
    forget_ns: int = 2 * SECOND_NS  # after which a range that nobody misses any more is forgotten
    refused_ns: int = 5 * SECOND_NS  # for which what could not be had is not asked for anew


class Wanted:
    """Which numbers to ask for and when (pure: times are monotonic and given)."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests = self.repeats = 0
        """Requests sent, and how many of them because nothing had come of the one before."""
        self.recovered = self.abandoned = self.overflow = 0
        """Messages that came, that were given up after all tries or refusals, and that there was no room to ask for."""
        self._ranges: list[Range] = []
        self._refused: deque[Range] = deque(maxlen=limits.ranges_max)
        self._second_ns = self._in_second = 0

    def __len__(self) -> int:
        return len(self._ranges)

    @property
    def missing(self) -> int:
        """Messages that are still wanted."""
        return sum(wanted.stop - wanted.first for wanted in self._ranges)

    def add(self, stream: int, session: int, first: int, count: int, now_ns: int) -> bool:
        """Want a range, but for what of it is wanted already; False (and counted) when there is no room."""
        while self._refused and now_ns - self._refused[0].heard_ns > self.limits.refused_ns:
            self._refused.popleft()
        pieces = [(first, first + count)]
        for known in self._refused:
            if known.overlaps(stream, session, first, first + count):
                pieces = [part for piece in pieces for part in _without(piece, known.first, known.stop)]
        for known in self._ranges:
            if known.overlaps(stream, session, first, first + count):
                known.heard_ns = now_ns
                pieces = [part for piece in pieces for part in _without(piece, known.first, known.stop)]
        for start, stop in pieces:
            if len(self._ranges) >= self.limits.ranges_max:
                self.overflow += stop - start
                return False
            self._ranges.append(Range(stream, session, start, stop, heard_ns=now_ns))
        return True

    def due(self, now_ns: int) -> Iterator[Range]:
        """Each range that is to be asked for now, from ``first`` to ``asked_stop``; it is then under way."""
        limits = self.limits
        self._ranges = [wanted for wanted in self._ranges if now_ns - wanted.heard_ns <= limits.forget_ns]
        under_way = sum(wanted.due_ns > now_ns for wanted in self._ranges)
        for wanted in [wanted for wanted in self._ranges if wanted.due_ns <= now_ns]:
            if wanted.tries >= limits.tries_max:
                self.abandon(wanted, now_ns)
            elif under_way >= limits.flight_max or not self._take(now_ns):
                return
            else:
                under_way += 1
                self.requests += 1
                self.repeats += wanted.tries > 0
                self.ask(wanted, now_ns)
                yield wanted

    def ask(self, wanted: Range, now_ns: int) -> None:
        """A range, as much of it as one request may have, is under way from now on."""
        limits = self.limits
        wanted.tries += 1
        wanted.asked_stop = min(wanted.stop, wanted.first + limits.count_max)
        wanted.due_ns = now_ns + min(limits.patience_ns << wanted.tries - 1, limits.patience_ns_max)

    def got(self, stream: int, session: int, first: int, count: int, now_ns: int) -> bool:
        """Some messages came; False when none of them was wanted. ``session`` may be ANY_SESSION."""
        stop, wanted_any = first + count, False
        for wanted in [w for w in self._ranges if w.stream == stream and session in (w.session, ANY_SESSION)]:
            start, end = max(wanted.first, first), min(wanted.stop, stop)
            if start >= end:
                continue
            wanted_any = True
            if start > wanted.first and end < wanted.stop:
                if len(self._ranges) >= self.limits.ranges_max:
                    continue  # no room for two ranges: it stays one, and these messages come a second time
                rest = Range(stream, wanted.session, end, wanted.stop, wanted.asked_stop, wanted.due_ns)
                rest.heard_ns = wanted.heard_ns
                self._ranges.append(rest)
                wanted.stop = start
            elif start > wanted.first:
                wanted.stop = start
            else:
                wanted.first = end
            self.recovered += end - start
            wanted.tries = 0
            if (
                self.limits.one_packet or wanted.first >= wanted.asked_stop
            ):  # all that was asked for is here: the next part at once
                wanted.due_ns = 0
            elif wanted.due_ns > now_ns:
                wanted.due_ns = now_ns + self.limits.patience_ns
            if wanted.first >= wanted.stop:
                self._ranges.remove(wanted)
        return wanted_any

    def unknown(self, sessions: Container[int]) -> bool:
        """Whether a session is wanted that is not among ``sessions``."""
        return any(wanted.session not in sessions for wanted in self._ranges)

    def next_from(self, session: int, number: int) -> Range | None:
        """The first range of a session that begins at ``number`` or above."""
        ahead = (wanted for wanted in self._ranges if wanted.session == session and wanted.first >= number)
        return min(ahead, key=lambda wanted: wanted.first, default=None)

    def find(self, unit: int, first: int) -> Range | None:
        """The range of a unit that is under way and holds number ``first``."""
        for wanted in self._ranges:
            if wanted.stream & UNIT_MASK == unit and wanted.first <= first < wanted.stop and wanted.tries:
                return wanted
        return None

    def postpone(self, wanted: Range, until_ns: int) -> None:
        """The server will not answer before ``until_ns``."""
        wanted.asked_stop, wanted.due_ns = 0, until_ns

    def hasten(self) -> None:
        """Ask again for all that is under way: its answers were lost with a connection."""
        for wanted in self._ranges:
            wanted.asked_stop = wanted.due_ns = 0

    def abandon(self, wanted: Range, now_ns: int, stop: int | None = None) -> None:
        """Give a range up, or what of it is below ``stop``: it cannot be had."""
        stop = wanted.stop if stop is None else min(stop, wanted.stop)
        if wanted in self._ranges and stop > wanted.first:
            self.abandoned += stop - wanted.first
            self._refused.append(Range(wanted.stream, wanted.session, wanted.first, stop, heard_ns=now_ns))
            wanted.first = stop
            if wanted.first >= wanted.stop:
                self._ranges.remove(wanted)

    def refuse(self, stream: int, first: int, stop: int, now_ns: int) -> None:
        """Give up what is wanted of numbers ``first`` to ``stop``: the server has said that it has them no more."""
        for wanted in list(self._ranges):
            if wanted.stream == stream and wanted.tries and wanted.first < stop and wanted.stop > first:
                if wanted.first < first:
                    wanted.asked_stop = 0  # what is before it may yet come
                else:
                    self.abandon(wanted, now_ns, stop)

    def holds(self, wanted: Range) -> bool:
        """Whether something of a range is still wanted."""
        return wanted in self._ranges

    def counters(self) -> dict[str, int]:
        """For a client's `counters`."""
        return {
            "recovery_requests": self.requests,
            "recovery_repeats": self.repeats,
            "recovery_messages": self.recovered,
            "recovery_abandoned": self.abandoned,
            "recovery_overflow": self.overflow,
            "recovery_missing": self.missing,
        }

    def _take(self, now_ns: int) -> bool:
        if now_ns - self._second_ns >= SECOND_NS:
            self._second_ns, self._in_second = now_ns, 0
        self._in_second += 1
        return self._in_second <= self.limits.per_second


def text_session(session: bytes) -> int:
    """The number that stands for a session of ten bytes (MoldUDP64, SoupBinTCP) in a BLOCK."""
    header = session.ljust(10) + bytes(10)
    return int(numbers(_array(header), 0, len(header), MOLDUDP64)[0])


def _array(payload: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(payload or b"\0", np.uint8)


def _without(piece: tuple[int, int], first: int, stop: int) -> list[tuple[int, int]]:
    """What is left of ``piece`` outside of ``first`` to ``stop``."""
    start, end = piece
    return [(a, b) for a, b in ((start, min(end, first)), (max(start, stop), end)) if a < b]


class Answers:
    """The packets that came back and were found good, until the feed takes them; and how many were not."""

    def __init__(self, transport: int, wanted: Wanted, line: int) -> None:
        """``transport`` is one of `recovery_kernel`; packets are told to have come on ``line``."""
        self.packets = self.malformed = self.unasked = 0
        """Answers taken; dropped because they do not hold what they state; dropped because nobody asked for them."""
        self._transport, self._wanted, self._line = transport, wanted, line
        self._payloads: list[bytes] = []

    def offer(self, payload: bytes, group: int, now_ns: int) -> bool:
        """Judge a packet as an answer about a stream of ``group``; False when it was dropped."""
        session, unit, first, count = map(int, numbers(_array(payload), 0, len(payload), self._transport))
        if count == MALFORMED:
            self.malformed += 1
        elif count < 0 or not self._wanted.got(group << 16 | unit, session, first, count, now_ns):
            self.unasked += 1
        else:
            self.packets += 1
            self._payloads.append(payload)
            return True
        return False

    def give(self, payload: bytes) -> None:
        """Pass on a packet that is not part of the numbering."""
        self.packets += 1
        self._payloads.append(payload)

    def take(self, now_ns: int) -> Packets:
        """All that is good since the last call."""
        if not self._payloads:
            return NOTHING
        packets = from_payloads(self._payloads, now_ns, self._line)
        self._payloads.clear()
        return packets

    def counters(self) -> dict[str, int]:
        """For a client's `counters`."""
        return {
            "recovery_packets": self.packets,
            "recovery_malformed": self.malformed,
            "recovery_unasked": self.unasked,
        }


class Datagrams:
    """A UDP socket of a client in its poll: sends requests, takes answers, and survives both failing."""

    def __init__(self, sock: socket.socket, epoll: select.epoll) -> None:
        """Take over a bound or connected socket."""
        self.errors = 0
        """Sends and receives that failed: no route, or nobody listens there."""
        self._socket = sock
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)  # as much as the kernel allows
        epoll.register(sock.fileno(), select.EPOLLIN)

    @classmethod
    def connected(cls, address: tuple[str, int], epoll: select.epoll) -> "Datagrams":
        """A socket that sends to ``address`` and hears only what comes from there; OSError if it has no route."""
        family, kind, _, _, target = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
        sock = socket.socket(family, kind)
        try:
            sock.connect(target)
        except OSError:
            sock.close()
            raise
        return cls(sock, epoll)

    @property
    def address(self) -> tuple[str, int]:
        """(host, port) as bound."""
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    def send(self, payload: bytes) -> None:
        """Send or count that it could not be: the repeat comes of itself."""
        try:
            self._socket.send(payload)
        except OSError:
            self.errors += 1

    def receive(self) -> Iterator[bytes]:
        """What has come, up to `PACKETS_PER_TURN`."""
        for _ in range(PACKETS_PER_TURN):
            try:
                yield self._socket.recv(DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error: it is cleared by having been read
                self.errors += 1

    def close(self) -> None:
        """Close the socket; may be called twice."""
        self._socket.close()


class Client:
    """What the clients have in common; see `Recovery` for what each method promises."""

    def __init__(self, group: int, line: int, transport: int, limits: Limits) -> None:
        """Recover streams of ``group`` (of lines); answers come as if on ``line``, an index of that group.

        ``transport`` is one of `recovery_kernel`.
        """
        self.wanted = Wanted(limits)
        self.answers = Answers(transport, self.wanted, line)
        self._group = group
        self._epoll = select.epoll()
        self._now_ns = 0

    def request(self, stream: int, session: int, first: int, count: int, monotonic_ns: int) -> bool:
        assert stream >> 16 == self._group
        return self.wanted.add(stream, session, first, count, monotonic_ns)

    def refresh(self, index: int) -> bool:
        """This protocol has no refreshes."""
        return False

    def observe(self, packets: Packets) -> None:
        """Nothing to learn from packets."""

    def fileno(self) -> int:
        return self._epoll.fileno()

    def counters(self) -> dict[str, int]:
        return {**self.wanted.counters(), **self.answers.counters()}

    def close(self) -> None:
        self._epoll.close()


CONNECT_TIMEOUT_NS: Final = 5 * SECOND_NS
RETRY_NS: Final = SECOND_NS
RETRY_NS_MAX: Final = 30 * SECOND_NS
OUTPUT_BYTES_MAX: Final = 1 << 16
INPUT_BYTES_MAX: Final = 1 << 20
"""A message that is longer than this is no message of these protocols."""
READ_BYTES: Final = 1 << 16


class Link:
    """A TCP connection of a client in its poll, without blocking: connects, and again with back-off when it is lost."""

    def __init__(self, addresses: Sequence[tuple[str, int]], epoll: select.epoll) -> None:
        """Connect to the first address that takes it; they are tried in turn. Nothing happens before `tick`."""
        self.input = bytearray()
        """Bytes that have come and that the protocol has not taken yet."""
        self.connects = self.failures = 0
        """Connections that stood, and those that failed, were lost or were dropped for what they brought."""
        self.heard_ns = self.spoke_ns = self.connected_ns = 0
        """When bytes last came and went, and when the connection stood (monotonic)."""
        self._addresses, self._epoll = addresses, epoll
        self._output = bytearray()
        self._socket: socket.socket | None = None
        self._connecting = False
        self._retry_ns = RETRY_NS
        self._due_ns = self._attempt = 0

    @property
    def up(self) -> bool:
        """Whether the connection stands."""
        return self._socket is not None and not self._connecting

    def tick(self, now_ns: int) -> bool:
        """Connect when it is time; True in the turn in which the connection has come to stand."""
        if self._socket is None:
            if now_ns >= self._due_ns:
                self._connect(now_ns)
            return False
        if not self._connecting:
            self._flush()
            return False
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.drop(now_ns)
        elif _established(self._socket):
            self._connecting = False
            self.connects += 1
            self.connected_ns = self.heard_ns = self.spoke_ns = now_ns
            self._epoll.modify(self._socket.fileno(), select.EPOLLIN)
            return True
        elif now_ns - self.connected_ns > CONNECT_TIMEOUT_NS:
            self.drop(now_ns)
        return False

    def receive(self, now_ns: int) -> bool:
        """Take what has come into `input`, up to `READ_BYTES`; False when nothing came. A lost one is dropped."""
        if not self.up or self._socket is None:
            return False
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data or len(self.input) + len(data) > INPUT_BYTES_MAX:
            self.drop(now_ns)
            return False
        self.input += data
        self.heard_ns = now_ns
        return True

    def send(self, data: bytes, now_ns: int) -> None:
        """Send now or with the next ticks; a peer that does not read is dropped."""
        if not self.up:
            return
        if len(self._output) + len(data) > OUTPUT_BYTES_MAX:
            self.drop(now_ns)
            return
        self._output += data
        self.spoke_ns = now_ns
        self._flush()

    def settled(self) -> None:
        """The other side has accepted us: after the next loss the first attempt comes soon."""
        self._retry_ns = RETRY_NS

    def drop(self, now_ns: int) -> None:
        """Close the connection and try anew after the back-off."""
        self.close()
        self.failures += 1
        self._due_ns = now_ns + self._retry_ns
        self._retry_ns = min(2 * self._retry_ns, RETRY_NS_MAX)

    def again(self, now_ns: int) -> None:
        """Close the connection on purpose and open another at the next tick."""
        self.close()
        self._due_ns = now_ns

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self.input.clear()
        self._output.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, now_ns: int) -> None:
        host, port = self._addresses[self._attempt % len(self._addresses)]
        self._attempt += 1
        self.connected_ns = now_ns
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self._socket = socket.socket(family, kind)
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connecting = True
            self._epoll.register(self._socket.fileno(), select.EPOLLOUT)
            self._socket.connect(address)
        except BlockingIOError:
            pass
        except OSError:
            self.drop(now_ns)

    def _flush(self) -> None:
        if not self._output or self._socket is None:
            return
        try:
            sent = self._socket.send(self._output)
        except BlockingIOError:
            return
        except OSError:
            return  # the next receive finds the connection lost
        del self._output[:sent]


def _established(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
