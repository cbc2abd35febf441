"""SoupBinTCP: the transport of a feed over TCP, and a way to have lost messages of a MoldUDP64 feed told again.

Both log in asking for a session and a number. What comes is wrapped into MoldUDP64 packets (the same session, numbers
and message bytes), so one framing and one sequencer serve all NASDAQ transports. After a lost connection the next
log-in asks for the next number, so nothing is missing and nothing comes twice.

Source: SoupBinTCP 3.00; protocols of the packets as in its tables, lengths without the length field itself.
"""

import select
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from fabric.clock import SECOND_NS
from nodes.feeds.recovery import Client, Limits, Link, Range, text_session
from nodes.feeds.recovery_kernel import MOLDUDP64
from nodes.feeds.wire import Packets, from_payloads

HEARTBEAT_NS: Final = SECOND_NS
"""After so much silence of ours the server is told that we live."""
SILENCE_NS_MAX: Final = 15 * SECOND_NS
"""After so much silence of the server the link is dropped."""
LOGIN_NS_MAX: Final = 5 * SECOND_NS
CURRENT_SESSION: Final = b" " * 10
PACKET_BYTES_MAX: Final = 1_400
"""Of messages wrapped into one packet; a longer message has one of its own."""
LIMITS: Final = Limits(
    count_max=1 << 20,
    per_second=10,
    flight_max=1,
    tries_max=3,
    patience_ns=5 * SECOND_NS,
    patience_ns_max=20 * SECOND_NS,
)
READS_PER_TURN: Final = 8
AHEAD_MAX: Final = 16_384
"""Messages that are read and dropped rather than logging in once more for what comes behind them."""

_LENGTH: Final = struct.Struct(">H")
_LOGIN: Final = struct.Struct(">Hc6s10s10s20s")
_ACCEPTED: Final = struct.Struct(">10s20s")
_PACKET: Final = struct.Struct(">10sQH")


def login_request(user: str, password: str, session: bytes, sequence: int) -> bytes:
    """A log-in request packet; text is padded right with blanks, numbers left, sessions left (3.00, 2.2.2)."""
    text = (user.encode().ljust(6)[:6], password.encode().ljust(10)[:10])
    return _LOGIN.pack(_LOGIN.size - 2, b"L", *text, session.strip().rjust(10), b"%20d" % sequence)


def packed(kind: bytes, payload: bytes = b"") -> bytes:
    """A packet of any type."""
    return _LENGTH.pack(1 + len(payload)) + kind + payload


