"""The feed node of a replay: a recording in place of the lines, published under the recording's own clock.

A recording is a capture file (pcap or pcapng, gzip or not) of a wire that `wires.FORMATS` knows, a daily file of ITCH,
lines of ASCII PITCH, the recorded consolidated tape: a CSV file, several joined by the system's path separator,
or a folder (its quotes); or the durable logs of feeds: their folder, or that of one of them (`nodes.feeds.logged`).
Rows go through the outbox, which in a replay waits for slow readers, so ``speed`` 0 is as fast as the slowest of them.
At any other speed a row is sent when its time has come: the first at once, the others as far behind it as
they were recorded, divided by the speed. The first row waits until every node that reads this one has subscribed.
After the end the node lives on, so that the last values stay available.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from fabric import node
from fabric.bus import Outbox
from fabric.clock import MILLISECOND_NS, SECOND_NS, EventClock
from fabric.errors import CaptureError
from fabric.node import Runtime
from fabric.records import KIND_QUOTE, KIND_TRADE, QUOTE, Rows, empty
from fabric.symbols import SymbolTable
from fabric.topology import FeedSettings, Settings
from nodes.feeds import capture, itch, itch_file, logged, pitch_ascii, recognise, taq, wires
from nodes.feeds.wire import Packets
from nodes.feeds.wires import SequencedWire, venue_states

TAQ: Final = "taq"
PITCH_ASCII: Final = "pitch-ascii"
LOGGED: Final = "log"
ITCH: Final = "nasdaq-itch-5.0"
SKEW_MAX_NS: Final = 5 * SECOND_NS
"""An event stamped further than this ahead of its receipt does not move the clock."""
TAPE_ROWS_MAX: Final = 4_096
_NAP_MAX_NS: Final = 50 * MILLISECOND_NS
_IDLE_S: Final = 0.05
JOIN_MAX_NS: Final = 10 * SECOND_NS
"""The first row waits for the nodes that read us to subscribe, but no longer than this."""
AFTER_NS: Final = 2 * SECOND_NS
"""The recording's clock moves on by this at its end: an interval that ended with it closes, and its bars with it."""


@dataclass(frozen=True)
class SourceInfo:
    """What a recording is: its wire (`TAQ`, `PITCH_ASCII` or `LOGGED` where it is no capture) and the letters of its
    venues; of logs those of the topology.
    """

    wire: str
    venues: str
    market: str = ""  # the venues again where those are all that quoted: a consolidated tape


def inspect(source: str) -> SourceInfo:
    """Look into a recording; raises CaptureError when it is not one that can be replayed."""
    if logged.folders(Path(source)):
        return SourceInfo(LOGGED, "")
    paths = _paths(source)
    if len(paths) == 1 and capture.is_capture(paths[0]):
        wire = _wire_of(paths[0])
        return SourceInfo(wire, recognise.VENUES[wire])
    if len(paths) == 1 and itch_file.is_itch_file(paths[0]):
        return SourceInfo(ITCH, itch.NASDAQ)
    if pitch_ascii.is_pitch_ascii(paths[0]):
        return SourceInfo(PITCH_ASCII, pitch_ascii.VENUE)
    tape = taq.load(paths, symbol=0)
    venues, quoting = ("".join(map(chr, np.unique(rows["venue"]))) for rows in (tape, tape[tape["kind"] == KIND_QUOTE]))
    return SourceInfo(TAQ, venues, quoting)


def _paths(source: str) -> list[Path]:
    paths: list[Path] = []
    for text in source.split(os.pathsep):
        path = Path(text)
        if path.is_dir():
            found = taq.files(path, "quotes")
            if not found:
                raise CaptureError(f"{path}: expected recorded quotes in the folder (quotes_*.csv, gzip or not)")
            paths += found
        else:
            paths.append(path)
    return paths


def _wire_of(path: Path) -> str:
    """The wire of a capture's first packets that are of a known one."""
    looked = 0
    with capture.Capture(path) as packets:
        for batch in packets:
            heads = batch.packets
            for start, length in zip(heads.offsets.tolist(), heads.lengths.tolist(), strict=True):
                if wire := recognise.wire_of(heads.buffer[start : start + length].tobytes()):
                    return wire
                looked += 1
    raise CaptureError(f"{path}: expected packets of {', '.join(recognise.VENUES)} in the capture; {looked} are others")


class Section(Protocol):
    """A stretch of a recording, in its order."""

    @property
    def times(self) -> npt.NDArray[np.int64]:
        """When each of its parts was recorded."""
        ...

    def rows(self, start: int, stop: int) -> Iterator[Rows]:
        """The rows of parts ``start`` to ``stop`` (exclusive); each array good until the next is taken."""
        ...


@dataclass(frozen=True)
class _PacketSection:
    wire: SequencedWire
    packets: Packets

    @property
    def times(self) -> npt.NDArray[np.int64]:
        return self.packets.recv_ns

    def rows(self, start: int, stop: int) -> Iterator[Rows]:
        return self.wire.decode(self.packets.part(start, stop))


