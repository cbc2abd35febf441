"""topology.yaml: every mistake with its place, and what becomes of a valid file."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from fabric import machine, topology
from fabric.cli import check, endpoints
from fabric.clock import SECOND_NS
from fabric.errors import TopologyError, UsageError
from fabric.topology import (
    BreakerSettings,
    CacheSettings,
    Curve,
    ExchangeSettings,
    FaultSettings,
    FeedSettings,
    GatewaySettings,
    HistorySettings,
    JournalSettings,
    Limits,
    Plan,
    ProcessorSettings,
    Topology,
)
from gateway import protocol

ROOT = Path(__file__).parents[2]
BROKEN = sorted((ROOT / "tests/data/topologies").glob("*.yaml"))

FEED = """
venues: {V: {name: IEX, feed: iex}}
feeds:
  iex: {wire: iex-tops-1.6, venues: V, lines: ["udp://127.0.0.1:5490"]}
"""
NBBO = "nbbo: {run: nodes.nbbo:main, reads: [quote, status], publishes: [nbbo]}"


def load(text: str, environment: dict[str, str] | None = None, *, default_feed: bool = True) -> Topology:
    head = FEED if default_feed else "venues: {V: {}}\n"
    return topology.load_text(head + text, "t.yaml", environment or {})


def problems(text: str, path: str = "t.yaml") -> list[str]:
    with pytest.raises(TopologyError) as caught:
        topology.load_text(text, path, {})
    return list(caught.value.problems)


def reads(found: Topology, node: str) -> dict[str, tuple[str, ...]]:
    return {source.publisher.name: source.topics for source in found.node(node).reads}


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_broken_file_gives_every_problem_with_its_place(path: Path) -> None:
    text = path.read_text()
    expected = [line.removeprefix("# expect ") for line in text.splitlines() if line.startswith("# expect ")]
    assert expected
    assert problems(text) == [f"t.yaml:{line}" for line in expected]


def test_there_is_a_broken_file_for_each_kind_of_mistake() -> None:
    assert len(BROKEN) >= 20


# Files that are no text.


def test_a_missing_file_a_folder_and_an_unreadable_file_say_so(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(TopologyError, match=f"^{path}: {reason}$") as caught:
            topology.load(path, {})
        assert caught.value.exit_code == 2


def test_bytes_that_are_not_utf8_and_files_over_a_mebibyte_are_refused(tmp_path: Path) -> None:
    latin, huge = tmp_path / "latin.yaml", tmp_path / "huge.yaml"
    latin.write_bytes(b"version: 1\nvenues: \xe9\n")
    huge.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(TopologyError, match=r"latin.yaml:2:1: byte 19 is not UTF-8"):
        topology.load(latin, {})
    with pytest.raises(TopologyError, match="larger than 1048576 bytes"):
        topology.load(huge, {})


def test_a_control_character_is_placed() -> None:
    assert problems("version: 1\nab: \x01\n") == ["t.yaml:2:5: not YAML: character 0x1 is not allowed"]


def test_nested_aliases_do_not_multiply() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (found,) = problems("\n".join(lines))
    assert "more than 20000 values" in found


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 100 + "]" * 100, "a: " + "[" * 5_000])
def test_endless_and_deep_nesting_end(text: str) -> None:
    (found,) = problems(text if text.startswith("a") else f"a: {text}")
    assert "nested deeper than 32 levels" in found


# Text stays text.


def test_tickers_that_yaml_takes_for_other_things_stay_text() -> None:
    found = load("gateways: {web: {symbols: [ON, NO, TRUE, 012, 1E5]}}")
    settings = found.node("web").settings
    assert isinstance(settings, GatewaySettings)
    assert set(settings.symbols) == {"ON", "NO", "TRUE", "012", "1E5"}
    assert "quote.1E5" in reads(found, "web")["iex"]


def test_variables_are_filled_in() -> None:
    text = 'gateways: {web: {port: "${P}", interval: "${I:-250ms}", origins: ["https://$${x}"]}}'
    settings = load(text, {"P": "9000", "I": ""}).node("web").settings
    assert settings == GatewaySettings("127.0.0.1", 9000, ("",), 250, ("https://${x}",))


# The default file.


def test_the_default_topology_is_valid_and_in_start_order() -> None:
    found = topology.load(ROOT / "topology.yaml", {})
    names = [node.name for node in found.nodes]
    assert names == [
        *("redis", "nyse", "nasdaq", "bzx", "iex"),
        *("nbbo-1", "nbbo-2", "nbbo-3", "candles-1", "candles-2", "candles-3", "redis-writer", "history", "web"),
        *("nyse-exchange", "nasdaq-exchange", "cboe-exchange", "iex-exchange"),
    ]
    assert [p.endpoint for p in found.publishers()] == [f"tcp://127.0.0.1:{port}" for port in range(5500, 5520, 2)]
    assert next(p.snapshot_endpoint for p in found.publishers()) == "tcp://127.0.0.1:5501"
    assert found.cache.servers == ("redis://127.0.0.1:5520/0",)
    assert found.node("redis").settings == found.node("redis-writer").settings == found.cache
    lines = (("127.0.0.1", 5490), ("127.0.0.1", 5491))
    feed, exchange = found.node("iex").settings, found.node("iex-exchange").settings
    assert isinstance(feed, FeedSettings)
    assert isinstance(exchange, ExchangeSettings)
    assert (feed.wire, feed.venues, feed.lines, feed.groups) == ("iex-tops-1.6", "V", lines, (0, 0))
    assert (exchange.lines, exchange.roles, exchange.rate, exchange.feed) == (lines, "AB", 10_000, feed)
    rates = [node.settings.rate for node in found.nodes if isinstance(node.settings, ExchangeSettings)]
    assert (len(rates), sum(rates)) == (4, 50_000)
    assert found.node("nbbo-3").settings == ProcessorSettings("QRSTUVWXYZ0123456789", "NQZV")
    assert found.node("web").settings == GatewaySettings("127.0.0.1", 8080, ("",))
    assert found.limits == Limits()


def test_an_empty_rest_has_defaults() -> None:
    found = load("")
    assert [node.name for node in found.nodes] == ["redis", "iex", "redis-writer"]
    assert found.cache == CacheSettings(servers=("redis://127.0.0.1:5502/0",))
    assert (found.log_level, found.log_format, found.clock, found.lossless) == ("INFO", "text", "system", False)


def test_a_history_reads_candles_and_where_it_is_asked_for_trades() -> None:
    bars = "processors: {candles: {run: 'nodes.candles:main', reads: [trade], publishes: [bar.1m]}}"
    plain = load(f"{bars}\nhistory: {{}}").node("history")
    assert [source.topics for source in plain.reads] == [("bar.1m.",)]
    asked = load(f"{bars}\nhistory: {{ticks: [AAPL, BRK, AAP, 'SP*'], keep: {{tick: 2h}}}}").node("history")
    assert isinstance(asked.settings, HistorySettings)
    assert asked.settings.ticks == ("AAP", "BRK", "SP")
    assert dict(asked.settings.keep_ns)["tick"] == 7_200 * 10**9
    topics = {source.publisher.name: source.topics for source in asked.reads}
    assert topics == {"iex": ("trade.AAP", "trade.BRK", "trade.SP"), "candles": ("bar.1m.",)}


def test_an_exchange_has_its_settings() -> None:
    surge = "surge: 2.5, surge_after: 1m, surge_for: 30s"
    found = load(f"exchanges: {{x: {{to: [iex], symbols: 20_000, rate: 9, {surge}, seed: 0, shape: intraday}}}}")
    lines = (("127.0.0.1", 5490),)
    feed = found.node("iex").settings
    assert isinstance(feed, FeedSettings)
    expected = ExchangeSettings("iex-tops-1.6", lines, 20_000, 9, 2.5, 0, "intraday", "A", feed=feed)
    expected = replace(expected, surge_after_ns=60_000_000_000, surge_for_ns=30_000_000_000)
    assert found.node("x").settings == expected


def test_a_wire_has_its_simulated_exchange() -> None:
    programs = {"nasdaq-itch-5.0": "nasdaq", "cboe-pitch-2.41": "cboe", "nyse-pillar": "nyse", "iex-tops-1.6": "iex"}
    for wire, program in programs.items():
        feed = f"feeds: {{f: {{wire: {wire}, venues: V, lines: ['udp://127.0.0.1:5490']}}}}\n"
        found = load(feed + "exchanges: {x: {to: [f]}}", default_feed=False)
        assert found.node("x").run == f"nodes.exchanges.{program}:main"


def test_an_exchange_has_its_faults() -> None:
    faults = (
        "{lines: B, after: 5s, for: 1m, drop: 0.01, duplicate: 0.02, reorder: 3, corrupt: 1, mute: true, flap: 2s, "
        "drop_both: 0.001, delay: 4ms, skew: -1.5, restart: 30s}"
    )
    settings = load(f"exchanges: {{x: {{to: [iex], halts: 6, faults: {faults}}}}}").node("x").settings
    assert isinstance(settings, ExchangeSettings)
    assert settings.halts == 6
    assert settings.faults == FaultSettings(
        *("B", 5_000_000_000, 60_000_000_000, 0.01, 0.02, 3, 1.0, True, 2_000_000_000),
        *(0.001, 4_000_000, -1_500_000_000, 30_000_000_000),
    )


@pytest.mark.parametrize("fault", ["drop: 1.5", "lines: C", "skew: 1h", "reorder: -1", "after: 5", "mutes: true"])
def test_a_fault_that_cannot_be_is_named(fault: str) -> None:
    with pytest.raises(TopologyError, match=r"exchanges\.x\.faults\.(drop|lines|skew|reorder|after|mutes): "):
        load(f"exchanges: {{x: {{to: [iex], faults: {{{fault}}}}}}}")


# Lines of a feed.


def feed(text: str, venues: str = "V") -> FeedSettings:
    found = load(f"feeds: {{f: {{venues: {venues}, {text}}}}}", default_feed=False).node("f").settings
    assert isinstance(found, FeedSettings)
    return found


def test_lines_of_one_group_carry_the_same() -> None:
    lines = (
        "[[udp://127.0.0.1:1, udp://127.0.0.1:2], udp://[::1]:3, [udp://239.0.0.1:4@eth0, udp://239.0.0.2:4@10.0.0.1]]"
    )
    found = feed(f"wire: iex-tops-1.6, lines: {lines.replace('udp://[::1]:3', quoted('udp://[::1]:3'))}")
    assert found.lines == (("127.0.0.1", 1), ("127.0.0.1", 2), ("::1", 3), ("239.0.0.1", 4), ("239.0.0.2", 4))
    assert found.groups == (0, 0, 1, 2, 2)
    assert found.interfaces == ("", "", "", "eth0", "10.0.0.1")


def quoted(text: str) -> str:
    return f"'{text}'"


def test_an_exchange_knows_which_lines_are_a_and_b() -> None:
    found = load(
        "feeds: {f: {wire: nyse-pillar, venues: V, lines: [[udp://h:1, udp://h:2], udp://h:3]}}\n"
        "exchanges: {x: {to: [f]}}",
        default_feed=False,
    )
    exchange = found.node("x").settings
    assert isinstance(exchange, ExchangeSettings)
    assert exchange.roles == "ABA"


def test_soupbintcp_requests_and_the_breaker() -> None:
    found = feed(
        "wire: nasdaq-itch-5.0, lines: [tcp://h:1], recovery: [udp://a:2, udp://b:3], "
        "login: {user: me, password: secret}"
    )
    assert (found.over_tcp, found.login) == ((True,), ("me", "secret"))
    assert found.recovery == (("udp", "a", 2), ("udp", "b", 3))
    assert found.breaker == BreakerSettings()
    cboe = feed(
        "wire: cboe-pitch-2.41, lines: [udp://h:1], recovery: [tcp://a:2], answers: [udp://h:3, udp://h:4], "
        "spins: [tcp://a:5], login: {user: me, password: secret}"
    )
    assert (cboe.answers, cboe.spins) == ((("h", 3), ("h", 4)), (("a", 5),))
    tuned = feed("wire: cta, lines: [udp://h:1], breaker: {silence: 5s, gaps: 3, errors: 7, window: 2s, skew: 1s}")
    assert feed("wire: cta, lines: [udp://h:1], gap_wait: 250ms").gap_wait_ns == 250_000_000
    assert tuned.breaker == BreakerSettings(5 * SECOND_NS, 3, 7, 2 * SECOND_NS, SECOND_NS)
    impatient = load(
        "feeds: {f: {wire: cta, venues: V, lines: [udp://h:1]}}\nlimits: {stale_after: 1s}", default_feed=False
    )
    settings = impatient.node("f").settings
    assert isinstance(settings, FeedSettings)
    assert settings.breaker.silence_ns == SECOND_NS


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("wire: cta, lines: [[]]", r"f\.lines\[0\]: expected the lines of one group"),
        ("wire: cta, lines: [tcp://h:1]", r"f\.lines\[0\]: only nasdaq-itch-5\.0 comes over TCP; cta over UDP"),
        ("wire: cta, lines: [udp://10.0.0.1:1@eth0]", r"f\.lines\[0\]: 10\.0\.0\.1 is no multicast group"),
        ("wire: cta, lines: ['udp://239.0.0.1:1@a b']", r"f\.lines\[0\]: expected the address or name of an interface"),
        ("wire: cta, lines: [[udp://h:1, udp://h:1]]", r"f\.lines\[0\]\[1\]: udp://h:1 is listened to by feeds"),
        ("wire: cta, lines: [udp://h:1], recovery: [udp://h:2]", r"f\.recovery: the exchange of cta cannot be asked"),
        ("wire: iex-tops-1.6, lines: [udp://h:1], recovery: [tcp://h:2]", r"f\.recovery\[0\]: expected an address"),
        ("wire: iex-tops-1.6, lines: [udp://h:1], recovery: []", r"f\.recovery: expected the address of at least one"),
        ("wire: nasdaq-itch-5.0, lines: [udp://h:1], recovery: [udp://h:2, tcp://h:2]", "f.recovery: all request"),
        ("wire: nasdaq-itch-5.0, lines: [tcp://h:1]", r"f: SoupBinTCP needs login: \{user"),
        ("wire: nyse-pillar, lines: [udp://h:1], recovery: [tcp://h:2]", r"f: requests to NYSE need product:"),
        ("wire: cboe-pitch-2.41, lines: [udp://h:1], recovery: [tcp://h:2]", r"f: requests to Cboe need answers:"),
        ("wire: cboe-pitch-2.41, lines: [udp://h:1], login: {user: longer}", r"f: the names of Cboe's users have 4"),
        ("wire: cta, lines: [udp://h:1], answers: [udp://h:2]", r"f\.answers: cta has no lines of answers"),
        ("wire: cta, lines: [udp://h:1], spins: [tcp://h:2]", r"f\.spins: only cboe-pitch-2.41 has spins"),
        ("wire: nyse-pillar, lines: [udp://h:1], answers: [tcp://h:2]", r"f\.answers\[0\]: expected an address"),
        ("wire: cta, lines: [udp://h:1], login: {password: x}", r"f\.login: 'user' is missing"),
        ("wire: cta, lines: [udp://h:1], login: {user: eleven-chars}", r"f\.login\.user: expected a name of at most"),
        ("wire: cta, lines: [udp://h:1], breaker: {silence: 5}", r"f\.breaker\.silence: expected a time"),
        ("wire: cta, lines: [udp://h:1], breaker: {silenc: 5s}", r"f\.breaker\.silenc: unknown key 'silenc'.*silence"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_feed_is_named(text: str, problem: str) -> None:
    with pytest.raises(TopologyError, match=problem):
        feed(text)


# What nodes read and publish.


def test_the_market_is_told_to_processors_and_may_have_venues_that_are_not_read() -> None:
    text = "market: VQN\nprocessors: {nbbo: {run: nodes.nbbo:main, reads: [quote], publishes: [nbbo]}}"
    assert load(text).node("nbbo").settings == ProcessorSettings("", "V", "VQN")


def test_candles_are_of_the_session_that_the_file_says() -> None:
    text = "processors: {bars: {run: nodes.candles:main, reads: [trade], publishes: [bar.1h], session: %s}}"
    for session in ("regular", "ext"):
        assert load(text % session).node("bars").settings == ProcessorSettings("", "V", "", "clock", session)
    (problem,) = problems(FEED + text % "exd")
    assert problem.endswith("session: unknown session 'exd'; did you mean 'ext'?")


def test_hours_of_candles_begin_as_the_file_says() -> None:
    text = "processors: {bars: {run: nodes.candles:main, reads: [trade], publishes: [bar.1h], hours: %s}}"
    for hours in ("clock", "open"):
        assert load(text % hours).node("bars").settings == ProcessorSettings("", "V", "", hours)
    (problem,) = problems(FEED + text % "opne")
    assert problem.endswith("hours: unknown beginning of hours 'opne'; did you mean 'open'?")
    with pytest.raises(TopologyError, match=r"market: 'VQV' names a venue twice"):
        load("market: VQV")
    with pytest.raises(TopologyError, match=r"market: expected letters of all venues"):
        load("market: all")


def test_shards_read_their_letters_and_the_states_of_whole_venues() -> None:
    found = load("shards: [A-B, C-Z 0-9]\nprocessors:\n  " + NBBO)
    assert reads(found, "nbbo-1") == {"iex": ("quote.A", "quote.B", "status.A", "status.B", "status.|")}
    assert found.node("nbbo-1").publishes.letters == "AB"  # type: ignore[union-attr]
    assert reads(found, "redis-writer") == {"nbbo-1": ("nbbo.",), "nbbo-2": ("nbbo.",)}


def test_a_processor_without_shards_is_one_node_that_reads_all() -> None:
    for shards in ("", "shards: [A-Z 0-9]\n", "shards: ['*']\n"):
        found = load(shards + "processors:\n  " + NBBO)
        assert reads(found, "nbbo") == {"iex": ("quote.", "status.")}
        assert found.node("nbbo").publishes.letters == ""  # type: ignore[union-attr]


def test_processors_start_after_those_that_they_read() -> None:
    late = "alerts: {run: nodes.alerts:main, reads: [bar.1m, nbbo], publishes: [alert]}"
    bars = "candles: {run: nodes.candles:main, reads: [nbbo], publishes: [bar.1m]}"
    found = load(f"processors:\n  {late}\n  {bars}\n  {NBBO}")
    assert [n.name for n in found.nodes if n.role == "processor"] == ["nbbo", "candles", "alerts"]
    assert [p.name for p in sorted(found.publishers(), key=lambda p: p.endpoint)] == [
        "iex",
        "alerts",
        "candles",
        "nbbo",
    ]


def test_a_gateway_subscribes_its_prefixes_only_where_they_can_match() -> None:
    text = f"shards: [A-M, N-Z 0-9]\nprocessors:\n  {NBBO}\n"
    found = load(text + "gateways:\n  web: {symbols: [A, AAPL, 'BRK*'], reads: [nbbo, quote, status]}")
    assert reads(found, "web") == {
        "iex": ("quote.A", "quote.BRK", "status.A", "status.BRK", "status.|"),
        "nbbo-1": ("nbbo.A", "nbbo.BRK"),
    }
    found = load(text + "gateways:\n  web: {symbols: ['*']}")
    assert reads(found, "web")["nbbo-2"] == ("nbbo.",)
    assert reads(found, "web")["iex"] == ("quote.", "trade.", "status.")


def test_hosts_give_addresses_and_shards_may_be_spread() -> None:
    hosts = "hosts:\n  a: {address: 10.0.0.5, bind: 127.0.0.1}\n  b: {address: '::1', bind: '::1'}\n"
    found = load(hosts + "shards: [A-M, N-Z 0-9]\nprocessors:\n  " + NBBO.replace("run", "host: [a, b], run"))
    publishers = {p.name: p for p in found.publishers()}
    assert (publishers["nbbo-1"].endpoint, publishers["nbbo-1"].bind) == ("tcp://10.0.0.5:5502", "tcp://127.0.0.1:5502")
    assert publishers["nbbo-2"].snapshot_bind == "tcp://[::1]:5505"
    assert [n.host for n in found.nodes] == ["a", "a", "a", "b", "a"]


def test_limits_have_units() -> None:
    text = "limits: {stale_after: 500ms, drain: 1m, queue_max: 50_000, message_bytes_max: 2mb, restart_window: 1.5h}"
    limits = load(text).limits
    assert (limits.stale_after_ns, limits.drain_ns, limits.queue_max) == (500_000_000, 60_000_000_000, 50_000)
    assert (limits.message_bytes_max, limits.restart_window_ns) == (2 << 20, 5_400_000_000_000)


def test_every_field_of_limits_is_a_key() -> None:
    keys = {f"{key}_ns" if unit == "time" else key for key, (unit, _) in topology.LIMITS.items()}
    assert keys == set(Limits.__dataclass_fields__)


# The cache.


@pytest.mark.parametrize(
    ("text", "mode", "servers", "shards"),
    [
        ("{server: off}", "off", (), ()),
        ("{server: 'redis://h:1/2'}", "server", ("redis://h:1/2",), ()),
        ("{server: 'unix:///run/redis.sock'}", "server", ("unix:///run/redis.sock",), ()),
        ("{cluster: ['redis://h:1', 'redis://h:2']}", "cluster", ("redis://h:1", "redis://h:2"), ()),
        ("{shards: {A-Z: 'redis://h:1', 0-9: 'rediss://u:p@h'}}", "shards", ("redis://h:1", "rediss://u:p@h"), None),
    ],
)
def test_forms_of_the_cache(text: str, mode: str, servers: tuple[str, ...], shards: tuple[str, ...] | None) -> None:
    cache = load("cache: " + text).cache
    expected = ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789") if shards is None else shards
    assert (cache.mode, cache.servers, cache.shards) == (mode, servers, expected)
    roles = {node.role for node in load("cache: " + text).nodes}
    assert ("writer" in roles) == (mode != "off")
    assert "cache" not in roles


# The environment.


def test_variables_win_over_the_file() -> None:
    environment = {"REDIS_URL": "redis://elsewhere:6379", "PORT": "1", "FABRIC_PORT": "9001", "LOG_LEVEL": "DEBUG"}
    found = load("gateways: {a: {port: 8080}, b: {port: 8081}}", environment)
    assert (found.cache.mode, found.cache.servers) == ("server", ("redis://elsewhere:6379",))
    assert [n.settings.port for n in found.nodes if isinstance(n.settings, GatewaySettings)] == [9001, 8081]
    assert found.log_level == "DEBUG"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("REDIS_URL", "foo", "'foo'"),
        ("REDIS_URL", "http://user:secret@host", "not shown"),
        ("FABRIC_PORT", "abc", "'abc'"),
        ("PORT", "0", "'0'"),
        ("LOG_FORMAT", "xml", "'xml'"),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str, shown: str) -> None:
    with pytest.raises(UsageError, match=f"^environment variable {name}: ") as caught:
        load("gateways: {web: {}}", {name: value})
    assert shown in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 2


# Keys and public addresses.

KEY = "abcdefghijABCDEFGHIJ0123456789.-:+=^!/*?"


def with_keys(folder: Path, content: str, mode: int) -> str:
    secret = folder / "node.key"
    secret.write_text(content)
    secret.chmod(mode)
    return f"{FEED}hosts:\n  a: {{bind: 0.0.0.0, curve_secret_file: node.key, curve_public_key: '{KEY}'}}\n"


def test_a_public_bus_needs_keys_or_consent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = load("hosts: {a: {bind: 0.0.0.0, allow_insecure: true}}")
    assert found.publishers()[0].bind == "tcp://0.0.0.0:5500"
    assert "without encryption" in caplog.text
    for content in (KEY + "\n", f'metadata\ncurve\n    public-key = "x"\n    secret-key = "{KEY}"\n'):
        text = with_keys(tmp_path, content, 0o600)
        loaded = topology.load_text(text, str(tmp_path / "t.yaml"), {})
        assert loaded.publishers()[0].curve == loaded.curve() == Curve(str(tmp_path / "node.key"), KEY, (KEY,))


def test_the_publishers_of_a_host_let_in_every_host_and_its_own_clients(tmp_path: Path) -> None:
    text = with_keys(tmp_path, KEY, 0o600).replace(f"'{KEY}'", f"'{KEY}', curve_clients: ['{KEY[::-1]}']")
    other = KEY[1:] + KEY[0]
    text += f"  b: {{curve_secret_file: node.key, curve_public_key: '{other}'}}\n  c: {{}}\n"
    loaded = topology.load_text(text, str(tmp_path / "t.yaml"), {})
    secret = str(tmp_path / "node.key")
    assert loaded.publishers()[0].curve == Curve(secret, KEY, (KEY, other, KEY[::-1]))
    assert loaded.curve("b") == Curve(secret, other, (KEY, other))
    assert loaded.curve("c") is None


def test_half_a_pair_and_what_is_no_key_are_told(tmp_path: Path) -> None:
    text = with_keys(tmp_path, KEY, 0o600)
    half = problems(text.replace("bind: 0.0.0.0, ", "").replace("curve_secret_file: node.key, ", ""))
    assert half == ["t.yaml:6:25: hosts.a.curve_public_key: of no use without curve_secret_file"]
    (no_key,) = problems(text.replace(f"'{KEY}'", f"'{KEY}', curve_clients: [short]"), str(tmp_path / "t.yaml"))
    assert no_key.endswith("hosts.a.curve_clients[0]: expected a CURVE key: 40 characters of Z85 (in quotes)")


def test_a_secret_that_others_may_read_or_that_is_none_is_refused_and_not_shown(tmp_path: Path) -> None:
    path = str(tmp_path / "t.yaml")
    (loose,) = problems(with_keys(tmp_path, KEY, 0o644), path)
    assert loose.startswith(f"{path}:6:41: hosts.a.curve_secret_file: ")
    assert "mode 0644" in loose
    (short,) = problems(with_keys(tmp_path, KEY[:39], 0o600), path)
    assert "no CURVE secret key" in short
    assert KEY[:20] not in loose + short
    (missing,) = problems(with_keys(tmp_path, KEY, 0o600).replace("node.key", "other.key"), path)
    assert "other.key: No such file" in missing


# A replay.


def test_a_replay_has_the_source_in_place_of_the_feeds_and_meets_nothing_that_runs() -> None:
    base = topology.load(ROOT / "topology.yaml", {})
    found = topology.with_source(
        base, "day.csv", base_port=6000, http_port=9090, venues="NP", market="N", speed=10.0, to_ns=5
    )
    assert [n.name for n in found.nodes] == [
        *("redis", "nbbo-1", "nbbo-2", "nbbo-3", "candles-1", "candles-2", "candles-3", "redis-writer", "web"),
        "replay",
    ]
    assert found.node("replay").settings == FeedSettings("", "NP", source="day.csv", speed=10.0, to_ns=5)
    assert found.node("replay").publishes == found.node("nbbo-1").reads[0].publisher
    assert reads(found, "nbbo-1")["replay"] == reads(base, "nbbo-1")["iex"]
    ports = [int(e.rpartition(":")[2]) for p in found.publishers() for e in (p.endpoint, p.snapshot_endpoint)]
    assert sorted(ports) == list(range(6000, 6014))
    assert found.cache.servers == ("redis://127.0.0.1:6014/0",)
    assert found.node("redis-writer").settings == found.cache
    assert found.node("nbbo-1").settings == ProcessorSettings("ABCDEFGH", "NP", "N")
    assert [venue.name for venue in found.venues] == ["NYSE", "NYSE Arca"]
    assert (found.clock, found.lossless) == ("event", True)
    web = found.node("web").settings
    assert isinstance(web, GatewaySettings)
    assert web.port == 9090


def test_a_replay_leaves_a_shared_redis_alone() -> None:
    base = load("cache: {server: 'redis://shared:6379'}")
    found = topology.with_source(base, "x.pcap", base_port=6000, http_port=9090)
    assert found.cache.mode == "embedded"
    assert found.nodes[0].name == "redis"
    off = topology.with_source(load("cache: {server: off}"), "x.pcap", base_port=6000, http_port=9090)
    assert [n.name for n in off.nodes] == ["replay"]


# Which addresses a topic has.


@pytest.mark.parametrize(
    ("topic", "ports"),
    [
        ("nbbo.AAPL|", [5508]),
        ("nbbo.Z", [5512]),
        ("nbbo.", [5508, 5510, 5512]),
        ("nbb", [5508, 5510, 5512]),
        ("bar.1m.9", [5518]),
        ("bar.", [5514, 5516, 5518]),
        ("quote.AAPL|V", [5506]),
        ("status.|", [5500, 5502, 5504, 5506]),
        ("node.nbbo-2|", [5510]),
        ("node.", list(range(5500, 5520, 2))),
        ("", list(range(5500, 5520, 2))),
    ],
)
def test_endpoints_of_a_topic(topic: str, ports: list[int]) -> None:
    found = topology.endpoints(topology.load(ROOT / "topology.yaml", {}), topic)
    assert found == tuple(f"tcp://127.0.0.1:{port}" for port in ports)


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ("quotes.A", "no node publishes channel 'quotes'; did you mean 'quote'?"),
        ("bar.2m.A", "channel 'bar.2m'; did you mean 'bar.5m'?"),
        (
            "alert.",
            "channel 'alert'; there is bar.1d, bar.1h, bar.1m, bar.5m, bolo, nbbo, quote, status, trade, why, node",
        ),
        ("quote.AAPL|P", "no node publishes it, though 'quote' is a channel"),
        ("nbbo.aapl|", "no node publishes it, though 'nbbo' is a channel"),
    ],
)
def test_a_topic_that_nobody_publishes(topic: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        topology.endpoints(topology.load(ROOT / "topology.yaml", {}), topic)
    assert message in str(caught.value)


# The commands.


def test_check_prints_nodes_and_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    result = CliRunner().invoke(check.command, [str(ROOT / "topology.yaml")])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].endswith("valid, 18 nodes, in start order:")
    assert lines[6].split() == ["nbbo-1", "processor", "tcp://127.0.0.1:5508", "nbbo,", "bolo,", "why", "[ABCDEFGH]"]
    assert "http://127.0.0.1:8080" in result.output
    assert lines[-1] == "cache: embedded redis://127.0.0.1:5520/0"
    data = json.loads(CliRunner().invoke(check.command, [str(ROOT / "topology.yaml"), "--json"]).output)
    assert data["valid"]
    assert data["nodes"][5]["publishes"]["endpoint"] == "tcp://127.0.0.1:5508"


def test_check_of_a_broken_file_lists_the_problems() -> None:
    path = str(ROOT / "tests/data/topologies/cycle.yaml")
    result = CliRunner().invoke(check.command, [path])
    assert isinstance(result.exception, TopologyError)
    result = CliRunner().invoke(check.command, [path, "--json"], standalone_mode=False)
    assert result.return_value == 2
    (problem,) = json.loads(result.output)["problems"]
    assert problem.startswith(f"{path}:5:3: processors.nbbo: a cycle")


def test_passwords_of_redis_are_not_printed(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(FEED + "cache: {server: 'redis://user:secret@host:6379'}")
    output = CliRunner().invoke(check.command, [str(path)], env={"REDIS_URL": ""}).output
    assert "redis://host:6379" in output
    assert "secret" not in output


def test_endpoints_prints_one_address_a_line() -> None:
    arguments = ["nbbo.AAPL|", str(ROOT / "topology.yaml")]
    assert CliRunner().invoke(endpoints.command, arguments).output == "tcp://127.0.0.1:5508\n"
    assert json.loads(CliRunner().invoke(endpoints.command, [*arguments, "--json"]).output) == ["tcp://127.0.0.1:5508"]


# Access.


def test_without_access_a_gateway_is_open_and_only_on_loopback() -> None:
    found = load("")
    assert found.access.open
    assert found.access.plan("full") == Plan()


def test_plans_and_keys(tmp_path: Path) -> None:
    text = FEED + (
        "access:\n  keys: keys.json\n  public: delayed\n  plans:\n"
        "    delayed: {feeds: [sip], channels: [quotes, bars], symbols: [A, BRK*], delay: 15m, symbols_max: 30,\n"
        "              symbols_surge: 3, connections: 1, takeover: true, messages: 5, requests: 7}\n"
        "gateways: {web: {bind: 0.0.0.0}}\n"
    )
    found = topology.load_text(text, str(tmp_path / "t.yaml"), {}).access
    assert (found.keys, found.public, found.open) == (str(tmp_path / "keys.json"), "delayed", False)
    assert [plan.name for plan in found.plans] == ["full", "delayed"]
    assert found.plan("delayed") == Plan(
        "delayed", ("sip",), ("quotes", "bars"), ("A", "BRK*"), False, 900 * 10**9, 1, True, 30, 3, 5, 7
    )
    (tmp_path / "keys.json").touch(0o644)
    (loose,) = problems(text, str(tmp_path / "t.yaml"))
    assert "mode 0644" in loose


def test_operators_are_a_plan_that_nobody_has_without_a_key() -> None:
    text = FEED + "access:\n  keys: keys.json\n  public: PLAN\n  plans:\n    ops: {operator: true}\n"
    plan = topology.load_text(text.replace("PLAN", "full"), "t.yaml", {}).access.plan("ops")
    assert plan == Plan("ops", operator=True)
    (found,) = problems(text.replace("PLAN", "ops"))
    assert "the plan 'ops' is an operator's: it cannot be that of those who give no key" in found


def test_metrics_are_served_where_the_file_says_and_not_by_a_replay() -> None:
    assert load("").metrics is None
    found = load("metrics: {port: 9464}")
    assert found.metrics == ("127.0.0.1", 9464)
    assert machine.Port("fabric", "metrics", "127.0.0.1", 9464) in machine.ports(found)
    assert load('metrics: {port: 9464, bind: "::"}').metrics == ("::", 9464)
    assert topology.with_source(found, "day.csv", base_port=6000, http_port=9090).metrics is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("metrics: {bind: 127.0.0.1}", "port"),
        ("metrics: {port: 0}", "expected a port from 1 to 65535, found '0'"),
        ("metrics: {port: 9464, bind: all}", "expected an IP address, found 'all'"),
        ("metrics: {port: 9464, path: /x}", "unknown key 'path'"),
    ],
)
def test_what_is_wrong_with_metrics_is_named(text: str, problem: str) -> None:
    (found,) = problems(FEED + text)
    assert problem in found


def test_a_replay_is_open_since_it_is_on_loopback() -> None:
    base = load("access: {keys: keys.json}")
    assert topology.with_source(base, "day.csv", base_port=6000, http_port=9090).access.open


def test_the_channels_of_plans_are_those_of_clients() -> None:
    assert set(topology.CLIENT_CHANNELS) >= set(protocol.CHANNELS)


# The durable log.


def test_every_publisher_keeps_a_log_beside_the_file_unless_told_otherwise() -> None:
    found = load(f"processors:\n  {NBBO}\n")
    assert [publisher.journal for publisher in found.publishers()] == [JournalSettings(".fabric/journal")] * 2
    assert load("journal: off\n").publishers()[0].journal is None
    quiet = NBBO.replace("{", "{journal: false, ")
    assert load(f"processors:\n  {quiet}\n").node("nbbo").publishes.journal is None  # type: ignore[union-attr]


def test_a_log_has_its_settings() -> None:
    text = "journal: {folder: /var/log/fabric, keep: 24h, bytes: 64gb, sync: 10ms, serve: 200mb}\n"
    assert load(text).publishers()[0].journal == JournalSettings(
        "/var/log/fabric", 24 * 3_600 * SECOND_NS, 64 << 30, 10_000_000, 200 << 20
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("journal: on", "expected a mapping, found 'on'"),
        (
            "journal: {keep: 1}",
            "expected a time of at least 1000ms with its unit, such as 500ms, 2.5s or 1m, found '1'",
        ),
        ("journal: {bytes: 1mb}", "expected a size of at least 8388608 bytes, such as 256mb, found '1mb'"),
        ("journal: {size: 1gb}", "unknown key 'size'"),
    ],
)
def test_what_is_wrong_with_a_log_is_named(text: str, problem: str) -> None:
    (found,) = problems(FEED + text)
    assert problem in found


def test_a_replay_keeps_no_log() -> None:
    found = topology.with_source(load(""), "day.pcap", base_port=20_000, http_port=20_100)
    assert {publisher.journal for publisher in found.publishers()} == {None}


def test_the_processes_of_a_gateway_are_nodes_that_share_its_port() -> None:
    found = load("gateways: {web: {port: 8099, processes: 3}}")
    nodes = [node for node in found.nodes if node.role == "gateway"]
    assert [node.name for node in nodes] == ["web-1", "web-2", "web-3"]
    for node in nodes:
        assert isinstance(node.settings, GatewaySettings)
        assert (node.settings.port, node.settings.processes) == (8099, 3)
        assert node.reads == nodes[0].reads
    one = load("gateways: {web: {processes: 1}}").node("web").settings
    assert isinstance(one, GatewaySettings)
    assert one.processes == 1


@pytest.mark.parametrize("count", ["0", "65", "two"])
def test_a_gateway_has_a_sensible_number_of_processes(count: str) -> None:
    with pytest.raises(TopologyError, match=r"gateways\.web\.processes: expected a whole number from 1 to 64"):
        load(f"gateways: {{web: {{processes: {count}}}}}")


def test_in_a_replay_the_processes_of_a_gateway_still_share_one_port() -> None:
    found = load("gateways: {a: {port: 8001, processes: 2}, b: {port: 8002}, c: {port: 8003, processes: 2}}")
    moved = topology.with_source(found, "x.pcap", base_port=9000, http_port=9500)
    ports = {node.name: node.settings.port for node in moved.nodes if isinstance(node.settings, GatewaySettings)}
    assert ports == {"a-1": 9500, "a-2": 9500, "b": 9501, "c-1": 9502, "c-2": 9502}


def test_an_exchange_may_move_each_symbol_in_turn() -> None:
    found = load("exchanges: {x: {to: [iex], arrivals: even}}").node("x").settings
    assert isinstance(found, ExchangeSettings)
    assert found.arrivals == "even"
