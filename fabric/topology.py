"""topology.yaml -> frozen objects. What has been loaded is valid: nothing further down checks it again.

`load` reads the file once and reports every mistake at once, each as ``file:line:column: key: problem``.
A `Topology` is flat: feeds, exchanges, processor shards, gateways and the cache have all become `NodeSpec`s
in start order, with their ports given out, so the launcher and the nodes need not know how the file is laid out.

Every key, its unit and default: docs/topology.md. Text with positions comes from `topology_file.py`; here are the
keys, what they mean together, and what becomes of them.
"""

import ipaddress
import logging
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fabric.clock import MILLISECOND_NS, SECOND_NS
from fabric.errors import UsageError
from fabric.records import CHANNELS, VENUE_CHANNELS
from fabric.topology_file import Problems, Section, Value, hint, is_host, parse, read

VERSION = 1
"""The schema version that this build knows."""
_SHAPES = ("flat", "intraday")
_ARRIVALS = ("random", "even")
_RECOVERY = {
    "nasdaq-itch-5.0": ("udp", "tcp"),
    "cboe-pitch-2.41": ("tcp",),
    "nyse-pillar": ("tcp",),
    "iex-tops-1.6": ("udp",),
    "iex-deep-1.0": ("udp",),
    "iex-deep-plus-1.0": ("udp",),
    "cta": (),
    "utp": (),
}
"""Wire -> how its exchange is asked for lost messages; nothing: it cannot be asked."""
_SIMULATED = {
    "nasdaq-itch-5.0": "nodes.exchanges.nasdaq:main",
    "cboe-pitch-2.41": "nodes.exchanges.cboe:main",
    "nyse-pillar": "nodes.exchanges.nyse:main",
    "iex-tops-1.6": "nodes.exchanges.iex:main",
}
"""Wire -> the program of its simulated exchange."""
WIRES = tuple(_RECOVERY)
_ANSWERED_APART = ("cboe-pitch-2.41", "nyse-pillar")
"""Wires whose lost messages come on lines of their own."""
_OVER_TCP = ("nasdaq-itch-5.0",)
"""Wires whose lines may be SoupBinTCP."""
CLIENT_CHANNELS = (
    *("trades", "quotes", "bars", "updatedBars", "dailyBars", "statuses", "lulds"),
    *("venueQuotes", "bars5m", "bars1h", "barsNow", "alerts"),
)
"""What a gateway's clients may subscribe to, for plans."""
FIRST_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
"""What a symbol may begin with: shards share these out, each to exactly one."""
PARTICIPANTS = {
    "A": ("NYSE American", "american"),
    "B": ("Nasdaq BX", "bx"),
    "C": ("NYSE National", "national"),
    "D": ("FINRA ADF", "finra"),
    "G": ("24X", "24x"),
    "H": ("MIAX Pearl", "pearl"),
    "I": ("ISE", "ise"),
    "J": ("EDGA", "edga"),
    "K": ("EDGX", "edgx"),
    "L": ("LTSE", "ltse"),
    "M": ("NYSE Texas", "texas"),
    "N": ("NYSE", "nyse"),
    "P": ("NYSE Arca", "arca"),
    "Q": ("Nasdaq", "nasdaq"),
    "T": ("Nasdaq (tapes A and B)", "nasdaq-t"),
    "U": ("MEMX", "memx"),
    "V": ("IEX", "iex"),
    "W": ("CBSX", "cbsx"),
    "X": ("Nasdaq PSX", "psx"),
    "Y": ("BYX", "byx"),
    "Z": ("BZX", "bzx"),
}
"""Names of the participants (CTA and UTP lists) for venues that the file does not name: code -> name, feed."""

_PROCESSES_MAX = 64
"""Of one gateway: more than any machine has cores to spare."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Every bound that the topology may set; the defaults are what the file's comments say."""

    symbols_max: int = 20_000  # names a process learns before it refuses (and counts) new ones
    batch_max: int = 8_192  # rows a node takes at once
    linger_ns: int = 4_000_000  # on a busy stream let more gather after a first message: fewer wake-ups, later by this
    queue_max: int = 100_000  # messages that ZeroMQ holds for one slow peer before it drops (high-water mark)
    message_bytes_max: int = 1 << 20  # a longer bus message cuts its sender
    repair_max: int = 1_000_000  # positions of a publisher's log that a reader looks through to fill one gap
    stale_after_ns: int = 2_500_000_000  # silence after which a line or publisher is stale
    refresh_every_ns: int = 5 * SECOND_NS  # a silent state topic is published again this often
    restarts_max: int = 10  # restarts of one node within `restart_window_ns` before it is given up
    restart_window_ns: int = 60 * SECOND_NS
    drain_ns: int = 5 * SECOND_NS  # from SIGTERM to SIGKILL
    clients_max: int = 20_000  # WebSocket connections of one gateway process
    client_symbols_max: int = 10_000  # symbols one WebSocket client may subscribe
    candles_kept: int = 1_000  # bars of each interval that a gateway keeps for one symbol
    address_connections: int = 20_000  # WebSocket connections of one address, over all gateways of a machine
    address_requests: int = 500  # REST requests a second of one address, likewise; twice that at once


@dataclass(frozen=True)
class Venue:
    """A participant of the market, by its one-letter code."""

    code: str
    name: str  # `NYSE Arca`
    feed: str  # name of the WebSocket path /v2/<feed> that serves its own quotes: `iex`


@dataclass(frozen=True)
class JournalSettings:
    """The durable log of each publisher."""

    folder: str  # holds one folder a publisher
    keep_ns: int = 3_600 * SECOND_NS  # older records are forgotten, a segment at a time
    bytes_max: int = 512 << 20  # on disk for one publisher; the oldest go first
    sync_ns: int = 50 * MILLISECOND_NS  # what a power cut may cost at most
    serve_bytes: int = 64 << 20  # of one publisher's log, looked through in a second for all its readers together


@dataclass(frozen=True)
class Curve:
    """The CURVE keys of a host (ZeroMQ RFC 26): its publishers are servers with them, its readers clients."""

    secret_file: str  # read by who uses it; never part of this
    public_key: str  # Z85
    clients: tuple[str, ...] = ()  # public keys that its publishers let in: of every host, and of `curve_clients`


@dataclass(frozen=True)
class Publisher:
    """One bus publisher: who owns which (channel, first letters) and where it is reached."""

    name: str  # the node's name
    endpoint: str  # PUB, as a subscriber connects to it: tcp://127.0.0.1:5500
    snapshot_endpoint: str  # ROUTER beside it
    channels: tuple[str, ...]  # ("quote", "trade", "status")
    venues: str = ""  # letters of the venues that it speaks for; empty for a processor
    letters: str = ""  # first letters (and digits) of its symbols: its shard; empty means all
    bind: str = ""  # address that the PUB binds; derived from the endpoint and the host's bind address
    snapshot_bind: str = ""
    journal: JournalSettings | None = None  # None: it keeps no log
    curve: Curve | None = None  # None: it speaks to everyone, in the clear


@dataclass(frozen=True)
class Source:
    """What a node reads from one publisher: ZeroMQ prefixes, such as ``quote.A``."""

    publisher: Publisher
    topics: tuple[str, ...]


@dataclass(frozen=True)
class BreakerSettings:
    """When the circuit breaker of a feed opens and closes."""

    silence_ns: int = 1_750_000_000  # without a sound packet; exchanges send a heartbeat each second
    gaps_max: int = 10  # gaps within `window_ns`
    errors_max: int = 100  # malformed packets within `window_ns`, if they are also a tenth of all
    window_ns: int = SECOND_NS
    skew_ns: int = 30 * SECOND_NS  # difference of the exchange's clock
    backoff_ns: int = (
        500 * MILLISECOND_NS
    )  # least time open, and then without a fault; doubles when it opens again soon
    backoff_ns_max: int = 30 * SECOND_NS
    packets_min: int = 2  # sound packets before it closes


