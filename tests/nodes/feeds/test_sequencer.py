"""The sequencer against its plain twin: lines A and B, overlaps, shuffles, drops, restarts, lies."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.clock import MILLISECOND_NS, SECOND_NS
from naive_sequencer import LEAP, Block, Event, Stream
from nodes.feeds import sequencer, sequencer_kernel
from nodes.feeds.sequencer import LINES, ONE_LINE, RECOVERY, Patience, Run, Sequencer
from nodes.feeds.wire_kernel import BLOCK, DATA, GAP, HEARTBEAT, RESTART

MS = MILLISECOND_NS
T0 = 1_500_000_000 * SECOND_NS


def body(number: int) -> bytes:
    """A message that says its number, of a length that depends on it."""
    return b"%d" % number + b"." * (number % 7)


def data(first: int, count: int = 1, **more: int) -> Block:
    return Block(first, [body(number) for number in range(first, first + count)], **more)


def heartbeat(following: int, **more: int) -> Block:
    return Block(following, [], **more)


def laid_out(blocks: Sequence[Block], recv_ns: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A buffer with the messages (a byte of length before each) and the BLOCKs that point into it."""
    rows = np.zeros(len(blocks), BLOCK)
    raw = b"\xff" * 3
    for row, block in zip(rows, blocks, strict=True):
        row["stream"], row["session"], row["first"] = block.stream, block.session, block.first
        row["count"], row["kind"] = len(block.bodies), DATA if block.bodies else HEARTBEAT
        row["start"] = len(raw)
        raw += b"".join(bytes([len(message)]) + message for message in block.bodies)
        row["stop"], row["line"], row["sent_ns"], row["recv_ns"] = len(raw), block.line, block.sent_ns, recv_ns
    return np.frombuffer(raw, np.uint8).copy(), rows


def events_of(run: Run) -> list[tuple[int, Event]]:
    """(stream, event) of what went out."""
    events: list[tuple[int, Event]] = []
    for block in run.blocks:
        stream, first, count = int(block["stream"]), int(block["first"]), int(block["count"])
        if block["kind"] == GAP:
            events.append((stream, ("gap", first, first + count)))
        elif block["kind"] == RESTART:
            events.append((stream, ("restart", int(block["session"]), 0)))
        else:
            at, number = int(block["start"]), first
            while at < block["stop"]:
                size = int(run.buffer[at])
                if number >= first + block["skip"]:
                    events.append((stream, ("message", number, run.buffer[at + 1 : at + 1 + size].tobytes())))
                at, number = at + 1 + size, number + 1
            assert number == first + count
    assert run.marks == sum(event[0] != "message" for _, event in events)
    return events


class Rig:
    """A sequencer with its blocks, in the order in which they are sent."""

    def __init__(
        self, patience: Patience = LINES, lines: int = 2, renumbers: bool = True, last_number: int = 0
    ) -> None:
        self.sequencer = Sequencer(lines, 1, patience, renumbers, last_number)
        self.now_ns = 0

    def take(self, *blocks: Block) -> list[Event]:
        buffer, rows = laid_out(blocks)
        events = [event for run in self.sequencer.take(buffer, rows, self.now_ns) for _, event in events_of(run)]
        buffer[:] = 0xEE  # the receiver takes its next packets into the same memory
        return events

    def after(self, nanoseconds: int) -> list[Event]:
        self.now_ns += nanoseconds
        return self.take()

    def flush(self) -> list[Event]:
        return [event for run in self.sequencer.flush() for _, event in events_of(run)]

    def missing(self) -> list[tuple[int, int]]:
        return [(int(row["first"]), int(row["count"])) for row in self.sequencer.missing(self.now_ns)]

    def __getitem__(self, name: str) -> int:
        return self.sequencer.counters()[name]


def told(events: list[Event]) -> str:
    """Numbers of the messages, ``-a:b`` for a gap, ``!`` for a restart."""
    words = []
    for kind, number, what in events:
        if kind == "message":
            assert what == body(number)
        words.append({"message": f"{number}", "gap": f"-{number}:{what}", "restart": "!"}[kind])
    return " ".join(words)


@pytest.fixture
def rig() -> Rig:
    return Rig()


