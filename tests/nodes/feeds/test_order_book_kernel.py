"""The order book against one dict of orders: random messages, compiled and not; full, cleared, colliding."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fabric.records import NULL
from naive_book import NaiveBook
from nodes.feeds import order_book_kernel as kernel
from nodes.feeds.order_book_kernel import ASK, BID, DUPLICATE, FULL, INVALID, OK

NAMES = ("add", "find", "reduce", "remove", "change", "replace", "best", "clear", "clear_all")
COMPILED: Any = SimpleNamespace(**{name: getattr(kernel, name) for name in NAMES})
PLAIN: Any = SimpleNamespace(**{name: getattr(kernel, name).py_func for name in NAMES})
SYMBOLS = 4


def levels_of(book: kernel.OrderBook, symbol: int, side: int) -> list[tuple[int, int, int]]:
    """(price, size, orders) from the best on, with the ladder's order and its best checked."""
    ladder = book.ladders[symbol * 2 + side]
    rungs = book.rungs[ladder["start"] :][: ladder["count"]]
    assert ladder["best"] == (rungs[-1]["level"] if ladder["count"] else 0)
    assert (np.diff(rungs["rank"]) > 0).all()
    assert rungs["rank"].tolist() == [
        level["price"] * (1 if side == BID else -1) for level in book.levels[rungs["level"]]
    ]
    return [
        (int(level["price"]), int(level["size"]), int(level["orders"])) for level in book.levels[rungs["level"][::-1]]
    ]


def orders_of(book: kernel.OrderBook) -> dict[int, tuple[int, int, int, int]]:
    """Every order that is found by its id."""
    ids = book.orders["id"][book.orders["word"] != 0].tolist()
    slots = {order_id: slot for order_id in ids if (slot := kernel.find(book, order_id)) >= 0}
    return {
        order_id: (
            kernel.symbol_of(book, slot),
            kernel.side_of(book, slot),
            kernel.price_of(book, slot),
            kernel.size_of(book, slot),
        )
        for order_id, slot in slots.items()
    }


def check(book: kernel.OrderBook, naive: NaiveBook, why: str) -> None:
    """Every order, level and counter is as the twin has it."""
    expected = {i: (order.symbol, order.side, order.price, order.size) for i, order in naive.orders.items()}
    assert orders_of(book) == expected, why
    levels = 0
    for symbol in range(SYMBOLS):
        for side in (BID, ASK):
            wanted = naive.levels(symbol, side)
            assert levels_of(book, symbol, side) == wanted, why
            levels += len(wanted)
    counted = [book.counters[column] for column in (kernel.ORDERS, kernel.LEVELS, kernel.DUPLICATES, kernel.OVERDRAWN)]
    assert counted == [len(naive.orders), levels, naive.duplicates, naive.overdrawn], why


def step(chance: random.Random, use: Any, book: kernel.OrderBook, naive: NaiveBook, ids: range) -> None:
    """One random message to both."""
    order_id, new_id = chance.choice(ids), chance.choice(ids)
    price, size = chance.randrange(1, 25) * 10_000_000, chance.randrange(1, 5) * 100
    slot = use.find(book, order_id)
    assert (slot >= 0) == (order_id in naive.orders)
    if slot < 0:
        symbol, side = chance.randrange(SYMBOLS), chance.choice((BID, ASK))
        assert use.add(book, symbol, side, order_id, price, size) == OK
        naive.add(symbol, side, order_id, price, size)
        return
    match chance.randrange(12):
        case 0:
            assert use.add(book, 0, BID, order_id, price, size) == DUPLICATE
            naive.add(0, BID, order_id, price, size)
        case 1 | 2 | 3:
            assert use.reduce(book, slot, size) == naive.reduce(order_id, size)
        case 4 | 5:
            use.remove(book, slot)
            del naive.orders[order_id]
        case 6 | 7:
            size = chance.choice((0, size))
            assert use.change(book, slot, price, size) == OK
            naive.change(order_id, price, size)
        case 8 | 9 | 10:
            found = use.replace(book, slot, new_id, price, size)
            assert found == (OK if naive.replace(order_id, new_id, price, size) else DUPLICATE)
        case _:
            symbol = chance.randrange(SYMBOLS)
            use.clear(book, symbol)
            naive.clear(symbol)


@pytest.mark.parametrize("use", [pytest.param(COMPILED, id="compiled"), pytest.param(PLAIN, id="python")])
@pytest.mark.parametrize("first_id", [0, -60, 2**63 - 200, 1 << 40])
def test_equals_one_dict(use: Any, first_id: int) -> None:
    seed = first_id & 0xFFFF
    chance = random.Random(seed)
    book = kernel.new_book(SYMBOLS, orders_max=128, levels_max=128)
    naive = NaiveBook()
    for i in range(3_000):
        step(chance, use, book, naive, range(first_id, first_id + 120))
        symbol, side = chance.randrange(SYMBOLS), chance.choice((BID, ASK))
        assert use.best(book, symbol, side) == (naive.best(symbol, side) or (NULL, NULL)), f"seed {seed}, step {i}"
        if i % 50 == 0:
            check(book, naive, f"seed {seed}, step {i}")
    check(book, naive, f"seed {seed}")
    use.clear_all(book)
    check(book, NaiveBook(duplicates=naive.duplicates, overdrawn=naive.overdrawn), f"seed {seed}")
    assert book.counters[kernel.REFUSED] == 0


def test_an_empty_side_has_no_best() -> None:
    book = kernel.new_book(1, 1, 1)
    assert kernel.best(book, 0, ASK) == (NULL, NULL)
    assert kernel.find(book, 0) == -1
    kernel.add(book, 0, ASK, 0, 100, 5)
    kernel.remove(book, kernel.find(book, 0))
    assert kernel.best(book, 0, ASK) == (NULL, NULL)


