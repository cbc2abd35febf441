"""A simulated exchange, whatever its wire: make the packets of the next ticks, at each tick send what is due."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from types import ModuleType
from typing import TYPE_CHECKING, Final, NamedTuple

from fabric.clock import SECOND_NS
from fabric.topology import ExchangeSettings, FeedSettings
from nodes.exchanges import market_kernel, sender_kernel, store_kernel
from nodes.exchanges.encoder import PACKETS_MAX, Encoder
from nodes.exchanges.faults import Faults
from nodes.exchanges.market import NEVER_NS, Market, tickers
from nodes.exchanges.market_events_kernel import mix
from nodes.exchanges.pacing import CATCH_UP_NS, TICK_NS, Pacer
from nodes.exchanges.request_server import RequestServer
from nodes.exchanges.sender import Sender
from nodes.exchanges.store import Store

if TYPE_CHECKING:
    from fabric.node import Runtime

HEARTBEAT_NS: Final = SECOND_NS
"""A line that has been silent for so long is told that it is alive."""
AHEAD_NS: Final = 4 * TICK_NS
"""The flow is made and encoded for so long in advance."""
ANNOUNCE_NS: Final = 30 * SECOND_NS
"""In this time every symbol's listing and status are told again, for who came late."""


class Program(NamedTuple):
    """What one exchange is, besides its settings."""

    venue: str
    encoder: Callable[..., Encoder]
    kernels: ModuleType  # of the encoder
    transport: int  # for the `Store`
    servers: "Callable[[FeedSettings, Exchange], Sequence[RequestServer]]"  # that answer a feed's requests
    by_orders: bool = False  # see `Market`
    renumbers: bool = False
    corrects: bool = False


class Exchange:
    """A market, its encoder and its lines."""

    def __init__(
        self,
        open_market: Callable[[int], Market],
        encoder: Encoder,
        sender: Sender,
        pacer: Pacer,
        restart_ns: int = 0,
        store: Store | None = None,
        rate_at: Callable[[int], float] | None = None,
    ) -> None:
        """``open_market`` makes the market that opens at a time; ``restart_ns`` after the start a new session begins.

        ``rate_at`` gives messages a second, so many ns after the start; without it the market keeps its own.
        What is sent is kept in ``store``, if any, for those who answer requests: see `serve`.
        """
        self._open_market, self._sender, self._pacer = open_market, sender, pacer
        self._rate_at = rate_at
        self.encoder = encoder
        self.store = store
        self.market = open_market(pacer.start_ns)
        self.renewals: list[Callable[[], None]] = []
        """Called when a new session has begun: servers that name it in their answers."""
        self._servers: Sequence[RequestServer] = ()
        self._restart_at_ns = pacer.start_ns + restart_ns if restart_ns else None
        self._ticked_ns = self._spoke_ns = self._made_ns = pacer.start_ns
        self._due_ns: list[int] = []  # of the packets in the encoder's buffer
        self._sent = 0  # of them
        self._told = 0  # messages of the sessions that are over
        self.packets = self.skipped = self.restarts = 0

    @property
    def messages(self) -> int:
        """Messages made since the start."""
        return self._told + self.encoder.told

    @property
    def made_ns(self) -> int:
        """The time up to which the market has been made and told to the encoder."""
        return self._made_ns

    def serve(self, servers: Sequence[RequestServer]) -> None:
        """Let these answer requests at each tick. They stay the caller's."""
        self._servers = servers

    def begin(self, now_ns: int) -> None:
        """Begin the opening now, not when this was made."""
        self.market.skip_to(now_ns)
        self._ticked_ns = self._spoke_ns = now_ns

    def tick(self, now_ns: int) -> None:
        """Send what is due at ``now_ns``, or a heartbeat after a second of silence."""
        self._send_due(now_ns)
        if now_ns - self._ticked_ns > CATCH_UP_NS:
            self.skipped += self.market.skip_to(now_ns - CATCH_UP_NS)
        self._ticked_ns = now_ns
        if self._restart_at_ns is not None and now_ns >= self._restart_at_ns:
            self._restart(now_ns)
        if now_ns >= self._made_ns:
            ticks = (now_ns - self._pacer.start_ns) // TICK_NS
            self._make(self._pacer.start_ns + ticks * TICK_NS + AHEAD_NS)
            self._send_due(now_ns)
        if now_ns - self._spoke_ns >= HEARTBEAT_NS and self._sent == len(self._due_ns):
            self.encoder.heartbeat(now_ns)
            self._sender.send(0, 1, now_ns)
            self.packets += 1
            self._spoke_ns = now_ns
        if self._sender.holding:
            self._sender.send(0, 0, now_ns)
        for server in self._servers:
            server.serve(now_ns)

    def counters(self) -> dict[str, int | float | str]:
        """What has been sent since the start, and how late since the last call."""
        late_max, late_p99 = self._pacer.late_ms()
        return {
            "messages": self.messages,
            "packets": self.packets,
            "skipped": self.skipped,
            "restarts": self.restarts,
            **self._sender.counters(),
            **self._request_counters(),
            "late_ms_max": round(late_max, 3),
            "late_ms_p99": round(late_p99, 3),
        }

    def _request_counters(self) -> dict[str, int]:
        """What the servers have counted, with ``request_`` before each name."""
        found: dict[str, int] = {}
        for server in self._servers:
            for name, count in server.counters().items():
                found[f"request_{name}"] = found.get(f"request_{name}", 0) + count
        return found

    def _make(self, until_ns: int) -> None:
        """Make the packets of the ticks until ``until_ns``; where the buffer is too small for all, some leave early."""
        self._flush()
        if self._rate_at:
            rate = self._rate_at(self._made_ns - self._pacer.start_ns)
            if rate and not self.market.rate:
                self.market.skip_to(self._made_ns)  # it was silent: nothing has been due
            self.market.rate = rate
        while (events := self.market.take(until_ns - 1)).size:
            taken = 0
            while taken < events.size:
                before = len(self._due_ns)
                if before == PACKETS_MAX:
                    self._flush()
                    before = 0
                taken, count = self.encoder.encode(events, taken, before)
                if self.store:
                    made = slice(before, count)
                    self.store.keep(self.encoder.packets[made], self.encoder.lengths[made], count - before)
                self._due_ns += self.encoder.due_ns[before:count].tolist()
        self._made_ns = until_ns

    def _send_due(self, until_ns: int) -> None:
        """Send the packets that are due by ``until_ns``."""
        stop = bisect_right(self._due_ns, until_ns, self._sent)
        if stop > self._sent:
            self._spoke_ns = now_ns = self._pacer.now_ns()
            self._sender.send(self._sent, stop, now_ns)
            self._pacer.sent(self._due_ns[self._sent])
            self.packets += stop - self._sent
            self._sent = stop

    def _flush(self) -> None:
        """Send what is still in the encoder's buffer, so that it can be filled anew."""
        if self._due_ns:
            self._send_due(self._due_ns[-1])
        self._due_ns, self._sent = [], 0

    def _restart(self, now_ns: int) -> None:
        """Begin a new session: the day starts again, as far as the readers can tell."""
        self._flush()
        self._restart_at_ns = None
        self.restarts += 1
        self._told += self.encoder.told
        self.encoder.restart(session_id(self.encoder.session, now_ns))
        if self.store:
            self.store.forget()
        for renew in self.renewals:
            renew()
        self.market = self._open_market(now_ns)
        self._made_ns = now_ns


