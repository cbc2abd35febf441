"""The publisher's durable log: what it sends is appended first, and anyone may read it from any position.

A log is a folder of segments, each preallocated and mapped into memory. The publisher's kernel copies each message to
the end of the newest; everything that may wait for a disk is done by the log's own thread: making room ahead, syncing,
sealing, forgetting. The promise: **a killed process loses nothing that was appended, and a power cut at most the last
`journal.sync` (50 ms); a sync that took longer is counted.**

What goes wrong is told and never stops the publisher. Without room (a full or failing disk) the log is suspended:
messages go out unlogged and counted until there is room again. A segment whose sync failed is left at once and sealed
as suspect: the kernel may have dropped its pages (fsync(2)), so it is never reported as synced. A crash leaves a torn
tail, which is cut at the next open; a record that fails its CRC is skipped, counted, and never served.

Readers use pread(2), not a map: what a failing disk cannot give is an error to be counted, where a map would kill the
process. A file `<number>.log`, little-endian: a head of 64 bytes, records (`journal_kernel`), and once sealed the index
and a trailer, from which a start knows the segment without reading it. Positions go up through all segments; a
restarted publisher goes on where its log ends, in a new segment, under a new epoch.
"""

import errno
import fcntl
import logging
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fabric import journal_kernel as jk
from fabric.clock import SECOND_NS, Clock
from fabric.errors import UnavailableError
from fabric.topology import JournalSettings

log = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]

SEGMENTS_KEPT = 32
"""A segment is this part of the bytes that are kept, within the next two bounds: little is forgotten at once."""
SEGMENT_MIN = 1 << 20
SEGMENT_MAX = 1 << 28
RETRY_NS = SECOND_NS
"""A suspended log tries again to make room this often."""
ROOM_WITHIN_S = 0.1
"""A publisher that has outrun the making of room waits for it this long; then the log is suspended."""
ROLLS_A_KEEP = 8
"""A segment is left at this part of the time that is kept, so that a slow log forgets in time too."""
LEAVING_MAX = 8
"""Segments that were left and are not sealed yet: a publisher that outruns the disk by more has to wait."""
AHEAD_MIN = 1 << 20
BLOCK = 1 << 20
"""Bytes that a reader takes from a file at once."""
NO_END = 2**63 - 1

_MAGIC, _INDEX_MAGIC = b"MDFLOG01", b"MDFIDX01"
_HEAD = struct.Struct("<8sqqq24xQ")
_TRAILER = struct.Struct("<8s12qQ")


@dataclass(frozen=True)
class Segment:
    """One file of a log and what is in it. Positions and stamps are 0 where it holds no record."""

    path: Path
    number: int
    first: int = 0
    last: int = 0
    first_ns: int = 0
    last_ns: int = 0
    first_epoch: int = 0
    last_epoch: int = 0
    records: int = 0
    end: int = jk.DATA_AT  # after its last record
    holes: int = 0  # places that hold no sound record, between two that are
    skipped: int = 0  # bytes in them
    suspect: bool = False  # a sync of it failed: what a power cut leaves of it is unknown
    sealed: bool = False
    index: npt.NDArray[np.int64] | None = field(default=None, compare=False)  # (position, stamp, offset); None: on disk

    @property
    def size(self) -> int:
        """Bytes on disk."""
        with suppress(OSError):
            return self.path.stat().st_blocks * 512
        return 0

    def load_index(self) -> npt.NDArray[np.int64]:
        """Its index; raises OSError."""
        if self.index is not None:
            return self.index
        with self.path.open("rb") as file:
            file.seek(self.end)
            raw = file.read()[: -_TRAILER.size]
        return np.frombuffer(raw, np.int64).reshape(-1, 3)


@dataclass(frozen=True)
class Query:
    """What a reader wants: positions ``first`` to ``last``, not before ``from_ns``, topics that begin with a prefix."""

    first: int = 1
    last: int = NO_END
    from_ns: int = 0
    prefixes: tuple[bytes, ...] = (b"",)