def test_full_tables_refuse_and_count_then_take_again() -> None:
    book = kernel.new_book(2, orders_max=3, levels_max=2)
    assert [kernel.add(book, 1, BID, i, 100 + i, 10) for i in range(3)] == [OK, OK, FULL]
    assert [kernel.add(book, 1, BID, i, 100, 10) for i in range(3, 6)] == [OK, FULL, FULL]
    assert book.counters[kernel.REFUSED] == 3
    assert levels_of(book, 1, BID) == [(101, 10, 1), (100, 20, 2)]
    kernel.remove(book, kernel.find(book, 1))
    assert kernel.add(book, 1, BID, 9, 99, 10) == OK
    assert kernel.change(book, kernel.find(book, 0), 98, 10) == FULL  # it leaves its level to another: none is free
    assert kernel.find(book, 0) == -1
    assert levels_of(book, 1, BID) == [(100, 10, 1), (99, 10, 1)]


@pytest.mark.parametrize("size", [0, -1, kernel.SIZE_MAX + 1])
def test_impossible_sizes_are_refused(size: int) -> None:
    book = kernel.new_book(1, 4, 4)
    assert kernel.add(book, 0, BID, 1, 100, size) == INVALID
    assert kernel.add(book, 0, BID, 1, 100, kernel.SIZE_MAX) == OK
    assert kernel.reduce(book, kernel.find(book, 1), -5) == 0
    assert book.counters[kernel.REFUSED] == 1
    assert kernel.best(book, 0, BID) == (100, kernel.SIZE_MAX)


def test_orders_of_a_cleared_symbol_give_room_when_it_is_needed() -> None:
    book = kernel.new_book(2, orders_max=64, levels_max=128)
    for order_id in range(64):
        assert kernel.add(book, order_id & 1, ASK, order_id, 100 + order_id, 10) == OK
    kernel.clear(book, 0)
    assert (book.counters[kernel.ORDERS], book.counters[kernel.DEAD]) == (32, 32)
    assert kernel.find(book, 0) == -1
    assert kernel.add(book, 1, BID, 2, 50, 10) == OK  # the id of a dead order
    assert book.counters[kernel.DEAD] == 31
    assert kernel.add(book, 1, BID, 1_000, 50, 10) == OK
    assert (book.counters[kernel.ORDERS], book.counters[kernel.DEAD]) == (34, 0)
    assert set(orders_of(book)) == {*range(1, 64, 2), 2, 1_000}
    assert kernel.best(book, 1, BID) == (50, 20)
    assert kernel.best(book, 1, ASK) == (101, 10)


def test_levels_of_a_cleared_symbol_give_room_when_it_is_needed() -> None:
    book = kernel.new_book(2, 64, 4)
    for start in range(0, 40, 4):
        assert [kernel.add(book, 0, BID, start + i, 100 + i, 1) for i in range(4)] == [OK] * 4
        kernel.clear(book, 0)
    assert kernel.add(book, 0, BID, 99, 100, 1) == OK
    assert (book.counters[kernel.LEVELS], book.counters[kernel.REFUSED]) == (1, 0)


def test_removals_among_colliding_neighbours_lose_nobody() -> None:
    book = kernel.new_book(1, orders_max=512, levels_max=4)
    ids = [i * 8 for i in range(512)]  # all of one remainder: they crowd
    for order_id in ids:
        kernel.add(book, 0, BID, order_id, 100, 1)
    random.Random(3).shuffle(ids)
    while ids:
        kernel.remove(book, kernel.find(book, ids.pop()))
        assert all(kernel.find(book, order_id) >= 0 for order_id in ids[:: max(1, len(ids) // 16)])
    assert book.counters[kernel.ORDERS] == 0
    assert not book.orders["word"].any()


@pytest.mark.parametrize("side", [BID, ASK])
def test_long_ladders_stay_sorted_and_give_their_runs_back(side: int) -> None:
    chance = random.Random(side)
    book, naive = kernel.new_book(2, orders_max=2_000, levels_max=2_000), NaiveBook()
    for cycle in range(20):  # as many runs as the pool holds only if they are used again
        symbol = cycle & 1
        ids = list(range(600))
        chance.shuffle(ids)
        for order_id in ids:
            assert kernel.add(book, symbol, side, order_id, 1_000 + order_id, 10) == OK
            naive.add(symbol, side, order_id, 1_000 + order_id, 10)
        assert levels_of(book, symbol, side) == naive.levels(symbol, side)
        for order_id in chance.sample(ids, 600 if cycle % 3 else 500):
            kernel.remove(book, kernel.find(book, order_id))
            del naive.orders[order_id]
        assert levels_of(book, symbol, side) == naive.levels(symbol, side)
        kernel.clear(book, symbol)
        naive.clear(symbol)
    assert book.counters[kernel.LEVELS] == book.counters[kernel.REFUSED] == 0


def test_a_ladder_that_finds_no_longer_run_refuses_and_counts() -> None:
    book = kernel.new_book(1, orders_max=64, levels_max=40)
    book.pool[kernel._FRESH_RUNG] = book.rungs.size - 8  # one short run is left
    assert [kernel.add(book, 0, BID, i, 100 + i, 1) for i in range(9)] == [OK] * 8 + [FULL]
    assert levels_of(book, 0, BID) == [(107 - i, 1, 1) for i in range(8)]
    kernel.clear(book, 0)
    assert kernel.add(book, 0, ASK, 99, 100, 1) == OK
