"""Going on where a client left off: what its streams have had since comes from the publishers' logs.

A client that wants this (``resume`` in a subscription) is told each second up to where it has everything (``mark``):
by publisher its epoch and the position in its log. When it comes back, to this gateway or another, before or after a
restart of either, it says the last of these. Then it is held: the fan-out queues what is new for it, the part of each
log between its mark and what the fan-out had when it began is read, its messages are sent, and it is let go. So nothing
is missing and nothing comes twice where the two meet. What the logs do not have any more is told as a ``gap``.

Clients that wait are served together: one read of a log is for all of them, which is what makes a gateway's restart
cheap. Bounds: `CLIENTS_AT_ONCE` clients and `ROWS_MAX` rows a read, `limits.repair_max` positions a publisher,
`MESSAGES_MAX` messages a client, `WAIT_NS` from the request on.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from fabric.bus.log_reader import Part
from fabric.clock import MILLISECOND_NS, SECOND_NS, Clock
from fabric.records import (
    BAR,
    KIND_BAR_1D,
    KIND_BAR_1H,
    KIND_BAR_1M,
    KIND_BAR_5M,
    KIND_STATUS,
    KIND_TRADE,
    NULL,
    STATUS,
    TRADE,
    Rows,
    columns,
    pack,
)
from fabric.symbols import SymbolTable
from fabric.topology import Limits, Publisher, Source
from gateway import protocol, protocol_kernel
from gateway.fanout import Client, Fanout
from gateway.protocol import STREAM_CHANNELS, Places
from gateway.protocol_kernel import MESSAGE_MAX, SCRATCH, STREAM

CLIENTS_AT_ONCE: Final = 256
ROWS_MAX: Final = 200_000
MESSAGES_MAX: Final = 50_000
MESSAGES_A_FRAME: Final = 128
"""Encoded between two looks at the clock: a millisecond of the loop."""
PREFIXES_MAX: Final = 2_048
"""In one request; more, and whole channels are read."""
ROUNDS_MAX: Final = 4
"""Reads for one client: each is of what was published during the one before."""
WAIT_NS: Final = 10 * SECOND_NS
SLICE_NS: Final = 2 * MILLISECOND_NS
MARK_EVERY_NS: Final = SECOND_NS
MARKS_AT_ONCE: Final = 64

BUS_CHANNELS: Final = {
    "trades": "trade",
    "bars": "bar.1m",
    "updatedBars": "bar.1m",
    "bars5m": "bar.5m",
    "bars1h": "bar.1h",
    "dailyBars": "bar.1d",
    "statuses": "status",
    "lulds": "status",
}
"""Where the messages of a stream come from."""
assert set(BUS_CHANNELS) == set(STREAM_CHANNELS)
_BARS: Final = {
    KIND_BAR_5M: ("bars5m", protocol_kernel.CLOSED_5M),
    KIND_BAR_1H: ("bars1h", protocol_kernel.CLOSED_1H),
    KIND_BAR_1D: ("dailyBars", protocol_kernel.CLOSED_1D),
}
_TRADES: Final = {pack("x"): protocol_kernel.CANCEL, pack("c"): protocol_kernel.CORRECTION}
_log = logging.getLogger(__name__)


class Reader(Protocol):
    """What is asked of `fabric.bus.LogReader`."""

    def ask(self, name: str, first: int, last: int, epoch: int, prefixes: Sequence[str]) -> None: ...
    def take(self, name: str) -> Part: ...


@dataclass(eq=False)
class _Return:
    """A client that has come back."""

    client: Client
    channels: Mapping[str, Sequence[str]]  # streams only
    places: Places
    before: npt.NDArray[np.int64]  # slots that it had already
    began_ns: int
    lost: set[str] = field(default_factory=set)  # channels of which not everything can be had
    frames: Iterator[bytes] = field(default_factory=lambda: iter(()))
    upto: Places = field(default_factory=dict)  # what `frames` go up to
    messages: int = 0
    rounds: int = 1


@dataclass
class _Read:
    """A read of the logs for some clients: by publisher the positions that are wanted, and what has come."""

    returns: list[_Return]
    upto: dict[str, tuple[int, int]]
    open: set[str] = field(default_factory=set)
    rows: dict[str, list[Rows]] = field(default_factory=dict)
    count: int = 0


class Resumer:
    """Gives clients of one fan-out what they missed. In the thread of the fan-out."""

    def __init__(
        self, fanout: Fanout, reader: Reader, positions: Callable[[], Places], sources: Sequence[Source],
        symbols: SymbolTable, limits: Limits, clock: Clock,
    ) -> None:  # fmt: skip
        """``positions``: by publisher epoch and position up to which the fan-out has everything."""
        self._fanout = fanout
        self._reader = reader
        self._positions = positions
        wanted = set(BUS_CHANNELS.values())
        self._publishers = [source.publisher for source in sources if wanted & set(source.publisher.channels)]
        self._symbols = symbols
        self._limits = limits
        self._clock = clock
        self._waiting: deque[_Return] = deque()
        self._reading: _Read | None = None
        self._sending: deque[_Return] = deque()
        self._marking: deque[tuple[int, Client]] = deque()  # when each is to be told next, in that order
        self._marked: set[Client] = set()
        self._out = np.zeros(2 * MESSAGE_MAX, np.uint8)
        self._chars = np.zeros(SCRATCH, np.uint8)
        self._resumed = self._messages = self._lost = 0

    def begin(
        self, client: Client, channels: Mapping[str, Sequence[str]], places: Places, before: npt.NDArray[np.int64]
    ) -> None:
        """See `fanout.Resumes`; with no ``places`` the client is marked from now on, and has missed nothing."""
        now_ns = self._clock.monotonic_ns()
        streams = {name: patterns for name, patterns in channels.items() if name in BUS_CHANNELS and patterns}
        if places and streams:
            self._fanout.hold(client)
            self._waiting.append(_Return(client, streams, places, before, now_ns))
        if client not in self._marked:
            self._marked.add(client)
            self._marking.appendleft((now_ns, client))

    def drop(self, client: Client) -> None:
        """Forget a client, wherever it is on its way."""
        self._marked.discard(client)

    def turn(self, now_ns: int) -> bool:
        """Do what can be done now, for at most `SLICE_NS`; ``now_ns`` is monotonic. True when more can be."""
        if self._reading is None and self._waiting:
            self._start(now_ns)
        if self._reading is not None:
            self._read(self._reading, now_ns)
        more = self._send(self._clock.monotonic_ns() + SLICE_NS)
        self._mark(now_ns)
        return more

    def counters(self) -> dict[str, int]:
        """Clients that went on, what they were given, and those of which something was lost."""
        waiting = len(self._waiting) + len(self._sending) + (len(self._reading.returns) if self._reading else 0)
        return {"clients": self._resumed, "messages": self._messages, "gaps": self._lost, "waiting": waiting}

    # Which part of which log.

    def _start(self, now_ns: int) -> None:
        """Begin a read for those who wait. The instant is what divides what comes from the logs from what is live."""
        upto = self._positions()
        unknown = [publisher.name for publisher in self._publishers if publisher.name not in upto]
        if unknown and now_ns - self._waiting[0].began_ns < self._limits.stale_after_ns:
            return  # this gateway has just been started
        returns: list[_Return] = []
        while self._waiting and len(returns) < CLIENTS_AT_ONCE:
            back = self._waiting.popleft()
            if back.client.row >= 0:
                self._fanout.rebase(back.client, back.channels, back.before)
                returns.append(back)
        read = _Read(returns, dict(upto))
        for publisher in self._publishers:
            self._ask(read, publisher)
        self._reading = read

    def _ask(self, read: _Read, publisher: Publisher) -> None:
        """Have what the clients miss of one publisher."""
        name = publisher.name
        firsts: list[tuple[int, int]] = []  # epoch and position after which a client wants all
        prefixes: set[str] = set()
        for back in read.returns:
            channels = {channel for channel in back.channels if BUS_CHANNELS[channel] in publisher.channels}
            if not channels or (name in read.upto and back.places.get(name) == read.upto[name]):
                continue
            if name not in read.upto or name not in back.places or publisher.journal is None:
                back.lost |= channels
                continue
            epoch, position = back.places[name]
            last_epoch, last = read.upto[name]
            never_said = epoch > last_epoch or (epoch == last_epoch and position > last)
            if never_said or last - position >= self._limits.repair_max:
                back.lost |= channels
            else:
                firsts.append((epoch, position))
                for channel in channels:
                    prefixes |= _prefixes(BUS_CHANNELS[channel], back.channels[channel])
        if firsts:
            wanted = sorted(prefixes)
            if len(wanted) > PREFIXES_MAX:
                wanted = sorted({f"{channel}." for channel in BUS_CHANNELS.values() if channel in publisher.channels})
            epoch = min(epoch for epoch, _ in firsts)
            first = 1 + min(position for _, position in firsts)
            self._reader.ask(name, first, read.upto[name][1], epoch, wanted)
            read.open.add(name)
            read.rows[name] = []

    def _read(self, read: _Read, now_ns: int) -> None:
        late = now_ns - read.returns[0].began_ns > WAIT_NS if read.returns else True
        for name in sorted(read.open):
            part = self._reader.take(name)
            if part.rows.size:
                read.rows[name].append(part.rows)
                read.count += part.rows.size
            if part.done or late or read.count > ROWS_MAX:
                read.open.discard(name)
                if not (part.done and part.whole):
                    _log.warning("%s: its log does not have, or not in time, all that clients have missed", name)
                    self._lose(read, name)
        if read.open:
            return
        self._reading = None
        self._fanout.meet_symbols()  # the logs may have told of new ones
        read.rows = {name: [np.concatenate(parts)] for name, parts in read.rows.items() if parts}
        for back in read.returns:
            if back.client.row >= 0:
                back.frames = self._frames(back, read)
                back.upto = read.upto
                self._sending.append(back)

    def _lose(self, read: _Read, name: str) -> None:
        channels = next(publisher.channels for publisher in self._publishers if publisher.name == name)
        for back in read.returns:
            back.lost |= {channel for channel in back.channels if BUS_CHANNELS[channel] in channels}

    # What a client is given of it.

    def _frames(self, back: _Return, read: _Read) -> Iterator[bytes]:
        """Frames for one client: gaps, then what it missed, in order of publication."""
        client = back.client
        form = client.feed.dialect * 2 + client.encoding
        mask, stamps = self._fanout.written_as(client)
        rows = self._rows(back, read)
        gaps = sorted(back.channels if len(rows) > MESSAGES_MAX else back.lost)
        back.lost = set()
        if gaps:
            self._lost += 1
            yield protocol.frame([protocol.gap(channel, None) for channel in gaps], client.encoding)
        rows = rows[-MESSAGES_MAX:]
        slots = set(self._fanout.stream_slots(client, back.channels, back.before).tolist())
        for start in range(0, len(rows), MESSAGES_A_FRAME):
            encoded = [
                message
                for row in rows[start : start + MESSAGES_A_FRAME]
                for channel, kind in _messages(row)
                if self._fanout.slot_of(client, channel, int(row[1]), int(row[2])) in slots
                if (message := self._encoded(form, kind, row, mask, stamps))
            ]
            back.messages += len(encoded)
            if encoded:
                yield protocol.frame_encoded(encoded, client.encoding)

    def _rows(self, back: _Return, read: _Read) -> npt.NDArray[np.int64]:
        """What a client has missed, and perhaps more, of its symbols."""
        slots = self._fanout.stream_slots(back.client, back.channels, back.before)
        symbols = np.zeros(self._symbols.capacity, bool)
        symbols[slots % self._symbols.capacity] = True
        parts = []
        for name, found in read.rows.items():
            if found and name in back.places:
                later = _after(found[0], back.places[name])
                parts.append(later[symbols[later[:, 1]]])
        return _merged(parts)

    def _encoded(self, form: int, message: int, row: npt.NDArray[np.int64], mask: int, stamps: int) -> bytes:
        """One message; empty for a bar without prices that a stock client would read as zeros."""
        bar = message in (protocol_kernel.CLOSED, protocol_kernel.REVISED, protocol_kernel.CLOSED_1D)
        if bar and form < 2 * STREAM and NULL in (row[_OPEN_PX], row[_CLOSE_PX]):
            return b""
        names = self._symbols.arrays
        symbol = int(row[1])
        out, chars = self._out, self._chars
        end = protocol_kernel.encode(
            out, 0, form, message, row, names.names[symbol], names.lengths[symbol], False, chars, mask
        )
        if stamps:
            end = protocol_kernel.append_stamps(out, 0, end, form, message, row, stamps, self._clock.now_ns(), chars)
        return out[:end].tobytes()

    def _send(self, deadline_ns: int) -> bool:
        """Send frames to those whose sockets take them, until a time; let go those who have all."""
        for _ in range(len(self._sending)):
            back = self._sending.popleft()
            client = back.client
            while client.row >= 0 and not client.busy:
                frame = next(back.frames, None)
                if frame is None:
                    self._end(back)
                    break
                client.sink.write(frame)
                if self._clock.monotonic_ns() >= deadline_ns:
                    self._sending.append(back)
                    return True
            else:
                if client.row >= 0:
                    self._sending.append(back)
        return False

    def _end(self, back: _Return) -> None:
        """A client has all up to the read. Let it go, unless its queue has overflowed meanwhile: then read that too."""
        client = back.client
        if self._fanout.overflowed(client) and back.rounds < ROUNDS_MAX:
            back.places, back.rounds = back.upto, back.rounds + 1
            self._waiting.append(back)
            return
        self._resumed += 1
        self._messages += back.messages
        client.sink.write(protocol.frame([protocol.resumed(back.messages)], client.encoding))
        if not any(other.client is client for other in (*self._waiting, *self._sending)):
            self._fanout.release(client)

    # Marks.

    def _mark(self, now_ns: int) -> None:
        """Tell those whose time has come up to where they have everything; who has not is asked at the next turn."""
        frames: dict[int, bytes] = {}
        for _ in range(min(MARKS_AT_ONCE, len(self._marking))):
            due_ns, client = self._marking[0]
            if due_ns > now_ns:
                return
            self._marking.popleft()
            if client not in self._marked:
                continue
            if client.held or not self._fanout.up_to_date(client):
                self._marking.append((now_ns, client))
                continue
            if client.encoding not in frames:
                known = self._positions()
                places = {one.name: known[one.name] for one in self._publishers if one.name in known}
                frames[client.encoding] = protocol.frame([protocol.mark(places)], client.encoding)
            client.sink.write(frames[client.encoding])
            self._marking.append((now_ns + MARK_EVERY_NS, client))


_OPEN_PX, _CLOSE_PX, _REV = ((BAR.names or ()).index(name) for name in ("open_px", "close_px", "rev"))
_TRADING, _UPPER_PX, _LOWER_PX = ((STATUS.names or ()).index(name) for name in ("trading", "upper_px", "lower_px"))
_MARK = (TRADE.names or ()).index("mark")


def _prefixes(channel: str, patterns: Sequence[str]) -> set[str]:
    """The topics of a bus channel that patterns mean; of statuses those of whole venues too."""
    found = {f"{channel}.{name[:-1]}" if name.endswith("*") else f"{channel}.{name}|" for name in patterns}
    return found | {f"{channel}.|"} if channel == "status" else found


def _after(rows: Rows, place: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Those behind a place, as columns."""
    epoch, position = place
    later = (rows["epoch"] > epoch) | ((rows["epoch"] == epoch) & (rows["position"] > position))
    return columns(rows[later])