def run(program: Program, runtime: "Runtime") -> None:
    """Run a program with the node's settings until told to stop; report once a second, with the rate of that second."""
    settings = runtime.spec.settings
    assert isinstance(settings, ExchangeSettings)
    for kernels in (market_kernel, program.kernels, sender_kernel):
        kernels.warm_up()
    pacer = Pacer(runtime.clock)

    def rate_at(since_start_ns: int) -> float:
        return settings.rate * (settings.surge if surges(settings, since_start_ns) else 1.0)

    def open_market(start_ns: int) -> Market:
        return Market(
            settings.symbols,
            settings.seed,
            start_ns,
            rate=rate_at(0),
            venue=program.venue,
            shape=settings.shape,
            even=settings.arrivals == "even",
            by_orders=program.by_orders,
            renumbers=program.renumbers,
            corrects=program.corrects,
            halts_per_hour=settings.halts,
            announce_ns=ANNOUNCE_NS,
        )

    faults = settings.faults
    encoder = program.encoder(
        tickers(settings.symbols),
        session_id(settings.seed, pacer.start_ns),
        grid_ns=pacer.start_ns,
        tick_ns=TICK_NS,
        skew_ns=faults.skew_ns,
    )
    wrong = None
    if Faults.wanted(faults):
        wrong = Faults(faults, settings.roles or "A" * len(settings.lines), settings.seed, pacer.start_ns)
    feed = settings.feed if settings.feed and (settings.feed.recovery or settings.feed.spins) else None
    store = None
    if feed:
        store_kernel.warm_up()
        store = Store(program.transport)
    with ExitStack() as stack:
        sender = stack.enter_context(closing(Sender(settings.lines, encoder.packets, encoder.lengths, wrong)))
        exchange = Exchange(open_market, encoder, sender, pacer, faults.restart_ns, store, rate_at)
        if feed:
            exchange.serve([stack.enter_context(closing(server)) for server in program.servers(feed, exchange)])
        runtime.ready(f"{settings.symbols} symbols, {rate_at(0):,.0f} messages/s to {len(settings.lines)} lines")
        exchange.begin(pacer.now_ns())
        reported_ns, messages = pacer.now_ns(), exchange.messages
        while not runtime.stopping():
            now_ns = pacer.wait()
            exchange.tick(now_ns)
            if now_ns - reported_ns >= SECOND_NS:
                per_second = round((exchange.messages - messages) * SECOND_NS / (now_ns - reported_ns))
                runtime.report({"rate": per_second, **exchange.counters()})
                reported_ns, messages = now_ns, exchange.messages


def surges(settings: ExchangeSettings, since_start_ns: int) -> bool:
    """Whether the rate has its factor so long after the start."""
    end_ns = settings.surge_after_ns + settings.surge_for_ns if settings.surge_for_ns else NEVER_NS
    return settings.surge_after_ns <= since_start_ns < end_ns


def session_id(seed: int, start_ns: int) -> int:
    """A session id that differs between starts: 31 bits, never 0."""
    return mix(seed ^ mix(start_ns)) >> 33 & 0x7FFFFFFF or 1
