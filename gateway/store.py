"""The cache: latest quotes and candles in Redis. The only module that knows Redis: keys, commands, errors.

| key | value | life |
|---|---|---|
| ``quote:AAPL`` | ``{"bid","ask","last","ts",...}`` | `CacheSettings.quote_ttl_ms` |
| ``candle:AAPL:1m`` | ``{"open","high","low","close","volume","start"}`` | the interval |

A changed quote is published on ``quotes:AAPL`` too. No command names keys of two symbols, so that one server,
servers by first letter and a Redis Cluster are written in the same way: every key belongs to a slot, every slot to
a link, and each link gets whole pipelines of bytes that compiled code made.

redis-py's own answers to trouble (ten retries, five seconds) would stall a writer for a minute: here every
command has 0.25 s and no second try, a breaker keeps others from waiting for a server that is away, and after an
error the client is thrown away and made anew (redis/redis-py#3929, #3111: clients that never came back).
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.connection import ConnectionPool
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from fabric.clock import MILLISECOND_NS, SECOND_NS, Clock, SystemClock
from fabric.errors import StoreError
from fabric.records import KIND_BAR_1M, Rows
from fabric.symbols import SymbolTable
from fabric.topology import FIRST_LETTERS, CacheSettings
from gateway import redis_kernel

TIMEOUT_S = 0.25
CHUNK = 1_024
"""Rows in one pipeline: their replies (under 10 kB) fit any socket buffer while nobody reads them."""
INTERVALS = ("1m", "5m", "1h", "1d")
_OPTIONS: dict[str, Any] = {
    "socket_timeout": TIMEOUT_S,
    "socket_connect_timeout": TIMEOUT_S,
    "retry": Retry(NoBackoff(), 0),
    "protocol": 2,  # replies of one line each: see `_Link.exchange`
    "client_name": "fabric",
}
_ERRORS = (redis.RedisError, RedisClusterException, OSError)  # the second is no RedisError

JsonObject = dict[str, Any]


class Breaker:
    """Keeps callers from waiting for a server that is away.

    A failure opens it: `check` raises at once. After a wait, doubled by each further failure up to a
    second, it is half open: one caller may try, the others are refused until that one has `succeeded`.
    """

    WAIT_NS = 250 * MILLISECOND_NS
    WAIT_MAX_NS = SECOND_NS

    def __init__(self, name: str) -> None:
        """``name`` is what messages call the server."""
        self.name = name
        self.reason = ""
        self._wait_ns = 0  # 0: closed
        self._retry_ns = 0

    def state(self, now_ns: int) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if not self._wait_ns:
            return "closed"
        return "open" if now_ns < self._retry_ns else "half-open"

    def check(self, now_ns: int) -> None:
        """Raise StoreError while it is open; when half open, let this caller through and hold off all others."""
        if self._wait_ns:
            if now_ns < self._retry_ns:
                raise StoreError(f"{self.name}: held off after: {self.reason}")
            self._retry_ns = now_ns + self._wait_ns

    def succeeded(self) -> None:
        """The server has answered."""
        self._wait_ns = 0

    def failed(self, now_ns: int, reason: str) -> None:
        """The server did not answer."""
        self._wait_ns = min(max(2 * self._wait_ns, self.WAIT_NS), self.WAIT_MAX_NS)
        self._retry_ns = now_ns + self._wait_ns
        self.reason = reason


@dataclass(frozen=True)
class Written:
    """What became of a batch. ``quotes`` and ``bars``: for each row whether it is in the cache now."""

    quotes: npt.NDArray[np.bool_]
    bars: npt.NDArray[np.bool_]
    emptied: bool = False  # a server has lost what was written before: it was flushed, or started empty
    problem: str = ""  # the last one, where there was any


@dataclass(frozen=True)
class ServerInfo:
    """All servers together, for people."""

    version: str  # valkey 9.1.2
    keys: int
    memory_bytes: int
    memory_max_bytes: int  # 0: no bound
    process: int  # id of the (first) server's process


class Store:
    """The cache of one topology. Writing is for one thread; reading for any number at once."""

    def __init__(self, settings: CacheSettings, clock: Clock | None = None) -> None:
        """Connects at first use; ``clock`` times the breakers."""
        assert settings.servers, f"cache mode {settings.mode!r} has no server"
        self._clock = clock or SystemClock()
        self._ttl_ms = settings.quote_ttl_ms
        kind = _Cluster if settings.mode == "cluster" else _Servers
        self._servers = kind(settings, self._clock)
        self._slots: npt.NDArray[np.int64] = np.full((1 + len(INTERVALS), 0), -1, np.int64)
        self._commands = np.empty(CHUNK * redis_kernel.COMMANDS_BYTES, np.uint8)
        self._value = np.empty(redis_kernel.COMMANDS_BYTES, np.uint8)

    def write(self, symbols: SymbolTable, quotes: Rows, changed: npt.NDArray[np.bool_], bars: Rows) -> Written:
        """Set NBBO rows (and publish those that ``changed``) and BAR rows. Never raises for what a server does."""
        quotes_done, bars_done = np.zeros(quotes.size, np.bool_), np.zeros(bars.size, np.bool_)
        try:
            links = self._servers.links()
        except StoreError as error:
            return Written(quotes_done, bars_done, problem=str(error))
        names, lengths = symbols.arrays.names, symbols.arrays.lengths
        quote_links = self._route(symbols, quotes["symbol"], np.zeros(quotes.size, np.int64))
        bar_links = self._route(symbols, bars["symbol"], bars["kind"] - KIND_BAR_1M + 1)
        emptied, problem = False, ""

        def encode_quotes(rows: npt.NDArray[np.intp]) -> tuple[int, int]:
            return redis_kernel.encode_quotes(
                quotes[rows], changed[rows], names, lengths, self._ttl_ms, self._commands, self._value
            )

        def encode_bars(rows: npt.NDArray[np.intp]) -> tuple[int, int]:
            return redis_kernel.encode_candles(bars[rows], names, lengths, self._commands, self._value)

        if (quote_links < 0).any() or (bar_links < 0).any():
            problem = "some slots of the cluster have no server"
        for index, link in enumerate(links):
            own_bars = np.flatnonzero(bar_links == index)
            try:
                link.breaker.check(self._clock.monotonic_ns())
                emptied |= link.is_emptied()
                self._send(link, np.flatnonzero(quote_links == index), encode_quotes, quotes_done)
                self._send(link, own_bars, encode_bars, bars_done)
            except StoreError as error:
                problem = str(error)
            if own_bars.size and bars_done[own_bars[-1]]:
                last = bars[own_bars[-1]]
                interval = int(last["kind"]) - KIND_BAR_1M
                key = candle_key(symbols.name(int(last["symbol"])), INTERVALS[interval])
                link.remember(key, int(redis_kernel.INTERVAL_NS[interval]))
        return Written(quotes_done, bars_done, emptied, problem)

    def quote(self, symbol: str) -> JsonObject | None:
        """The value of ``quote:<symbol>``; None when there is none. Raises StoreError."""
        return self._read(quote_key(symbol), symbol)

    def candle(self, symbol: str, interval: str) -> JsonObject | None:
        """The value of ``candle:<symbol>:<interval>``; None when there is none. Raises StoreError."""
        return self._read(candle_key(symbol, interval), symbol)

    def server_info(self) -> ServerInfo:
        """Ask every server that is not held off; raises StoreError when none answers."""
        return self._servers.info()

    def state(self) -> str:
        """Of the breakers: ``closed``, or the worst state and how many servers of all are in one."""
        now_ns = self._clock.monotonic_ns()
        states = [breaker.state(now_ns) for breaker in self._servers.breakers()]
        away = [state for state in states if state != "closed"]
        if not away:
            return "closed"
        worst = "open" if "open" in away else "half-open"
        return worst if len(states) == 1 else f"{worst} ({len(away)} of {len(states)})"

    def close(self) -> None:
        """Close every connection."""
        self._servers.close()

    def _read(self, key: str, symbol: str) -> JsonObject | None:
        raw = self._servers.get(key, symbol)
        if raw is None:
            return None
        try:
            value = json.loads(raw)
        except ValueError as error:
            raise StoreError(f"{key}: not JSON: {raw[:80]!r}") from error
        if not isinstance(value, dict):
            raise StoreError(f"{key}: expected a JSON object, found {raw[:80]!r}")
        return value

    def _route(
        self, symbols: SymbolTable, ids: npt.NDArray[np.int64], kinds: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """The index of each key's link, -1 for none. ``kinds``: 0 a quote, 1 to 3 a candle of each interval."""
        if self._slots.shape[1] < symbols.capacity:
            self._slots = np.full((1 + len(INTERVALS), symbols.capacity), -1, np.int64)
        for i in np.flatnonzero(self._slots[kinds, ids] < 0):
            name, kind = symbols.name(int(ids[i])), int(kinds[i])
            key = quote_key(name) if kind == 0 else candle_key(name, INTERVALS[kind - 1])
            self._slots[kind, ids[i]] = self._servers.slot(key, name)
        return self._servers.owners[self._slots[kinds, ids]]

    def _send(
        self,
        link: "_Link",
        rows: npt.NDArray[np.intp],
        encode: Callable[[npt.NDArray[np.intp]], tuple[int, int]],
        done: npt.NDArray[np.bool_],
    ) -> None:
        """Send the rows' commands by chunks, marking in ``done`` what was written; raises StoreError."""
        for start in range(0, rows.size, CHUNK):
            chunk = rows[start : start + CHUNK]
            used, count = encode(chunk)
            for command, error in link.exchange(self._commands[:used].tobytes(), count):
                self._servers.redirect(command, error)
            done[chunk] = True


