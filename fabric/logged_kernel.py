"""Records of a durable log as a cursor gives them -> rows, compiled (pure)."""

from typing import Any

import numpy as np

from fabric.codec_kernel import DEPTH_MAX, OK, READ_PAD, SCHEMA_WIDTH, read_payload, read_topic
from fabric.compiled import lean_kernel
from fabric.journal_kernel import HEAD_BYTES
from fabric.native import load_int64
from fabric.records import WIDTH
from fabric.symbols_kernel import make_symbols


@lean_kernel
def read_rows(
    schema: Any, symbols: Any, data: Any, start: int, stop: int, rows: Any, waiting: Any
) -> tuple[int, int, int]:
    """Decode the sound records ``data[start:stop]`` into ``rows``; return how many, where to go on, and the reason
    (`codec.REASONS`) why the next one cannot be read, or OK.
    """
    ids = symbols.ids
    words = symbols.words
    base = data.ctypes.data
    n = 0
    at = start
    while at < stop and n < rows.shape[0]:
        word = load_int64(base + at)
        size = (word >> 32) & 0xFFFFFF
        topic = at + HEAD_BYTES
        payload = topic + ((word >> 56) & 0xFF)
        reason = read_topic(schema, symbols, ids, words, data, topic, payload, rows, n)
        if reason == OK:
            reason = read_payload(schema, words, data, payload, at + size, rows, n, waiting)
        if reason != OK:
            return n, at, reason
        at += (size + 7) & ~7
        n += 1
    return n, at, OK


def warm_up() -> None:
    """Compile or load the kernel with the array types of its callers."""
    schema, rows = np.zeros((1, SCHEMA_WIDTH), np.int64), np.zeros((0, WIDTH), np.int64)
    read_rows(schema, make_symbols(2), np.zeros(READ_PAD, np.uint8), 0, 0, rows, np.zeros(DEPTH_MAX, np.int64))
