"""The launcher with real processes: start, order, restart, give up, stop."""

import errno
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fabric.control import Control, RunFolder
from fabric.errors import FabricError, UnavailableError
from fabric.launcher import Launcher, State
from fabric.topology import Topology
from programs import START, node, topology

WITHIN_S = 10.0


@contextmanager
def started(topology: Topology, folder: Path) -> Iterator[Launcher]:
    with Launcher(topology, RunFolder(folder / ".fabric"), entry=START) as launcher:
        launcher.start()
        yield launcher


def until(launcher: Launcher, happened: Callable[[], Any], within_s: float = WITHIN_S) -> None:
    """Drive the launcher until something has happened."""
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, f"did not happen: {launcher.status()}"
        launcher.turn(0.05)


def stop(launcher: Launcher) -> int:
    launcher.stop()
    until(launcher, launcher.ended)
    return launcher.exit_code()


def seen(launcher: Launcher, name: str) -> dict[str, Any]:
    return {node["name"]: node for node in launcher.status()["nodes"]}[name]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def free_ports() -> int:
    """The first of two neighbouring ports that are free now."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            number: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", number + 1))
            except OSError:
                continue
            return number


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_all_nodes_become_ready_and_stop_cleanly(tmp_path):
    with started(topology(tmp_path, node("a", "sleeper"), node("b", "sleeper")), tmp_path) as launcher:
        until(launcher, launcher.settled)
        pids = [seen(launcher, name)["pid"] for name in "ab"]
        assert seen(launcher, "a")["detail"] == "asleep"
        assert all(map(alive, pids))
        assert stop(launcher) == 0
        assert not any(map(alive, pids))
    assert (tmp_path / ".fabric" / "logs" / "a.log").read_text().startswith("here with epoch ")


def test_a_node_starts_when_those_it_reads_from_are_ready(tmp_path):
    first = node("first", "sleeper", port=free_ports())
    second = node("second", "sleeper", reads=(first,))
    with started(topology(tmp_path, first, second), tmp_path) as launcher:
        until(launcher, lambda: seen(launcher, "second")["pid"])
        assert seen(launcher, "first")["state"] == State.READY
        assert stop(launcher) == 0


def test_a_simulated_market_opens_when_everyone_listens(tmp_path):
    parts = [("market", "exchange"), ("door", "gateway"), ("feed", "feed"), ("other", "exchange")]
    nodes = [node(name, "sleeper", role) for name, role in parts]
    with started(topology(tmp_path, *nodes), tmp_path) as launcher:
        until(launcher, launcher.settled)
        log = (tmp_path / ".fabric" / "logs" / "fabric.log").read_text()
        assert max(map(log.index, ("door: ready", "feed: ready"))) < min(
            map(log.index, ("market: ready", "other: ready"))
        )
        assert stop(launcher) == 0


def test_a_killed_node_is_back_within_a_second_and_the_others_are_untouched(tmp_path):
    with started(topology(tmp_path, node("a", "sleeper"), node("b", "sleeper")), tmp_path) as launcher:
        until(launcher, launcher.settled)
        before, other = seen(launcher, "a"), seen(launcher, "b")
        os.kill(before["pid"], signal.SIGKILL)
        until(launcher, lambda: seen(launcher, "a")["epoch"] > before["epoch"], within_s=1.0)
        until(launcher, lambda: seen(launcher, "a")["ready"], within_s=1.0)
        after = seen(launcher, "a")
        assert after["pid"] != before["pid"]
        assert after["restarts"] == 1
        assert seen(launcher, "b")["pid"] == other["pid"]
        assert stop(launcher) == 0
    assert (
        "a: was killed by SIGKILL; starts again now (restart 1)"
        in RunFolder(tmp_path / ".fabric").log_path("fabric").read_text()
    )


@pytest.mark.parametrize(
    ("lived_ns", "delays"), [(0, ["now", "now", "now"]), (10**12, ["now", "in 0.1 s", "in 0.2 s"])]
)
def test_who_had_lived_for_a_while_is_back_at_once_each_time(tmp_path, monkeypatch, lived_ns, delays):
    monkeypatch.setattr("fabric.launcher.LIVED_NS", lived_ns)
    with started(topology(tmp_path, node("a", "sleeper"), node("b", "sleeper")), tmp_path) as launcher:
        for deaths in range(1, 4):
            until(launcher, lambda: seen(launcher, "a")["ready"])
            os.kill(seen(launcher, "a")["pid"], signal.SIGKILL)
            until(launcher, lambda deaths=deaths: seen(launcher, "a")["restarts"] == deaths)
        assert stop(launcher) == 0
    log = RunFolder(tmp_path / ".fabric").log_path("fabric").read_text()
    assert re.findall(r"a: was killed by SIGKILL; starts again ([^(]*) \(", log) == delays


def test_a_node_that_crashes_for_ever_is_given_up_and_the_others_live(tmp_path):
    nodes = (node("bad", "crasher"), node("good", "sleeper"))
    with started(topology(tmp_path, *nodes, restarts_max=3), tmp_path) as launcher:
        until(launcher, launcher.settled)
        bad = seen(launcher, "bad")
        assert (bad["state"], bad["restarts"], bad["exit_code"]) == (State.FAILED, 3, 3)
        assert seen(launcher, "good")["ready"]
        assert launcher.failed() == ["bad"]
        assert launcher.status()["state"] == "failed"
        assert stop(launcher) == 1
    log = RunFolder(tmp_path / ".fabric").log_path("fabric").read_text()
    assert "bad: FAILED: exited with code 3; died 4 times" in log
    assert "starts again now" in log
    assert "starts again in 0.1 s" in log
    assert "starts again in 0.2 s" in log
    assert "bad        | about to crash" in log


def test_only_the_nodes_of_this_machine_are_started_and_those_elsewhere_not_waited_for(tmp_path):
    far = replace(node("far", "sleeper", port=free_ports()), host="far")
    near = replace(node("near", "sleeper", reads=(far,)), host="near")
    whole = topology(tmp_path, far, near)
    with started(replace(whole, here=("near",)), tmp_path) as launcher:
        until(launcher, launcher.settled)
        assert [found["name"] for found in launcher.status()["nodes"]] == ["near"]
        assert stop(launcher) == 0


def test_when_every_node_has_been_given_up_the_launcher_ends_with_1(tmp_path):
    with started(topology(tmp_path, node("bad", "crasher"), restarts_max=0), tmp_path) as launcher:
        until(launcher, launcher.ended)
        assert launcher.exit_code() == 1


def test_a_node_that_never_gets_ready_is_killed_and_counts_as_dead(tmp_path, monkeypatch):
    monkeypatch.setattr("fabric.launcher.READY_WITHIN_NS", 100_000_000)
    with started(topology(tmp_path, node("late", "late"), restarts_max=1), tmp_path) as launcher:
        until(launcher, launcher.ended)
        assert seen(launcher, "late")["exit_code"] == -signal.SIGKILL
    assert "late: FAILED: killed: not ready within" in RunFolder(tmp_path / ".fabric").log_path("fabric").read_text()


def test_the_stop_goes_from_the_sources_to_the_door(tmp_path):
    roles = ("cache", "gateway", "processor", "feed", "exchange")
    with started(topology(tmp_path, *(node(role, "sleeper", role) for role in roles)), tmp_path) as launcher:
        until(launcher, launcher.settled)
        assert stop(launcher) == 0
    logs = {role: RunFolder(tmp_path / ".fabric").log_path(role).read_text() for role in roles}
    stopped_at = {role: int(log.rpartition("stopped at ")[2]) for role, log in logs.items()}
    assert sorted(roles, key=stopped_at.__getitem__) == ["exchange", "feed", "processor", "gateway", "cache"]


def test_a_node_that_ignores_sigterm_is_killed_after_the_drain(tmp_path):
    with started(topology(tmp_path, node("deaf", "stubborn"), drain_ns=200_000_000), tmp_path) as launcher:
        until(launcher, launcher.settled)
        pid = seen(launcher, "deaf")["pid"]
        assert stop(launcher) == 1
        assert not alive(pid)
    assert "deaf: killed: still alive 0.2 s after SIGTERM" in (tmp_path / ".fabric/logs/fabric.log").read_text()


def test_kill_waits_for_nobody(tmp_path):
    with started(topology(tmp_path, node("deaf", "stubborn")), tmp_path) as launcher:
        until(launcher, launcher.settled)
        pid = seen(launcher, "deaf")["pid"]
        launcher.kill()
        until(launcher, lambda: launcher.ended() and not alive(pid), within_s=1.0)
        assert launcher.exit_code() == 1


def test_what_a_node_has_started_dies_with_it(tmp_path):
    with started(topology(tmp_path, node("parent", "parent")), tmp_path) as launcher:
        until(launcher, launcher.settled)
        before = seen(launcher, "parent")
        os.kill(before["pid"], signal.SIGKILL)
        until(launcher, lambda: not alive(int(before["detail"])))
        assert stop(launcher) == 0


def test_when_the_fork_server_is_killed_it_and_the_nodes_come_back(tmp_path):
    with started(topology(tmp_path, node("a", "sleeper"), node("b", "sleeper")), tmp_path) as launcher:
        until(launcher, launcher.settled)
        before = launcher.status()
        os.kill(before["forkserver"], signal.SIGKILL)
        until(launcher, lambda: launcher.status()["forkserver"] not in (None, before["forkserver"]))
        until(launcher, launcher.settled)
        for old, new in zip(before["nodes"], launcher.status()["nodes"], strict=True):
            assert not alive(old["pid"])
            assert new["epoch"] > old["epoch"]
            assert new["restarts"] == 1
        assert stop(launcher) == 0


def test_a_fork_server_that_hangs_is_replaced(tmp_path, monkeypatch):
    with started(topology(tmp_path, node("a", "sleeper")), tmp_path) as launcher:
        until(launcher, launcher.settled)
        before = launcher.status()["forkserver"]
        with monkeypatch.context() as patched:
            patched.setattr("fabric.launcher.FORKED_WITHIN_NS", 300_000_000)
            os.kill(before, signal.SIGSTOP)
            os.kill(seen(launcher, "a")["pid"], signal.SIGKILL)
            until(launcher, lambda: launcher.status()["forkserver"] not in (None, before))
        until(launcher, launcher.settled)
        assert stop(launcher) == 0


def test_a_restart_that_is_asked_for_is_a_new_process_and_no_death(tmp_path):
    with started(topology(tmp_path, node("a", "sleeper"), restarts_max=0), tmp_path) as launcher:
        until(launcher, launcher.settled)
        before = seen(launcher, "a")
        launcher.restart("a")
        until(launcher, lambda: seen(launcher, "a")["epoch"] > before["epoch"] and seen(launcher, "a")["ready"])
        assert stop(launcher) == 0


def test_a_node_that_was_given_up_can_be_tried_anew(tmp_path):
    nodes = (node("bad", "crasher"), node("good", "sleeper"))
    with started(topology(tmp_path, *nodes, restarts_max=0), tmp_path) as launcher:
        until(launcher, launcher.settled)
        epoch = seen(launcher, "bad")["epoch"]
        launcher.restart("bad")
        until(launcher, lambda: seen(launcher, "bad")["epoch"] > epoch)
        until(launcher, launcher.settled)
        assert launcher.failed() == ["bad"]


def test_a_restart_of_an_unknown_node_names_those_there_are(tmp_path):
    with (
        started(topology(tmp_path, node("nbbo-A-H", "sleeper")), tmp_path) as launcher,
        pytest.raises(FabricError, match="no node is called 'nbbo-A-h'; did you mean 'nbbo-A-H'"),
    ):
        launcher.restart("nbbo-A-h")


def test_epochs_grow_even_when_the_clock_went_back(tmp_path):
    folder = RunFolder(tmp_path / ".fabric")
    folder.make()
    assert folder.next_epoch("a", 1_000) == 1_000
    assert folder.next_epoch("a", 500) == 1_001
    assert folder.next_epoch("b", 500) == 500
    (folder.path / "epochs" / "a").write_text("broken")
    assert folder.next_epoch("a", 2_000) == 2_000


def test_an_epoch_that_cannot_be_kept_still_grows(tmp_path, monkeypatch):
    with started(topology(tmp_path, node("a", "sleeper")), tmp_path) as launcher:
        until(launcher, launcher.settled)
        before = seen(launcher, "a")["epoch"]
        (tmp_path / ".fabric" / "epochs").rename(tmp_path / "away")  # so that nothing can be written there
        monkeypatch.setattr(launcher._clock, "now_ns", lambda: 1)
        os.kill(seen(launcher, "a")["pid"], signal.SIGKILL)
        until(launcher, lambda: seen(launcher, "a")["epoch"] == before + 1)
        until(launcher, launcher.settled)
        assert stop(launcher) == 0
    assert "a: its epoch could not be kept: " in RunFolder(tmp_path / ".fabric").log_path("fabric").read_text()


@pytest.mark.parametrize("failing", ["pipe", "pipe2"])
def test_a_node_for_which_there_are_no_descriptors_is_tried_again(tmp_path, monkeypatch, failing):
    with started(topology(tmp_path, node("a", "sleeper"), node("b", "sleeper")), tmp_path) as launcher:
        until(launcher, launcher.settled)
        other = seen(launcher, "b")["pid"]
        descriptors = open_descriptors()

        def no_more(*_: Any) -> tuple[int, int]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeypatch.context() as patched:
            patched.setattr(os, failing, no_more)
            os.kill(seen(launcher, "a")["pid"], signal.SIGKILL)
            until(launcher, lambda: seen(launcher, "a")["restarts"] == 2)
            assert open_descriptors() == descriptors - 2
        until(launcher, launcher.settled)
        assert seen(launcher, "a")["ready"]
        assert open_descriptors() == descriptors
        assert seen(launcher, "b")["pid"] == other
        assert stop(launcher) == 0
    log = RunFolder(tmp_path / ".fabric").log_path("fabric").read_text()
    assert "a: could not be started: [Errno 24] Too many open files; starts again in" in log


def test_a_flood_of_logs_is_bounded_and_stalls_nobody(tmp_path):
    with started(topology(tmp_path, node("loud", "flooder"), node("a", "sleeper")), tmp_path) as launcher:
        until(launcher, launcher.settled)
        until(launcher, lambda: seen(launcher, "loud")["log_lines_dropped"])
        before = seen(launcher, "a")
        os.kill(before["pid"], signal.SIGKILL)
        until(launcher, lambda: seen(launcher, "a")["epoch"] > before["epoch"] and seen(launcher, "a")["ready"], 1.0)
        assert stop(launcher) == 0
    log = tmp_path / ".fabric" / "logs" / "loud.log"
    assert "lines dropped: more than 256 kB a second" in log.read_text()


def test_a_port_in_use_is_refused_with_its_holder(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wanted = topology(tmp_path, node("feed", "sleeper", port=port))
        with (
            pytest.raises(UnavailableError, match=rf"port {port} on 127.0.0.1 \(PUB of feed\) .* pid {os.getpid()} \("),
            started(wanted, tmp_path),
        ):
            pass


def test_a_second_launcher_in_the_folder_is_refused_with_the_pid_of_the_first(tmp_path):
    first = topology(tmp_path, node("a", "sleeper"))
    with (
        started(first, tmp_path),
        pytest.raises(UnavailableError, match=rf"already running in {tmp_path}: pid {os.getpid()}"),
        started(first, tmp_path),
    ):
        pass
    with started(first, tmp_path) as again:  # and the refused one has taken nothing with it
        until(again, again.settled)


def test_commands_reach_the_launcher_by_its_socket(tmp_path):
    folder = RunFolder(tmp_path / ".fabric")
    with started(topology(tmp_path, node("a", "sleeper")), tmp_path) as launcher:
        until(launcher, launcher.settled)
        assert launcher.answer({"do": "restart", "node": "b"})["error"].startswith("no node is called 'b'")
        assert launcher.answer({"do": "dance"})["error"].startswith("unknown request")
        assert launcher.answer({"do": "status"})["nodes"][0]["name"] == "a"
        assert folder.socket_path().stat().st_mode & 0o077 == 0
        assert folder.path.stat().st_mode & 0o077 == 0
        assert launcher.answer({"do": "down"}) == {"ok": True, "pid": os.getpid()}
        until(launcher, launcher.ended)
    with pytest.raises(FabricError, match="no topology is running in"):
        Control(folder)


def test_reports_become_rates(tmp_path):
    with started(topology(tmp_path, node("a", "sleeper")), tmp_path) as launcher:
        until(launcher, lambda: seen(launcher, "a")["rates"].get("published", 0) > 1)
        assert seen(launcher, "a")["report"]["published"] > 1


def test_systemd_hears_of_ready_and_stopping(tmp_path, monkeypatch):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(WITHIN_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        with started(topology(tmp_path, node("a", "sleeper")), tmp_path) as launcher:
            until(launcher, launcher.settled)
            launcher.turn(0)
            assert systemd.recv(1024) == b"READY=1\nSTATUS=1 nodes, 0 failed"
            launcher.stop()
            assert systemd.recv(1024).startswith(b"STOPPING=1")
            until(launcher, launcher.ended)
