"""The order log gives every batch again as it was given: whatever was lost, repeated, late, or is in no log."""

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fabric import codec, order_kernel
from fabric.clock import SystemClock
from fabric.journal import Journal, segments
from fabric.journal_kernel import append_all
from fabric.order import Inputs, OrderLog, Turn, folder_of, turns
from fabric.records import (
    GAP,
    KIND_GAP,
    KIND_LINK,
    KIND_QUOTE,
    KIND_TRADE,
    LINK,
    QUOTE,
    TRADE,
    WIDTH,
    Rows,
    columns,
    empty,
)
from fabric.symbols import SymbolTable
from fabric.topology import JournalSettings, Publisher, Source
from order_twin import tables

SYMBOLS = 400


class Feed:
    """A publisher's log of random quotes and trades, and the rows in it."""

    def __init__(self, folder: Path, name: str, rng: random.Random, count: int) -> None:
        self.settings = JournalSettings(str(folder), bytes_max=64 << 20)
        self.publisher = Publisher(name, "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", ("quote", "trade"), "V",
                                   journal=self.settings)  # fmt: skip
        self.symbols = SymbolTable(SYMBOLS)
        rows = np.concatenate([self._row(rng, position) for position in range(1, count + 1)])
        self.log = Journal(folder / name, self.settings, SystemClock(), 1)
        half = count // 2
        for epoch, part in ((3, rows[:half]), (4, rows[half:])):
            part["epoch"] = epoch
            data, ends = codec.lay_out(codec.encode(part, self.symbols))
            assert append_all(self.log.state, data, ends, 0, epoch, 1, 1) == ends.shape[0]
        self.rows = rows

    def _row(self, rng: random.Random, position: int) -> Rows:
        kind = rng.choice([KIND_QUOTE, KIND_TRADE])
        row = empty(1, QUOTE if kind == KIND_QUOTE else TRADE, kind)
        row["symbol"] = self.symbols.intern(rng.choice("ABCX") + str(rng.randrange(90)))
        row["venue"], row["seq"], row["position"] = ord("V"), position, position
        columns(row)[0, 7:13] = [rng.randrange(10**18) for _ in range(3)] + [-(2**63), 10**9 * rng.randrange(1, 99), 7]
        return row.view(columns_dtype())


def columns_dtype() -> np.dtype[np.void]:
    return empty(0, QUOTE).dtype


@pytest.fixture
def feeds(tmp_path: Path) -> Iterator[list[Feed]]:
    rng = random.Random(7)
    made = [Feed(tmp_path, name, rng, 3_000) for name in ("one", "two")]
    yield made
    for feed in made:
        feed.log.close()


def batch_of(rng: random.Random, feeds: list[Feed], at: list[int], own: SymbolTable) -> tuple[Rows, list[list[int]]]:
    """A batch as an inbox gives it: stretches of each input, some rows left out, repeated, late, from a snapshot."""
    rows: list[Rows] = []
    given: list[list[int]] = []
    for _ in range(rng.randrange(5)):
        link = rng.randrange(len(feeds))
        source = feeds[link].rows
        how = rng.choices([order_kernel.BY_LOG, order_kernel.BY_VALUE, order_kernel.BY_SNAPSHOT], [8, 1, 1])[0]
        start, count = at[link], rng.choice([0, 1, 2, 40, 150])
        if rng.random() < 0.1:
            start = rng.randrange(max(1, start))
        chosen = [i for i in range(start, min(start + count, source.size)) if rng.random() < 0.7]
        if how == order_kernel.BY_LOG:
            at[link] = max(at[link], start + count)
        taken = 0
        for i in chosen:
            if rng.random() < 0.02:
                rows.append(event_of(rng, link, len(own)))
            row = source[i : i + 1].copy()
            row["symbol"] = own.intern(feeds[link].symbols.name(int(row["symbol"][0])))
            rows.append(row)
            taken += 1
        given.append([link, taken, how])
    if rng.random() < 0.2:
        rows.append(event_of(rng, 0, len(own)))
    return (np.concatenate(rows) if rows else empty(0, QUOTE)), given


def event_of(rng: random.Random, link: int, symbols: int) -> Rows:
    kind = rng.choice([KIND_LINK, KIND_GAP])
    row = empty(1, LINK if kind == KIND_LINK else GAP, kind)
    row["publisher"] = link
    row["epoch"] = rng.choice([3, 4])
    row["symbol"] = rng.randrange(symbols)
    columns(row)[0, 12:14] = rng.randrange(2), rng.randrange(100)
    return row.view(columns_dtype())


def noted(
    tmp_path: Path, feeds: list[Feed], seed: int, count: int = 120
) -> tuple[list[Rows], list[Turn], list[Source]]:
    """Random batches, their turns read from the order log, and the sources."""
    rng, own = random.Random(seed), SymbolTable(SYMBOLS)
    settings = JournalSettings(str(tmp_path), keep_ns=2**66, bytes_max=64 << 20)
    log = OrderLog(f"p{seed}", 2, settings, SystemClock(), 9)
    at, batches = [0, 0], []
    for turn in range(count):
        rows, given = batch_of(rng, feeds, at, own)
        if turn == 3:
            own.intern("LEARNT")  # from a message that was refused: it has an id, and no row
        log.note(rows, np.array(given, np.int64).reshape(-1, 3), own, 100 + turn, 50 + turn, 7 * turn)
        batches.append(rows)
    log.close()
    found = list(turns(segments(folder_of(settings, f"p{seed}"))))
    return batches, found, [Source(feed.publisher, ("",)) for feed in feeds]


