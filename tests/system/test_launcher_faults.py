"""What the world may do to a running topology (faults 40, 41, 43): each launcher here is a process of its own."""

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabric.control import CONNECTIONS_MAX, Control, ControlServer, RunFolder
from fabric.errors import FabricError, UnavailableError
from fabric.forkserver import child_environment
from fabric.launcher import Running, running
from fabric.machine import check_ports, ports
from programs import START, node, topology
from support import free_port

OWNER = """
import sys, time
from pathlib import Path
from programs import START, node, topology
from fabric.control import RunFolder
from fabric.launcher import Running

launcher = Running(topology(Path(sys.argv[1]), node("a", "sleeper")), RunFolder(Path(sys.argv[2])), entry=START)
launcher.wait_ready()
print(launcher.node("a")["pid"], launcher.pid, flush=True)
time.sleep(1000)
"""
GONE_WITHIN_S = 2.0
WITHIN_S = 10.0


def until(happened: Callable[[], Any], within_s: float = WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / ".fabric")


def test_kill_9_of_the_launcher_leaves_no_process_and_no_port(tmp_path, folder):
    wanted = topology(tmp_path, node("feed", "binder", port=free_port()), node("deaf", "stubborn"), node("p", "parent"))
    launcher = Running(wanted, folder, entry=START)
    launcher.wait_ready()
    status = launcher.status()
    pids = [status["forkserver"], *(found["pid"] for found in status["nodes"])]
    with pytest.raises(UnavailableError, match=f"is in use by pid {status['nodes'][0]['pid']}"):
        check_ports(ports(wanted))
    os.kill(launcher.pid, signal.SIGKILL)
    until(lambda: not any(map(alive, pids)), GONE_WITHIN_S)
    launcher.kill()  # reaps it
    check_ports(ports(wanted))
    with running(wanted, folder, entry=START) as again:  # the folder is free, too
        assert again.status()["pid"] != status["pid"]
    os.kill(int(status["nodes"][2]["detail"]), signal.SIGKILL)  # sleeps on: a node's own child needs its own PDEATHSIG


def test_the_launcher_drains_when_its_owner_is_killed(tmp_path, folder):
    command = [sys.executable, "-c", OWNER, str(tmp_path), str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=child_environment()) as owner:
        assert owner.stdout is not None
        pids = [int(text) for text in owner.stdout.readline().split()]
        assert len(pids) == 2
        owner.kill()
    until(lambda: not any(map(alive, pids)))
    assert "stopped at" in folder.log_path("a").read_text()


def test_sigterm_drains_with_0_and_a_second_one_kills(tmp_path, folder):
    with running(topology(tmp_path, node("a", "sleeper")), folder, entry=START) as launcher:
        os.kill(launcher.pid, signal.SIGTERM)
        until(lambda: not alive(launcher.pid))  # `stop` would send a second one
        assert launcher.stop() == 0
    with running(topology(tmp_path, node("deaf", "stubborn"), drain_ns=60 * 10**9), folder, entry=START) as launcher:
        pid = launcher.node("deaf")["pid"]
        os.kill(launcher.pid, signal.SIGTERM)
        until(lambda: launcher.node("deaf")["state"] == "stopping")
        assert launcher.stop(GONE_WITHIN_S) == 1
        assert not alive(pid)


def test_what_refuses_a_start_comes_through_to_the_caller(tmp_path, folder):
    wanted = topology(tmp_path, node("a", "sleeper"))
    with running(wanted, folder, entry=START) as launcher:
        second = Running(wanted, folder, entry=START)
        with pytest.raises(UnavailableError, match=f"already running .* pid {launcher.pid}"):
            second.wait_ready()
        assert second.stop() == 69
        assert launcher.node("a")["ready"]


def test_a_node_that_is_given_up_is_named_and_the_others_are_ready(tmp_path, folder):
    wanted = topology(tmp_path, node("bad", "crasher"), node("good", "sleeper"), restarts_max=0)
    launcher = Running(wanted, folder, entry=START)
    try:
        assert launcher.wait_ready() == ["bad"]
        assert launcher.node("good")["ready"]
    finally:
        assert launcher.stop() == 1


def test_junk_on_the_control_socket_is_answered_or_cut_and_harms_nobody(tmp_path, folder):
    with running(topology(tmp_path, node("a", "sleeper")), folder, entry=START) as launcher:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WITHIN_S)
            client.connect(str(folder.socket_path()))
            client.sendall(b"\x00\xff\n[1]\n" + b"[" * 60_000 + b"\n" + b'{"do": ["status"]}\n{"do": "restart"}\n')
            answers = b""
            while answers.count(b"\n") < 5:
                answers += client.recv(65_536)
            assert answers.count(b'{"error": ') == 5
            with pytest.raises(OSError, match=r"Broken pipe|reset"):
                client.sendall(b"x" * 10_000_000)  # a line without an end
        clients = [socket.socket(socket.AF_UNIX) for _ in range(2 * CONNECTIONS_MAX)]
        for client in clients:
            client.connect(str(folder.socket_path()))
        assert launcher.node("a")["ready"]
        for client in clients:
            client.close()


def test_a_long_folder_has_its_socket_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    folder = RunFolder(tmp_path / ("long" * 30) / ".fabric")
    folder.make()
    assert folder.socket_path().parent == tmp_path / "run" / "fabric"
    with selectors.DefaultSelector() as selector:
        server = ControlServer(folder.socket_path(), selector, lambda request: request)
        with Control(folder):
            pass
        server.refuse()
        server.close()
    with pytest.raises(FabricError, match="no topology is running"):
        Control(folder)
