"""Several gateway processes behind one port: shared, killed (fault 18), drained under clients (fault 19)."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from fabric.launcher import Running
from fabric.topology import GatewaySettings, Topology
from topologies import default_topology, product

pytestmark = pytest.mark.timeout(600)
CLIENTS = 200


class Doors:
    """The gateway processes of the default topology, alone: no market is needed for whom they let in."""

    def __init__(self, topology: Topology, launcher: Running) -> None:
        self._launcher = launcher
        settings = topology.node("web-1").settings
        assert isinstance(settings, GatewaySettings)
        self.url = f"ws://127.0.0.1:{settings.port}/stream"

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {node["name"]: node for node in self._launcher.status()["nodes"]}

    def kill(self, name: str) -> None:
        os.kill(self.nodes()[name]["pid"], signal.SIGKILL)

    def terminate(self, name: str) -> None:
        os.kill(self.nodes()[name]["pid"], signal.SIGTERM)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    folder: Path = tmp_path_factory.mktemp("processes")
    whole = default_topology(folder, writes_per_second="4")
    path = folder / "topology.yaml"
    port = next(node.settings.port for node in whole.nodes if isinstance(node.settings, GatewaySettings))
    web = whole.node("web")
    assert isinstance(web.settings, GatewaySettings)
    settings = replace(web.settings, processes=2)
    gateways = tuple(replace(web, name=f"web-{i}", settings=settings) for i in (1, 2))
    cache = replace(whole.cache, mode="off")
    topology = replace(whole, nodes=gateways, cache=cache, history=None, path=str(path))
    assert settings.port == port
    with product(topology, folder / "run") as launcher:
        yield Doors(topology, launcher)


async def connect(url: str) -> WebSocketClientConnection:
    """A client that has been greeted; tries again while nobody listens."""
    until = time.monotonic() + 10
    while True:
        try:
            client = await websocket_connect(url)
            greeting = await client.read_message()
            if greeting is not None:
                assert json.loads(greeting) == [{"T": "success", "msg": "connected"}]
                return client
        except OSError:
            pass
        assert time.monotonic() < until, "nobody listens"
        await asyncio.sleep(0.02)


async def held(client: WebSocketClientConnection) -> list[dict[str, Any]]:
    """What a client hears until its connection ends."""
    heard: list[dict[str, Any]] = []
    while (text := await client.read_message()) is not None:
        heard += json.loads(text)
    return heard


async def settled(doors: Doors) -> dict[str, int]:
    """Each process's clients, once both have reported and all are there."""
    until = time.monotonic() + 10
    while True:
        counts = {name: node["report"].get("clients", 0) for name, node in doors.nodes().items()}
        if sum(counts.values()) == CLIENTS:
            return counts
        assert time.monotonic() < until, counts
        await asyncio.sleep(0.1)


def test_clients_are_spread_over_the_processes_and_survive_the_death_of_one(doors: Doors) -> None:
    async def play() -> None:
        clients = [await connect(doors.url) for _ in range(CLIENTS)]
        counts = await settled(doors)
        assert all(count > CLIENTS // 4 for count in counts.values()), counts
        waiting = [asyncio.ensure_future(held(client)) for client in clients]
        doors.kill("web-1")
        started = time.monotonic()
        done: set[asyncio.Future[list[dict[str, Any]]]] = set()
        while len(done) < counts["web-1"]:
            done, _ = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            assert time.monotonic() - started < 5
            await asyncio.sleep(0)
        again = await asyncio.gather(*(connect(doors.url) for _ in range(counts["web-1"])))
        assert time.monotonic() - started < 5, "all are back within 5 s (fault 18)"
        assert sum(task.done() for task in waiting) == counts["web-1"], "the others notice nothing"
        for client in (*clients, *again):
            client.close()
        await asyncio.gather(*waiting)
        until = time.monotonic() + 10
        while not all(node["ready"] for node in doors.nodes().values()):
            assert time.monotonic() < until
            await asyncio.sleep(0.1)

    asyncio.run(play())


def test_a_drained_process_tells_its_clients_when_to_come_back(doors: Doors) -> None:
    async def play() -> None:
        clients = [await connect(doors.url) for _ in range(CLIENTS)]
        counts = await settled(doors)
        before = doors.nodes()["web-2"]
        waiting = {asyncio.ensure_future(held(client)): client for client in clients}
        doors.terminate("web-2")
        done: set[asyncio.Future[list[dict[str, Any]]]] = set()
        until = time.monotonic() + 10
        while len(done) < counts["web-2"]:
            assert time.monotonic() < until
            done, _ = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)
        codes = Counter(waiting[task].close_code for task in done)
        assert codes == {1012: counts["web-2"]}
        told = [task.result()[-1] for task in done]
        assert {message["mode"] for message in told} == {"draining"}
        after_ms = sorted(message["reconnect_ms"] for message in told)
        assert after_ms[0] < 100
        assert after_ms[-1] > 500, "not all at once"
        for client in clients:
            client.close()
        await asyncio.gather(*waiting)
        while (node := doors.nodes()["web-2"])["epoch"] == before["epoch"] or not node["ready"]:
            assert time.monotonic() < until
            await asyncio.sleep(0.1)

    asyncio.run(play())