@dataclass(frozen=True)
class FeedSettings:
    wire: str  # one of WIRES (a capture or csv file in a replay: `source`)
    venues: str  # participant letters that this feed publishes
    lines: tuple[tuple[str, int], ...] = ()  # (host, port) of each line
    groups: tuple[int, ...] = ()  # of each line: lines A and B of one group carry the same messages
    interfaces: tuple[str, ...] = ()  # of each line: address or name of the interface that joins a multicast group
    over_tcp: tuple[bool, ...] = ()  # of each line: SoupBinTCP, not UDP
    recovery: tuple[tuple[str, str, int], ...] = ()  # (udp or tcp, host, port) of request servers, tried in turn
    login: tuple[str, str] = ("", "")  # user (NYSE: source id) and password for SoupBinTCP and request servers
    product: int = 0  # NYSE: number of the product in requests
    channel: int = 1  # in requests: that of the first group, the others follow
    answers: tuple[tuple[str, int], ...] = ()  # (host, port) of the UDP groups on which answers to requests come
    spins: tuple[tuple[str, int], ...] = ()  # (host, port) of Cboe's spin servers, of unit 1, 2, ...
    breaker: BreakerSettings = BreakerSettings()
    source: str = ""  # file that is replayed in place of the lines
    speed: float = 0.0  # of the replay: 1.0 is real time, 0.0 as fast as it goes
    delay_ns: int = 0  # before the replay's first packet
    from_ns: int | None = None  # only events in [from_ns, to_ns)
    to_ns: int | None = None


@dataclass(frozen=True)
class FaultSettings:
    """What a simulated exchange does wrong on purpose; shares are of its packets."""

    lines: str = "AB"  # letters of the lines that have the faults from `drop` to `flap_ns`
    after_ns: int = 0  # from the start until they begin
    for_ns: int = 0  # until they end; 0: never
    drop: float = 0.0  # lost, on each line others
    duplicate: float = 0.0  # sent twice
    reorder: int = 0  # come up to so many ticks late
    corrupt: float = 0.0  # with wrong bytes, or cut short
    mute: bool = False  # nothing is sent
    flap_ns: int = 0  # nothing is sent for so long, then all for so long, and so on
    drop_both: float = 0.0  # lost on every line
    delay_ns: int = 0  # line B is so much later than line A
    skew_ns: int = 0  # the exchange's clock is ahead by this, or behind
    restart_ns: int = 0  # from the start until a new session begins; 0: never


@dataclass(frozen=True)
class ExchangeSettings:
    """A simulated exchange."""

    wire: str
    lines: tuple[tuple[str, int], ...]  # UDP (host, port) that it sends to
    symbols: int = 5_000
    rate: int = 50_000  # messages a second on average
    surge: float = 1.0  # factor on the rate, and on nothing else
    seed: int = 1
    shape: str = "flat"  # of the rate over the day: flat | intraday
    roles: str = ""  # letter of each line: A, or B for the second of two that carry the same
    halts: float = 60.0  # of symbols, in an hour
    faults: FaultSettings = FaultSettings()
    feed: FeedSettings | None = None  # the first that it sends to: it answers that one's requests
    arrivals: str = "random"  # which symbol is next, and when: random | even
    surge_after_ns: int = 0  # from the start until it surges
    surge_for_ns: int = 0  # until that is over; 0: never


@dataclass(frozen=True)
class ProcessorSettings:
    letters: str  # this shard's first letters and digits; "ABCDEFGH"
    venues: str  # all venues of the topology, in the file's order
    market: str = ""  # letters of all venues that quote, as far as the file tells; empty: not known
    hours: str = "clock"  # a candle of an hour begins at the full hour, or as the regular session does: "open"


@dataclass(frozen=True)
class CacheSettings:
    """Where the latest values are kept. ``servers`` is empty for the embedded one until it has its port."""

    mode: str = "embedded"  # embedded | server | shards | cluster | off
    servers: tuple[str, ...] = ()  # redis://host:port/db, one a shard
    shards: tuple[str, ...] = ()  # first letters of each server's symbols, same order (mode shards)
    writes_per_second: int = 4
    quote_ttl_ms: int = 1_000
    memory: str = "256mb"  # of the embedded server


@dataclass(frozen=True)
class HistorySettings:
    """Where closed candles are kept, for charts that go back further than a gateway's memory."""

    url: str  # absolute path of a SQLite file, or postgresql://...
    keep_ns: tuple[tuple[str, int], ...]  # (interval, how long): older candles are forgotten
    archive: str = ""  # folder of Parquet files, one a day and interval; empty: none
    rows_max: int = 500_000  # candles that wait in memory while the store is away: 200 bytes each

    @property
    def remote(self) -> bool:
        """Whether other machines reach it too."""
        return "://" in self.url


@dataclass(frozen=True)
class GatewaySettings:
    host: str  # address that HTTP binds
    port: int
    symbols: tuple[str, ...]  # prefixes: its ZeroMQ subscriptions; "" means all
    interval_ms: int = 100  # default conflation on /stream
    origins: tuple[str, ...] = ()  # allowed Origin headers besides its own address
    processes: int = 1  # nodes that share the port (SO_REUSEPORT)


@dataclass(frozen=True)
class Plan:
    """What a user may see, and how much of it; the default is everything, within the gateway's own bounds."""

    name: str = "full"
    feeds: tuple[str, ...] = ()  # `sip` (all that is of all venues together) and names of venues' feeds; empty: all
    channels: tuple[str, ...] = ()  # of the WebSocket; `quotes`, `trades` and `bars` are REST's too; empty: all
    symbols: tuple[str, ...] = ()  # names, and prefixes that end in *; empty: all
    wildcards: bool = True  # may subscribe to prefixes and to *; not by default where `symbols_max` is given
    delay_ns: int = 0  # sees what was so long ago
    connections: int = 0  # WebSocket connections at a time over all gateways of a machine; 0: no bound of its own
    takeover: bool = False  # one more connection replaces the oldest, instead of being refused
    symbols_max: int = 0  # symbols of one connection and channel; 0: `limits.client_symbols_max`
    symbols_surge: int = 0  # the same while the gateway is degraded; 0: as always
    messages: int = 20  # a second on one connection; five times that at once
    requests: int = 200  # REST, a second over all gateways of a machine; twice that at once
    operator: bool = False  # sees how the system does: /v1/ops


@dataclass(frozen=True)
class TokenSettings:
    """Whose JSON Web Tokens are taken."""

    keys: str  # file of a JSON Web Key Set
    issuer: str
    audience: str


@dataclass(frozen=True)
class Access:
    """Who may come in at a gateway. Open: neither keys nor tokens, everyone may everything."""

    keys: str = ""  # file of the API keys
    tokens: TokenSettings | None = None
    public: str = ""  # plan of those who say nothing of themselves; empty: they are refused
    plans: tuple[Plan, ...] = (Plan(),)

    @property
    def open(self) -> bool:
        return not self.keys and self.tokens is None

    def plan(self, name: str) -> Plan | None:
        """The plan of that name."""
        return next((plan for plan in self.plans if plan.name == name), None)


Settings = FeedSettings | ExchangeSettings | ProcessorSettings | CacheSettings | HistorySettings | GatewaySettings


@dataclass(frozen=True)
class Following:
    """In a replay of logs: a processor takes the turns of its own order log again, in place of what the bus brings."""

    folder: str  # of the logs, its own and those of its inputs
    speed: float = 0.0  # as in `FeedSettings`
    from_ns: int | None = None  # turns before are taken, and nothing of them is told
    to_ns: int | None = None
    delay_ns: int = 0
    hash_from: int = 1  # what it publishes from this position of its own log on is hashed


@dataclass(frozen=True)
class NodeSpec:
    """One process of the topology."""

    name: str
    role: str  # feed | exchange | processor | gateway | cache | writer | history
    run: str  # "nodes.nbbo:main"
    settings: Settings
    publishes: Publisher | None = None
    reads: tuple[Source, ...] = ()
    host: str = "local"
    follows: Following | None = None


