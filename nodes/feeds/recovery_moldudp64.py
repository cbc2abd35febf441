"""Recovery over MoldUDP64: a request is a packet's header, the answer an ordinary packet from the request server.

An answer is at most one packet's worth, so what is left is asked for as soon as one has come. The sequencer knows
a session by its hash, the server by its ten bytes: the client keeps those from the packets that it sees.

Source: MoldUDP64 1.00, "Request Packet".
"""

import struct
from typing import Final

from nodes.feeds.recovery import Client, Datagrams, Limits, text_session
from nodes.feeds.recovery_kernel import MOLDUDP64
from nodes.feeds.wire import Packets

REQUEST: Final = struct.Struct(">10sQH")
"""Session, number of the first message, how many."""
LIMITS: Final = Limits(count_max=0xFFFE, per_second=1_000, one_packet=True)
_SESSION_BYTES: Final = 10
_SESSIONS_MAX: Final = 16


class MoldUdp64Recovery(Client):
    """Asks one or more request servers in turn, over UDP."""

    def __init__(self, group: int, line: int, servers: tuple[tuple[str, int], ...], limits: Limits = LIMITS) -> None:
        """``servers`` are numeric addresses, the preferred one first. Raises OSError where one has no route."""
        super().__init__(group, line, MOLDUDP64, limits)
        self._sessions: dict[int, bytes] = {}
        self._sockets: list[Datagrams] = []
        self._nameless = 0
        try:
            for server in servers:
                self._sockets.append(Datagrams.connected(server, self._epoll))
        except OSError:
            self.close()
            raise

    def observe(self, packets: Packets) -> None:
        """Keep the ten bytes of the sessions that are asked for; looks at packets only while one is unknown."""
        for i in range(packets.offsets.size):
            if self._sessions and not self.wanted.unknown(self._sessions):
                return
            at = int(packets.offsets[i])
            if packets.lengths[i] >= REQUEST.size:
                self.learn(packets.buffer[at : at + _SESSION_BYTES].tobytes())

    def learn(self, session: bytes) -> None:
        """A session of the stream by its ten bytes."""
        number = text_session(session)
        if number not in self._sessions:
            while len(self._sessions) >= _SESSIONS_MAX:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[number] = session

    def tick(self, monotonic_ns: int) -> None:
        self._now_ns = monotonic_ns
        for wanted in self.wanted.due(monotonic_ns):
            session = self._sessions.get(wanted.session)
            if session is None:  # it can be asked for as soon as a packet of that session has been seen
                self._nameless += 1
                continue
            server = self._sockets[(wanted.tries - 1) % len(self._sockets)]
            server.send(REQUEST.pack(session, wanted.first, wanted.asked_stop - wanted.first))

    def packets(self, now_ns: int) -> Packets:
        for server in self._sockets:
            for payload in server.receive():
                self.answers.offer(payload, self._group, self._now_ns)
        return self.answers.take(now_ns)

    def counters(self) -> dict[str, int]:
        return {
            **super().counters(),
            "recovery_errors": sum(server.errors for server in self._sockets),
            "recovery_nameless": self._nameless,
        }

    def close(self) -> None:
        for server in self._sockets:
            server.close()
        super().close()