class Session:
    """A connection with its log-in and heartbeats; it counts the messages. No range is known here."""

    def __init__(self, addresses: Sequence[tuple[str, int]], user: str, password: str, epoll: select.epoll) -> None:
        """Nothing happens before `log_in` and `tick`."""
        self.link = Link(addresses, epoll)
        self.accepted = False
        self.ended = False
        """The server has said that the session is over."""
        self.session = CURRENT_SESSION
        """Its ten bytes as the server gave them; before that, as they are asked for."""
        self.sequence = 1
        """Number of the next message."""
        self.started = 0
        """Number that the server began with."""
        self.logins = self.rejected = self.malformed = self.silences = 0
        """Log-ins accepted and rejected, connections dropped for what they brought, and for bringing nothing."""
        self._user, self._password = user, password
        self._wanted = False

    def log_in(self, session: bytes, sequence: int, now_ns: int) -> None:
        """Have the messages from ``sequence`` (0: only new ones) of ``session`` (blank: the current one)."""
        self.session, self.sequence, self._wanted, self.ended = session, sequence, True, False
        if self.link.up:
            self.accepted = False
            self.link.again(now_ns)

    def log_out(self, now_ns: int) -> None:
        """End the connection on purpose."""
        self._wanted = self.accepted = False
        if self.link.up:
            self.link.send(packed(b"O"), now_ns)
            self.link.again(now_ns)

    def tick(self, now_ns: int) -> None:
        """Connect, log in, send heartbeats, notice silence."""
        if not self._wanted:
            return
        if self.link.tick(now_ns):
            self.accepted = False
            self.link.send(login_request(self._user, self._password, self.session, self.sequence), now_ns)
        if not self.link.up:
            self.accepted = False
        elif now_ns - self.link.heard_ns > SILENCE_NS_MAX or (
            not self.accepted and now_ns - self.link.connected_ns > LOGIN_NS_MAX
        ):
            self.silences += 1
            self._drop(now_ns)
        elif now_ns - self.link.spoke_ns >= HEARTBEAT_NS:
            self.link.send(packed(b"R"), now_ns)

    def receive(self, now_ns: int) -> Iterator[tuple[int, bytes]]:
        """Each message that has come, with its number."""
        for _ in range(READS_PER_TURN):
            if not self.link.receive(now_ns):
                break
            data, at = self.link.input, 0
            while len(data) - at >= 2:
                (size,) = _LENGTH.unpack_from(data, at)
                if len(data) - at < 2 + size:
                    break
                kind, payload = bytes(data[at + 2 : at + 3]), bytes(data[at + 3 : at + 2 + size])
                at += 2 + size
                if kind == b"S" and self.accepted:
                    self.sequence += 1
                    yield self.sequence - 1, payload
                elif not self._control(kind, payload, now_ns):
                    return
            if self.link.input is data and data:
                del data[:at]
        if not self.link.up:
            self.accepted = False

    def counters(self) -> dict[str, int]:
        """Names as a feed counts them."""
        return {
            "soup_logins": self.logins,
            "soup_rejected": self.rejected,
            "soup_malformed": self.malformed,
            "soup_silences": self.silences,
            "soup_connects": self.link.connects,
            "soup_failures": self.link.failures,
        }

    def _control(self, kind: bytes, payload: bytes, now_ns: int) -> bool:
        """Take anything but a message; False when the connection is gone by it."""
        if kind in (b"H", b"+", b"U"):
            return True
        if kind == b"A" and not self.accepted and len(payload) == _ACCEPTED.size:
            session, digits = _ACCEPTED.unpack(payload)
            if digits.strip().isdigit():
                self.session, self.sequence, self.accepted = session, int(digits), True
                self.started = self.sequence
                self.logins += 1
                self.link.settled()
                return True
        if kind == b"J":
            self.rejected += 1
        elif kind == b"Z":
            self.ended, self._wanted = True, False
        else:
            self.malformed += 1
        self._drop(now_ns)
        return False

    def _drop(self, now_ns: int) -> None:
        self.accepted = False
        self.link.drop(now_ns)


class Wrapper:
    """Messages with their numbers -> MoldUDP64 packets."""

    def __init__(self) -> None:
        self._payloads: list[bytes] = []
        self._blocks: list[bytes] = []
        self._first = self._bytes = 0
        self._session = CURRENT_SESSION

    def add(self, session: bytes, sequence: int, message: bytes) -> None:
        """Append a message; a jump in the numbers, another session and a full packet begin a new one."""
        if self._blocks and (
            session != self._session
            or sequence != self._first + len(self._blocks)
            or self._bytes + len(message) > PACKET_BYTES_MAX
        ):
            self._close()
        if not self._blocks:
            self._session, self._first = session, sequence
        self._blocks.append(_LENGTH.pack(len(message)) + message)
        self._bytes += len(message) + 2

    def heartbeat(self, session: bytes, sequence: int) -> None:
        """Append a packet without messages."""
        self._close()
        self._payloads.append(_PACKET.pack(session, sequence, 0))

    def end(self, session: bytes, sequence: int) -> None:
        """Append the end of the session."""
        self._close()
        self._payloads.append(_PACKET.pack(session, sequence, 0xFFFF))

    def take(self) -> list[bytes]:
        """All packets since the last call."""
        self._close()
        payloads, self._payloads = self._payloads, []
        return payloads

    def _close(self) -> None:
        if self._blocks:
            header = _PACKET.pack(self._session, self._first, len(self._blocks))
            self._payloads.append(header + b"".join(self._blocks))
            self._blocks, self._bytes = [], 0


