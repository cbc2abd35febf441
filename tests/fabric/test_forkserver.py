"""The fork server alone: spawn, output, exits, and what a child does and does not inherit."""

import json
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fabric.forkserver import ForkServer
from fabric.topology import NodeSpec
from programs import START, node, topology

WITHIN_MS = 10_000


class Served(ForkServer):
    """A fork server whose messages wait until they are asked for."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.heard: list[dict[str, Any]] = []

    def message(self, key: str) -> dict[str, Any]:
        """The next message that has ``key``."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        while not any(key in heard for heard in self.heard):
            assert poll.poll(WITHIN_MS), f"no {key!r} came, but {self.heard}"
            messages = self.receive()
            assert messages is not None, "the fork server has ended"
            self.heard += messages
        found = next(heard for heard in self.heard if key in heard)
        self.heard.remove(found)
        return found


@contextmanager
def serving(tmp_path, *nodes, entry=START) -> Iterator[Served]:
    with (
        (tmp_path / "output").open("wb") as output,
        Served(topology(tmp_path, *nodes), output.fileno(), entry) as server,
    ):
        yield server


def spawn(server: Served, name: str, epoch: int = 7) -> tuple[int, int, int]:
    """Pid, log pipe and status pipe of a new node."""
    log, log_end = os.pipe()
    status, status_end = os.pipe()
    server.spawn(name, epoch, log_end, status_end)
    os.close(log_end)
    os.close(status_end)
    return server.message("spawned")["pid"], log, status


def read_all(pipe: int) -> bytes:
    with os.fdopen(pipe, "rb") as file:
        return file.read()


def test_a_child_runs_the_program_with_its_epoch_and_its_end_is_reported(tmp_path):
    with serving(tmp_path, node("a", "sleeper")) as server:
        assert server.message("serving") == {"serving": True}
        pid, log, status = spawn(server, "a", epoch=42)
        assert json.loads(os.read(status, 4096).splitlines()[0]) == {"ready": True, "detail": "asleep"}
        os.kill(pid, signal.SIGTERM)
        assert server.message("exited") == {"exited": pid, "code": 0}
        assert read_all(log).startswith(b"here with epoch 42\n")
        os.close(status)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGSEGV, -11)])
def test_a_signal_is_reported_as_its_negative_number(tmp_path, number, code):
    with serving(tmp_path, node("a", "sleeper")) as server:
        pid, log, status = spawn(server, "a")
        os.read(status, 1)
        os.kill(pid, number)
        assert server.message("exited")["code"] == code
        assert (b"Segmentation fault" in read_all(log)) == (number == signal.SIGSEGV)  # with the Python stack
        os.close(status)


def test_a_stop_in_the_first_instant_is_not_lost(tmp_path):
    with serving(tmp_path, node("a", "sleeper")) as server:
        for _ in range(20):
            pid, log, status = spawn(server, "a")
            os.kill(pid, signal.SIGTERM)
            assert server.message("exited")["code"] in (0, -signal.SIGTERM)
            os.close(log)
            os.close(status)


def test_a_program_that_cannot_be_imported_is_told_at_once_and_fails_alone(tmp_path):
    bad = NodeSpec("bad", "processor", "no_such_module:main", node("x", "sleeper").settings)
    with serving(tmp_path, bad, node("a", "sleeper")) as server:
        assert "No module named 'no_such_module'" in server.message("problem")["problem"]
        _, log, status = spawn(server, "bad")
        assert server.message("exited")["code"] == 1
        assert b"ModuleNotFoundError" in read_all(log)
        os.close(status)
        _, log, good = spawn(server, "a")
        assert b"ready" in os.read(good, 4096)
        os.close(log)
        os.close(good)


def test_a_node_is_forked_before_the_programs_of_others_are_loaded(tmp_path, monkeypatch):
    """And it has its own kernels, called; the rest is loaded while nothing is asked for."""
    slow = tmp_path / "slow_program_kernel.py"
    slow.write_text(f"""
from pathlib import Path

def warm_up():
    with open({str(tmp_path / "gate")!r}) as gate:
        gate.read()
    Path({str(tmp_path / "loaded")!r}).touch()
""")
    os.mkfifo(tmp_path / "gate")
    monkeypatch.syspath_prepend(tmp_path)
    later = NodeSpec("later", "processor", "slow_program_kernel:main", node("x", "sleeper").settings)
    with serving(tmp_path, node("a", "sleeper"), later) as server:  # who asks before it has begun to serve is first
        pid, log, status = spawn(server, "a")
        assert b"ready" in os.read(status, 4096)
        assert not (tmp_path / "loaded").exists()
        (tmp_path / "gate").write_text("")  # returns when the server has come to call that kernel
        os.kill(pid, signal.SIGTERM)
        assert server.message("exited") == {"exited": pid, "code": 0}
        assert (tmp_path / "loaded").exists()
        os.close(log)
        os.close(status)


def test_a_child_inherits_its_four_descriptors_only_and_leads_a_group_of_its_own(tmp_path):
    with serving(tmp_path, node("a", "sleeper")) as server:
        pid, log, status = spawn(server, "a")
        os.read(status, 1)
        assert sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir()) == ["0", "1", "2", "3"]
        assert os.getpgid(pid) == pid
        assert Path(f"/proc/{pid}/comm").read_text() == "a\n"
        os.close(log)
        os.close(status)