@dataclass(frozen=True)
class Topology:
    """The running system: what `load` returns and everything else trusts."""

    path: str
    nodes: tuple[NodeSpec, ...]  # in start order
    venues: tuple[Venue, ...]
    limits: Limits = field(default_factory=Limits)
    cache: CacheSettings = field(default_factory=CacheSettings)
    access: Access = field(default_factory=Access)
    history: HistorySettings | None = None
    clock: str = "system"  # "event" in a replay: each node runs under the time of the events it sees
    lossless: bool = False  # in a replay publishers wait for slow subscribers instead of dropping
    log_level: str = "INFO"
    log_format: str = "text"
    hosts: tuple[tuple[str, str], ...] = ()  # (name, address) of each machine
    here: tuple[str, ...] = ()  # the machines whose nodes this launcher starts; none named: all of them
    run_folder: str = ""  # of the launcher that runs it; empty: there is none
    metrics: tuple[str, int] | None = None  # host and port where the launcher serves /metrics of all its nodes
    curves: tuple[tuple[str, Curve], ...] = ()  # (name, keys) of each machine that has some

    def local_nodes(self) -> tuple[NodeSpec, ...]:
        """The nodes that this launcher starts, in start order."""
        return tuple(node for node in self.nodes if not self.here or node.host in self.here)

    def curve(self, host: str = "") -> Curve | None:
        """The keys with which readers on ``host`` read; those of the first machine here where none is named."""
        names = [host] if host else [*self.here, *(name for name, _ in self.curves)]
        return next((curve for name in names for owner, curve in self.curves if owner == name), None)

    def node(self, name: str) -> NodeSpec:
        """The node of that name; raises KeyError."""
        return {node.name: node for node in self.nodes}[name]

    def publishers(self) -> tuple[Publisher, ...]:
        """Every publisher, in start order."""
        return tuple(node.publishes for node in self.nodes if node.publishes is not None)


def load(path: Path | str, environment: Mapping[str, str] = os.environ) -> Topology:
    """Read and check a topology file; raises TopologyError with every mistake, UsageError for a bad variable."""
    return load_text(read(Path(path)), str(path), environment)


def load_text(text: str, path: str = "topology.yaml", environment: Mapping[str, str] = os.environ) -> Topology:
    """`load` for a text; ``path`` is what messages call it, and where paths in it start from."""
    problems = Problems(path)
    top = Section(parse(text, problems, environment))
    version = top.get("version")
    if version and version.content != str(VERSION):
        version.problem(f"this build knows version {VERSION} of the topology, found {version.content!r}")
        problems.check()
    draft = _Draft(top, _Overrides(environment), Path(path).parent)
    top.close()
    problems.check()
    return draft.topology(path)


def endpoints(topology: Topology, topic: str) -> tuple[str, ...]:
    """The addresses that a raw SUB socket must connect to for this topic prefix; raises UsageError if nobody has it."""
    found = tuple(p.endpoint for p in topology.publishers() if may_publish(p, topic))
    if found:
        return found
    channels = [*sorted({channel for p in topology.publishers() for channel in p.channels}), "node"]
    channel = next((c for c in channels if topic.startswith(f"{c}.")), "")
    if channel:
        raise UsageError(f"topic {topic!r}: no node publishes it, though {channel!r} is a channel of this topology")
    unknown = re.match(r"bar\.[^.]*|[^.]*", topic)
    assert unknown is not None  # the pattern matches the empty text
    raise UsageError(f"topic {topic!r}: no node publishes channel {unknown[0]!r}{hint(unknown[0], channels)}")


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
        venues=tuple(named.get(code) or _participant(code) for code in venues),
        cache=cache,
        history=kept_history,
        access=Access(),  # on this machine's loopback only
        curves=(),
        clock="event",
        lossless=True,
        metrics=None,
    )


CACHE_NODE = "redis"
WRITER_NODE = "redis-writer"
HISTORY_NODE = "history"
_DAY_NS = 86_400 * SECOND_NS
HISTORY_KEEP_NS = {"1m": 7 * _DAY_NS, "5m": 30 * _DAY_NS, "1h": 365 * _DAY_NS, "1d": 3_650 * _DAY_NS}
"""Interval -> how long its candles are kept, where the file does not say."""
_LOG_NAMES = ("fabric", "forkserver")
"""What stands in the log where a node's name does, for the launcher and for the process that it forks from."""
_BAR_CHANNELS = ("bar.1m", "bar.5m", "bar.1h", "bar.1d")
_CACHED_CHANNELS = ("nbbo", *_BAR_CHANNELS)
_NAME = r"[a-z0-9][a-z0-9_-]{0,39}"
_RUN = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
_PREFIX = r"\*|(?:[A-Z0-9][!-)+-{}~]{0,15})?\*?"
_REDIS_URL = r"rediss?://(?:[^\s@/]*@)?(?:\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]+)(?::[0-9]{1,5})?(?:/[0-9]*)?|unix://(?:[^\s@/]*@)?/\S+"
_POSTGRES_URL = r"postgres(?:ql)?://(?:[^\s@/]*@)?[^\s@/]*(?:/[^\s@]*)?"
_KEY = r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}"
"""A CURVE key: 32 bytes in Z85 (ZeroMQ RFC 32)."""


def curve_secret(text: str) -> str | None:
    """The CURVE secret key in the text of a file: alone, or in a ZeroMQ certificate; None where there is none."""
    certificate = re.search(r'^\s*secret-key\s*=\s*"([^"\n]*)"', text, re.MULTILINE)
    found = certificate[1] if certificate else text.strip()
    return found if re.fullmatch(_KEY, found) else None


def _curve(folder: Path, secret: Value | None, public: Value | None, clients: Sequence[Value]) -> Curve | None:
    if secret is None or public is None:
        return None
    path = folder.resolve() / secret.text("a file name")
    return Curve(str(path), str(public.content), tuple(str(client.content) for client in clients))


@dataclass(frozen=True)
class _Overrides:
    """Settings from environment variables, which win over the file."""

    environment: Mapping[str, str]

    def http_port(self) -> int | None:
        """Of the first gateway: FABRIC_PORT, else PORT."""
        for name in ("FABRIC_PORT", "PORT"):
            if text := self.environment.get(name):
                if re.fullmatch(r"[0-9]{1,5}", text) and 1 <= int(text) <= 65_535:
                    return int(text)
                raise UsageError(f"environment variable {name}: expected a port from 1 to 65535, found {text!r}")
        return None

    def redis_url(self) -> str:
        url = self.environment.get("REDIS_URL", "")
        if url and not re.fullmatch(_REDIS_URL, url):
            found = repr(url) if "@" not in url else "another text (not shown: it may hold a password)"
            raise UsageError(
                f"environment variable REDIS_URL: expected an address such as redis://127.0.0.1:6379, found {found}"
            )
        return url

    def chosen(self, name: str, options: Sequence[str], default: str) -> str:
        text = self.environment.get(name) or default
        if text not in options:
            raise UsageError(f"environment variable {name}: expected one of {', '.join(options)}, found {text!r}")
        return text


@dataclass(frozen=True)
class _Host:
    name: str
    address: str
    bind: str
    insecure: bool = False
    curve: Curve | None = None


@dataclass(frozen=True)
class _Unit:
    """One node as the file gives it: a processor with three shards is one unit and becomes three nodes."""

    at: Value  # its entry in the file
    role: str
    run: str
    hosts: tuple[_Host, ...]  # one, or one a shard
    reads: tuple[Value, ...] = ()  # names of channels
    channels: tuple[Value, ...] = ()  # that it publishes; a feed's are fixed
    letters: tuple[str, ...] = ("",)  # of each shard
    settings: Settings | None = None  # None for a processor: made with its letters
    logged: bool = True  # where there is a log at all
    hours: str = "clock"  # of a processor

    def names(self) -> list[str]:
        """Of its nodes: ``nbbo``, or ``nbbo-1`` to ``nbbo-3``."""
        if len(self.letters) == 1:
            return [self.at.name]
        return [f"{self.at.name}-{i + 1}" for i in range(len(self.letters))]

    def published(self) -> tuple[str, ...]:
        return VENUE_CHANNELS if self.role == "feed" else tuple(_texts(self.channels))