def log_folder(settings: JournalSettings, name: str) -> Path:
    """Where the log of the publisher of that name is."""
    return Path(settings.folder) / name


def inspect(path: Path) -> Segment:
    """What a segment holds, from its trailer; where that is missing or broken, by reading it whole. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if found := _from_trailer(path, file.fileno(), size):
            return found
        file.seek(0)
        return examine(path, file.read())


def examine(path: Path, raw: bytes, stop: int | None = None) -> Segment:
    """`inspect` by the records alone: each is checked."""
    data = np.frombuffer(raw, np.uint8)
    found = np.zeros(jk.W_WIDTH, np.int64)
    index = np.zeros((len(raw) // jk.INDEX_EVERY + 1, 3), np.int64)
    if stop is None:
        stop = len(raw)
    jk.walk(data.copy(), jk.DATA_AT, max(jk.DATA_AT, stop), found, index)
    first, last, first_ns, last_ns, first_epoch, last_epoch, count, end, holes, skipped, indexed, _ = found.tolist()
    return Segment(
        path, _number(path), first, last, first_ns, last_ns, first_epoch, last_epoch, count, end, holes, skipped,
        index=index[:indexed],
    )  # fmt: skip


def _from_trailer(path: Path, descriptor: int, size: int) -> Segment | None:
    """A sealed segment; None where it is not sealed, or its index or trailer is not what was written."""
    if size < jk.DATA_AT + _TRAILER.size:
        return None
    trailer = os.pread(descriptor, _TRAILER.size, size - _TRAILER.size)
    magic, entries, end, *numbers, suspect, crc = _TRAILER.unpack(trailer)
    whole = end >= jk.DATA_AT and entries >= 0 and end + 24 * entries + _TRAILER.size == size
    if magic != _INDEX_MAGIC or not whole:
        return None
    raw = os.pread(descriptor, 24 * entries + _TRAILER.size, end)
    if len(raw) != 24 * entries + _TRAILER.size or _crc(raw[:-8]) != crc:
        return None
    first, last, first_ns, last_ns, first_epoch, last_epoch, records, holes, skipped = numbers
    return Segment(
        path, _number(path), first, last, first_ns, last_ns, first_epoch, last_epoch, records, end, holes, skipped,
        bool(suspect), sealed=True,
    )  # fmt: skip


def _sealing(segment: Segment) -> bytes:
    """What stands behind the records of a sealed segment."""
    index = segment.load_index()
    body = index.tobytes() + _TRAILER.pack(
        _INDEX_MAGIC, index.shape[0], segment.end, segment.first, segment.last, segment.first_ns, segment.last_ns,
        segment.first_epoch, segment.last_epoch, segment.records, segment.holes, segment.skipped, segment.suspect, 0,
    )[:-8]  # fmt: skip
    return body + _crc(body).to_bytes(8, "little")


def _crc(raw: bytes) -> int:
    data = np.frombuffer(raw, np.uint8).copy()
    return int(jk.crc32c(data, 0, data.size, 0))


def _number(path: Path) -> int:
    return int(path.stem)


def files(folder: Path) -> list[Path]:
    """The segments of a log, oldest first; empty where there is no such folder."""
    try:
        return sorted((path for path in folder.glob("*.log") if path.stem.isdecimal()), key=_number)
    except OSError:
        return []


def segments(folder: Path) -> list[Segment]:
    """Every segment of a log that can be read and holds a record; its publisher may be at work on it."""
    found = []
    for path in files(folder):
        try:
            segment = inspect(path)
        except OSError as error:
            if error.errno != errno.ENOENT:  # forgotten meanwhile
                log.warning("%s: cannot be read: %s", path, error.strerror)
            continue
        if segment.records:
            found.append(segment)
    return found


class Cursor:
    """One reader's way through a log. Takes what `Query` asks for in pieces of whole records; holds one open file."""

    def __init__(self, listing: Callable[[], Sequence[Segment]], query: Query) -> None:
        """``listing`` gives the segments as they are now, oldest first: it is asked again at the end of each."""
        self._listing = listing
        self._query = query
        self._prefixes = np.zeros((len(query.prefixes), jk.PREFIX_MAX), np.uint8)
        self._lengths = np.array([len(prefix) for prefix in query.prefixes], np.int64)
        for row, prefix in zip(self._prefixes, query.prefixes, strict=True):
            assert len(prefix) <= jk.PREFIX_MAX
            row[: len(prefix)] = np.frombuffer(prefix, np.uint8)
        self._filters = _filters(query.prefixes)
        self._way = np.zeros(jk.S_WIDTH, np.int64)
        self._way[jk.S_STARTED] = query.from_ns == 0
        self._block = np.empty(BLOCK, np.uint8)
        self._view = self._block.data
        self._number = 0
        self._file = -1
        self._at = 0
        self._end = 0
        self.done = query.first > query.last
        """Whether nothing more will come."""
        self.looked = 0
        """Bytes of the log that were looked through."""
        self.errors = 0
        """Segments that could not be read to their end: the disk fails, or the file was cut short."""

    def read(self, out: Bytes, look_max: int = NO_END) -> int:
        """Fill ``out`` (at least RECORD_MAX bytes) with records; return how many bytes, 0 when `done`, and also where
        ``look_max`` bytes of the log hold nothing that is wanted.
        """
        way = self._way
        way[jk.S_OUT] = 0
        look_max += self.looked
        while not self.done and self.looked < look_max:
            if self._at >= self._end and not self._next():
                self.close()
                break
            size = self._fill()
            if size == 0:
                continue
            final = self._at + size >= self._end
            jk.select(
                self._block, 0, size, int(final), out, way, self._query.first, self._query.last, self._query.from_ns,
                self._prefixes, self._lengths, self._filters,
            )  # fmt: skip
            self._at += int(way[jk.S_RESUME])
            self.looked += int(way[jk.S_RESUME])
            if way[jk.S_DONE]:
                self.close()
            elif way[jk.S_OUT] + jk.RECORD_MAX > out.size:
                break
        return int(way[jk.S_OUT])

    def summary(self) -> dict[str, int]:
        """Of all that was read: records, first and last position, epoch of the last, CRC-32C of all bytes, and places
        where sound records were missing.
        """
        way = self._way.tolist()
        return {
            "count": way[jk.S_COUNT],
            "first": way[jk.S_FIRST],
            "last": way[jk.S_LAST],
            "epoch": way[jk.S_EPOCH],
            "checksum": way[jk.S_CRC],
            "holes": way[jk.S_HOLES] + self.errors,
        }

    @property
    def seen(self) -> int:
        """Position up to which the log has been looked at."""
        return int(self._way[jk.S_SEEN])

    def close(self) -> None:
        """Close the file; nothing more will come."""
        self.done = True
        self._leave()

    def _leave(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._at = self._end = 0

    def _fill(self) -> int:
        """Read the next block; 0 where there is none, though there should be."""
        try:
            size = os.preadv(self._file, [self._view[: min(BLOCK, self._end - self._at)]], self._at)
        except OSError as error:
            log.error("log segment %d: cannot be read at %d: %s", self._number, self._at, error.strerror)
            size = 0
        if size == 0:
            self.errors += 1
            self._leave()
        return size

    def _next(self) -> bool:
        """Go on: in the segment that has grown meanwhile, else in the next that may hold something."""
        for segment in self._listing():
            if segment.number == self._number and self._file >= 0 and segment.end > self._at:
                self._end = segment.end
                return True
            if segment.number <= self._number or segment.last < self._query.first:
                continue
            if not self._way[jk.S_STARTED] and segment.last_ns < self._query.from_ns:
                continue
            if segment.first > self._query.last:
                return False
            self._leave()
            self._number = segment.number
            try:
                index = segment.load_index()
                self._file = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    self.errors += 1
                    log.error("%s: cannot be read: %s", segment.path, error.strerror)
                continue
            self._at, self._end = self._begin(index), segment.end
            return True
        return False

    def _begin(self, index: npt.NDArray[np.int64]) -> int:
        """Offset of a record at or before the first wanted one."""
        entry = int(np.searchsorted(index[:, 0], max(self._query.first, self.seen + 1), "right")) - 1
        if not self._way[jk.S_STARTED]:
            late = np.flatnonzero(index[:, 1] >= self._query.from_ns)
            entry = max(entry, int(late[0]) - 1 if late.size else index.shape[0] - 1)
        return int(index[entry, 2]) if entry >= 0 else jk.DATA_AT


def _filters(prefixes: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """What lets `journal_kernel.select` pass over topics; nothing where a prefix is empty, so that all are wanted."""
    shifts = sorted({64 - 8 * min(len(prefix), 8) for prefix in prefixes}) if all(prefixes) else []
    filters = np.zeros((len(shifts), 1 + (1 << jk.FILTER_BITS)), np.int64)
    filters[:, 0] = shifts
    for prefix in prefixes if shifts else ():
        shift = 64 - 8 * min(len(prefix), 8)
        word = int.from_bytes(prefix[:8], "little") << shift
        filters[shifts.index(shift), 1 + jk.hashed(word)] = 1
    return filters


def records(cursor: Cursor) -> Iterator[tuple[int, int, int, bytes, bytes]]:
    """What a cursor reads, one by one: position, epoch, stamp, topic, payload. For tools; it is slow."""
    out = np.empty(BLOCK, np.uint8)
    while size := cursor.read(out):
        yield from split(out[:size].tobytes())


def split(raw: bytes) -> Iterator[tuple[int, int, int, bytes, bytes]]:
    """The records, as of `records`, that stand one after the other in ``raw``. Raises ValueError where they do not."""
    at = 0
    while at < len(raw):
        if at + jk.HEAD_BYTES > len(raw):
            raise ValueError(f"a record begins at {at} of {len(raw)} bytes")
        word, position, stamp_ns, epoch = struct.unpack_from("<Qqqq", raw, at)
        length, topic = (word >> 32) & 0xFFFFFF, word >> 56
        middle = at + jk.HEAD_BYTES + topic
        if not middle <= at + length <= len(raw):
            raise ValueError(f"a record of {length} bytes begins at {at} of {len(raw)}")
        yield position, epoch, stamp_ns, raw[at + jk.HEAD_BYTES : middle], raw[middle : at + length]
        at += (length + 7) & ~7


@dataclass
class _Room:
    """A segment that is mapped."""

    path: Path
    number: int
    descriptor: int
    map: mmap.mmap
    data: Bytes
    index: npt.NDArray[np.int64]
    synced: int = jk.DATA_AT  # bytes from its beginning that are on the disk
    named: bool = False  # its name in the folder is on the disk
    populated: int = 0
    grown: int = 0  # what it held when the next pages were last made ready
    suspect: bool = False
    left: Segment | None = None  # what it holds, once the publisher has left it

    @property
    def address(self) -> int:
        return self.data.ctypes.data

    def unmap(self) -> None:
        del self.data
        self.map.close()


Sync = Callable[[int, int], int]
"""(address, length) of mapped memory -> 0 or the errno; `journal_kernel.sync`."""
Allocate = Callable[[int, int, int], None]
"""(descriptor, offset, length), raising OSError; `os.posix_fallocate`."""


class Journal:
    """The log of one publisher, to be written. One at a time: the folder is locked."""

    def __init__(
        self,
        folder: Path,
        settings: JournalSettings,
        clock: Clock,
        epoch: int,
        *,
        sync: Sync = jk.sync,
        allocate: Allocate = os.posix_fallocate,
    ) -> None:
        """Opens the log: cuts what a crash has torn, forgets what is too old, and is ready to append.

        Raises UnavailableError where the folder cannot be used. A full disk is no such reason: then the log begins
        suspended.
        """
        self.folder = folder
        self.state = np.zeros(jk.J_WIDTH, np.int64)
        """What the publisher's kernel appends by."""
        self._settings = settings
        self._clock = clock
        self._epoch = epoch
        self._sync_memory = sync
        self._allocate = allocate
        self._segment_bytes = (
            min(max(settings.bytes_max // SEGMENTS_KEPT, SEGMENT_MIN), SEGMENT_MAX) // jk.PAGE * jk.PAGE
        )
        self._rooms: dict[int, _Room] = {}  # mapped, in the order of their numbers; replaced as a whole
        self._synced = 0
        self._counts = dict.fromkeys(("log_suspects", "log_late_syncs", "log_suspensions", "log_forgotten"), 0)
        self._problem = ""
        self._retry_ns = 0
        self._closing = False
        self.idle = True
        """Whether the thread sleeps until `stir` is called."""
        self._stirred = threading.Event()
        self._hurry = threading.Event()
        self._sync_wanted = threading.Event()
        self._turned = threading.Condition()
        self._changing = threading.Lock()
        """Held by whoever replaces `_rooms` or `_sealed`; who only looks needs none."""
        self._lock = self._claim()
        try:
            self._sealed = self._recover()
        except OSError as error:
            os.close(self._lock)
            raise UnavailableError(f"{folder}: the log cannot be opened: {error.strerror}") from error
        self._next_number = self._last_number() + 1
        newest = self._sealed[-1] if self._sealed else None
        self.state[jk.J_POSITION] = self.state[jk.J_LAST] = newest.last if newest else 0
        self._synced = newest.last if newest else 0
        self._forget()
        self._make_room()
        self.state[jk.J_ON] = 1
        self._threads = [
            threading.Thread(target=self._guard, args=(run,), name=f"{folder.name}-log", daemon=True)
            for run in (self._keep, self._sync)
        ]
        for thread in self._threads:
            thread.start()

    # -- what its publisher calls

    @property
    def position(self) -> int:
        """Of the last message: the next is one more."""
        return int(self.state[jk.J_POSITION])

    @property
    def full(self) -> bool:
        """Whether the last append found no room, so that `wait_for_room` has to be called."""
        return bool(self.state[jk.J_WAITING])

    def stir(self) -> None:
        """Something was appended while the thread was `idle`."""
        self.idle = False
        self._stirred.set()

    def wait_for_room(self) -> None:
        """Let the thread make room, 0.1 s at most; else the log is suspended and goes on when there is room."""
        with self._turned:
            self.stir()
            self._hurry.set()
            if not self._turned.wait_for(self._has_room, ROOM_WITHIN_S):
                self._suspend("the disk does not make room in time")
        self.state[jk.J_WAITING] = 0

    def counters(self) -> dict[str, int]:
        """By the names that ``status`` and ``/metrics`` use; ``log_suspended`` is 1 while nothing is logged."""
        state = self.state.tolist()
        return {
            "log_first": self.first,
            "log_appended": state[jk.J_APPENDED],
            "log_bytes": state[jk.J_BYTES],
            "log_synced": self._synced,
            "log_unlogged": state[jk.J_UNLOGGED],
            "log_suspended": state[jk.J_SUSPENDED],
            **self._counts,
        }

    @property
    def first(self) -> int:
        """Position of the oldest record that is held, 0 for none."""
        sealed = self._sealed
        return sealed[0].first if sealed else int(self.state[jk.J_FIRST])

    def close(self) -> None:
        """Sync and seal all; may be called again."""
        if not self._closing:
            self._closing = True
            self.state[jk.J_ON] = 0
            for event in (self._hurry, self._stirred, self._sync_wanted):
                event.set()
            for thread in self._threads:
                thread.join()
            self._take_left()
            for room in list(self._rooms.values()):
                room.left = self._held(room, self.state)
                self._seal(room)
            self._forget()
            os.close(self._lock)

    # -- what readers call

    def listing(self) -> list[Segment]:
        """Every segment that holds a record, oldest first, as it is now. From any thread."""
        while True:
            sealed, rooms, state = self._sealed, dict(self._rooms), self.state.copy()
            if self._sealed is sealed:
                break
        live = []
        for number in sorted(rooms):
            segment = self._held(rooms[number], state)
            if segment.records and (not sealed or number > sealed[-1].number):
                live.append(segment)
        return [*sealed, *live]

    def _held(self, room: _Room, state: npt.NDArray[np.int64]) -> Segment:
        """What a mapped segment holds."""
        if room.left is not None:
            return replace(room.left, suspect=room.suspect)
        if room.number == state[jk.J_NUMBER]:
            columns = [jk.J_FIRST, jk.J_LAST, jk.J_FIRST_NS, jk.J_STAMP_NS, jk.J_RECORDS, jk.J_END, jk.J_INDEX_COUNT]
        elif room.number == state[jk.J_LEFT_NUMBER]:
            columns = [
                *(jk.J_LEFT_FIRST, jk.J_LEFT_LAST, jk.J_LEFT_FIRST_NS, jk.J_LEFT_LAST_NS, jk.J_LEFT_RECORDS),
                *(jk.J_LEFT_END, jk.J_LEFT_INDEX_COUNT),
            ]
        else:
            return Segment(room.path, room.number)
        first, last, first_ns, last_ns, count, end, indexed = state[columns].tolist()
        if not count:
            return Segment(room.path, room.number)
        return Segment(
            room.path, room.number, first, last, first_ns, last_ns, self._epoch, self._epoch, count, end,
            suspect=room.suspect, index=room.index[:indexed],
        )  # fmt: skip

    # -- opening

    def _claim(self) -> int:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UnavailableError(f"{self.folder}: the log cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UnavailableError(f"{self.folder}: another process writes this log") from None
        return descriptor

    def _recover(self) -> tuple[Segment, ...]:
        """Seal what a crash has left open, without its torn tail; remove what was made ready and never used."""
        found = []
        for path in files(self.folder):
            segment = inspect(path)
            if segment.sealed:
                found.append(segment)
            elif not segment.records:
                path.unlink()
            else:
                cut = path.stat().st_size - segment.end
                log.info("%s: not sealed: %d records, %d bytes behind them cut", path, segment.records, cut)
                if segment.holes:
                    log.warning("%s: %d places (%d bytes) skipped", path, segment.holes, segment.skipped)
                with suppress(OSError), path.open("r+b") as file:  # a full disk: then it is read whole each time
                    _write_seal(file.fileno(), segment)
                    segment = replace(segment, sealed=True, index=None)
                found.append(segment)
        return tuple(found)

    def _last_number(self) -> int:
        return max(map(_number, files(self.folder)), default=0)

    # -- the threads: one makes room, which must not wait for a disk that is busy syncing; the other syncs and seals

    def _guard(self, run: Callable[[], None]) -> None:
        """An error of our own ends the log, never silently and never the publisher."""
        try:
            run()
        except Exception:
            log.exception("%s: the log has failed; the feed goes on without it", self.folder)
            self._problem = "failed"
            self._retry_ns = NO_END
            self.state[[jk.J_SUSPENDED, jk.J_SIZE, jk.J_NEXT_ADDRESS]] = 1, 0, 0

    def _keep(self) -> None:
        while not self._closing:
            self.idle = True  # before the look: who appends after it sees this, and stirs
            if not self.state[jk.J_DIRTY_NS]:
                self._stirred.wait(RETRY_NS / SECOND_NS)
            self.idle = False
            self._stirred.clear()
            # Half of the promise is for gathering, the other half for the disk.
            self._hurry.wait(self._settings.sync_ns / 2 / SECOND_NS)
            self._hurry.clear()
            self._take_left()
            may_try = not self._problem or self._clock.monotonic_ns() >= self._retry_ns
            if may_try and not self.state[jk.J_NEXT_ADDRESS] and len(self._leaving()) < LEAVING_MAX:
                self._make_room()
            with self._turned:
                self._turned.notify_all()
            self._populate_current()
            self._sync_wanted.set()

    def _sync(self) -> None:
        while not self._closing:
            self._sync_wanted.wait()
            self._sync_wanted.clear()
            for room in self._leaving():
                self._seal(room)
            current = self._rooms.get(int(self.state[jk.J_NUMBER]))
            if current is not None and current.left is None:
                self._sync_current(current)
                self._roll_by_age()
            self._forget()

    def _take_left(self) -> None:
        """Note what is in a segment that the publisher has left. It cannot leave the next before it is offered one."""
        state = self.state.copy()
        if room := self._rooms.get(int(state[jk.J_LEFT_NUMBER])):
            room.left = self._held(room, state)
            self.state[jk.J_LEFT_NUMBER] = 0

    def _leaving(self) -> list[_Room]:
        return [room for room in self._rooms.values() if room.left is not None]

    def _has_room(self) -> bool:
        return bool(self.state[jk.J_NEXT_ADDRESS] or self.state[jk.J_SUSPENDED])

    def _make_room(self) -> None:
        """Have the next segment ready; where it cannot be made, the log is suspended as soon as this one is full."""
        path = self.folder / f"{self._next_number:012d}.log"
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._allocate(descriptor, 0, self._segment_bytes)
            head = _HEAD.pack(_MAGIC, self._next_number, self._segment_bytes, self._clock.now_ns(), 0)[:-8]
            os.pwrite(descriptor, head + _crc(head).to_bytes(8, "little"), 0)
            mapped = mmap.mmap(descriptor, self._segment_bytes)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
                with suppress(OSError):
                    path.unlink()
            self._suspend(error.strerror or str(error))
            return
        index = np.zeros((self._segment_bytes // jk.INDEX_EVERY + 2, 3), np.int64)
        room = _Room(path, self._next_number, descriptor, mapped, np.frombuffer(mapped, np.uint8), index)
        with self._changing:
            self._rooms = {**self._rooms, room.number: room}
        self._next_number += 1
        self._populate(room, jk.DATA_AT + AHEAD_MIN)
        if self._problem:
            log.warning("%s: there is room again: the log goes on after %d unlogged messages", self.folder,
                        self.state[jk.J_UNLOGGED])  # fmt: skip
            self._problem = ""
        self.state[jk.J_SUSPENDED] = 0
        self.state[jk.J_NEXT_SIZE] = self._segment_bytes
        self.state[jk.J_NEXT_INDEX] = index.ctypes.data
        self.state[jk.J_NEXT_NUMBER] = room.number
        self.state[jk.J_NEXT_ADDRESS] = room.address  # last: now the kernel may enter it

    def _suspend(self, why: str) -> None:
        self._retry_ns = self._clock.monotonic_ns() + RETRY_NS
        self.state[jk.J_SUSPENDED] = 1
        if not self._problem:
            self._counts["log_suspensions"] += 1
            log.error("%s: no room for the log: %s; it is suspended when this segment is full, the feed goes on",
                      self.folder, why)  # fmt: skip
        self._problem = why

    def _populate(self, room: _Room, upto: int) -> None:
        """Have the pages before ``upto`` ready, so that the publisher need not wait for the kernel at each."""
        want = min(room.data.size, (upto + jk.PAGE - 1) // jk.PAGE * jk.PAGE)
        if want > room.populated and jk.populate(room.address + room.populated, want - room.populated) == 0:
            room.populated = want

    def _populate_current(self) -> None:
        state = self.state.copy()
        room = self._rooms.get(int(state[jk.J_NUMBER]))
        if room is not None and room.left is None:
            end = int(state[jk.J_END])
            ahead = max(AHEAD_MIN, 4 * (end - room.grown))
            self._populate(room, end + ahead)
            room.grown = end
            after = self._rooms.get(int(state[jk.J_NEXT_NUMBER]))
            if after is not None and after.left is None and end + ahead > room.data.size:
                self._populate(after, ahead)

    def _sync_current(self, room: _Room) -> None:
        dirty_ns = int(self.state[jk.J_DIRTY_NS])
        self.state[jk.J_DIRTY_NS] = 0  # before the look at what is there: what comes later is of the next sync
        state = self.state.copy()
        if state[jk.J_NUMBER] != room.number:  # it was left just now; then all of it is synced when it is sealed
            return
        segment = self._held(room, state)
        if self._sync_room(room, segment) and dirty_ns:
            late = self._clock.monotonic_ns() - dirty_ns > self._settings.sync_ns
            self._counts["log_late_syncs"] += late

    def _sync_room(self, room: _Room, segment: Segment) -> bool:
        """Have all of it on the disk; return whether it is."""
        if segment.end <= room.synced or room.suspect:
            return not room.suspect
        try:
            # Only what holds records: a sync of the file would also write, and write-protect, the pages made ready.
            code = self._sync_memory(room.address + room.synced, segment.end - room.synced)
            if not room.named:
                _sync_folder(self.folder)
                room.named = True
        except OSError as error:
            code = error.errno or errno.EIO
        if code:
            self._give_up(room, os.strerror(code))
            return False
        room.synced = segment.end
        self._synced = segment.last
        return True

    def _give_up(self, room: _Room, why: str) -> None:
        """What of it is on the disk is unknown, and a second sync would not tell: leave it."""
        room.suspect = True
        self._counts["log_suspects"] += 1
        log.error("%s: sync failed: %s; sealed as suspect, the log goes on in a new segment", room.path, why)
        if self.state[jk.J_NUMBER] == room.number:
            self.state[jk.J_SIZE] = 0

    def _roll_by_age(self) -> None:
        state = self.state
        age_ns = self._clock.now_ns() - int(state[jk.J_FIRST_NS])
        if state[jk.J_RECORDS] and age_ns > self._settings.keep_ns // ROLLS_A_KEEP and state[jk.J_NEXT_ADDRESS]:
            state[jk.J_SIZE] = 0

    def _seal(self, room: _Room) -> None:
        """Sync the rest, cut the file to what it holds, write its index and let it go; an empty one is removed."""
        assert room.left is not None
        segment = room.left
        if segment.records:
            self._sync_room(room, segment)
        if segment.index is not None:
            segment = replace(segment, suspect=room.suspect, index=segment.index.copy())
        room.unmap()
        try:
            if segment.records:
                _write_seal(room.descriptor, segment)
                segment = replace(segment, sealed=True, index=None)
            else:
                room.path.unlink()
        except OSError as error:  # it is read whole at the next open
            log.error("%s: cannot be sealed: %s", room.path, error.strerror)
        os.close(room.descriptor)
        with self._changing:
            if segment.records:
                self._sealed = (*self._sealed, segment)
            self._rooms = {number: other for number, other in self._rooms.items() if number != room.number}

    def _forget(self) -> None:
        """Remove the oldest segments that are beyond the bytes or the time that are kept; never the newest."""
        mapped = (len(self._rooms) + 1) * self._segment_bytes  # and the one that may be made at this moment
        kept = list(self._sealed)
        total = sum(segment.end for segment in kept)
        before_ns = self._clock.now_ns() - self._settings.keep_ns
        while len(kept) > 1 and (total + mapped > self._settings.bytes_max or kept[0].last_ns < before_ns):
            try:
                kept[0].path.unlink(missing_ok=True)
            except OSError as error:
                log.error("%s: cannot be removed: %s", kept[0].path, error.strerror)
                break
            total -= kept.pop(0).end
            self._counts["log_forgotten"] += 1
        if len(kept) < len(self._sealed):
            self._sealed = tuple(kept)


def _write_seal(descriptor: int, segment: Segment) -> None:
    sealing = _sealing(segment)
    os.ftruncate(descriptor, segment.end)
    os.pwrite(descriptor, sealing, segment.end)
    os.fdatasync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