class SoupLine:
    """A feed's line over TCP: all messages of the current session from a number on, as MoldUDP64 packets."""

    def __init__(
        self, line: int, addresses: Sequence[tuple[str, int]], user: str, password: str, sequence: int = 1
    ) -> None:
        """``addresses`` are numeric and tried in turn; ``sequence`` 0 takes only what is new."""
        self._epoll = select.epoll()
        self._session = Session(addresses, user, password, self._epoll)
        self._session.log_in(CURRENT_SESSION, sequence, 0)
        self._wrapper = Wrapper()
        self._line = line
        self._now_ns = self._told_ns = 0
        self._ended = False

    def fileno(self) -> int:
        """One descriptor that becomes readable when there is something for `tick` or `packets`."""
        return self._epoll.fileno()

    def tick(self, monotonic_ns: int) -> None:
        """Connect, log in, send heartbeats, notice silence."""
        self._now_ns = monotonic_ns
        if self._ended:  # whoever runs on past the end waits for the next session to begin
            self._ended = False
            self._session.log_in(CURRENT_SESSION, 1, monotonic_ns)
        self._session.tick(monotonic_ns)

    def packets(self, now_ns: int) -> Packets:
        """What has come; with a heartbeat packet a second while the server lives and has nothing to say."""
        session = self._session
        heard_ns = session.link.heard_ns
        for sequence, message in session.receive(self._now_ns):
            self._wrapper.add(session.session, sequence, message)
            self._told_ns = self._now_ns
        if session.ended and not self._ended:
            self._ended = True
            self._wrapper.end(session.session, session.sequence)
        elif session.accepted and session.link.heard_ns > heard_ns and self._now_ns - self._told_ns >= HEARTBEAT_NS:
            self._told_ns = self._now_ns
            self._wrapper.heartbeat(session.session, session.sequence)
        return from_payloads(self._wrapper.take(), now_ns, self._line)

    def counters(self) -> dict[str, int]:
        """What the connection has seen."""
        return self._session.counters()

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._session.link.close()
        self._epoll.close()


class SoupRecovery(Client):
    """Has lost ranges told again: logs in at the first number that is missing, and out after the last."""

    def __init__(
        self,
        group: int,
        line: int,
        addresses: Sequence[tuple[str, int]],
        user: str,
        password: str,
        limits: Limits = LIMITS,
    ) -> None:
        """``addresses`` are numeric and tried in turn. Only the server's current session can be had."""
        super().__init__(group, line, MOLDUDP64, limits)
        self._session = Session(addresses, user, password, self._epoll)
        self._wrapper = Wrapper()
        self._range: Range | None = None
        self._checked = 0  # log-ins that were looked at

    def tick(self, monotonic_ns: int) -> None:
        self._now_ns = monotonic_ns
        for wanted in self.wanted.due(monotonic_ns):
            self._range = wanted
            self._session.log_in(CURRENT_SESSION, wanted.first, monotonic_ns)
        self._session.tick(monotonic_ns)

    def packets(self, now_ns: int) -> Packets:
        session = self._session
        for sequence, message in session.receive(self._now_ns):
            self._check()
            wanted = self._range
            if wanted is not None and wanted.first <= sequence < wanted.asked_stop:
                self._wrapper.add(session.session, sequence, message)
            elif wanted is not None and sequence >= wanted.asked_stop:
                self._range = wanted = self._following(sequence)
                if wanted is not None and sequence == wanted.first:
                    self._wrapper.add(session.session, sequence, message)
        for payload in self._wrapper.take():
            self.answers.offer(payload, self._group, self._now_ns)
        self._check()
        wanted = self._range
        if wanted is None or session.sequence >= wanted.asked_stop or not self.wanted.holds(wanted):
            self._range = self._following(session.sequence) if session.accepted else None
            if self._range is None:
                session.log_out(self._now_ns)
        return self.answers.take(now_ns)

    def _check(self) -> None:
        """Once after a log-in: give up what this server cannot have."""
        session, wanted = self._session, self._range
        if session.accepted and wanted is not None and self._checked != session.logins:
            self._checked = session.logins
            if text_session(session.session) != wanted.session:
                self.wanted.abandon(wanted, self._now_ns)  # only the server's current session can be had
            elif session.started > wanted.first:
                self.wanted.abandon(wanted, self._now_ns, session.started)  # it keeps nothing older

    def _following(self, sequence: int) -> Range | None:
        """The next range that is worth staying logged in for."""
        session = text_session(self._session.session)
        following = self.wanted.next_from(session, sequence)
        if following is None or following.first - sequence > AHEAD_MAX:
            return None
        self.wanted.ask(following, self._now_ns)
        return following

    def counters(self) -> dict[str, int]:
        return {**super().counters(), **self._session.counters()}

    def close(self) -> None:
        self._session.link.close()
        super().close()
