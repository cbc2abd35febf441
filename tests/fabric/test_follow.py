"""A processor's order log in place of its inbox: from where it last began with nothing, as far as the logs reach."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fabric import codec, order_kernel
from fabric.clock import SystemClock
from fabric.follow import beginning, folder_in, follow
from fabric.journal import Journal, files, segments
from fabric.journal_kernel import append_all
from fabric.order import OrderLog
from fabric.records import KIND_TRADE, TRADE, Rows, empty
from fabric.symbols import SymbolTable
from fabric.topology import Following, JournalSettings, Limits, NodeSpec, ProcessorSettings, Publisher, Source

COUNT, BATCH = 120, 10
LIMITS = Limits(symbols_max=64, batch_max=256)


class Live:
    """What a live run has left: a feed's log, and the order log of a processor that read it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.symbols = folder, SymbolTable(16)
        self.settings = JournalSettings(str(folder), keep_ns=2**66, bytes_max=64 << 20)
        publisher = Publisher("feed", "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", ("trade",), "V", journal=self.settings)
        self.spec = NodeSpec(
            "p", "processor", "", ProcessorSettings("", "V"), reads=(Source(publisher, ("trade.",)),),
            follows=Following(str(folder)),
        )  # fmt: skip
        self.rows = empty(COUNT, TRADE, KIND_TRADE)
        self.rows["symbol"] = [self.symbols.intern(name) for name in "ABCD" * (COUNT // 4)]
        self.rows["venue"], self.rows["epoch"] = ord("V"), 1
        self.rows["seq"] = self.rows["position"] = np.arange(COUNT) + 1
        self.rows["price"], self.rows["size"] = 10**9, 1
        feed = Journal(folder / "feed", self.settings, SystemClock(), 1)
        data, ends = codec.lay_out(codec.encode(self.rows, self.symbols))
        assert append_all(feed.state, data, ends, 0, 1, 1, 1) == COUNT
        feed.close()
        self.log = self.begin(1)

    def begin(self, epoch: int) -> OrderLog:
        """The processor starts with nothing."""
        return OrderLog("p", 1, self.settings, SystemClock(), epoch)

    def turn(self, number: int, log: OrderLog | None = None) -> None:
        """Note the ``number``-th batch, at the time of its number."""
        batch = self.rows[number * BATCH : (number + 1) * BATCH]
        given = np.array([[0, batch.size, order_kernel.BY_LOG]])
        (log or self.log).note(batch, given, self.symbols, number, number, 7 * number)

    def followed(self) -> Iterator[tuple[int, Rows]]:
        """The times of the turns that come again, and their rows."""
        symbols = SymbolTable(16)
        for turn, rows in follow(self.spec, symbols, LIMITS):
            assert turn.monotonic_ns == turn.now_ns
            names = [symbols.name(symbol) for symbol in rows["symbol"].tolist()]
            assert names == [self.symbols.name(symbol) for symbol in self.batch(turn.now_ns)["symbol"].tolist()]
            yield turn.now_ns, rows

    def batch(self, number: int) -> Rows:
        return self.rows[number * BATCH : (number + 1) * BATCH]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    made = Live(tmp_path)
    yield made
    made.log.close()


def listing(live: Live) -> list[object]:
    return list(segments(folder_in(live.folder, "p")))


def test_every_turn_comes_again_with_its_rows_and_times(live: Live) -> None:
    for number in range(12):
        live.turn(number)
    live.log.close()
    assert beginning(segments(folder_in(live.folder, "p"))) == (1, 0)
    count = 0
    for number, (now_ns, rows) in enumerate(live.followed()):
        assert now_ns == number
        wanted = live.batch(number)
        for column in ("position", "seq", "epoch", "venue", "price", "size"):
            assert np.array_equal(rows.view(TRADE)[column], wanted[column]), column
        count += 1
    assert count == 12


def test_it_begins_where_the_processor_last_began_with_nothing(live: Live) -> None:
    for number in range(5):
        live.turn(number)
    live.log.close()
    again = live.begin(2)
    for number in range(5, 8):
        live.turn(number, again)
    again.close()
    assert beginning(segments(folder_in(live.folder, "p"))) == (6, 35)
    assert [now_ns for now_ns, _ in live.followed()] == [5, 6, 7]


def test_a_log_that_does_not_reach_back_to_a_beginning_has_none(live: Live) -> None:
    live.turn(0)
    live.log.close()
    again = live.begin(2)
    again.go_on(1, live.symbols)  # recovered: it goes on behind the first turn
    live.turn(1, again)
    again.close()
    oldest, newest = files(folder_in(live.folder, "p"))
    assert beginning(segments(oldest.parent)) == (1, 0)
    oldest.unlink()
    assert newest.exists()
    assert beginning(segments(oldest.parent)) is None
    assert beginning([]) is None


def test_where_an_inputs_log_lacks_a_turn_it_ends_and_says_so(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(4):
        live.turn(number)
    beyond = live.rows[:BATCH].copy()
    beyond["position"] += 10_000
    live.log.note(beyond, np.array([[0, BATCH, order_kernel.BY_LOG]]), live.symbols, 4, 4, 28)
    live.turn(5)
    live.log.close()
    with caplog.at_level(logging.WARNING):
        assert [now_ns for now_ns, _ in live.followed()] == [0, 1, 2, 3]
    assert "the logs do not hold the turn at 5 of the order log" in caplog.text
