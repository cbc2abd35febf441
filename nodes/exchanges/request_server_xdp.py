"""NYSE's request server: retransmissions, refreshes and symbol mappings of one channel, asked for over TCP.

A request is answered with a response on the connection. What was asked for goes to the channel's retransmission and
refresh groups over UDP, or, where there are none, onto the connection behind the response. Of a range that is partly
forgotten the rest comes, and a message says which part is unavailable. Refreshes are told some packets at a time.
Clients must answer a heartbeat within 5 s.

Source: NYSE XDP Common Client Specification, "Request Server"; messages in `nodes.feeds.xdp_requests`.
"""

import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from fabric.clock import SECOND_NS
from nodes.exchanges.request_sockets import Address, Datagrams, Peer, Quota, TcpServer
from nodes.exchanges.store import Store
from nodes.feeds import xdp_requests
from nodes.feeds.pillar_kernel import (
    FLAG_REFRESH,
    FLAG_REFRESH_ALONE,
    FLAG_REFRESH_END,
    FLAG_REFRESH_START,
    FLAG_RETRANSMITTED,
    FLAG_RETRANSMITTED_ALONE,
)
from nodes.feeds.xdp_requests import (
    ACCEPTED,
    BAD_CHANNEL,
    BAD_MESSAGE,
    BAD_PRODUCT,
    BAD_RANGE,
    BAD_SOURCE,
    DAILY_REFRESHES,
    DAILY_REQUESTS,
    HEARTBEAT_ANSWER_S,
    RETRANSMISSION_MAX,
    TOO_MANY,
    HeartbeatResponse,
    Mapping,
    Refresh,
    Response,
    Retransmission,
    Unavailable,
)

HEARTBEAT_NS: Final = 60 * SECOND_NS
REQUESTS_PER_DAY: Final = 5_000
REFRESHES_PER_DAY: Final = 5_000
PER_SECOND: Final = 500
PACKET_BYTES_MAX: Final = 1_400
REFRESHES_MAX: Final = 64
"""Refreshes that may wait for those before them; further ones are refused."""
REFRESH_PACKETS_PER_TURN: Final = 64
_HEADER: Final = struct.Struct("<HBBIII")
_REFRESH_HEADER: Final = struct.Struct("<HHHHII")
_REFRESH_TYPE: Final = 35


class Image(NamedTuple):
    """All that there is to say of one symbol index now."""

    number: int  # of the last message of the channel that is in it
    symbol_number: int  # of the last message of the symbol that is in it
    messages: Sequence[bytes]  # mapping, security status, orders; whole, with their sizes


class Images(Protocol):
    """What an exchange knows of its symbols, for those who lost it."""

    def refresh(self, index: int) -> Iterable[Image]:
        """The image of a symbol index, of every one for 0; nothing for an unknown one."""
        ...

    def mappings(self, index: int) -> Iterable[bytes]:
        """The mapping message of a symbol index, of every one for 0; nothing for an unknown one."""
        ...


