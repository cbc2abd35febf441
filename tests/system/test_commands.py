"""The commands that act on a running topology, against a real launcher of small programs; and what `up` refuses."""

import json
import socket
from pathlib import Path

import pytest

from fabric.cli.logs import grown
from fabric.cli.main import run
from fabric.cli.tables import uptime
from fabric.control import RunFolder
from fabric.launcher import Running, running
from fabric.logs import LogFile
from programs import START, node, topology
from support import free_port

FILE = """
version: 1
venues: {V: {name: IEX, feed: iex}}
feeds: {iex: {wire: iex-tops-1.6, venues: V, lines: ["udp://127.0.0.1:%(udp)d"]}}
processors: {nbbo: {run: "nodes.nbbo:main", reads: [quote], publishes: [nbbo]}}
gateways: {web: {port: %(http)d, symbols: ["*"], reads: [nbbo]}}
cache: {server: "off"}
ports: {base: %(base)d, span: 10}
"""


@pytest.fixture
def file(tmp_path):
    """A valid topology file whose ports are free."""
    path = tmp_path / "topology.yaml"
    path.write_text(FILE % {"udp": free_port(socket.SOCK_DGRAM), "http": free_port(), "base": free_port()})
    return path


@pytest.fixture
def launcher(tmp_path):
    nodes = (node("good", "sleeper"), node("bad", "crasher"))
    with running(topology(tmp_path, *nodes, restarts_max=0), RunFolder(tmp_path / ".fabric"), entry=START) as found:
        yield found


def on(tmp_path: Path, *arguments: str) -> int:
    return run([*arguments, "--folder", str(tmp_path)])


def test_status_shows_each_node(tmp_path, launcher, capsys):
    assert on(tmp_path, "status") == 0
    shown = capsys.readouterr().out
    assert "good" in shown
    assert "failed" in shown
    assert on(tmp_path, "status", "--json") == 0
    good, bad = json.loads(capsys.readouterr().out)["nodes"]
    assert (good["state"], bad["state"], bad["exit_code"]) == ("ready", "failed", 3)


def test_restart_waits_until_the_node_is_ready(tmp_path, launcher, capsys):
    before = launcher.node("good")
    assert on(tmp_path, "restart", "good") == 0
    after = launcher.node("good")
    assert f"pid {before['pid']} -> {after['pid']}" in capsys.readouterr().out
    assert after["epoch"] > before["epoch"]


def test_restart_says_when_the_node_dies_again_and_what_an_unknown_name_may_have_meant(tmp_path, launcher, capsys):
    assert on(tmp_path, "restart", "bad") == 1
    assert "bad: failed, exit code 3" in capsys.readouterr().err
    assert on(tmp_path, "restart", "god") == 1
    assert "no node is called 'god'; did you mean 'good'? (there are good, bad)" in capsys.readouterr().err


def test_logs_of_one_and_of_all(tmp_path, launcher, capsysbinary):
    assert on(tmp_path, "logs", "bad") == 0
    assert capsysbinary.readouterr().out == b"about to crash\n"
    assert on(tmp_path, "logs") == 0
    assert b"bad        | about to crash\n" in capsysbinary.readouterr().out
    assert on(tmp_path, "logs", "-n", "0") == 0
    assert capsysbinary.readouterr().out == b""
    assert on(tmp_path, "logs", "baad") == 2
    assert b"did you mean 'bad'?" in capsysbinary.readouterr().err


def test_logs_are_followed_over_a_rotation(tmp_path):
    file = LogFile(tmp_path / "x.log", bytes_max=16)
    file.write(b"before\n")
    follow = grown(tmp_path / "x.log", 7)
    assert next(follow) == b""
    file.write(b"one\n")
    file.write(b"two three\n")  # the next file
    assert b"".join(next(follow) for _ in range(4)) == b"one\ntwo three\n"
    follow.close()
    file.close()


def test_down_stops_a_detached_launcher(tmp_path, capsys):
    detached = Running(topology(tmp_path, node("a", "sleeper")), RunFolder(tmp_path / ".fabric"), False, START)
    detached.wait_ready()
    detached.release()  # lets go of it, and it lives on
    assert on(tmp_path, "status") == 0
    assert on(tmp_path, "down") == 0
    assert f"stopped (pid {detached.pid})" in capsys.readouterr().out
    assert on(tmp_path, "status") == 1
    assert detached.stop() == 0


def test_down_kills_after_its_timeout(tmp_path, capsys):
    deaf = topology(tmp_path, node("deaf", "stubborn"), drain_ns=10**12)
    detached = Running(deaf, RunFolder(tmp_path / ".fabric"), False, START)
    detached.wait_ready()
    assert on(tmp_path, "down", "--timeout", "100ms") == 1
    assert "not stopped within 0.1 s: all nodes were killed" in capsys.readouterr().err
    assert detached.stop() == 1


@pytest.mark.parametrize("command", [["status"], ["down"], ["restart", "a"], ["logs"]])
def test_where_nothing_runs_it_is_said_in_one_line(tmp_path, capsys, command):
    assert on(tmp_path, *command) == 1
    error = capsys.readouterr().err
    assert error.startswith("fabric: error: no")
    assert str(tmp_path) in error
    assert error.count("\n") == 1


def test_up_refuses_a_port_in_use_with_69_and_its_holder(file, capsys):
    port = int(file.read_text().split("port: ")[1].split(",")[0])
    with socket.create_server(("127.0.0.1", port)):
        assert run(["up", str(file)]) == 69
        assert f"port {port} on 127.0.0.1 (HTTP of web) is in use by pid " in capsys.readouterr().err
        assert run(["up", "--detach", str(file)]) == 69
        assert f"port {port} on 127.0.0.1 (HTTP of web) is in use by pid " in capsys.readouterr().err


def test_up_starts_what_belongs_on_this_machine(file, capsys):
    hosts = "hosts: {east: {address: 192.0.2.7}, west: {address: 192.0.2.8}}\n"
    file.write_text(file.read_text() + hosts)
    assert run(["up", str(file)]) == 2
    assert "the address of no host of" in (error := capsys.readouterr().err)
    assert "(east 192.0.2.7, west 192.0.2.8): choose one by --host" in error
    assert run(["up", "--host", "wets", str(file)]) == 2
    assert "has no host 'wets'; did you mean 'west'?" in capsys.readouterr().err


def test_up_refuses_what_cannot_go_together_or_be_read(tmp_path, file, capsys):
    assert run(["up", "--detach", "--for", "3s", str(file)]) == 2
    assert run(["up", "--for", "3", str(file)]) == 2
    assert "'3' is no duration: expected a number with its unit" in capsys.readouterr().err
    assert run(["up", str(tmp_path / "none.yaml")]) == 2
    assert run(["up", "--forever"]) == 2


def test_node_knows_the_names_of_the_file(file, capsys):
    assert run(["node", "ibx", str(file)]) == 2
    assert "has no node 'ibx'; did you mean 'iex'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["up", "down", "status", "logs", "restart", "node"])
def test_each_has_help(command, capsys):
    assert run([command, "--help"]) == 0
    assert "Usage: fabric " + command in capsys.readouterr().out


def test_uptimes_are_read_at_a_glance():
    assert [uptime(seconds) for seconds in (None, 3.21, 65, 3 * 3600 + 9)] == ["-", "3.2 s", "1:05", "3:00:09"]
