"""The order log of a processor: what it consumed, batch by batch, in the order in which it did.

Several publishers meet in one processor in an order that no log of theirs holds. So each turn is noted before it is
taken: the time it was given, and by input the epoch and positions of its rows, a byte or two for each; whole only what
no log holds (`order_kernel` has the layout). The order log is a log like any other, in the folder ``order`` beside the
processor's own; with the inputs' logs it gives every batch again, for recovery (`fabric.recovery`) and for whoever
checks what was published.

Each turn names the one that its state goes on from: none where a process began with nothing.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fabric import codec, journal, order_kernel
from fabric.clock import SECOND_NS, Clock
from fabric.codec_kernel import DEPTH_MAX, READ_PAD
from fabric.journal import Cursor, Journal, Query, Segment
from fabric.journal_kernel import J_POSITION, append_all
from fabric.records import EVENT, WIDTH, Rows, columns
from fabric.symbols import SymbolTable
from fabric.topology import JournalSettings, Source

SHARE = 8
"""The order log takes this part of the bytes that the processor's own log may take: some bytes a row suffice."""
SYNC_NS = SECOND_NS
"""Synced less often than what is published: a power cut that takes more of it is told as an outage all the same, and
each sync wakes two threads.
"""
READ_BYTES = 1 << 20

Bytes = npt.NDArray[np.uint8]


def folder_of(settings: JournalSettings, name: str) -> Path:
    """Where the order log of processor ``name`` is."""
    return journal.log_folder(settings, name) / "order"


