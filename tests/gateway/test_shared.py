"""The table that gateway processes share: one after the other, at once, and after one was killed."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from fabric.clock import SECOND_NS
from fabric.errors import FabricError
from gateway import shared
from gateway.limits import Rate
from gateway.shared import Shared

RATE = Rate(10, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "limits.table"


@pytest.fixture
def pair(path: Path) -> Iterator[tuple[Shared, Shared]]:
    """Two processes' views: a lock belongs to an opening of the file, so one process can play both."""
    one, two = Shared(path), Shared(path)
    yield one, two
    one.close()
    two.close()


def test_a_rate_holds_over_all_processes(pair: tuple[Shared, Shared]) -> None:
    one, two = pair
    assert [process.take("user a", RATE, 0) for process in (one, two, one, two)] == [(0, 2), (0, 1), (0, 0), (10**8, 0)]
    assert two.take("user b", RATE, 0) == (0, 2)
    assert one.take("user a", RATE, 10**8) == (0, 0)


def test_a_clock_that_began_anew_empties_a_bucket_once_and_does_not_lock_it(pair: tuple[Shared, Shared]) -> None:
    one, _ = pair
    one.take("a", RATE, 10**15)
    wait_ns, _ = one.take("a", RATE, 5)
    assert wait_ns == RATE.ns_per_token
    assert one.take("a", RATE, 5 + wait_ns) == (0, 0)


def test_connections_are_counted_over_all_processes(pair: tuple[Shared, Shared]) -> None:
    one, two = pair
    assert [process.enter("a", 3, 0) for process in (one, two, two, one)] == [True, True, True, False]
    assert one.connections("a", 0) == 3
    two.leave("a", 0)
    assert one.enter("a", 3, 0)
    assert not two.enter("a", 3, 0)


def test_what_a_process_counted_is_gone_with_it(path: Path) -> None:
    one, two = Shared(path), Shared(path)
    two.enter("a", 1, 0)
    assert not one.enter("a", 1, 0)
    two.close()
    assert one.enter("a", 1, 0)
    one.close()


def _hold_and_wait(path: Path, said: Connection) -> None:
    table = Shared(path)
    table.enter("a", 9, 0)
    table.enter("a", 9, 0)
    table._locked().__enter__()  # killed inside an operation, with the table locked
    said.send(table.column)
    signal.pause()


@pytest.mark.parametrize("lives", [True, False], ids=["another lives on", "another comes"])
def test_a_process_that_was_killed_holds_nothing(path: Path, lives: bool) -> None:
    """Its connections are known to be gone, to who was there and to who comes later, and its lock is anyone's."""
    table = Shared(path) if lives else None
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_hold_and_wait, args=(path, there))
    process.start()
    assert here.poll(20)
    assert here.recv() == int(lives)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(10)
    table = table or Shared(path)
    assert table.enter("a", 1, 0)
    assert table.connections("a", 0) == 1
    table.close()
    process.close()


def test_a_successor_takes_the_place_of_a_connection_elsewhere(pair: tuple[Shared, Shared]) -> None:
    one, two = pair
    assert two.enter("a", 1, 0)
    assert not one.anyone_asked()
    assert one.ask_to_close("a", 0)
    assert one.enter("a", 1, 0)
    assert not one.anyone_asked()
    assert two.anyone_asked()
    assert two.asked("a", 0) == 1
    assert not one.enter("a", 1, 0)
    two.leave("a", 0)
    assert not two.anyone_asked()
    assert one.connections("a", 0) == 1


def test_its_own_connection_is_asked_first(pair: tuple[Shared, Shared]) -> None:
    one, two = pair
    for process in (two, two, one):
        process.enter("a", 9, 0)
    assert one.ask_to_close("a", 0)
    assert (one.asked("a", 0), two.asked("a", 0)) == (1, 0)
    assert one.ask_to_close("a", 0)
    assert one.ask_to_close("a", 0)
    assert two.asked("a", 0) == 2
    assert not one.ask_to_close("a", 0)


def test_a_ticket_is_used_once_whoever_sees_it(pair: tuple[Shared, Shared]) -> None:
    one, two = pair
    assert one.secret == two.secret
    assert one.use_once("ticket", 30 * SECOND_NS, 0)
    assert not two.use_once("ticket", 30 * SECOND_NS, 29 * SECOND_NS)


def test_a_full_set_forgets_what_is_idle_and_never_a_connection_or_a_used_ticket(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "SETS", 1)
    table = Shared(path)
    table.take("idle", Rate(1, 1), 0)
    assert table.enter("a", 1, 1)
    assert table.use_once("ticket", 100, 1)
    for number in range(13):
        table.take(f"other {number}", RATE, 2)
    assert table.take("idle", Rate(1, 1), 3)[0] > 0
    assert table.enter("b", 1, 4)  # in the place of `other 0`, which was used longest ago
    for number in range(20):
        table.enter(f"c {number}", 1, 5)
    assert not table.enter("a", 1, 6)
    assert not table.use_once("ticket", 100, 50)
    assert table.full > 0
    assert table.take("new", RATE, 7)[0] > 0, "what finds no room is refused"
    table.close()


def test_a_table_of_another_boot_or_version_is_made_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Shared(path)
    one.use_once("ticket", 10**12, 0)
    one.close()
    monkeypatch.setattr(shared, "_VERSION", 2)
    two = Shared(path)
    assert two.use_once("ticket", 10**12, 0)
    assert two.secret != one.secret
    two.close()


def test_the_file_is_private_and_takes_no_room_before_it_is_used(path: Path) -> None:
    table = Shared(path)
    found = path.stat()
    assert found.st_mode & 0o777 == 0o600
    assert found.st_blocks * 512 < 100_000
    table.close()


def test_one_that_cannot_be_made_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FabricError, match=r"file/limits\.table: the table of limits"):
        Shared(tmp_path / "file" / "limits.table")


def test_no_more_processes_than_columns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [Shared(path) for _ in range(shared.PROCESSES_MAX)]
    with pytest.raises(FabricError, match="more than 64 gateway processes"):
        Shared(path)
    for table in tables:
        table.close()


def test_without_a_path_it_is_this_processs_own() -> None:
    one, two = Shared(), Shared()
    assert one.enter("a", 1, 0)
    assert two.enter("a", 1, 0)
    one.close()
    two.close()
