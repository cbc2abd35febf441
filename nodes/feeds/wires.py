"""The wires by name: framing, sequencer and messages put together. Nothing else knows all formats.

    packets --framing--> blocks --sequencer--> blocks in order, GAPs, RESTARTs --messages--> rows

A GAP also becomes a STATUS row of each venue of the feed, before anything that the decoder makes of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from fabric.records import EVENT, KIND_STATUS, STATUS, Rows, empty, pack
from fabric.symbols import SymbolTable
from fabric.topology import FeedSettings
from nodes.feeds.images import ImagedMessages, ImageSource
from nodes.feeds.lines import numeric
from nodes.feeds.pitch_requests import Login
from nodes.feeds.recovery import Recovery
from nodes.feeds.recovery_iextp import IexTpRecovery
from nodes.feeds.recovery_moldudp64 import MoldUdp64Recovery
from nodes.feeds.recovery_pitch import GrpRecovery, SpinRecovery
from nodes.feeds.recovery_soupbintcp import SoupRecovery
from nodes.feeds.recovery_xdp import XdpRecovery
from nodes.feeds.sequencer import ONE_LINE, STREAMS_MAX, Patience, Run, Sequencer
from nodes.feeds.sequencer_kernel import BY_RECEIPT
from nodes.feeds.wire import Messages, Packets
from nodes.feeds.wire_kernel import BLOCK, GAP

BLOCKS_MAX: Final = 4_096
"""Packets framed at once."""
_MALFORMED: Final = "malformed_"


@dataclass(frozen=True)
class Transport:
    """A framing kernel, the names of its counters by column, and its further arguments."""

    frame: Callable[..., tuple[int, int]]
    counters: Mapping[int, str]
    arguments: tuple[Any, ...] = ()
    renumbers: bool = False
    """Numbers may begin anew under the same session, told by the time of sending."""
    last_number: int = 0
    """After which numbers go on with 1; 0: they never do."""


Servers = list[tuple[str, int]]
"""Numeric addresses of request servers, tried in turn."""


@dataclass(frozen=True)
class Format:
    """How a wire is made: its transport, its messages for the venues of a feed, and who asks for lost ones."""

    transport: Callable[[], Transport]
    messages: Callable[[SymbolTable, str], Messages]
    recovery: Callable[[int, int, Servers, FeedSettings], Recovery] | None = None
    """With the group, the number of the line as which answers come, servers and settings."""


@runtime_checkable
class _Losing(Protocol):
    """Messages that number each symbol, and so know of which some are lost."""

    def lost(self) -> list[tuple[int, int]]: ...


# Each format imports its own modules when it is asked for: a process has those of its wires, and none to load beside.


def _iextp(protocol: int, decoder: Callable[[SymbolTable], Messages]) -> Format:
    from nodes.feeds import iextp_kernel

    names = {
        iextp_kernel.PACKETS: "packets",
        iextp_kernel.HEARTBEATS: "heartbeats",
        iextp_kernel.SHORT: "malformed_short",
        iextp_kernel.VERSION: "malformed_version",
        iextp_kernel.PROTOCOL: "malformed_protocol",
        iextp_kernel.SEQUENCE: "malformed_sequence",
        iextp_kernel.LENGTH: "malformed_length",
    }
    return Format(
        lambda: Transport(iextp_kernel.frame, names, (protocol,), renumbers=True),
        lambda symbols, _: decoder(symbols),
        lambda group, line, servers, settings: IexTpRecovery(
            group, line, tuple(servers), protocol, settings.channel + group
        ),
    )


def _tops() -> Format:
    from nodes.feeds import iex, iex_kernel

    return _iextp(iex_kernel.PROTOCOL_TOPS, iex.tops)


def _deep() -> Format:
    from nodes.feeds import iex, iex_kernel

    return _iextp(iex_kernel.PROTOCOL_DEEP, iex.deep)


def _deep_plus() -> Format:
    from nodes.feeds import deep_plus, deep_plus_kernel

    return _iextp(deep_plus_kernel.PROTOCOL_DEEP_PLUS, deep_plus.DeepPlus)


def _moldudp64() -> Callable[[], Transport]:
    from nodes.feeds import moldudp64_kernel

    names = {
        moldudp64_kernel.PACKETS: "packets",
        moldudp64_kernel.HEARTBEATS: "heartbeats",
        moldudp64_kernel.ENDS: "ends",
        moldudp64_kernel.SHORT: "malformed_short",
        moldudp64_kernel.SEQUENCE: "malformed_sequence",
        moldudp64_kernel.LENGTH: "malformed_length",
    }
    return lambda: Transport(moldudp64_kernel.frame, names)


def _itch() -> Format:
    from nodes.feeds import itch

    return Format(_moldudp64(), itch.Itch, _ask_nasdaq)


def _pitch() -> Format:
    from nodes.feeds import pitch, sequenced_unit_kernel

    return Format(
        lambda: Transport(
            sequenced_unit_kernel.frame,
            dict(enumerate(sequenced_unit_kernel.COUNTER_NAMES)),
            last_number=sequenced_unit_kernel.LAST_NUMBER,
        ),
        pitch.Pitch,
        lambda group, line, servers, settings: GrpRecovery(
            group, line, servers, Login("", *settings.login), _answers(settings, group), _interface(settings)
        ),
    )


def _pillar() -> Format:
    from nodes.feeds import pillar_kernel, xdp

    names = {
        pillar_kernel.PACKETS: "packets",
        pillar_kernel.HEARTBEATS: "heartbeats",
        pillar_kernel.RESETS: "resets",
        pillar_kernel.RETRANSMITTED: "retransmitted",
        pillar_kernel.REFRESHED: "refreshed",
        pillar_kernel.UNAVAILABLE: "unavailable",
        pillar_kernel.LATE: "late_packets",
        pillar_kernel.SHORT: "malformed_short",
        pillar_kernel.FLAG: "malformed_flag",
        pillar_kernel.TIME: "malformed_time",
        pillar_kernel.LENGTH: "malformed_length",
        pillar_kernel.STREAMS: "malformed_streams",
    }
    return Format(
        lambda: Transport(pillar_kernel.frame, names, (pillar_kernel.new_streams(STREAMS_MAX),)),
        lambda symbols, venues: xdp.Xdp(symbols, venues if len(venues) == 1 else ""),
        _ask_nyse,
    )


def _cta() -> Format:
    from nodes.feeds import cta, cta_block_kernel

    return Format(
        lambda: Transport(cta_block_kernel.frame, dict(enumerate(cta_block_kernel.NAMES)), renumbers=True),
        lambda symbols, _: cta.Cta(symbols),
    )


def _utp() -> Format:
    from nodes.feeds import utp

    return Format(_moldudp64(), lambda symbols, _: utp.Utp(symbols))


def _ask_nasdaq(group: int, line: int, servers: Servers, settings: FeedSettings) -> Recovery:
    if settings.recovery[0][0] == "tcp":
        return SoupRecovery(group, line, servers, *settings.login)
    return MoldUdp64Recovery(group, line, tuple(servers))


def _ask_nyse(group: int, line: int, servers: Servers, settings: FeedSettings) -> Recovery:
    source, product, channel = settings.login[0], settings.product, settings.channel + group
    answers = _answers(settings, group)
    client = XdpRecovery(group, line, servers, source, product, channel, answers, _interface(settings))
    client.mapping()  # who comes late has missed them
    return client


def _answers(settings: FeedSettings, group: int) -> tuple[tuple[str, int], ...]:
    """Where the answers of a group come: each group has as many addresses as the others."""
    each = len(settings.answers) // (max(settings.groups) + 1)
    return settings.answers[group * each : (group + 1) * each]


def _interface(settings: FeedSettings) -> str:
    """Where the groups of answers are joined: where the first line is."""
    return settings.interfaces[0] if settings.interfaces else ""


FORMATS: Final[dict[str, Callable[[], Format]]] = {
    "nasdaq-itch-5.0": _itch,
    "cboe-pitch-2.41": _pitch,
    "nyse-pillar": _pillar,
    "iex-tops-1.6": _tops,
    "iex-deep-1.0": _deep,
    "iex-deep-plus-1.0": _deep_plus,
    "cta": _cta,
    "utp": _utp,
}
"""Name in the topology -> how it is read."""


@cache
def format_of(wire: str) -> Format:
    """How the wire of that name is read; imports what it takes."""
    return FORMATS[wire]()


class SequencedWire:
    """One feed's packets to rows (a `Wire`)."""

    def __init__(
        self,
        transport: Transport,
        messages: Messages,
        venues: str,
        groups: Sequence[int] = (0,),
        patience: Patience = ONE_LINE,
    ) -> None:
        """``groups[line]`` is the group (of lines that carry the same) of each line.

        Answers to requests for group g come as line ``len(groups) + g``.
        """
        answers = range(max(groups) + 1)
        self.messages = messages
        self.sequencer = Sequencer(len(groups), len(answers), patience, transport.renumbers, transport.last_number)
        self._transport = transport
        self._venues = venues
        self._groups = np.array([*groups, *answers], np.int64)
        self._blocks = np.zeros(BLOCKS_MAX, BLOCK)
        self._counters = np.zeros(max(transport.counters) + 1, np.int64)
        self._columns = {name: column for column, name in transport.counters.items()}
        self._malformed = np.array([c for name, c in self._columns.items() if name.startswith(_MALFORMED)])

    def decode(self, packets: Packets, monotonic_ns: int = BY_RECEIPT) -> Iterator[Rows]:
        """As `Wire`. Without ``monotonic_ns`` the time is that of the packets' receipt."""
        taken, size = 0, packets.offsets.size
        while True:
            taken, made = self._transport.frame(
                *packets, self._groups, taken, self._blocks, self._counters, *self._transport.arguments
            )
            for run in self.sequencer.take(packets.buffer, self._blocks[:made], monotonic_ns):
                yield from self._rows(run)
            if taken >= size:
                return

    def flush(self) -> Iterator[Rows]:
        """Nothing more will come: what waits for lost messages goes out."""
        for run in self.sequencer.flush():
            yield from self._rows(run)

    @property
    def accepted(self) -> int:
        return int(self._counters[self._columns["packets"]])

    @property
    def malformed(self) -> int:
        return int(self._counters[self._malformed].sum())

    @property
    def gaps(self) -> int:
        return self.sequencer.gaps

    @property
    def waiting(self) -> int:
        return self.sequencer.waiting

    def missing(self, monotonic_ns: int) -> npt.NDArray[np.void]:
        return self.sequencer.missing(monotonic_ns)

    def lost(self) -> list[tuple[int, int]]:
        return self.messages.lost() if isinstance(self.messages, _Losing) else []

    def release(self, now_ns: int, monotonic_ns: int) -> Iterator[Rows]:
        if isinstance(self.messages, ImagedMessages):
            yield from self.messages.release(now_ns, monotonic_ns)

    def counters(self) -> dict[str, int]:
        counts = {name: int(self._counters[column]) for name, column in self._columns.items()}
        messages = self.messages.counters()
        malformed = {name: n + messages.get(name, 0) for name, n in counts.items() if name.startswith(_MALFORMED)}
        counts |= self.sequencer.counters() | messages | malformed
        counts["malformed"] = sum(count for name, count in counts.items() if name.startswith(_MALFORMED))
        return counts

    def messages_by_type(self) -> dict[str, int]:
        return self.messages.messages_by_type()

    def _rows(self, run: Run) -> Iterator[Rows]:
        done = 0
        if run.marks:
            for i in np.flatnonzero(run.blocks["kind"] == GAP).tolist():
                if i > done:
                    yield from self.messages.decode(run.buffer, run.blocks[done:i])
                yield gap_states(self._venues, run.blocks[i])
                done = i
        yield from self.messages.decode(run.buffer, run.blocks[done:])


