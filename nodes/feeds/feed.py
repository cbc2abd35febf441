"""The feed node: packets from its lines, through a wire's decoder, onto the bus. It knows nothing of the format.

The line is alive while sound packets come, the exchange's heartbeats included, so a quiet symbol is nothing and
a connected but silent line is a fault. What the line is goes out as STATUS with the empty symbol and ``venue_state``:

- ``live`` at the first packet, and when all below is over; before the first rows that came with it, for readers take
  no quote from a line that they hold for stale;
- ``stale``, with the breaker's reason, while the circuit breaker is not closed. When it closes, the quotes that are
  known to hold are told again: readers dropped them;
- ``gap`` with the lost range (from the wire), until no other has come for as long as `limits.stale_after_ns`;
- ``recover`` while lost messages are being waited for and have not come within `RECOVER_AFTER_NS`.

While a market-wide circuit breaker halts all trading, the reason of every line that is not stale is its level, MWC1 to
MWC3 (`nodes.feeds.market_wide`).

With request servers the exchange is asked for what no line has brought; the answers go the way of all packets.
"""

from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from fabric.clock import MILLISECOND_NS, SECOND_NS
from fabric.control import RunFolder
from fabric.latency import ClockOffset, Latency
from fabric.node import Runtime
from fabric.recording import Tee
from fabric.records import EVENT, KIND_STATUS, NULL, QUOTE, STATUS, Rows, pack
from fabric.topology import FeedSettings, Settings
from nodes.feeds import sequencer, wires
from nodes.feeds.breaker import CLOSED, SKEW, Breaker
from nodes.feeds.lines import Lines
from nodes.feeds.market_wide import MarketWide
from nodes.feeds.recovery import Recoveries
from nodes.feeds.wire import Packets, Wire
from nodes.feeds.wires import venue_states

WAIT_MS: Final = 100
HOLE_WAIT_MS: Final = 2
"""The longest wait while lost messages are waited for."""
RECOVER_AFTER_NS: Final = 100 * MILLISECOND_NS
RECOVER_LEAST_NS: Final = 500 * MILLISECOND_NS
SKEW_MAX_NS: Final = SECOND_NS
"""A clock further off than this is told."""
SKEW_WINDOW_NS: Final = SECOND_NS
SKEW_WINDOWS: Final = 5
_NEVER: Final = -(2**63)
_GAP: Final = pack("gap")


class Sender(Protocol):
    """The part of an Outbox that a feed uses."""

    def send(self, rows: Rows) -> None: ...


class Known(Protocol):
    """The part of an outbox's last values that a feed uses."""

    def select(self, prefix: str) -> Rows: ...


