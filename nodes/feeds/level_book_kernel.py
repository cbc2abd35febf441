"""A price-level book for feeds that send whole levels (symbol, side, price -> size), compiled (pure).

Two structures over one preallocated pool of levels: a hash finds a level in O(1), and a list for each
(symbol, side), sorted from the best price, gives the best, and the next best when it goes, in O(1). A new
level walks from the best, so it costs its distance from the top, which is where levels come and go. A level beyond
the pool's capacity is refused and counted: the book is then wrong for that price, and the counter says so.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean_kernel
from fabric.records import NULL

BID = 0
ASK = 1
NONE = -1

# Columns of `counters`.
IN_USE = 0
REFUSED = 1  # levels that found the pool full
ABSENT = 2  # removals of a level that is not there
REMOVED = 3  # removals asked for, absent ones included
N_COUNTERS = 4

LEVEL = np.dtype(
    [
        ("key", "<i8"),  # symbol * 2 + side
        ("price", "<i8"),
        ("size", "<i8"),
        ("better", "<i8"),  # neighbours in the list of its key; NONE at the ends
        ("worse", "<i8"),  # also links the free levels
    ]
)


class LevelBook(NamedTuple):
    """The book's arrays, as kernels take them."""

    levels: npt.NDArray[np.void]  # [levels_max] LEVEL
    slots: npt.NDArray[np.int64]  # [power of two, at least twice levels_max] level, or NONE where free
    best: npt.NDArray[np.int64]  # [symbols_max * 2] best level of each key, or NONE
    free: npt.NDArray[np.int64]  # [1] first free level, or NONE
    counters: npt.NDArray[np.int64]  # [N_COUNTERS]


def new_book(symbols_max: int, levels_max: int) -> LevelBook:
    """An empty book for symbols below ``symbols_max``, with room for ``levels_max`` levels in all."""
    levels = np.zeros(levels_max, LEVEL)
    levels["worse"] = np.arange(1, levels_max + 1)
    levels["worse"][-1] = NONE
    return LevelBook(
        levels=levels,
        slots=np.full(1 << (2 * levels_max - 1).bit_length(), NONE, np.int64),
        best=np.full(symbols_max * 2, NONE, np.int64),
        free=np.zeros(1, np.int64),
        counters=np.zeros(N_COUNTERS, np.int64),
    )


@lean_kernel
def home_slot(book: Any, key: int, price: int) -> int:
    """Where the search for a level begins. Products stay below 2^63, so that uncompiled code gives the same."""
    mixed = (price & 0x7FFFFFFF) * 0x85EBCA6B + key * 0x9E3779B1
    return (mixed ^ (mixed >> 27)) & (book.slots.size - 1)


@lean_kernel
def find_slot(book: Any, key: int, price: int) -> int:
    """The slot that holds the level, or the free one where it would go."""
    slot = home_slot(book, key, price)
    while True:
        level = book.slots[slot]
        if level == NONE or (book.levels[level]["price"] == price and book.levels[level]["key"] == key):
            return slot
        slot = (slot + 1) & (book.slots.size - 1)


@lean_kernel
def free_slot(book: Any, slot: int) -> None:
    """Empty a slot and move back what had been pushed behind it, so that searches need no tombstones."""
    mask = book.slots.size - 1
    hole = slot
    probe = slot
    while True:
        probe = (probe + 1) & mask
        level = book.slots[probe]
        if level == NONE:
            break
        home = home_slot(book, book.levels[level]["key"], book.levels[level]["price"])
        if ((probe - home) & mask) >= ((probe - hole) & mask):
            book.slots[hole] = level
            hole = probe
    book.slots[hole] = NONE


@lean_kernel
def insert(book: Any, slot: int, key: int, price: int, size: int) -> None:
    """Take a level from the pool and link it; refused (counted) when the pool is empty."""
    new = book.free[0]
    if new == NONE:
        book.counters[REFUSED] += 1
        return
    book.free[0] = book.levels[new]["worse"]
    book.slots[slot] = new
    is_ask = (key & 1) == ASK
    better = np.int64(NONE)
    worse = book.best[key]
    while worse != NONE and (book.levels[worse]["price"] < price) == is_ask:
        better = worse
        worse = book.levels[worse]["worse"]
    level = book.levels[new]
    level["key"] = key
    level["price"] = price
    level["size"] = size
    level["better"] = better
    level["worse"] = worse
    if better == NONE:
        book.best[key] = new
    else:
        book.levels[better]["worse"] = new
    if worse != NONE:
        book.levels[worse]["better"] = new
    book.counters[IN_USE] += 1


@lean_kernel
def remove(book: Any, slot: int) -> None:
    """Unlink the level in ``slot`` and give it back to the pool."""
    gone = book.slots[slot]
    free_slot(book, slot)
    better = book.levels[gone]["better"]
    worse = book.levels[gone]["worse"]
    if better == NONE:
        book.best[book.levels[gone]["key"]] = worse
    else:
        book.levels[better]["worse"] = worse
    if worse != NONE:
        book.levels[worse]["better"] = better
    book.levels[gone]["worse"] = book.free[0]
    book.free[0] = gone
    book.counters[IN_USE] -= 1


@lean_kernel
def update(book: Any, symbol: int, side: int, price: int, size: int) -> None:
    """Set the size of a level; size 0 removes it. ``side`` is BID or ASK; what could not be done is counted."""
    key = symbol * 2 + side
    slot = find_slot(book, key, price)
    level = book.slots[slot]
    if size == 0:
        book.counters[REMOVED] += 1
        if level == NONE:
            book.counters[ABSENT] += 1
        else:
            remove(book, slot)
    elif level == NONE:
        insert(book, slot, key, price, size)
    else:
        book.levels[level]["size"] = size


@lean_kernel
def best(book: Any, symbol: int, side: int) -> tuple[int, int]:
    """Price and size at the best of a side; both NULL where the side is empty."""
    level = book.best[symbol * 2 + side]
    if level == NONE:
        return NULL, NULL
    return book.levels[level]["price"], book.levels[level]["size"]


@lean_kernel
def clear(book: Any, symbol: int) -> None:
    """Remove every level of a symbol."""
    for side in range(2):
        key = symbol * 2 + side
        while book.best[key] != NONE:
            level = book.best[key]
            remove(book, find_slot(book, key, book.levels[level]["price"]))


def warm_up() -> None:
    """Compile or load every kernel with the live array types."""
    book = new_book(symbols_max=2, levels_max=2)
    update(book, 1, BID, 100, 1)
    best(book, 1, BID)
    clear(book, 1)
