"""The wire of a simulated exchange: every packet to every line, over UDP, with the faults that it is told to have."""

import heapq
import socket
import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from fabric.errors import UnavailableError
from nodes.exchanges import sender_kernel
from nodes.exchanges.faults import Copy, Faults

_SEND_BUFFER_BYTES = 4 << 20
_HELD_MAX: Final = 1 << 16
"""Packets that wait for their delay to pass; beyond that they leave at once."""


class Sender:
    """One UDP socket a line; sends the packets of an encoder's buffer."""

    def __init__(
        self,
        lines: tuple[tuple[str, int], ...],
        packets: npt.NDArray[np.uint8],
        lengths: npt.NDArray[np.int64],
        faults: Faults | None = None,
    ) -> None:
        """Send rows of ``packets``, each as long as ``lengths`` says; both stay the caller's and must not be replaced.

        The sockets are not connected: a line that nobody listens to is then not an error, as on a real network.
        Raises UnavailableError for a host that has no address.
        """
        self._packets, self._lengths = packets, lengths
        self._faults = faults
        self._held: list[tuple[int, int, Copy]] = []  # (when it is due, its number, it)
        self._numbered = 0
        self._passed = [0] * len(lines)
        """Packets of each line that were due so far."""
        self._overtaken: list[list[tuple[int, int, bytes]]] = [[] for _ in lines]
        """Of each line: (`_passed` at which it leaves, its number, packet)."""
        self.refused = 0
        """Packets that the operating system would not take, over all lines."""
        self._vectors = np.zeros((len(packets), 2), np.int64)
        self._vectors[:, 0] = packets.ctypes.data + np.arange(len(packets)) * packets.strides[0]
        self._sockets: list[socket.socket] = []
        self._names: list[tuple[str, int]] = []
        self._addresses: list[npt.NDArray[np.uint8]] = []  # kept: the headers point into them
        self._headers: list[npt.NDArray[np.int64]] = []
        for host, port in lines:
            try:
                family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            except OSError as error:
                self.close()
                raise UnavailableError(f"line udp://{host}:{port}: {error}") from error
            line = socket.socket(family, socket.SOCK_DGRAM)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            self._sockets.append(line)
            self._names.append((str(address[0]), port))
            name = np.frombuffer(_sockaddr(family, str(address[0]), port), np.uint8).copy()
            self._addresses.append(name)
            headers = np.zeros((len(packets), sender_kernel.HEADER_WORDS), np.int64)
            headers[:, 0], headers[:, 1] = name.ctypes.data, name.size
            headers[:, 2] = self._vectors.ctypes.data + np.arange(len(packets)) * self._vectors.strides[0]
            headers[:, 3] = 1
            self._headers.append(headers)

    def send(self, first: int, stop: int, now_ns: int) -> None:
        """Send packets ``first`` to ``stop`` (exclusive) to every line, and what was held back; never blocks."""
        if self._faults is None:
            for line, headers in zip(self._sockets, self._headers, strict=True):
                self.refused += sender_kernel.send(line.fileno(), headers, self._vectors, self._lengths, first, stop)
            return
        for i in range(first, stop):
            for copy in self._faults.copies(self._packets[i, : self._lengths[i]].tobytes(), now_ns):
                self._numbered += 1
                heapq.heappush(self._held, (now_ns + copy.delay_ns, self._numbered, copy))
        while self._held and (self._held[0][0] <= now_ns or len(self._held) > _HELD_MAX):
            _, number, copy = heapq.heappop(self._held)
            self._pass(number, copy)

    @property
    def holding(self) -> bool:
        """Whether packets are held back until their time has come: then `send` must be called even without any.

        One that was overtaken leaves with the packets that follow it, not by time.
        """
        return bool(self._held)

    def counters(self) -> dict[str, int]:
        """Packets refused by the operating system, over all lines, and what the faults have done."""
        return {"refused": self.refused, **(self._faults.counters if self._faults else {})}

    def _pass(self, number: int, copy: Copy) -> None:
        """Send a packet that is due, unless others are to overtake it, and all that have been overtaken by now."""
        overtaken, passed = self._overtaken[copy.line], self._passed[copy.line]
        if copy.behind:
            heapq.heappush(overtaken, (passed + copy.behind, number, copy.packet))
        else:
            self._send_one(copy.line, copy.packet)
        while overtaken and overtaken[0][0] <= passed:
            self._send_one(copy.line, heapq.heappop(overtaken)[2])
        self._passed[copy.line] = passed + 1

    def _send_one(self, line: int, packet: bytes) -> None:
        try:
            self._sockets[line].sendto(packet, socket.MSG_DONTWAIT, self._names[line])
        except OSError:
            self.refused += 1

    def close(self) -> None:
        """Close the sockets; may be called twice."""
        for line in self._sockets:
            line.close()


def _sockaddr(family: int, host: str, port: int) -> bytes:
    """struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)) of a numeric address."""
    raw = socket.inet_pton(family, host)
    if family == socket.AF_INET:
        return struct.pack("=H", family) + struct.pack(">H", port) + raw + bytes(8)
    return struct.pack("=H", family) + struct.pack(">HI", port, 0) + raw + bytes(4)
