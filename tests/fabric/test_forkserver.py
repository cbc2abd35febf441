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
from programs import START, node, topology

WITHIN_MS = 10_000


def message(server: ForkServer, key: str) -> dict[str, Any]:
    """The next message that has ``key``."""
    poll = select.poll()
    poll.register(server.fileno(), select.POLLIN)
    while poll.poll(WITHIN_MS):
        messages = server.receive()
        assert messages is not None, "the fork server has ended"
        for found in messages:
            if key in found:
                return found
    raise AssertionError(f"no {key!r} came")


@contextmanager
def serving(tmp_path, *nodes, entry=START) -> Iterator[tuple[ForkServer, dict[str, Any]]]:
    with (
        (tmp_path / "output").open("wb") as output,
        ForkServer(topology(tmp_path, *nodes), output.fileno(), entry) as server,
    ):
        yield server, message(server, "serving")


def spawn(server: ForkServer, name: str, epoch: int = 7) -> tuple[int, int, int]:
    """Pid, log pipe and status pipe of a new node."""
    log, log_end = os.pipe()
    status, status_end = os.pipe()
    server.spawn(name, epoch, log_end, status_end)
    os.close(log_end)
    os.close(status_end)
    return message(server, "spawned")["pid"], log, status


def read_all(pipe: int) -> bytes:
    with os.fdopen(pipe, "rb") as file:
        return file.read()


def test_a_child_runs_the_program_with_its_epoch_and_its_end_is_reported(tmp_path):
    with serving(tmp_path, node("a", "sleeper")) as (server, hello):
        assert hello["problems"] == []
        pid, log, status = spawn(server, "a", epoch=42)
        assert json.loads(os.read(status, 4096).splitlines()[0]) == {"ready": True, "detail": "asleep"}
        os.kill(pid, signal.SIGTERM)
        assert message(server, "exited") == {"exited": pid, "code": 0}
        assert read_all(log).startswith(b"here with epoch 42\n")
        os.close(status)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGSEGV, -11)])
def test_a_signal_is_reported_as_its_negative_number(tmp_path, number, code):
    with serving(tmp_path, node("a", "sleeper")) as (server, _):
        pid, log, status = spawn(server, "a")
        os.read(status, 1)
        os.kill(pid, number)
        assert message(server, "exited")["code"] == code
        assert (b"Segmentation fault" in read_all(log)) == (number == signal.SIGSEGV)  # with the Python stack
        os.close(status)


def test_a_stop_in_the_first_instant_is_not_lost(tmp_path):
    with serving(tmp_path, node("a", "sleeper")) as (server, _):
        for _ in range(20):
            pid, log, status = spawn(server, "a")
            os.kill(pid, signal.SIGTERM)
            assert message(server, "exited")["code"] in (0, -signal.SIGTERM)
            os.close(log)
            os.close(status)


def test_a_program_that_cannot_be_imported_is_told_at_once_and_fails_alone(tmp_path):
    bad = node("bad", "sleeper").__class__("bad", "processor", "no_such_module:main", node("x", "sleeper").settings)
    with serving(tmp_path, bad, node("a", "sleeper")) as (server, hello):
        assert "No module named 'no_such_module'" in hello["problems"][0]
        _, log, status = spawn(server, "bad")
        assert message(server, "exited")["code"] == 1
        assert b"ModuleNotFoundError" in read_all(log)
        os.close(status)
        _, log, good = spawn(server, "a")
        assert b"ready" in os.read(good, 4096)
        os.close(log)
        os.close(good)


def test_a_child_inherits_its_four_descriptors_only_and_leads_a_group_of_its_own(tmp_path):
    with serving(tmp_path, node("a", "sleeper")) as (server, _):
        pid, log, status = spawn(server, "a")
        os.read(status, 1)
        assert sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir()) == ["0", "1", "2", "3"]
        assert os.getpgid(pid) == pid
        assert Path(f"/proc/{pid}/comm").read_text() == "a\n"
        os.close(log)
        os.close(status)
