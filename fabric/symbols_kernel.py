"""Symbol name -> dense id, compiled: open addressing over the sixteen name bytes taken as two integers (pure)."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.records import SYMBOL_MAX

int64: Any = np.int64


class Symbols(NamedTuple):
    """The table's arrays, as kernels take them. ``capacity`` names at most; ``slots`` is a power of two, twice that."""

    ids: npt.NDArray[np.int64]  # [slots] id, or -1 where the slot is free
    names: npt.NDArray[np.uint8]  # [capacity, 16] zero-padded
    lengths: npt.NDArray[np.int64]  # [capacity]
    used: npt.NDArray[np.int64]  # [1] names in the table
    refused: npt.NDArray[np.int64]  # [1] names that did not fit
    words: npt.NDArray[np.int64]  # [capacity, 3] name bytes 0-7 and 8-15 as words, and the length


def make_symbols(capacity: int) -> Symbols:
    """An empty table for ``capacity`` names."""
    slots = 1 << (2 * capacity - 1).bit_length()
    return Symbols(
        ids=np.full(slots, -1, np.int64),
        names=np.zeros((capacity, SYMBOL_MAX), np.uint8),
        lengths=np.zeros(capacity, np.int64),
        used=np.zeros(1, np.int64),
        refused=np.zeros(1, np.int64),
        words=np.zeros((capacity, 3), np.int64),
    )


@lean
def home_slot(ids: Any, low: int, high: int) -> int:
    """The slot in which the search for the name of those sixteen bytes begins."""
    mixed = (low ^ (high * 0x9E3779B97F4A7C1)) * 0x2545F4914F6CDD1D
    return (mixed ^ (mixed >> 29)) & (ids.size - 1)


@lean
def find_word(ids: Any, words: Any, low: int, high: int) -> int:
    """Return the id of the name of those sixteen bytes, or minus one minus the free slot where it would go."""
    mask = ids.size - 1
    slot = home_slot(ids, low, high)
    while True:
        symbol = ids[slot]
        if symbol < 0:
            return -1 - slot
        if words[symbol, 0] == low and words[symbol, 1] == high:
            return symbol
        slot = (slot + 1) & mask


@lean
def learn(symbols: Any, slot: int, low: int, high: int, length: int) -> int:
    """Put a new name into the free ``slot``; return its id, or -1 (counted) when the table is full."""
    new = symbols.used[0]
    if new >= symbols.lengths.size:
        symbols.refused[0] += 1
        return -1
    for i in range(length):
        word = low if i < 8 else high
        symbols.names[new, i] = (word >> (8 * (i & 7))) & 0xFF
    symbols.lengths[new] = length
    symbols.words[new, 0] = low
    symbols.words[new, 1] = high
    symbols.words[new, 2] = length
    symbols.ids[slot] = new
    symbols.used[0] = new + 1
    return new


@lean
def pack_name(source: Any, start: int, length: int) -> tuple[int, int]:
    """Read ``length`` (at most 16) bytes at ``source[start]`` as two words, first byte lowest."""
    low = 0
    high = 0
    for i in range(min(length, 8)):
        low |= int64(source[start + i]) << (8 * i)
    for i in range(8, length):
        high |= int64(source[start + i]) << (8 * (i - 8))
    return low, high


@lean_kernel
def intern(symbols: Any, source: Any, start: int, length: int) -> int:
    """Return the id of the name at ``source[start:start + length]``, learning it; -1 (counted) when it does not fit."""
    if length > 16:
        symbols.refused[0] += 1
        return -1
    low, high = pack_name(source, start, length)
    found = find_word(symbols.ids, symbols.words, low, high)
    return found if found >= 0 else learn(symbols, -1 - found, low, high, length)


@lean_kernel
def find(symbols: Any, source: Any, start: int, length: int) -> int:
    """Return the id of the name at ``source[start:start + length]``, or -1 when it is not known."""
    if length > 16:
        return -1
    low, high = pack_name(source, start, length)
    return max(find_word(symbols.ids, symbols.words, low, high), -1)


def warm_up() -> None:
    """Compile or load the kernels with the array types of a `SymbolTable`."""
    symbols, name = make_symbols(2), np.zeros(1, np.uint8)
    intern(symbols, name, 0, 0)
    find(symbols, name, 0, 0)
