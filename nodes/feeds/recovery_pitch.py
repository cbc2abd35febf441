"""Recovery from Cboe: the gap request proxy (GRP), whose answers come on the gap groups, and spins of the order book.

A gap request is of at most 100 messages, so a long gap is asked for in parts. Spins are for gaps that could not be
filled and for who comes late (`images`): each unit has a server, which tells once a second up to where it has an image.

Source: Cboe US Equities/Options Multicast PITCH 2.41, "Gap Request Proxy", "Spin Servers"; messages in
`pitch_requests`.
"""

import select
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from fabric.clock import SECOND_NS
from nodes.feeds import pitch_requests
from nodes.feeds.images import Image, ahead
from nodes.feeds.lines import open_line
from nodes.feeds.pitch_requests import (
    ACCEPTED,
    DAILY,
    GAP_COUNT_MAX,
    HEARTBEAT,
    LOGGED_IN,
    MINUTE,
    SECOND,
    SPIN_ACCEPTED,
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
from nodes.feeds.recovery import UNIT_MASK, Client, Datagrams, Limits, Link
from nodes.feeds.recovery_kernel import SEQUENCED_UNIT
from nodes.feeds.wire import Packets

LIMITS: Final = Limits(count_max=GAP_COUNT_MAX, per_second=300)
"""Cboe answers 320 requests a second, 1,500 a minute and 100,000 a day."""
HEARTBEAT_NS: Final = pitch_requests.HEARTBEAT_S * SECOND_NS
SILENCE_NS_MAX: Final = pitch_requests.SILENCE_S * SECOND_NS
MINUTE_NS: Final = 10 * SECOND_NS
"""A request that is over the minute's quota is put off for so long."""
READS_PER_TURN: Final = 8
SPIN_READS_PER_TURN: Final = 32
IMAGE_MESSAGES_MAX: Final = 1 << 20
IMAGE_NS_MAX: Final = 10 * SECOND_NS
"""From a spin request to its end."""


class Session:
    """A connection with its log-in and heartbeats, to a GRP or a spin server."""

    def __init__(self, servers: Sequence[tuple[str, int]], login: Login, epoll: select.epoll) -> None:
        """Nothing happens before `tick`."""
        self.link = Link(servers, epoll)
        self.accepted = False
        self.rejected = self.broken = 0
        """Log-ins that were refused, connections that brought what cannot be read."""
        self._login = login

    def tick(self, now_ns: int) -> bool:
        """Connect, log in, send heartbeats, notice silence; True in the turn in which the connection was made anew."""
        begun = self.link.tick(now_ns)
        if begun:
            self.accepted = False
            self.link.send(pitch_requests.encode(self._login), now_ns)
        if not self.link.up:
            self.accepted = False
        elif now_ns - self.link.heard_ns > SILENCE_NS_MAX:
            self.drop(now_ns)
        elif now_ns - self.link.spoke_ns >= HEARTBEAT_NS:
            self.link.send(HEARTBEAT, now_ns)
        return begun

    def say(self, message: Message, now_ns: int) -> None:
        """Send a message."""
        self.link.send(pitch_requests.encode(message), now_ns)

    def receive(self, now_ns: int, reads: int) -> Iterator[Message]:
        """Each message that has come, but for those of the log-in."""
        for _ in range(reads):
            if not self.link.receive(now_ns):
                break
            data = self.link.input
            while data:
                try:
                    packet = pitch_requests.decode(data)
                except ValueError:
                    self.broken += 1
                    self.drop(now_ns)
                    return
                if packet is None:
                    break
                del data[: packet.size]
                for message in packet.messages:
                    if not isinstance(message, LoginResponse):
                        yield message
                    elif message.status == LOGGED_IN:
                        self.accepted = True
                        self.link.settled()
                    else:
                        self.rejected += 1
                        self.drop(now_ns)
                        return
        if not self.link.up:
            self.accepted = False

    def drop(self, now_ns: int) -> None:
        """Close the connection; another is made after the back-off."""
        self.accepted = False
        self.link.drop(now_ns)


class GrpRecovery(Client):
    """Gap requests for the units of one market."""

    def __init__(
        self,
        group: int,
        line: int,
        servers: Sequence[tuple[str, int]],
        login: Login,
        gap_lines: Sequence[tuple[str, int]],
        interface: str = "",
        limits: Limits = LIMITS,
    ) -> None:
        """``servers`` are numeric and tried in turn; ``gap_lines`` are the UDP groups on which answers come.

        Multicast groups are joined on ``interface``. Raises UnavailableError when one cannot be bound.
        """
        super().__init__(group, line, SEQUENCED_UNIT, limits)
        self._session = Session(servers, login, self._epoll)
        self._lines: list[Datagrams] = []
        self._refused = self._limited = 0
        try:
            for address in gap_lines:
                self._lines.append(Datagrams(open_line(*address, interface), self._epoll))
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each gap line, as bound."""
        return [line.address for line in self._lines]

    def tick(self, monotonic_ns: int) -> None:
        self._now_ns = monotonic_ns
        if self._session.tick(monotonic_ns):
            self.wanted.hasten()
        if not self._session.accepted:
            return
        for wanted in self.wanted.due(monotonic_ns):
            unit, count = wanted.stream & UNIT_MASK, wanted.asked_stop - wanted.first
            self._session.say(GapRequest(unit, wanted.first, count), monotonic_ns)

    def packets(self, now_ns: int) -> Packets:
        for message in self._session.receive(self._now_ns, READS_PER_TURN):
            if isinstance(message, GapResponse) and message.status != ACCEPTED:
                self._refusal(message)
        for line in self._lines:
            for payload in line.receive():
                self.answers.offer(payload, self._group, self._now_ns)
        return self.answers.take(now_ns)

    def counters(self) -> dict[str, int]:
        return {
            **super().counters(),
            "recovery_refused": self._refused,
            "recovery_limited": self._limited,
            "recovery_rejected": self._session.rejected,
            "recovery_broken": self._session.broken,
            "recovery_connects": self._session.link.connects,
            "recovery_failures": self._session.link.failures,
            "recovery_errors": sum(line.errors for line in self._lines),
        }

    def close(self) -> None:
        for line in self._lines:
            line.close()
        self._session.link.close()
        super().close()

    def _refusal(self, message: GapResponse) -> None:
        wanted = self.wanted.find(message.unit, message.sequence)
        if message.status in (SECOND, MINUTE):
            self._limited += 1
            if wanted is not None:
                wait_ns = SECOND_NS if message.status == SECOND else MINUTE_NS
                self.wanted.postpone(wanted, self._now_ns + wait_ns)
            return
        self._refused += 1
        if wanted is not None:
            # The day's quota is gone for all that is asked, the other reasons are of this part.
            self.wanted.abandon(wanted, self._now_ns, None if message.status == DAILY else wanted.asked_stop)


class _Unit:
    """The spin of one unit: what is wanted, and what of it has come."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.least: int | None = None  # None: nothing is wanted
        self.asked: int | None = None  # number of the image that has been asked for
        self.begun_ns = 0
        self.messages: list[bytes] = []

    def begin_anew(self) -> None:
        """Wait for the next image that is available."""
        self.asked = None
        self.messages = []


class SpinRecovery:
    """Images of the order book of a market's units (an `ImageSource`)."""

    def __init__(self, group: int, servers: Mapping[int, Sequence[tuple[str, int]]], login: Login) -> None:
        """``servers`` by unit: numeric addresses that are tried in turn. They are connected to when one is wanted."""
        self._group = group
        self._epoll = select.epoll()
        self._units = {unit: _Unit(Session(addresses, login, self._epoll)) for unit, addresses in servers.items()}
        self._now_ns = 0
        self._ready: list[Image] = []
        self._counts = dict.fromkeys(("spins", "spins_refused", "spins_broken", "spins_unserved"), 0)

    def want(self, stream: int, least: int, monotonic_ns: int) -> None:
        """As `ImageSource`; a unit without a server is counted and never has an image."""
        unit = self._units.get(stream & UNIT_MASK)
        if unit is None or stream >> 16 != self._group:
            self._counts["spins_unserved"] += 1
            return
        unit.least = least
        unit.begin_anew()

    def forget(self, stream: int) -> None:
        """As `ImageSource`."""
        unit = self._units.get(stream & UNIT_MASK)
        if unit is not None and stream >> 16 == self._group:
            unit.least = None
            unit.begin_anew()
            unit.session.link.again(self._now_ns)
            unit.session.accepted = False

    def images(self) -> list[Image]:
        """As `ImageSource`."""
        ready, self._ready = self._ready, []
        return ready

    def tick(self, monotonic_ns: int) -> None:
        """Connect where an image is wanted, read what has come, send what is due."""
        self._now_ns = monotonic_ns
        for number, unit in self._units.items():
            if unit.least is None:
                continue
            if unit.session.tick(monotonic_ns):
                unit.begin_anew()
            for message in unit.session.receive(monotonic_ns, SPIN_READS_PER_TURN):
                self._take(number, unit, message)
            if unit.asked is not None and (
                not unit.session.link.up
                or len(unit.messages) > IMAGE_MESSAGES_MAX
                or monotonic_ns - unit.begun_ns > IMAGE_NS_MAX
            ):
                self._counts["spins_broken"] += 1
                unit.begin_anew()
                unit.session.drop(monotonic_ns)

    def fileno(self) -> int:
        """One descriptor that becomes readable when there is something for `tick`."""
        return self._epoll.fileno()

    def counters(self) -> dict[str, int]:
        """Images taken, refused and broken off; wanted of units that have no server."""
        return dict(self._counts)

    def close(self) -> None:
        """Close every connection; may be called twice."""
        for unit in self._units.values():
            unit.session.link.close()
        self._epoll.close()

    def _take(self, number: int, unit: _Unit, message: Message) -> None:
        match message:
            case SpinAvailable(sequence):
                least = unit.least if unit.session.accepted and unit.asked is None else None
                if least is not None and ahead(sequence, least) >= 0:
                    unit.asked, unit.begun_ns = sequence, self._now_ns
                    unit.session.say(SpinRequest(sequence), self._now_ns)
            case SpinResponse(sequence, _, status):
                if sequence == unit.asked and status != SPIN_ACCEPTED:
                    self._counts["spins_refused"] += 1
                    unit.begin_anew()
            case SpinFinished(sequence):
                if sequence == unit.asked:
                    self._counts["spins"] += 1
                    self._ready.append(Image(self._group << 16 | number, sequence, unit.messages))
                    self.forget(self._group << 16 | number)
            case Other(data):
                if unit.asked is not None:
                    unit.messages.append(data)
            case _:
                pass
