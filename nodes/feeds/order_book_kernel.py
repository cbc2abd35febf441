"""The order book of every feed that tells single orders, compiled (pure): order id -> order -> price level -> best.

Two open-addressing tables and one pool, all preallocated. An order is two words in the first table: its id,
and its level and size in one; consecutive ids share cache lines, as most orders that go came lately. A level
is one cache line of the pool: price, size and number of all its orders, and its neighbours in the list of its
symbol's side, sorted from the best. The second table finds a level by symbol, side and price. So the best is
read in O(1), and a change touches one order and one level; only a new level walks from the best, its distance from it.

Clearing a symbol voids its levels and leaves their orders behind, dead: they are dropped where they are met, and swept
when table or pool is full. A pool or table that is full refuses and counts.

A slot, as `find` gives it, is good until the next call that adds or takes away an order. Functions are part of the
machine code of their callers: call each in one place of a kernel.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.records import NULL

BID = 0
ASK = 1

# What `add`, `change` and `replace` return.
OK = 0
DUPLICATE = 1  # an order of that id is in the book, and stays as it is
FULL = 2  # no room for the order or its level
INVALID = 3  # a size below 1 or above SIZE_MAX

SIZE_BITS = 36
SIZE_MAX = (1 << SIZE_BITS) - 1
"""Shares in the largest order."""
LEVELS_MAX = (1 << 63 - SIZE_BITS) - 1

# Columns of `counters`.
ORDERS = 0  # in the book
LEVELS = 1  # in the book
REFUSED = 2  # orders that found no room (FULL) or were INVALID
DUPLICATES = 3  # orders whose id was in the book
ORPHANS = 4  # messages about an order that is not in the book; counted by the caller
OVERDRAWN = 5  # reductions by more than the order had
DEAD = 6  # orders of cleared symbols that still take room
N_COUNTERS = 7

_ORDERS_MAX = 0  # columns of `pool`
_FRESH = 1  # the first level that was never used
_FREE = 2  # the first level that was given back, 0 if none

LEVEL = np.dtype(
    [
        ("price", "<i8"),
        ("size", "<i8"),  # of all its orders
        ("orders", "<i8"),
        ("key", "<i8"),  # symbol * 2 + side; -1 when it was cleared
        ("rank", "<i8"),  # sorts from the best: the price of an ask, minus the price of a bid
        ("better", "<i8"),  # neighbours in the list of its key; 0 at the ends
        ("worse", "<i8"),  # also links the free levels
        ("_line", "<i8"),  # fills the cache line
    ]
)


class OrderBook(NamedTuple):
    """The book's arrays, as kernels take them. Level 0 stands for none: its price and size are NULL."""

    orders: npt.NDArray[np.int64]  # [power of two, 2] id; level << SIZE_BITS | size, 0 where free
    levels: npt.NDArray[np.void]  # [levels_max + 1] LEVEL
    places: npt.NDArray[np.int64]  # [power of two] level, 0 where free
    best: npt.NDArray[np.int64]  # [symbols_max * 2] best level of each key
    pool: npt.NDArray[np.int64]
    counters: npt.NDArray[np.int64]  # [N_COUNTERS]


