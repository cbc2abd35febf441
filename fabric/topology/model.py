"""What a valid topology is: frozen records of nodes, publishers, settings and bounds, flat and in start order."""

from dataclasses import dataclass, field

from fabric.clock import MILLISECOND_NS, SECOND_NS

RECOVERY = {
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
WIRES = tuple(RECOVERY)
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
    in_place: bool = False  # nodes on this machine read it in memory, and not each message over ZeroMQ


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
    gap_wait_ns: int = 0  # that a hole in the numbers is waited for without progress; 0: by what can fill it
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
    reorder: int = 0  # come behind up to so many packets that follow them
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
    session: str = "regular"  # whose trades give candles their prices; "ext": those of extended hours too


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
    ticks: tuple[str, ...] = ()  # prefixes of symbols whose trades are kept too; "" means all

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


CACHE_NODE = "redis"
WRITER_NODE = "redis-writer"
HISTORY_NODE = "history"
_DAY_NS = 86_400 * SECOND_NS
HISTORY_KEEP_NS = {"1m": 7 * _DAY_NS, "5m": 30 * _DAY_NS, "1h": 365 * _DAY_NS, "1d": 3_650 * _DAY_NS, "tick": _DAY_NS}
"""Interval -> how long its candles are kept, and ticks, where the file does not say."""
BAR_CHANNELS = ("bar.1m", "bar.5m", "bar.1h", "bar.1d")


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


def participant(code: str) -> Venue:
    """A venue by its letter, as the lists of participants call it."""
    name, feed = PARTICIPANTS.get(code, (code, code.lower()))
    return Venue(code, name, feed)
