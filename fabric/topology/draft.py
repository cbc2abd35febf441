"""The file's sections as they are read, what must hold between them, and the topology that becomes of them."""

import logging
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from fabric.clock import MILLISECOND_NS, SECOND_NS
from fabric.records import CHANNELS, VENUE_CHANNELS
from fabric.topology.model import (
    BAR_CHANNELS,
    CACHE_NODE,
    CLIENT_CHANNELS,
    HISTORY_KEEP_NS,
    HISTORY_NODE,
    WIRES,
    WRITER_NODE,
    Access,
    CacheSettings,
    Curve,
    ExchangeSettings,
    FeedSettings,
    GatewaySettings,
    HistorySettings,
    NodeSpec,
    Plan,
    ProcessorSettings,
    Publisher,
    Settings,
    TokenSettings,
    Topology,
    Venue,
    participant,
)
from fabric.topology.sections import (
    ANSWERED_APART,
    KEY,
    PREFIX,
    Overrides,
    bracketed,
    curve_secret,
    is_ip,
    is_loopback,
    read_addresses,
    read_breaker,
    read_curve,
    read_faults,
    read_journal,
    read_letter_sets,
    read_limits,
    read_lines,
    read_log,
    read_login,
    read_metrics,
    read_prefix,
    read_recovery,
    read_redis_url,
    roles_of,
    shortest,
)
from fabric.topology.units import Host, Unit, in_order, shards_of, sources_of, texts
from fabric.topology_file import Section, Value, hint, is_host

VERSION = 1
"""The schema version that this build knows."""
_SHAPES = ("flat", "intraday")
_ARRIVALS = ("random", "even")
_SIMULATED = {
    "nasdaq-itch-5.0": "nodes.exchanges.nasdaq:main",
    "cboe-pitch-2.41": "nodes.exchanges.cboe:main",
    "nyse-pillar": "nodes.exchanges.nyse:main",
    "iex-tops-1.6": "nodes.exchanges.iex:main",
}
"""Wire -> the program of its simulated exchange."""
_PROCESSES_MAX = 64
"""Of one gateway: more than any machine has cores to spare."""
_log = logging.getLogger(__name__)
_LOG_NAMES = ("fabric", "forkserver")
"""What stands in the log where a node's name does, for the launcher and for the process that it forks from."""
_CACHED_CHANNELS = ("nbbo", *BAR_CHANNELS)
_NAME = r"[a-z0-9][a-z0-9_-]{0,39}"
_RUN = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
_POSTGRES_URL = r"postgres(?:ql)?://(?:[^\s@/]*@)?[^\s@/]*(?:/[^\s@]*)?"