class TestLines:
    def test_what_is_next_goes_out_at_once(self, rig: Rig) -> None:
        assert told(rig.take(data(7, 3), data(10))) == "7 8 9 10"
        assert rig.sequencer.waiting == 0

    def test_the_first_copy_wins_and_the_other_is_counted(self, rig: Rig) -> None:
        assert told(rig.take(data(1, 2), data(1, 2, line=1), data(3, line=1), data(3))) == "1 2 3"
        counts = ("duplicates", "line0_first", "line0_again", "line1_first", "line1_again")
        assert [rig[name] for name in counts] == [3, 2, 1, 1, 2]

    def test_other_packet_boundaries_give_each_message_once(self, rig: Rig) -> None:
        assert told(rig.take(data(1, 3), data(2, 4, line=1), data(4, 1), data(5, 3))) == "1 2 3 4 5 6 7"
        assert (rig["duplicates"], rig["gaps"]) == (4, 0)

    def test_what_one_line_lost_the_other_brings(self, rig: Rig) -> None:
        assert told(rig.take(data(1), data(3), data(4))) == "1"
        assert told(rig.take(data(1, line=1), data(2, line=1), data(3, line=1))) == "2 3 4"
        assert [rig[name] for name in ("filled_by_line", "gaps", "lost", "held_blocks")] == [1, 0, 0, 2]

    def test_a_message_of_a_late_line_is_not_lost(self, rig: Rig) -> None:
        rig.take(data(1), data(3))
        assert told(rig.after(19 * MS)) == ""
        assert told(rig.take(data(2, line=1))) == "2 3"
        assert told(rig.after(SECOND_NS)) == ""
        assert (rig["lost"], rig["late"]) == (0, 0)

    def test_what_no_line_brings_is_given_up_once(self, rig: Rig) -> None:
        rig.take(data(1), data(5, 2))
        assert told(rig.after(20 * MS)) == "-2:5 5 6"
        assert told(rig.take(data(3, line=1), data(7))) == "7"
        assert [rig[name] for name in ("gaps", "lost", "late", "duplicates")] == [1, 3, 1, 0]

    def test_several_holes_are_waited_for_at_the_same_time(self, rig: Rig) -> None:
        rig.take(data(1), data(3), data(5))
        rig.after(10 * MS)
        rig.take(data(7))
        assert told(rig.after(10 * MS)) == "-2:3 3 -4:5 5"
        assert told(rig.after(10 * MS)) == "-6:7 7"

    def test_messages_that_come_in_between_renew_the_patience(self, rig: Rig) -> None:
        """A corrupt number that is too high opens a hole: the messages that still come are not lost in it."""
        rig.take(data(1), data(500))
        for number in range(2, 100):
            assert told(rig.take(data(number))) == str(number)
            rig.after(10 * MS)
        assert rig["gaps"] == 0

    def test_a_heartbeat_shows_a_hole_at_the_end(self, rig: Rig) -> None:
        rig.take(data(1), heartbeat(2))
        assert rig.sequencer.waiting == 0
        rig.take(heartbeat(4))
        assert told(rig.after(20 * MS)) == "-2:4"
        assert told(rig.take(data(4))) == "4"

    def test_streams_do_not_wait_for_each_other(self, rig: Rig) -> None:
        streams = [1 << 16 | unit for unit in range(30)] + [2 << 16 | unit for unit in range(30)]
        first = rig.take(*(data(100 + i, stream=stream) for i, stream in enumerate(streams)))
        assert len(first) == 60
        assert rig.take(data(200, stream=streams[0]), data(101, stream=streams[1]), data(102, stream=streams[1])) == [
            ("message", 102, body(102))
        ]

    def test_more_streams_than_the_table_holds_are_counted(self, rig: Rig) -> None:
        events = rig.take(*(data(1, stream=stream) for stream in range(sequencer.STREAMS_MAX + 3)))
        assert len(events) == sequencer.STREAMS_MAX
        assert rig["streams_full"] == 3

    def test_what_has_no_number_goes_out_as_it_comes(self, rig: Rig) -> None:
        block = data(5)
        block.first = 0
        (event,) = rig.take(block)
        assert event == ("message", 0, body(5))
        assert told(rig.take(data(100))) == "100"


