"""Our NBBO beside the one that a consolidated tape states: an independent check (pure).

Both are streams of NBBO rows. A value of one side agrees when the other has had the same at some moment while it
stood: same price, size and venue on both sides. What was never matched is a difference, or *unsettled* when it stood
for less than ``settle``: values that are replaced while they are on their way cannot be compared.

``order`` is the column by which the rows of both streams are brought in order. With ``exchange_seq``, when our NBBO
was made of the tape's own quotes, every row is compared with the row of the same message, and ``settle`` is 0. Of
different sources, as our own feeds beside the tape, the order is that of receipt (``recv_ns``), and ``settle`` the
time in which both must have come: a few milliseconds. The official value speaks for all venues of the market, so ours
must too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from fabric.records import NULL, STATE_STALE, Rows

Value = tuple[int, ...]
"""Price, size and venue of the bid, then of the ask; NULL throughout a side that is not there."""
Row = tuple[int, int, Value, int]

_COLUMNS: Final = ("bid_px", "bid_size", "bid_venue", "ask_px", "ask_size", "ask_venue")
_NOTHING: Final[Value] = (NULL,) * 6
DIFFERENCES_MAX: Final = 100
"""The differences that are kept as examples; all are counted."""


@dataclass(slots=True)
class _Standing:
    """The value that one stream has of one symbol."""

    value: Value = _NOTHING
    since: int = 0
    matched: bool = False
    told: bool = False  # until then there is no value to judge


@dataclass(slots=True)
class Difference:
    """A value that the other stream never had."""

    symbol: int
    stream: str  # "ours" or "official"
    since: int
    value: Value
    beside: Value  # what the other stream had when it was replaced


@dataclass(slots=True)
class _Count:
    agreed: int = 0
    differed: int = 0
    unsettled: int = 0


@dataclass
class TapeCheck:
    """Compares as rows come; memory grows with the symbols only."""

    order: str = "recv_ns"
    settle: int = 0
    differences: list[Difference] = field(default_factory=list)
    forgotten: int = 0
    """Official values that were dropped unjudged because the tape had lost messages."""

    def __post_init__(self) -> None:
        self._standing: dict[tuple[int, int], _Standing] = {}
        self._counts = (_Count(), _Count())

    def step(self, ours: Rows, official: Rows) -> None:
        """Take the rows (NBBO) of both streams that have come since; each in its own order."""
        for _, stream, row in sorted([*self._rows(ours, 0), *self._rows(official, 1)], key=lambda item: item[0]):
            symbol, at, value, state = row
            if stream == 1 and symbol == 0 and state & STATE_STALE:
                self._forget()
            else:
                self._take(symbol, stream, at, value)

    def counters(self) -> dict[str, int]:
        """Values judged so far: those of ours that agreed with the official one, and the other way round."""
        ours, official = self._counts
        return {
            "agreed": official.agreed,
            "differed": official.differed,
            "unsettled": official.unsettled,
            "ours_agreed": ours.agreed,
            "ours_differed": ours.differed,
            "ours_unsettled": ours.unsettled,
            "forgotten": self.forgotten,
        }

    def finish(self, at: int) -> None:
        """Judge the values that still stand."""
        for (symbol, stream), standing in self._standing.items():
            self._judge(symbol, stream, standing, at)
        self._standing = {}

    def _rows(self, rows: Rows, stream: int) -> Iterator[tuple[tuple[int, int], int, Row]]:
        columns = [rows[name].tolist() for name in ("symbol", self.order, *_COLUMNS, "state")]
        latest = NULL
        for number, (symbol, at, *value, state) in enumerate(zip(*columns, strict=True)):
            at = latest = max(latest, at)  # a row that has no number, as that of a loss, keeps its place
            yield (at, number), stream, (symbol, at, tuple(value), state)

    def _take(self, symbol: int, stream: int, at: int, value: Value) -> None:
        standing = self._standing.setdefault((symbol, stream), _Standing())
        if standing.told and value == standing.value:
            return
        self._judge(symbol, stream, standing, at)
        standing.value, standing.since, standing.matched, standing.told = value, at, False, True
        other = self._standing.setdefault((symbol, 1 - stream), _Standing())
        if other.value == value:
            standing.matched = other.matched = True

    def _judge(self, symbol: int, stream: int, standing: _Standing, at: int) -> None:
        count = self._counts[stream]
        if not standing.told:
            return
        if standing.matched:
            count.agreed += 1
        elif at - standing.since < self.settle:
            count.unsettled += 1
        else:
            count.differed += 1
            if len(self.differences) < DIFFERENCES_MAX:
                beside = self._standing.get((symbol, 1 - stream), _Standing()).value
                name = ("ours", "official")[stream]
                self.differences.append(Difference(symbol, name, standing.since, standing.value, beside))

    def _forget(self) -> None:
        """The official values are not known any more, and ours have nothing to agree with."""
        self.forgotten += sum(stream == 1 and standing.told for (_, stream), standing in self._standing.items())
        self._standing = {}
