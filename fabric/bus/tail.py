"""Publishers on this machine read in place: their logs, mapped, as they grow, instead of messages over a socket.

A record passes through no thread of ZeroMQ and no system call, and a reader that is slow costs nobody anything. The
link's socket carries the publisher's heartbeats, and after each batch word that there is more.

A page that a failing disk cannot bring back kills who touches it (SIGBUS), which is why `fabric.journal` reads by
pread(2). Here it is of little account: what was appended just now is in memory, where its writer maps it too.
"""

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fabric import journal
from fabric.bus import tail_kernel
from fabric.bus.tail_kernel import (
    T_ADDRESS,
    T_AT,
    T_ENTERED,
    T_NEXT,
    T_NEXT_STOP,
    T_PREFIXES,
    T_PREFIXES_END,
    T_SEEN,
    T_STOP,
    T_WIDTH,
)
from fabric.journal_kernel import DATA_AT, PREFIX_MAX
from fabric.topology import Source


def can_read(source: Source) -> bool:
    """Whether a reader on the same machine finds the publisher's log, and can pick from it what it wants."""
    log = source.publisher.journal
    return log is not None and log.in_place and all(len(topic.encode()) <= PREFIX_MAX for topic in source.topics)


class Tails:
    """Where a reader stands in the logs that it reads in place, one row a link."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.table = np.zeros((len(sources), T_WIDTH), np.int64)
        """As `tail_kernel.drain_logs` takes it."""
        topics = [topic.encode() for source in sources for topic in source.topics]
        self.prefixes = np.zeros((max(1, len(topics)), PREFIX_MAX), np.uint8)
        self.lengths = np.array([min(len(topic), PREFIX_MAX) for topic in topics] or [0], np.int64)
        self.filters = np.zeros((0, 1), np.int64)  # a link has some dozens of prefixes at most: each is looked at
        for i, topic in enumerate(topics):
            used = topic[:PREFIX_MAX]
            self.prefixes[i, : len(used)] = np.frombuffer(used, np.uint8)
        end = 0
        for source, row in zip(sources, self.table, strict=True):
            row[[T_PREFIXES, T_PREFIXES_END]] = end, end + len(source.topics)
            end += len(source.topics)
        self._logs = [(source.publisher.journal, source.publisher.name) for source in sources]
        self._segments: dict[int, list[_Segment]] = {}  # by link: the one that is read, and the one that follows

    def begin(self, link: int, after: int) -> bool:
        """Stand behind position ``after`` of a log, whether or not more is there; False where no log can be read."""
        self.leave(link)
        best: Path | None = None
        for path in self._files(link):
            if best is None or 0 < _first_position(path) <= after + 1:
                best = path
        segment = None if best is None else _mapped(best)
        if segment is None:
            return False
        self._segments[link] = [segment]
        row = self.table[link]
        row[[T_ADDRESS, T_STOP]] = segment.address, segment.data.size
        row[T_AT] = tail_kernel.seek(segment.address, DATA_AT, segment.data.size, after)
        row[T_SEEN] = after
        self.look_ahead(link)
        return True

    def look_ahead(self, link: int) -> None:
        """Let go of a segment that has been read; have the one that follows at hand, where there is one."""
        segments, row = self._segments[link], self.table[link]
        if row[T_ENTERED]:  # at most once since the last look: there is no other to go on to
            segments.pop(0)
            row[T_ENTERED] = 0
        if len(segments) > 1:
            return
        following = next((path for path in self._files(link) if int(path.stem) > segments[0].number), None)
        if following is not None and (segment := _mapped(following)):
            segments.append(segment)
            row[[T_NEXT_STOP, T_NEXT]] = segment.data.size, segment.address

    def _files(self, link: int) -> list[Path]:
        """The segments of a link's log, oldest first."""
        settings, name = self._logs[link]
        return [] if settings is None else journal.files(journal.log_folder(settings, name))

    @property
    def any(self) -> bool:
        """Whether any log is being read."""
        return bool(self._segments)

    def seen(self, link: int) -> int:
        """Position up to which the log of a link has been read."""
        return int(self.table[link, T_SEEN])

    def reads(self, link: int) -> bool:
        """Whether the log of a link is being read."""
        return link in self._segments

    def leave(self, link: int) -> None:
        """Read a log no more; may be called for one that is not read."""
        self.table[link, [T_ADDRESS, T_NEXT, T_ENTERED]] = 0
        self._segments.pop(link, None)


@dataclass
class _Segment:
    number: int
    data: npt.NDArray[np.uint8]  # which keeps it mapped

    @property
    def address(self) -> int:
        return self.data.ctypes.data


def _mapped(path: Path) -> _Segment | None:
    """A segment in memory; None where it has been forgotten meanwhile, is not ours to read, or is no segment yet."""
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None
    return _Segment(int(path.stem), np.frombuffer(mapped, np.uint8)) if len(mapped) > DATA_AT else None


def _first_position(path: Path) -> int:
    """Position of the first record of a segment; 0 where it holds none yet, or has been forgotten meanwhile."""
    try:
        with path.open("rb") as file:
            file.seek(DATA_AT)
            word, position = struct.unpack("<2q", file.read(16))
    except (OSError, struct.error):
        return 0
    return int(position) if word else 0
