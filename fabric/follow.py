"""A processor's order log in place of its inbox: the turns that it took live, the same rows at the same times.

What a processor makes of its turns is a function of them (`fabric.recovery`), so it says the same again, whatever else
is in the topology. It begins where it last began with nothing; where the log lacks something, it ends.
"""

import logging
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fabric import journal, order_kernel
from fabric.bus import EVENTS_MAX
from fabric.journal import Cursor, Query, Segment, segments
from fabric.order import Inputs, Turn, turns
from fabric.records import Rows
from fabric.sequence_kernel import LETTERS, STATE_WIDTH
from fabric.snapshot import KINDS
from fabric.symbols import SymbolTable
from fabric.topology import Limits, NodeSpec

log = logging.getLogger(__name__)


def folder_in(logs: Path, name: str) -> Path:
    """Where the order log of processor ``name`` is in a folder of logs."""
    return logs / name / "order"


def beginning(listing: Sequence[Segment]) -> tuple[int, int] | None:
    """Where a processor last began with nothing: the position in its order log, and that in its own log before it; None
    where the log does not reach back so far. Raises OSError.
    """
    found = None
    for position, _, _, _, payload in journal.records(Cursor(lambda: listing, Query())):
        flags, _, _, own, after = struct.unpack_from(f"<{order_kernel.PART_WIDTH}q", payload)
        if flags & order_kernel.BEGINS and after == 0:
            found = position, own
    return found


def follow(spec: NodeSpec, symbols: SymbolTable, limits: Limits) -> Iterator[tuple[Turn, Rows]]:
    """Every turn of a node that `NodeSpec.follows`, with its rows, good until the next is taken. Where they begin is
    looked up at once.
    """
    assert spec.follows is not None
    listing = segments(folder_in(Path(spec.follows.folder), spec.name))
    begun = beginning(listing)
    assert begun is not None, "who starts it has looked"
    return _from(begun[0], listing, spec, symbols, limits)


def _from(
    begun: int, listing: Sequence[Segment], spec: NodeSpec, symbols: SymbolTable, limits: Limits
) -> Iterator[tuple[Turn, Rows]]:
    inputs = Inputs(spec.reads, symbols, limits.batch_max + EVENTS_MAX)
    known = {  # what an inbox would know of its topics matters to nobody here
        "state": np.zeros((len(spec.reads), STATE_WIDTH), np.int64),
        "layout": np.full((len(spec.reads), KINDS, 2), -1, np.int64),
        "last": np.zeros(0, np.int64),
        "places": np.zeros(0, np.int64),
        "advance": np.zeros((len(spec.reads), KINDS, LETTERS), np.int64),
    }
    after = 0
    try:
        for turn in turns(listing, begun - 1):
            rows = inputs.rows(turn, known) if turn.after == after else None
            if rows is None:
                log.warning("the logs do not hold the turn at %d of the order log: not followed any further",
                            turn.position)  # fmt: skip
                return
            after = turn.position
            yield turn, rows
    finally:
        inputs.close()