def quote_key(symbol: str) -> str:
    """``quote:AAPL``"""
    return f"quote:{symbol}"


def candle_key(symbol: str, interval: str) -> str:
    """``candle:AAPL:1m``"""
    return f"candle:{symbol}:{interval}"


class _Link:
    """One connection for pipelines to one server, made when it is needed and dropped at the first error."""

    def __init__(self, name: str, pool: ConnectionPool, clock: Clock) -> None:
        self.breaker = Breaker(name)
        self.pool = pool  # for its settings only: connections made by it would count against its maximum for ever
        self._clock = clock
        self._connection: Any = None
        self._probe = b""  # the key of a candle that must be there until `_probe_until_ns`
        self._probe_until_ns = 0

    def exchange(self, commands: bytes, count: int) -> list[tuple[list[bytes], str]]:
        """Send ``count`` commands whose replies have one line each; return those refused, with the server's words.

        redis-py would parse each reply for several microseconds; all that is asked of them is whether one
        begins with a minus. Raises StoreError when the server does not answer in time.
        """
        replies = self._replies(commands, count)
        if b"\n-" not in replies and not replies.startswith(b"-"):
            return []
        pairs = zip(_parse(commands), replies.split(b"\r\n"), strict=False)
        return [(command, reply[1:].decode("utf-8", "replace")) for command, reply in pairs if reply.startswith(b"-")]

    def is_emptied(self) -> bool:
        """Whether a key is gone that was written a while ago and must still live. Raises StoreError."""
        if self._clock.monotonic_ns() >= self._probe_until_ns:
            return False
        exists = self._replies(b"*2\r\n$6\r\nEXISTS\r\n$%d\r\n%b\r\n" % (len(self._probe), self._probe), 1)
        if exists == b":1\r\n":
            return False
        self._probe_until_ns = 0
        return exists == b":0\r\n"

    def remember(self, key: str, life_ns: int) -> None:
        """Note a key that was written and lives for so long."""
        self._probe = key.encode()
        self._probe_until_ns = self._clock.monotonic_ns() + life_ns - SECOND_NS  # well before it expires by itself

    def close(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _replies(self, commands: bytes, count: int) -> bytes:
        try:
            if self._connection is None:
                self._connection = self.pool.connection_class(**self.pool.connection_kwargs)
                self._connection.connect()
            self._connection.send_packed_command([commands], check_health=False)
            replies = _lines(self._connection._sock, count)
        except _ERRORS as error:
            self.close()
            self.breaker.failed(self._clock.monotonic_ns(), _words(error))
            raise StoreError(f"{self.breaker.name}: {_words(error)}") from error
        self.breaker.succeeded()
        return replies


class _Servers:
    """One server, or several that share the symbols by first letter: a slot is the first letter's code."""

    def __init__(self, settings: CacheSettings, clock: Clock) -> None:
        self._clock = clock
        self._links: list[_Link] = []
        self._clients: list[redis.Redis] = []
        for url in settings.servers:
            client = redis.Redis.from_url(url, **_OPTIONS)
            self._clients.append(client)
            self._links.append(_Link(_name(url), client.connection_pool, clock))
        self.owners = np.zeros(256, np.int64)
        for index, letters in enumerate(settings.shards):
            self.owners[[ord(letter) for letter in letters or FIRST_LETTERS]] = index

    def links(self) -> list[_Link]:
        return self._links

    def breakers(self) -> list[Breaker]:
        return [link.breaker for link in self._links]

    def slot(self, key: str, name: str) -> int:
        return ord(name[0]) & 0xFF

    def redirect(self, command: list[bytes], error: str) -> None:
        raise StoreError(f"{command[0].decode()} {command[1].decode()} was refused: {error}")

    def get(self, key: str, name: str) -> bytes | None:
        index = int(self.owners[self.slot(key, name)])
        found: bytes | None = self._call(self._links[index].breaker, lambda: self._clients[index].get(key))
        return found

    def info(self) -> ServerInfo:
        return self._merged([(link.breaker, c) for link, c in zip(self._links, self._clients, strict=True)])

    def close(self) -> None:
        for link, client in zip(self._links, self._clients, strict=True):
            link.close()
            client.close()

    def _call(self, breaker: Breaker, call: Callable[[], Any]) -> Any:
        """Call, unless the breaker is open; raises StoreError."""
        breaker.check(self._clock.monotonic_ns())
        try:
            result = call()
        except _ERRORS as error:
            breaker.failed(self._clock.monotonic_ns(), _words(error))
            raise StoreError(f"{breaker.name}: {_words(error)}") from error
        breaker.succeeded()
        return result

    def _merged(self, servers: Sequence[tuple[Breaker, Any]]) -> ServerInfo:
        """The servers' words as one; raises StoreError when none has any."""
        found: list[ServerInfo] = []
        problem = StoreError("there is no server")
        for breaker, client in servers:
            try:
                found.append(self._call(breaker, partial(_info, client)))
            except StoreError as error:
                problem = error
        if not found:
            raise problem
        return ServerInfo(
            version=", ".join(dict.fromkeys(info.version for info in found)),
            keys=sum(info.keys for info in found),
            memory_bytes=sum(info.memory_bytes for info in found),
            memory_max_bytes=sum(info.memory_max_bytes for info in found),
            process=found[0].process,
        )


class _Cluster(_Servers):
    """A Redis Cluster. redis-py learns the map of slots and follows MOVED and ASK; pipelines go by that map."""

    def __init__(self, settings: CacheSettings, clock: Clock) -> None:
        self._clock = clock
        self._urls = settings.servers
        self._breaker = Breaker(", ".join(map(_name, settings.servers)))
        self._client: Any = None  # RedisCluster; most of it has no types
        self._mapped = False  # whether `owners` and the links are those of the client's map
        self._masters: dict[str, _Link] = {}
        self._lock = threading.Lock()
        self.owners = np.full(REDIS_CLUSTER_HASH_SLOTS, -1, np.int64)

    def links(self) -> list[_Link]:
        """Those of the masters. The map is learnt anew after a redirection, and before a lost one is tried again."""
        now_ns = self._clock.monotonic_ns()
        if any(link.breaker.state(now_ns) == "half-open" for link in self._masters.values()):
            self._forget()
        client = self._connected()
        if not self._mapped:
            self._mapped = True
            nodes = {node.name: client.get_redis_connection(node).connection_pool for node in client.get_primaries()}
            for name in self._masters.keys() - nodes.keys():
                self._masters.pop(name).close()
            for name, pool in nodes.items():
                self._masters.setdefault(name, _Link(name, pool, self._clock)).pool = pool
            index = {name: i for i, name in enumerate(self._masters)}
            self.owners[:] = -1
            for slot, holders in client.nodes_manager.slots_cache.items():
                self.owners[slot] = index.get(holders[0].name, -1)
        return list(self._masters.values())

    def breakers(self) -> list[Breaker]:
        return [link.breaker for link in self._masters.values()] or [self._breaker]

    def slot(self, key: str, name: str) -> int:
        return int(key_slot(key.encode()))

    def redirect(self, command: list[bytes], error: str) -> None:
        """Let redis-py follow MOVED and ASK; any other refusal is a StoreError."""
        if not error.startswith(("MOVED ", "ASK ", "TRYAGAIN ")):
            super().redirect(command, error)
        client = self._connected()
        self._call(self._breaker, lambda: client.execute_command(command[0].decode(), *command[1:]))
        self._mapped &= not error.startswith("MOVED ")

    def get(self, key: str, name: str) -> bytes | None:
        client = self._connected()
        try:
            found: bytes | None = self._call(self._breaker, lambda: client.get(key))
        except StoreError:
            self._forget()
            raise
        return found

    def info(self) -> ServerInfo:
        client = self._connected()
        return self._merged([(Breaker(n.name), client.get_redis_connection(n)) for n in client.get_primaries()])

    def close(self) -> None:
        for link in self._masters.values():
            link.close()
        self._forget()

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._call(self._breaker, self._connect)
                self._mapped = False
            return self._client

    def _connect(self) -> Any:
        """By the first address that answers."""
        for url in self._urls[:-1]:
            try:
                return RedisCluster.from_url(url, require_full_coverage=False, **_OPTIONS)
            except _ERRORS:
                continue
        return RedisCluster.from_url(self._urls[-1], require_full_coverage=False, **_OPTIONS)

    def _forget(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None


def probe(url: str) -> ServerInfo:
    """Ask one server, without a breaker: is it there? Raises StoreError."""
    client = redis.Redis.from_url(url, **_OPTIONS)
    try:
        client.ping()
        return _info(client)
    except _ERRORS as error:
        raise StoreError(f"{_name(url)}: {_words(error)}") from error
    finally:
        client.close()


def _info(client: Any) -> ServerInfo:
    info, memory = client.info("server"), client.info("memory")
    name = info.get("server_name", "redis")
    return ServerInfo(
        version=f"{name} {info.get(f'{name}_version', info['redis_version'])}",
        keys=int(client.dbsize()),
        memory_bytes=int(memory["used_memory"]),
        memory_max_bytes=int(memory["maxmemory"]),
        process=int(info["process_id"]),
    )


def _lines(sock: Any, count: int) -> bytes:
    """Receive ``count`` lines, within the time-out of the socket for all of them."""
    received = bytearray()
    deadline = time.monotonic() + TIMEOUT_S
    while (missing := count - received.count(b"\n")) > 0:
        data = sock.recv(1 << 16)
        if not data:
            raise ConnectionError(f"the server closed the connection, {missing} replies short")
        received += data
        if time.monotonic() > deadline and received.count(b"\n") < count:
            raise TimeoutError(f"{missing} replies are missing after {TIMEOUT_S} s")
    return bytes(received)


def _parse(commands: bytes) -> Iterator[list[bytes]]:
    """The commands of a pipeline, as lists of their arguments."""
    at = 0
    while at < len(commands):
        end = commands.index(b"\r\n", at)
        parts = []
        for _ in range(int(commands[at + 1 : end])):
            start = end + 2
            end = commands.index(b"\r\n", start)
            length = int(commands[start + 1 : end])
            parts.append(commands[end + 2 : end + 2 + length])
            end += 2 + length
        yield parts
        at = end + 2


def _name(url: str) -> str:
    """Address without scheme, user and password."""
    return url.partition("://")[2].rpartition("@")[2]


def _words(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
