"""What the file gives as one entry and becomes several nodes: shards, hosts, and the order in which they start."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fabric.records import VENUE_CHANNELS
from fabric.topology.model import Curve, Publisher, Settings, Source
from fabric.topology_file import Value


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    bind: str
    insecure: bool = False
    curve: Curve | None = None


@dataclass(frozen=True)
class Unit:
    """One node as the file gives it: a processor with three shards is one unit and becomes three nodes."""

    at: Value  # its entry in the file
    role: str
    run: str
    hosts: tuple[Host, ...]  # one, or one a shard
    reads: tuple[Value, ...] = ()  # names of channels
    channels: tuple[Value, ...] = ()  # that it publishes; a feed's are fixed
    letters: tuple[str, ...] = ("",)  # of each shard
    settings: Settings | None = None  # None for a processor: made with its letters
    logged: bool = True  # where there is a log at all
    hours: str = "clock"  # of a processor
    session: str = "regular"

    def names(self) -> list[str]:
        """Of its nodes: ``nbbo``, or ``nbbo-1`` to ``nbbo-3``."""
        if len(self.letters) == 1:
            return [self.at.name]
        return [f"{self.at.name}-{i + 1}" for i in range(len(self.letters))]

    def published(self) -> tuple[str, ...]:
        return VENUE_CHANNELS if self.role == "feed" else tuple(texts(self.channels))


@dataclass(frozen=True)
class _Cycle:
    links: list[tuple[Unit, str]]  # each unit, and the channel by which it feeds the next


def in_order(units: Sequence[Unit]) -> "list[Unit] | _Cycle":
    """The processors so that each comes after those whose channels it reads, else in the order of the file."""
    publisher = {c: unit for unit in reversed(units) for c in unit.published() if c not in VENUE_CHANNELS}
    ordered: list[Unit] = []
    path: list[tuple[Unit, str]] = []

    def visit(unit: Unit) -> _Cycle | None:
        for channel in texts(unit.reads):
            source = publisher.get(channel)
            if source is None or source in ordered:
                continue
            path.append((source, channel))
            started = next((i for i, (seen, _) in enumerate(path[:-1]) if seen is source), None)
            if started is not None:
                return _Cycle(path[started + 1 :][::-1])
            if found := visit(source):
                return found
            path.pop()
        ordered.append(unit)
        return None

    for unit in units:
        if unit not in ordered:
            path[:] = [(unit, "")]
            if found := visit(unit):
                return found
    return ordered


def shards_of(unit: Unit) -> list[tuple[str, str, Host]]:
    """Name, letters and host of each of its nodes."""
    hosts = unit.hosts if len(unit.hosts) == len(unit.letters) else unit.hosts[:1] * len(unit.letters)
    return list(zip(unit.names(), unit.letters, hosts, strict=True))


def sources_of(channels: Mapping[str, Sequence[str]], publishers: Iterable[Publisher]) -> tuple[Source, ...]:
    """What to subscribe to at each publisher for these channels and symbol prefixes."""
    found = []
    for publisher in publishers:
        topics: list[str] = []
        for channel, prefixes in channels.items():
            if channel not in publisher.channels:
                continue
            matching = [p for p in prefixes if not p or not publisher.letters or p[0] in publisher.letters]
            topics += [f"{channel}.{p}" for p in matching]
            if channel.startswith("bar.") and matching and "" not in prefixes:
                topics.append(f"{channel}.|")  # the empty symbol: ends of intervals
            if channel == "status" and "" not in prefixes:
                topics.append("status.|")  # the empty symbol: states of whole venues
        if topics:
            found.append(Source(publisher, tuple(topics)))
    return tuple(found)


def texts(values: Iterable[Value]) -> Iterable[str]:
    """The texts among them; others have been noted as mistakes."""
    return [value.content for value in values if isinstance(value.content, str)]