@pytest.mark.parametrize("seed", range(4))
def test_every_batch_comes_back_as_it_was_given(tmp_path: Path, feeds: list[Feed], seed: int) -> None:
    batches, found, sources = noted(tmp_path, feeds, seed)
    assert [(t.now_ns, t.monotonic_ns, t.own) for t in found] == [(100 + i, 50 + i, 7 * i) for i in range(len(batches))]
    assert [t.after for t in found] == [0] + [t.position for t in found[:-1]]
    assert sum(rows.size for rows in batches) > 3_000
    assert any(len(t.parts) > 1 for t in found), "a turn may take several parts"
    inputs, known = Inputs(sources, SymbolTable(SYMBOLS), 5_000), tables(2, SYMBOLS)
    for turn, rows in zip(found, batches, strict=True):
        got = inputs.rows(turn, known)
        assert got is not None
        assert np.array_equal(columns(got), columns(rows)), f"seed {seed}, turn at {turn.position}"
    inputs.close()


def test_the_layout_is_the_one_that_is_described(feeds: list[Feed]) -> None:
    rng, own = random.Random(11), SymbolTable(SYMBOLS)
    for _ in range(40):
        rows, given = batch_of(rng, feeds, [rng.randrange(900), 0], own)
        size, parts = order_kernel.noted_max(rows.size, len(own) - 1)
        out, ends = np.zeros(size, np.uint8), np.zeros((parts, 2), np.int64)
        table = np.array(given, np.int64).reshape(-1, 3)
        count = order_kernel.note(
            columns(rows), table, own.arrays.words, 1, len(own), 1, 2, 3, 4, np.zeros(2, np.int64), out, ends
        )
        assert naive_rows(out, ends[:count]) == naive_given(rows, given)


def naive_given(rows: Rows, given: list[list[int]]) -> list[tuple[int, ...]]:
    """What a reader of the order log must find: place of each row in a log, or all its columns."""
    whose = [(link, how) for link, count, how in given for _ in range(count)]
    heads = {link: 0 for link, _ in whose}
    found: list[tuple[int, ...]] = []
    for row in columns(rows).tolist():
        link, how = (-1, 1) if row[0] >= KIND_LINK else whose.pop(0)
        ahead = how == order_kernel.BY_LOG and row[5] > heads[link]
        if ahead:
            heads[link] = row[5]
        found.append((link, row[4], row[5]) if ahead else tuple(row))
    return found


def naive_rows(out: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> list[tuple[int, ...]]:
    """The layout that `order_kernel` describes, read word by word."""
    found: list[tuple[int, ...]] = []
    start = 0
    for topic_end, end in ends.tolist():
        assert out[start:topic_end].tobytes() == b"o"
        raw, at, start = out[topic_end:end].tobytes(), 40, end
        while at < len(raw):
            (word,) = struct.unpack_from("<q", raw, at)
            kind, link, count = word & 0xFF, word >> 8 & 0xFFFFFF, word >> 32
            at += 8
            if kind == order_kernel.NAME:
                at += 24
            elif kind == order_kernel.ROW:
                found.append(struct.unpack_from(f"<{WIDTH}q", raw, at))
                at += 8 * WIDTH
            else:
                epoch, position, last = struct.unpack_from("<3q", raw, at)
                at += 24
                found.append((link, epoch, position))
                for _ in range(count - 1):
                    step, shift = 0, 0
                    while True:
                        step |= (raw[at] & 0x7F) << shift
                        shift += 7
                        at += 1
                        if raw[at - 1] < 0x80:
                            break
                    position += step
                    found.append((link, epoch, position))
                assert position == last
                at = (at + 7) // 8 * 8
    return found


def test_a_row_that_its_log_has_forgotten_is_missing(tmp_path: Path, feeds: list[Feed]) -> None:
    rows = feeds[0].rows[10:20].copy()
    settings = JournalSettings(str(tmp_path), keep_ns=2**66, bytes_max=64 << 20)
    log = OrderLog("p", 1, settings, SystemClock(), 9)
    rows["position"][5] += 5_000
    rows["position"][6:] += 6_000
    log.note(rows, np.array([[0, 10, order_kernel.BY_LOG]]), SymbolTable(SYMBOLS), 1, 1, 0)
    log.close()
    (turn,) = turns(segments(folder_of(settings, "p")))
    inputs = Inputs([Source(feeds[0].publisher, ("",))], SymbolTable(SYMBOLS), 5_000)
    assert inputs.rows(turn, tables(1, SYMBOLS)) is None
    inputs.close()


def test_a_turn_that_was_cut_short_is_left_out_and_a_hole_ends_the_reading(tmp_path: Path, feeds: list[Feed]) -> None:
    _, found, _ = noted(tmp_path, feeds, 5, 30)
    (segment,) = segments(tmp_path / "p5" / "order")
    raw = bytearray(segment.path.read_bytes())
    at = raw.index(struct.pack("<qq", found[20].position, 120), 64) - 8
    raw[at + 60] ^= 1
    segment.path.write_bytes(bytes(raw[: segment.end]))
    (broken,) = segments(tmp_path / "p5" / "order")
    assert broken.holes == 1
    got = [turn.position for turn in turns([broken])]
    assert got == [turn.position for turn in found[:20]]
    assert [turn.position for turn in turns([broken], found[9].position)] == got[10:]
    segment.path.write_bytes(bytes(raw[:at]))
    assert [turn.position for turn in turns(segments(tmp_path / "p5" / "order"))] == got
