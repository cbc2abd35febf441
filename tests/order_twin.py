"""What a processor should have published: its order log taken through a fresh node, in plain Python around it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from fabric import codec, journal
from fabric.clock import TurnClock
from fabric.journal import Cursor, Query, segments
from fabric.order import Inputs, turns
from fabric.records import KIND_LINK, Rows, columns
from fabric.sequence_kernel import LETTERS, STATE_WIDTH, VENUE_STRIDE
from fabric.symbols import SymbolTable
from fabric.topology import Source

Message = tuple[int, bytes, dict[str, Any]]
"""Position, topic and payload, without what may differ from run to run: the epoch and the time of publication."""
KINDS = 16


def tables(links: int, symbols: int) -> dict[str, Any]:
    """Those of an inbox of which every publisher has every channel."""
    layout = np.full((links, KINDS, 2), -1, np.int64)
    total = 0
    for link in range(links):
        for kind in range(1, KIND_LINK):
            layout[link, kind] = total, VENUE_STRIDE
            total += VENUE_STRIDE * symbols
    return {
        "state": np.zeros((links, STATE_WIDTH), np.int64),
        "layout": layout,
        "last": np.zeros(total, np.int64),
        "places": np.zeros(total, np.int64),
        "advance": np.zeros((links, KINDS, LETTERS), np.int64),
    }


def batches(folder: Path, sources: Sequence[Source], symbols: SymbolTable) -> Iterator[tuple[Any, Rows]]:
    """Every turn of the order log in ``folder``, with its rows; an AssertionError where a log lacks them."""
    inputs = Inputs(sources, symbols, 20_000)
    known = tables(len(sources), symbols.capacity)
    after = 0
    try:
        for turn in turns(segments(folder)):
            assert turn.after == after, f"the state at {turn.position} is that of {turn.after}, not of {after}"
            rows = inputs.rows(turn, known)
            assert rows is not None, f"the rows of the turn at {turn.position} are in no log"
            after = turn.position
            yield turn, rows
    finally:
        inputs.close()


def expected(
    folder: Path, sources: Sequence[Source], make: Callable[[TurnClock], Any], capacity: int
) -> tuple[list[Message], Any]:
    """All that a fresh node publishes for the order log in ``folder``, numbered; and that node."""
    symbols, clock = SymbolTable(capacity), TurnClock()
    node = make(clock)
    numbers: dict[bytes, int] = {}
    found: list[Message] = []
    for turn, rows in batches(folder, sources, symbols):
        made = node.step(rows, clock.begin_again(turn.now_ns, turn.monotonic_ns)).copy()
        assert turn.own == len(found), "each turn knows what had been published"
        columns(made)[:, 3] = 1
        columns(made)[:, 4] = 1
        for topic, payload in codec.encode(made, symbols):
            numbers[topic] = numbers.get(topic, 0) + 1
            content = _content(payload) | {"N": numbers[topic], "O": len(found) + 1}
            found.append((len(found) + 1, topic, content))
    return found, node


def logged(folder: Path) -> list[Message]:
    """All that the log of a publisher holds."""
    listing = segments(folder)
    records = journal.records(Cursor(lambda: listing, Query()))
    return [(position, topic, _content(payload)) for position, _, _, topic, payload in records]


def _content(payload: bytes) -> dict[str, Any]:
    return {key: value for key, value in msgpack.unpackb(payload).items() if key not in ("E", "t3")}
