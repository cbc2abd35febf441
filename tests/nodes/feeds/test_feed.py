"""What a feed says of its line, and in which order, by a clock that is moved by hand."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from fabric.clock import MILLISECOND_NS, SECOND_NS
from fabric.records import EVENT, KIND_QUOTE, KIND_STATUS, NULL, QUOTE, STATUS, Rows, empty, pack, unpack
from fabric.topology import BreakerSettings, FeedSettings
from nodes.feeds import sequencer
from nodes.feeds.breaker import Breaker
from nodes.feeds.feed import RECOVER_AFTER_NS, RECOVER_LEAST_NS, Feed, Skew, patience
from nodes.feeds.recovery import Recoveries
from nodes.feeds.sequencer_kernel import RANGE
from nodes.feeds.wire import Packets, from_payloads
from nodes.feeds.wires import venue_states

STALE = 5 * SECOND_NS // 2
SILENCE = 7 * SECOND_NS // 4
BACKOFF = SECOND_NS // 2
MS = MILLISECOND_NS
T0 = 1_500_000_000 * SECOND_NS


class FakeWire:
    """Each packet is a text: ``q`` gives a quote, ``h`` is a heartbeat, ``g`` a gap and a quote; others are garbage.

    ``w`` opens a hole and ``f`` fills it; ``s`` is a quote of an exchange whose clock is two seconds ahead. ``1`` says
    that the first level of the market-wide breaker was breached, ``H`` that a symbol is halted for it, ``T`` that it
    trades again.
    """

    def __init__(self) -> None:
        self.accepted = self.gaps = self.malformed = self.waiting = 0

    def decode(self, packets: Packets, monotonic_ns: int) -> Iterator[Rows]:
        for at in packets.offsets:
            kind = chr(packets.buffer[at])
            self.accepted += kind in "qhgwfse1HT"
            self.malformed += kind not in "qhgwfse1HT"
            self.gaps += kind == "g"
            self.waiting = {"w": 1, "f": 0}.get(kind, self.waiting)
            if kind == "g":
                yield venue_states("V", "gap", 7)
            if kind == "e":
                event = empty(1, STATUS, KIND_STATUS)
                event["venue"], event["trading"], event["venue_state"] = ord("V"), pack("R"), pack("live")
                event["recv_ns"], event["event_ns"] = T0, T0 + 2 * SECOND_NS
                yield event.view(EVENT)
            if kind in "1HT":
                status = empty(1, STATUS, KIND_STATUS)
                status["venue"], status["symbol"] = ord("V"), 0 if kind == "1" else 7
                status["reason"] = pack("" if kind == "T" else "MWC1")
                status["trading"] = NULL if kind == "1" else pack(kind)
                status["venue_state"] = pack("live") if kind == "1" else NULL
                status["recv_ns"] = status["event_ns"] = T0
                yield status.view(EVENT)
            if kind in "qgs":
                rows = empty(1, QUOTE, KIND_QUOTE)
                rows["recv_ns"], rows["event_ns"] = T0, T0 + 2 * SECOND_NS * (kind == "s")
                yield rows.view(EVENT)

    def missing(self, monotonic_ns: int) -> np.ndarray:
        missing = np.zeros(self.waiting, RANGE)
        missing["first"], missing["count"] = 5, 3
        return missing

    def lost(self) -> list[tuple[int, int]]:
        return [(0, 9)] if self.waiting else []

    def release(self, now_ns: int, monotonic_ns: int) -> Iterator[Rows]:
        yield from ()

    def counters(self) -> dict[str, int]:
        return {"messages": 0}

    def messages_by_type(self) -> dict[str, int]:
        return {}


class Sent:
    def __init__(self) -> None:
        self.log: list[str] = []

    def send(self, rows: Rows) -> None:
        for row in rows.view(STATUS):
            if row["kind"] == KIND_STATUS and row["symbol"] != 0:
                self.log.append("symbol")
            elif row["kind"] == KIND_STATUS:
                words = [chr(row["venue"]), *(unpack(row[name]) for name in ("venue_state", "reason", "trading"))]
                self.log.append(" ".join(word for word in words if word))
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
    return Feed(FakeWire(), "V", sent, Breaker(BreakerSettings(), 0), STALE)


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
    feed.take(packets(""), 0, now - SECOND_NS + SILENCE)
    assert sent.take() == []
    feed.take(packets(""), 0, now - SECOND_NS + SILENCE + 1)
    feed.take(packets(""), 0, now + 60 * SECOND_NS)
    assert sent.take() == ["V stale SILENCE"]


def test_after_a_silence_the_line_must_prove_itself(feed: Feed, sent: Sent) -> None:
    feed.take(packets("q"), 0, 0)
    feed.take(packets(""), 0, SECOND_NS * 10)
    feed.take(packets("q"), 0, SECOND_NS * 20)
    feed.take(packets("q"), 0, SECOND_NS * 20 + BACKOFF - 1)
    assert sent.take() == ["V live", "quote", "V stale SILENCE", "quote", "quote"]
    assert feed.counters()["breaker"] == "half-open"
    feed.take(packets("q"), 0, SECOND_NS * 20 + BACKOFF)
    assert sent.take() == ["V live", "quote"]


def test_garbage_does_not_keep_a_line_alive(feed: Feed, sent: Sent) -> None:
    feed.take(packets("h"), 0, 0)
    feed.take(packets("xxx"), 0, SILENCE + 1)
    assert sent.take() == ["V live", "V stale SILENCE"]


def test_a_line_that_never_spoke_is_stale_until_its_first_packet(feed: Feed, sent: Sent) -> None:
    feed.take(packets(""), 0, SILENCE)
    assert sent.take() == []
    feed.take(packets(""), 0, SILENCE + 1)
    assert sent.take() == ["V stale SILENCE"]
    feed.take(packets("q"), 0, SILENCE + 2)
    assert sent.take() == ["V live", "quote"]


def test_after_a_gap_the_line_is_live_when_no_other_came_for_a_while(feed: Feed, sent: Sent) -> None:
    feed.take(packets("q"), 0, 0)
    feed.take(packets("g"), 0, 10)
    feed.take(packets("g"), 0, SECOND_NS)
    feed.take(packets("q"), 0, 2 * SECOND_NS)
    feed.take(packets("q"), 0, 3 * SECOND_NS)
    assert sent.take() == ["V live", "quote", "V gap", "quote", "V gap", "quote", "quote", "quote"]
    feed.take(packets("q"), 0, SECOND_NS + STALE)
    assert sent.take() == ["V live", "quote"]


def test_a_gap_does_not_make_a_stale_line_look_alive(feed: Feed, sent: Sent) -> None:
    feed.take(packets("q"), 0, 0)
    feed.take(packets(""), 0, SILENCE + 1)
    feed.take(packets("g"), 0, SILENCE + 2)
    assert sent.take() == ["V live", "quote", "V stale SILENCE", "V stale SILENCE", "quote"]
    assert feed.counters()["line"] == "stale"


def test_many_gaps_open_the_breaker(feed: Feed, sent: Sent) -> None:
    feed.take(packets("q" + "g" * 11), 0, 0)
    assert sent.take()[-1] == "V stale GAPS"


def test_a_recovery_that_takes_long_is_told(feed: Feed, sent: Sent) -> None:
    feed.take(packets("qw"), 0, 0)
    feed.take(packets("q"), 0, RECOVER_AFTER_NS)
    assert sent.take() == ["V live", "quote", "quote"]
    feed.take(packets("q"), 0, RECOVER_AFTER_NS + 1)
    feed.take(packets("f"), 0, RECOVER_AFTER_NS + 2)
    assert sent.take() == ["V recover", "quote"]
    feed.take(packets("q"), 0, RECOVER_AFTER_NS + 1 + RECOVER_LEAST_NS)
    assert sent.take() == ["V live", "quote"]


class Known:
    """Three standing quotes: received at 10, at 20, and without sides."""

    def select(self, prefix: str) -> Rows:
        assert prefix == "quote."
        rows = empty(3, QUOTE, KIND_QUOTE)
        rows["recv_ns"] = 10, 20, 30
        rows["bid_px"] = 5, NULL, NULL
        rows["ask_px"] = NULL, 6, NULL
        return rows.view(EVENT)


@pytest.mark.parametrize(("during", "again"), [("q", 2), ("g", 1)])
def test_quotes_that_are_known_to_hold_are_told_again(sent: Sent, during: str, again: int) -> None:
    feed = Feed(FakeWire(), "V", sent, Breaker(BreakerSettings(), 0), STALE, Known())
    feed.take(packets("q"), 5, 0)
    feed.take(packets(""), 5, 10 * SECOND_NS)
    feed.take(packets(during), 15, 20 * SECOND_NS)
    sent.take()
    told: list[str] = []
    for quarter in range(1, 20):
        feed.take(packets("hh"), 40, 20 * SECOND_NS + quarter * BACKOFF // 2)
        told += sent.take()
    assert told == ["V live"] + ["quote"] * again
    assert feed.counters()["retold"] == again


class FakeClient:
    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def request(self, stream: int, session: int, first: int, count: int, monotonic_ns: int) -> bool:
        self.asked.append((stream, session, first, count))
        return True

    def observe(self, packets: Packets) -> None: ...

    def packets(self, now_ns: int) -> Packets:
        return packets("f" if self.asked else "")

    def tick(self, monotonic_ns: int) -> None: ...

    def fileno(self) -> int:
        return -1

    def counters(self) -> dict[str, int]:
        return {"recovery_requests": len(self.asked)}

    def close(self) -> None: ...


def test_what_is_missing_is_asked_for_and_the_answer_taken(sent: Sent) -> None:
    client = FakeClient()
    feed = Feed(FakeWire(), "V", sent, Breaker(BreakerSettings(), 0), STALE, None, Recoveries({0: client}))
    feed.take(packets("w"), 0, 0)
    feed.recover(0, 1)
    assert client.asked == [(0, 0, 5, 3)]
    assert feed.wire.waiting == 0
    assert feed.counters()["recovery_requests"] == 1


def test_a_clock_that_is_ahead_is_flagged_and_its_quotes_kept(feed: Feed, sent: Sent) -> None:
    feed.take(packets("s"), 0, 0)
    feed.take(packets("s"), 0, SECOND_NS)
    assert sent.take() == ["V live", "quote", "V live SKEW", "quote"]
    counts = feed.counters()
    assert (counts["skew_ms"], counts["skewed"], counts["breaker"]) == (2_000.0, 1, "closed")
    for second in range(2, 7):
        feed.take(packets("q"), 0, second * SECOND_NS)
    assert [word for word in sent.take() if word != "quote"] == ["V live"]


def test_what_the_exchange_says_of_its_market_leaves_what_is_known_of_its_line(feed: Feed, sent: Sent) -> None:
    feed.take(packets("s"), 0, 0)
    feed.take(packets("e"), 0, 1)
    feed.take(packets("g"), 0, 2)
    assert [word for word in sent.take() if word != "quote"] == [
        "V live", "V live SKEW", "V live SKEW R", "V gap SKEW R",
    ]  # fmt: skip
    feed.take(packets(""), 0, 10 * SECOND_NS)
    feed.take(packets("e"), 0, 10 * SECOND_NS + 1)
    assert sent.take() == ["V stale SILENCE R", "V stale SILENCE R"], "half open: not live by an event"


def test_a_market_wide_breaker_is_the_reason_until_a_symbol_trades_again(feed: Feed, sent: Sent) -> None:
    feed.take(packets("1HH"), 0, 0)
    assert sent.take() == ["V live", "V live MWC1", "symbol", "symbol"]
    feed.take(packets("T"), 0, 1)
    assert sent.take() == ["symbol", "V live"]
    feed.take(packets("H1"), 0, 2)
    assert sent.take() == ["symbol", "V live"], "one that is not released yet, and the same level again"
    assert feed.counters()["market_wide"] == 0


def test_where_the_wire_tells_it_of_symbols_only_every_venue_is_told(sent: Sent) -> None:
    feed = Feed(FakeWire(), "NP", sent, Breaker(BreakerSettings(), 0), STALE)
    feed.take(packets("H"), 0, 0)
    feed.take(packets("H"), 0, 1)
    assert sent.take() == ["N live", "P live", "symbol", "N live MWC1", "P live MWC1", "symbol"]
    assert feed.counters()["market_wide"] == 1


def test_a_market_wide_breaker_leaves_the_state_of_the_line(feed: Feed, sent: Sent) -> None:
    feed.take(packets("1"), 0, 0)
    feed.take(packets("g"), 0, 1)
    feed.take(packets(""), 0, 10 * SECOND_NS)
    feed.take(packets("1"), 0, 10 * SECOND_NS + 1)
    assert [word for word in sent.take() if word != "quote"] == [
        "V live", "V live MWC1", "V gap MWC1", "V stale SILENCE", "V stale SILENCE",
    ]  # fmt: skip
    for quarter in range(1, 20):
        feed.take(packets("hh"), 0, 10 * SECOND_NS + quarter * BACKOFF // 2)
    assert sent.take() == ["V live MWC1"], "who comes after the fault knows as well"


def test_a_market_wide_breaker_goes_before_a_clock_that_is_off(feed: Feed, sent: Sent) -> None:
    feed.take(packets("s"), 0, 0)
    feed.take(packets("1H"), 0, 1)
    feed.take(packets("T"), 0, 2)
    assert [word for word in sent.take() if word != "quote"] == [
        "V live", "V live SKEW", "V live MWC1", "symbol", "symbol", "V live SKEW",
    ]  # fmt: skip


def test_skew_is_the_median_of_the_least_delays() -> None:
    skew = Skew()
    for second in range(5):
        for delay_ms in (900, 3 + second % 2, 50):
            skew.add(delay_ms * MS, second * SECOND_NS + delay_ms)
    assert skew.ahead_ns == -3 * MS
    skew.add(-5 * SECOND_NS, 5 * SECOND_NS)
    assert skew.ahead_ns == -3 * MS, "one odd second moves nothing"


def test_every_venue_of_the_feed_is_told(sent: Sent) -> None:
    Feed(FakeWire(), "NPA", sent, Breaker(BreakerSettings(), 0), STALE).take(packets("h"), 7, 1)
    assert sent.take() == ["N live", "P live", "A live"]


@pytest.mark.parametrize(
    ("groups", "recovery", "expected"),
    [
        ((0,), (), sequencer.ONE_LINE),
        ((0, 1), (), sequencer.ONE_LINE),
        ((0, 0), (), sequencer.LINES),
        ((0,), (("udp", "h", 1),), sequencer.RECOVERY),
    ],
)
def test_what_can_bring_lost_messages_is_waited_for(groups: tuple, recovery: tuple, expected: object) -> None:
    assert patience(FeedSettings("", "V", groups=groups, recovery=recovery)) == expected


def test_a_feed_can_be_told_how_long_to_wait() -> None:
    assert patience(FeedSettings("", "V", groups=(0, 0), gap_wait_ns=7)) == replace(sequencer.LINES, wait_ns=7)


def test_venue_rows_are_whole_records() -> None:
    row = venue_states("V", "live", 99)
    assert row.dtype == EVENT
    assert row.view(np.int64).size == 24
    assert (row["kind"][0], row["event_ns"][0]) == (KIND_STATUS, 99)