class OrderLog:
    """The order log of one processor, to be written."""

    def __init__(self, name: str, inputs: int, settings: JournalSettings, clock: Clock, epoch: int) -> None:
        """Opens the log of a processor of so many inputs; raises UnavailableError."""
        self._clock = clock
        self._epoch = epoch
        own = replace(
            settings,
            bytes_max=max(settings.bytes_max // SHARE, 4 * journal.SEGMENT_MIN),
            sync_ns=max(settings.sync_ns, SYNC_NS),
        )
        self._journal = Journal(folder_of(settings, name), own, clock, epoch)
        self._known = 1  # symbols noted so far; the empty one needs none
        self._heads = np.zeros(inputs, np.int64)
        self._out = np.zeros(0, np.uint8)
        self._ends = np.zeros((0, 2), np.int64)
        self.after = 0
        """Position of the last turn, from which the state goes on."""

    def go_on(self, after: int, symbols: SymbolTable) -> None:
        """The state is that behind the turn at ``after``, in which ``symbols`` were known."""
        self.after, self._known = after, len(symbols)

    def note(
        self, rows: Rows, given: npt.NDArray[np.int64], symbols: SymbolTable, now_ns: int, monotonic_ns: int, own: int
    ) -> None:
        """Log the turn of ``rows``; ``own`` is the position of what was published so far.

        ``given``: input, count and BY_LOG, BY_VALUE or BY_SNAPSHOT of each stretch of its market rows.
        """
        learnt = len(symbols) - self._known
        size, parts = order_kernel.noted_max(rows.size, learnt)
        if size > self._out.size or parts > self._ends.shape[0]:
            self._out, self._ends = np.zeros(2 * size, np.uint8), np.zeros((2 * parts, 2), np.int64)
        count = order_kernel.note(
            columns(rows), given, symbols.arrays.words, self._known, len(symbols), now_ns, monotonic_ns, own,
            self.after, self._heads, self._out, self._ends,
        )  # fmt: skip
        self._known += learnt
        log, ends, done = self._journal, self._ends[:count], 0
        while done < count:
            done = int(append_all(log.state, self._out, ends, done, self._epoch, now_ns, self._clock.monotonic_ns()))
            if done < count:
                log.wait_for_room()
        if log.idle:
            log.stir()
        self.after = int(log.state[J_POSITION])

    def counters(self) -> dict[str, int]:
        """By the names that ``status`` and ``/metrics`` use."""
        counts = self._journal.counters()
        return {f"order_{name}": counts[f"log_{name}"] for name in ("bytes", "unlogged", "suspended")}

    def close(self) -> None:
        """Sync and seal; may be called again."""
        self._journal.close()


@dataclass(frozen=True)
class Turn:
    """One batch as it was noted. Positions are those of the order log."""

    position: int  # of its last part
    epoch: int
    after: int  # of the turn that the state goes on from; 0: of none
    now_ns: int
    monotonic_ns: int
    own: int
    parts: tuple[Bytes, ...]


def turns(listing: Sequence[Segment], after: int = 0) -> Iterator[Turn]:
    """Every turn behind position ``after``, without one that a crash cut short; ends at the first place where the log
    lacks something.
    """
    cursor = Cursor(lambda: listing, Query(first=after + 1))
    parts: list[Bytes] = []
    expected = after + 1 if after else 0
    for position, epoch, _, _, payload in journal.records(cursor):
        if expected and position != expected:
            return
        expected = position + 1
        flags, now_ns, monotonic_ns, own, origin = struct.unpack_from(f"<{order_kernel.PART_WIDTH}q", payload)
        if flags & order_kernel.BEGINS:
            parts = []
        elif not parts:  # what is left of a turn whose beginning was forgotten
            continue
        parts.append(np.frombuffer(payload + bytes(READ_PAD), np.uint8).copy())
        if flags & order_kernel.ENDS:
            yield Turn(position, epoch, origin, now_ns, monotonic_ns, own, tuple(parts))
            parts = []


@dataclass(frozen=True)
class Run:
    """Rows of one input, in the order of its log."""

    link: int
    epoch: int
    positions: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Told:
    """A row that was noted whole: its columns."""

    link: int
    snapshot: bool
    columns: tuple[int, ...]


def items(turn: Turn) -> Iterator[str | Run | Told]:
    """What a turn was noted as, in its order: names of symbols that were learnt, runs, and rows."""
    for part in turn.parts:
        raw, at, stop = part.tobytes(), 8 * order_kernel.PART_WIDTH, part.size - READ_PAD
        while at < stop:
            (word,) = struct.unpack_from("<q", raw, at)
            kind, link, count = word & 0xFF, word >> 8 & 0xFFFFFF, word >> 32
            at += 8
            if kind == order_kernel.NAME:
                yield raw[at : at + 16].rstrip(b"\0").decode("ascii")
                at += 24
            elif kind == order_kernel.ROW:
                yield Told(link, bool(count), struct.unpack_from(f"<{WIDTH}q", raw, at))
                at += 8 * WIDTH
            else:
                epoch, first, _ = struct.unpack_from("<3q", raw, at)
                positions, at = _positions(raw, at + 24, first, count)
                yield Run(link, epoch, positions)


def _positions(raw: bytes, at: int, first: int, count: int) -> tuple[npt.NDArray[np.int64], int]:
    """The positions of a run whose distances begin at ``at``, and where the next item is."""
    found = [first]
    while len(found) < count:
        step = shift = 0
        more = True
        while more:
            step |= (raw[at] & 0x7F) << shift
            more = raw[at] >= 0x80
            shift += 7
            at += 1
        found.append(found[-1] + step)
    return np.array(found, np.int64), (at + 7) // 8 * 8


class _Reader:
    """One input's log on this machine, read forward; begins anew where something earlier is wanted."""

    def __init__(
        self, folder: Path, prefixes: Sequence[str], data: Bytes, at: int, reach: npt.NDArray[np.int64]
    ) -> None:
        """Reads into ``data[at:at + READ_BYTES]``; ``reach`` says which of it is at hand: from, to."""
        self._folder = folder
        self._prefixes = tuple(prefix.encode() for prefix in prefixes)
        self._segments: list[Segment] | None = None
        self._cursor: Cursor | None = None
        self._data, self._begin, self._reach = data, at, reach

    def seek(self, position: int) -> bool:
        """Have records at hand of which the first is not behind ``position``; False where the log does not hold it."""
        if self._at_hand():
            self.close()  # it is further on already
        if self._cursor is not None and self._cursor.seen >= position:
            self.close()
        if self._cursor is None:
            if self._segments is None:
                self._segments = journal.segments(self._folder)
            listing = self._segments
            self._cursor = Cursor(lambda: listing, Query(first=position, prefixes=self._prefixes))
        size = self._cursor.read(self._data[self._begin : self._begin + READ_BYTES])
        self._reach[:] = self._begin, self._begin + size
        return self._at_hand() and self._position_here() <= position

    def _at_hand(self) -> bool:
        return bool(self._reach[0] < self._reach[1])

    def _position_here(self) -> int:
        at = int(self._reach[0])
        return int(self._data[at + 8 : at + 16].view(np.int64)[0])

    def close(self) -> None:
        if self._cursor is not None:
            self._cursor.close()
        self._cursor = None
        self._reach[:] = 0


class Inputs:
    """The logs of a processor's inputs on this machine: they give the rows of a turn again."""

    def __init__(self, sources: Sequence[Source], symbols: SymbolTable, rows_max: int) -> None:
        """``rows_max``: the most rows of a turn."""
        self._data = np.zeros(len(sources) * READ_BYTES + READ_PAD, np.uint8)
        self._reach = np.zeros((len(sources), 2), np.int64)
        self._readers = [
            _Reader(
                journal.log_folder(settings, source.publisher.name), source.topics, self._data, link * READ_BYTES,
                self._reach[link],
            )
            if (settings := source.publisher.journal)
            else None
            for link, source in enumerate(sources)
        ]  # fmt: skip
        self._symbols = symbols
        self._rows = np.zeros((rows_max, WIDTH), np.int64)
        self._way = np.zeros(order_kernel.B_WIDTH, np.int64)
        self._waiting = np.zeros(DEPTH_MAX, np.int64)

    def rows(self, turn: Turn, tables: Mapping[str, npt.NDArray[np.int64]]) -> Rows | None:
        """The batch as it was given, good until the next call; None where a log does not hold it any more.

        ``tables`` are those of `Inbox.tables`; they become what they were behind the batch.
        """
        n, way = 0, self._way
        for part in turn.parts:
            way[:] = 0
            way[order_kernel.B_AT] = 8 * order_kernel.PART_WIDTH
            while True:
                n, how = order_kernel.bring_back(
                    codec.SCHEMA, self._symbols.arrays, part, part.size - READ_PAD, self._data, self._reach, way,
                    tables["state"], tables["layout"], tables["last"], tables["places"], tables["advance"], self._rows,
                    n, self._waiting,
                )  # fmt: skip
                if how == order_kernel.DONE:
                    break
                reader = self._readers[int(way[order_kernel.B_LINK])]
                if how == order_kernel.MISSING or not reader or not reader.seek(int(way[order_kernel.B_WANTED])):
                    return None
        return self._rows[:n].view(EVENT).reshape(n)

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers:
            if reader:
                reader.close()
