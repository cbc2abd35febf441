"""For bots: subscribe to a prefix, with the last values first and every loss told, in five lines.

    from fabric.client import Client

    with Client("nbbo.AAPL|") as client:
        for update in client:
            print(update)

What comes are `Update`s (one message of the bus), `Gap`s (messages of one topic were lost, and the publisher's log
could not bring them; for topics that hold a state the newest value has come or is on its way) and `Link`s (a
publisher is heard, or silent: what it said is stale until it is heard again). The same frames can be read with nothing
but pyzmq and msgpack: see the README.

With a ``group`` the client goes on where the last one of that group has left off, as far back as the publishers'
logs reach: what was handed out is noted once a second, and when the client is closed, so after a crash some messages
come twice, and none is left out.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from fabric import codec, topics, topology
from fabric.bus import Inbox
from fabric.clock import SECOND_NS, SystemClock
from fabric.codec_kernel import WIRE_FLAG, WIRE_LIST, WIRE_PRICE, WIRE_TEXT
from fabric.errors import FabricError, UnavailableError, UsageError
from fabric.records import (
    CHANNELS,
    DTYPES,
    GAP,
    KIND_GAP,
    KIND_LINK,
    LINK,
    NULL,
    PRICE_UNIT,
    SCHEMA_VERSION,
    VENUE_CHANNELS,
    Rows,
    columns,
    unpack,
)
from fabric.symbols import SymbolTable

_CHANNEL_OF = {kind: channel for channel, kind in CHANNELS.items()}
RECEIVE_MS = 100


@dataclass(frozen=True)
class Update:
    """One message: its topic, and its payload with the keys that the bus carries."""

    topic: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class Gap:
    """Messages ``first`` to ``last`` of a topic are lost. Both are 0 where only the channel is known."""

    topic: str
    first: int
    last: int


@dataclass(frozen=True)
class Link:
    """A publisher is heard (``up``), or is silent, lost or restarted: what it said is stale."""

    publisher: str
    up: bool


Event = Update | Gap | Link


class Client:
    """A reader of the bus. Iterate for ever, or `poll`; use it in a with-block, or `close` it."""

    def __init__(self, *prefixes: str, topology_file: str | Path = "topology.yaml", group: str = "") -> None:
        """Topics begin with one of ``prefixes``: ``nbbo.AAPL|`` is one symbol, ``nbbo.A`` a letter, ``nbbo.`` all.

        ``group``: the name under which positions are kept, in `.fabric/consumers` beside the topology file.

        Raises UsageError for a prefix that nobody publishes, TopologyError for a broken file, and UnavailableError
        where another client of that group is at work.
        """
        loaded = topology.load(topology_file)
        for prefix in prefixes:
            topology.endpoints(loaded, prefix)
        sources = tuple(
            topology.Source(publisher, matching)
            for publisher in loaded.publishers()
            if (matching := tuple(prefix for prefix in prefixes if topology.may_publish(publisher, prefix)))
        )
        self._symbols = SymbolTable(loaded.limits.symbols_max)
        self._positions = Positions(Path(topology_file).parent / ".fabric" / "consumers", group) if group else None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        secured = any(source.publisher.curve is not None for source in sources)
        try:
            self._inbox = Inbox(
                self._context, sources, self._symbols, loaded.limits, SystemClock(), complete=True,
                curve=loaded.curve() if secured else None,
            )  # fmt: skip
        except FabricError:
            self._context.term()
            raise
        if self._positions is not None:
            self._inbox.resume(self._positions.kept)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        while True:
            yield from self.poll(RECEIVE_MS)

    def poll(self, timeout_ms: int) -> list[Event]:
        """What has come, in order, waiting up to ``timeout_ms`` for the first; may be empty."""
        return events(self.rows(timeout_ms), self._symbols, self._inbox.sources)

    def rows(self, timeout_ms: int) -> Rows:
        """As `poll`, as the rows that processors read (`fabric.records`); valid until the next call."""
        if self._positions is not None:  # whoever asks for more is done with what he was given
            self._positions.keep(self._inbox.positions(), SystemClock().monotonic_ns())
        return self._inbox.recv_batch(timeout_ms)

    def lags(self) -> dict[str, tuple[int, int]]:
        """By publisher: messages that it has published and this client has not taken, and ns that they have waited."""
        return self._inbox.lags()

    def counters(self) -> dict[str, int]:
        """Received, lost, gaps, duplicates, refused and so on, since the start."""
        return self._inbox.counters()

    def close(self) -> None:
        """Close the sockets; may be called again."""
        if not self._context.closed:
            if self._positions is not None:
                self._positions.close()
            self._inbox.close()
            self._context.term()


class Positions:
    """Where a group of consumers has left off: by publisher its epoch and position, in one small file."""

    def __init__(self, folder: Path, group: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", group):
            raise UsageError(f"group {group!r}: expected at most 64 letters, digits, dots, - and _")
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{group}.json"
        self._lock = os.open(folder / f"{group}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UnavailableError(f"group {group!r}: another client is at work under this name") from None
        self.kept = self._read()
        self._given = self.kept
        self._next_ns = 0

    def keep(self, positions: Mapping[str, tuple[int, int]], now_ns: int) -> None:
        """Note what has been dealt with; written once a second."""
        self._given = {**self._given, **positions}
        if now_ns >= self._next_ns:
            self._next_ns = now_ns + SECOND_NS
            self._write()

    def close(self) -> None:
        """Write what was noted last, and let another client have the name."""
        self._write()
        os.close(self._lock)

    def _read(self) -> dict[str, tuple[int, int]]:
        try:
            found = json.loads(self._path.read_text())
            return {name: (int(epoch), int(position)) for name, (epoch, position) in found.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"{self._path}: holds no positions ({error}); remove it to begin anew") from error

    def _write(self) -> None:
        if self._given == self.kept:
            return
        fresh = self._path.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump(self._given, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        self.kept = self._given


def events(rows: Rows, symbols: SymbolTable, sources: Sequence[topology.Source]) -> list[Event]:
    """Rows of an inbox as what a bot reads."""
    table = columns(rows)
    found: list[Event] = []
    for i, kind in enumerate(rows["kind"].tolist()):
        if kind == KIND_LINK:
            link = rows[i : i + 1].view(LINK)[0]
            found.append(Link(sources[int(link["publisher"])].publisher.name, bool(link["up"])))
        elif kind == KIND_GAP:
            gap = rows[i : i + 1].view(GAP)[0]
            known = int(gap["gap_from"]) != NULL
            topic = _topic(int(gap["channel_kind"]), int(gap["symbol"]), int(gap["venue"]), symbols)
            found.append(Gap(topic, int(gap["gap_from"]) if known else 0, int(gap["gap_to"]) if known else 0))
        else:
            row = table[i].tolist()
            found.append(Update(_topic(kind, row[1], row[2], symbols), payload(row, symbols)))
    return found


def payload(row: Sequence[int], symbols: SymbolTable) -> dict[str, Any]:
    """The map that carries this row on the bus."""
    kind = row[0]
    names = DTYPES[kind].names
    assert names is not None
    values: dict[str, Any] = {"V": SCHEMA_VERSION, "T": _CHANNEL_OF[kind]}
    for key, column, wire in codec.FIELDS[kind]:
        values[key] = _decoded(row[names.index(column)], wire)
    values["S"] = symbols.name(row[1])
    return values


def _decoded(value: int, wire: int) -> Any:
    if value == NULL:
        return None
    if wire == WIRE_PRICE:
        return value / PRICE_UNIT
    if wire == WIRE_FLAG:
        return bool(value)
    if wire == WIRE_TEXT:
        return unpack(value) or None
    if wire == WIRE_LIST:
        return list(unpack(value)) or None
    return value


def _topic(kind: int, symbol: int, venue: int, symbols: SymbolTable) -> str:
    channel = _CHANNEL_OF[kind]
    letter = chr(venue) if venue and channel in VENUE_CHANNELS else ""
    return topics.build(channel, symbols.name(symbol), letter)
