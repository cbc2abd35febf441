"""Real servers for tests: one, or a cluster of three, on free ports of loopback, gone at the end."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from gateway import redis_server
from support import free_port

CLUSTER_PORT_MAX = 55_535
"""The cluster's own bus is at the port plus 10,000."""


class RealServer:
    """One server process, which can be killed, stopped and started again on its port."""

    def __init__(self, port: int, *options: str) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self.client: Any = redis.Redis(port=port, socket_timeout=5)
        self._options = options
        self.start()

    def start(self) -> None:
        binary = redis_server.find_binary()
        assert binary is not None
        command = [str(binary), "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_for(self._answers)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self.client.close()


@contextmanager
def server(*options: str) -> Iterator[RealServer]:
    """A running server."""
    made = RealServer(free_port(), *options)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def cluster(folder: Path) -> Iterator[list[RealServer]]:
    """Three masters that share the slots, in agreement."""
    with ExitStack() as stack:
        servers = []
        for index in range(3):
            home = folder / str(index)
            home.mkdir()
            made = RealServer(
                _cluster_port(), "--dir", str(home), "--cluster-enabled", "yes", "--cluster-node-timeout", "1000"
            )
            stack.callback(made.close)
            servers.append(made)
        bounds = [0, 5461, 10923, 16384]
        for index, made in enumerate(servers):
            made.client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[index], bounds[index + 1] - 1)
            made.client.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
        for made in servers[1:]:
            made.client.execute_command("CLUSTER MEET", "127.0.0.1", servers[0].port)
        wait_for(lambda: all(_agrees(made) for made in servers), 20.0)
        yield servers


def _agrees(made: RealServer) -> bool:
    info = made.client.execute_command("CLUSTER INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == "3")


def _cluster_port() -> int:
    while (port := free_port()) > CLUSTER_PORT_MAX:
        pass
    return port


def wait_for(condition: Any, seconds: float = 5.0) -> None:
    """Wait until ``condition()`` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
