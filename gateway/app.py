"""The gateway: values come in from the bus, clients are served over HTTP and WebSocket. One thread, one loop.

The loop's own coroutine is the pump: every `TURN_NS` it lets the fan-out write to whoever is due, and before that, each
time where a client wants every tick and each second time else, it takes what the bus has brought and updates the memory
and the fan-out. That adds at most `TURN_NS` or `LOOK_NS` to a value's way and needs no further thread, no lock and no
wake-up for each message; a batch costs about as much as one.

On SIGTERM it drains: not ready, then no longer listening, then every client is told to come back (1012).
"""

import asyncio
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tornado import httputil
from tornado.httpserver import HTTPServer
from tornado.web import Application, HTTPError, RequestHandler

from fabric import environment
from fabric.clock import SECOND_NS, next_beat
from fabric.control import RunFolder
from fabric.history import History, open_history
from fabric.node import Runtime
from fabric.records import KIND_GAP, Rows
from fabric.topology import HISTORY_NODE, GatewaySettings, NodeSpec, Topology
from gateway import alpaca, candles, fanout_kernel, health, latest_kernel, meta, protocol_kernel, rest, websocket
from gateway.accepting import ACCEPTS_PER_S, Acceptor
from gateway.assets import YEAR_S, Page
from gateway.auth import Door
from gateway.candles import HistoryReader
from gateway.connection import Connections
from gateway.delayed import Delayed
from gateway.fanout import Fanout
from gateway.health import Health
from gateway.latest import Latest
from gateway.listening import Listening, listen, listen_shared
from gateway.operators import Launcher, MergedMetricsHandler, OperationsHandler
from gateway.quick import Routes
from gateway.rest import Answering, Service, StoreReader, SymbolIndex
from gateway.resume import Resumer
from gateway.shared import Shared
from gateway.store import Store
from gateway.watchdog import Watchdog

TURN_NS = SECOND_NS // 100
"""Between two flushes; and two looks at the bus, while a client wants every tick."""
LOOK_NS = 2 * TURN_NS
"""Between two looks at the bus while none does: each costs as much as fifty frames."""
BATCHES_PER_TURN = 4
"""A turn takes no more than this many batches, so that clients are served however much waits on the bus."""
BODY_MAX = 64 << 10
HEADER_MAX = 8 << 10
IDLE_S = 10.0
"""A connection that has sent no whole request for so long is cut."""
LAME_NS = SECOND_NS // 4
"""From not ready to no longer listening: a balancer's chance to see it."""
FAREWELL_NS = SECOND_NS // 2
"""Before the launcher's patience ends: what closing the last connections may take."""
NEVER_NS = 2**63 - 1
READ_SOURCES = ("memory", "redis", "history", "stale", "missed")
_REPORTED = {
    "frames": "frames",
    "updates": "updates",
    "bytes": "bytes_out",
    "replaced": "conflated",
    "missed": "stream_missed",
    "clients_refused": "clients_refused",
    "slow_cut": "clients_cut",
    "degraded": "degraded",
    "surges": "surges",
}
"""Counters of the fan-out -> their names in a gateway's report."""
_BOOKS = (*fanout_kernel.BOOKS, "replaced", "missed", "pending")
"""Those that stand there as ``books_<name>``, of all its clients, for `fabric journal audit`."""
PAGE = Path(__file__).parent / "page"
SERVICE_RESTART = 1012
Rule = tuple[Any, ...]


class Clients(Protocol):
    """What the pump asks of the fan-out."""

    def apply(self, batch: Rows) -> None: ...
    def flush(self, now_ns: int) -> bool: ...
    def time_since(self, since_ns: int) -> None: ...
    def in_haste(self) -> bool: ...
    def close_all(self, code: int, reason: str) -> None: ...
    def counters(self) -> Mapping[str, int]: ...


class PageHandler(Answering):
    """The web page's plain files, revalidated by ETag, under a policy that lets nothing else run."""

    def initialize(self, page: Page) -> None:
        self._page = page

    def head(self, name: str) -> None:
        self.get(name)

    def get(self, name: str) -> None:
        asset = self._page.find(name or "index.html")
        if asset is None:
            raise HTTPError(404)
        self.set_header("Content-Type", asset.type)
        self.set_header("Cache-Control", f"public, max-age={YEAR_S}, immutable" if asset.versioned else "no-cache")
        self.set_header("Content-Security-Policy", rest.PAGE_POLICY)
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")
        self.set_header("Vary", "Accept-Encoding")
        self.set_header("ETag", asset.tag)
        if self.check_etag_header():
            self.set_status(304)
        elif "gzip" in self.request.headers.get("Accept-Encoding", ""):
            self.set_header("Content-Encoding", "gzip")
            self.write(asset.packed)
        else:
            self.write(asset.plain)
        self.finish()


