"""Capture files as batches of UDP payloads: pcap, pcapng, and either of them in gzip, told apart by their first bytes.

A file is read in pieces and walked by compiled code; payloads are views into the piece, so a day's capture
costs memory for one piece. What is whole before a break in the file is delivered first; then `CaptureError`
says at which byte (of the uncompressed file) it broke and what was expected there.
"""

import gzip
import ipaddress
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, NamedTuple, Self, cast

import numpy as np
import numpy.typing as npt

from fabric.errors import CaptureError
from nodes.feeds import capture_kernel as kernel
from nodes.feeds.wire import Packets

PIECE_BYTES: Final = 1 << 20
"""Room for several of the largest records; more is read when a record does not fit."""
BATCH_MAX: Final = 4_096
"""Payloads in one batch."""
_GZIP: Final = b"\x1f\x8b"
_SECTION: Final = 0x0A0D0D0A
_BYTE_ORDER: Final = 0x1A2B3C4D
_PCAP_UNITS_NS: Final = {0xA1B2C3D4: 1_000, 0xA1B23C4D: 1}
_BLOCK_INTERFACE: Final = 1
_BLOCK_MAX: Final = 1 << 24
"""Bytes of a block that is not a packet; more is a broken file."""
_OPTION_TIME_RESOLUTION: Final = 9


class Batch(NamedTuple):
    """Payloads, and where their IP and UDP headers lie in the buffer."""

    packets: Packets
    ip_at: npt.NDArray[np.int64]
    udp_at: npt.NDArray[np.int64]

    def addresses(self, index: int) -> tuple[str, int, str, int]:
        """Source address and port, destination address and port of a payload."""
        data, ip, udp = self.packets.buffer, int(self.ip_at[index]), int(self.udp_at[index])
        start, size = (ip + 12, 4) if data[ip] >> 4 == 4 else (ip + 8, 16)
        source, target = (str(ipaddress.ip_address(data[at : at + size].tobytes())) for at in (start, start + size))
        ports = data[udp : udp + 4].tobytes()
        return source, int.from_bytes(ports[:2], "big"), target, int.from_bytes(ports[2:], "big")


def is_capture(path: Path) -> bool:
    """Whether the file begins like a capture, in gzip or not; raises CaptureError when it cannot be read."""
    try:
        with _opened(path) as stream:
            head = stream.read(4)
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureError(f"{path}: {_reason(error)}") from error
    return any(int.from_bytes(head, order) in (_SECTION, *_PCAP_UNITS_NS) for order in ("big", "little"))


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        packed = stream.read(2) == _GZIP
    return cast(BinaryIO, gzip.open(path)) if packed else path.open("rb")


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