def _merged(parts: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Rows of several logs by the time at which they were published, each log's in its order."""
    if len(parts) < 2:
        return parts[0] if parts else np.empty((0, columns(np.empty(0, BAR)).shape[1]), np.int64)
    sent = [np.maximum.accumulate(np.where(part[:, 10] != NULL, part[:, 10], part[:, 9])) for part in parts]
    return np.concatenate(parts)[np.argsort(np.concatenate(sent), kind="stable")]


def _messages(row: npt.NDArray[np.int64]) -> list[tuple[str, int]]:
    """Channel and message of what a row becomes for who gets every message, as `fanout_kernel` routes it."""
    kind, symbol = int(row[0]), int(row[1])
    if kind == KIND_TRADE:
        return [("trades", _TRADES.get(int(row[_MARK]), protocol_kernel.TRADED))]
    if kind == KIND_STATUS:
        if symbol == 0:
            return [("statuses", protocol_kernel.LINE)]
        halts = [("statuses", protocol_kernel.HALT)] if row[_TRADING] not in (NULL, 0) else []
        banded = row[_UPPER_PX] != NULL or row[_LOWER_PX] != NULL
        return halts + ([("lulds", protocol_kernel.BANDS)] if banded else [])
    rev = max(int(row[_REV]), 0)
    if symbol == 0 or (rev == 0 and kind != KIND_BAR_1D):
        return []
    if kind == KIND_BAR_1M:
        return [("bars", protocol_kernel.CLOSED) if rev == 1 else ("updatedBars", protocol_kernel.REVISED)]
    return [_BARS[kind]] if kind in _BARS else []
