"""Redis as processes: the embedded server and the writer, and what both do when the server is lost, hangs or forgets.

The test plays the NBBO processor: it publishes on the real bus what the writer reads.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import zmq

from fabric import topology
from fabric.bus import Outbox
from fabric.clock import SystemClock
from fabric.records import EVENT, KIND_NBBO, NBBO, Rows, empty
from fabric.symbols import SymbolTable
from fabric.topology import CacheSettings
from redis_servers import wait_for
from support import free_port, product_environment

ROOT = Path(__file__).parents[2]
SYMBOLS = 500

pytestmark = pytest.mark.timeout(400)  # the first run compiles the kernels


class Node:
    """One node as a process; `status` is the last that it told the launcher."""

    def __init__(self, path: Path, name: str) -> None:
        reading, writing = os.pipe()
        code = f"import sys; from fabric import node, topology; t = topology.load({str(path)!r}, {{}}); "
        code += f"sys.exit(node.start(t, {name!r}, 1, {writing}))"
        self.status: dict[str, Any] = {}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env=product_environment(), pass_fds=[writing]
        )
        os.close(writing)
        self._pipe = os.fdopen(reading)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self._pipe:
            told = json.loads(line)
            self.status |= told.get("report", told)

    def wait_for(self, **expected: Any) -> None:
        wait_for(lambda: expected.items() <= self.status.items(), 240.0)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self._reader.join()
        self._pipe.close()


class Market(threading.Thread):
    """Publishes a new best bid of every symbol four times a second."""

    def __init__(self, publisher: topology.Publisher, limits: topology.Limits) -> None:
        super().__init__()
        self._publisher, self._limits = publisher, limits
        self._end = threading.Event()

    def run(self) -> None:
        symbols = SymbolTable(SYMBOLS + 1)
        rows = empty(SYMBOLS, NBBO, KIND_NBBO)
        rows["symbol"] = [symbols.intern(f"S{i}") for i in range(SYMBOLS)]
        rows["state"], rows["bid_size"], rows["event_ns"] = 0, 100, 1_704_567_890_123_000_000
        rows["scope"] = rows["bid_mask"] = rows["ask_mask"] = 0
        events: Rows = rows.view(EVENT)
        with zmq.Context() as context:
            outbox = Outbox(context, self._publisher, symbols, self._limits, SystemClock(), epoch=1, stamp="proc_ns")
            turn = 0
            while not self._end.wait(0.02):
                if turn % 12 == 0:
                    rows["bid_px"] = np.int64(100_000_000_000 + turn * 10_000_000)
                    outbox.send(events)
                outbox.tick()
                turn += 1
            outbox.close()

    def close(self) -> None:
        self._end.set()
        self.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "topology.yaml"
    made.write_text(f"""
venues: {{V: {{}}}}
feeds: {{iex: {{wire: iex-tops-1.6, venues: V, lines: ["udp://127.0.0.1:5490"]}}}}
processors: {{nbbo: {{run: nodes.nbbo:main, reads: [quote], publishes: [nbbo]}}}}
ports: {{base: {free_port()}, span: 5}}
""")
    return made


def test_a_server_that_hangs_forgets_or_dies(path: Path) -> None:
    found = topology.load(path, {})
    publisher = found.node("nbbo").publishes
    assert publisher is not None
    assert isinstance(found.node("redis").settings, CacheSettings)
    with ExitStack() as stack:
        client = stack.enter_context(redis.Redis.from_url(found.cache.servers[0], socket_timeout=5))
        market = Market(publisher, found.limits)
        market.start()
        stack.callback(market.close)
        server = Node(path, "redis")
        stack.callback(server.close)
        server.wait_for(ready=True)
        writer = Node(path, "redis-writer")
        stack.callback(writer.close)
        writer.wait_for(ready=True, breaker="closed", keys=SYMBOLS)
        assert writer.status["server"] == server.status["server"]
        assert client.dbsize() == SYMBOLS

        # It hangs: the writer goes on reading the bus, and holds off.
        failed = writer.status["failed"]
        os.kill(pid := server_process(client), signal.SIGSTOP)
        wait_for(lambda: writer.status["failed"] > failed and writer.status["breaker"] != "closed")
        received = writer.status["received"]
        wait_for(lambda: writer.status["received"] >= received + 2 * SYMBOLS)
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: writer.status["breaker"] == "closed" and client.dbsize() == SYMBOLS)

        # It forgets: all is there again.
        client.flushall()
        wait_for(lambda: client.dbsize() == SYMBOLS)

        # It dies: its node ends with an error, and is started again as the launcher would.
        os.kill(server_process(client), signal.SIGKILL)
        assert server.process.wait(5) == 69
        wait_for(lambda: writer.status["breaker"] != "closed")
        again = Node(path, "redis")
        stack.callback(again.close)
        again.wait_for(ready=True)
        wait_for(lambda: client.dbsize() == SYMBOLS)
        wait_for(lambda: writer.status["breaker"] == "closed")

        again.process.send_signal(signal.SIGTERM)
        writer.process.send_signal(signal.SIGTERM)
        assert (again.process.wait(10), writer.process.wait(10)) == (0, 0)


def server_process(client: Any) -> int:
    return int(client.info("server")["process_id"])


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
