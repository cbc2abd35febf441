"""What a durable log holds, as rows."""

from collections.abc import Iterator

import numpy as np

from fabric import codec, journal, logged_kernel
from fabric.codec_kernel import DEPTH_MAX, OK, READ_PAD
from fabric.errors import CodecError
from fabric.journal import Cursor
from fabric.records import EVENT, WIDTH, Rows
from fabric.symbols import SymbolTable

ROWS_MAX = 8_192
"""Rows that are decoded at once."""


def rows_of(cursor: Cursor, symbols: SymbolTable) -> Iterator[Rows]:
    """The rows of what a cursor reads, in its order, each array the caller's own. Raises CodecError naming the position
    of a record that is no message of this build.
    """
    data = np.zeros(journal.BLOCK + READ_PAD, np.uint8)
    rows = np.zeros((ROWS_MAX, WIDTH), np.int64)
    waiting = np.zeros(DEPTH_MAX, np.int64)
    while stop := cursor.read(data[: journal.BLOCK]):
        at = 0
        while at < stop:
            n, at, reason = logged_kernel.read_rows(codec.SCHEMA, symbols.arrays, data, at, stop, rows, waiting)
            if n:
                yield rows[:n].copy().view(EVENT).reshape(n)
            if reason != OK:
                position = int(data[at + 8 : at + 16].view(np.int64)[0])
                raise CodecError(codec.REASONS[reason], f"position {position} of the log")
