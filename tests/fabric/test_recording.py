"""What a feed passes on is what the recorder writes, and what a reader of captures reads."""

import os
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fabric.clock import SECOND_NS
from fabric.control import RunFolder
from fabric.errors import UnavailableError
from fabric.recording import NAME, Recorder, Tee
from nodes.feeds.capture import Capture
from nodes.feeds.wire import Packets, from_payloads

LINES = ("udp://127.0.0.1:5480", "udp://[ff15::1]:5481")
NOW_NS = 1_700_000_000_123_456_789


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def recorder(folder: RunFolder, tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(folder, tmp_path / "to", ("feed",), 1 << 30)
    yield recorder
    recorder.close()


def packets(rng: random.Random, count: int = 40) -> Packets:
    made = from_payloads([rng.randbytes(rng.randrange(1, 1_400)) for _ in range(count)])
    made.recv_ns[:] = NOW_NS + np.arange(count) * 1_001
    made.lines[:] = [rng.choice([0, 1, 7]) for _ in range(count)]
    return made


def payloads(made: Packets) -> list[tuple[int, bytes]]:
    return [
        (int(recv), made.buffer[at : at + length].tobytes())
        for at, length, recv in zip(made.offsets, made.lengths, made.recv_ns, strict=True)
    ]


def joined(recorder: Recorder, folder: RunFolder, name: str = "feed", lost: int = 0) -> Tee:
    tee = Tee(folder, name, LINES, lambda: lost)
    tee.look(SECOND_NS)
    for _ in range(2):  # who comes in, then who that is
        recorder.turn(5)
    return tee


def test_packets_stamps_and_lines_come_back_as_they_were_received(recorder: Recorder, folder: RunFolder) -> None:
    rng = random.Random(1)
    first, second = packets(rng), packets(rng, 300)
    with closing(joined(recorder, folder)) as tee:
        tee.give(*first)
        tee.give(*second)
        while recorder.recorded["feed"].packets < 340:
            recorder.turn(5)
    recorder.close()
    found: list[tuple[int, bytes]] = []
    targets = []
    with Capture(recorder.recorded["feed"].path) as capture:
        for batch in capture:
            found += payloads(batch.packets)
            targets += [batch.addresses(i)[2:] for i in range(batch.packets.offsets.size)]
        assert capture.counters()["frames"] == 340
    assert found == payloads(first) + payloads(second)
    known = {0: ("127.0.0.1", 5480), 1: ("ff15::1", 5481)}
    assert targets == [known.get(line, ("0.0.0.0", 0)) for line in [*first.lines.tolist(), *second.lines.tolist()]]
    assert recorder.recorded["feed"].lost == 0


def test_the_headers_are_sound_for_other_readers(recorder: Recorder, folder: RunFolder) -> None:
    """RFC 1071: over a header with its checksum, the sum is all ones."""
    with closing(joined(recorder, folder)) as tee:
        tee.give(*from_payloads([b"x" * 33], NOW_NS, 0))
        recorder.turn(5)
    recorder.close()
    raw = recorder.recorded["feed"].path.read_bytes()
    at, heads = 0, []
    while at < len(raw):
        kind, size = struct.unpack_from("<II", raw, at)
        assert size % 4 == 0
        assert struct.unpack_from("<I", raw, at + size - 4) == (size,)
        heads.append((kind, raw[at + 8 : at + size - 4]))
        at += size
    assert [kind for kind, _ in heads] == [0x0A0D0D0A, 1, 1, 1, 6, 5]
    packet = heads[4][1][20:]
    total = sum(struct.unpack(">10H", packet[:20]))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
    assert struct.unpack(">H", packet[2:4]) == (20 + 8 + 33,)


def test_nobody_records_and_nothing_is_sent(folder: RunFolder) -> None:
    tee = Tee(folder, "feed", LINES, lambda: 0)
    tee.look(SECOND_NS)
    tee.give(*packets(random.Random(2)))
    assert tee.dropped == 0


def test_a_recorder_that_is_too_slow_loses_packets_and_never_the_feeds_time(
    recorder: Recorder, folder: RunFolder
) -> None:
    made = packets(random.Random(3), 400)
    with closing(joined(recorder, folder, lost=5)) as tee:
        for _ in range(400):
            tee.give(*made)  # returns at once, though nobody reads
        assert tee.dropped > 0
        given = 400 * 400 - tee.dropped
        while recorder.recorded["feed"].packets < given:
            recorder.turn(5)
        tee.look(10 * SECOND_NS)
        while recorder.recorded["feed"].dropped < tee.dropped:
            recorder.turn(5)
    assert recorder.recorded["feed"].packets == given
    assert recorder.recorded["feed"].kernel_drops == 0, "those were before"


def test_a_feed_that_is_not_wanted_is_turned_away_and_goes_on(recorder: Recorder, folder: RunFolder) -> None:
    with closing(joined(recorder, folder, "other")) as tee:
        tee.give(*packets(random.Random(4)))
        assert recorder.recorded == {}


def test_the_bound_ends_it_and_a_feed_goes_on_without_its_recorder(
    recorder: Recorder, folder: RunFolder, tmp_path: Path
) -> None:
    bounded = recorder
    bounded._bytes_max = 10_000
    made = packets(random.Random(5))
    with closing(joined(bounded, folder)) as tee:
        tee.give(*made)
        while not bounded.full:
            bounded.turn(5)
        bounded.close()
        tee.give(*made)
        tee.give(*made)
        assert tee.dropped == 0
        with closing(Recorder(folder, tmp_path / "next", (), 1 << 30)) as following:
            tee.look(100 * SECOND_NS)
            for _ in range(2):
                following.turn(5)
            assert list(following.recorded) == ["feed"]


def test_one_recorder_at_a_time_and_a_killed_one_is_no_hindrance(folder: RunFolder, tmp_path: Path) -> None:
    folder.make()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as killed:
        killed.bind(os.fspath(folder.socket_path(NAME)))
    with closing(Recorder(folder, tmp_path / "one", (), 1 << 30)):
        assert folder.socket_path(NAME).stat().st_mode & 0o077 == 0
        with pytest.raises(UnavailableError, match="another"):
            Recorder(folder, tmp_path / "two", (), 1 << 30)
    assert not folder.socket_path(NAME).exists()


def test_what_waits_at_the_end_is_in_the_file(recorder: Recorder, folder: RunFolder) -> None:
    with closing(joined(recorder, folder)) as tee:
        for _ in range(30):  # more than one turn takes
            tee.give(*packets(random.Random(3), 10))
        tee.look(3 * SECOND_NS)
    assert tee.dropped == 0
    recorder.close()
    assert recorder.recorded["feed"].packets == 300
    with Capture(recorder.recorded["feed"].path) as capture:
        assert sum(batch.packets.offsets.size for batch in capture) == 300