class Draft:
    """The file's content, read section by section and then checked as a whole."""

    def __init__(self, top: Section, overrides: Overrides, folder: Path) -> None:
        self._top = top
        self._folder = folder
        self._overrides = overrides
        self.limits = read_limits(top.get("limits"))
        self.log = read_log(top.get("log"), overrides)
        self.metrics = read_metrics(top.get("metrics"))
        self.journal = read_journal(top.get("journal"), folder)
        self.hosts = self._read_hosts()
        self.base, self.span = self._read_ports()
        self.venues = self._read_venues()
        market = top.get("market")
        self.market = market.text("letters of all venues that quote, such as NQZV", "[A-Z]+") if market else ""
        if market and len(set(self.market)) < len(self.market):
            market.problem(f"{self.market!r} names a venue twice")
        shards = top.get("shards")
        self.shards = read_letter_sets(shards, shards.items()) if shards else ("",)
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

    def _read_hosts(self) -> dict[str, Host]:
        hosts = {value.name: self._read_host(value) for value in self._top.entries("hosts")}
        return hosts or {"local": Host("local", "127.0.0.1", "127.0.0.1")}

    def _read_host(self, value: Value) -> Host:
        section = Section(value)
        address, bind = section.get("address"), section.get("bind")
        insecure = section.get("allow_insecure")
        secret, public = section.get("curve_secret_file"), section.get("curve_public_key")
        clients = section.items("curve_clients")
        section.close()
        for key in [*([public] if public else ()), *clients]:
            if not (isinstance(key.content, str) and re.fullmatch(KEY, key.content)):
                key.problem("expected a CURVE key: 40 characters of Z85 (in quotes)")
        host = Host(
            value.name,
            address.text("an address or host name", r"[^\s:/\[\]]+|[0-9a-fA-F:.]+") if address else "127.0.0.1",
            bind.text("an IP address, or * for all", r"\*|[0-9a-fA-F:.]+", "127.0.0.1") if bind else "127.0.0.1",
            insecure.flag() if insecure else False,
            read_curve(self._folder, secret, public, clients),
        )
        if address and not is_host(host.address):
            address.expected("an address or host name")
        if bind and host.bind != "*" and not is_ip(host.bind):
            bind.expected("an IP address, or * for all")
        if secret:
            self._check_secret(secret)
        for given, missing in ((secret, "curve_public_key"), (public, "curve_secret_file")):
            if given and host.curve is None and is_loopback(host.bind):
                given.problem(f"of no use without {missing}")
        if bind and not is_loopback(host.bind):
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
            tuple(item.text("a symbol, or a prefix that ends in *", PREFIX) for item in section.items("symbols")),
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
            default = participant(value.name)
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

    def _read_feed(self, value: Value) -> Unit:
        section = Section(value)
        wire = section.need("wire", WIRES[0])
        venues = section.need("venues", "V")
        lines = section.need("lines", '["udp://127.0.0.1:5490"]')
        spoken = wire.choice(WIRES, "wire") if wire else ""
        found = read_lines(lines, spoken) if lines else []
        settings = FeedSettings(
            spoken,
            venues.text("letters of venues, such as V or NPA", "[A-Z]+") if venues else "",
            tuple((line.host, line.port) for line in found),
            tuple(line.group for line in found),
            tuple(line.interface for line in found),
            tuple(line.over_tcp for line in found),
            read_recovery(section.get("recovery"), spoken),
            read_login(section.get("login")),
            number.integer(0, 255, "the number of a product") if (number := section.get("product")) else 0,
            number.integer(0, 65_535, "the number of a channel") if (number := section.get("channel")) else 1,
            read_addresses(
                section.get("answers"), "udp", spoken in ANSWERED_APART, f"{spoken} has no lines of answers"
            ),
            read_addresses(section.get("spins"), "tcp", spoken == "cboe-pitch-2.41", "only cboe-pitch-2.41 has spins"),
            read_breaker(section.get("breaker"), self.limits.stale_after_ns),
            wait.duration_ns(MILLISECOND_NS, 0) if (wait := section.get("gap_wait")) else 0,
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

    def _read_exchange(self, value: Value) -> Unit:
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
                roles += roles_of(settings.groups)
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
            faults=read_faults(faults) if faults else ExchangeSettings.faults,
            feed=first,
            arrivals=arrivals.choice(_ARRIVALS, "arrivals") if arrivals else ExchangeSettings.arrivals,
            surge_after_ns=surge_after.duration_ns(0, 0) if surge_after else 0,
            surge_for_ns=surge_for.duration_ns(0, 0) if surge_for else 0,
        )
        unit = self._unit(value, section, "exchange", _SIMULATED.get(spoken, ""), settings=exchange)
        if spoken and not unit.run:
            (wire or value).problem(f"no simulated exchange speaks {spoken}: give its program as run:")
        return unit

    def _read_processor(self, value: Value) -> Unit:
        section = Section(value)
        section.need("run", "nodes.nbbo:main")
        own, hours, session = (section.get(key) for key in ("shards", "hours", "session"))
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
            letters=read_letter_sets(own, own.items()) if own else self.shards,
        )
        if hours:
            unit = replace(unit, hours=hours.choice(("clock", "open"), "beginning of hours", "clock"))
        if session:
            unit = replace(unit, session=session.choice(("regular", "ext"), "session", "regular"))
        return unit

    def _read_gateways(self) -> list[Unit]:
        port = self._overrides.http_port()
        units = []
        for value in self._top.entries("gateways"):
            units.append(self._read_gateway(value, port))
            port = None
        return units

    def _read_gateway(self, value: Value, override: int | None) -> Unit:
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
        prefixes = [read_prefix(item) for item in symbols.items()] if symbols else [""]
        if symbols and symbols.content in ("", []):
            symbols.problem('expected prefixes of symbols, such as [A, B] or ["*"]')
        settings = GatewaySettings(
            bind.text("an IP address", r"[0-9a-fA-F:.]+") if bind else unit.hosts[0].bind.replace("*", "0.0.0.0"),
            override or (port.port() if port else 8080),
            shortest(prefixes),
            (interval.duration_ns(0, 100 * MILLISECOND_NS) if interval else 100 * MILLISECOND_NS) // MILLISECOND_NS,
            tuple(item.text("an origin such as https://example.com", r"https?://[^\s/]+") for item in origins),
            count,
        )
        if bind and isinstance(bind.content, str) and not is_ip(bind.content):
            bind.expected("an IP address")
        elif not is_loopback(settings.host) and self.access.open:
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
    ) -> Unit:
        """What every node may have: its name, program and host. Closes the section."""
        if not re.fullmatch(_NAME, value.name):
            value.name_problem("a node's name is at most 40 small letters, digits, - and _")
        program, host = section.get("run"), section.get("host")
        journal = section.get("journal") if role in ("feed", "processor") else None
        section.close()
        first = next(iter(self.hosts.values()))
        hosts: tuple[Host, ...] = (first,)
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
        return Unit(value, role, run, hosts, reads, channels, letters, settings, logged)

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
            letters = read_letter_sets(shards, entries)
            return replace(cache, mode="shards", servers=tuple(map(read_redis_url, entries)), shards=letters)
        if cluster:
            if cluster.content in ("", []):
                cluster.problem("expected at least one address such as redis://127.0.0.1:6379")
            return replace(cache, mode="cluster", servers=tuple(map(read_redis_url, cluster.items())))
        if server and server.content not in ("embedded", "off"):
            return replace(cache, mode="server", servers=(read_redis_url(server, "embedded, off or an address"),))
        return replace(cache, mode=str(server.content)) if server else cache

    def _read_history(self) -> HistorySettings | None:
        value = self._top.get("history")
        if value is None or value.content == "off":
            return None
        section = Section(value)
        store, keep, archive = section.get("store"), section.get("keep"), section.get("archive")
        rows, ticks = section.get("rows_max"), section.get("ticks")
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
            shortest(read_prefix(item) for item in ticks.items()) if ticks else (),
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
        owner: dict[str, Unit] = {}
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
        found = in_order(self.processors)
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
            for found in read_lines(given, unit.settings.wire) if given else ():
                line = (found.host, found.port)
                if line[1] and line in lines and not found.over_tcp:
                    first = lines[line]
                    found.at.problem(f"{found.at.content} is listened to by {first.key} already, {first.where}")
                lines.setdefault(line, found.at)

    def _units(self) -> list[Unit]:
        units = [*self.exchanges, *self.feeds, *self.processors, *self.gateways]
        return sorted(units, key=lambda unit: unit.at.name_at)

    # What becomes of it: only called when there is no mistake.

    def topology(self, path: str) -> Topology:
        ports = iter(range(self.base, self.base + self.span))
        publishers: dict[str, Publisher] = {}
        for unit in self._units():
            if unit.published():
                for name, letters, host in shards_of(unit):
                    publishers[name] = self._publisher(unit, name, letters, host, next(ports), next(ports))
        first = next(iter(self.hosts.values()))
        cache = self.cache
        if cache.mode == "embedded":
            cache = replace(cache, servers=(f"redis://127.0.0.1:{next(ports)}/0",))
        nodes: list[NodeSpec] = []
        if cache.mode == "embedded":
            nodes.append(NodeSpec(CACHE_NODE, "cache", "gateway.redis_server:main", cache, host=first.name))
        nodes += [node for unit in self.feeds for node in self._nodes(unit, publishers)]
        processors = in_order(self.processors)
        assert isinstance(processors, list)
        nodes += [node for unit in processors for node in self._nodes(unit, publishers)]
        if cache.mode != "off":
            channels = {channel: [""] for channel in _CACHED_CHANNELS}
            reads = sources_of(channels, publishers.values())
            nodes.append(
                NodeSpec(WRITER_NODE, "writer", "gateway.redis_writer:main", cache, reads=reads, host=first.name)
            )
        if self.history:
            channels = {channel: [""] for channel in BAR_CHANNELS} | {"trade": list(self.history.ticks)}
            reads = sources_of(channels, publishers.values())
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

    def _curve_of(self, host: Host) -> Curve | None:
        """The host's keys, which let in every host of the topology."""
        if host.curve is None:
            return None
        ours = [other.curve.public_key for other in self.hosts.values() if other.curve is not None]
        return replace(host.curve, clients=tuple(dict.fromkeys([*ours, *host.curve.clients])))

    def _publisher(self, unit: Unit, name: str, letters: str, host: Host, pub: int, router: int) -> Publisher:
        venues = unit.settings.venues if isinstance(unit.settings, FeedSettings) else ""
        return Publisher(
            name,
            f"tcp://{bracketed(host.address)}:{pub}",
            f"tcp://{bracketed(host.address)}:{router}",
            unit.published(),
            venues,
            letters,
            f"tcp://{bracketed(host.bind)}:{pub}",
            f"tcp://{bracketed(host.bind)}:{router}",
            self.journal if unit.logged else None,
            self._curve_of(host),
        )

    def _nodes(self, unit: Unit, publishers: Mapping[str, Publisher]) -> Iterable[NodeSpec]:
        venues = "".join(self.venues)
        for name, letters, host in shards_of(unit):
            settings = unit.settings or ProcessorSettings(letters, venues, self.market, unit.hours, unit.session)
            prefixes = list(letters) or [""]
            if isinstance(settings, GatewaySettings):
                prefixes = list(settings.symbols)
            channels = list(texts(unit.reads))
            if unit.role == "gateway" and not channels:
                channels = list(CHANNELS)
            reads = sources_of(dict.fromkeys(channels, prefixes), publishers.values())
            yield NodeSpec(name, unit.role, unit.run, settings, publishers.get(name), reads, host.name)


_PLAN_BOUNDS: Mapping[str, int] = {
    "connections": 0,
    "symbols_max": 0,
    "symbols_surge": 0,
    "messages": 1,
    "requests": 1,
}
"""Whole numbers of a plan -> their least value."""