class Capture:
    """One capture file, read once from its beginning: iterate it for `Batch`es, views good until the next one."""

    def __init__(self, path: Path) -> None:
        """Open the file and read its header; raises CaptureError when it is not a capture."""
        self.path = path
        self._data = np.zeros(PIECE_BYTES, np.uint8)
        self._start = self._end = 0  # the bytes that wait, in `_data`
        self._base = 0  # byte of the file at `_data[0]`
        self._failed: CaptureError | None = None  # reading ended with this; raised when what was read is used up
        self._found = np.zeros(BATCH_MAX, kernel.FOUND)
        self._counters = np.zeros(kernel.N_COUNTERS, np.int64)
        self._interfaces = np.zeros(0, kernel.INTERFACE)
        self._payloads = 0
        try:
            self._stream = _opened(path)
        except OSError as error:
            raise CaptureError(f"{path}: {_reason(error)}") from error
        try:
            self._read_header()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def counters(self) -> dict[str, int]:
        """Frames read so far, UDP payloads among them, and why the others are none."""
        return {
            "frames": int(self._counters[kernel.FRAMES]),
            "payloads": self._payloads,
            "not_udp": int(self._counters[kernel.NOT_UDP]),
            "fragments": int(self._counters[kernel.FRAGMENTS]),
            "cut": int(self._counters[kernel.CUT]),
        }

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self._start, count, why = self._scan()
            if count:
                self._payloads += count
                yield self._batch(count)
            if why == kernel.MORE and not self._fill():
                break
            if why == kernel.OTHER:
                self._read_block()
            elif why == kernel.BROKEN_LENGTH:
                raise self._broken("a packet record whose length is possible")
            elif why == kernel.BROKEN_INTERFACE:
                raise self._broken(f"a packet of one of the {self._interfaces.size} interfaces described so far")
        if self._failed is not None:
            raise self._failed
        if self._start < self._end:
            raise self._broken(f"a whole packet record; the file ends {self._end - self._start} bytes into it")

    def _scan(self) -> tuple[int, int, int]:
        if self._is_pcapng:
            return kernel.scan_pcapng(
                self._data, self._start, self._end, self._big, self._interfaces, self._found, self._counters
            )
        return kernel.scan_pcap(
            self._data, self._start, self._end, self._big, self._unit_ns, self._link, self._found, self._counters
        )

    def _batch(self, count: int) -> Batch:
        found = self._found[:count]
        columns = {name: np.ascontiguousarray(found[name]) for name in kernel.FOUND.names or ()}
        packets = Packets(
            self._data, columns["offset"], columns["length"], columns["recv_ns"], np.zeros(count, np.int64)
        )
        return Batch(packets, columns["ip_at"], columns["udp_at"])

    def _fill(self) -> bool:
        """Move the waiting bytes to the front and read more behind them; False at the end of the file."""
        waiting = self._end - self._start
        if waiting == self._data.size:
            self._data = np.concatenate((self._data, np.zeros_like(self._data)))
        self._data[:waiting] = self._data[self._start : self._end].copy()
        self._base += self._start
        self._start, self._end = 0, waiting
        if self._failed is not None:
            return False
        try:
            read = self._stream.readinto(self._data[waiting:].data)  # type: ignore[attr-defined]
        except (OSError, EOFError, zlib.error) as error:
            self._failed = CaptureError(f"{self.path}: byte {self._base + self._end}: expected more: {_reason(error)}")
            return False
        self._end += read
        return bool(read)

    def _need(self, count: int, what: str) -> int:
        """Make ``count`` bytes wait; return where they begin."""
        while self._end - self._start < count:
            if not self._fill():
                raise self._failed or self._broken(what)
        return self._start

    def _broken(self, expected: str) -> CaptureError:
        at = self._data[self._start : min(self._start + 16, self._end)].tobytes().hex(" ") or "the end of the file"
        return CaptureError(f"{self.path}: byte {self._base + self._start}: expected {expected}; found {at}")

    def _u32(self, at: int) -> int:
        return int.from_bytes(self._data[at : at + 4].tobytes(), "big" if self._big else "little")

    def _u16(self, at: int) -> int:
        return int.from_bytes(self._data[at : at + 2].tobytes(), "big" if self._big else "little")

    def _read_header(self) -> None:
        expected = "a capture: pcap or pcapng, gzip or not"
        at = self._need(4, expected)
        self._big = False
        self._is_pcapng = self._u32(at) == _SECTION
        if self._is_pcapng:
            self._read_block()
            return
        at = self._need(24, expected)
        for self._big in (False, True):
            unit_ns = _PCAP_UNITS_NS.get(self._u32(at))
            if unit_ns is not None:
                break
        else:
            raise self._broken(expected)
        self._unit_ns, self._link = unit_ns, self._u32(at + 20) & 0xFFFF  # the upper half tells of checksums
        self._check_link(self._link)
        self._start += 24

    def _check_link(self, link: int) -> None:
        if link not in kernel.LINK_TYPES:
            raise self._broken(
                f"link type {', '.join(map(str, kernel.LINK_TYPES))} (Ethernet, raw IP, Linux cooked), not {link}"
            )

    def _read_block(self) -> None:
        """Take a pcapng block that is not a packet: a new section, an interface; others are passed over."""
        at = self._need(12, "a pcapng block")
        if self._u32(at) == _SECTION:
            self._big = self._data[at + 8 : at + 12].tobytes() == _BYTE_ORDER.to_bytes(4, "big")
            if self._u32(at + 8) != _BYTE_ORDER:
                raise self._broken("a section header with its byte-order mark")
            self._interfaces = np.zeros(0, kernel.INTERFACE)
        length = self._u32(at + 4)
        if length % 4 or not 12 <= length <= _BLOCK_MAX:
            raise self._broken(f"a pcapng block whose length is possible, not {length}")
        at = self._need(length, f"a whole pcapng block of {length} bytes")
        if self._u32(at) == _BLOCK_INTERFACE:
            if length < 20:
                raise self._broken("an interface description of 20 bytes or more")
            self._interfaces = np.append(self._interfaces, self._interface(at, length))
        self._start += length

    def _interface(self, at: int, length: int) -> npt.NDArray[np.void]:
        link, captured_max, ticks = self._u16(at + 8), self._u32(at + 12), 1_000_000
        self._check_link(link)
        option = at + 16
        while option + 4 <= at + length - 4:
            code, size = self._u16(option), self._u16(option + 2)
            if code == _OPTION_TIME_RESOLUTION and size == 1:
                resolution = int(self._data[option + 4])
                exponent = resolution & 0x7F
                ticks = 2**exponent if resolution & 0x80 else 10**exponent
                if ticks > 10**9:
                    raise self._broken(f"a clock no finer than nanoseconds, not {ticks} units a second")
            option += 4 + (size + 3) // 4 * 4
        return np.array([(link, ticks, captured_max)], kernel.INTERFACE)
