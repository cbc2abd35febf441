"""Logs read in place: where a reader begins, what it takes for a record, and how it goes on."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fabric import codec, journal
from fabric import journal_kernel as jk
from fabric.bus import tail_kernel
from fabric.bus.tail import Tails, can_read
from fabric.bus.tail_kernel import T_ADDRESS, T_AT, T_ENTERED, T_STOP
from fabric.clock import SystemClock
from fabric.journal import Journal
from fabric.topology import JournalSettings, Publisher, Source

ALL = 2**62


def source(settings: JournalSettings | None, topic: str = "quote.") -> Source:
    return Source(Publisher("feed", "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", ("quote",), journal=settings), (topic,))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Journal]:
    """Segments of a megabyte."""
    opened = Journal(tmp_path / "feed", JournalSettings("", bytes_max=8 << 20), SystemClock(), 1)
    yield opened
    opened.close()


@pytest.fixture
def tails(tmp_path: Path) -> Iterator[Tails]:
    tails = Tails([source(JournalSettings(str(tmp_path), in_place=True))])
    yield tails
    tails.leave(0)


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.001)


def append(log: Journal, count: int, size: int = 100) -> None:
    data, ends = codec.lay_out([(b"quote.AAPL|V", bytes(size))] * count)
    done = 0
    while done < count:
        done = int(jk.append_all(log.state, data, ends, done, 1, 1, 1))
        if done < count:
            log.wait_for_room()


def positions(tails: Tails) -> list[int]:
    """Of the records that are there from where the reader stands, in this segment."""
    address, at, stop = tails.table[0, [T_ADDRESS, T_AT, T_STOP]].tolist()
    segment = next(segment for segment in tails._segments[0] if segment.address == address)
    end = tail_kernel.seek(address, at, stop, ALL)
    return [position for position, *_ in journal.split(segment.data[at:end].tobytes())]


@pytest.mark.parametrize("after", [0, 1, 7, 9, 10])
def test_it_begins_behind_a_position(log: Journal, tails: Tails, after: int) -> None:
    append(log, 10)
    assert tails.begin(0, after)
    assert positions(tails) == list(range(after + 1, 11))
    assert tails.seen(0) == after
    append(log, 2)
    assert positions(tails) == list(range(after + 1, 13))


def test_it_begins_in_the_segment_that_holds_the_position(log: Journal, tails: Tails) -> None:
    append(log, 300, 8_000)
    listing = log.listing()
    assert len(listing) > 2
    for segment in listing:
        assert tails.begin(0, segment.first)
        assert positions(tails) == list(range(segment.first + 1, segment.last + 1))


def test_an_empty_log_is_begun_with_its_first_record(log: Journal, tails: Tails) -> None:
    assert tails.begin(0, 0)
    assert positions(tails) == []
    append(log, 1)
    assert positions(tails) == [1]


def test_no_log_is_not_begun(tails: Tails) -> None:
    assert not tails.begin(0, 0)
    assert not tails.any


def test_the_segment_that_follows_is_at_hand_before_it_is_gone_on_to(log: Journal, tails: Tails) -> None:
    append(log, 1)
    until(lambda: len(journal.files(log.folder)) == 2)  # one stands ready
    assert tails.begin(0, 0)
    assert [segment.number for segment in tails._segments[0]] == [1, 2]
    tails.look_ahead(0)
    assert [segment.number for segment in tails._segments[0]] == [1, 2]
    tails.table[0, T_ENTERED] = 1
    tails.look_ahead(0)
    assert [segment.number for segment in tails._segments[0]] == [2]
    append(log, 300, 8_000)
    tails.look_ahead(0)
    assert [segment.number for segment in tails._segments[0]] == [2, 3]
    tails.leave(0)
    assert not tails.any


def test_what_is_being_written_is_no_record_yet(log: Journal, tails: Tails) -> None:
    """Its first word, with the CRC of all the rest, is written last."""
    append(log, 2)
    assert tails.begin(0, 1)
    room = log._rooms[int(log.state[jk.J_NUMBER])]
    at = int(tails.table[0, T_AT])
    word = room.data[at : at + 8].copy()
    for unfinished in (bytes(8), word.tobytes()[:3] + bytes([word[3] ^ 1]) + word.tobytes()[4:]):
        room.data[at : at + 8] = np.frombuffer(unfinished, np.uint8)
        assert positions(tails) == []
    room.data[at : at + 8] = word
    assert positions(tails) == [2]


def test_only_logs_that_are_kept_for_it_are_read_and_only_by_prefixes_that_fit() -> None:
    kept = JournalSettings("", in_place=True)
    assert can_read(source(kept))
    assert not can_read(source(JournalSettings("")))
    assert not can_read(source(None))
    assert not can_read(source(kept, "quote." + "A" * jk.PREFIX_MAX))
