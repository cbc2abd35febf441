"""The cache in its three forms, with real servers: keys, lives, breakers, loss and return."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from redis.crc import key_slot

import naive_redis
from fabric.clock import ManualClock
from fabric.errors import StoreError
from fabric.records import BAR, KIND_BAR_1M, KIND_BAR_5M, KIND_NBBO, NBBO, Rows, empty
from fabric.symbols import SymbolTable
from fabric.topology import CacheSettings
from gateway.store import Breaker, Store, Written, probe
from redis_servers import RealServer, cluster, server, wait_for

NO_BARS = empty(0, BAR, KIND_BAR_1M)
SECOND_NS = 1_000_000_000


def settings(mode: str, servers: tuple[str, ...], shards: tuple[str, ...] = ()) -> CacheSettings:
    """Quotes live for a minute here: a slow machine is no reason for one to expire in the middle of a test."""
    return CacheSettings(mode, servers, shards, quote_ttl_ms=60_000)


def quotes(symbols: SymbolTable, *names: str, bid_px: int = 185_500_000_000) -> Rows:
    rows = empty(len(names), NBBO, KIND_NBBO)
    rows["symbol"] = [symbols.intern(name) for name in names]
    rows["bid_px"], rows["bid_size"], rows["state"] = bid_px, 100, 0
    rows["event_ns"] = 1_704_567_890_123_000_000
    return rows


def bars(symbols: SymbolTable, *names: str, kind: int = KIND_BAR_1M) -> Rows:
    rows = empty(len(names), BAR, kind)
    rows["symbol"] = [symbols.intern(name) for name in names]
    for name in ("open_px", "high_px", "low_px", "close_px"):
        rows[name] = 10_000_000_000
    rows["volume"], rows["event_ns"] = 5, 1_704_567_840_000_000_000
    return rows


def write(store: Store, symbols: SymbolTable, rows: Rows, candles: Rows = NO_BARS, changed: bool = True) -> Written:
    return store.write(symbols, rows, np.full(rows.size, changed), candles)


def done(written: Written) -> "list[npt.NDArray[np.bool_]]":
    return [written.quotes.tolist(), written.bars.tolist()]


@pytest.fixture
def symbols() -> SymbolTable:
    return SymbolTable(8_192)


@pytest.fixture
def one() -> Iterator[RealServer]:
    with server() as made:
        yield made


@pytest.fixture
def store(one: RealServer, clock: ManualClock) -> Iterator[Store]:
    made = Store(settings("server", (one.url,)), clock)
    yield made
    made.close()


# The breaker.


def test_a_breaker_opens_at_a_failure_lets_one_try_and_waits_longer_each_time() -> None:
    breaker = Breaker("here")
    breaker.check(0)
    breaker.failed(0, "no")
    waits = []
    now = 0
    for _ in range(5):
        with pytest.raises(StoreError, match=r"^here: held off after: no$"):
            breaker.check(now)
        assert breaker.state(now) == "open"
        start = now
        while breaker.state(now) == "open":
            now += 50_000_000
        assert breaker.state(now) == "half-open"
        breaker.check(now)  # this one may
        with pytest.raises(StoreError):
            breaker.check(now)  # the next may not
        waits.append((now - start) // 1_000_000)
        breaker.failed(now, "no")
    assert waits == [250, 500, 1_000, 1_000, 1_000]
    breaker.succeeded()
    assert breaker.state(now) == "closed"
    breaker.failed(now, "again")
    assert breaker.state(now + 250_000_000) == "half-open"


# Keys and lives.


def test_a_quote_is_set_for_its_life_and_published_when_it_changed(
    store: Store, one: RealServer, symbols: SymbolTable
) -> None:
    rows = quotes(symbols, "AAPL", "BRK.B")
    with one.client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe("quotes:AAPL")
        heard.get_message(timeout=1)
        assert done(write(store, symbols, rows)) == [[True, True], []]
        assert done(write(store, symbols, rows, changed=False)) == [[True, True], []]
        rows["bid_px"] += 10_000_000
        write(store, symbols, rows)
        messages = [heard.get_message(timeout=1), heard.get_message(timeout=1), heard.get_message(timeout=0.05)]
    assert [json.loads(m["data"])["bid"] for m in messages if m] == [185.5, 185.51]
    assert one.client.get("quote:AAPL") == naive_redis.quote_json(rows[0]).encode()
    assert 0 < one.client.pttl("quote:BRK.B") <= 60_000
    assert store.quote("AAPL") == {
        "bid": 185.51,
        "ask": None,
        "last": None,
        "ts": 1704567890.123,
        "bid_size": 100,
        "ask_size": None,
        "bid_venue": None,
        "ask_venue": None,
        "state": "live",
    }
    assert store.quote("MSFT") is None


def test_candles_live_for_their_interval(store: Store, one: RealServer, symbols: SymbolTable) -> None:
    candles = np.concatenate([bars(symbols, "AAPL"), bars(symbols, "AAPL", kind=KIND_BAR_5M)])
    assert done(write(store, symbols, quotes(symbols), candles)) == [[], [True, True]]
    assert store.candle("AAPL", "1m") == {
        "open": 10.0,
        "high": 10.0,
        "low": 10.0,
        "close": 10.0,
        "volume": 5,
        "start": 1704567840,
    }
    assert 59_000 < one.client.pttl("candle:AAPL:1m") <= 60_000
    assert 299_000 < one.client.pttl("candle:AAPL:5m") <= 300_000
    assert store.candle("AAPL", "1h") is None


def test_more_than_one_pipeline(store: Store, one: RealServer, symbols: SymbolTable) -> None:
    names = [f"S{i}" for i in range(3_000)]
    assert write(store, symbols, quotes(symbols, *names)).quotes.all()
    assert one.client.dbsize() == 3_000
    info = store.server_info()
    assert (info.keys, info.version) == (3_000, probe(one.url).version)


def test_an_empty_batch_is_no_trouble(store: Store, symbols: SymbolTable) -> None:
    written = write(store, symbols, quotes(symbols))
    assert (done(written), written.problem, written.emptied) == ([[], []], "", False)


@pytest.mark.parametrize("value", ["{", "[1]", "\xff"])
def test_a_value_that_is_not_ours_is_a_store_error(store: Store, one: RealServer, value: str) -> None:
    one.client.set("quote:AAPL", value)
    with pytest.raises(StoreError, match="quote:AAPL"):
        store.quote("AAPL")


def test_a_password_is_used_and_not_shown(one: RealServer, symbols: SymbolTable, clock: ManualClock) -> None:
    one.client.config_set("requirepass", "hush")
    with pytest.raises(StoreError) as caught:
        probe(one.url.replace("//", "//:wrong@"))
    assert str(caught.value).startswith(f"127.0.0.1:{one.port}/0: ")
    assert "wrong@" not in str(caught.value)
    store = Store(settings("server", (one.url.replace("//", "//:hush@"),)), clock)
    assert done(write(store, symbols, quotes(symbols, "AAPL"))) == [[True], []]
    store.close()


# Trouble.


def test_a_server_that_is_gone_costs_one_refusal_and_comes_back_empty(
    store: Store, one: RealServer, symbols: SymbolTable, clock: ManualClock
) -> None:
    rows, candles = quotes(symbols, "AAPL"), bars(symbols, "AAPL")
    assert write(store, symbols, rows, candles).problem == ""
    one.kill()
    assert "close" in write(store, symbols, rows, candles).problem or store.state() == "open"
    held_off = write(store, symbols, rows, candles)
    assert "held off" in held_off.problem
    assert done(held_off) == [[False], [False]]
    with pytest.raises(StoreError, match="held off"):
        store.quote("AAPL")
    with pytest.raises(StoreError):
        store.server_info()
    one.start()
    clock.advance(SECOND_NS)
    assert store.state() == "half-open"
    written = write(store, symbols, rows)
    assert (done(written), written.emptied, store.state()) == ([[True], []], True, "closed")
    assert store.quote("AAPL") is not None


def test_a_hanging_server_is_waited_for_once(
    store: Store, one: RealServer, symbols: SymbolTable, clock: ManualClock
) -> None:
    rows = quotes(symbols, "AAPL")
    write(store, symbols, rows)
    one.signal(signal.SIGSTOP)
    assert "timed out" in write(store, symbols, rows).problem.lower()
    for _ in range(100):  # 25 s, if any of them waited
        assert "held off" in write(store, symbols, rows).problem
    one.signal(signal.SIGCONT)
    clock.advance(SECOND_NS)
    assert done(write(store, symbols, rows)) == [[True], []]


def test_a_read_of_a_hanging_server_is_a_store_error(store: Store, one: RealServer) -> None:
    one.signal(signal.SIGSTOP)
    with pytest.raises(StoreError):
        store.quote("AAPL")
    with pytest.raises(StoreError, match="held off"):
        store.quote("AAPL")
    one.signal(signal.SIGCONT)


def test_reconnecting_forever_uses_no_connection_up(
    store: Store, one: RealServer, symbols: SymbolTable, clock: ManualClock
) -> None:
    rows = quotes(symbols, "AAPL")
    for _ in range(150):  # redis-py's pool would refuse the 101st
        one.client.client_kill_filter(_type="normal", skipme=True)
        write(store, symbols, rows)
        clock.advance(SECOND_NS)
    assert done(write(store, symbols, rows)) == [[True], []]


def test_a_full_server_refuses_writes_and_answers_reads(symbols: SymbolTable, clock: ManualClock) -> None:
    with server("--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as made:
        store = Store(settings("server", (made.url,)), clock)
        write(store, symbols, quotes(symbols, "AAPL"))
        made.client.config_set("maxmemory", "1")
        refused = write(store, symbols, quotes(symbols, "AAPL", "B"))
        assert "OOM" in refused.problem
        assert done(refused) == [[False, False], []]
        assert store.quote("AAPL") is not None
        assert store.state() == "closed"
        made.client.config_set("maxmemory", "3mb")
        assert done(write(store, symbols, quotes(symbols, "AAPL", "B"))) == [[True, True], []]
        store.close()


def test_a_flush_is_noticed_at_the_next_write(store: Store, one: RealServer, symbols: SymbolTable) -> None:
    write(store, symbols, quotes(symbols, "AAPL"), bars(symbols, "AAPL", "B"))
    assert not write(store, symbols, quotes(symbols, "AAPL")).emptied
    one.client.flushall()
    assert write(store, symbols, quotes(symbols, "AAPL")).emptied
    assert not write(store, symbols, quotes(symbols, "AAPL")).emptied


def test_a_candle_that_expires_is_no_flush(
    store: Store, one: RealServer, symbols: SymbolTable, clock: ManualClock
) -> None:
    write(store, symbols, quotes(symbols), bars(symbols, "AAPL"))
    one.client.delete("candle:AAPL:1m")
    clock.advance(59 * SECOND_NS)
    assert not write(store, symbols, quotes(symbols)).emptied


# Servers by first letter.


def test_symbols_are_shared_out_by_first_letter(symbols: SymbolTable, clock: ManualClock) -> None:
    letters = ("ABCDEFGH", "IJKLMNOP", "QRSTUVWXYZ0123456789")
    with ExitStack() as stack:
        servers = [stack.enter_context(server()) for _ in letters]
        store = Store(settings("shards", tuple(s.url for s in servers), letters), clock)
        stack.callback(store.close)
        names = ("AAPL", "HPQ", "IBM", "PFE", "Q", "ZM", "9X")
        assert write(store, symbols, quotes(symbols, *names), bars(symbols, *names)).problem == ""
        keys = [sorted(key.decode() for key in s.client.keys("quote:*")) for s in servers]
        assert keys == [["quote:AAPL", "quote:HPQ"], ["quote:IBM", "quote:PFE"], ["quote:9X", "quote:Q", "quote:ZM"]]
        assert all(store.quote(name) and store.candle(name, "1m") for name in names)
        assert store.server_info().keys == 14
        servers[1].kill()
        written = write(store, symbols, quotes(symbols, *names))
        assert written.quotes.tolist() == [True, True, False, False, True, True, True]
        assert str(servers[1].port) in written.problem
        assert store.state() == "open (1 of 3)"
        assert store.quote("AAPL") is not None
        assert store.server_info().keys == 10
        with pytest.raises(StoreError):
            store.quote("IBM")


# A cluster.


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[RealServer]]:
    with cluster(tmp_path) as servers:
        yield servers


def test_a_cluster(three: list[RealServer], symbols: SymbolTable, clock: ManualClock) -> None:
    store = Store(settings("cluster", ("redis://127.0.0.1:1", three[0].url)), clock)
    names = [f"S{i}" for i in range(300)]
    rows, candles = quotes(symbols, *names), bars(symbols, *names)
    written = write(store, symbols, rows, candles)
    assert (written.problem, written.quotes.all(), written.bars.all()) == ("", True, True)
    assert all(s.client.dbsize() > 100 for s in three)
    assert store.server_info().keys == 600
    assert store.quote("S7") is not None
    assert store.candle("S299", "1m") is not None

    # A slot moves: first half way (ASK), then for good (MOVED). Nobody notices.
    key = "quote:S7"
    source = three[key_slot(key.encode()) * 3 // 16_384]
    target = next(s for s in three if s is not source)
    slot, ids = key_slot(key.encode()), {s.port: s.client.execute_command("CLUSTER MYID") for s in three}
    target.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[source.port])
    source.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[target.port])
    source.client.delete(key)
    rows["bid_px"] = 1_000_000_000
    assert done(write(store, symbols, rows))[0] == [True] * 300
    assert target.client.execute_command("CLUSTER COUNTKEYSINSLOT", slot) == 1
    assert store.quote("S7") == json.loads(naive_redis.quote_json(rows[7]))
    for made in (target, source):
        for left in source.client.execute_command("CLUSTER GETKEYSINSLOT", slot, 10):
            source.client.delete(left)
        made.client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[target.port])
    rows["bid_px"] = 2_000_000_000
    for _ in range(2):  # by redirection, then by the new map
        assert done(write(store, symbols, rows))[0] == [True] * 300
    assert json.loads(target.client.get(key))["bid"] == 2.0

    # A master is lost: the others go on; it returns, and all is well again.
    lost = next(s for s in three if s is not source and s is not target)
    lost.kill()
    first = write(store, symbols, rows)
    assert str(lost.port) in first.problem
    assert 100 < first.quotes.sum() < 300
    assert store.state() == "open (1 of 3)"
    lost.start()

    def written_again() -> bool:
        clock.advance(SECOND_NS)
        return bool(write(store, symbols, rows).quotes.all())

    wait_for(written_again, 15.0)
    assert store.state() == "closed"
    store.close()


def test_a_cluster_that_is_away_is_a_store_error(symbols: SymbolTable, clock: ManualClock) -> None:
    store = Store(settings("cluster", ("redis://127.0.0.1:1", "redis://127.0.0.1:2")), clock)
    written = write(store, symbols, quotes(symbols, "AAPL"))
    assert "127.0.0.1:1, 127.0.0.1:2" in written.problem
    assert done(written) == [[False], []]
    with pytest.raises(StoreError, match="held off"):
        store.quote("AAPL")
    assert store.state() == "open"
    store.close()
