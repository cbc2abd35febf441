"""Blocks of all lines of a feed in, blocks in the order of their streams out: the arrays of `sequencer_kernel`.

What waits behind a hole is bounded by `SLOTS_MAX` blocks, of whose memory only what is used is ever touched.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from fabric.clock import MILLISECOND_NS, SECOND_NS
from nodes.feeds import sequencer_kernel as kernel
from nodes.feeds.sequencer_kernel import BY_RECEIPT, FOREVER_NS
from nodes.feeds.wire_kernel import BLOCK

STREAMS_MAX: Final = 256
"""Streams of one feed: a Cboe exchange has 35 units, NYSE about as many channels."""
SLOTS_MAX: Final = 4_096
SLOT_BYTES: Final = 9_216
"""A jumbo frame: the longest packet of a line."""
RANGES_MAX: Final = 64
"""Missing ranges told at once; the others are told later."""
_OUT_MAX: Final = 4_096

Blocks = npt.NDArray[np.void]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Patience:
    """How long a hole is waited for."""

    wait_ns: int = 20 * MILLISECOND_NS
    """Without progress: longer than lines A and B are ever apart."""
    window: int = 64
    """Blocks of one stream that may wait; 0 is as many as there is room for."""
    ask_after_ns: int = 2 * MILLISECOND_NS
    ask_every_ns: int = 10 * MILLISECOND_NS
    keep_waiting: bool = False
    """Without room a block is dropped, to be asked for again; else the hole is given up."""


ONE_LINE: Final = Patience()
"""Nothing but a late packet can fill a hole."""
LINES: Final = Patience(window=0)
"""Another line can fill it."""
RECOVERY: Final = Patience(wait_ns=SECOND_NS, window=0, keep_waiting=True)
"""The exchange can be asked."""


@dataclass(frozen=True)
class Run:
    """Blocks in order whose bytes lie in one buffer."""

    buffer: Bytes
    blocks: Blocks
    marks: int
    """How many of them are GAP or RESTART."""


class Sequencer:
    """The streams of one feed. Times are monotonic and given."""

    def __init__(
        self, lines: int, groups: int, patience: Patience, renumbers: bool = False, last_number: int = 0
    ) -> None:
        """Lines are numbered from 0; answers to requests for group g come as line ``lines + g``.

        ``renumbers``: the exchange may begin its numbers anew under the same session. ``last_number``: the one after
        which it goes on with 1; 0 if it never does.
        """
        self._state = kernel.new_state(STREAMS_MAX, SLOTS_MAX, SLOT_BYTES, lines + groups)
        self._settings = np.zeros(kernel.N_SETTINGS, np.int64)
        self._settings[kernel.WAIT_NS] = patience.wait_ns
        self._settings[kernel.WINDOW] = patience.window
        self._settings[kernel.ASK_AFTER_NS] = patience.ask_after_ns
        self._settings[kernel.ASK_EVERY_NS] = patience.ask_every_ns
        self._settings[kernel.LINES] = lines
        self._settings[kernel.KEEP_WAITING] = patience.keep_waiting
        self._settings[kernel.RENUMBERS] = renumbers
        self._settings[kernel.LAST_NUMBER] = last_number
        self._out = np.zeros(_OUT_MAX, BLOCK)
        self._ranges = np.zeros(RANGES_MAX, kernel.RANGE)
        self._nothing = np.zeros(0, BLOCK)

    def take(self, buffer: Bytes, blocks: Blocks, now_ns: int = BY_RECEIPT) -> Iterator[Run]:
        """Put blocks into order; each run is good until the next is taken. Call also without blocks, as time passes.

        Without ``now_ns`` the time is when each block was received: a recording then comes out the same each time.
        """
        taken, done = 0, False
        while not done:
            taken, made, where, marks, done = kernel.sequence(
                buffer, blocks, taken, now_ns, self._settings, self._state, self._out
            )
            if made:
                yield Run(self._state.held.data if where == kernel.IN_HOLD else buffer, self._out[:made], marks)

    def flush(self) -> Iterator[Run]:
        """Nothing more will come: give up every hole."""
        return self.take(self._state.held.data, self._nothing, FOREVER_NS)

    def missing(self, now_ns: int) -> Blocks:
        """RANGEs of numbers to ask for now, good until the next call."""
        return self._ranges[: kernel.missing(self._state, self._settings, now_ns, self._ranges)]

    @property
    def waiting(self) -> int:
        """Streams that have a hole just now."""
        return int(self._state.work[kernel.WAITING])

    @property
    def gaps(self) -> int:
        """Holes that were given up, so far."""
        return int(self._state.counters[kernel.GAPS])

    def counters(self) -> dict[str, int]:
        """Everything counted so far, in messages where the name does not say otherwise."""
        counts = {name: int(self._state.counters[column]) for column, name in _COUNTER_NAMES.items()}
        for line, row in enumerate(self._state.by_line[: self._settings[kernel.LINES]].tolist()):
            counts[f"line{line}_first"] = row[kernel.LINE_FIRST]
            counts[f"line{line}_again"] = row[kernel.LINE_AGAIN]
        return counts


_COUNTER_NAMES: Final = {
    kernel.DUPLICATES: "duplicates",
    kernel.FILLED_LINE: "filled_by_line",
    kernel.FILLED_REQUEST: "filled_by_request",
    kernel.LATE: "late",
    kernel.LOST: "lost",
    kernel.GAPS: "gaps",
    kernel.HELD: "held_blocks",
    kernel.HOLD_FULL: "hold_full",
    kernel.RESTARTS: "restarts",
    kernel.DISTRUSTED: "distrusted",
    kernel.STREAMS_FULL: "streams_full",
}