class TestWindow:
    def test_one_line_waits_for_late_packets_only_so_long(self) -> None:
        rig = Rig(Patience(window=3), lines=1)
        assert told(rig.take(data(1), data(3), data(4), data(5))) == "1"
        assert told(rig.take(data(6))) == "-2:3 3 4 5 6"

    def test_without_room_the_hole_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sequencer, "SLOTS_MAX", 2)
        rig = Rig()
        assert told(rig.take(data(1), data(3), data(5), data(7))) == "1 -2:3 3"
        assert told(rig.after(20 * MS)) == "-4:5 5 -6:7 7"
        assert rig["hold_full"] == 1

    def test_without_room_but_with_recovery_the_block_is_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sequencer, "SLOTS_MAX", 2)
        rig = Rig(RECOVERY)
        assert told(rig.take(data(1), data(3), data(5), data(7))) == "1"
        rig.now_ns += 3 * MS
        assert rig.missing() == [(2, 1), (4, 1), (6, 2)]
        assert told(rig.take(data(2, line=2), data(4, line=2))) == "2 3 4 5"
        assert told(rig.take(data(6, 2, line=2))) == "6 7"
        assert rig["filled_by_request"] == 4

    def test_a_block_longer_than_a_slot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sequencer, "SLOT_BYTES", 30)
        rig = Rig()
        assert told(rig.take(data(1), data(3, 20))) == "1 -2:3 " + " ".join(map(str, range(3, 23)))


class TestRequests:
    def test_only_what_other_lines_did_not_bring_soon_is_asked_for(self) -> None:
        rig = Rig(RECOVERY)
        rig.take(data(1), data(3, 2), data(7), heartbeat(10))
        assert rig.missing() == []
        rig.now_ns += 2 * MS
        assert rig.missing() == [(2, 1), (5, 2), (8, 2)]
        assert rig.missing() == [], "not at once again"
        rig.now_ns += 10 * MS
        assert rig.missing() == [(2, 1), (5, 2), (8, 2)]

    def test_an_answer_fills_and_never_restarts(self) -> None:
        rig = Rig(RECOVERY)
        rig.take(data(1, sent_ns=T0), data(4, sent_ns=T0 + 1))
        assert told(rig.take(data(1, 3, line=2, sent_ns=T0 + SECOND_NS))) == "2 3 4"
        assert [rig[name] for name in ("filled_by_request", "restarts", "gaps")] == [2, 0, 0]

    def test_progress_renews_the_patience(self) -> None:
        rig = Rig(RECOVERY)
        rig.take(data(1), data(5))
        for number in (2, 3, 4):
            assert told(rig.after(SECOND_NS - 1)) == ""
            rig.take(data(number, line=2))
        assert rig["gaps"] == 0


class TestRestart:
    @pytest.mark.parametrize("session", [2, 0])
    def test_a_new_session_must_be_confirmed(self, rig: Rig, session: int) -> None:
        rig.take(data(50, 2))
        assert told(rig.take(data(1, session=session))) == ""
        assert told(rig.take(data(52))) == "52"
        assert told(rig.take(data(2, session=session))) == "! 1 2"
        assert rig["restarts"] == 1

    def test_one_packet_of_a_strange_session_changes_nothing(self, rig: Rig) -> None:
        rig.take(data(50))
        for strange in range(9, 60):
            rig.take(data(1, session=strange))
        assert told(rig.take(data(51), data(52))) == "51 52"
        assert (rig["restarts"], rig["distrusted"]) == (0, 50)

    def test_a_missed_beginning_is_waited_for_and_counted(self, rig: Rig) -> None:
        rig.take(data(50))
        assert told(rig.take(data(4, session=2), data(5, session=2))) == "!"
        assert told(rig.after(20 * MS)) == "-1:4 4 5"
        assert rig["lost"] == 3

    def test_a_late_packet_of_an_ended_session_does_not_flip_back(self, rig: Rig) -> None:
        rig.take(data(50), data(1, session=2), data(2, session=2))
        assert told(rig.take(data(51), data(52), data(53), data(3, session=2))) == "3"
        assert (rig["restarts"], rig["late"]) == (1, 3)

    def test_what_the_old_session_still_held_goes_out_first(self, rig: Rig) -> None:
        rig.take(data(50), data(53), heartbeat(57))
        assert told(rig.take(data(1, session=2), data(2, session=2))) == "-51:53 53 -54:57 ! 1 2"

    def test_the_same_session_begins_anew_when_low_numbers_are_sent_later(self, rig: Rig) -> None:
        rig.take(data(100, sent_ns=T0))
        later = T0 + SECOND_NS
        assert told(rig.take(data(1, sent_ns=later), data(2, sent_ns=later + 1))) == "! 1 2"
        assert told(rig.take(data(101, sent_ns=T0), data(3, sent_ns=later + 2))) == "3"
        assert (rig["late"], rig["restarts"]) == (1, 1)

    def test_one_packet_with_low_numbers_changes_nothing(self, rig: Rig) -> None:
        rig.take(data(100, sent_ns=T0))
        assert told(rig.take(data(1, sent_ns=T0 + SECOND_NS), data(101, sent_ns=T0 + SECOND_NS))) == "101"
        assert told(rig.take(data(3, sent_ns=T0 + 3 * SECOND_NS), data(102, sent_ns=T0 + 3 * SECOND_NS))) == "102"
        assert rig["distrusted"] == 2

    def test_what_an_exchange_sends_again_is_no_restart(self) -> None:
        rig = Rig(renumbers=False)
        rig.take(data(100, 100, sent_ns=T0))
        again = [data(number, sent_ns=T0 + SECOND_NS + number) for number in (110, 111, 112)]
        assert told(rig.take(*again, data(200, sent_ns=T0 + 2 * SECOND_NS))) == "200"
        assert (rig["restarts"], rig["duplicates"]) == (0, 3)

    def test_without_session_and_time_only_silence_tells(self) -> None:
        rig = Rig()
        rig.take(data(100, session=0))
        assert told(rig.take(data(1, session=0), data(2, session=0))) == ""
        rig.after(SECOND_NS + 1)
        assert told(rig.take(data(3, session=0), data(4, session=0))) == "!"
        assert told(rig.after(20 * MS)) == "-1:3 3 4"

    def test_a_leap_must_be_confirmed(self, rig: Rig) -> None:
        rig.take(data(1))
        assert told(rig.take(data(1 << 40), data(2))) == "2"
        assert rig["distrusted"] == 1
        assert told(rig.take(data(100_000), data(100_001))) == ""
        assert told(rig.after(20 * MS)) == "-3:100000 100000 100001"

    def test_at_the_end_of_a_recording_everything_comes_out(self) -> None:
        rig = Rig(ONE_LINE)
        rig.take(data(1), data(3), data(1, session=2))
        assert told(rig.flush()) == "-2:3 3 ! 1"
        assert rig.sequencer.waiting == 0


