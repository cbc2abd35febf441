"""The same topology with a recorded source in place of its feeds."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from fabric.records import VENUE_CHANNELS
from fabric.topology.model import (
    CACHE_NODE,
    Access,
    CacheSettings,
    FeedSettings,
    Following,
    GatewaySettings,
    HistorySettings,
    NodeSpec,
    ProcessorSettings,
    Publisher,
    Settings,
    Source,
    Topology,
    participant,
)


def with_source(
    topology: Topology,
    source: str,
    *,
    base_port: int,
    http_port: int,
    venues: str = "",
    market: str = "",
    wire: str = "",
    speed: float = 0.0,
    from_ns: int | None = None,
    to_ns: int | None = None,
    delay_ns: int = 0,
    history: str = "",
    bare: bool = False,
    follows: Mapping[str, int] | None = None,
) -> Topology:
    """The same topology with one feed ``replay`` of the file ``source`` in place of its exchanges and feeds.

    Nothing of it meets a running one: publishers and the cache (always embedded, on this machine) take ports from
    ``base_port`` on, the first gateway ``http_port``, further ones the ports after it. ``venues`` are the letters
    that the source holds (default: the topology's own), ``market`` those of all that quoted, if it holds them all. The
    feed comes last in the start order, so that every node listens before its first packet; the clock is that of the
    events, and nothing may be lost. ``history`` is the file of its candles; without one it keeps no history.

    ``follows``: the processors that take the turns of their order logs in ``source`` again, each with the position from
    which on what it publishes is hashed. ``bare``: processors only; then no feed either, where all of them follow.
    """
    follows = follows or {}
    venues = venues or "".join(venue.code for venue in topology.venues)
    named = {venue.code: venue for venue in topology.venues}
    kept_history = replace(topology.history, url=history, archive="") if topology.history and history else None
    dropped = ["feed", "exchange", "cache", *(() if kept_history else ("history",))]
    if bare:
        dropped += ["gateway", "writer", "history"]
    kept = [node for node in topology.nodes if node.role not in dropped]
    ports = iter(range(base_port, base_port + 2 * len(kept) + 3))

    def moved(publisher: Publisher) -> Publisher:
        pub, router = f"tcp://127.0.0.1:{next(ports)}", f"tcp://127.0.0.1:{next(ports)}"
        return replace(
            publisher, endpoint=pub, snapshot_endpoint=router, bind=pub, snapshot_bind=router, journal=None, curve=None
        )

    replay = moved(Publisher("replay", "", "", VENUE_CHANNELS, venues))
    publishers = {node.name: moved(node.publishes) for node in kept if node.publishes is not None}
    cache = replace(topology.cache, shards=(), mode="off" if bare else topology.cache.mode)
    if cache.mode != "off":
        cache = replace(cache, mode="embedded", servers=(f"redis://127.0.0.1:{next(ports)}/0",))

    def rewired(sources: Iterable[Source]) -> tuple[Source, ...]:
        topics: dict[str, list[str]] = {}
        for old in sources:
            topics.setdefault(old.publisher.name if old.publisher.name in publishers else "replay", []).extend(
                old.topics
            )
        return tuple(Source(publishers.get(name, replay), tuple(dict.fromkeys(t))) for name, t in topics.items())

    http_ports = iter(range(http_port, http_port + len(kept)))
    moved_ports: dict[tuple[str, int], int] = {}  # processes of one gateway stay at one port

    def settings(node: NodeSpec) -> Settings:
        match node.settings:
            case ProcessorSettings() as processor:
                return replace(processor, venues=venues, market=market)
            case GatewaySettings() as gateway:
                shared = (gateway.host, gateway.port) if gateway.processes > 1 else (node.name, 0)
                if shared not in moved_ports:
                    moved_ports[shared] = next(http_ports)
                return replace(gateway, host="127.0.0.1", port=moved_ports[shared])
            case CacheSettings():
                return cache
            case HistorySettings():
                return kept_history or node.settings
            case other:
                return other

    def following(node: NodeSpec) -> NodeSpec:
        reads = []
        for old in node.reads:
            log = old.publisher.journal
            there = replace(old.publisher, journal=log and replace(log, folder=source))
            reads.append(replace(old, publisher=there))
        how = Following(source, speed, from_ns, to_ns, delay_ns, follows[node.name])
        return replace(node, publishes=publishers.get(node.name), reads=tuple(reads), host="local", follows=how)

    nodes = [
        following(n)
        if n.name in follows
        else replace(n, settings=settings(n), publishes=publishers.get(n.name), reads=rewired(n.reads), host="local")
        for n in kept
    ]
    if cache.mode != "off":
        nodes.insert(0, NodeSpec(CACHE_NODE, "cache", "gateway.redis_server:main", cache))
    feed = FeedSettings(wire, venues, source=source, speed=speed, delay_ns=delay_ns, from_ns=from_ns, to_ns=to_ns)
    if not (bare and all(node.follows for node in nodes)):
        nodes.append(NodeSpec("replay", "feed", "nodes.feeds.replay:main", feed, replay))
    return replace(
        topology,
        nodes=tuple(nodes),
        venues=tuple(named.get(code) or participant(code) for code in venues),
        cache=cache,
        history=kept_history,
        access=Access(),  # on this machine's loopback only
        curves=(),
        clock="event",
        lossless=True,
        metrics=None,
    )