class _Draft:
    """The file's content, read section by section and then checked as a whole."""

    def __init__(self, top: Section, overrides: _Overrides, folder: Path) -> None:
        self._top = top
        self._folder = folder
        self._overrides = overrides
        self.limits = _limits(top.get("limits"))
        self.log = _log_settings(top.get("log"), overrides)
        self.metrics = _metrics_settings(top.get("metrics"))
        self.journal = _journal(top.get("journal"), folder)
        self.hosts = self._read_hosts()
        self.base, self.span = self._read_ports()
        self.venues = self._read_venues()
        market = top.get("market")
        self.market = market.text("letters of all venues that quote, such as NQZV", "[A-Z]+") if market else ""
        if market and len(set(self.market)) < len(self.market):
            market.problem(f"{self.market!r} names a venue twice")
        shards = top.get("shards")
        self.shards = _letter_sets(shards, shards.items()) if shards else ("",)
        self.feeds = [self._read_feed(value) for value in top.entries("feeds")]
        self.exchanges = [self._read_exchange(value) for value in top.entries("exchanges")]
        self.processors = [self._read_processor(value) for value in top.entries("processors")]
        self.access = self._read_access()
        self.gateways = self._read_gateways()
        self.cache = self._read_cache()
        self.history = self._read_history()
        top.need("feeds", "{iex: {wire: iex-tops-1.6, venues: V, lines: ['udp://127.0.0.1:5490']}}")
        self._check_names()
        self._check_venues()
        self._check_channels()
        self._check_ports()

    # What each section holds.

    def _read_hosts(self) -> dict[str, _Host]:
        hosts = {value.name: self._read_host(value) for value in self._top.entries("hosts")}
        return hosts or {"local": _Host("local", "127.0.0.1", "127.0.0.1")}

    def _read_host(self, value: Value) -> _Host:
        section = Section(value)
        address, bind = section.get("address"), section.get("bind")
        insecure = section.get("allow_insecure")
        secret, public = section.get("curve_secret_file"), section.get("curve_public_key")
        clients = section.items("curve_clients")
        section.close()
        for key in [*([public] if public else ()), *clients]:
            if not (isinstance(key.content, str) and re.fullmatch(_KEY, key.content)):
                key.problem("expected a CURVE key: 40 characters of Z85 (in quotes)")
        host = _Host(
            value.name,
            address.text("an address or host name", r"[^\s:/\[\]]+|[0-9a-fA-F:.]+") if address else "127.0.0.1",
            bind.text("an IP address, or * for all", r"\*|[0-9a-fA-F:.]+", "127.0.0.1") if bind else "127.0.0.1",
            insecure.flag() if insecure else False,
            _curve(self._folder, secret, public, clients),
        )
        if address and not is_host(host.address):
            address.expected("an address or host name")
        if bind and host.bind != "*" and not _is_ip(host.bind):
            bind.expected("an IP address, or * for all")
        if secret:
            self._check_secret(secret)
        for given, missing in ((secret, "curve_public_key"), (public, "curve_secret_file")):
            if given and host.curve is None and _is_loopback(host.bind):
                given.problem(f"of no use without {missing}")
        if bind and not _is_loopback(host.bind):
            if host.insecure and host.curve is None:
                _log.warning("%s: the bus binds %s without encryption (allow_insecure)", value.key, host.bind)
            elif host.curve is None:
                bind.problem(
                    f"{host.bind} can be reached from other machines: give curve_secret_file and curve_public_key, "
                    "or allow_insecure: true for a network that you trust"
                )
        return host

    def _check_secret(self, value: Value) -> None:
        text = self._read_private(value)
        if text is None:
            return
        path = self._folder / value.text("a file name")
        if curve_secret(text) is None:
            value.problem(f"{path} holds no CURVE secret key: 40 characters of Z85, or a ZeroMQ certificate")

    def _read_private(self, value: Value) -> str | None:
        """The text of a file that only its owner may read; None where there is none. Notes what is wrong with it."""
        path = self._folder / value.text("a file name")
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            text = path.read_text("ascii", "replace")
        except OSError as error:
            value.problem(f"{path}: {error.strerror or error}")
            return None
        if mode & 0o077:
            value.problem(f"{path} has mode {mode:04o}: others may read the key; chmod 600 it")
        return text

    def _read_access(self) -> Access:
        value = self._top.get("access")
        if value is None:
            return Access()
        section = Section(value)
        keys, tokens, public = section.get("keys"), section.get("tokens"), section.get("public")
        plans = [self._read_plan(plan) for plan in section.entries("plans")]
        if "full" not in (plan.name for plan in plans):
            plans.insert(0, Plan())
        section.close()
        access = Access(
            str(self._folder.resolve() / keys.text("a file name")) if keys else "",
            self._read_tokens(tokens) if tokens else None,
            public.choice([plan.name for plan in plans], "plan") if public else "",
            tuple(plans),
        )
        if keys and Path(access.keys).exists():
            self._read_private(keys)
        if public and (plan := access.plan(access.public)) and plan.operator:
            public.problem(f"the plan {plan.name!r} is an operator's: it cannot be that of those who give no key")
        if access.open and not (keys or tokens):
            value.name_problem("without keys or tokens everyone may come in: give keys: keys.json, or leave it out")
        return access

    def _read_tokens(self, value: Value) -> TokenSettings:
        section = Section(value)
        keys = section.need("keys", "jwks.json")
        issuer = section.need("issuer", "https://login.example.com")
        audience = section.need("audience", "fabric")
        section.close()
        if keys:
            self._read_private(keys)
        return TokenSettings(
            str(self._folder.resolve() / keys.text("a file name")) if keys else "",
            issuer.text("the issuer's name, as its tokens have it") if issuer else "",
            audience.text("our name, as the tokens have it") if audience else "",
        )

    def _read_plan(self, value: Value) -> Plan:
        section = Section(value)
        if not re.fullmatch(_NAME, value.name):
            value.name_problem("a plan's name is at most 40 small letters, digits, - and _")
        names = ["sip", *(venue.feed for venue in self.venues.values())]
        wildcards, takeover, delay = section.get("wildcards"), section.get("takeover"), section.get("delay")
        operator = section.get("operator")
        bounds = {
            key: found.integer(low, 1_000_000) for key, low in _PLAN_BOUNDS.items() if (found := section.get(key))
        }
        plan = Plan(
            value.name,
            tuple(item.choice(names, "feed") for item in section.items("feeds")),
            tuple(item.choice(CLIENT_CHANNELS, "channel") for item in section.items("channels")),
            tuple(item.text("a symbol, or a prefix that ends in *", _PREFIX) for item in section.items("symbols")),
            wildcards.flag() if wildcards else not bounds.get("symbols_max"),
            delay.duration_ns(0, 0) if delay else 0,
            takeover=takeover.flag() if takeover else False,
            operator=operator.flag() if operator else False,
            **bounds,
        )
        section.close()
        return plan

    def _read_ports(self) -> tuple[int, int]:
        value = self._top.get("ports")
        if value is None:
            return 5500, 100
        section = Section(value)
        base, span = section.get("base"), section.get("span")
        section.close()
        first = base.port() if base else 5500
        count = span.integer(1, 65_535, "a number of ports", 100) if span else 100
        if first + count > 65_536:
            value.name_problem(f"base {first} and span {count} go beyond port 65535")
        return first, count

    def _read_venues(self) -> dict[str, Venue]:
        venues: dict[str, Venue] = {}
        feeds: dict[str, Value] = {}
        for value in self._top.entries("venues"):
            if not re.fullmatch("[A-Z]", value.name):
                value.name_problem("a venue is one capital letter, its code on the consolidated tape")
                continue
            section = Section(value)
            default = _participant(value.name)
            name, feed = section.get("name"), section.get("feed")
            section.close()
            path = feed.text("a path name such as iex", r"[a-z0-9][a-z0-9-]*", default.feed) if feed else default.feed
            if path == "sip":
                (feed or value).problem("'sip' is the composite of all venues; call this venue's own feed otherwise")
            if path in feeds:
                (feed or value).problem(f"feed {path!r} is that of {feeds[path].key} already ({feeds[path].where})")
            feeds.setdefault(path, value)
            venues[value.name] = Venue(value.name, name.text() if name else default.name, path)
        return venues

    def _read_feed(self, value: Value) -> _Unit:
        section = Section(value)
        wire = section.need("wire", WIRES[0])
        venues = section.need("venues", "V")
        lines = section.need("lines", '["udp://127.0.0.1:5490"]')
        spoken = wire.choice(WIRES, "wire") if wire else ""
        found = _lines(lines, spoken) if lines else []
        settings = FeedSettings(
            spoken,
            venues.text("letters of venues, such as V or NPA", "[A-Z]+") if venues else "",
            tuple((line.host, line.port) for line in found),
            tuple(line.group for line in found),
            tuple(line.interface for line in found),
            tuple(line.over_tcp for line in found),
            _recovery(section.get("recovery"), spoken),
            _login(section.get("login")),
            number.integer(0, 255, "the number of a product") if (number := section.get("product")) else 0,
            number.integer(0, 65_535, "the number of a channel") if (number := section.get("channel")) else 1,
            _addresses(section.get("answers"), "udp", spoken in _ANSWERED_APART, f"{spoken} has no lines of answers"),
            _addresses(section.get("spins"), "tcp", spoken == "cboe-pitch-2.41", "only cboe-pitch-2.41 has spins"),
            _breaker(section.get("breaker"), self.limits.stale_after_ns),
        )
        if settings.wire == "nyse-pillar" and settings.recovery and not (settings.product and settings.login[0]):
            value.name_problem("requests to NYSE need product: and login: {user: our source id}")
        elif spoken == "cboe-pitch-2.41" and settings.recovery and not (settings.answers and settings.login[0]):
            value.name_problem("requests to Cboe need answers: [its gap lines] and login: {user: ..., password: ...}")
        elif spoken == "cboe-pitch-2.41" and len(settings.login[0]) > 4:
            value.name_problem("the names of Cboe's users have 4 characters at most")
        elif any(settings.over_tcp) and not settings.login[0]:
            value.name_problem("SoupBinTCP needs login: {user: ..., password: ...}")
        for letter in settings.venues if venues else "":
            if letter not in self.venues and venues:
                venues.problem(f"venue {letter!r} is not under venues:{hint(letter, self.venues)}")
        return self._unit(value, section, "feed", "nodes.feeds.feed:main", settings=settings)

    def _read_exchange(self, value: Value) -> _Unit:
        section = Section(value)
        targets = section.need("to", "[iex]")
        feeds = {feed.at.name: feed.settings for feed in self.feeds}
        wires: list[str] = []
        lines: list[tuple[str, int]] = []
        roles = ""
        first: FeedSettings | None = None
        for target in targets.items() if targets else ():
            settings = feeds.get(target.choice(list(feeds), "feed"))
            if isinstance(settings, FeedSettings):
                first = first or settings
                wires.append(settings.wire)
                lines.extend(settings.lines)
                roles += _roles(settings.groups)
        if targets and targets.content in ("", []):
            targets.problem("an exchange needs at least one feed to send to")
        wire = section.get("wire")
        spoken = wire.choice(WIRES, "wire") if wire else next(iter(wires), "")
        for heard in wires:
            if spoken and heard and spoken != heard:
                (wire or value).problem(f"sends {spoken} to a feed that reads {heard}")
        symbols, rate = section.get("symbols"), section.get("rate")
        surge, seed, shape = section.get("surge"), section.get("seed"), section.get("shape")
        surge_after, surge_for = section.get("surge_after"), section.get("surge_for")
        halts, faults, arrivals = section.get("halts"), section.get("faults"), section.get("arrivals")
        exchange = ExchangeSettings(
            spoken,
            tuple(lines),
            symbols.integer(1, 20_000) if symbols else ExchangeSettings.symbols,
            rate.integer(1, 10_000_000, "a number of messages a second") if rate else ExchangeSettings.rate,
            surge.number(0, 1.0) if surge else ExchangeSettings.surge,
            seed.integer(0, 2**63 - 1) if seed else ExchangeSettings.seed,
            shape.choice(_SHAPES, "shape") if shape else ExchangeSettings.shape,
            roles=roles,
            halts=halts.number(0, ExchangeSettings.halts) if halts else ExchangeSettings.halts,
            faults=_faults(faults) if faults else ExchangeSettings.faults,
            feed=first,
            arrivals=arrivals.choice(_ARRIVALS, "arrivals") if arrivals else ExchangeSettings.arrivals,
            surge_after_ns=surge_after.duration_ns(0, 0) if surge_after else 0,
            surge_for_ns=surge_for.duration_ns(0, 0) if surge_for else 0,
        )
        unit = self._unit(value, section, "exchange", _SIMULATED.get(spoken, ""), settings=exchange)
        if spoken and not unit.run:
            (wire or value).problem(f"no simulated exchange speaks {spoken}: give its program as run:")
        return unit

    def _read_processor(self, value: Value) -> _Unit:
        section = Section(value)
        section.need("run", "nodes.nbbo:main")
        own, hours = section.get("shards"), section.get("hours")
        reads = section.need("reads", "[quote]")
        if reads and reads.content in ("", []):
            reads.problem("a processor needs at least one channel to read")
        unit = self._unit(
            value,
            section,
            "processor",
            "",
            reads=tuple(reads.items() if reads else ()),
            channels=tuple(section.items("publishes")),
            letters=_letter_sets(own, own.items()) if own else self.shards,
        )
        return replace(unit, hours=hours.choice(("clock", "open"), "beginning of hours", "clock")) if hours else unit

    def _read_gateways(self) -> list[_Unit]:
        port = self._overrides.http_port()
        units = []
        for value in self._top.entries("gateways"):
            units.append(self._read_gateway(value, port))
            port = None
        return units

    def _read_gateway(self, value: Value, override: int | None) -> _Unit:
        section = Section(value)
        port, bind, interval = section.get("port"), section.get("bind"), section.get("interval")
        symbols = section.get("symbols")
        origins, processes = section.items("origins"), section.get("processes")
        insecure = section.get("allow_insecure")
        reads = section.get("reads")
        count = processes.integer(1, _PROCESSES_MAX) if processes else 1
        unit = self._unit(
            value, section, "gateway", "gateway.app:main",
            reads=tuple(reads.items() if reads else ()), letters=("",) * count,
        )  # fmt: skip
        prefixes = [_prefix(item) for item in symbols.items()] if symbols else [""]
        if symbols and symbols.content in ("", []):
            symbols.problem('expected prefixes of symbols, such as [A, B] or ["*"]')
        settings = GatewaySettings(
            bind.text("an IP address", r"[0-9a-fA-F:.]+") if bind else unit.hosts[0].bind.replace("*", "0.0.0.0"),
            override or (port.port() if port else 8080),
            _shortest(prefixes),
            (interval.duration_ns(0, 100 * MILLISECOND_NS) if interval else 100 * MILLISECOND_NS) // MILLISECOND_NS,
            tuple(item.text("an origin such as https://example.com", r"https?://[^\s/]+") for item in origins),
            count,
        )
        if bind and isinstance(bind.content, str) and not _is_ip(bind.content):
            bind.expected("an IP address")
        elif not _is_loopback(settings.host) and self.access.open:
            trusted = insecure.flag() if insecure else unit.hosts[0].insecure and bind is None
            if trusted:
                _log.warning("%s: %s is open to everyone (allow_insecure)", value.key, settings.host)
            else:
                (bind or value).problem(
                    f"{settings.host} can be reached from other machines, and everyone might come in: give "
                    "access: {keys: keys.json}, or allow_insecure: true for a network that you trust"
                )
        elif insecure:
            insecure.flag()
        return replace(unit, settings=settings)

    def _unit(
        self,
        value: Value,
        section: Section,
        role: str,
        run: str,
        *,
        reads: tuple[Value, ...] = (),
        channels: tuple[Value, ...] = (),
        letters: tuple[str, ...] = ("",),
        settings: Settings | None = None,
    ) -> _Unit:
        """What every node may have: its name, program and host. Closes the section."""
        if not re.fullmatch(_NAME, value.name):
            value.name_problem("a node's name is at most 40 small letters, digits, - and _")
        program, host = section.get("run"), section.get("host")
        journal = section.get("journal") if role in ("feed", "processor") else None
        section.close()
        first = next(iter(self.hosts.values()))
        hosts: tuple[_Host, ...] = (first,)
        if host is not None:
            names = host.items() if isinstance(host.content, list) else [host]
            hosts = tuple(self.hosts.get(name.choice(list(self.hosts), "host"), first) for name in names)
            if role == "gateway" and len(hosts) != 1:
                host.problem("the processes of a gateway share a port, so they run on one host")
            elif len(hosts) not in (1, len(letters)):
                host.problem(f"expected one host, or one for each of the {len(letters)} shards, found {len(hosts)}")
        if program is not None:
            run = program.text("module:function, such as nodes.nbbo:main", _RUN)
        logged = journal.flag() if journal else True
        return _Unit(value, role, run, hosts, reads, channels, letters, settings, logged)

    def _read_cache(self) -> CacheSettings:
        value = self._top.get("cache")
        cache = self._read_cache_section(Section(value)) if value else CacheSettings()
        url = self._overrides.redis_url()
        return replace(cache, mode="server", servers=(url,), shards=()) if url else cache

    def _read_cache_section(self, section: Section) -> CacheSettings:
        server, shards, cluster = (section.get(key) for key in ("server", "shards", "cluster"))
        writes, ttl, memory = section.get("writes_per_second"), section.get("quote_ttl"), section.get("memory")
        section.close()
        forms = [form for form in (server, shards, cluster) if form]
        for extra in forms[1:]:
            extra.name_problem(f"give only one of server, shards and cluster; {forms[0].name} is at {forms[0].where}")
        cache = CacheSettings(
            writes_per_second=writes.integer(1, 100, fallback=4) if writes else CacheSettings.writes_per_second,
            quote_ttl_ms=(ttl.duration_ns(100 * MILLISECOND_NS, SECOND_NS) // MILLISECOND_NS)
            if ttl
            else CacheSettings.quote_ttl_ms,
            memory=str(memory.content) if memory else CacheSettings.memory,
        )
        if memory:
            memory.size_bytes(1 << 20, 0)
        if cache.quote_ttl_ms * cache.writes_per_second < 2_000 and (at := ttl or writes):
            at.problem("quotes would expire between two writes: quote_ttl must last at least two of them")
        if shards:
            entries = list(shards.entries().values())
            letters = _letter_sets(shards, entries)
            return replace(cache, mode="shards", servers=tuple(map(_redis_url, entries)), shards=letters)
        if cluster:
            if cluster.content in ("", []):
                cluster.problem("expected at least one address such as redis://127.0.0.1:6379")
            return replace(cache, mode="cluster", servers=tuple(map(_redis_url, cluster.items())))
        if server and server.content not in ("embedded", "off"):
            return replace(cache, mode="server", servers=(_redis_url(server, "embedded, off or an address"),))
        return replace(cache, mode=str(server.content)) if server else cache

    def _read_history(self) -> HistorySettings | None:
        value = self._top.get("history")
        if value is None or value.content == "off":
            return None
        section = Section(value)
        store, keep, archive = section.get("store"), section.get("keep"), section.get("archive")
        rows = section.get("rows_max")
        section.close()
        kept = dict(HISTORY_KEEP_NS)
        for entry in keep.entries().values() if keep else ():
            if entry.name in kept:
                kept[entry.name] = entry.duration_ns(60 * SECOND_NS, kept[entry.name])
            else:
                entry.name_problem(f"unknown interval {entry.name!r}{hint(entry.name, kept)}")
        return HistorySettings(
            self._history_url(store),
            tuple(kept.items()),
            str(self._folder.resolve() / archive.text("a folder")) if archive else "",
            rows.integer(1_000, 100_000_000) if rows else HistorySettings.rows_max,
        )

    def _history_url(self, store: Value | None) -> str:
        if store is None:
            return str(self._folder.resolve() / ".fabric" / "history.db")
        text = store.text("a file, or an address such as postgresql://user@host/database")
        if "://" not in text:
            return str(self._folder.resolve() / text)
        if not re.fullmatch(_POSTGRES_URL, text):
            store.problem(
                "expected a file, or an address such as postgresql://user@host/database "
                "(what was found may hold a password)"
            )
        return text

    # What must hold between sections.

    def _check_names(self) -> None:
        taken: dict[str, Value] = {}
        for unit in self._units():
            for name in unit.names():
                if name in taken:
                    first = taken[name]
                    unit.at.name_problem(f"node {name!r} is named twice; first as {first.key}, {first.where}")
                elif name in (CACHE_NODE, WRITER_NODE):
                    unit.at.name_problem(f"the name {name!r} is kept for the cache")
                elif self.history and name == HISTORY_NODE:
                    unit.at.name_problem(f"the name {name!r} is kept for the node of history:")
                elif name in _LOG_NAMES:
                    unit.at.name_problem(f"the name {name!r} is kept for the launcher's own log")
                taken.setdefault(name, unit.at)

    def _check_venues(self) -> None:
        owner: dict[str, _Unit] = {}
        for unit in self.feeds:
            assert isinstance(unit.settings, FeedSettings)
            for letter in dict.fromkeys(unit.settings.venues):
                if letter in owner:
                    first = owner[letter].at
                    unit.at.name_problem(f"venue {letter!r} is published by {first.key} already, {first.where}")
                owner.setdefault(letter, unit)

    def _check_channels(self) -> None:
        publisher: dict[str, Value] = {}
        for unit in self.processors:
            for value in unit.channels:
                channel = value.choice(tuple(CHANNELS), "channel")
                if channel in VENUE_CHANNELS:
                    value.problem(f"channel {channel!r} belongs to the feeds")
                elif channel in publisher:
                    value.problem(f"channel {channel!r} has a publisher already, at {publisher[channel].where}")
                elif channel:
                    publisher[channel] = value
        published = [*(VENUE_CHANNELS if self.feeds else ()), *publisher]
        for unit in (*self.processors, *self.gateways):
            for value in unit.reads:
                channel = value.text("the name of a channel")
                if channel and channel not in published:
                    value.problem(f"no node publishes {channel!r}{hint(channel, published)}")
        self._check_cycles()

    def _check_cycles(self) -> None:
        found = _in_order(self.processors)
        if isinstance(found, list):
            return
        steps = " -> ".join(f"{unit.at.name} publishes {channel}" for unit, channel in found.links)
        first = found.links[0][0]
        first.at.name_problem(f"a cycle: {steps} -> {first.at.name} reads it")

    def _check_ports(self) -> None:
        """The bus owns its whole span, each gateway its port, each line its address; hosts do not meet."""
        needed = 2 * sum(len(unit.names()) for unit in (*self.feeds, *self.processors) if unit.published())
        needed += self.cache.mode == "embedded"
        span = self._top.get("ports")
        if needed > self.span:
            problem = f"{needed} ports are needed: two a publisher, and one for an embedded server; span is {self.span}"
            span.name_problem(problem) if span else self._top.value.name_problem(f"ports: {problem}")
        taken: dict[tuple[str, int], Value] = {}
        for unit in self.gateways:
            assert isinstance(unit.settings, GatewaySettings)
            port, host = unit.settings.port, unit.hosts[0].name
            at = unit.at.entries().get("port", unit.at)
            if not port:
                continue
            if self.base <= port < self.base + self.span:
                where = span.where if span else "the default"
                at.problem(f"port {port} is in the bus's ports {self.base}-{self.base + self.span - 1} ({where})")
            elif (host, port) in taken:
                other = taken[host, port]
                at.problem(f"port {port} is taken by {other.key} already, line {other.at[0]}:{other.at[1]}")
            taken.setdefault((host, port), at)
        lines: dict[tuple[str, int], Value] = {}
        for unit in self.feeds:
            given = unit.at.entries().get("lines")
            assert isinstance(unit.settings, FeedSettings)
            for found in _lines(given, unit.settings.wire) if given else ():
                line = (found.host, found.port)
                if line[1] and line in lines and not found.over_tcp:
                    first = lines[line]
                    found.at.problem(f"{found.at.content} is listened to by {first.key} already, {first.where}")
                lines.setdefault(line, found.at)

    def _units(self) -> list[_Unit]:
        units = [*self.exchanges, *self.feeds, *self.processors, *self.gateways]
        return sorted(units, key=lambda unit: unit.at.name_at)

    # What becomes of it: only called when there is no mistake.

    def topology(self, path: str) -> Topology:
        ports = iter(range(self.base, self.base + self.span))
        publishers: dict[str, Publisher] = {}
        for unit in self._units():
            if unit.published():
                for name, letters, host in _shards(unit):
                    publishers[name] = self._publisher(unit, name, letters, host, next(ports), next(ports))
        first = next(iter(self.hosts.values()))
        cache = self.cache
        if cache.mode == "embedded":
            cache = replace(cache, servers=(f"redis://127.0.0.1:{next(ports)}/0",))
        nodes: list[NodeSpec] = []
        if cache.mode == "embedded":
            nodes.append(NodeSpec(CACHE_NODE, "cache", "gateway.redis_server:main", cache, host=first.name))
        nodes += [node for unit in self.feeds for node in self._nodes(unit, publishers)]
        processors = _in_order(self.processors)
        assert isinstance(processors, list)
        nodes += [node for unit in processors for node in self._nodes(unit, publishers)]
        if cache.mode != "off":
            channels = {channel: [""] for channel in _CACHED_CHANNELS}
            reads = _sources(channels, publishers.values())
            nodes.append(
                NodeSpec(WRITER_NODE, "writer", "gateway.redis_writer:main", cache, reads=reads, host=first.name)
            )
        if self.history:
            reads = _sources({channel: [""] for channel in _BAR_CHANNELS}, publishers.values())
            nodes.append(
                NodeSpec(HISTORY_NODE, "history", "nodes.history:main", self.history, reads=reads, host=first.name)
            )
        nodes += [node for unit in (*self.gateways, *self.exchanges) for node in self._nodes(unit, publishers)]
        level, log_format = self.log
        return Topology(
            path, tuple(nodes), tuple(self.venues.values()), self.limits, cache, self.access,
            self.history, log_level=level, log_format=log_format,
            hosts=tuple((host.name, host.address) for host in self.hosts.values()),
            metrics=self.metrics,
            curves=tuple((host.name, curve) for host in self.hosts.values() if (curve := self._curve_of(host))),
        )  # fmt: skip

    def _curve_of(self, host: _Host) -> Curve | None:
        """The host's keys, which let in every host of the topology."""
        if host.curve is None:
            return None
        ours = [other.curve.public_key for other in self.hosts.values() if other.curve is not None]
        return replace(host.curve, clients=tuple(dict.fromkeys([*ours, *host.curve.clients])))

    def _publisher(self, unit: _Unit, name: str, letters: str, host: _Host, pub: int, router: int) -> Publisher:
        venues = unit.settings.venues if isinstance(unit.settings, FeedSettings) else ""
        return Publisher(
            name,
            f"tcp://{_bracketed(host.address)}:{pub}",
            f"tcp://{_bracketed(host.address)}:{router}",
            unit.published(),
            venues,
            letters,
            f"tcp://{_bracketed(host.bind)}:{pub}",
            f"tcp://{_bracketed(host.bind)}:{router}",
            self.journal if unit.logged else None,
            self._curve_of(host),
        )

    def _nodes(self, unit: _Unit, publishers: Mapping[str, Publisher]) -> Iterable[NodeSpec]:
        venues = "".join(self.venues)
        for name, letters, host in _shards(unit):
            settings = unit.settings or ProcessorSettings(letters, venues, self.market, unit.hours)
            prefixes = list(letters) or [""]
            if isinstance(settings, GatewaySettings):
                prefixes = list(settings.symbols)
            channels = list(_texts(unit.reads))
            if unit.role == "gateway" and not channels:
                channels = list(CHANNELS)
            reads = _sources(dict.fromkeys(channels, prefixes), publishers.values())
            yield NodeSpec(name, unit.role, unit.run, settings, publishers.get(name), reads, host.name)


@dataclass(frozen=True)
class _Cycle:
    links: list[tuple[_Unit, str]]  # each unit, and the channel by which it feeds the next


def _in_order(units: Sequence[_Unit]) -> "list[_Unit] | _Cycle":
    """The processors so that each comes after those whose channels it reads, else in the order of the file."""
    publisher = {c: unit for unit in reversed(units) for c in unit.published() if c not in VENUE_CHANNELS}
    ordered: list[_Unit] = []
    path: list[tuple[_Unit, str]] = []

    def visit(unit: _Unit) -> _Cycle | None:
        for channel in _texts(unit.reads):
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


def _shards(unit: _Unit) -> list[tuple[str, str, _Host]]:
    """Name, letters and host of each of its nodes."""
    hosts = unit.hosts if len(unit.hosts) == len(unit.letters) else unit.hosts[:1] * len(unit.letters)
    return list(zip(unit.names(), unit.letters, hosts, strict=True))


def _sources(channels: Mapping[str, Sequence[str]], publishers: Iterable[Publisher]) -> tuple[Source, ...]:
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


def may_publish(publisher: Publisher, topic: str) -> bool:
    """Whether any topic of this publisher may begin with ``topic``."""
    if "node.".startswith(topic) or f"node.{publisher.name}|".startswith(topic):
        return True
    for channel in publisher.channels:
        if f"{channel}.".startswith(topic):
            return True
        if topic.startswith(f"{channel}."):
            symbol, ended, venue = topic[len(channel) + 1 :].partition("|")
            of_shard = not symbol or not publisher.letters or symbol[0] in publisher.letters
            of_venue = not (ended and venue) or venue in publisher.venues
            if of_shard and of_venue:
                return True
    return False


def _letter_sets(at: Value, items: Sequence[Value]) -> tuple[str, ...]:
    """First letters of each shard; notes what is in none of them, or in two. One shard alone is no sharding.

    ``items`` are texts in a list (``shards: [A-H, ...]``) or entries whose keys are the letters (``{A-H: redis://...}``).
    """
    texts = [item.name or item.text("letters and digits such as A-H or Q-Z 0-9") for item in items]
    sets = [_letters(item, text) for item, text in zip(items, texts, strict=True)]
    doubled: dict[str, str] = {}  # the two shards -> what both have
    for i, letters in enumerate(sets):
        for j in range(i):
            if both := "".join(letter for letter in letters if letter in sets[j]):
                doubled[f"{texts[j]!r} and {texts[i]!r}"] = both
    for pair, both in doubled.items():
        at.name_problem(f"{_ranges(both)} is in two shards: {pair}")
    missing = _ranges("".join(letter for letter in FIRST_LETTERS if letter not in "".join(sets)))
    if missing and all(sets) and isinstance(at.content, list | dict):
        at.name_problem(f"no shard has {missing}; every letter and digit must be in one")
    return tuple(sets) if len(sets) > 1 else ("",)


def _letters(item: Value, text: str) -> str:
    """``A-C X`` -> ``ABCX``; empty after a mistake, which is noted."""
    problem = item.name_problem if item.name else item.problem
    if text == "*":
        return FIRST_LETTERS
    if text and not re.fullmatch(r"(?:[A-Z0-9](?:-[A-Z0-9])?[ ,]*)+", text):
        problem(f"expected letters and digits such as A-H or Q-Z 0-9, found {text!r}")
        return ""
    letters = ""
    for first, last in re.findall(r"([A-Z0-9])(?:-([A-Z0-9]))?", text):
        last = last or first
        if first > last or first.isdigit() != last.isdigit():
            problem(f"{first}-{last} is not a range of letters or of digits")
            return ""
        letters += FIRST_LETTERS[FIRST_LETTERS.index(first) : FIRST_LETTERS.index(last) + 1]
    if len(set(letters)) < len(letters):
        problem(f"{text!r} names a letter twice")
    return letters


def _ranges(letters: str) -> str:
    """``ABCX`` -> ``A-C X``."""
    runs: list[list[str]] = []
    for letter in sorted(set(letters), key=FIRST_LETTERS.index):
        if runs and FIRST_LETTERS.index(runs[-1][-1]) + 1 == FIRST_LETTERS.index(letter) and letter != "0":
            runs[-1].append(letter)
        else:
            runs.append([letter])
    return " ".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


_LIMITS: Mapping[str, tuple[str, int]] = {
    "symbols_max": ("", 16),
    "batch_max": ("", 16),
    "linger": ("time", 0),
    "queue_max": ("", 1),
    "message_bytes_max": ("bytes", 1_024),
    "repair_max": ("", 0),
    "stale_after": ("time", 10 * MILLISECOND_NS),
    "refresh_every": ("time", 10 * MILLISECOND_NS),
    "restarts_max": ("", 0),
    "restart_window": ("time", SECOND_NS),
    "drain": ("time", 0),
    "clients_max": ("", 1),
    "client_symbols_max": ("", 1),
    "candles_kept": ("", 1),
    "address_connections": ("", 1),
    "address_requests": ("", 1),
}
"""Key in the file -> unit and least value; a time becomes the field ``<key>_ns``."""


_PLAN_BOUNDS: Mapping[str, int] = {
    "connections": 0,
    "symbols_max": 0,
    "symbols_surge": 0,
    "messages": 1,
    "requests": 1,
}
"""Whole numbers of a plan -> their least value."""


@dataclass(frozen=True)
class _Line:
    at: Value
    group: int
    host: str = ""
    port: int = 0
    interface: str = ""
    over_tcp: bool = False


def _lines(value: Value, wire: str) -> list[_Line]:
    """Every line of a feed: an item of the list is one, or a list of those that carry the same messages."""
    found = []
    for group, item in enumerate(value.items()):
        if isinstance(item.content, list):
            if not item.content:
                item.expected('the lines of one group, such as ["udp://127.0.0.1:5490", "udp://127.0.0.1:5491"]')
            found += [_line(line, group, wire) for line in item.content]
        else:
            found.append(_line(item, group, wire))
    if not found and value.content is not None:
        value.problem("a feed needs at least one line to listen on")
    return found


def _line(value: Value, group: int, wire: str) -> _Line:
    text = value.content if isinstance(value.content, str) else ""
    if wire in _OVER_TCP and text.startswith("tcp:"):
        return _Line(value, group, *value.address("tcp", "tcp://127.0.0.1:5490"), over_tcp=True)
    if text.startswith("tcp:"):
        value.problem(
            f"only {' and '.join(_OVER_TCP)} comes over TCP; {wire or 'this wire'} over UDP: udp://127.0.0.1:5490"
        )
        return _Line(value, group)
    address, at, interface = text.partition("@")
    host, port = replace(value, content=address if text else value.content).address(
        "udp", "udp://127.0.0.1:5490, or udp://239.1.2.3:5000@eth0 for a multicast group"
    )
    if at and host and not (_is_ip(host) and ipaddress.ip_address(host).is_multicast):
        value.problem(f"{host} is no multicast group: only such a one is joined on an interface (@{interface})")
    elif at and not re.fullmatch(r"[A-Za-z0-9_.:-]+", interface):
        value.problem(f"expected the address or name of an interface after the @, found {interface!r}")
    return _Line(value, group, host, port, interface)


def _roles(groups: tuple[int, ...]) -> str:
    """A for the first line of each group, B for the others."""
    return "".join("B" if group in groups[:i] else "A" for i, group in enumerate(groups))


def _recovery(value: Value | None, wire: str) -> tuple[tuple[str, str, int], ...]:
    if value is None:
        return ()
    schemes = _RECOVERY.get(wire, ("udp", "tcp"))
    if not schemes:
        value.name_problem(f"the exchange of {wire} cannot be asked for lost messages")
        return ()
    found = []
    for item in value.items():
        text = item.content if isinstance(item.content, str) else ""
        scheme = next((scheme for scheme in schemes if text.startswith(f"{scheme}:")), schemes[0])
        example = " or ".join(f"{scheme}://127.0.0.1:5495" for scheme in schemes)
        found.append((scheme, *item.address(scheme, example)))
    if value.content in ("", []):
        value.problem("expected the address of at least one request server")
    if len({scheme for scheme, _, _ in found}) > 1:
        value.problem("all request servers of a feed are asked the same way: udp or tcp")
    return tuple(found)


def _addresses(value: Value | None, scheme: str, expected: bool, problem: str) -> tuple[tuple[str, int], ...]:
    """Addresses of one scheme, where the wire has a use for them."""
    if value is None:
        return ()
    if not expected:
        value.name_problem(problem)
        return ()
    return tuple(item.address(scheme, f"{scheme}://127.0.0.1:5495") for item in value.items())


def _login(value: Value | None) -> tuple[str, str]:
    if value is None:
        return "", ""
    section = Section(value)
    user, password = section.need("user", "me"), section.get("password")
    section.close()
    return (
        user.text("a name of at most 10 characters", r"[!-~]{1,10}") if user else "",
        password.text("a password of at most 10 characters", r"[!-~]{1,10}") if password else "",
    )


def _breaker(value: Value | None, stale_after_ns: int) -> BreakerSettings:
    default = BreakerSettings(silence_ns=min(BreakerSettings.silence_ns, stale_after_ns))
    if value is None:
        return default
    section = Section(value)
    found: dict[str, int] = {}
    for key in ("silence", "window", "skew", "backoff"):
        if duration := section.get(key):
            found[f"{key}_ns"] = duration.duration_ns(10 * MILLISECOND_NS, getattr(default, f"{key}_ns"))
    for key in ("gaps", "errors"):
        if count := section.get(key):
            found[f"{key}_max"] = count.integer(0, 1_000_000_000)
    section.close()
    return replace(default, **found)


def _faults(value: Value) -> FaultSettings:
    section = Section(value)
    found: dict[str, Any] = {}
    if lines := section.get("lines"):
        found["lines"] = lines.text("A, B or AB", "A|B|AB", FaultSettings.lines)
    for name in ("drop", "duplicate", "corrupt", "drop_both"):
        if share := section.get(name):
            found[name] = share.number(0, 0.0)
            if found[name] > 1:
                share.expected("a share from 0 to 1")
    for name in ("after", "for", "flap", "delay", "restart"):
        if duration := section.get(name):
            found[f"{name}_ns"] = duration.duration_ns(0, 0)
    if skew := section.get("skew"):
        found["skew_ns"] = round(skew.number(-3_600, 0.0) * SECOND_NS)
    if reorder := section.get("reorder"):
        found["reorder"] = reorder.integer(0, 1_000, "a number of ticks")
    if mute := section.get("mute"):
        found["mute"] = mute.flag()
    section.close()
    return FaultSettings(**found)


def _limits(value: Value | None) -> Limits:
    if value is None:
        return Limits()
    section = Section(value)
    given: dict[str, int] = {}
    for key, (unit, low) in _LIMITS.items():
        field_name = f"{key}_ns" if unit == "time" else key
        default: int = getattr(Limits, field_name)
        if found := section.get(key):
            if unit == "time":
                given[field_name] = found.duration_ns(low, default)
            elif unit == "bytes":
                given[field_name] = found.size_bytes(low, default)
            else:
                given[field_name] = found.integer(low, 2**31 - 1, fallback=default)
    section.close()
    return Limits(**given)


JOURNAL_BYTES_MIN = 8 << 20
"""Room for some segments of a megabyte."""


def _journal(value: Value | None, folder: Path) -> JournalSettings | None:
    """None where the file says ``journal: off``."""
    default = JournalSettings(str(folder / ".fabric" / "journal"))
    if value is None:
        return default
    if value.content == "off":
        return None
    section = Section(value)
    place, keep, size = section.get("folder"), section.get("keep"), section.get("bytes")
    sync, serve = section.get("sync"), section.get("serve")
    section.close()
    return JournalSettings(
        str(folder / place.text("a folder")) if place else default.folder,
        keep.duration_ns(SECOND_NS, default.keep_ns) if keep else default.keep_ns,
        size.size_bytes(JOURNAL_BYTES_MIN, default.bytes_max) if size else default.bytes_max,
        sync.duration_ns(MILLISECOND_NS, default.sync_ns) if sync else default.sync_ns,
        serve.size_bytes(1 << 20, default.serve_bytes) if serve else default.serve_bytes,
    )


METRICS_PORT = 9464
"""Where Prometheus looks for an exporter of its own (its wiki, default port allocations)."""
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_FORMATS = ("text", "json")


def _log_settings(value: Value | None, overrides: _Overrides) -> tuple[str, str]:
    level = log_format = ""
    if value is not None:
        section = Section(value)
        given, given_format = section.get("level"), section.get("format")
        section.close()
        level = given.choice(_LEVELS, "level") if given else ""
        log_format = given_format.choice(_FORMATS, "format") if given_format else ""
    return (
        overrides.chosen("LOG_LEVEL", _LEVELS, level or "INFO"),
        overrides.chosen("LOG_FORMAT", _FORMATS, log_format or "text"),
    )


def _metrics_settings(value: Value | None) -> tuple[str, int] | None:
    if value is None:
        return None
    section = Section(value)
    port, bind = section.need("port", str(METRICS_PORT)), section.get("bind")
    section.close()
    return (
        bind.text("an IP address", r"[0-9a-fA-F:.]+") if bind else "127.0.0.1",
        port.port() if port else METRICS_PORT,
    )


def _prefix(value: Value) -> str:
    """A gateway's symbol prefix without its star; the empty one is every symbol."""
    text = value.text('a prefix of symbols such as A, BRK or "*"', _PREFIX)
    return text.removesuffix("*")


def _shortest(prefixes: Iterable[str]) -> tuple[str, ...]:
    """Without those that a shorter one covers: a SUB socket would match, and forward, twice."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not any(prefix.startswith(other) for other in kept):
            kept.append(prefix)
    return tuple(kept)


def _redis_url(value: Value, what: str = "an address") -> str:
    if not (isinstance(value.content, str) and re.fullmatch(_REDIS_URL, value.content)):
        if isinstance(value.content, str) and "@" in value.content:
            value.problem("expected an address such as redis://127.0.0.1:6379 (what was found may hold a password)")
        else:
            value.expected(f"{what} such as redis://127.0.0.1:6379")
        return ""
    return value.content


def _texts(values: Iterable[Value]) -> Iterable[str]:
    return [value.content for value in values if isinstance(value.content, str)]


def _participant(code: str) -> Venue:
    name, feed = PARTICIPANTS.get(code, (code, code.lower()))
    return Venue(code, name, feed)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(bind: str) -> bool:
    return _is_ip(bind) and ipaddress.ip_address(bind).is_loopback


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