class TestRollover:
    """Cboe's numbers: 1 comes after 4,294,967,295, and nothing else has changed."""

    LAST = 2**32 - 1

    @pytest.fixture
    def rig(self) -> Rig:
        return Rig(RECOVERY, last_number=self.LAST)

    def test_after_the_last_number_comes_1(self, rig: Rig) -> None:
        sent = [data(self.LAST - 1, 2, session=0), data(1, session=0), heartbeat(2, session=0), data(2, session=0)]
        assert told(rig.take(*sent)) == f"{self.LAST - 1} {self.LAST} 1 2"
        assert [rig[name] for name in ("restarts", "gaps", "distrusted")] == [0, 0, 0]

    def test_a_packet_may_hold_both(self, rig: Rig) -> None:
        block = Block(self.LAST, [b"last", b"first"], session=0)
        assert [event[1:] for event in rig.take(block)] == [(self.LAST, b"last"), (self.LAST + 1, b"first")]
        assert told(rig.take(data(2, session=0))) == "2"

    def test_a_hole_across_it_is_asked_for_in_two_and_filled(self, rig: Rig) -> None:
        rig.take(data(self.LAST - 2, session=0), data(3, session=0))
        rig.now_ns += 3 * MS
        assert rig.missing() == [(self.LAST - 1, 2), (1, 2)]
        assert told(rig.take(data(self.LAST - 1, 2, session=0, line=2))) == f"{self.LAST - 1} {self.LAST}"
        assert told(rig.take(data(1, 2, session=0, line=2))) == "1 2 3"
        assert [rig[name] for name in ("filled_by_request", "lost", "restarts")] == [4, 0, 0]

    def test_a_hole_across_it_that_stays_is_one_gap(self) -> None:
        rig = Rig(last_number=self.LAST)
        rig.take(data(self.LAST - 2, session=0), data(3, session=0))
        assert told(rig.after(20 * MS)) == f"-{self.LAST - 1}:{self.LAST + 3} 3"
        assert rig["lost"] == 4

    def test_the_later_line_is_late_and_nothing_else(self, rig: Rig) -> None:
        rig.take(*(data(number, session=0) for number in (self.LAST - 1, self.LAST, 1, 2)))
        rig.now_ns += 2 * SECOND_NS  # a quiet line, of which numbers from behind would mean a restart
        later = [data(number, session=0, line=1) for number in (self.LAST - 1, self.LAST, 1, 2)]
        rig.take(data(3, session=0))
        assert told(rig.take(*later, data(4, session=0))) == "4"
        assert (rig["duplicates"], rig["restarts"]) == (4, 0)

    def test_a_restart_and_a_leap_of_the_second_round_are_what_they_are(self, rig: Rig) -> None:
        rig.take(data(self.LAST, session=0))
        for first in range(1, 200_000, 10_000):
            rig.take(data(first, 10_000, session=0))
        assert told(rig.take(data(300_000, session=0), data(300_001, session=0))) == ""
        assert told(rig.after(SECOND_NS)) == "-200001:300000 300000 300001"
        assert told(rig.take(data(1, session=0), data(2, session=0))) == "! 1 2"
        assert (rig["restarts"], rig["lost"]) == (1, 99_999)

    def test_a_lie_near_the_last_number_changes_nothing(self, rig: Rig) -> None:
        rig.take(data(5, session=0))
        assert told(rig.take(data(self.LAST, session=0), data(6, session=0), data(7, session=0))) == "6 7"
        assert rig["lost"] == 0

    def test_any_disturbance_comes_out_as_in_the_plain_twin(self) -> None:
        for seed in range(50):
            chance = random.Random(seed)
            last = 100_000 + 150
            sent = disturbed(chance, 200, begin=last - chance.randrange(60), last=last)
            rig, twin = Rig(LINES, last_number=last), Stream(LINES.wait_ns, LINES.window, lines=2, last=last)
            found: list[Event] = []
            for time_ns, block in sent:
                rig.now_ns = time_ns
                found += rig.take(block)
                twin.take(block, time_ns)
                twin.pass_time(time_ns)
                found += rig.take()
            found += rig.flush()
            twin.flush(sequencer_kernel.FOREVER_NS)
            assert ours(found, last) == twin.events, f"seed {seed}"


