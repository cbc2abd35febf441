"""Recovery over NYSE's request server: retransmissions, refreshes and symbol mappings, asked for over TCP.

What was asked for comes on the channel's retransmission and refresh groups, which all clients share, or among the
responses on the connection. The client answers the server's heartbeats, which the server demands within 5 s. Packets
of a refresh have numbers of their own and are passed on as they are: the decoder sees by their headers what is whole.

Source: NYSE XDP Common Client Specification, "Request Server"; messages in `xdp_requests`.
"""

from collections.abc import Sequence
from typing import Final

from fabric.clock import SECOND_NS
from nodes.feeds import xdp_requests
from nodes.feeds.lines import open_line
from nodes.feeds.pillar_kernel import (
    FLAG_REFRESH_ALONE,
    FLAG_REFRESH_END,
    FLAG_RETRANSMITTED,
    FLAG_RETRANSMITTED_ALONE,
    FLAG_UNAVAILABLE,
    HEADER_BYTES,
)
from nodes.feeds.recovery import Client, Datagrams, Limits, Link, Range
from nodes.feeds.recovery_kernel import PILLAR
from nodes.feeds.wire import Packets
from nodes.feeds.xdp_requests import (
    ACCEPTED,
    HeartbeatResponse,
    Mapping,
    Packet,
    Refresh,
    Response,
    Retransmission,
    Unavailable,
)

LIMITS: Final = Limits(count_max=xdp_requests.RETRANSMISSION_MAX, per_second=50, patience_ns=250_000_000)
SILENCE_NS_MAX: Final = 150 * SECOND_NS
"""A server's heartbeat comes each minute."""
REFRESH_NS: Final = 5 * SECOND_NS
"""For so long a second refresh of the same symbol is not asked for."""
REFRESHES_MAX: Final = 256
"""Refreshes and mappings that are remembered as asked for; more are refused."""
READS_PER_TURN: Final = 8
_RETRANSMITTED: Final = (FLAG_RETRANSMITTED_ALONE, FLAG_RETRANSMITTED)


