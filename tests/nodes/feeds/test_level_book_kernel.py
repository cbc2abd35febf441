"""The level book against dicts and `min`/`max`, compiled and not."""

import random
from collections.abc import Callable

import numpy as np
import pytest

from fabric.records import NULL
from nodes.feeds import level_book_kernel as kernel
from nodes.feeds.level_book_kernel import ASK, BID

UPDATES = [pytest.param(kernel.update, id="compiled"), pytest.param(kernel.update.py_func, id="python")]


def levels_of(book: kernel.LevelBook, symbol: int, side: int) -> list[tuple[int, int]]:
    """(price, size) from the best on, with the links checked both ways."""
    found = []
    level, better = book.best[symbol * 2 + side], kernel.NONE
    while level != kernel.NONE:
        assert book.levels[level]["better"] == better
        found.append((int(book.levels[level]["price"]), int(book.levels[level]["size"])))
        level, better = book.levels[level]["worse"], level
    return found


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("seed", range(3))
def test_equals_dicts(update: Callable[..., None], seed: int) -> None:
    chance = random.Random(seed)
    book = kernel.new_book(symbols_max=4, levels_max=256)
    naive: dict[tuple[int, int], dict[int, int]] = {(symbol, side): {} for symbol in range(4) for side in (BID, ASK)}
    absent = 0
    for _ in range(2_000):
        symbol, side = chance.randrange(4), chance.choice((BID, ASK))
        price, size = chance.randrange(1, 30) * 10_000_000, chance.choice((0, 0, 100, 200))
        update(book, symbol, side, price, size)
        if size:
            naive[symbol, side][price] = size
        else:
            absent += naive[symbol, side].pop(price, None) is None
        best = sorted(naive[symbol, side].items(), reverse=side == BID)
        assert kernel.best(book, symbol, side) == (best[0] if best else (NULL, NULL)), f"seed {seed}"
        assert levels_of(book, symbol, side) == best, f"seed {seed}"
    assert book.counters[kernel.ABSENT] == absent
    assert book.counters[kernel.IN_USE] == sum(map(len, naive.values()))
    for symbol in range(4):
        kernel.clear(book, symbol)
    assert book.counters[kernel.IN_USE] == 0
    assert (book.best == kernel.NONE).all()
    assert (book.slots == kernel.NONE).all()


def test_full_pool_refuses_and_counts_then_takes_again() -> None:
    book = kernel.new_book(symbols_max=2, levels_max=2)
    for price in (100, 200, 300):
        kernel.update(book, 1, BID, price, 10)
    assert book.counters[kernel.REFUSED] == 1
    assert levels_of(book, 1, BID) == [(200, 10), (100, 10)]
    kernel.update(book, 1, BID, 200, 0)
    kernel.update(book, 1, BID, 300, 10)
    assert levels_of(book, 1, BID) == [(300, 10), (100, 10)]


def test_empty_book_has_no_best() -> None:
    book = kernel.new_book(symbols_max=1, levels_max=1)
    assert kernel.best(book, 0, ASK) == (NULL, NULL)
    kernel.update(book, 0, ASK, 100, 0)
    assert book.counters[[kernel.REMOVED, kernel.ABSENT]].tolist() == [1, 1]


def test_levels_survive_removals_among_colliding_neighbours() -> None:
    book = kernel.new_book(symbols_max=1, levels_max=64)
    prices = [price * 10_000_000 for price in range(1, 65)]
    for price in prices:
        kernel.update(book, 0, ASK, price, 1)
    for price in prices[::2]:
        kernel.update(book, 0, ASK, price, 0)
    for price in prices:
        slot = kernel.find_slot(book, ASK, price)
        assert (book.slots[slot] != kernel.NONE) == (price in prices[1::2])
    assert np.count_nonzero(book.slots != kernel.NONE) == 32
