"""The durable log: what was appended is there in order, whatever happened to its process, its disk or its bytes."""

import errno
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naive_journal as naive
from fabric import codec, journal
from fabric import journal_kernel as jk
from fabric.clock import SECOND_NS, ManualClock, SystemClock
from fabric.errors import UnavailableError
from fabric.journal import Cursor, Journal, Query, records
from fabric.topology import JournalSettings
from support import file_system, product_environment

PATIENCE_S = 10.0
SETTINGS = JournalSettings("", keep_ns=2**66, bytes_max=8 << 20, sync_ns=2_000_000)
"""Segments of a megabyte, synced often, kept however old."""
EVERYTHING = Query()
Message = tuple[bytes, bytes]


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.001)


def messages(count: int, size: int = 160, seed: int = 1) -> list[Message]:
    rng = random.Random(seed)
    names = ("quote.AAPL|V", "quote.MSFT|V", "trade.AAPL|V", "status.|V")
    return [(rng.choice(names).encode(), rng.randbytes(rng.randint(1, 2 * size))) for _ in range(count)]


def append(
    log: Journal, what: list[Message], epoch: int = 1, stamp_ns: int = 1, now_ns: int = 1, *,
    holding: AbstractContextManager[Any] = nullcontext(),  # noqa: B008  (it has no state)
) -> None:  # fmt: skip
    data, ends = codec.lay_out(what)
    done = 0
    while done < len(what):
        with holding:
            done = int(jk.append_all(log.state, data, ends, done, epoch, stamp_ns, now_ns))
        if done < len(what):
            log.wait_for_room()
    if log.idle:
        log.stir()


def read(listing: Callable[[], list[journal.Segment]], query: Query = EVERYTHING) -> list[naive.Record]:
    cursor = Cursor(listing, query)
    found = list(records(cursor))
    summary = cursor.summary()
    assert summary["count"] == len(found)
    if found:
        assert (summary["first"], summary["last"]) == (found[0][0], found[-1][0])
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "feed"