def new_book(symbols_max: int, orders_max: int, levels_max: int) -> OrderBook:
    """An empty book for symbols below ``symbols_max``, with room for that many orders and levels in all.

    Memory is 32 to 64 bytes an order and 80 to 96 a level, taken from the system as it is first used.
    """
    assert 0 < levels_max <= LEVELS_MAX
    book = OrderBook(
        orders=_lines(max(8, 1 << (2 * orders_max - 1).bit_length()) * 2).reshape(-1, 2),
        levels=_lines((levels_max + 1) * LEVEL.itemsize // 8).view(LEVEL),
        places=_lines(1 << (2 * levels_max - 1).bit_length()),
        best=np.zeros(symbols_max * 2, np.int64),
        pool=np.array([orders_max, 1, 0], np.int64),
        counters=np.zeros(N_COUNTERS, np.int64),
    )
    book.levels["price"][0] = book.levels["size"][0] = NULL
    return book


def _lines(count: int) -> npt.NDArray[np.int64]:
    """Zeros that begin at a cache line."""
    raw = np.zeros(count + 8, np.int64)
    return raw[-(raw.ctypes.data // 8) % 8 :][:count]


@lean
def home_slot(orders: Any, order_id: int) -> int:
    """Where the search for an order begins: eight consecutive ids begin at eight consecutive slots."""
    mixed = (order_id >> 3) * 0x1E3779B97F4A7C15
    return ((mixed >> 29) << 3 | order_id & 7) & (orders.shape[0] - 1)


@lean
def probe(orders: Any, order_id: int) -> int:
    """The slot that holds the order, or the free one where it would go."""
    mask = orders.shape[0] - 1
    slot = home_slot(orders, order_id)
    while orders[slot, 1] != 0 and orders[slot, 0] != order_id:
        slot = (slot + 1) & mask
    return slot


@lean_kernel
def free_slot(orders: Any, slot: int) -> None:
    """Empty a slot and move back what had been pushed behind it, so that searches need no tombstones."""
    mask = orders.shape[0] - 1
    hole = slot
    following = (slot + 1) & mask
    while orders[following, 1] != 0:
        home = home_slot(orders, orders[following, 0])
        if ((following - home) & mask) >= ((following - hole) & mask):
            orders[hole, 0] = orders[following, 0]
            orders[hole, 1] = orders[following, 1]
            hole = following
        following = (following + 1) & mask
    orders[hole, 1] = 0


@lean
def home_place(places: Any, key: int, price: int) -> int:
    """Where the search for a level begins."""
    mixed = (price + key * 0x1F83D9ABFB41BD6B) * 0x1E3779B97F4A7C15
    return (mixed >> 29) & (places.size - 1)


@lean
def find_place(levels: Any, places: Any, key: int, price: int) -> int:
    """The place that holds the level, or the free one where it would go."""
    mask = places.size - 1
    place = home_place(places, key, price)
    while True:
        level = places[place]
        if level == 0 or (levels[level]["price"] == price and levels[level]["key"] == key):
            return place
        place = (place + 1) & mask


@lean_kernel
def free_place(levels: Any, places: Any, place: int) -> None:
    """As `free_slot`, for levels."""
    mask = places.size - 1
    hole = place
    following = (place + 1) & mask
    while places[following] != 0:
        level = places[following]
        home = home_place(places, levels[level]["key"], levels[level]["price"])
        if ((following - home) & mask) >= ((following - hole) & mask):
            places[hole] = level
            hole = following
        following = (following + 1) & mask
    places[hole] = 0


@lean_kernel
def new_level(levels: Any, best: Any, pool: Any, counters: Any, key: int, price: int) -> int:
    """Take a level from the pool and link it in its order; 0 when the pool is empty."""
    new = pool[_FREE]
    if new != 0:
        pool[_FREE] = levels[new]["worse"]
    elif pool[_FRESH] < levels.size:
        new = pool[_FRESH]
        pool[_FRESH] = new + 1
    else:
        return 0
    rank = price if key & 1 else -price
    better = np.int64(0)
    worse = best[key]
    while worse != 0 and levels[worse]["rank"] < rank:
        better = worse
        worse = levels[worse]["worse"]
    level = levels[new]
    level["price"] = price
    level["size"] = 0
    level["orders"] = 0
    level["key"] = key
    level["rank"] = rank
    level["better"] = better
    level["worse"] = worse
    if better == 0:
        best[key] = new
    else:
        levels[better]["worse"] = new
    levels[worse]["better"] = new  # level 0 may take anything here
    counters[LEVELS] += 1
    return new


@lean
def give_back(levels: Any, pool: Any, level: int) -> None:
    """Return a level to the pool."""
    levels[level]["worse"] = pool[_FREE]
    pool[_FREE] = level


@lean_kernel
def drop_level(levels: Any, places: Any, best: Any, pool: Any, counters: Any, level: int) -> None:
    """Unlink a level without orders and return it to the pool; one of a cleared symbol is in no list."""
    gone = levels[level]
    if gone["key"] >= 0:
        free_place(levels, places, find_place(levels, places, gone["key"], gone["price"]))
        if gone["better"] == 0:
            best[gone["key"]] = gone["worse"]
        else:
            levels[gone["better"]]["worse"] = gone["worse"]
        levels[gone["worse"]]["better"] = gone["better"]
        counters[LEVELS] -= 1
    give_back(levels, pool, level)


@lean
def erase(book: Any, slot: int) -> None:
    """Take the order in ``slot``, dead or not, out of table and level."""
    word = book.orders[slot, 1]
    number = word >> SIZE_BITS
    level = book.levels[number]
    level["orders"] -= 1
    level["size"] -= word & SIZE_MAX
    book.counters[ORDERS if level["key"] >= 0 else DEAD] -= 1
    free_slot(book.orders, slot)
    if level["orders"] == 0:
        drop_level(book.levels, book.places, book.best, book.pool, book.counters, number)


@lean_kernel
def sweep(book: Any) -> None:
    """Drop every dead order: reads the whole table."""
    slot = 0
    while slot < book.orders.shape[0] and book.counters[DEAD] > 0:
        word = book.orders[slot, 1]
        if word != 0 and book.levels[word >> SIZE_BITS]["key"] < 0:
            erase(book, slot)  # another may move into the slot: look again
        else:
            slot += 1


@lean
def insert(book: Any, key: int, order_id: int, price: int, size: int) -> int:
    """Put an order into the book: OK, or why not, counted."""
    if size < 1 or size > SIZE_MAX:
        book.counters[REFUSED] += 1
        return INVALID
    slot = probe(book.orders, order_id)
    word = book.orders[slot, 1]
    if word != 0:
        if book.levels[word >> SIZE_BITS]["key"] >= 0:
            book.counters[DUPLICATES] += 1
            return DUPLICATE
        erase(book, slot)
        slot = probe(book.orders, order_id)
    no_level = book.pool[_FREE] == 0 and book.pool[_FRESH] >= book.levels.size
    if book.counters[ORDERS] + book.counters[DEAD] >= book.pool[_ORDERS_MAX] or (no_level and book.counters[DEAD] > 0):
        sweep(book)
        if book.counters[ORDERS] >= book.pool[_ORDERS_MAX]:
            book.counters[REFUSED] += 1
            return FULL
        slot = probe(book.orders, order_id)
    place = find_place(book.levels, book.places, key, price)
    number = book.places[place]
    if number == 0:
        number = new_level(book.levels, book.best, book.pool, book.counters, key, price)
        if number == 0:
            book.counters[REFUSED] += 1
            return FULL
        book.places[place] = number
    level = book.levels[number]
    level["orders"] += 1
    level["size"] += size
    book.orders[slot, 0] = order_id
    book.orders[slot, 1] = number << SIZE_BITS | size
    book.counters[ORDERS] += 1
    return OK


@lean
def add(book: Any, symbol: int, side: int, order_id: int, price: int, size: int) -> int:
    """Put a new order into the book; ``side`` is BID or ASK. Returns OK, or why not (counted).

    ``symbol`` is below the book's ``symbols_max`` and ``price`` is not NULL: the caller has seen to both.
    """
    return insert(book, symbol * 2 + side, order_id, price, size)


@lean
def find(book: Any, order_id: int) -> int:
    """The slot of an order, or -1."""
    slot = probe(book.orders, order_id)
    word = book.orders[slot, 1]
    if word == 0 or book.levels[word >> SIZE_BITS]["key"] < 0:
        return -1
    return slot


@lean
def symbol_of(book: Any, slot: int) -> int:
    """The symbol of the order in ``slot``."""
    return book.levels[book.orders[slot, 1] >> SIZE_BITS]["key"] >> 1


@lean
def side_of(book: Any, slot: int) -> int:
    """BID or ASK."""
    return book.levels[book.orders[slot, 1] >> SIZE_BITS]["key"] & 1


@lean
def price_of(book: Any, slot: int) -> int:
    """The price of the order in ``slot``."""
    return book.levels[book.orders[slot, 1] >> SIZE_BITS]["price"]


@lean
def size_of(book: Any, slot: int) -> int:
    """The shares that are left of the order in ``slot``."""
    return book.orders[slot, 1] & SIZE_MAX


@lean
def remove(book: Any, slot: int) -> None:
    """Take the order out of the book."""
    erase(book, slot)


@lean
def reduce(book: Any, slot: int, size: int) -> int:
    """Take ``size`` shares off the order, and the order away when none are left; return how many it really lost.

    More than it has is counted (OVERDRAWN) and takes what there is.
    """
    word = book.orders[slot, 1]
    held = word & SIZE_MAX
    if size > held:
        book.counters[OVERDRAWN] += 1
    taken = max(np.int64(0), min(size, held))
    if taken == held:
        erase(book, slot)
    else:
        book.orders[slot, 1] = word - taken
        book.levels[word >> SIZE_BITS]["size"] -= taken
    return taken


@lean
def change(book: Any, slot: int, price: int, size: int) -> int:
    """Give the order another price and size; of size 0 it goes. Returns OK, or why it is gone (counted)."""
    word = book.orders[slot, 1]
    level = book.levels[word >> SIZE_BITS]
    if level["price"] == price and 0 < size <= SIZE_MAX:
        level["size"] += size - (word & SIZE_MAX)
        book.orders[slot, 1] = word - (word & SIZE_MAX) + size
        return OK
    key = level["key"]
    order_id = book.orders[slot, 0]
    erase(book, slot)
    return OK if size == 0 else insert(book, key, order_id, price, size)


@lean
def replace(book: Any, slot: int, new_id: int, price: int, size: int) -> int:
    """Take the order away and put another in its symbol and side; returns what became of the new one, as `add`."""
    key = book.levels[book.orders[slot, 1] >> SIZE_BITS]["key"]
    erase(book, slot)
    return insert(book, key, new_id, price, size)


@lean
def best(book: Any, symbol: int, side: int) -> tuple[int, int]:
    """Price and size of all orders at the best of a side; both NULL where the side is empty."""
    level = book.levels[book.best[symbol * 2 + side]]
    return level["price"], level["size"]


@lean_kernel
def clear(book: Any, symbol: int) -> None:
    """Take away every order of a symbol: costs its levels; the orders take room until they are met or swept."""
    for key in range(symbol * 2, symbol * 2 + 2):
        number = book.best[key]
        while number != 0:
            level = book.levels[number]
            free_place(book.levels, book.places, find_place(book.levels, book.places, key, level["price"]))
            level["key"] = -1
            book.counters[ORDERS] -= level["orders"]
            book.counters[DEAD] += level["orders"]
            book.counters[LEVELS] -= 1
            number = level["worse"]
        book.best[key] = 0


@lean_kernel
def clear_all(book: Any) -> None:
    """Empty the book: writes all its memory."""
    for i in range(book.orders.shape[0]):
        book.orders[i, 1] = 0
    for i in range(book.places.size):
        book.places[i] = 0
    for i in range(book.best.size):
        book.best[i] = 0
    book.pool[_FRESH] = 1
    book.pool[_FREE] = 0
    book.counters[ORDERS] = 0
    book.counters[LEVELS] = 0
    book.counters[DEAD] = 0


def warm_up() -> None:
    """Compile or load every function with the live array types."""
    book = new_book(symbols_max=2, orders_max=4, levels_max=4)
    add(book, 1, BID, 7, 100, 10)
    slot = find(book, 7)
    symbol_of(book, slot), side_of(book, slot), price_of(book, slot), size_of(book, slot)
    change(book, slot, 101, 10)
    reduce(book, find(book, 7), 1)
    replace(book, find(book, 7), 8, 100, 10)
    remove(book, find(book, 8))
    best(book, 1, BID)
    clear(book, 1)
    clear_all(book)