def make(
    name: str,
    symbols: SymbolTable,
    venues: str,
    groups: Sequence[int] = (0,),
    patience: Patience = ONE_LINE,
    images: ImageSource | None = None,
) -> SequencedWire:
    """The wire of that name for a feed of ``venues``, as `SequencedWire`; ``images`` tell its book anew."""
    wire = format_of(name)
    messages = wire.messages(symbols, venues)
    if images is not None:
        messages = ImagedMessages(messages, images)
    return SequencedWire(wire.transport(), messages, venues, groups, patience)


def clients(settings: FeedSettings) -> dict[int, Recovery]:
    """By group: who asks its exchange for lost messages. Raises UnavailableError for a server without an address."""
    ask = format_of(settings.wire).recovery
    if not settings.recovery or ask is None:
        return {}
    servers = [numeric(scheme, host, port) for scheme, host, port in settings.recovery]
    lines = len(settings.lines)
    return {group: ask(group, lines + group, servers, settings) for group in sorted(set(settings.groups))}


def image_source(settings: FeedSettings) -> ImageSource | None:
    """Who has images of the books of a feed's units (of its first group of lines), if anybody."""
    if not settings.spins:
        return None
    servers = {unit: [numeric("tcp", host, port)] for unit, (host, port) in enumerate(settings.spins, 1)}
    return SpinRecovery(0, servers, Login("", *settings.login))


def gap_states(venues: str, gap: Any) -> Rows:
    """A STATUS row for each venue: these messages of its stream were lost for good."""
    time_ns = int(gap["sent_ns"]) or int(gap["recv_ns"])
    rows = venue_states(venues, "gap", time_ns).view(STATUS)
    rows["recv_ns"] = gap["recv_ns"]
    rows["gap_from"] = gap["first"]
    rows["gap_to"] = gap["first"] + gap["count"] - 1
    return rows.view(EVENT)


def venue_states(venues: str, state: str, now_ns: int) -> Rows:
    """A STATUS row for each venue, about its whole line."""
    rows = empty(len(venues), STATUS, KIND_STATUS)
    rows["venue"] = [ord(letter) for letter in venues]
    rows["event_ns"] = rows["recv_ns"] = now_ns
    rows["venue_state"] = pack(state)
    return rows.view(EVENT)