class Gateway:
    """One gateway process: its parts, and the pump that drives them."""

    def __init__(
        self,
        runtime: Runtime,
        latest: Latest,
        clients: Clients,
        store: rest.Store | None,
        door: Door,
        delayed: Mapping[int, Delayed] | None = None,
        connections: Connections | None = None,
        history: History | None = None,
        fanout: Fanout | None = None,
    ) -> None:
        """``store``: where values are looked for that memory has not; None without a cache. ``delayed``: by their
        delay, the markets of those whose plan has one. ``connections``: the live WebSockets. ``history``: where candles
        are that memory has no longer. ``fanout``: whose clients may go on where they left off.
        """
        self._runtime = runtime
        self._clock = runtime.clock
        self._latest = latest
        self._clients = clients
        self._inbox = runtime.inbox()
        self._resumer: Resumer | None = None
        if fanout is not None:
            self._resumer = fanout.resumer = Resumer(
                fanout, runtime.log_reader(), self._inbox.positions, runtime.spec.reads, runtime.symbols,
                runtime.topology.limits, self._clock,
            )  # fmt: skip
        self._store = None if store is None else StoreReader(store, runtime.topology.limits.stale_after_ns)
        self._door = door
        self._delayed = delayed or {}
        self._connections = Connections() if connections is None else connections
        self._service = Service(
            runtime.topology, runtime.spec, self._clock, latest, SymbolIndex(latest), self._store, door,
            {delay_ns: market.latest for delay_ns, market in self._delayed.items()},
            history=None if history is None else HistoryReader(history),
        )  # fmt: skip
        self._look_ns = 0  # when the bus is looked at next
        limits, links = runtime.topology.limits, max(1, len(runtime.spec.reads))
        self._share = limits.batch_max // links  # rows of one link in a batch: with fewer than that none has more
        self._launcher = Launcher(runtime.topology.run_folder, self._clock)
        self._watchdog = Watchdog(runtime.log)
        self._acceptor: Acceptor | None = None
        self.health = Health([source.publisher.name for source in runtime.spec.reads], self._clock.monotonic_ns())

    def application(self, websockets: Sequence[Rule]) -> Application:
        """Every route: the data, health and metrics, the page, and the WebSocket's own."""
        service = {"service": self._service}
        live = service | {"judge": lambda: self.health.live(self._clock.monotonic_ns())}
        ready = service | {"judge": self._judge_ready}
        parts = {
            "inbox": self._inbox.counters,
            "latest": self._latest.counters,
            "fanout": self._clients.counters,
            "rest": self._rest_counters,
            "candles": lambda: candles.counters(self._service),
            "access": self._door.counters,
            "connections": self._connection_counters,
        }
        if self._resumer is not None:
            parts["resume"] = self._resumer.counters
        if self._delayed:
            parts["delayed"] = self._delayed_counters
        labelled = {
            ("bad_frames", "reason"): self._inbox.bad_frames,
            ("http_requests", "status"): self._requests,
            ("reads", "answer"): lambda: self._service.reads,
        }
        metrics = service | {"registry": health.registry(parts, labelled)}
        operators = service | {"launcher": self._launcher}
        page = {"page": Page(PAGE)}
        return Routes(
            [
                (r"/quotes/([^/]+)", rest.QuoteHandler, service),
                (r"/quotes/([^/]+)/explain", rest.ExplainHandler, service),
                (r"/quotes", rest.QuotesHandler, service),
                (r"/candles/([^/]+)", candles.CandlesHandler, service),
                (r"/symbols", rest.SymbolsHandler, service),
                (r"/topology", rest.TopologyHandler, service),
                (r"/v1/ticket", rest.TicketHandler, service),
                (r"/v1/ops", OperationsHandler, operators),
                (r"/v1/ops/metrics", MergedMetricsHandler, operators),
                (r"/v1/meta/conditions", meta.ConditionsHandler, service),
                (r"/v1/meta/session", meta.SessionHandler, service),
                *alpaca.routes(service),
                (r"/(openapi|asyncapi)\.json", meta.DescriptionHandler, service),
                (r"/livez", health.HealthHandler, live),
                (r"/(?:readyz|healthz)", health.HealthHandler, ready),
                (r"/metrics", health.MetricsHandler, metrics),
                *websockets,
                (r"/()", PageHandler, page),
                (r"/page/(.+)", PageHandler, page),
            ],
            self._service,
            default_handler_class=rest.NotFoundHandler,
            default_handler_args=service,
            log_function=self._count_request,
        )

    async def serve(self, websockets: Sequence[Rule]) -> None:
        """Listen, pump until told to stop, drain. Raises UnavailableError when the port cannot be had."""
        settings = self._runtime.spec.settings
        assert isinstance(settings, GatewaySettings)
        httputil.set_parse_body_config(httputil.ParseBodyConfig(multipart=httputil.ParseMultipartConfig(enabled=False)))
        server = HTTPServer(
            self.application(websockets),
            max_body_size=BODY_MAX,
            max_header_size=HEADER_MAX,
            idle_connection_timeout=IDLE_S,
            body_timeout=IDLE_S,
        )
        listening = self._listen(settings)
        self._acceptor = acceptor = Acceptor(server, listening.socket, self._clock, ACCEPTS_PER_S / settings.processes)
        acceptor.start()
        self._runtime.log.info("listening on http://%s:%d", settings.host, settings.port)
        watching = None if self._store is None else asyncio.create_task(self._store.watch())
        try:
            with self._watchdog, self._looking_on_hangup():
                while not self._runtime.stopping():
                    await self._turn()
                await self._drain(acceptor, listening)
        finally:
            acceptor.stop()
            listening.close()
            if watching is not None and self._store is not None:
                watching.cancel()
                self._store.close()
            if self._service.history is not None:
                self._service.history.close()
            await server.close_all_connections()
            self._connections.close()
            self._door.close()
            self._launcher.close()

    async def _turn(self) -> None:
        """Take what the bus has brought, pass it on, and let the loop serve its sockets until the next turn.

        While a flush needs several slices the bus is looked at no more often.
        """
        now_ns = self._clock.monotonic_ns()
        looks = now_ns >= self._look_ns
        more = False
        if looks:
            more = self._take_from_bus()
            self._clients.time_since(NEVER_NS if self._runtime.latency is None else self._inbox.since_ns)
            self._report_state()
        waits = more
        more |= self._clients.flush(self._clock.monotonic_ns())
        if looks:
            self._look_ns = now_ns if waits else next_beat(now_ns, TURN_NS if self._clients.in_haste() else LOOK_NS)
        if self._resumer is not None:
            more |= self._resumer.turn(self._clock.monotonic_ns())
        for market in self._delayed.values():
            more |= market.turn(self._clock.now_ns(), self._clock.monotonic_ns())
        self._watchdog.turned()
        left_ns = min(self._look_ns, next_beat(now_ns, TURN_NS)) - self._clock.monotonic_ns()
        await asyncio.sleep(0 if more else max(0.0, left_ns / SECOND_NS))

    def _take_from_bus(self) -> bool:
        """Take some batches; return whether more may be there."""
        for _ in range(BATCHES_PER_TURN):
            batch = self._inbox.recv_batch(0)
            if batch.size:
                self._latest.apply(batch, self._clock.now_ns())
                self._clients.apply(batch)
                for market in self._delayed.values():
                    market.take(batch, self._clock.monotonic_ns())
            if batch.size < self._share and not self._inbox.waits_in_logs:
                return False
        return True

    def _report_state(self) -> None:
        """What is due by time, and how things stand."""
        self._door.turn()
        suspended = self._inbox.logs_suspended()
        self.health.turned(self._clock.monotonic_ns(), self._latest.links(), self._inbox.ready(), suspended)
        if self.health.ready:
            self._runtime.ready()
        self._runtime.report(self._report)

    async def _drain(self, acceptor: Acceptor, listening: Listening) -> None:
        """Not ready; then not listening; then tell the clients and wait for them to go, while there is time."""
        self.health.draining = True
        now_ns = self._clock.monotonic_ns()
        until_ns = now_ns + max(0, self._runtime.topology.limits.drain_ns - FAREWELL_NS)
        lame_ns = min(now_ns + LAME_NS, until_ns)
        while self._clock.monotonic_ns() < lame_ns:
            await self._turn()
        acceptor.stop()
        listening.close()
        self._service.leaving = True
        self._clients.close_all(SERVICE_RESTART, "restarting")
        for market in self._delayed.values():
            market.fanout.close_all(SERVICE_RESTART, "restarting")
        while self._clients.counters()["clients"] or self._connections.open or self._service.followers:
            if self._clock.monotonic_ns() >= until_ns:
                return
            await self._turn()

    @contextmanager
    def _looking_on_hangup(self) -> Iterator[None]:
        """Let SIGHUP mean: look at the file of keys now."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._door.look)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    def _listen(self, settings: GatewaySettings) -> Listening:
        """The port of this gateway, which its other processes share."""
        topology, spec = self._runtime.topology, self._runtime.spec
        if settings.processes == 1:
            return listen(settings.host, settings.port)
        name = spec.name.rpartition("-")[0]
        siblings = [f"{name}-{i + 1}" for i in range(settings.processes)]
        siblings.remove(spec.name)
        return listen_shared(settings.host, settings.port, topology.path, spec.name, siblings)

    def _judge_ready(self) -> rest.JsonObject:
        store = "off" if self._store is None else self._store.trouble or "ok"
        return self.health.readiness(self._clock.monotonic_ns(), store)

    def _count_request(self, handler: RequestHandler) -> None:
        status = handler.get_status()
        self._service.requests[status] = self._service.requests.get(status, 0) + 1
        if status >= 500 and not isinstance(handler, health.HealthHandler):  # which says so of purpose
            self._service.failed += 1

    def _requests(self) -> dict[str, int]:
        return {str(status): count for status, count in self._service.requests.items()}

    def _rest_counters(self) -> dict[str, int]:
        counters = {"rate_limited": self._service.rate_limited}
        if self._store is not None:
            counters |= {"store_reads": self._store.reads, "store_failures": self._store.failures}
        return counters

    def _delayed_counters(self) -> dict[str, int]:
        """Those of all delays together."""
        counted = [market.counters() for market in self._delayed.values()]
        return {name: sum(counters[name] for counters in counted) for name in counted[0]}

    def _connection_counters(self) -> dict[str, int]:
        return {} if self._acceptor is None else self._acceptor.counters()

    def _books(self) -> dict[str, int]:
        """What clients were offered and what became of it, those of delayed plans included."""
        counted = [self._clients.counters(), *(market.fanout.counters() for market in self._delayed.values())]
        return {f"books_{name}": sum(counters.get(name, 0) for counters in counted) for name in _BOOKS}

    def _report(self) -> dict[str, int | float | str]:
        """One line of `fabric status`."""
        latest = self._latest.counters()
        clients = self._clients.counters()
        return {
            **self._inbox.counters(),
            "messages": int(self._latest.tables.counts[:KIND_GAP].sum()),
            "symbols": latest["quoted"],
            "clients": clients["clients"],
            "clients_max": self._runtime.topology.limits.clients_max,
            **{name: clients[found] for found, name in _REPORTED.items() if found in clients},
            **self._books(),
            **{f"connections_{name}": count for name, count in self._connection_counters().items()},
            "requests": sum(self._service.requests.values()),
            "requests_failed": self._service.failed,
            "rate_limited": self._service.rate_limited,
            **{f"reads_{source}": self._service.reads[source] for source in READ_SOURCES},
        }


def main(runtime: Runtime) -> None:
    """Run one gateway until told to stop."""
    topology, settings, symbols = runtime.topology, runtime.spec.settings, runtime.symbols
    assert isinstance(settings, GatewaySettings)
    for kernels in (latest_kernel, protocol_kernel, fanout_kernel):
        kernels.warm_up()
    latest = Latest(topology.limits, topology.venues, runtime.spec.reads, symbols)
    fanout = Fanout(topology, settings, symbols, latest, runtime.clock, runtime.latency)
    store = None if topology.cache.mode == "off" else Store(topology.cache)
    history = _history(topology, runtime.spec)
    door = Door(topology.access, topology.limits, Shared(_table(topology)), runtime.clock)
    delays = {plan.delay_ns for plan in topology.access.plans if plan.delay_ns}
    delayed = {
        delay_ns: Delayed(delay_ns, topology, settings, runtime.spec.reads, symbols, runtime.clock)
        for delay_ns in sorted(delays)
    }
    connections = Connections()
    gateway = Gateway(runtime, latest, fanout, store, door, delayed, connections, history, fanout)
    fanouts = {delay_ns: market.fanout for delay_ns, market in delayed.items()}
    rules = websocket.handlers(fanout, symbols, door, fanouts, lambda: fanout.degraded, connections)
    asyncio.run(gateway.serve(rules))


def _history(topology: Topology, spec: NodeSpec) -> History | None:
    """The history, where this machine reaches it: a file is on the machine of the node that writes it."""
    if topology.history is None or not (topology.history.remote or topology.node(HISTORY_NODE).host == spec.host):
        return None
    return open_history(topology.history.url, read_only=True)


def _table(topology: Topology) -> Path | None:
    """Where the gateways of this machine share their limits; a replay, which meets nothing that runs, keeps its own."""
    if topology.clock == "event":
        return None
    run_dir = environment.read().run_dir
    folder = RunFolder(run_dir) if run_dir else RunFolder.beside(topology.path)
    return folder.path / "limits.table"
