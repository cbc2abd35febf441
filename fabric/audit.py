"""Is everything that was published accounted for? The books of each hop, from the logs on both sides of it where there
are any, else from what each end has counted.

A publisher's log says what it published, a processor's order log what it was given. For each input, of what the
processor subscribes to and from its first turn on:

    published = delivered + told + replaced + in flight

``told`` are the messages that a gap row names, and the states of an outage that the processor was told of (its LINK
rows), which lasts until the next state is delivered; trades and alerts of an outage come from the log, or are named.
``replaced`` are states that were missed and of which a snapshot gave a newer value. In flight is what lies behind the
last that was delivered. What is none of these is ``unexplained``, and what was delivered twice
without being the publisher's own repetition, ``twice``: both must be 0.

From a gateway to its clients a message is published once for each subscription that it concerns:

    published = delivered + told + replaced + dropped + in flight

``told`` stood in a ``gap``, ``replaced`` in the ``k`` of a later value; ``dropped`` was left when a client went or was
cut, or could not be sent to it at all (`gateway.fanout_kernel.BOOKS`).
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fabric import codec, journal
from fabric.journal import Cursor, Query, log_folder, segments
from fabric.order import Run, Told, folder_of, items, turns
from fabric.records import CHANNELS, KIND_GAP, KIND_LINK, NULL, STATE_CHANNELS
from fabric.symbols import SymbolTable
from fabric.topics import channel_of
from fabric.topology import NodeSpec, Topology

_STATES = frozenset(CHANNELS[channel] for channel in STATE_CHANNELS)
Topic = tuple[int, str, int]
"""Kind, symbol, venue."""


@dataclass
class Hop:
    """The books of one publisher and one of its readers, in messages."""

    publisher: str
    reader: str
    published: int = 0
    delivered: int = 0
    told: int = 0
    replaced: int = 0
    dropped: int = 0
    in_flight: int = 0
    unexplained: int = 0
    twice: int = 0

    @property
    def balanced(self) -> bool:
        accounted = self.delivered + self.told + self.replaced + self.dropped + self.in_flight
        return not self.unexplained and not self.twice and self.published == accounted

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "balanced": self.balanced}


@dataclass
class _Given:
    """What a processor was given of one input."""

    positions: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = field(default_factory=list)  # in the order of the log
    late: set[int] = field(default_factory=set)  # what came from the log behind what had been given before
    first: int = 0
    last: int = 0
    gaps: dict[Topic, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))  # numbers told as lost
    newest: dict[Topic, int] = field(default_factory=dict)  # position of the newest value of a snapshot
    outages: list[int] = field(default_factory=list)  # the last position that had been given when a LINK went down

    def gave(self, first: int, last: int) -> None:
        self.first = self.first or first
        self.last = max(self.last, last)


def hops(topology: Topology, readers: tuple[str, ...] = ()) -> list[Hop]:
    """The books of every processor that keeps an order log, or of the ``readers`` named. Raises OSError.

    Where a log has forgotten its beginning, they begin where both sides still have theirs.
    """
    found = []
    for spec in topology.nodes:
        if spec.publishes is None or spec.publishes.journal is None or (readers and spec.name not in readers):
            continue
        folder = folder_of(spec.publishes.journal, spec.name)
        if folder.is_dir():
            found += _books(spec, folder)
    return found


def living(topology: Topology, status: Mapping[str, Any]) -> list[Hop]:
    """The books of the readers of a running topology that keep no order log (gateways, cache, history), from what they
    counted themselves (`Inbox.links`) and the publishers' logs; ``status`` is the launcher's. Since the last outage of
    a hop; one that lasts is left out.
    """
    logs = {publisher.name: publisher.journal for publisher in topology.publishers()}
    ordered = {node.name for node in topology.nodes if node.publishes is not None and node.publishes.journal}
    hops = []
    for node in status["nodes"]:
        for books in node["books"] if node["name"] not in ordered else ():
            settings = logs[books["publisher"]]
            if settings is None:
                continue
            folder = log_folder(settings, books["publisher"])
            prefixes = tuple(topic.encode() for topic in books["topics"])
            upto, beyond = (_count(folder, first, last, prefixes) for first, last in (
                (books["after"] + 1, books["last"]), (books["last"] + 1, journal.NO_END)
            ))  # fmt: skip
            hop = Hop(books["publisher"], node["name"], upto + beyond, books["given"], books["lost"], in_flight=beyond)
            missing = upto - hop.delivered - hop.told
            hop.unexplained, hop.twice = max(0, missing), max(0, -missing)
            hops.append(hop)
    return hops


def to_clients(status: Mapping[str, Any]) -> list[Hop]:
    """The books of each gateway process of a running topology with all its clients, since it began."""
    hops = []
    for node in status["nodes"]:
        if "books_offered" not in node["report"]:
            continue
        of = {name.removeprefix("books_"): count for name, count in node["report"].items() if name.startswith("books_")}
        hop = Hop(
            node["name"], "clients", of["offered"], of["delivered"] + of["resumed"], of["missed"], of["replaced"],
            of["left"] + of["withheld"], of["pending"],
        )  # fmt: skip
        missing = hop.published - (hop.delivered + hop.told + hop.replaced + hop.dropped + hop.in_flight)
        hop.unexplained, hop.twice = max(0, missing), max(0, -missing)
        hops.append(hop)
    return hops


def _count(folder: Path, first: int, last: int, prefixes: tuple[bytes, ...]) -> int:
    """Records of a log within these positions, of topics that begin with a prefix."""
    listing = segments(folder)
    cursor = Cursor(lambda: listing, Query(first, last, prefixes=prefixes))
    out = np.empty(journal.BLOCK, np.uint8)
    while cursor.read(out):
        pass
    return cursor.summary()["count"]


def _books(spec: NodeSpec, folder: Path) -> list[Hop]:
    given = [_Given() for _ in spec.reads]
    names = [""]
    known = {0: 1}  # symbols behind each turn
    for turn in turns(segments(folder)):
        del names[known.get(turn.after, 1) :]  # those of turns that a recovery could not take again are noted anew
        for item in items(turn):
            match item:
                case str():
                    names.append(item)
                case Run():
                    given[item.link].gave(int(item.positions[0]), int(item.positions[-1]))
                    given[item.link].positions.append(item.positions)
                case Told():
                    _take(given[item.link], item, names)
        known[turn.position] = len(names)
    hops = []
    for source, taken in zip(spec.reads, given, strict=True):
        settings = source.publisher.journal
        if settings is not None and taken.first:
            hop = Hop(source.publisher.name, spec.name)
            _compare(hop, taken, log_folder(settings, source.publisher.name), source.topics)
            hops.append(hop)
    return hops


def _take(given: _Given, item: Told, names: list[str]) -> None:
    kind, symbol, venue, _, _, position = item.columns[:6]
    if kind == KIND_LINK:
        if item.columns[12] == 0:
            given.outages.append(given.last)
    elif kind == KIND_GAP:
        first, last = item.columns[13], item.columns[14]
        if first != NULL:
            given.gaps[item.columns[12], names[symbol], venue].append((first, last))
    elif item.snapshot:
        topic = (kind, names[symbol], venue)
        given.newest[topic] = max(given.newest.get(topic, 0), position)
    elif position <= given.last:
        given.late.add(position)
    else:
        given.gave(position, position)
        given.positions.append(np.array([position], np.int64))


def _compare(hop: Hop, given: _Given, folder: Path, topics: tuple[str, ...]) -> None:
    listing = segments(folder)
    cursor = Cursor(lambda: listing, Query(first=given.first, prefixes=tuple(topic.encode() for topic in topics)))
    positions = np.concatenate(given.positions)
    delivered = set(positions.tolist())
    hop.twice = positions.size - len(delivered)
    symbols = SymbolTable(1 << 16)
    coming, away = sorted(given.outages), False
    for position, _, _, topic, payload in journal.records(cursor):
        hop.published += 1
        while coming and position > coming[0]:
            away = True
            del coming[0]
        if position in delivered or position in given.late:
            hop.delivered += 1
            away = away and not (position in delivered and channel_of(topic.decode("ascii")) in STATE_CHANNELS)
            continue
        row = codec.decode([(topic, payload)], symbols)[0]
        key = (int(row["kind"]), symbols.name(int(row["symbol"])), int(row["venue"]))
        number = int(row["seq"])
        if position > given.last:
            hop.in_flight += 1
        elif any(first <= number <= last for first, last in given.gaps.get(key, ())):
            hop.told += 1
        elif key[0] in _STATES and position <= given.newest.get(key, 0):
            hop.replaced += 1
        elif away and key[0] in _STATES:
            hop.told += 1
        else:
            hop.unexplained += 1
