"""The feed node: packets from its lines, through a wire's decoder, onto the bus. It knows nothing of the format.

The line is alive while sound packets come, the exchange's heartbeats included, so a quiet symbol is nothing and
a connected but silent line is a fault. What the line is goes out as STATUS with the empty symbol and
``venue_state``: ``live`` at the first packet and after each fault, ``stale`` after `limits.stale_after_ns` without
one, ``gap`` (from the decoder, with the lost range) until as long has passed without another. ``live`` goes out before
the first rows that came with it: readers take no quote from a line that they hold for stale.
"""

from collections.abc import Callable
from contextlib import closing
from typing import Final, Protocol

from fabric.node import Runtime
from fabric.records import EVENT, KIND_STATUS, STATUS, Rows, empty, pack
from fabric.symbols import SymbolTable
from fabric.topology import FeedSettings
from nodes.feeds import iex
from nodes.feeds.lines import Lines
from nodes.feeds.wire import Packets, Wire

WIRES: Final[dict[str, Callable[[SymbolTable], Wire]]] = {"iex-tops-1.6": iex.tops, "iex-deep-1.0": iex.deep}
"""Name in the topology -> decoder."""
WAIT_MS: Final = 100


class Sender(Protocol):
    """The part of an Outbox that a feed uses."""

    def send(self, rows: Rows) -> None: ...


class LineState:
    """What a line is, decided by when it was last heard (pure: times are monotonic and given)."""

    def __init__(self, stale_after_ns: int, now_ns: int) -> None:
        self.state = ""  # nothing heard and not silent for long: nothing to say
        self._stale_after_ns = stale_after_ns
        self._heard_ns = self._gap_ns = now_ns

    def update(self, now_ns: int, *, heard: bool, gap: bool = False) -> str:
        """Take in what has come; return the state that readers must now be told, or the empty text."""
        told = ""
        if heard:
            self._heard_ns = now_ns
            if self.state in ("", "stale"):
                self.state = told = "live"
        if gap:
            self._gap_ns = now_ns
            self.state = "gap"
        elif self.state != "stale" and now_ns - self._heard_ns > self._stale_after_ns:
            self.state = told = "stale"
        elif self.state == "gap" and now_ns - self._gap_ns >= self._stale_after_ns:
            self.state = told = "live"
        return told


class Feed:
    """One feed without its sockets: decodes, sends, and tells what its line is."""

    def __init__(self, wire: Wire, venues: str, sender: Sender, stale_after_ns: int, monotonic_ns: int) -> None:
        """``venues`` are the letters that the feed speaks for: all share the state of its line."""
        self.wire = wire
        self.line = LineState(stale_after_ns, monotonic_ns)
        self._venues = venues
        self._sender = sender
        self._accepted = self._gaps = 0

    def take(self, packets: Packets, now_ns: int, monotonic_ns: int) -> None:
        """Decode a batch and send what it holds; call also without packets, for the silence to be noticed."""
        for rows in self.wire.decode(packets):
            self._note(now_ns, monotonic_ns)
            self._sender.send(rows)
        self._note(now_ns, monotonic_ns)

    def counters(self) -> dict[str, int | float | str]:
        """What the wire has counted, and the line's state."""
        return {**self.wire.counters(), "line": self.line.state or "waiting"}

    def _note(self, now_ns: int, monotonic_ns: int) -> None:
        heard, gap = self.wire.accepted > self._accepted, self.wire.gaps > self._gaps
        self._accepted, self._gaps = self.wire.accepted, self.wire.gaps
        state = self.line.update(monotonic_ns, heard=heard, gap=gap)
        if state:
            self._sender.send(venue_states(self._venues, state, now_ns))


def venue_states(venues: str, state: str, now_ns: int) -> Rows:
    """A STATUS row for each venue, about its whole line."""
    rows = empty(len(venues), STATUS, KIND_STATUS)
    rows["venue"] = [ord(letter) for letter in venues]
    rows["event_ns"] = rows["recv_ns"] = now_ns
    rows["venue_state"] = pack(state)
    return rows.view(EVENT)


def main(runtime: Runtime) -> None:
    """The program: one feed until told to stop."""
    settings, clock = runtime.spec.settings, runtime.clock
    assert isinstance(settings, FeedSettings)
    outbox = runtime.outbox()
    wire = WIRES[settings.wire](runtime.symbols)
    feed = Feed(wire, settings.venues, outbox, runtime.topology.limits.stale_after_ns, clock.monotonic_ns())
    with closing(Lines(settings.lines)) as lines:
        runtime.ready(", ".join(f"udp://{host}:{port}" for host, port in lines.addresses))
        while not runtime.stopping():
            lines.wait(WAIT_MS)
            now_ns = clock.now_ns()
            feed.take(lines.receive(now_ns), now_ns, clock.monotonic_ns())
            outbox.tick()
            runtime.report(lambda: {**feed.counters(), **lines.counters(), **outbox.counters()})
