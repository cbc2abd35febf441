"""A book told anew: live messages of a stream wait while an image of it is fetched, and go on behind the image.

After a gap that could not be filled, and for who comes late, the decoder of an order-based format does not know
which orders are open. An exchange that gives images (Cboe's spins) says with each which number it holds the stream
up to. So from the gap on the stream's blocks are held; when the image comes its messages go to the decoder first, then
what is held above its number. While that lasts, a second or so, the venue has no quotes of the stream, as after any
gap, and its trades are late. No image within `WAIT_NS`, or more held than `HELD_BYTES_MAX`, and the stream goes on
without one. While an image is taken a symbol's quotes tell the orders read so far, up to the last one.

Symbols of NYSE are refreshed one by one and need no holding (`recovery_xdp`). ITCH has no images over its lines: who
must have the whole book reads the session from its first message over SoupBinTCP (`recovery_soupbintcp`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fabric.clock import SECOND_NS
from fabric.records import Rows
from nodes.feeds.sequenced_unit_kernel import LAST_NUMBER
from nodes.feeds.wire import Messages
from nodes.feeds.wire_kernel import BLOCK, DATA, GAP, RESTART

WAIT_NS: Final = 5 * SECOND_NS
HELD_BYTES_MAX: Final = 16 << 20
"""Of all streams together."""
MESSAGES_A_BLOCK: Final = 200

Blocks = npt.NDArray[np.void]
Bytes = npt.NDArray[np.uint8]


def ahead(number: int, other: int) -> int:
    """How far a number of a stream is ahead of another, negative if behind: `LAST_NUMBER` is followed by 1."""
    half = LAST_NUMBER // 2
    return (number - other + half) % LAST_NUMBER - half


class Image(NamedTuple):
    """All orders of a stream that were open after message ``number``."""

    stream: int
    number: int
    messages: list[bytes]


class ImageSource(Protocol):
    """Who can be asked for images. Times are monotonic and given."""

    def want(self, stream: int, least: int, monotonic_ns: int) -> None:
        """Fetch an image that holds the stream up to number ``least`` or more; replaces what was wanted of it."""
        ...

    def forget(self, stream: int) -> None:
        """No image of this stream is wanted any more."""
        ...

    def tick(self, monotonic_ns: int) -> None:
        """Do what is due; never blocks."""
        ...

    def images(self) -> list[Image]:
        """Images that have come whole since the last call."""
        ...

    def fileno(self) -> int:
        """One descriptor that becomes readable when there is something for `tick`."""
        ...

    def counters(self) -> dict[str, int]:
        """What it has counted."""
        ...

    def close(self) -> None:
        """Close every connection; may be called twice."""
        ...


@dataclass(slots=True)
class _Waiting:
    least: int  # the image must hold the stream up to here
    until_ns: int
    bytes: int = 0
    held: list[tuple[Bytes, Blocks]] = field(default_factory=list)


class ImagedMessages:
    """A decoder (`Messages`) that has images fetched where the one it stands before has lost its book."""

    def __init__(self, messages: Messages, source: ImageSource) -> None:
        """Stand before ``messages``; call `release` in each turn of the loop."""
        self._messages, self._source = messages, source
        self._known = np.zeros(0, np.int64)
        self._waiting: dict[int, _Waiting] = {}
        self._now_ns = self._bytes = 0
        self._counts = dict.fromkeys(("images", "images_late", "images_overflow", "images_old"), 0)

    def decode(self, buffer: Bytes, blocks: Blocks) -> Iterator[Rows]:
        """As `Messages`, but for blocks that must wait for an image."""
        new = blocks.size > 0 and not np.isin(blocks["stream"], self._known).all()
        if not new and not self._waiting and not (blocks["kind"] >= GAP).any():
            yield from self._messages.decode(buffer, blocks)
            return
        start = 0
        for i in range(blocks.size):
            block = blocks[i]
            if self._passes(block):
                continue
            yield from self._messages.decode(buffer, blocks[start:i])
            start = i + 1
            yield from self._hold(buffer, block)
        yield from self._messages.decode(buffer, blocks[start:])

    def release(self, now_ns: int, monotonic_ns: int) -> Iterator[Rows]:
        """Let streams go on whose image has come (received at ``now_ns``), or that have waited long enough."""
        self._now_ns = monotonic_ns
        self._source.tick(monotonic_ns)
        for image in self._source.images():
            waiting = self._waiting.get(image.stream)
            if waiting is None:
                continue
            if ahead(image.number, waiting.least) < 0:
                self._counts["images_old"] += 1
                self._source.want(image.stream, waiting.least, monotonic_ns)
                continue
            self._counts["images"] += 1
            buffer, blocks = image_blocks(image, now_ns)
            yield from self._messages.decode(buffer, blocks)
            yield from self._go_on(image.stream, image.number + 1)
        for stream, waiting in list(self._waiting.items()):
            if monotonic_ns >= waiting.until_ns:
                self._counts["images_late"] += 1
                self._source.forget(stream)
                yield from self._go_on(stream)

    def counters(self) -> dict[str, int]:
        """Those of the decoder, and of the images: taken, not come in time, without room to wait, older than needed."""
        counts = {**self._counts, "images_awaited": len(self._waiting)}
        return {**self._messages.counters(), **self._source.counters(), **counts}

    def fileno(self) -> int:
        """One descriptor that becomes readable when there is something for `release`."""
        return self._source.fileno()

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def messages_by_type(self) -> dict[str, int]:
        """Those of the decoder."""
        return self._messages.messages_by_type()

    def _passes(self, block: np.void) -> bool:
        """Whether a block goes to the decoder at once; notes when its stream must wait from here on."""
        stream, kind = int(block["stream"]), int(block["kind"])
        first, count = int(block["first"]), int(block["count"])
        if kind not in (DATA, GAP, RESTART) or first < 1:
            return True
        is_new = stream not in self._known
        if is_new:
            self._known = np.append(self._known, stream)
        if kind == RESTART:
            self._forget(stream)
            return True
        if kind == GAP:
            self._wait(stream, first + count - 1)
            return True
        if is_new and kind == DATA and first > 1:
            self._wait(stream, first - 1)
        return stream not in self._waiting

    def _wait(self, stream: int, least: int) -> None:
        """Hold the stream from number ``least + 1`` on; what is held of it already is void."""
        self._forget(stream)
        self._waiting[stream] = _Waiting(least, self._now_ns + WAIT_NS)
        self._source.want(stream, least, self._now_ns)

    def _forget(self, stream: int) -> None:
        waiting = self._waiting.pop(stream, None)
        if waiting is not None:
            self._bytes -= waiting.bytes
            self._source.forget(stream)

    def _hold(self, buffer: Bytes, block: np.void) -> Iterator[Rows]:
        stream, start, stop = int(block["stream"]), int(block["start"]), int(block["stop"])
        waiting = self._waiting[stream]
        held = np.array([block], BLOCK)
        held["start"], held["stop"] = 0, stop - start
        waiting.held.append((buffer[start:stop].copy(), held))
        waiting.bytes += stop - start + BLOCK.itemsize
        self._bytes += stop - start + BLOCK.itemsize
        if self._bytes > HELD_BYTES_MAX:
            self._counts["images_overflow"] += 1
            self._source.forget(stream)
            yield from self._go_on(stream)

    def _go_on(self, stream: int, following: int | None = None) -> Iterator[Rows]:
        """Hand on what is held of a stream, all or from number ``following`` on."""
        waiting = self._waiting.pop(stream)
        self._bytes -= waiting.bytes
        for buffer, blocks in waiting.held:
            first, count, skip = (int(blocks[name][0]) for name in ("first", "count", "skip"))
            had = 0 if following is None else ahead(following, first)
            if had < count:
                blocks["skip"] = max(skip, had)
                yield from self._messages.decode(buffer, blocks)


def image_blocks(image: Image, now_ns: int) -> tuple[Bytes, Blocks]:
    """An image's messages as blocks outside of the numbering, received at ``now_ns``, and their bytes."""
    parts = [image.messages[i : i + MESSAGES_A_BLOCK] for i in range(0, len(image.messages), MESSAGES_A_BLOCK)]
    blocks = np.zeros(len(parts), BLOCK)
    blocks["stream"] = image.stream
    blocks["kind"] = DATA
    blocks["count"] = [len(part) for part in parts]
    blocks["recv_ns"] = now_ns
    blocks["line"] = -1
    sizes = np.array([sum(map(len, part)) for part in parts], np.int64)
    blocks["stop"] = np.cumsum(sizes)
    blocks["start"] = blocks["stop"] - sizes
    return np.frombuffer(b"".join(image.messages) or b"\0", np.uint8).copy(), blocks