class XdpServer(TcpServer):
    """The request server of one channel."""

    def __init__(
        self,
        address: Address,
        store: Store,
        product: int,
        channel: int,
        sources: Iterable[str],
        images: Images | None = None,
        retransmissions: Address | None = None,
        refreshes: Address | None = None,
    ) -> None:
        """``sources`` are the ids that may ask; the last two are where UDP answers go. Raises UnavailableError."""
        super().__init__(address)
        self._store, self._images = store, images
        self._product, self._channel = product, channel
        self._sources = frozenset(sources)
        self._retransmissions, self._refreshes = retransmissions, refreshes
        self._sequence = self._refresh_sequence = 0
        self._refresh_quota = Quota(PER_SECOND, per_day=REFRESHES_PER_DAY)
        self._telling: deque[tuple[Peer, Iterator[tuple[int, list[bytes]]]]] = deque()
        try:
            self._socket = Datagrams((address[0], 0))
        except BaseException:
            super().close()
            raise

    def serve(self, now_ns: int) -> None:
        super().serve(now_ns)
        for _ in range(REFRESH_PACKETS_PER_TURN if self._telling else 0):
            peer, packets = self._telling[0]
            flag, messages = next(packets, (0, []))
            if flag and peer in self.peers:
                self._give(peer, self._refresh_packet(flag, messages, now_ns), self._refreshes, now_ns)
            else:
                self._telling.popleft()
                if not self._telling:
                    break

    def joined(self, peer: Peer, now_ns: int) -> None:
        peer.quota = Quota(PER_SECOND, per_day=REQUESTS_PER_DAY)
        peer.cursor = 0  # when the heartbeat was sent that waits for its answer

    def take(self, peer: Peer, now_ns: int) -> bool:
        while True:
            try:
                packet = xdp_requests.decode(peer.input)
            except ValueError:
                return False
            if packet is None:
                return True
            del peer.input[: packet.size]
            for message in packet.messages:
                self._message(peer, packet.sequence, message, now_ns)

    def idle(self, peer: Peer, now_ns: int) -> None:
        if peer.cursor:
            if now_ns - peer.cursor > HEARTBEAT_ANSWER_S * SECOND_NS:
                self.counts["silent"] += 1
                peer.output.clear()
                peer.leaving = True
        elif now_ns - peer.spoke_ns >= HEARTBEAT_NS:
            peer.cursor = now_ns
            peer.say(xdp_requests.heartbeat(self._next(), now_ns), now_ns)

    def counters(self) -> dict[str, int]:
        return {**self.counts, "errors": self._socket.counts["errors"]}

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _next(self) -> int:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        return self._sequence

    def _message(self, peer: Peer, number: int, message: xdp_requests.Message, now_ns: int) -> None:
        match message:
            case HeartbeatResponse():
                peer.cursor = 0
            case Retransmission():
                status = self._status(message, peer, now_ns) or self._range_status(message)
                self._respond(peer, number, message, status, message.begin, message.end, now_ns)
                if status == ACCEPTED:
                    self._retransmit(peer, message, now_ns)
            case Refresh() | Mapping():
                status = self._status(message, peer, now_ns)
                if not status and (len(self._telling) >= REFRESHES_MAX or self._refresh_quota.take(now_ns)):
                    status = DAILY_REFRESHES
                self._respond(peer, number, message, status or ACCEPTED, 0, 0, now_ns)
                if not status:
                    self._telling.append((peer, self._told(message)))
            case _:
                self.counts["requests"] += 1
                self.counts["refused"] += 1
                answer = Response(number, 0, 0, "", self._product, self._channel, BAD_MESSAGE)
                peer.say(xdp_requests.encode(answer, self._next(), now_ns), now_ns)

    def _status(self, message: Retransmission | Refresh | Mapping, peer: Peer, now_ns: int) -> str:
        """Why a request is refused for what it has in common with others; the empty text when it is not."""
        if message.source not in self._sources:
            return BAD_SOURCE
        if message.product != self._product:
            return BAD_PRODUCT
        if message.channel != self._channel:
            return BAD_CHANNEL
        return DAILY_REQUESTS if peer.quota is not None and peer.quota.take(now_ns) else ""

    def _range_status(self, message: Retransmission) -> str:
        _, following = self._store.bounds(0)
        if not 1 <= message.begin <= message.end < following:
            return BAD_RANGE
        return TOO_MANY if message.end - message.begin >= RETRANSMISSION_MAX else ACCEPTED

    def _respond(
        self,
        peer: Peer,
        number: int,
        message: Retransmission | Refresh | Mapping,
        status: str,
        begin: int,
        end: int,
        now_ns: int,
    ) -> None:
        self.counts["requests"] += 1
        self.counts["refused"] += status != ACCEPTED
        answer = Response(number, begin, end, message.source, message.product, message.channel, status)
        peer.say(xdp_requests.encode(answer, self._next(), now_ns), now_ns)

    def _retransmit(self, peer: Peer, message: Retransmission, now_ns: int) -> None:
        oldest, _ = self._store.bounds(0)
        if message.begin < oldest:
            self.counts["unavailable"] += 1
            gone = Unavailable(message.begin, min(message.end, oldest - 1), self._product, self._channel)
            packet = xdp_requests.unavailable(gone, self._next(), now_ns)
            self._give(peer, packet, self._retransmissions, now_ns)
        first = max(message.begin, oldest)
        while first <= message.end:
            wanted = message.end - first + 1
            taken, packet = self._store.cut(0, first, wanted)
            if not taken:
                return
            alone = taken == message.end - message.begin + 1
            flag = FLAG_RETRANSMITTED_ALONE if alone else FLAG_RETRANSMITTED
            self._give(peer, packet[:2] + bytes((flag,)) + packet[3:], self._retransmissions, now_ns)
            self.counts["messages"] += taken
            first += taken

    def _told(self, message: Refresh | Mapping) -> Iterator[tuple[int, list[bytes]]]:
        """The delivery flag and messages of each packet of a refresh; a symbol is read when its turn comes."""
        if self._images is None:
            return
        if isinstance(message, Mapping):
            for group in _packed(self._images.mappings(message.symbol_index), PACKET_BYTES_MAX):
                yield FLAG_REFRESH_ALONE, group
            return
        for image in self._images.refresh(message.symbol_index):
            groups = list(_packed(image.messages, PACKET_BYTES_MAX)) or [[]]
            self.counts["images"] += 1
            for part, group in enumerate(groups, 1):
                sizes = (_REFRESH_HEADER.size, _REFRESH_TYPE, part, len(groups))
                head = _REFRESH_HEADER.pack(*sizes, image.number, image.symbol_number)
                yield _refresh_flag(part, len(groups)), [head, *group]

    def _refresh_packet(self, flag: int, messages: list[bytes], now_ns: int) -> bytes:
        """A packet of a refresh; such packets have numbers of their own, which never begin anew."""
        data = b"".join(messages)
        number = self._refresh_sequence + 1
        self._refresh_sequence += len(messages)
        return _HEADER.pack(_HEADER.size + len(data), flag, len(messages), number, *divmod(now_ns, SECOND_NS)) + data

    def _give(self, peer: Peer, packet: bytes, group: Address | None, now_ns: int) -> None:
        self.counts["packets"] += 1
        if group is None:
            peer.say(packet, now_ns)
        else:
            self._socket.send(packet, group)


def _refresh_flag(part: int, parts: int) -> int:
    if parts == 1:
        return FLAG_REFRESH_ALONE
    if part == 1:
        return FLAG_REFRESH_START
    return FLAG_REFRESH_END if part == parts else FLAG_REFRESH


def _packed(messages: Iterable[bytes], bytes_max: int) -> Iterable[list[bytes]]:
    """Messages in groups of up to ``bytes_max``, and of no more than a packet's count can tell."""
    group: list[bytes] = []
    size = 0
    for message in messages:
        if group and (size + len(message) > bytes_max or len(group) == 250):
            yield group
            group, size = [], 0
        group.append(message)
        size += len(message)
    if group:
        yield group
