"""Lines of a feed: unicast or multicast UDP sockets, read in batches, their kernel drops counted; or SoupBinTCP.

Waking for each packet would cost more than decoding it, so on a busy line the reader, once woken, lets packets
gather until the next beat before it takes them all: 2 ms bound the wake-ups to 500 a second and add a millisecond on
average. On a line that has been quiet for longer than that nothing is added.
"""

import errno
import os
import re
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

import numpy as np

from fabric.clock import next_beat
from fabric.errors import UnavailableError
from nodes.feeds import lines_kernel
from nodes.feeds.recovery_soupbintcp import SoupLine
from nodes.feeds.wire import Packets

PACKETS_MAX: Final = 512
"""Packets taken at once."""
PACKET_BYTES_MAX: Final = 9_216
"""A jumbo frame. A longer datagram is cut and counted; exchanges stay below 1,500."""
RECEIVE_BUFFER_BYTES: Final = 32 << 20
"""Asked of the kernel for each socket: a third of a second of a full gigabit line."""
_SO_RCVBUFFORCE: Final = 33
_NS: Final = 1e-9


class Lines:
    """The sockets of one feed. One thread owns it."""

    def __init__(
        self,
        addresses: Sequence[tuple[str, int]],
        interfaces: Sequence[str] = (),
        over_tcp: Sequence[bool] = (),
        login: tuple[str, str] = ("", ""),
        also: Sequence[int] = (),
        gather_ns: int = 0,
    ) -> None:
        """Bind each (host, port), join a multicast group on its interface, or log in over TCP; raises UnavailableError.

        Port 0 takes a free one: see `addresses`. `wait` also wakes for the descriptors ``also``, and lets packets
        gather for ``gather_ns`` on a busy line.
        """
        self._gather_ns = gather_ns
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
        self._sockets: dict[int, socket.socket] = {}  # by number of the line
        self._streams: dict[int, SoupLine] = {}
        self._poll = select.poll()
        for descriptor in also:
            self._poll.register(descriptor, select.POLLIN)
        interfaces = interfaces or [""] * len(addresses)
        over_tcp = over_tcp or [False] * len(addresses)
        self.names: list[str] = []
        """Each line as an address."""
        try:
            for line, (host, port) in enumerate(addresses):
                if over_tcp[line]:
                    self._streams[line] = SoupLine(line, [numeric("tcp", host, port)], *login)
                    self._poll.register(self._streams[line].fileno(), select.POLLIN)
                    self.names.append(f"tcp://{host}:{port}")
                else:
                    self._sockets[line] = open_line(host, port, interfaces[line])
                    self._poll.register(self._sockets[line], select.POLLIN)
                    self.names.append(f"udp://{host}:{self._sockets[line].getsockname()[1]}")
        except BaseException:
            self.close()
            raise
        self._room = PACKETS_MAX // max(1, len(self._sockets))

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of each socket, as bound."""
        return [sock.getsockname()[:2] for sock in self._sockets.values()]

    def wait(self, timeout_ms: int) -> bool:
        """Wait for packets at most ``timeout_ms``, and let them gather; tell whether there may be some."""
        if not self._poll.poll(timeout_ms):
            return False
        now_ns = time.monotonic_ns()
        if now_ns < self._busy_until_ns:
            # Not a wait for something: nothing but the passing time ends the gathering.
            time.sleep((next_beat(now_ns, self._gather_ns) - now_ns) * _NS)
        self._busy_until_ns = time.monotonic_ns() + 2 * self._gather_ns
        return True

    def receive(self, now_ns: int) -> Packets:
        """Take what is there of UDP, stamped ``now_ns``; views good until the next call. A failing socket is counted.

        Each line has its share of the room, so that a flood on one does not keep the other from being read.
        """
        count = 0
        for line, sock in self._sockets.items():
            room = self._headers[: count + self._room]
            taken = lines_kernel.receive(sock.fileno(), room, count, self._lengths, self._truncated)
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

    def receive_streams(self, now_ns: int, monotonic_ns: int) -> Iterator[Packets]:
        """Take what has come over TCP, a batch for each line; keeps the connections."""
        for stream in self._streams.values():
            stream.tick(monotonic_ns)
            yield stream.packets(now_ns)

    def counters(self) -> dict[str, int]:
        """Packets and bytes taken, datagrams cut, socket errors, and what the kernel dropped for want of room."""
        return {
            "udp_packets": self._packets,
            "udp_bytes": self._bytes,
            "udp_truncated": int(self._truncated[0]),
            "udp_errors": self._errors,
            "kernel_drops": self.kernel_drops(),
        } | {
            f"line{line}_{name}": count
            for line, stream in self._streams.items()
            for name, count in stream.counters().items()
        }

    def kernel_drops(self) -> int:
        """Datagrams that the kernel has dropped for want of room."""
        return kernel_drops(list(self._sockets.values()))

    def close(self) -> None:
        """Close every socket."""
        for sock in self._sockets.values():
            sock.close()
        for stream in self._streams.values():
            stream.close()


def numeric(scheme: str, host: str, port: int) -> tuple[str, int]:
    """The host as a numeric address."""
    try:
        return str(socket.getaddrinfo(host, port)[0][4][0]), port
    except OSError as error:
        raise UnavailableError(f"{scheme}://{host}:{port}: {error.strerror}") from error


def open_line(host: str, port: int, interface: str) -> socket.socket:
    """A UDP socket that hears what is sent to an address; a multicast group is joined on ``interface``.

    Raises UnavailableError.
    """
    address = ip_address(numeric("udp", host, port)[0])
    sock = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        except PermissionError:  # not root: as much as net.core.rmem_max allows
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        if address.is_multicast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # several readers of one group
        sock.bind((str(address), port))
        if address.is_multicast:
            _join(sock, address, interface)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise UnavailableError(f"udp://{host}:{port}: another program has this port") from error
        at = f"@{interface}" if interface else ""
        raise UnavailableError(f"udp://{host}:{port}{at}: {error.strerror or error}") from error
    return sock


def _join(sock: socket.socket, group: IPv4Address | IPv6Address, interface: str) -> None:
    """Join a multicast group on an interface, given by its address or name; without one the system chooses."""
    is_name = bool(interface) and not re.fullmatch(r"[0-9.]+|[0-9a-fA-F:]*:[0-9a-fA-F:.]*", interface)
    index = socket.if_nametoindex(interface) if is_name else 0
    if group.version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group.packed + struct.pack("@I", index))
        return
    address = bytes(4) if is_name or not interface else socket.inet_aton(interface)
    request = group.packed + address + struct.pack("@i", index)  # struct ip_mreqn of ip(7)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


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
