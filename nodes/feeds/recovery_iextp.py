"""Recovery over IEX-TP: gap fill requests over UDP, answered with ordinary segments to where they came from.

What is certain (IEX-TP 1.25 "Gap Fill Request"; IEX trading alert 2016-059): the request's 16-byte header, ranges of
two 64-bit numbers each, rising and not overlapping, only of the current session; the answer is capped (1,000 messages
for TOPS and DEEP); invalid requests are ignored; a request without ranges is answered with an empty segment. Whether
the end of a range belongs to it is not certain, so the range asked for ends with the message after the last that is
missing: read one way it comes a second time, which the sequencer drops, read the other way it does not come.
"""

import struct
from typing import Final

from nodes.feeds.recovery import UNIT_MASK, Client, Datagrams, Limits
from nodes.feeds.recovery_kernel import IEXTP
from nodes.feeds.wire import Packets

REQUEST: Final = struct.Struct("<BBHIII")
"""Version, request type, message protocol, channel, session, number of ranges."""
RANGE: Final = struct.Struct("<qq")
VERSION: Final = 1
BY_SEQUENCE: Final = 1
COUNT_MAX: Final = 1_000
LIMITS: Final = Limits(count_max=COUNT_MAX - 1, per_second=200)


class IexTpRecovery(Client):
    """Asks one or more gap fill servers in turn, over UDP."""

    def __init__(
        self,
        group: int,
        line: int,
        servers: tuple[tuple[str, int], ...],
        protocol: int,
        channel: int = 1,
        limits: Limits = LIMITS,
    ) -> None:
        """``protocol`` is the message protocol id (0x8003 TOPS 1.6). Raises OSError where a server has no route."""
        super().__init__(group, line, IEXTP, limits)
        self._protocol, self._channel = protocol, channel
        self._sockets: list[Datagrams] = []
        try:
            for server in servers:
                self._sockets.append(Datagrams.connected(server, self._epoll))
        except OSError:
            self.close()
            raise

    def tick(self, monotonic_ns: int) -> None:
        self._now_ns = monotonic_ns
        for wanted in self.wanted.due(monotonic_ns):
            channel = wanted.stream & UNIT_MASK or self._channel
            request = REQUEST.pack(VERSION, BY_SEQUENCE, self._protocol, channel, wanted.session, 1)
            server = self._sockets[(wanted.tries - 1) % len(self._sockets)]
            server.send(request + RANGE.pack(wanted.first, wanted.asked_stop))

    def packets(self, now_ns: int) -> Packets:
        for server in self._sockets:
            for payload in server.receive():
                self.answers.offer(payload, self._group, self._now_ns)
        return self.answers.take(now_ns)

    def counters(self) -> dict[str, int]:
        return {**super().counters(), "recovery_errors": sum(server.errors for server in self._sockets)}

    def close(self) -> None:
        for server in self._sockets:
            server.close()
        super().close()
