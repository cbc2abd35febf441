"""What both consolidated tapes become on the bus, and the official NBBO beside it.

| message | row |
|---|---|
| quote | QUOTE of the participant: its whole best bid and offer, with the condition |
| trade | TRADE with the sale conditions (blanks left out, ``@`` when there is none) and the tape |
| cancel | TRADE with mark ``x`` and the ``original_id`` |
| correction | TRADE with mark ``c``: what the trade ``original_id`` should have been |
| trading status, price bands, short-sale restriction, directory | STATUS with all that is known of the symbol |
| market-wide circuit breaker | STATUS of the processor itself (empty symbol): ``reason`` is MWC1, MWC2 or MWC3 |
| quote wipe-out (UTP) | QUOTE without sides for every quote of the participant that stood |
| a restart | QUOTE without sides for every quote that stood |

The venue is the participant's letter, or the processor's own where that speaks (CTA: S, UTP: E). A side with price 0 or
size 0 does not exist. Sizes are shares: until 2 November 2025 a tape counted quotes in round lots, taken as 100 (the
lots of 10 and 1 that a few stocks had are not in those messages); since then in shares. Volumes of trades are shares
always, fractions rounded down. Times are the participant's; trades of other days, summaries and indices are counted
and make no row.

After lost messages quotes stand, as each is whole in itself, but the official NBBO is known again only when stated
anew.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fabric.records import EVENT, NBBO, Rows, empty
from fabric.symbols import SymbolTable
from nodes.feeds import rows_kernel, tape_kernel

BLOCK_BYTES_MAX: Final = 65_507
"""The longest UDP payload."""
SIZE_UNITS: Final = ((date(1970, 1, 1), 100), (date(2025, 11, 3), 1))
"""From which day (UTC) on one of a quote's size is so many shares. Source: ``protocols.md`` 5.2."""


class Tape:
    """The messages of one tape (a `Messages`)."""

    def __init__(
        self,
        symbols: SymbolTable,
        decode: Callable[..., Any],
        layouts: npt.NDArray[np.int64],
        row_bytes_min: int,
        type_names: dict[str, str],
        rows_max: int = 0,
    ) -> None:
        """``rows_max`` bounds the rows given at once; at least what the longest block may give."""
        size = max(rows_max, BLOCK_BYTES_MAX // row_bytes_min + 1)
        self.state = tape_kernel.new_state(symbols.capacity, size_units(), layouts)
        self._decode = decode
        self._type_names = type_names
        self._symbols = symbols
        self._rows = empty(size, EVENT)
        self._out = rows_kernel.new_out(self._rows)
        self._log = tape_kernel.new_log(empty(size + 1, NBBO))  # one more: a loss may be logged before a block

    def decode(self, buffer: npt.NDArray[np.uint8], blocks: npt.NDArray[np.void]) -> Iterator[Rows]:
        taken = 0
        while taken < blocks.size:
            taken, n = self._decode(buffer, blocks, taken, self._symbols.arrays, self.state, self._out, self._log)
            if n:
                yield self._rows[:n]
                self._log.used[0] = 0

    @property
    def official(self) -> Rows:
        """Changes of the official NBBO (NBBO rows) that came with the rows yielded last; good until the next are taken.

        A row of the empty symbol with the state bit ``stale`` means that messages were lost, and all values with them.
        """
        return self._log.rows[: self._log.used[0]]

    def official_of(self, symbol: int) -> Rows:
        """The official NBBO of a symbol (`tape_kernel.OFFICIAL`), sharing memory."""
        return self.state.official[symbol : symbol + 1]

    def counters(self) -> dict[str, int]:
        return dict(zip(tape_kernel.NAMES, self.state.counters.tolist(), strict=True))

    def messages_by_type(self) -> dict[str, int]:
        types = self.state.types
        counts = {self._name(int(kind)): int(types[kind]) for kind in types.nonzero()[0]}
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def _name(self, kind: int) -> str:
        return self._type_names.get(chr(kind >> 8) + chr(kind & 0xFF), f"unknown_{kind:#06x}")


def size_units() -> npt.NDArray[np.int64]:
    """`SIZE_UNITS` as the kernels take it."""
    starts = [datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() for day, _ in SIZE_UNITS]
    return np.array(
        [(int(start) * 10**9, shares) for start, (_, shares) in zip(starts, SIZE_UNITS, strict=True)], np.int64
    )
