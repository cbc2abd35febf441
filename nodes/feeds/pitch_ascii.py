"""Recorded lines of Cboe's legacy TCP PITCH (ASCII 1.15, gzip or not) -> rows, as those of `pitch`.

| line | row |
|---|---|
| A, d (add), E (executed), X (cancel) | QUOTE when price or size of all orders at the best of a side has changed |
| E, P, r (trade) | TRADE |
| B (trade break) | TRADE with mark ``x`` |
| H (trading status) | STATUS when it changes |
| s (symbol clear) | QUOTE without sides |
| I, J (auctions) | counted |

``exchange_seq`` is the number of the line, which is what SOUP counts; ``recv_ns`` is the exchange's time, as the lines
have no other. They name no day either: it is the one in the name of the file (eight digits as 20080501), else
`NO_DAY`.
"""

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np

from fabric.errors import CaptureError
from fabric.records import EVENT, Rows, empty
from fabric.symbols import SymbolTable
from nodes.feeds import pitch_ascii_kernel as kernel
from nodes.feeds import pitch_kernel
from nodes.feeds.pitch import LEVELS_MAX, MARKETS, ORDERS_MAX, ROWS_MAX, TRADES_MAX, counters_of
from nodes.feeds.rows_kernel import new_out
from nodes.feeds.trading_day import midnight_ns

VENUE: Final = "Z"
NO_DAY: Final = date(1970, 1, 2)
LINE_MAX: Final = 1_024
"""Bytes of a line; what is longer is no line, and passed over in pieces of this."""
PIECE_BYTES: Final = 1 << 20
_GZIP: Final = b"\x1f\x8b"
_HEAD: Final = re.compile(rb"S?\d{8}[A-Za-z]")
_DAY: Final = re.compile(r"(?:19|20)\d{6}")

TYPE_NAMES: Final = {
    "A": "add_order",
    "d": "add_order_long",
    "E": "order_executed",
    "X": "order_cancel",
    "P": "trade",
    "r": "trade_long",
    "B": "trade_break",
    "H": "trading_status",
    "s": "symbol_clear",
    "I": "auction_update",
    "J": "auction_summary",
}


class PitchAscii:
    """The lines of one market's recording."""

    def __init__(
        self,
        symbols: SymbolTable,
        day: date,
        venue: str = VENUE,
        orders_max: int = ORDERS_MAX,
        levels_max: int = LEVELS_MAX,
        rows_max: int = ROWS_MAX,
    ) -> None:
        """``day`` is the day in New York that the lines count from, ``rows_max`` bounds the rows given at once."""
        assert venue in MARKETS
        assert rows_max >= pitch_kernel.ROWS_A_MESSAGE
        self.state = pitch_kernel.new_state(symbols.capacity, orders_max, levels_max, 1, TRADES_MAX)
        self._progress = np.zeros(kernel.N_PROGRESS, np.int64)
        self._venue, self._day_ns = ord(venue), midnight_ns(day)
        self._symbols = symbols
        self._rows = empty(rows_max, EVENT)
        self._out = new_out(self._rows)
        self._rest = b""

    def decode(self, data: bytes) -> Iterator[Rows]:
        """Take the next bytes of the recording; yield rows, each array a view good until the next is taken."""
        data = self._rest + data
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        if len(self._rest) > LINE_MAX:
            end, self._rest, data = len(data) + 1, b"", data + b"\n"
        buffer = np.frombuffer(data or b"\0", np.uint8)
        taken = 0
        while taken < end:
            taken, n = kernel.decode(
                buffer,
                taken,
                end,
                self._venue,
                self._day_ns,
                self._symbols.arrays,
                self.state,
                self._progress,
                self._out,
            )
            if n:
                yield self._rows[:n]

    def end(self) -> Iterator[Rows]:
        """The recording has ended: take what is left as its last line."""
        return self.decode(b"\n") if self._rest else iter(())

    def counters(self) -> dict[str, int]:
        """Everything counted so far, by name."""
        return counters_of(self.state)

    def messages_by_type(self) -> dict[str, int]:
        """Messages so far by the name of their type."""
        types = self.state.types
        names = {TYPE_NAMES.get(chr(kind), f"unknown_{kind:#04x}"): int(types[kind]) for kind in types.nonzero()[0]}
        return dict(sorted(names.items(), key=lambda item: -item[1]))


def is_pitch_ascii(path: Path) -> bool:
    """Whether a file begins with a line of PITCH; raises CaptureError when it cannot be read."""
    for piece in pieces(path):
        return _HEAD.match(piece) is not None
    return False


def day_of(path: Path) -> date:
    """The day in the name of a file, `NO_DAY` where there is none."""
    for digits in _DAY.findall(path.name):
        try:
            return date.fromisoformat(digits)
        except ValueError:
            continue
    return NO_DAY


def pieces(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked; raises CaptureError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            packed = stream.read(2) == _GZIP
        with cast(BinaryIO, gzip.open(path)) if packed else path.open("rb") as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece
    except (OSError, EOFError, zlib.error) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise CaptureError(f"{path}: {reason}") from error


def load(paths: Sequence[Path], symbols: SymbolTable, venue: str = VENUE) -> Rows:
    """The EVENT rows of recordings, one behind the other, each with a book of its own; raises CaptureError.

    All are held in memory, 192 bytes a row.
    """
    parts = [empty(0, EVENT)]
    for path in paths:
        if not is_pitch_ascii(path):
            raise CaptureError(f"{path}: line 1: expected a message of PITCH (8 digits, then a letter)")
        wire = PitchAscii(symbols, day_of(path), venue)
        for piece in pieces(path):
            parts += [rows.copy() for rows in wire.decode(piece)]
        parts += [rows.copy() for rows in wire.end()]
    return np.concatenate(parts)
