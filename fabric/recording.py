"""Recording what the feeds of a running topology receive: from the feed to the recorder, and into pcapng files.

A second socket on a unicast port would take packets away from the feed, and one in a multicast group would see other
losses and other times. So the feed itself passes on what it has taken, with its own stamps: a `Tee` looks once a second
for a recorder's socket in the run folder, and while there is one sends it every packet, by batches, without ever
waiting. What does not fit is dropped and counted, by the feed; nothing of this costs anything while nobody records.

A file is one feed's, an interface in it one of its lines; what request servers and TCP lines have brought is written
too, as packets. The IP and UDP headers are made for the reader's sake: where a packet was sent to is known, where it
came from is not (0.0.0.0). Source of the format: draft-ietf-opsawg-pcapng.
"""

import json
import os
import selectors
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from fabric.clock import SECOND_NS
from fabric.control import RunFolder
from fabric.errors import FabricError, UnavailableError

NAME = "record"
"""Of the recorder's socket in a run folder."""
LOOK_EVERY_NS = SECOND_NS
MESSAGE_MAX = 64 * 1024
"""Bytes of packets in one message; a larger packet goes alone."""
QUEUE_BYTES = 16 << 20
"""Asked of the kernel for what waits for the recorder; it gives what net.core.wmem_max allows."""
BESIDE = "beside"
"""Name of the interface for what came by none of the lines: answers of request servers."""
_COUNTS = struct.Struct("<qq")  # dropped by the tee, dropped by the kernel
_PACKET = struct.Struct("<qii")  # received at, line, length

Column = npt.NDArray[np.int64]