@dataclass(frozen=True)
class _EndSection:
    """What waited for packets that did not come."""

    wire: SequencedWire
    times: npt.NDArray[np.int64]  # one: that of the last packet

    def rows(self, start: int, stop: int) -> Iterator[Rows]:
        return self.wire.flush()


@dataclass(frozen=True)
class _TapeSection:
    tape: Rows

    @property
    def times(self) -> npt.NDArray[np.int64]:
        return self.tape["recv_ns"]

    def rows(self, start: int, stop: int) -> Iterator[Rows]:
        yield self.tape[start:stop]


@dataclass(frozen=True)
class _LogSection(_TapeSection):
    """Rows as feeds published them: a status may have no time of receipt, but each has one of publication."""

    @property
    def times(self) -> npt.NDArray[np.int64]:
        return self.tape["feed_ns"]


class Recording:
    """What is replayed: its sections in order, and what has been counted in those that were taken."""

    def __init__(self, settings: FeedSettings, symbols: SymbolTable) -> None:
        """Opens ``settings.source``; raises CaptureError. Parts outside [from_ns, to_ns) are passed over."""
        self._from_ns = settings.from_ns if settings.from_ns is not None else -(2**63)
        self._to_ns = settings.to_ns if settings.to_ns is not None else 2**63 - 1
        self._symbols = symbols
        self._logs = logged.folders(Path(settings.source))
        paths = [] if self._logs else _paths(settings.source)
        self._capture: capture.Capture | None = None
        self._wire: SequencedWire | None = None
        if self._logs:
            self._tape = empty(0, QUOTE)
        elif len(paths) == 1 and capture.is_capture(paths[0]):
            self._wire = wires.make(settings.wire or _wire_of(paths[0]), symbols, settings.venues)
            self._capture = capture.Capture(paths[0])
        elif len(paths) == 1 and itch_file.is_itch_file(paths[0]):
            self._wire = wires.make(settings.wire or ITCH, symbols, settings.venues or itch.NASDAQ)
            self._itch_file = paths[0]
        elif pitch_ascii.is_pitch_ascii(paths[0]):
            self._tape = pitch_ascii.load(paths, symbols, settings.venues or pitch_ascii.VENUE)
        else:
            self._tape = taq.load(paths, symbols.intern(taq.SYMBOL))
        self._quotes = self._trades = 0
        self.first_ns = self.last_ns = 0

    def sections(self) -> Iterator[Section]:
        """The stretches of the recording, each good until the next is taken; raises CaptureError where it breaks."""
        for section in self._packet_sections(self._wire) if self._wire else self._tape_sections():
            if section.times.size:
                self.first_ns = self.first_ns or int(section.times[0])
                self.last_ns = max(self.last_ns, int(section.times.max()))
                yield section

    def counters(self) -> dict[str, int | float | str]:
        """Packets, messages in all and by type, quotes, trades, gaps, duplicates, malformed, first and last time."""
        if self._wire:
            counts = {**(self._capture.counters() if self._capture else {}), **self._wire.counters()}
            by_type = self._wire.messages_by_type()
        else:
            by_type = {"quote": self._quotes, "trade": self._trades}
            counts = {"packets": 0, "messages": self._quotes + self._trades, "gaps": 0, "duplicates": 0, "malformed": 0}
            counts |= {"quotes": self._quotes, "trades": self._trades}
        times = {"first_ns": self.first_ns, "last_ns": self.last_ns}
        types = {f"message_{name}": count for name, count in by_type.items()}
        return {**counts, **types, **times}

    def close(self) -> None:
        """Close the file."""
        if self._capture:
            self._capture.close()

    def _packet_sections(self, wire: SequencedWire) -> Iterator[_PacketSection | _EndSection]:
        batches = (batch.packets for batch in self._capture) if self._capture else itch_file.read(self._itch_file)
        for packets in batches:
            times = packets.recv_ns
            wanted = (times >= self._from_ns) & (times < self._to_ns)
            if not wanted.all():
                packets = Packets(packets.buffer, *(column[wanted] for column in packets[1:]))
            yield _PacketSection(wire, packets)
        if self.last_ns:
            yield _EndSection(wire, np.array([self.last_ns], np.int64))

    def _tape_sections(self) -> Iterator[_TapeSection]:
        for rows in logged.read(self._logs, self._symbols, self._from_ns, self._to_ns):
            self._count(rows)
            yield _LogSection(rows)
        times = self._tape["recv_ns"]
        wanted = self._tape[(times >= self._from_ns) & (times < self._to_ns)]
        for start in range(0, wanted.size, TAPE_ROWS_MAX):
            section = wanted[start : start + TAPE_ROWS_MAX]
            self._count(section)
            yield _TapeSection(section)

    def _count(self, rows: Rows) -> None:
        self._quotes += int((rows["kind"] == KIND_QUOTE).sum())
        self._trades += int((rows["kind"] == KIND_TRADE).sum())