class XdpRecovery(Client):
    """The requests of one channel of one product."""

    def __init__(
        self,
        group: int,
        line: int,
        servers: Sequence[tuple[str, int]],
        source: str,
        product: int,
        channel: int,
        groups: Sequence[tuple[str, int]] = (),
        interface: str = "",
        limits: Limits = LIMITS,
    ) -> None:
        """``servers`` are numeric and tried in turn; ``source`` is our id there, up to ten characters.

        ``groups`` are the UDP addresses on which retransmissions and refreshes come, joined on ``interface``
        where they are multicast. Raises UnavailableError when one cannot be bound.
        """
        super().__init__(group, line, PILLAR, limits)
        self._source, self._product, self._channel = source, product, channel
        self._link = Link(servers, self._epoll)
        self._asked: dict[int, Range] = {}  # number of our packet -> what it asked for
        self._images: dict[
            tuple[type[Refresh | Mapping], int], int
        ] = {}  # kind and index -> when it was asked for, -1: not yet
        self._sequence = 0
        self._refused = self._refreshes = self._unavailable = self._broken = 0
        self._groups: list[Datagrams] = []
        try:
            for address in groups:
                self._groups.append(Datagrams(open_line(*address, interface), self._epoll))
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each group, as bound."""
        return [group.address for group in self._groups]

    def refresh(self, index: int = 0) -> bool:
        """Want the state of a symbol index, or (0) of every symbol; False when there is no room to remember it."""
        return self._want(Refresh, index)

    def mapping(self, index: int = 0) -> bool:
        """Want the name, scale and lot of a symbol index, or (0) of every symbol; False as in `refresh`."""
        return self._want(Mapping, index)

    def tick(self, monotonic_ns: int) -> None:
        self._now_ns = monotonic_ns
        if self._link.tick(monotonic_ns):
            self._asked.clear()
            self.wanted.hasten()
            self._link.settled()
        if not self._link.up:
            return
        if monotonic_ns - self._link.heard_ns > SILENCE_NS_MAX:
            self._link.drop(monotonic_ns)
            return
        for wanted in self.wanted.due(monotonic_ns):
            number = self._send(
                Retransmission(wanted.first, wanted.asked_stop - 1, self._source, self._product, self._channel)
            )
            self._asked[number] = wanted
            if len(self._asked) > self.wanted.limits.ranges_max:
                del self._asked[next(iter(self._asked))]
        for (kind, index), asked_ns in list(self._images.items()):
            if asked_ns < 0:
                self._send(kind(index, self._source, self._product, self._channel))
                self._images[kind, index] = monotonic_ns
            elif monotonic_ns - asked_ns > REFRESH_NS:
                del self._images[kind, index]

    def packets(self, now_ns: int) -> Packets:
        for group in self._groups:
            for payload in group.receive():
                self._packet(payload)
        for _ in range(READS_PER_TURN):
            if not self._link.receive(self._now_ns):
                break
            self._read()
        return self.answers.take(now_ns)

    def counters(self) -> dict[str, int]:
        return {
            **super().counters(),
            "recovery_refused": self._refused,
            "recovery_unavailable": self._unavailable,
            "recovery_refreshes": self._refreshes,
            "recovery_connects": self._link.connects,
            "recovery_failures": self._link.failures,
            "recovery_broken": self._broken,
            "recovery_errors": sum(group.errors for group in self._groups),
        }

    def close(self) -> None:
        for group in self._groups:
            group.close()
        self._link.close()
        super().close()

    def _want(self, kind: type[Refresh | Mapping], index: int) -> bool:
        if (kind, index) not in self._images:
            if len(self._images) >= REFRESHES_MAX:
                return False
            self._images[kind, index] = -1
        return True

    def _send(self, message: xdp_requests.Message) -> int:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        self._link.send(xdp_requests.encode(message, self._sequence), self._now_ns)
        return self._sequence

    def _read(self) -> None:
        """Take every whole packet of the connection; one that cannot be a packet ends it."""
        data = self._link.input
        while data:
            try:
                packet = xdp_requests.decode(data)
            except ValueError:
                self._broken += 1
                self._link.drop(self._now_ns)
                return
            if packet is None:
                return
            raw = bytes(data[: packet.size])
            del data[: packet.size]
            if packet.is_heartbeat:
                self._send(HeartbeatResponse(self._source))
            elif not any(isinstance(message, Response) for message in packet.messages):
                self._packet(raw)
            else:
                self._responses(packet)

    def _responses(self, packet: Packet) -> None:
        for message in packet.messages:
            if isinstance(message, Response):
                wanted = self._asked.pop(message.request, None)
                if message.status != ACCEPTED:
                    self._refused += 1
                    if wanted is not None:
                        self.wanted.abandon(wanted, self._now_ns, wanted.asked_stop)

    def _packet(self, payload: bytes) -> None:
        """A packet of market data: an answer, a refresh, or the word that there is none."""
        flag = payload[2] if len(payload) >= HEADER_BYTES else 0
        if FLAG_REFRESH_ALONE <= flag <= FLAG_REFRESH_END:
            self._refreshes += 1
            self.answers.give(payload)
        elif flag == FLAG_UNAVAILABLE:
            self._not_there(payload)
        elif flag in _RETRANSMITTED:
            self.answers.offer(payload, self._group, self._now_ns)
        else:  # only what is marked as sent again may come this way
            self.answers.malformed += 1

    def _not_there(self, payload: bytes) -> None:
        try:
            packet = xdp_requests.decode(payload)
        except ValueError:
            packet = None
        for message in packet.messages if packet else ():
            if isinstance(message, Unavailable) and (message.product, message.channel) == (
                self._product,
                self._channel,
            ):
                self._unavailable += 1
                self.wanted.refuse(self._group << 16, message.begin, message.end + 1, self._now_ns)
