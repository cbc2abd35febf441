"""UDP lines of a feed: unicast or multicast sockets, read in batches, their kernel drops counted.

Waking for each packet would cost more than decoding it, so on a busy line the reader, once woken, lets packets
gather for `GATHER_NS` before it takes them all: that bounds the wake-ups to about 2,000 a second and the delay
it adds to half a millisecond. On a line that has been quiet for longer than that nothing is added.
"""

import errno
import os
import select
import socket
import time
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import numpy as np

from fabric.errors import UnavailableError
from nodes.feeds import lines_kernel
from nodes.feeds.wire import Packets

PACKETS_MAX: Final = 512
"""Packets taken at once."""
PACKET_BYTES_MAX: Final = 9_216
"""A jumbo frame. A longer datagram is cut and counted; exchanges stay below 1,500."""
RECEIVE_BUFFER_BYTES: Final = 32 << 20
"""Asked of the kernel for each socket: a third of a second of a full gigabit line."""
GATHER_NS: Final = 500_000
_SO_RCVBUFFORCE: Final = 33
_NS: Final = 1e-9


class Lines:
    """The sockets of one feed. One thread owns it."""

    def __init__(self, addresses: Sequence[tuple[str, int]], interface: str = "0.0.0.0") -> None:
        """Bind each (host, port); a multicast host is joined on ``interface``. Raises UnavailableError.

        Port 0 takes a free one: see `addresses`.
        """
        self._buffer = np.zeros((PACKETS_MAX, PACKET_BYTES_MAX), np.uint8)
        self._flat = self._buffer.reshape(-1)
        self._headers, self._iovecs = lines_kernel.new_headers(self._buffer)
        self._offsets = np.arange(PACKETS_MAX, dtype=np.int64) * PACKET_BYTES_MAX
        self._lengths = np.zeros(PACKETS_MAX, np.int64)
        self._recv_ns = np.zeros(PACKETS_MAX, np.int64)
        self._line = np.zeros(PACKETS_MAX, np.int64)
        self._truncated = np.zeros(1, np.int64)
        self._packets = self._bytes = self._errors = 0
        self._busy_until_ns = 0
        self._sockets: list[socket.socket] = []
        self._poll = select.poll()
        try:
            for host, port in addresses:
                self._sockets.append(open_line(host, port, interface))
                self._poll.register(self._sockets[-1], select.POLLIN)
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each socket, as bound."""
        return [sock.getsockname()[:2] for sock in self._sockets]

    def wait(self, timeout_ms: int) -> bool:
        """Wait for packets at most ``timeout_ms`` (and `GATHER_NS`); tell whether there may be some."""
        if not self._poll.poll(timeout_ms):
            return False
        if time.monotonic_ns() < self._busy_until_ns:
            time.sleep(GATHER_NS * _NS)
        self._busy_until_ns = time.monotonic_ns() + 2 * GATHER_NS
        return True

    def receive(self, now_ns: int) -> Packets:
        """Take what is there, stamped ``now_ns``; views good until the next call. A failing socket is counted."""
        count = 0
        for line, sock in enumerate(self._sockets):
            taken = lines_kernel.receive(sock.fileno(), self._headers, count, self._lengths, self._truncated)
            if taken < 0:  # an ICMP error, say: it is cleared by having been read
                self._errors += 1
            else:
                self._line[count : count + taken] = line
                count += taken
        self._packets += count
        self._bytes += int(self._lengths[:count].sum())
        self._recv_ns[:count] = now_ns
        return Packets(
            self._flat, self._offsets[:count], self._lengths[:count], self._recv_ns[:count], self._line[:count]
        )

    def counters(self) -> dict[str, int]:
        """Packets and bytes taken, datagrams cut, socket errors, and what the kernel dropped for want of room."""
        return {
            "udp_packets": self._packets,
            "udp_bytes": self._bytes,
            "udp_truncated": int(self._truncated[0]),
            "udp_errors": self._errors,
            "kernel_drops": kernel_drops(self._sockets),
        }

    def close(self) -> None:
        """Close every socket."""
        for sock in self._sockets:
            sock.close()


def open_line(host: str, port: int, interface: str) -> socket.socket:
    """A bound UDP socket that does not block; a multicast host is joined on ``interface``. Raises UnavailableError."""
    try:
        address = ip_address(socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][4][0])
        sock = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    except OSError as error:
        raise UnavailableError(f"udp://{host}:{port}: {error.strerror}") from error
    try:
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        except PermissionError:  # not root: as much as net.core.rmem_max allows
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        if address.is_multicast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # several readers of one group
        sock.bind((str(address), port))
        if address.is_multicast and address.version == 4:
            membership = address.packed + socket.inet_aton(interface)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        elif address.is_multicast:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, address.packed + bytes(4))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise UnavailableError(f"udp://{host}:{port}: another program has this port") from error
        raise UnavailableError(f"udp://{host}:{port}: {error.strerror}") from error
    return sock


def kernel_drops(sockets: Sequence[socket.socket]) -> int:
    """Datagrams that the kernel dropped because a socket's buffer was full, as /proc/net/udp tells it by inode."""
    inodes = {str(os.fstat(sock.fileno()).st_ino) for sock in sockets}
    drops = 0
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        path = Path(table)
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[9] in inodes:
                drops += int(fields[-1])
    return drops
