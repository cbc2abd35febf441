"""What a feed node and a wire agree on: packets go in, rows come out, and the node knows nothing else of the format.

Sockets (`lines`) and capture files (`capture`) fill the same arrays, so a decoder is fed the same way by both.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fabric.records import Rows


class Packets(NamedTuple):
    """UDP payloads in order of arrival: number ``i`` is ``buffer[offsets[i]:offsets[i] + lengths[i]]``.

    Views into the receiver's memory, good until its next batch.
    """

    buffer: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    recv_ns: npt.NDArray[np.int64]  # when each was received (or captured)
    lines: npt.NDArray[np.int64]  # index of the line that brought each; 0 for all of a capture

    def part(self, start: int, stop: int) -> "Packets":
        """Packets ``start`` to ``stop`` (exclusive), sharing memory."""
        return Packets(self.buffer, *(column[start:stop] for column in self[1:]))


def from_payloads(payloads: list[bytes], recv_ns: int = 0, line: int = 0) -> Packets:
    """Copy payloads into one batch, all received at ``recv_ns`` on line number ``line``."""
    lengths = np.array([len(payload) for payload in payloads], np.int64)
    buffer = np.frombuffer(b"".join(payloads) or b"\0", np.uint8).copy()
    stamps = np.full((2, len(payloads)), [[recv_ns], [line]], np.int64)
    return Packets(buffer, np.cumsum(lengths) - lengths, lengths, *stamps)


class Messages(Protocol):
    """The decoder of one format's messages: blocks in order of their streams go in, rows come out."""

    def decode(self, buffer: npt.NDArray[np.uint8], blocks: npt.NDArray[np.void]) -> Iterator[Rows]:
        """Take every BLOCK; yield EVENT rows, each array a view good until the next is taken.

        Of DATA the first ``skip`` messages are passed over. After a GAP or RESTART of a stream, quotes that can no
        longer be known are withdrawn (rows without sides) until the stream has told them anew.
        """
        ...

    def counters(self) -> dict[str, int]:
        """Everything counted so far, by name."""
        ...

    def messages_by_type(self) -> dict[str, int]:
        """Messages so far by the name of their type."""
        ...


class Wire(Protocol):
    """The decoder of one format with what it remembers. No socket, no clock, no bus. Times are monotonic."""

    def decode(self, packets: Packets, monotonic_ns: int) -> Iterator[Rows]:
        """Take every packet of the batch; yield EVENT rows, each array a view good until the next is taken.

        Call also without packets: what waits for lost ones goes out when it has waited long enough.
        """
        ...

    @property
    def accepted(self) -> int:
        """Packets so far that were this wire's and sound, heartbeats included: a growing number is a living line."""
        ...

    @property
    def malformed(self) -> int:
        """Packets so far that were not what they must be."""
        ...

    @property
    def gaps(self) -> int:
        """Gaps so far in the exchange's sequence: what was lost and not recovered."""
        ...

    @property
    def waiting(self) -> int:
        """Streams that wait for lost messages just now."""
        ...

    def missing(self, monotonic_ns: int) -> npt.NDArray[np.void]:
        """Ranges (``stream``, ``session``, ``first``, ``count``) to ask for now; good until the next call."""
        ...

    def lost(self) -> list[tuple[int, int]]:
        """(stream, symbol index) of what a gap made unknown, where symbols can be refreshed one by one."""
        ...

    def release(self, now_ns: int, monotonic_ns: int) -> Iterator[Rows]:
        """As `decode`, for what waited for an image of its book (received at ``now_ns``)."""
        ...

    def counters(self) -> dict[str, int]:
        """Everything counted so far. ``malformed`` is the sum of the keys that begin with ``malformed_``."""
        ...

    def messages_by_type(self) -> dict[str, int]:
        """Messages so far by the name of their type."""
        ...