class Pacer:
    """How far a replay has come: the recording's time at a moment of the machine's monotonic clock."""

    def __init__(self, speed: float, first_ns: int, start_ns: int) -> None:
        """``first_ns`` of the recording is sent at ``start_ns``; speed 0 has everything due at once."""
        self._speed, self._first_ns, self._start_ns = speed, first_ns, start_ns

    def due(self, times: npt.NDArray[np.int64], monotonic_ns: int) -> int:
        """How many of the first of ``times`` are due."""
        if not self._speed:
            return times.size
        reached = self._first_ns + int((monotonic_ns - self._start_ns) * self._speed)
        late = times > reached
        return int(late.argmax()) if late.any() else times.size

    def until(self, time_ns: int, monotonic_ns: int) -> int:
        """Nanoseconds of the machine's clock until ``time_ns`` is due."""
        return max(0, self._start_ns + int((time_ns - self._first_ns) / self._speed) - monotonic_ns)


class Replay:
    """Publishes a recording."""

    def __init__(
        self, recording: Recording, settings: FeedSettings, outbox: Outbox, runtime: Runtime, readers: int
    ) -> None:
        """``readers``: how many nodes read this one."""
        self._recording, self._settings, self._readers = recording, settings, readers
        self._outbox, self._runtime, self._clock = outbox, runtime, runtime.clock
        self._error = ""

    def run(self) -> None:
        """Publish all of it, then keep its last values available until told to stop."""
        self._await_readers()
        self._nap(self._settings.delay_ns)
        try:
            self._publish_all()
        except CaptureError as error:  # what came before the break has been published and stays
            self._runtime.log.error("%s", error)
            self._error = str(error)
        self._saw(self._clock.now_ns() + AFTER_NS)
        while not self._runtime.stopping():
            self._turn(done=1)
            time.sleep(_IDLE_S)

    def _await_readers(self) -> None:
        until_ns = self._clock.monotonic_ns() + JOIN_MAX_NS
        while self._outbox.readers < self._readers and not self._runtime.stopping():
            if self._clock.monotonic_ns() > until_ns:
                joined = f"{self._outbox.readers} of {self._readers} readers"
                self._runtime.log.warning("%s have joined within %d s; starting", joined, JOIN_MAX_NS // SECOND_NS)
                return
            self._nap(_NAP_MAX_NS)

    def _publish_all(self) -> None:
        pacer: Pacer | None = None
        for section in self._recording.sections():
            if pacer is None:
                pacer = Pacer(self._settings.speed, int(section.times[0]), self._clock.monotonic_ns())
                self._saw(int(section.times[0]))
                self._outbox.send(venue_states(self._settings.venues, "live", int(section.times[0])))
            at = 0
            while at < section.times.size and not self._runtime.stopping():
                due = pacer.due(section.times[at:], self._clock.monotonic_ns())
                if due:
                    self._publish(section, at, at + due)
                    at += due
                else:
                    self._nap(min(_NAP_MAX_NS, pacer.until(int(section.times[at]), self._clock.monotonic_ns())))
                self._turn(done=0)
            if self._runtime.stopping():
                return

    def _publish(self, section: Section, start: int, stop: int) -> None:
        for rows in section.rows(start, stop):
            believable = np.minimum(rows["event_ns"], rows["recv_ns"] + SKEW_MAX_NS)
            self._saw(int(believable.max()))
            self._outbox.send(rows)
            if self._runtime.digest is not None:
                self._runtime.digest.add(rows)
        self._saw(int(section.times[start:stop].max()))  # packets without rows, as heartbeats, tell the time too

    def _saw(self, event_ns: int) -> None:
        if isinstance(self._clock, EventClock):
            self._clock.saw(event_ns)

    def _turn(self, done: int) -> None:
        self._outbox.tick()
        self._runtime.report(lambda: {"done": done, "error": self._error, **self._counters()})

    def _counters(self) -> dict[str, int | float | str]:
        sent = {name: count for name, count in self._outbox.counters().items() if name in ("published", "position")}
        counts = {**self._recording.counters(), **sent, "symbols": len(self._runtime.symbols) - 1}
        return {**counts, **node.hashed(self._runtime.digest)}

    def _nap(self, nanoseconds: int) -> None:
        """Sleep so long, ticking, unless told to stop."""
        until_ns = self._clock.monotonic_ns() + nanoseconds
        while (left_ns := until_ns - self._clock.monotonic_ns()) > 0 and not self._runtime.stopping():
            time.sleep(min(left_ns, _NAP_MAX_NS) / SECOND_NS)
            self._turn(done=0)


def preload(settings: Settings) -> None:
    """Import what the replay of a capture needs beside this module, for the children of the fork server."""
    assert isinstance(settings, FeedSettings)
    if settings.wire:
        wires.format_of(settings.wire)


def main(runtime: Runtime) -> None:
    """The program: replay one recording, then stay."""
    settings = runtime.spec.settings
    assert isinstance(settings, FeedSettings)
    recording = Recording(settings, runtime.symbols)
    outbox = runtime.outbox()
    runtime.ready(settings.source)
    own = runtime.spec.name
    readers = sum(any(source.publisher.name == own for source in node.reads) for node in runtime.topology.nodes)
    Replay(recording, settings, outbox, runtime, readers).run()
    recording.close()