def ours(events: list[Event], last: int) -> list[Event]:
    """Events with the exchange's own number of each message: within a block across the last one they count on."""
    return [(kind, (number - 1) % last + 1 if kind == "message" else number, what) for kind, number, what in events]  # type: ignore[misc]


def test_a_recording_has_the_time_of_its_packets() -> None:
    sequencer_ = Sequencer(1, 1, ONE_LINE)
    blocks = [data(1), data(3), data(4), data(2)]
    buffer, rows = laid_out(blocks)
    rows["recv_ns"] = T0, T0 + MS, T0 + 22 * MS, T0 + 23 * MS
    for size in (1, 4):
        sequencer_ = Sequencer(1, 1, ONE_LINE)
        events = []
        for start in range(0, 4, size):
            for run in sequencer_.take(buffer, rows[start : start + size]):
                events += [event for _, event in events_of(run)]
        assert told(events) == "1 -2:3 3 4", "given up when it had waited for 20 ms, however it is read"


def disturbed(chance: random.Random, total: int, begin: int = 0, last: int = 1 << 62) -> list[tuple[int, Block]]:
    """(time, block) of two lines with packet boundaries of their own, drops, repeats, shuffles, restarts.

    They begin with number ``begin`` and go on with 1 after ``last``.
    """
    sent: list[tuple[int, Block]] = []
    start = begin or chance.choice([1, 500])
    for line in (0, 1):
        drop = chance.choice([0, 0.02, 0.3])
        at, session, stop, time_ns, delay = (
            start,
            chance.choice([1, 0]),
            start + total,
            0,
            chance.choice([0, 1, 4]) * MS,
        )
        while at < stop:
            count = min(chance.randrange(1, 6), stop - at)
            stamp = T0 + time_ns if session == 1 else 0
            block = data(at, count, line=line, session=session, sent_ns=stamp)
            block.first = (at - 1) % last + 1
            if chance.random() < 0.1:
                block = heartbeat(block.first, line=line, session=session, sent_ns=stamp)
                count = 0
            if chance.random() >= drop:
                sent.append((time_ns + delay + chance.choice([0, 0, 0, 2 * MS]), block))
            if chance.random() < 0.05:
                sent.append((time_ns + delay + chance.randrange(50 * MS), block))
            at += count
            time_ns += chance.choice([0, MS // 10, MS, 30 * MS])
            if chance.random() < 0.004:
                session, at, stop = chance.choice([session, session + 1]), 1, 1 + total // 2
                time_ns += 2 * SECOND_NS
            if chance.random() < 0.004:
                at += 2 * LEAP
                stop = at + total // 3
    sent.sort(key=lambda item: item[0])
    for i in range(len(sent)):  # a window of 8
        j = min(len(sent) - 1, i + chance.randrange(8))
        if chance.random() < 0.2:
            sent[i], sent[j] = (sent[i][0], sent[j][1]), (sent[j][0], sent[i][1])
    return sent


@pytest.mark.parametrize("patience", [ONE_LINE, LINES, RECOVERY], ids=["one line", "lines", "recovery"])
def test_any_disturbance_comes_out_as_in_the_plain_twin(patience: Patience) -> None:
    for seed in range(150):
        chance = random.Random(seed)
        sent = disturbed(chance, 200)
        rig, twin = Rig(patience), Stream(patience.wait_ns, patience.window, lines=2)
        found: list[Event] = []
        at = 0
        while at < len(sent):
            size = chance.choice([1, 1, 5, 40])
            batch = sent[at : at + size]
            rig.now_ns = batch[-1][0]
            for _, block in batch:
                twin.take(block, rig.now_ns)
            twin.pass_time(rig.now_ns)
            found += rig.take(*(block for _, block in batch))
            at += size
        found += rig.flush()
        twin.flush(sequencer_kernel.FOREVER_NS)
        assert found == twin.events, f"seed {seed}"
        lost = sum(int(event[2]) - int(event[1]) for event in found if event[0] == "gap")
        assert rig["lost"] == lost, f"seed {seed}"


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(0, 8))
@settings(max_examples=150, deadline=None)
def test_a_shuffle_within_the_window_is_undone(seed: int, packets: int, window: int) -> None:
    chance = random.Random(seed)
    blocks, at = [], 1
    for _ in range(packets):
        blocks.append(data(at, chance.randrange(1, 4)))
        at = blocks[-1].stop
    order = sorted(range(packets), key=lambda i: i + chance.uniform(0, window))
    rig = Rig(ONE_LINE, lines=1)
    rig.take(heartbeat(1))
    assert told(rig.take(*(blocks[i] for i in order))) == " ".join(map(str, range(1, at)))
    assert (rig["gaps"], rig["duplicates"]) == (0, 0)


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_two_lines_lose_nothing_that_one_of_them_brings(seed: int) -> None:
    chance = random.Random(seed)
    lines: list[list[Block]] = []
    dropped = [set(), set()]
    for line in (0, 1):
        blocks, at = [], 1
        while at < 100:
            block = data(at, min(chance.randrange(1, 5), 100 - at), line=line)
            at = block.stop
            numbers = set(range(block.first, block.stop))
            if chance.random() < 0.2 and not numbers & dropped[0]:
                dropped[line] |= numbers
            else:
                blocks.append(block)
        lines.append([*blocks, heartbeat(100, line=line)])
    rig = Rig()
    rig.take(heartbeat(1))
    events = []
    while lines[0] or lines[1]:
        line = chance.choice([line for line in lines if line])
        events += rig.take(line.pop(0))
    assert told(events) == " ".join(map(str, range(1, 100))), f"seed {seed}"
    assert rig["lost"] == 0


@pytest.mark.parametrize("last", [0, 100_150])
def test_compiled_and_plain_python_sequence_alike(last: int) -> None:
    chance = random.Random(5)
    sent = disturbed(chance, 60, begin=last - 20, last=last) if last else disturbed(chance, 60)
    results = []
    for function in (sequencer_kernel.sequence, sequencer_kernel.sequence.py_func):
        state = sequencer_kernel.new_state(4, 64, 100, 3)
        options = Sequencer(2, 1, LINES, renumbers=True, last_number=last)._settings
        out = np.zeros(sequencer_kernel.OUT_MIN, BLOCK)
        log = []
        for time_ns, block in sent:
            buffer, rows = laid_out([block])
            taken, done = 0, False
            while not done:
                taken, made, where, marks, done = function(buffer, rows, taken, time_ns, options, state, out)
                log.append((taken, made, where, marks, done, out[:made].tolist()))
        results.append((log, state.counters.tolist(), state.by_line.tolist()))
    assert results[0] == results[1]


def test_warming_up_compiles_what_the_live_path_calls(rig: Rig) -> None:
    sequencer_kernel.warm_up()
    compiled = [list(function.signatures) for function in (sequencer_kernel.sequence, sequencer_kernel.missing)]
    rig.take(data(1), data(3))
    rig.missing()
    rig.flush()
    assert [list(f.signatures) for f in (sequencer_kernel.sequence, sequencer_kernel.missing)] == compiled
