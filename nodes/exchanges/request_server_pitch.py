"""Cboe's gap request proxy and spin servers: gaps are told again on the gap lines, books on the connection.

Limits are those of the specification: 100 messages a request, 320 requests a second, 1,500 a minute, 100,000 a day.
A spin server tells once a second up to where it can give an image; it keeps that one until the next, so the image that
is asked for is the one that was offered, and sends it some messages at a time.

Source: Cboe US Equities/Options Multicast PITCH 2.41, "Gap Request Proxy", "Spin Servers"; messages in
`nodes.feeds.pitch_requests`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from fabric.clock import SECOND_NS
from nodes.exchanges.request_sockets import Address, Datagrams, Peer, Quota, TcpServer
from nodes.exchanges.store import Store
from nodes.feeds import pitch_requests
from nodes.feeds.pitch_requests import (
    ACCEPTED,
    COUNT,
    GAP_COUNT_MAX,
    HEARTBEAT,
    INVALID,
    LOGGED_IN,
    NOT_AUTHORIZED,
    OUT_OF_RANGE,
    SESSION_IN_USE,
    SPIN_ACCEPTED,
    SPIN_IN_PROGRESS,
    SPIN_OUT_OF_RANGE,
    UNAVAILABLE,
    GapRequest,
    GapResponse,
    Login,
    LoginResponse,
    Message,
    Other,
    SpinAvailable,
    SpinFinished,
    SpinRequest,
    SpinResponse,
)

PER_SECOND: Final = 320
PER_MINUTE: Final = 1_500
PER_DAY: Final = 100_000
HEARTBEAT_NS: Final = pitch_requests.HEARTBEAT_S * SECOND_NS
SILENCE_NS_MAX: Final = pitch_requests.SILENCE_S * SECOND_NS
OFFER_NS: Final = SECOND_NS
MESSAGES_A_PACKET: Final = 30
BACKLOG_BYTES: Final = 1 << 16
"""A peer that has so much unsent is given nothing more until it reads."""

OpenOrders = Callable[[], tuple[int, Sequence[bytes]]]
"""Number of the unit's last message, and messages that say all of it: Time, statuses, orders, each with its length."""


class _LoggedIn(TcpServer):
    """What both have in common: log-in and heartbeats."""

    def __init__(self, address: Address, users: Mapping[str, str]) -> None:
        """``users`` are names with their passwords, each good for one connection. Raises UnavailableError."""
        super().__init__(address)
        self._users = users

    def take(self, peer: Peer, now_ns: int) -> bool:
        while True:
            try:
                packet = pitch_requests.decode(peer.input)
            except ValueError:
                return False
            if packet is None:
                return True
            del peer.input[: packet.size]
            for message in packet.messages:
                if peer.name:
                    self.asked(peer, message, now_ns)
                elif isinstance(message, Login) and not peer.leaving:
                    self._log_in(peer, message, now_ns)
                else:
                    return False

    def asked(self, peer: Peer, message: Message, now_ns: int) -> None:
        """A message of a peer that has logged in."""

    def idle(self, peer: Peer, now_ns: int) -> None:
        if now_ns - peer.heard_ns > SILENCE_NS_MAX:
            self.counts["silent"] += 1
            peer.output.clear()
            peer.leaving = True
        elif now_ns - peer.spoke_ns >= HEARTBEAT_NS:
            peer.say(HEARTBEAT, now_ns)

    def counters(self) -> dict[str, int]:
        """Requests, answers and refusals so far."""
        return dict(self.counts)

    def _log_in(self, peer: Peer, login: Login, now_ns: int) -> None:
        status = LOGGED_IN
        if not login.user or self._users.get(login.user) != login.password:
            status = NOT_AUTHORIZED
        elif any(other.name == login.user for other in self.peers):
            status = SESSION_IN_USE
        self.counts["logins" if status == LOGGED_IN else "rejected"] += 1
        peer.say(pitch_requests.encode(LoginResponse(status)), now_ns)
        if status == LOGGED_IN:
            peer.name = login.user
        else:
            peer.leaving = True


