"""Log lines under their bounds: rotation, cut lines, dropped floods, an output that nobody reads."""

import errno
import os
from typing import Any

import pytest

from fabric.clock import SECOND_NS
from fabric.logs import (
    CUT,
    KEPT_A_SECOND,
    LINE_MAX,
    PENDING_MAX,
    READ_A_SECOND,
    Combined,
    Console,
    LogFile,
    NodeLog,
    tail,
)


@pytest.fixture
def log(tmp_path):
    combined = Combined(tmp_path / "fabric.log", None, ("a", "longer"), passed_through=False)
    made = NodeLog("a", tmp_path / "a.log", combined)
    yield made
    made.close()
    combined.close()


def lines(path):
    return path.read_bytes().splitlines()


def test_lines_are_put_together_from_pieces_and_named_in_the_combined_log(log, tmp_path):
    for piece in (b"one\ntw", b"o", b"\r\n", b"three"):
        log.feed(piece, 0)
    log.end_of_stream()
    assert lines(tmp_path / "a.log") == [b"one", b"two", b"three"]
    assert lines(tmp_path / "fabric.log") == [b"a      | one", b"a      | two", b"a      | three"]


def test_what_would_move_the_cursor_is_shown_as_a_question_mark(log, tmp_path):
    log.feed(b"\x1b[2Jgone\x00\x7f\tcaf\xc3\xa9\n", 0)
    assert lines(tmp_path / "a.log") == [b"?[2Jgone??\tcaf\xc3\xa9"]


@pytest.mark.parametrize("pieces", [1, 3, 50])
def test_a_line_that_is_too_long_is_cut_once_and_marked(log, tmp_path, pieces):
    data = b"x" * (3 * LINE_MAX) + b"\nnext\n"
    size = -(-len(data) // pieces)
    for start in range(0, len(data), size):
        log.feed(data[start : start + size], 0)
    first, second = lines(tmp_path / "a.log")
    assert first[:LINE_MAX] == b"x" * LINE_MAX
    assert first.endswith(CUT)
    assert len(first) == LINE_MAX + len(CUT)
    assert second == b"next"


def test_a_flood_is_counted_and_told_in_the_next_second(log, tmp_path):
    chunk = b"0123456789abcde\n" * 4096
    for _ in range(10):
        log.feed(chunk, 0)
    assert (tmp_path / "a.log").stat().st_size <= KEPT_A_SECOND + len(chunk)
    kept = len(lines(tmp_path / "a.log"))
    assert not log.exhausted(0)
    log.feed(b"x" * READ_A_SECOND, 0)
    assert log.exhausted(0)
    assert not log.exhausted(SECOND_NS)
    assert log.dropped == 10 * 4096 - kept
    log.feed(b"the end of that line\nafter\n", SECOND_NS)
    assert lines(tmp_path / "a.log")[kept:] == [
        b"[%d lines dropped: more than 256 kB a second]" % log.dropped,
        b"after",
    ]


def test_a_file_keeps_two_parts_of_its_bound(tmp_path):
    file = LogFile(tmp_path / "x.log", bytes_max=100)
    for number in range(30):
        file.write(b"line %03d\n" % number)
    file.close()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["x.log", "x.log.1"]
    last, position = tail(tmp_path / "x.log", 12)
    assert last == [b"line %03d" % number for number in range(18, 30)]
    assert position == (tmp_path / "x.log").stat().st_size
    assert tail(tmp_path / "x.log", 0)[0] == []


def test_a_file_that_cannot_be_begun_anew_costs_lines_until_it_can(tmp_path, monkeypatch):
    file = LogFile(tmp_path / "x.log", bytes_max=20)
    file.write(b"line of 16 bytes\n")

    def no_more(*_: Any, **__: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", no_more)
        file.write(b"lost\n")
        file.write(b"lost\n")
    file.write(b"after\n")
    file.close()
    assert file.lost == 2
    assert (tmp_path / "x.log").read_bytes() == b"after\n"
    assert (tmp_path / "x.log.1").read_bytes() == b"line of 16 bytes\n"


def test_an_output_that_nobody_reads_is_not_waited_for(tmp_path):
    ours, theirs = os.pipe()
    console = Console(theirs)
    line = b"x" * 4095 + b"\n"
    for _ in range(2 * PENDING_MAX // len(line)):
        console.write(line)
    assert console.behind
    assert console.lost
    taken = 0
    while console.behind:
        taken += len(os.read(ours, 1 << 16))
        console.flush()
    os.close(theirs)
    while data := os.read(ours, 1 << 16):
        taken += len(data)
    os.close(ours)
    assert taken == (2 * PENDING_MAX // len(line) - console.lost) * len(line)


def test_an_output_whose_reader_has_left_is_given_up(tmp_path):
    ours, theirs = os.pipe()
    os.close(ours)
    console = Console(theirs)
    console.write(b"x\n")
    assert not console.behind
    os.close(theirs)