class Skew:
    """How far the exchange's clock is ahead of ours (pure): the median of the least delays of the last seconds.

    A delay is never less than none, so the least of a second is the wire's own plus the difference of the clocks;
    the median leaves out a second that had only late messages.
    """

    def __init__(self) -> None:
        self.ahead_ns = 0
        """Negative when it is behind, or when the wire takes that long."""
        self._least: list[int] = []
        self._window_ns = _NEVER
        self._now_least = 0

    def add(self, delay_ns: int, monotonic_ns: int) -> None:
        """A message was received ``delay_ns`` after the exchange's time of its event."""
        if monotonic_ns - self._window_ns < SKEW_WINDOW_NS:
            if delay_ns >= self._now_least:
                return
            self._least[-1] = self._now_least = delay_ns
        else:
            self._window_ns, self._now_least = monotonic_ns, delay_ns
            self._least = [*self._least[1 - SKEW_WINDOWS :], delay_ns]
        self.ahead_ns = -sorted(self._least)[len(self._least) // 2]


class Feed:
    """One feed without its sockets: decodes, sends, asks for what was lost, and tells what its line is."""

    def __init__(
        self,
        wire: Wire,
        venues: str,
        sender: Sender,
        breaker: Breaker,
        stale_after_ns: int,
        known: Known | None = None,
        recoveries: Recoveries | None = None,
        latency: Latency | None = None,
        since_ns: int = 0,
        tee: Tee | None = None,
    ) -> None:
        """``venues`` are the letters that the feed speaks for: all share the state of its line.

        ``known`` has the last quotes sent; ``recoveries`` ask the exchange for what was lost. ``latency`` counts what
        happened after ``since_ns`` (UTC): what is older comes from an image or from the exchange's own log. ``tee``
        is given every packet.
        """
        self.wire = wire
        self.breaker = breaker
        self.state = ""
        """What readers were told last; empty: nothing yet."""
        self.skew = Skew()
        self.offset = ClockOffset()
        self.market = MarketWide()
        self._venues, self._sender, self._known = venues, sender, known
        self._recoveries = recoveries or Recoveries({})
        self._latency, self._since_ns = latency, since_ns
        self._tee = tee
        self._stale_after_ns = stale_after_ns
        self._accepted = self._gaps = self._malformed = self._skewed = self._retold = 0
        self._gap_ns = self._gap_wall_ns = self._waiting_ns = self._recover_ns = _NEVER
        self._is_skewed = False
        self._reason = NULL  # of `state`, packed
        self._sessions: dict[int, int] = {}  # venue -> what the exchange said last of its whole market, packed

    def take(self, packets: Packets, now_ns: int, monotonic_ns: int) -> None:
        """Decode a batch and send what it holds; call also without packets, for silence and lost ones to be noticed."""
        if self._tee is not None:
            self._tee.look(monotonic_ns)
            self._tee.give(*packets)
        noted = False
        for rows in self.wire.decode(packets, monotonic_ns):
            if not noted:
                self._note(now_ns, monotonic_ns)
                noted = True
            self._measure(rows, monotonic_ns)
            self._pass_on(rows, now_ns)
        self._note(now_ns, monotonic_ns)
        self._recoveries.observe(packets)

    def recover(self, now_ns: int, monotonic_ns: int) -> None:
        """Ask for what is missing, and take the answers and images."""
        for answers in self._recoveries.turn(self.wire, now_ns, monotonic_ns):
            self.take(answers, now_ns, monotonic_ns)
        for rows in self.wire.release(now_ns, monotonic_ns):
            self._pass_on(rows, now_ns)

    def counters(self) -> dict[str, int | float | str]:
        """What the wire and the clients have counted, the line's state, the breaker's and the clock's."""
        return {
            **self.wire.counters(),
            **self._recoveries.counters(),
            "line": self.state or "waiting",
            "breaker": self.breaker.state,
            "breaker_reason": self.breaker.reason,
            "breaker_openings": self.breaker.openings,
            "breaker_transitions": self.breaker.transitions,
            "skew_ms": round(self.skew.ahead_ns / MILLISECOND_NS, 3),
            "clock_offset_ms": round(self.offset.offset_ns / MILLISECOND_NS, 3),
            "skewed": self._skewed,
            "retold": self._retold,
            "market_wide": self.market.level,
        }

    def _measure(self, rows: Rows, monotonic_ns: int) -> None:
        if self._is_skewed:
            self._skewed += rows.size
        events = rows["event_ns"]
        if int(events.min()) > 0:  # every row has a time
            delay_ns = int((rows["recv_ns"] - events).min())
            self.skew.add(delay_ns, monotonic_ns)
            self.offset.add(delay_ns, monotonic_ns)

    def _pass_on(self, rows: Rows, now_ns: int) -> None:
        """Send what the exchange has told, and count how long that took."""
        is_left = self._complete(rows, now_ns)
        self._sender.send(rows)
        if self._latency is not None:
            self._latency.fed(rows, self._since_ns, self.offset.offset_ns)
        if is_left and self.state:
            self._tell(self.state, now_ns)

    def _note(self, now_ns: int, monotonic_ns: int) -> None:
        wire = self.wire
        sound, gaps = wire.accepted - self._accepted, wire.gaps - self._gaps
        malformed = wire.malformed - self._malformed
        self._accepted += sound
        self._gaps += gaps
        self._malformed += malformed
        if gaps:
            self._gap_ns, self._gap_wall_ns = monotonic_ns, now_ns
        changed = self.breaker.update(monotonic_ns, sound, gaps, malformed, self.skew.ahead_ns)
        is_skewed = abs(self.skew.ahead_ns) > SKEW_MAX_NS
        state = self._line(sound, gaps, monotonic_ns)
        if state == self.state and is_skewed == self._is_skewed:
            return
        told, self.state = self.state, state
        if gaps and state == "gap" and is_skewed == self._is_skewed:
            return  # the wire tells it, with its range
        self._is_skewed = is_skewed
        reason = self.breaker.reason if state == "stale" else SKEW if is_skewed else ""
        self._reason = pack(reason) if reason else NULL
        if state:
            self._tell(state, now_ns)
        if changed and told == "stale":
            self._tell_again(now_ns)

    def _tell(self, state: str, now_ns: int) -> None:
        """Tell what the line is now."""
        rows = venue_states(self._venues, state, now_ns)
        self._complete(rows, now_ns)
        self._sender.send(rows)

    def _complete(self, rows: Rows, now_ns: int) -> bool:
        """In place: each row about a whole venue tells all that is known of it, whoever found out which part: of its
        market the exchange (`trading`, and the level of a market-wide breaker), of its line this feed (`venue_state`,
        `reason`). The wire's word of the line is ``gap``, which with its range goes before this feed's; a stale line
        stays stale whatever comes over it. True when symbols have told that the market was halted, or trades again,
        and no row here says so of the venues.
        """
        found = np.flatnonzero(rows["kind"] == KIND_STATUS)
        if not found.size:
            return False
        is_new = self.market.take(rows[found].view(STATUS), now_ns)
        for i in found[rows["symbol"][found] == 0].tolist():
            is_new = False
            row = rows[i : i + 1].view(STATUS)[0]
            venue = int(row["venue"])
            if row["trading"] == NULL:
                row["trading"] = self._sessions.get(venue, NULL)
            else:
                self._sessions[venue] = int(row["trading"])
            if row["venue_state"] != _GAP or self.state == "stale":
                row["venue_state"] = pack(self.state)
            row["reason"] = self._reason
            if self.market.level and self.state != "stale":
                row["reason"] = pack(f"MWC{self.market.level}")
        return is_new

    def _line(self, sound: int, gaps: int, monotonic_ns: int) -> str:
        """What the line is now."""
        if self.breaker.state != CLOSED:
            return "stale"
        if gaps:
            return "gap"
        if self.wire.waiting == 0:
            self._waiting_ns = _NEVER
        elif self._waiting_ns == _NEVER:
            self._waiting_ns = monotonic_ns
        elif monotonic_ns - self._waiting_ns > RECOVER_AFTER_NS:
            self._recover_ns = monotonic_ns
            return "recover"
        if self.state == "gap" and monotonic_ns - self._gap_ns < self._stale_after_ns:
            return "gap"
        if self.state == "recover" and monotonic_ns - self._recover_ns < RECOVER_LEAST_NS:
            return "recover"
        return "live" if self.state or sound else ""

    def _tell_again(self, now_ns: int) -> None:
        """After a fault: send the standing quotes anew, but for those that a loss may have made untrue."""
        if self._known is None:
            return
        quotes = self._known.select("quote.").view(QUOTE)
        lost_ns = self._gap_wall_ns if self._gap_ns > self.breaker.opened_ns - self._stale_after_ns else _NEVER
        quotes = quotes[((quotes["bid_px"] != NULL) | (quotes["ask_px"] != NULL)) & (quotes["recv_ns"] >= lost_ns)]
        quotes["recv_ns"] = now_ns
        self._retold += quotes.size
        self._sender.send(quotes.view(EVENT))


def preload(settings: Settings) -> None:
    """Import what a feed with these settings needs beside this module, for the children of the fork server."""
    assert isinstance(settings, FeedSettings)
    wires.format_of(settings.wire)


def main(runtime: Runtime) -> None:
    """The program: one feed until told to stop."""
    settings, clock, limits = runtime.spec.settings, runtime.clock, runtime.topology.limits
    assert isinstance(settings, FeedSettings)
    outbox = runtime.outbox()
    images = wires.image_source(settings)
    wire = wires.make(settings.wire, runtime.symbols, settings.venues, settings.groups, patience(settings), images)
    recoveries = Recoveries(wires.clients(settings))
    wakers = [*recoveries.filenos(), *([images.fileno()] if images else ())]
    gather_ns = limits.linger_ns // 2  # every path begins here, and passes several readers of the bus
    breaker = Breaker(settings.breaker, clock.monotonic_ns())
    with (
        closing(recoveries),
        closing(images) if images else nullcontext(),
        closing(
            Lines(settings.lines, settings.interfaces, settings.over_tcp, settings.login, wakers, gather_ns)
        ) as lines,
    ):
        folder = runtime.topology.run_folder
        tee = Tee(RunFolder(Path(folder)), runtime.spec.name, lines.names, lines.kernel_drops) if folder else None
        feed = Feed(
            wire, settings.venues, outbox, breaker, limits.stale_after_ns, outbox.values, recoveries, runtime.latency,
            clock.now_ns(), tee,
        )  # fmt: skip
        runtime.ready(", ".join(lines.names))
        while not runtime.stopping():
            lines.wait(HOLE_WAIT_MS if wire.waiting else WAIT_MS)
            now_ns, monotonic_ns = clock.now_ns(), clock.monotonic_ns()
            feed.take(lines.receive(now_ns), now_ns, monotonic_ns)
            for packets in lines.receive_streams(now_ns, monotonic_ns):
                feed.take(packets, now_ns, monotonic_ns)
            if settings.recovery or images:
                feed.recover(now_ns, monotonic_ns)
            outbox.tick()
            runtime.report(lambda: {**feed.counters(), **lines.counters(), **outbox.counters()})


def patience(settings: FeedSettings) -> sequencer.Patience:
    """How long lost messages are waited for: as the file says, else as long as there is what can bring them."""
    if settings.recovery:
        usual = sequencer.RECOVERY
    elif len(set(settings.groups)) < len(settings.groups):
        usual = sequencer.LINES
    else:
        usual = sequencer.ONE_LINE
    return replace(usual, wait_ns=settings.gap_wait_ns or usual.wait_ns)