@pytest.fixture
def opened(folder: Path, clock: ManualClock) -> Iterator[Callable[..., Journal]]:
    made: list[Journal] = []

    def make(epoch: int = 1, settings: JournalSettings = SETTINGS, **options: object) -> Journal:
        made.append(Journal(folder, settings, clock, epoch, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for log in made:
        log.close()


class TestCrc:
    VECTORS = (
        (bytes(32), "aa36918a"),
        (b"\xff" * 32, "43aba862"),
        (bytes(range(32)), "4e79dd46"),
        (bytes(range(31, -1, -1)), "5cdb3f11"),
        (
            bytes.fromhex(
                "01c00000000000000000000000000000140000000000040000000014000000182800000000000000020000000000000000"[
                    :96
                ]
            ),
            "563a96d9",
        ),
    )
    """RFC 3720, B.4: the bytes, and the CRC as it is sent, lowest byte first."""

    @pytest.mark.parametrize(("raw", "crc"), VECTORS)
    def test_the_vectors_of_rfc_3720(self, raw: bytes, crc: str) -> None:
        data = np.frombuffer(raw, np.uint8).copy()
        for kernel in (jk.crc32c, jk.crc32c_by_table, naive_over):
            assert int(kernel(data, 0, data.size, 0)).to_bytes(4, "little").hex() == crc

    def test_instruction_table_and_twin_agree_on_any_words_in_any_parts(self) -> None:
        rng = np.random.default_rng(2)
        for _ in range(50):
            data = rng.integers(0, 256, 8 * int(rng.integers(1, 40)), np.uint8)
            middle = 8 * int(rng.integers(0, data.size // 8 + 1))
            whole = naive.crc32c(data.tobytes())
            for kernel in (jk.crc32c, jk.crc32c_by_table):
                assert kernel(data, middle, data.size, kernel(data, 0, middle, 0)) == whole


def naive_over(data: np.ndarray, start: int, stop: int, crc: int) -> int:  # type: ignore[type-arg]
    return naive.crc32c(data[start:stop].tobytes())


def test_a_record_is_the_bytes_that_the_twin_writes(opened: Callable[..., Journal], folder: Path) -> None:
    log = opened(epoch=7)
    sent = messages(300)
    append(log, sent, epoch=7, stamp_ns=1_767_366_000_123_456_789)
    log.close()
    (path,) = journal.files(folder)
    expected = b"".join(
        naive.record(position, 7, 1_767_366_000_123_456_789, *message) for position, message in enumerate(sent, 1)
    )
    assert path.read_bytes()[jk.DATA_AT :][: len(expected)] == expected
    assert journal.inspect(path).end == jk.DATA_AT + len(expected)


def test_what_was_appended_is_read_in_order_across_segments_while_the_log_is_written(
    opened: Callable[..., Journal],
) -> None:
    log = opened()
    sent = messages(12_000)
    for start in range(0, len(sent), 500):
        append(log, sent[start : start + 500], stamp_ns=start + 1)
        if start % 4_000 == 0:
            assert [(m[3], m[4]) for m in read(log.listing)] == sent[: start + 500]
    found = read(log.listing)
    assert [m[0] for m in found] == list(range(1, len(sent) + 1))
    assert [(m[3], m[4]) for m in found] == sent
    assert len(log.listing()) > 2
    until(lambda: log.counters()["log_synced"] == len(sent))


def test_a_reader_gets_just_what_it_asks_for(opened: Callable[..., Journal]) -> None:
    log = opened()
    sent = messages(9_000, seed=3)
    for i in range(0, len(sent), 100):
        append(log, sent[i : i + 100], stamp_ns=1_000 + i)
    every = [(position, *message) for position, message in enumerate(sent, 1)]
    rng = random.Random(4)
    for _ in range(30):
        first = rng.randint(-5, 9_100)
        last = rng.choice([first, first + rng.randint(0, 3_000), journal.NO_END])
        prefixes = tuple(
            rng.sample([b"quote.", b"quote.AAPL|", b"trade.AAPL|V", b"status.", b"nbbo.", b"quote.AAPL|VX"], 2)
        )
        wanted = [
            (p, t, m) for p, t, m in every if first <= p <= last and any(t.startswith(prefix) for prefix in prefixes)
        ]
        got = read(log.listing, Query(first, last, 0, prefixes))
        assert [(p, t, m) for p, _, _, t, m in got] == wanted
        since = rng.randint(0, 10_500)
        got = read(log.listing, Query(from_ns=since))
        assert [p for p, *_ in got] == [p for p, *_ in every if 1_000 + (p - 1) // 100 * 100 >= since]


def test_the_checksum_is_that_of_all_bytes_given(opened: Callable[..., Journal]) -> None:
    log = opened()
    append(log, messages(3_000))
    cursor = Cursor(log.listing, Query(prefixes=(b"trade.",)))
    out, given = np.empty(20_000, np.uint8), b""
    while size := cursor.read(out):
        given += out[:size].tobytes()
    assert cursor.summary()["checksum"] == naive.crc32c(given)


def test_a_restart_goes_on_where_the_log_ends(opened: Callable[..., Journal]) -> None:
    log = opened(epoch=5)
    append(log, messages(10), epoch=5)
    log.close()
    again = opened(epoch=6)
    assert again.position == 10
    append(again, messages(10, seed=2), epoch=6)
    assert [(p, e) for p, e, *_ in read(again.listing)] == [(p, 5 if p <= 10 else 6) for p in range(1, 21)]


def test_a_second_writer_is_refused(opened: Callable[..., Journal], folder: Path) -> None:
    opened()
    with pytest.raises(UnavailableError, match="another process writes this log"):
        Journal(folder, SETTINGS, SystemClock(), 2)


def test_the_oldest_go_by_bytes_and_by_time_but_never_all(opened: Callable[..., Journal], clock: ManualClock) -> None:
    settings = replace(SETTINGS, keep_ns=1_000 * SECOND_NS)
    log = opened(settings=settings)
    for _ in range(14):
        append(log, messages(5_000), stamp_ns=clock.now_ns())
    until(lambda: log.counters()["log_forgotten"] > 0)
    log.close()
    on_disk = sum(path.stat().st_size for path in journal.files(log.folder))
    assert on_disk <= SETTINGS.bytes_max
    first = log.first
    assert [p for p, *_ in read(log.listing)] == list(range(first, 14 * 5_000 + 1))
    clock.advance(2_000 * SECOND_NS)
    late = opened(epoch=2, settings=settings)
    assert late.position == 14 * 5_000
    assert len(late.listing()) == 1


def small_segment(folder: Path, clock: ManualClock, count: int = 14, size: int = 120) -> tuple[bytes, list[Message]]:
    """A sealed segment of about four kilobytes, as a file has it."""
    log = Journal(folder, SETTINGS, clock, 3)
    sent = messages(count, size, seed=5)
    append(log, sent, epoch=3)
    log.close()
    (path,) = journal.files(folder)
    return path.read_bytes(), sent


def test_truncated_at_every_byte_it_opens_with_all_whole_records(folder: Path, clock: ManualClock) -> None:
    """Fault 31."""
    raw, sent = small_segment(folder, clock)
    (path,) = journal.files(folder)
    ends = [jk.DATA_AT]
    for message in sent:
        ends.append(ends[-1] + len(naive.record(1, 1, 1, *message)))
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        found = read(lambda: journal.segments(folder))
        whole = sum(end <= length for end in ends[1:])
        assert [(m[3], m[4]) for m in found] == sent[:whole], length
    for length in (0, 63, ends[1] - 1, ends[3] + 17, len(raw) - 1):  # and its publisher goes on after the cut
        path.write_bytes(raw[:length])
        whole = sum(end <= length for end in ends[1:])
        log = Journal(folder, SETTINGS, clock, 4)
        assert log.position == whole
        append(log, [(b"trade.X|V", b"after")], epoch=4)
        assert [m[4] for m in read(log.listing)] == [*(m[1] for m in sent[:whole]), b"after"]
        log.close()
        for other in journal.files(folder):
            other.unlink()


def test_a_flip_of_any_bit_costs_at_most_its_record_and_is_counted(folder: Path, clock: ManualClock) -> None:
    """Fault 32: what is given was written; a record that is not given is counted as a hole, or cut at the end."""
    raw, sent = small_segment(folder, clock, count=5, size=20)
    (path,) = journal.files(folder)
    last_end = journal.inspect(path).end
    last_at = last_end - len(naive.record(5, 3, 1, *sent[-1]))
    every = {(position, 3, 1, *message) for position, message in enumerate(sent, 1)}
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        segments = journal.segments(folder)
        cursor = Cursor(lambda found=segments: found, Query())  # type: ignore[misc]
        found = list(records(cursor))
        assert set(found) <= every, bit
        assert [p for p, *_ in found] == sorted(p for p, *_ in found)
        assert bit % 13 or naive.records(bytes(changed[:last_end])) == found
        in_record = jk.DATA_AT <= bit // 8 < last_end
        assert len(found) == (4 if in_record else 5), bit
        examined = journal.examine(path, bytes(changed), last_end)
        assert examined.records == len(found)
        if in_record:
            assert examined.holes == (bit // 8 < last_at)
            assert cursor.summary()["holes"] + (bit // 8 >= last_at) >= 1


def test_random_rubbish_in_the_middle_is_skipped_and_what_follows_is_found(folder: Path, clock: ManualClock) -> None:
    rng = random.Random(6)
    raw, sent = small_segment(folder, clock, count=60)
    (path,) = journal.files(folder)
    end = journal.inspect(path).end
    for _ in range(50):
        changed = bytearray(raw)
        at, size = rng.randrange(jk.DATA_AT, end), rng.choice([1, 8, 50, 4_096])
        size = min(size, end - at)
        changed[at : at + size] = rng.choice([bytes(size), rng.randbytes(size)])
        path.write_bytes(changed)
        found = read(lambda: journal.segments(folder))
        assert found == naive.records(bytes(changed[:end]))
        assert set(found) <= {(p, 3, 1, *m) for p, m in enumerate(sent, 1)}


class TestDisk:
    def test_without_room_the_log_is_suspended_loudly_and_goes_on_when_there_is(
        self, opened: Callable[..., Journal], clock: ManualClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fault 29: nothing waits, what went by is counted, what is there is whole."""
        full = False

        def allocate(descriptor: int, offset: int, length: int) -> None:
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.posix_fallocate(descriptor, offset, length)

        log = opened(allocate=allocate)
        full = True
        sent = messages(20_000)
        append(log, sent)
        counters = log.counters()
        assert counters["log_suspended"] == 1
        assert counters["log_suspensions"] == 1
        logged = counters["log_appended"]
        assert 0 < logged < len(sent)
        assert counters["log_unlogged"] == len(sent) - logged
        assert [r.levelno for r in caplog.records] == [logging.ERROR]
        assert "No space left on device" in caplog.text
        assert [(m[3], m[4]) for m in read(log.listing)] == sent[:logged]
        full = False
        clock.advance(2 * SECOND_NS)
        until(lambda: not log.counters()["log_suspended"])
        append(log, [(b"trade.X|V", b"again")])
        found = read(log.listing)
        assert found[-1][0] == len(sent) + 1
        assert len(found) == logged + 1
        assert "there is room again" in caplog.text

    def test_a_disk_that_is_full_from_the_start_keeps_nobody_from_starting(
        self, opened: Callable[..., Journal], folder: Path
    ) -> None:
        """The bound is the kernel's own: EFBIG for what is beyond RLIMIT_FSIZE."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
        try:
            log = opened()
            append(log, messages(10))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert log.counters()["log_suspended"] == 1
        assert log.counters()["log_unlogged"] == 10
        assert [path.name for path in folder.iterdir()] == ["lock"]

    def test_a_file_system_that_is_full_leaves_no_torn_file(self, tmp_path: Path, clock: ManualClock) -> None:
        """Fault 29 with a real file system of three megabytes."""
        place = tmp_path / "small"
        with file_system(place, 3):
            log = Journal(place / "feed", SETTINGS, clock, 1)
            sent = messages(30_000)
            append(log, sent)
            logged = log.counters()["log_appended"]
            assert log.counters()["log_suspended"] == 1
            assert 0 < logged < len(sent)
            log.close()
            assert [(m[3], m[4]) for m in read(lambda: journal.segments(log.folder))] == sent[:logged]

    def test_a_segment_whose_sync_failed_is_sealed_as_suspect_and_never_called_synced(
        self, opened: Callable[..., Journal], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fault 30."""
        failing = threading.Event()
        log = opened(sync=lambda address, length: errno.EIO if failing.is_set() else jk.sync(address, length))
        append(log, messages(10))
        until(lambda: log.counters()["log_synced"] == 10)
        failing.set()
        append(log, messages(10))
        until(lambda: log.counters()["log_suspects"] == 1)
        assert log.counters()["log_synced"] == 10
        failing.clear()
        append(log, messages(10))
        until(lambda: log.counters()["log_synced"] == 30)
        assert log.counters()["log_suspects"] == 1
        assert "sealed as suspect" in caplog.text
        log.close()
        assert [(s.first, s.last, s.suspect) for s in journal.segments(log.folder)] == [(1, 20, True), (21, 30, False)]
        assert len(read(lambda: journal.segments(log.folder))) == 30

    def test_a_copy_of_the_files_as_of_a_sync_holds_all_that_was_called_synced(
        self, folder: Path, clock: ManualClock, tmp_path: Path
    ) -> None:
        """The promise about a power cut: only what a sync was told to write is in the copy."""
        copy: dict[Path, bytearray] = {}

        def sync(address: int, length: int) -> int:
            for room in log._rooms.values():
                start = address - room.address
                if 0 <= start < room.data.size:
                    page = start // jk.PAGE * jk.PAGE
                    stop = -(-(start + length) // jk.PAGE) * jk.PAGE
                    kept = copy.setdefault(room.path, bytearray(room.data.size))
                    kept[page:stop] = room.data[page:stop].tobytes()
            return int(jk.sync(address, length))

        log = Journal(folder, SETTINGS, clock, 1, sync=sync)
        sent = messages(8_000)
        for start in range(0, len(sent), 250):
            append(log, sent[start : start + 250])
            if start % 2_000 == 0:
                until(lambda end=start + 250: log.counters()["log_synced"] >= end)  # type: ignore[misc]
        promised = log.counters()["log_synced"]
        cut = tmp_path / "cut"
        cut.mkdir()
        for path, raw in copy.items():
            (cut / path.name).write_bytes(raw)
        found = read(lambda: journal.segments(cut))
        assert promised >= 6_250
        assert [(m[3], m[4]) for m in found[:promised]] == sent[:promised]
        log.close()

    def test_syncs_that_come_too_late_are_counted(self, opened: Callable[..., Journal], clock: ManualClock) -> None:
        def slow(address: int, length: int) -> int:
            clock.advance(SECOND_NS)
            return int(jk.sync(address, length))

        log = opened(sync=slow)
        append(log, messages(10), now_ns=clock.monotonic_ns() + 1)
        until(lambda: log.counters()["log_late_syncs"] == 1)


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from fabric import codec, journal, journal_kernel as jk
from fabric.clock import SystemClock
from fabric.topology import JournalSettings
settings = JournalSettings("", bytes_max=1 << 30, sync_ns=5_000_000)
log = journal.Journal(Path(sys.argv[1]), settings, SystemClock(), int(sys.argv[2]))
at = log.position
while True:
    batch = [(b"trade.AAPL|V", b"%d" % (at + i + 1) * 8) for i in range(50)]
    data, ends = codec.lay_out(batch)
    done = 0
    while done < 50:
        done = jk.append_all(log.state, data, ends, done, int(sys.argv[2]), time.time_ns(), time.monotonic_ns())
        if done < 50:
            log.wait_for_room()
    if log.idle:
        log.stir()
    at += 50
    sys.stdout.write("%d\\n" % at)
    sys.stdout.flush()
"""


def test_killed_at_random_instants_it_has_all_that_was_appended(folder: Path) -> None:
    """I6 and fault 33: what the process had told of before kill -9 is in its log, in order, over rolls and restarts."""
    rng = random.Random(7)
    told = 0
    for epoch in range(1, 4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER.format(tests=str(Path(__file__).parents[1])), str(folder), str(epoch)],
            stdout=subprocess.PIPE, env=product_environment(), cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert process.stdout is not None
        with process, process.stdout as output:
            for _ in range(rng.randint(5, 400)):
                told = int(output.readline())
            process.send_signal(signal.SIGKILL)
            rest = [line for line in output.read().split(b"\n")[:-1] if line]
            told = int(rest[-1]) if rest else told
        found = read(lambda: journal.segments(folder))
        assert len(found) >= told
        assert [p for p, *_ in found] == list(range(1, len(found) + 1))
        assert all(m[4] == b"%d" % m[0] * 8 for m in found)
    assert len({e for _, e, *_ in found}) == 3


def test_killed_before_any_step_of_roll_and_retention_no_segment_is_lost_and_none_twice(
    folder: Path, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 33: before each call that changes the folder its files are kept as a process that is killed there leaves
    them; what was written to mapped memory is in the files at once. Nothing is appended while they are copied: the
    files would be of different instants.
    """
    settings = replace(SETTINGS, bytes_max=1 << 20)
    changing = threading.RLock()
    moments: list[tuple[str, Path, int]] = []

    def hook(owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def kept_before(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                return call(*arguments, **options)
            with changing:
                last = int(log.state[jk.J_LAST])
                moment = tmp_path / "moments" / str(len(moments)) / "feed"
                shutil.copytree(folder, moment, ignore=shutil.ignore_patterns("lock"))
                moments.append((name, moment, last))
                return call(*arguments, **options)

        monkeypatch.setattr(owner, name, kept_before)

    log = Journal(folder, settings, clock, 1)
    sent = messages(24_000)
    for owner, name in (
        (os, "open"), (os, "posix_fallocate"), (os, "pwrite"), (os, "ftruncate"), (os, "fdatasync"), (Path, "unlink")
    ):  # fmt: skip
        hook(owner, name)
    monkeypatch.setattr(log, "_allocate", os.posix_fallocate)
    for start in range(0, len(sent), 500):
        append(log, sent[start : start + 500], holding=changing)
        if start % 4_000 == 0:
            until(lambda end=start + 500: log.counters()["log_synced"] >= end)  # type: ignore[misc]  (one argument)
    until(lambda: log.counters()["log_forgotten"] > 0)
    log.close()
    monkeypatch.undo()
    assert log.counters()["log_forgotten"] > 0
    assert {name for name, *_ in moments} == {"open", "posix_fallocate", "pwrite", "ftruncate", "fdatasync", "unlink"}
    for name, moment, last in moments:
        late = Journal(moment, SETTINGS, clock, 2)  # which keeps more, and forgets nothing of it
        assert late.position >= last, name
        append(late, [(b"trade.X|V", b"after")], epoch=2)
        found = read(late.listing)
        late.close()
        first, end = found[0][0], found[-1][0]
        assert [position for position, *_ in found] == list(range(first, end + 1)), name
        assert [(m[3], m[4]) for m in found[:-1]] == sent[first - 1 : end - 1], name
    assert read(lambda: journal.segments(moments[0][1]))[0][0] == 1


def test_an_error_of_its_own_suspends_the_log_and_nothing_else(
    opened: Callable[..., Journal], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(address: int, length: int) -> int:
        raise RuntimeError("a mistake of ours")

    log = opened(sync=broken)
    append(log, messages(10))
    until(lambda: bool(log.counters()["log_suspended"]))
    append(log, messages(10))
    assert log.counters()["log_unlogged"] == 10
    assert "the log has failed" in caplog.text
    assert len(read(log.listing)) == 10
    log._sync_memory = jk.sync
