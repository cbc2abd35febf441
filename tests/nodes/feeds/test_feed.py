"""What a feed says of its line, and in which order, by a clock that is moved by hand."""

from collections.abc import Iterator

import numpy as np
import pytest

from fabric.clock import SECOND_NS
from fabric.records import EVENT, KIND_QUOTE, KIND_STATUS, STATUS, Rows, empty, unpack
from nodes.feeds.feed import Feed, LineState
from nodes.feeds.wire import Packets, from_payloads

STALE = 5 * SECOND_NS // 2


class FakeWire:
    """Each packet is a text: ``q`` gives a quote, ``h`` is a heartbeat, ``g`` a gap and a quote; others are garbage."""

    def __init__(self) -> None:
        self.accepted = self.gaps = 0

    def decode(self, packets: Packets) -> Iterator[Rows]:
        for at in packets.offsets:
            kind = chr(packets.buffer[at])
            self.accepted += kind in "qhg"
            self.gaps += kind == "g"
            if kind in "qg":
                yield empty(1, EVENT, KIND_QUOTE)

    def counters(self) -> dict[str, int]:
        return {"messages": 0}

    def messages_by_type(self) -> dict[str, int]:
        return {}


class Sent:
    def __init__(self) -> None:
        self.log: list[str] = []

    def send(self, rows: Rows) -> None:
        for row in rows.view(STATUS):
            if row["kind"] == KIND_STATUS:
                assert row["symbol"] == 0
                self.log.append(f"{chr(row['venue'])} {unpack(row['venue_state'])}")
            else:
                self.log.append("quote")

    def take(self) -> list[str]:
        log, self.log = self.log, []
        return log


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def feed(sent: Sent) -> Feed:
    return Feed(FakeWire(), "V", sent, STALE, monotonic_ns=0)


def packets(kinds: str) -> Packets:
    return from_payloads([kind.encode() for kind in kinds])


def test_live_is_told_before_the_first_quote_and_once(feed: Feed, sent: Sent) -> None:
    assert feed.counters()["line"] == "waiting"
    feed.take(packets("qq"), 0, 1)
    feed.take(packets("h"), 0, 2)
    assert sent.take() == ["V live", "quote", "quote"]
    assert feed.counters()["line"] == "live"


def test_a_silent_line_is_stale_and_heartbeats_keep_it_alive(feed: Feed, sent: Sent) -> None:
    now = 0
    for _ in range(10):
        feed.take(packets("h"), 0, now)
        now += SECOND_NS
    assert sent.take() == ["V live"]
    feed.take(packets(""), 0, now - SECOND_NS + STALE)
    assert sent.take() == []
    feed.take(packets(""), 0, now - SECOND_NS + STALE + 1)
    feed.take(packets(""), 0, now + 60 * SECOND_NS)
    assert sent.take() == ["V stale"]
    feed.take(packets("q"), 0, now + 61 * SECOND_NS)
    assert sent.take() == ["V live", "quote"]


def test_garbage_does_not_keep_a_line_alive(feed: Feed, sent: Sent) -> None:
    feed.take(packets("h"), 0, 0)
    feed.take(packets("xxx"), 0, STALE + 1)
    assert sent.take() == ["V live", "V stale"]


def test_a_line_that_never_spoke_is_stale(feed: Feed, sent: Sent) -> None:
    feed.take(packets(""), 0, STALE)
    assert sent.take() == []
    feed.take(packets(""), 0, STALE + 1)
    assert sent.take() == ["V stale"]


def test_after_a_gap_the_line_is_live_when_no_other_came_for_a_while(feed: Feed, sent: Sent) -> None:
    feed.take(packets("q"), 0, 0)
    feed.take(packets("g"), 0, 10)
    feed.take(packets("g"), 0, SECOND_NS)
    feed.take(packets("q"), 0, 3 * SECOND_NS)
    assert sent.take() == ["V live", "quote", "quote", "quote", "quote"]
    feed.take(packets("q"), 0, SECOND_NS + STALE)
    assert sent.take() == ["V live", "quote"]


def test_a_gap_that_ends_a_silence(feed: Feed, sent: Sent) -> None:
    feed.take(packets(""), 0, STALE + 1)
    feed.take(packets("g"), 0, STALE + 2)
    assert sent.take() == ["V stale", "V live", "quote"]
    assert feed.counters()["line"] == "gap"


def test_a_gap_then_silence_is_stale() -> None:
    line = LineState(STALE, 0)
    assert line.update(0, heard=True, gap=True) == "live"
    assert line.update(STALE + 1, heard=False) == "stale"
    assert line.update(9 * STALE, heard=False) == ""
    assert line.update(9 * STALE + 1, heard=True) == "live"


def test_every_venue_of_the_feed_is_told(sent: Sent) -> None:
    Feed(FakeWire(), "NPA", sent, STALE, 0).take(packets("h"), 7, 1)
    assert sent.take() == ["N live", "P live", "A live"]


def test_venue_rows_are_whole_records() -> None:
    from nodes.feeds.feed import venue_states

    row = venue_states("V", "live", 99)
    assert row.dtype == EVENT
    assert row.view(np.int64).size == 24
    assert (row["kind"][0], row["event_ns"][0]) == (KIND_STATUS, 99)