class Tee:
    """The feed's end. One thread owns it."""

    def __init__(self, folder: RunFolder, feed: str, lines: Sequence[str], lost: Callable[[], int]) -> None:
        """``lines`` are the addresses of the lines by number; ``lost`` says what the kernel has dropped on them."""
        self._path = folder.socket_path(NAME)
        self._hello = json.dumps({"feed": feed, "lines": list(lines)}).encode()
        self._lost = lost
        self._socket: socket.socket | None = None
        self._next_look_ns = 0
        self._kernel_drops = 0
        self.dropped = 0
        """Packets that the recorder was too slow for."""

    def look(self, monotonic_ns: int) -> None:
        """Once a second: see whether somebody records."""
        if monotonic_ns < self._next_look_ns:
            return
        self._next_look_ns = monotonic_ns + LOOK_EVERY_NS
        if self._socket is not None:
            self._kernel_drops = self._lost()
            self._send([b""], 0)
        elif self._path.exists():
            fresh = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            fresh.setblocking(False)
            fresh.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
            try:
                fresh.connect(os.fspath(self._path))
                fresh.send(self._hello)
            except OSError:  # left behind by a recorder that was killed
                fresh.close()
            else:
                self._socket, self._kernel_drops = fresh, self._lost()

    def give(
        self, buffer: npt.NDArray[np.uint8], offsets: Column, lengths: Column, recv: Column, lines: Column
    ) -> None:
        """Pass packets on, as they stand in `nodes.feeds.wire.Packets`; free while nobody records."""
        if self._socket is None or not offsets.size:
            return
        parts, size, count = [b""], 0, 0
        for at, length, recv_ns, line in zip(
            offsets.tolist(), lengths.tolist(), recv.tolist(), lines.tolist(), strict=True
        ):
            if count and size + length > MESSAGE_MAX:
                self._send(parts, count)
                parts, size, count = [b""], 0, 0
            parts += [_PACKET.pack(recv_ns, line, length), buffer[at : at + length].tobytes()]
            size += length + _PACKET.size
            count += 1
        self._send(parts, count)

    def close(self) -> None:
        """Let go of the recorder."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, parts: list[bytes], count: int) -> None:
        if self._socket is None:
            return
        parts[0] = _COUNTS.pack(self.dropped, self._kernel_drops)
        try:
            self._socket.send(b"".join(parts))
        except BlockingIOError:
            self.dropped += count
        except OSError:  # it has ended
            self.close()


@dataclass
class Recorded:
    """One feed's file, and what is in it."""

    path: Path
    lines: list[str]
    stream: BinaryIO
    packets: int = 0
    size: int = 0  # bytes
    first_ns: int = 0
    last_ns: int = 0
    dropped: int = 0
    kernel_drops: int = 0
    kernel_drops_before: int | None = None
    _heads: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Packets that are not in the file: dropped before the feed or behind it while it was recorded."""
        return self.dropped + self.kernel_drops

    def begin(self) -> None:
        """Write what stands before the packets."""
        self.stream.write(_block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)))
        for name in [*self.lines, BESIDE]:
            options = _option(2, name.encode()) + _option(9, b"\x09") + _option(0, b"")
            self.stream.write(_block(1, struct.pack("<HHI", 101, 0, 0) + options))  # LINKTYPE_RAW
            self._heads.append(_heads(name))

    def take(self, message: bytes) -> None:
        """Write the packets of one message of a `Tee`."""
        self.dropped, kernel_drops = _COUNTS.unpack_from(message)
        if self.kernel_drops_before is None:
            self.kernel_drops_before = kernel_drops
        self.kernel_drops = kernel_drops - self.kernel_drops_before
        at = _COUNTS.size
        out = []
        while at < len(message):
            recv_ns, line, length = _PACKET.unpack_from(message, at)
            payload = message[at + _PACKET.size : at + _PACKET.size + length]
            at += _PACKET.size + length
            line = line if 0 <= line < len(self.lines) else len(self.lines)
            packet = _datagram(*self._heads[line], payload)
            head = struct.pack("<IIIII", line, recv_ns >> 32, recv_ns & 0xFFFFFFFF, len(packet), len(packet))
            out.append(_block(6, head + packet))
            self.packets += 1
            self.first_ns, self.last_ns = self.first_ns or recv_ns, recv_ns
        raw = b"".join(out)
        self.stream.write(raw)
        self.size += len(raw)

    def end(self) -> None:
        """Write what was lost beside the packets, and close the file; may be called again."""
        if self.stream.closed:
            return
        now = struct.pack("<II", self.last_ns >> 32, self.last_ns & 0xFFFFFFFF)
        losses = _option(5, struct.pack("<Q", self.dropped)) + _option(7, struct.pack("<Q", self.kernel_drops))
        self.stream.write(_block(5, struct.pack("<I", 0) + now + losses + _option(0, b"")))
        self.stream.close()


class Recorder:
    """The recorder's end: takes what feeds pass on, and writes a file for each."""

    def __init__(self, folder: RunFolder, target: Path, feeds: Sequence[str], bytes_max: int) -> None:
        """Feeds other than ``feeds`` are turned away; none named: all come in. Stops at ``bytes_max`` bytes in all.

        Raises UnavailableError where another recorder works here, or a folder cannot be written.
        """
        self._path = folder.socket_path(NAME)
        self._target, self._feeds, self._bytes_max = target, tuple(feeds), bytes_max
        self.recorded: dict[str, Recorded] = {}
        self._by_socket: dict[socket.socket, Recorded | None] = {}
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            folder.make()
            target.mkdir(parents=True, exist_ok=True)
            self._claim()
        except (OSError, FabricError) as error:
            self._listener.close()
            self._selector.close()
            if isinstance(error, OSError):
                raise UnavailableError(f"{error.filename or target}: cannot record: {error.strerror}") from error
            raise
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def _claim(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe, suppress(FileNotFoundError):
            try:
                probe.connect(os.fspath(self._path))
            except ConnectionRefusedError:
                self._path.unlink()
            else:
                raise UnavailableError(f"{self._path}: another `fabric record` works here")
        mask = os.umask(0o077)
        try:
            self._listener.bind(os.fspath(self._path))
        finally:
            os.umask(mask)
        self._listener.listen(64)

    @property
    def full(self) -> bool:
        """Whether as much was written as may be."""
        return sum(each.size for each in self.recorded.values()) >= self._bytes_max

    def turn(self, timeout_s: float) -> None:
        """Take what has come, waiting for it at most so long."""
        for key, _ in self._selector.select(timeout_s):
            source = key.fileobj
            assert isinstance(source, socket.socket)
            if source is self._listener:
                with suppress(BlockingIOError):
                    peer, _ = source.accept()
                    peer.setblocking(False)
                    self._by_socket[peer] = None
                    self._selector.register(peer, selectors.EVENT_READ)
                continue
            for _ in range(64):
                try:
                    message = source.recv(1 << 20)
                except BlockingIOError:
                    break
                except OSError:
                    message = b""
                if not message or not self._take(source, message):
                    self._selector.unregister(source)
                    del self._by_socket[source]
                    source.close()
                    break
                if self.full:
                    return

    def close(self) -> None:
        """Take what feeds have passed on up to now, and end every file; feeds go on without us."""
        self._path.unlink(missing_ok=True)
        for peer in self._by_socket:
            self._finish(peer)
            peer.close()
        self._listener.close()
        self._selector.close()
        for each in self.recorded.values():
            each.end()

    def _finish(self, peer: socket.socket) -> None:
        """Take what waits, at most as much as can have waited when this began."""
        taken = 0
        with suppress(OSError):
            while not self.full and taken < QUEUE_BYTES and (message := peer.recv(1 << 20)):
                taken += len(message)
                if not self._take(peer, message):
                    return

    def _take(self, source: socket.socket, message: bytes) -> bool:
        """Whether this feed is one that is recorded."""
        known = self._by_socket[source]
        if known is not None:
            known.take(message)
            return True
        hello = json.loads(message)
        name = str(hello["feed"])
        if self._feeds and name not in self._feeds:
            return False
        if name not in self.recorded:  # a feed that was restarted goes on in its file
            path = self._target / f"{name}.pcapng"
            fresh = Recorded(path, [str(line) for line in hello["lines"]], path.open("xb"))
            fresh.begin()
            self.recorded[name] = fresh
        self._by_socket[source] = self.recorded[name]
        return True


def _block(kind: int, body: bytes) -> bytes:
    size = 12 + (len(body) + 3 & ~3)
    return struct.pack("<II", kind, size) + body.ljust(size - 12, b"\0") + struct.pack("<I", size)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value.ljust(len(value) + 3 & ~3, b"\0")


def _heads(line: str) -> tuple[bytes, bytes]:
    """Source and destination address, and destination port, of what came by a line such as ``udp://127.0.0.1:5480``."""
    host, _, port = line.partition("://")[2].rpartition(":")
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        address = ip_address("0.0.0.0")
    source = bytes(len(address.packed))
    return source + address.packed, struct.pack(">H", int(port) if port.isdecimal() else 0)


def _datagram(addresses: bytes, port: bytes, payload: bytes) -> bytes:
    """The payload as an IP packet (RFC 791, RFC 8200) with UDP (RFC 768) in it."""
    size = 8 + len(payload)
    udp = b"\0\0" + port + struct.pack(">HH", size & 0xFFFF, 0)
    if len(addresses) == 8:
        head = struct.pack(">BBHHHBBH", 0x45, 0, (20 + size) & 0xFFFF, 0, 0x4000, 64, 17, 0) + addresses
        return head[:10] + struct.pack(">H", _checksum(head)) + head[12:] + udp + payload
    checksum = _checksum(addresses + struct.pack(">II", size, 17) + udp + payload) or 0xFFFF
    head = struct.pack(">IHBB", 0x60000000, size & 0xFFFF, 17, 64) + addresses
    return head + udp[:6] + struct.pack(">H", checksum) + payload


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
