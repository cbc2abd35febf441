"""The order book of every feed that tells single orders, compiled (pure): order id -> order -> price level -> best.

All memory is preallocated. An order is two words in an open-addressing table: its id, and its level and size in one;
consecutive ids share cache lines, as most orders that go came lately. A level holds price, size and number of all its
orders. The levels of a symbol's side stand in its ladder, sorted, the best last: a run of a common pool that moves to a
longer one when it is full, and is given back when it is empty. So the best is read in O(1), a change touches one order
and one level, and a new level costs a look along the ladder from the best to its place, where levels come and go.

Clearing a symbol voids its levels and leaves their orders behind, dead: they are dropped where they are met, and swept
when table or pool is full. A pool or table that is full refuses and counts.

A slot, as `find` gives it, is good until the next call that adds or takes away an order. Functions are part of the
machine code of their callers: call each in one place of a kernel. Orders of a whole market do not fit into a
processor's caches; who knows which orders come next can ask for their memory beforehand (`expect_...`).
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import lean, lean_kernel
from fabric.native import prefetch
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
_FRESH_RUNG = 3  # the first rung that was never used
_FREE_RUNS = 4  # by step: the first rung of a run that was given back, plus 1; 0 if none
_STEPS = 40

STEP_RUNGS = 4
"""A run of step n has this many rungs times two to the n; step 0 is none."""
NEAR = 16
"""Rungs from the best that are looked at one by one; beyond them the place is found by halving."""

ORDER = np.dtype([("id", "<i8"), ("word", "<i8")])
"""``word`` is level << SIZE_BITS | size, 0 where the slot is free."""
RUNG = np.dtype([("rank", "<i8"), ("level", "<i8")])
"""``rank`` sorts to the best: the price of a bid, minus the price of an ask."""
LEVEL = np.dtype(
    [
        ("price", "<i8"),
        ("size", "<i8"),  # of all its orders
        ("orders", "<i8"),  # how many; also links the free levels
        ("key", "<i8"),  # symbol * 2 + side; -1 when it was cleared
    ]
)
LADDER = np.dtype(
    [
        ("best", "<i8"),  # level, 0 if none
        ("start", "<i8"),  # first rung of its run
        ("count", "<i8"),  # levels
        ("step", "<i8"),  # of its run
    ]
)
ORDER_BYTES = ORDER.itemsize
RUNG_BYTES = RUNG.itemsize
LEVEL_BYTES = LEVEL.itemsize
LADDER_BYTES = LADDER.itemsize


class OrderBook(NamedTuple):
    """The book's arrays, as kernels take them. Level 0 stands for none: its price and size are NULL."""

    orders: npt.NDArray[np.void]  # [power of two] ORDER
    levels: npt.NDArray[np.void]  # [levels_max + 1] LEVEL
    ladders: npt.NDArray[np.void]  # [symbols_max * 2] LADDER of each key
    rungs: npt.NDArray[np.void]  # RUNG
    pool: npt.NDArray[np.int64]
    counters: npt.NDArray[np.int64]  # [N_COUNTERS]


