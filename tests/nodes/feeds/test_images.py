"""Streams that wait for an image of their book: what the decoder is told, in which order."""

import numpy as np
import pytest

from fabric.clock import SECOND_NS
from nodes.feeds import images
from nodes.feeds.images import MESSAGES_A_BLOCK, WAIT_NS, Image, ImagedMessages
from nodes.feeds.sequenced_unit_kernel import LAST_NUMBER
from nodes.feeds.wire_kernel import BLOCK, DATA, GAP, HEARTBEAT, RESTART

T0 = 100 * SECOND_NS
STREAM, OTHER = 1 << 16 | 3, 1 << 16 | 4


class Decoder:
    """Says what it was told: the text of each message that is not to be skipped."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def decode(self, buffer, blocks):
        for block in blocks:
            if block["kind"] == GAP:
                self.said.append("gap")
            elif block["kind"] == RESTART:
                self.said.append("restart")
            elif block["kind"] == DATA:
                text = buffer[block["start"] : block["stop"]].tobytes().decode()
                assert len(text) == 2 * block["count"]
                self.said += [text[i : i + 2] for i in range(2 * int(block["skip"]), len(text), 2)]
        yield from ()

    def counters(self):
        return {"messages": len(self.said)}

    def messages_by_type(self):
        return {"two letters": len(self.said)}


class Source:
    def __init__(self) -> None:
        self.wanted: dict[int, int] = {}
        self.ready: list[Image] = []

    def want(self, stream: int, least: int, monotonic_ns: int) -> None:
        self.wanted[stream] = least

    def forget(self, stream: int) -> None:
        self.wanted.pop(stream, None)

    def tick(self, monotonic_ns: int) -> None:
        self.ticked_ns = monotonic_ns

    def fileno(self) -> int:
        return 7

    def counters(self) -> dict[str, int]:
        return {"spins": 0}

    def close(self) -> None:
        self.closed = True

    def images(self) -> list[Image]:
        ready, self.ready = self.ready, []
        return ready


class Rig:
    def __init__(self) -> None:
        self.decoder, self.source = Decoder(), Source()
        self.messages = ImagedMessages(self.decoder, self.source)

    def take(self, *blocks: tuple) -> list[str]:
        """Each block: kind, first number, and its text (of a gap: how many are lost)."""
        self.decoder.said.clear()
        rows = np.zeros(len(blocks), BLOCK)
        data = b""
        for row, (kind, first, what, *stream) in zip(rows, blocks, strict=True):
            row["stream"] = stream[0] if stream else STREAM
            row["kind"], row["first"], row["start"] = kind, first, len(data)
            row["count"] = what if isinstance(what, int) else len(what) // 2
            data += b"" if isinstance(what, int) else what.encode()
            row["stop"] = len(data)
        for _ in self.messages.decode(np.frombuffer(data or b"\0", np.uint8), rows):
            pass
        return list(self.decoder.said)

    def release(self, *ready: Image, after_ns: int = 0) -> list[str]:
        self.decoder.said.clear()
        self.source.ready += ready
        for _ in self.messages.release(0, T0 + after_ns):
            pass
        return list(self.decoder.said)


@pytest.fixture
def rig():
    made = Rig()
    made.release()
    assert made.take((DATA, 1, "a1a2"), (DATA, 1, "b1", OTHER)) == ["a1", "a2", "b1"]
    return made


def test_behind_a_gap_a_stream_waits_and_the_others_go_on(rig):
    said = rig.take((DATA, 3, "a3"), (GAP, 4, 2), (DATA, 6, "a6a7a8"), (DATA, 2, "b2", OTHER), (DATA, 9, "a9"))
    assert said == ["a3", "gap", "b2"]
    assert rig.source.wanted == {STREAM: 5}
    assert rig.release() == []
    assert rig.release(Image(STREAM, 7, [b"i1", b"i2"])) == ["i1", "i2", "a8", "a9"]
    assert rig.take((DATA, 10, "az")) == ["az"]
    assert rig.messages.counters() == {
        "messages": 1,
        "spins": 0,
        "images": 1,
        "images_late": 0,
        "images_overflow": 0,
        "images_old": 0,
        "images_awaited": 0,
    }


def test_what_was_had_before_stays_skipped(rig):
    rig.take((GAP, 3, 1))
    block = np.zeros(1, BLOCK)
    block["stream"], block["first"], block["count"], block["skip"], block["stop"] = STREAM, 2, 4, 2, 8
    for _ in rig.messages.decode(np.frombuffer(b"a2a3a4a5", np.uint8), block):
        pass
    assert rig.release(Image(STREAM, 3, [])) == ["a4", "a5"]


def test_who_comes_late_waits_too(rig):
    late = 1 << 16 | 9
    assert rig.take((HEARTBEAT, 0, 0, late), (DATA, 500, "c1", late)) == []
    assert rig.source.wanted == {late: 499}


def test_a_stream_first_seen_in_its_middle_waits():
    rig = Rig()
    rig.release()
    assert rig.take((DATA, 500, "c1c2")) == []
    assert rig.source.wanted == {STREAM: 499}
    assert rig.release(Image(STREAM, 500, [b"i1"])) == ["i1", "c2"]


def test_an_image_that_is_too_old_is_asked_for_again(rig):
    rig.take((GAP, 3, 5), (DATA, 8, "a8"))
    rig.source.wanted.clear()
    assert rig.release(Image(STREAM, 6, [b"i1"])) == []
    assert rig.source.wanted == {STREAM: 7}
    assert rig.release(Image(STREAM, 7, [b"i1"])) == ["i1", "a8"]
    assert rig.messages.counters()["images_old"] == 1


def test_an_image_that_does_not_come_is_not_waited_for_for_ever(rig):
    rig.take((GAP, 3, 5), (DATA, 8, "a8"))
    assert rig.release(after_ns=WAIT_NS - 1) == []
    assert rig.release(after_ns=WAIT_NS) == ["a8"]
    assert rig.source.wanted == {}
    assert rig.release(Image(STREAM, 9, [b"i1"])) == []  # nobody wants it any more
    assert rig.messages.counters()["images_late"] == 1


def test_a_second_gap_needs_a_newer_image_and_a_restart_none(rig):
    rig.take((GAP, 3, 5), (DATA, 8, "a8"))
    assert rig.take((GAP, 9, 2), (DATA, 11, "ab")) == ["gap"]
    assert rig.source.wanted == {STREAM: 10}
    assert rig.take((RESTART, 1, 0), (DATA, 1, "n1")) == ["restart", "n1"]
    assert rig.source.wanted == {}
    assert rig.release(Image(STREAM, 10, [b"i1"])) == []


def test_numbers_that_roll_over_go_on(rig):
    assert rig.take((GAP, LAST_NUMBER - 1, 4), (DATA, 3, "a3a4a5")) == ["gap"]
    assert rig.release(Image(STREAM, LAST_NUMBER, [b"i1"])) == []
    assert rig.messages.counters()["images_old"] == 1
    assert rig.release(Image(STREAM, 3, [b"i1"])) == ["i1", "a4", "a5"]
    rig.take((GAP, LAST_NUMBER - 5, 2), (DATA, LAST_NUMBER - 3, "a1a2a3"))
    assert rig.release(Image(STREAM, 1, [b"i1"])) == ["i1"], "it has all that was held"
    rig.take((GAP, LAST_NUMBER - 5, 2), (DATA, LAST_NUMBER - 3, "a1a2a3"))
    assert rig.release(after_ns=WAIT_NS) == ["a1", "a2", "a3"]


def test_what_is_held_is_bounded(rig, monkeypatch):
    monkeypatch.setattr(images, "HELD_BYTES_MAX", 1_000)
    rig.take((GAP, 3, 1))
    said = rig.take(*((DATA, number, f"{number:02}") for number in range(4, 20)))
    assert said == [f"{number:02}" for number in range(4, 20)]
    assert rig.messages.counters()["images_overflow"] == 1
    assert rig.source.wanted == {}


def test_what_is_outside_of_the_numbering_goes_through(rig):
    rig.take((GAP, 3, 1))
    assert rig.take((DATA, 0, "x1")) == ["x1"]


def test_a_long_image_comes_in_several_blocks():
    image = Image(STREAM, 5, [b"%03d" % i for i in range(450)])
    buffer, blocks = images.image_blocks(image, 77)
    assert blocks["count"].tolist() == [MESSAGES_A_BLOCK, MESSAGES_A_BLOCK, 50]
    assert (blocks["first"] == 0).all()
    assert b"".join(buffer[b["start"] : b["stop"]].tobytes() for b in blocks) == b"".join(image.messages)
    assert images.image_blocks(Image(STREAM, 5, []), 0)[1].size == 0