class GrpServer(_LoggedIn):
    """The gap request proxy of one market."""

    def __init__(
        self,
        address: Address,
        store: Store,
        users: Mapping[str, str],
        units: Sequence[int],
        gap_lines: Sequence[Address],
    ) -> None:
        """Answers go to each of ``gap_lines``. Raises UnavailableError."""
        super().__init__(address, users)
        self._store, self._units, self._gap_lines = store, frozenset(units), gap_lines
        try:
            self._socket = Datagrams((address[0], 0))
        except BaseException:
            super().close()
            raise

    def joined(self, peer: Peer, now_ns: int) -> None:
        peer.quota = Quota(PER_SECOND, PER_MINUTE, PER_DAY)

    def asked(self, peer: Peer, message: Message, now_ns: int) -> None:
        if not isinstance(message, GapRequest):
            self.counts["unknown"] += 1
            return
        status = self._status(peer, message, now_ns)
        self.counts["requests"] += 1
        self.counts["refused"] += status != ACCEPTED
        peer.say(pitch_requests.encode(GapResponse(*message, status)), now_ns)
        first, stop = message.sequence, message.sequence + message.number
        while status == ACCEPTED and first < stop:
            taken, packet = self._store.cut(message.unit, first, stop - first)
            if not taken:
                break
            for line in self._gap_lines:
                self._socket.send(packet, line)
            self.counts["messages"] += taken
            first += taken

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _status(self, peer: Peer, message: GapRequest, now_ns: int) -> str:
        assert peer.quota is not None
        if message.unit not in self._units or message.sequence < 1 or message.number < 1:
            return INVALID
        if message.number > GAP_COUNT_MAX:
            return COUNT
        oldest, following = self._store.bounds(message.unit)
        if not following:
            return UNAVAILABLE
        if message.sequence < oldest or message.sequence + message.number > following:
            return OUT_OF_RANGE
        return peer.quota.take(now_ns) or ACCEPTED


class SpinServer(_LoggedIn):
    """The spin server of one unit."""

    def __init__(self, address: Address, orders: OpenOrders, users: Mapping[str, str]) -> None:
        """``orders`` gives the unit's book as it is. Raises UnavailableError."""
        super().__init__(address, users)
        self._orders = orders
        self._offered: tuple[int, Sequence[bytes]] = (0, ())
        self._offered_ns: int | None = None
        self._telling: dict[Peer, tuple[int, Sequence[bytes], int]] = {}  # number, messages, how many are told

    def serve(self, now_ns: int) -> None:
        """Offer the book once a second to those who listen, and go on telling it to those who have asked."""
        if self.peers and (self._offered_ns is None or now_ns - self._offered_ns >= OFFER_NS):
            number, messages = self._orders()
            self._offered, self._offered_ns = (number, tuple(messages)), now_ns
            for peer in self.peers:
                if peer.name and peer not in self._telling:
                    self._offer(peer, now_ns)
        super().serve(now_ns)

    def asked(self, peer: Peer, message: Message, now_ns: int) -> None:
        if not isinstance(message, SpinRequest):
            self.counts["unknown"] += 1
            return
        number, messages = self._offered
        status = SPIN_ACCEPTED
        if peer in self._telling:
            status = SPIN_IN_PROGRESS
        elif message.sequence != number:
            status = SPIN_OUT_OF_RANGE
        self.counts["requests"] += 1
        self.counts["refused"] += status != SPIN_ACCEPTED
        orders = len(messages) if status == SPIN_ACCEPTED else 0
        peer.say(pitch_requests.encode(SpinResponse(message.sequence, orders, status)), now_ns)
        if status == SPIN_ACCEPTED:
            self._telling[peer] = (number, messages, 0)

    def idle(self, peer: Peer, now_ns: int) -> None:
        super().idle(peer, now_ns)
        while peer in self._telling and len(peer.output) < BACKLOG_BYTES:
            number, messages, told = self._telling[peer]
            part = messages[told : told + MESSAGES_A_PACKET]
            if part:
                self._telling[peer] = (number, messages, told + len(part))
                peer.say(pitch_requests.encode(*map(Other, part)), now_ns)
            else:
                del self._telling[peer]
                self.counts["images"] += 1
                peer.say(pitch_requests.encode(SpinFinished(number)), now_ns)

    def drop(self, peer: Peer) -> None:
        self._telling.pop(peer, None)
        super().drop(peer)

    def _log_in(self, peer: Peer, login: Login, now_ns: int) -> None:
        super()._log_in(peer, login, now_ns)
        if peer.name and self._offered_ns is not None:
            self._offer(peer, now_ns)

    def _offer(self, peer: Peer, now_ns: int) -> None:
        peer.say(pitch_requests.encode(SpinAvailable(self._offered[0])), now_ns)