def new_book(symbols_max: int, orders_max: int, levels_max: int) -> OrderBook:
    """An empty book for symbols below ``symbols_max``, with room for that many orders and levels in all.

    Memory is 32 to 64 bytes an order, about 100 a level and 300 a symbol, taken from the system as it is first used.
    A ladder keeps the longest run that it has needed, so there is room for four times the levels.
    """
    assert 0 < levels_max <= LEVELS_MAX
    book = OrderBook(
        orders=_lines(max(8, 1 << (2 * orders_max - 1).bit_length()) * ORDER_BYTES // 8).view(ORDER),
        levels=_lines((levels_max + 1) * LEVEL_BYTES // 8).view(LEVEL),
        ladders=_lines(symbols_max * 2 * LADDER_BYTES // 8).view(LADDER),
        rungs=_lines((4 * levels_max + 4 * STEP_RUNGS * symbols_max) * RUNG_BYTES // 8).view(RUNG),
        pool=np.zeros(_FREE_RUNS + _STEPS, np.int64),
        counters=np.zeros(N_COUNTERS, np.int64),
    )
    book.pool[_ORDERS_MAX], book.pool[_FRESH] = orders_max, 1
    book.levels["price"][0] = book.levels["size"][0] = NULL
    return book


def _lines(count: int) -> npt.NDArray[np.int64]:
    """Zeros that begin at a cache line."""
    raw = np.zeros(count + 8, np.int64)
    return raw[-(raw.ctypes.data // 8) % 8 :][:count]


@lean
def home_slot(orders: Any, order_id: int) -> int:
    """Where the search for an order begins: 64 consecutive ids begin at 64 consecutive slots."""
    mixed = (order_id >> 6) * 0x1E3779B97F4A7C15
    return ((mixed >> 29) << 6 | order_id & 63) & (orders.size - 1)


@lean
def probe(orders: Any, order_id: int) -> int:
    """The slot that holds the order, or the free one where it would go."""
    mask = orders.size - 1
    slot = home_slot(orders, order_id)
    while orders[slot]["word"] != 0 and orders[slot]["id"] != order_id:
        slot = (slot + 1) & mask
    return slot


@lean_kernel
def free_slot(orders: Any, slot: int) -> None:
    """Empty a slot and move back what had been pushed behind it, so that searches need no tombstones."""
    mask = orders.size - 1
    hole = slot
    following = (slot + 1) & mask
    while orders[following]["word"] != 0:
        home = home_slot(orders, orders[following]["id"])
        if ((following - home) & mask) >= ((following - hole) & mask):
            orders[hole]["id"] = orders[following]["id"]
            orders[hole]["word"] = orders[following]["word"]
            hole = following
        following = (following + 1) & mask
    orders[hole]["word"] = 0


@lean
def rank_of(key: int, price: int) -> int:
    """What sorts the levels of a side to the best."""
    return -price if key & 1 else price


@lean
def find_rung(rungs: Any, start: int, count: int, rank: int) -> int:
    """How many of a ladder's rungs are worse than ``rank``: where it stands or would stand."""
    at = count
    near = max(0, count - NEAR)
    while at > near and rungs[start + at - 1]["rank"] >= rank:
        at -= 1
    if at > 0 and at == near and rungs[start + at - 1]["rank"] >= rank:
        low = 0
        at -= 1
        while low < at:
            middle = (low + at) >> 1
            if rungs[start + middle]["rank"] >= rank:
                at = middle
            else:
                low = middle + 1
    return at


@lean
def give_back_run(ladder: Any, rungs: Any, pool: Any) -> None:
    """Return a ladder's run, if it has one, to the pool."""
    step = ladder["step"]
    if step > 0:
        rungs[ladder["start"]]["rank"] = pool[_FREE_RUNS + step]
        pool[_FREE_RUNS + step] = ladder["start"] + 1
    ladder["step"] = 0


@lean_kernel
def lengthen(ladders: Any, rungs: Any, pool: Any, key: int) -> bool:
    """Move a ladder to a run of twice the length; False when there is none."""
    ladder = ladders[key]
    step = ladder["step"] + 1
    start = pool[_FREE_RUNS + step] - 1
    if start >= 0:
        pool[_FREE_RUNS + step] = rungs[start]["rank"]
    else:
        start = pool[_FRESH_RUNG]
        if start + (STEP_RUNGS << step) > rungs.size:
            return False
        pool[_FRESH_RUNG] = start + (STEP_RUNGS << step)
    for i in range(ladder["count"]):
        rungs[start + i]["rank"] = rungs[ladder["start"] + i]["rank"]
        rungs[start + i]["level"] = rungs[ladder["start"] + i]["level"]
    give_back_run(ladder, rungs, pool)
    ladder["start"] = start
    ladder["step"] = step
    return True


@lean_kernel
def new_level(levels: Any, ladders: Any, rungs: Any, pool: Any, counters: Any, key: int, price: int, at: int) -> int:
    """Take a level from the pool and put it on rung ``at``; 0 when there is no level or no rung."""
    ladder = ladders[key]
    count = ladder["count"]
    new = pool[_FREE]
    if new == 0 and pool[_FRESH] >= levels.size:
        return 0
    if (ladder["step"] == 0 or count == STEP_RUNGS << ladder["step"]) and not lengthen(ladders, rungs, pool, key):
        return 0
    if new != 0:
        pool[_FREE] = levels[new]["orders"]
    else:
        new = pool[_FRESH]
        pool[_FRESH] = new + 1
    start = ladder["start"]
    for i in range(start + count, start + at, -1):
        rungs[i]["rank"] = rungs[i - 1]["rank"]
        rungs[i]["level"] = rungs[i - 1]["level"]
    rungs[start + at]["rank"] = rank_of(key, price)
    rungs[start + at]["level"] = new
    ladder["count"] = count + 1
    if at == count:
        ladder["best"] = new
    level = levels[new]
    level["price"] = price
    level["size"] = 0
    level["orders"] = 0
    level["key"] = key
    counters[LEVELS] += 1
    return new


@lean_kernel
def drop_level(levels: Any, ladders: Any, rungs: Any, pool: Any, counters: Any, number: int) -> None:
    """Return a level without orders to the pool; one of a cleared symbol stands on no ladder any more."""
    level = levels[number]
    key = level["key"]
    if key >= 0:
        ladder = ladders[key]
        start = ladder["start"]
        count = ladder["count"] - 1
        for i in range(start + find_rung(rungs, start, count + 1, rank_of(key, level["price"])), start + count):
            rungs[i]["rank"] = rungs[i + 1]["rank"]
            rungs[i]["level"] = rungs[i + 1]["level"]
        ladder["count"] = count
        if count > 0:
            ladder["best"] = rungs[start + count - 1]["level"]
        else:
            ladder["best"] = 0
            give_back_run(ladder, rungs, pool)
        counters[LEVELS] -= 1
    level["orders"] = pool[_FREE]
    pool[_FREE] = number


@lean
def erase(book: Any, slot: int) -> None:
    """Take the order in ``slot``, dead or not, out of table and level."""
    word = book.orders[slot]["word"]
    number = word >> SIZE_BITS
    level = book.levels[number]
    level["orders"] -= 1
    level["size"] -= word & SIZE_MAX
    book.counters[ORDERS if level["key"] >= 0 else DEAD] -= 1
    free_slot(book.orders, slot)
    if level["orders"] == 0:
        drop_level(book.levels, book.ladders, book.rungs, book.pool, book.counters, number)


@lean_kernel
def sweep(book: Any) -> None:
    """Drop every dead order: reads the whole table."""
    slot = 0
    while slot < book.orders.size and book.counters[DEAD] > 0:
        word = book.orders[slot]["word"]
        if word != 0 and book.levels[word >> SIZE_BITS]["key"] < 0:
            erase(book, slot)  # another may move into the slot: look again
        else:
            slot += 1


@lean
def is_full(book: Any) -> bool:
    """Whether there is no room for another order or another level before a sweep."""
    no_order = book.counters[ORDERS] + book.counters[DEAD] >= book.pool[_ORDERS_MAX]
    return no_order or (book.pool[_FREE] == 0 and book.pool[_FRESH] >= book.levels.size)


@lean_kernel
def make_room(book: Any, slot: int) -> int:
    """Clear the way of a new order to its slot: OK when nothing keeps it, else why it is refused (counted)."""
    word = book.orders[slot]["word"]
    if word != 0:
        if book.levels[word >> SIZE_BITS]["key"] >= 0:
            book.counters[DUPLICATES] += 1
            return DUPLICATE
        erase(book, slot)
    if book.counters[DEAD] > 0 and is_full(book):
        sweep(book)
    if book.counters[ORDERS] >= book.pool[_ORDERS_MAX]:
        book.counters[REFUSED] += 1
        return FULL
    return OK


@lean
def insert(book: Any, key: int, order_id: int, price: int, size: int) -> int:
    """Put an order into the book: OK, or why not, counted."""
    if size < 1 or size > SIZE_MAX:
        book.counters[REFUSED] += 1
        return INVALID
    slot = probe(book.orders, order_id)
    if book.orders[slot]["word"] != 0 or is_full(book):
        obstacle = make_room(book, slot)
        if obstacle != OK:
            return obstacle
        slot = probe(book.orders, order_id)
    ladder = book.ladders[key]
    start = ladder["start"]
    rank = rank_of(key, price)
    at = find_rung(book.rungs, start, ladder["count"], rank)
    if at < ladder["count"] and book.rungs[start + at]["rank"] == rank:
        number = book.rungs[start + at]["level"]
    else:
        number = new_level(book.levels, book.ladders, book.rungs, book.pool, book.counters, key, price, at)
        if number == 0:
            book.counters[REFUSED] += 1
            return FULL
    level = book.levels[number]
    level["orders"] += 1
    level["size"] += size
    book.orders[slot]["id"] = order_id
    book.orders[slot]["word"] = number << SIZE_BITS | size
    book.counters[ORDERS] += 1
    return OK


@lean
def expect_order(book: Any, order_id: int) -> None:
    """Ask for the memory where an order is or goes."""
    prefetch(book.orders.ctypes.data + home_slot(book.orders, order_id) * ORDER_BYTES)


@lean
def expect_level_of(book: Any, order_id: int) -> None:
    """Ask for the level of an order that was expected before."""
    slot = home_slot(book.orders, order_id)
    if book.orders[slot]["id"] == order_id:
        prefetch(book.levels.ctypes.data + (book.orders[slot]["word"] >> SIZE_BITS) * LEVEL_BYTES)


@lean
def expect_ladder(book: Any, symbol: int) -> None:
    """Ask for the ladders of a symbol: both sides are one cache line."""
    prefetch(book.ladders.ctypes.data + symbol * 2 * LADDER_BYTES)


@lean
def expect_rungs(book: Any, key: int) -> None:
    """Ask for the best rungs of a ladder that was expected before."""
    ladder = book.ladders[key]
    prefetch(book.rungs.ctypes.data + (ladder["start"] + max(np.int64(1), ladder["count"]) - 1) * RUNG_BYTES)


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
    word = book.orders[slot]["word"]
    if word == 0 or book.levels[word >> SIZE_BITS]["key"] < 0:
        return -1
    return slot


@lean
def symbol_of(book: Any, slot: int) -> int:
    """The symbol of the order in ``slot``."""
    return book.levels[book.orders[slot]["word"] >> SIZE_BITS]["key"] >> 1


@lean
def side_of(book: Any, slot: int) -> int:
    """BID or ASK."""
    return book.levels[book.orders[slot]["word"] >> SIZE_BITS]["key"] & 1


@lean
def price_of(book: Any, slot: int) -> int:
    """The price of the order in ``slot``."""
    return book.levels[book.orders[slot]["word"] >> SIZE_BITS]["price"]


@lean
def size_of(book: Any, slot: int) -> int:
    """The shares that are left of the order in ``slot``."""
    return book.orders[slot]["word"] & SIZE_MAX


@lean
def remove(book: Any, slot: int) -> None:
    """Take the order out of the book."""
    erase(book, slot)


@lean
def reduce(book: Any, slot: int, size: int) -> int:
    """Take ``size`` shares off the order, and the order away when none are left; return how many it really lost.

    More than it has is counted (OVERDRAWN) and takes what there is.
    """
    word = book.orders[slot]["word"]
    held = word & SIZE_MAX
    if size > held:
        book.counters[OVERDRAWN] += 1
    taken = max(np.int64(0), min(size, held))
    if taken == held:
        erase(book, slot)
    else:
        book.orders[slot]["word"] = word - taken
        book.levels[word >> SIZE_BITS]["size"] -= taken
    return taken


@lean
def change(book: Any, slot: int, price: int, size: int) -> int:
    """Give the order another price and size; of size 0 it goes. Returns OK, or why it is gone (counted)."""
    word = book.orders[slot]["word"]
    level = book.levels[word >> SIZE_BITS]
    if level["price"] == price and 0 < size <= SIZE_MAX:
        level["size"] += size - (word & SIZE_MAX)
        book.orders[slot]["word"] = word - (word & SIZE_MAX) + size
        return OK
    key = level["key"]
    order_id = book.orders[slot]["id"]
    erase(book, slot)
    return OK if size == 0 else insert(book, key, order_id, price, size)


@lean
def replace(book: Any, slot: int, new_id: int, price: int, size: int) -> int:
    """Take the order away and put another in its symbol and side; returns what became of the new one, as `add`."""
    key = book.levels[book.orders[slot]["word"] >> SIZE_BITS]["key"]
    erase(book, slot)
    return insert(book, key, new_id, price, size)


@lean
def best(book: Any, symbol: int, side: int) -> tuple[int, int]:
    """Price and size of all orders at the best of a side; both NULL where the side is empty."""
    level = book.levels[book.ladders[symbol * 2 + side]["best"]]
    return level["price"], level["size"]


@lean_kernel
def clear(book: Any, symbol: int) -> None:
    """Take away every order of a symbol: costs its levels; the orders take room until they are met or swept."""
    for key in range(symbol * 2, symbol * 2 + 2):
        ladder = book.ladders[key]
        for i in range(ladder["start"], ladder["start"] + ladder["count"]):
            level = book.levels[book.rungs[i]["level"]]
            level["key"] = -1
            book.counters[ORDERS] -= level["orders"]
            book.counters[DEAD] += level["orders"]
            book.counters[LEVELS] -= 1
        ladder["count"] = 0
        ladder["best"] = 0
        give_back_run(ladder, book.rungs, book.pool)


@lean_kernel
def clear_all(book: Any) -> None:
    """Empty the book: writes the table of orders."""
    for i in range(book.orders.size):
        book.orders[i]["word"] = 0
    for key in range(book.ladders.size):
        ladder = book.ladders[key]
        ladder["best"] = 0
        ladder["count"] = 0
        ladder["step"] = 0
    for i in range(_FRESH, book.pool.size):
        book.pool[i] = 0
    book.pool[_FRESH] = 1
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
