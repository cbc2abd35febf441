"""Access over several gateway processes, as a user runs them: keys, rates, connections, tickets, revocation."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from tornado.httpclient import AsyncHTTPClient
from websockets.exceptions import ConnectionClosed, InvalidStatus

from fabric import topology as topologies
from fabric.launcher import Running
from support import free_port, product_environment
from topologies import free_range, product

TOPOLOGY = """
venues: {{V: {{feed: iex}}}}
feeds: {{iex: {{wire: iex-tops-1.6, venues: V, lines: ["udp://127.0.0.1:{udp}"]}}}}
processors: {{nbbo: {{run: "nodes.nbbo:main", reads: [quote, status], publishes: [nbbo]}}}}
gateways:
  one: {{port: {one}, bind: {bind}}}
  two: {{port: {two}, bind: {bind}}}
cache: {{server: "off"}}
ports: {{base: {base}, span: 10}}
{access}
"""
ACCESS = "access: {keys: keys.json, plans: {small: {connections: 1, requests: 3}}}"
WAIT_S = 20.0


def write(folder: Path, access: str = ACCESS, bind: str = "127.0.0.1") -> tuple[Path, int, int]:
    base = free_range(14)
    path = folder / "topology.yaml"
    values = {"base": base, "one": base + 11, "two": base + 12, "udp": free_port(), "access": access, "bind": bind}
    path.write_text(TOPOLOGY.format(**values))
    return path, base + 11, base + 12


def fabric(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fabric.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=product_environment())


def new_key(path: Path, *options: str) -> str:
    made = json.loads(fabric("keys", "new", "alice", "--json", *options, "-t", str(path)).stdout)
    return f"{made['id']}.{made['secret']}"


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[tuple[Path, int, int, Running]]:
    path, one, two = write(tmp_path)
    with product(topologies.load(path, {}), tmp_path / ".fabric") as running:
        yield path, one, two, running


async def get(port: int, path: str, key: str = "", method: str = "GET") -> tuple[int, Any]:
    headers = {"X-API-Key": key} if key else {}
    options: dict[str, Any] = {"body": b""} if method == "POST" else {}
    answer = await AsyncHTTPClient(force_instance=True).fetch(
        f"http://127.0.0.1:{port}{path}", method=method, headers=headers, raise_error=False, **options
    )
    return answer.code, json.loads(answer.body)


def connect(port: int, key: str = "", query: str = "") -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return websockets.connect(f"ws://127.0.0.1:{port}/stream{query}", additional_headers=headers)


async def close_code(ws: Any) -> int:
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                await ws.recv()
    except ConnectionClosed:
        return int(ws.close_code)


@pytest.mark.timeout(500)
def test_what_one_gateway_knows_the_other_knows(gateways: tuple[Path, int, int, Running]) -> None:
    path, one, two, running = gateways
    key, small = new_key(path), new_key(path, "--plan", "small")

    async def let_in(port: int, key: str) -> None:
        """A key that was made while the gateways run is known to each within a second."""
        async with asyncio.timeout(WAIT_S):
            while (await get(port, "/topology", key))[0] == 401:  # noqa: ASYNC110  (it is another process's event)
                await asyncio.sleep(0.05)

    async def talk() -> None:
        assert (await get(one, "/topology"))[0] == 401
        await asyncio.gather(*(let_in(port, made) for port in (one, two) for made in (key, small)))

        statuses = [(await get(port, "/topology", small))[0] for port in (one, two) * 6]
        assert 429 in statuses
        assert statuses.count(200) <= 9, "six at once, and three a second meanwhile, over both"

        status, found = await get(one, "/v1/ticket", key, "POST")
        assert status == 201
        async with connect(two, query=f"?ticket={found['ticket']}") as ws:
            assert json.loads(await ws.recv())[1]["msg"] == "authenticated"
        for port in (one, two):
            with pytest.raises(InvalidStatus) as caught:
                await connect(port, query=f"?ticket={found['ticket']}")
            assert caught.value.response.status_code == 401

        async with connect(one, small) as old:
            assert json.loads(await old.recv())[1]["msg"] == "authenticated"
            async with connect(two, small) as refused:
                assert json.loads(await refused.recv())[0]["code"] == 406
            key_id, _, secret = small.partition(".")
            async with websockets.connect(f"ws://127.0.0.1:{two}/v2/sip") as new:
                await new.recv()
                await new.send(json.dumps({"action": "auth", "key": key_id, "secret": secret, "takeover": True}))
                assert json.loads(await new.recv())[0]["msg"] == "authenticated"
                assert await close_code(old) == 4409
                os.kill(running.node("two")["pid"], signal.SIGKILL)
                with pytest.raises(ConnectionClosed):
                    await new.recv()
            async with asyncio.timeout(WAIT_S):  # the connection of the process that was killed counts no longer
                while True:
                    async with connect(one, small) as again:
                        if json.loads(await again.recv())[0].get("code") != 406:
                            break

        async with connect(one, key) as ws:
            await ws.recv()
            started = time.monotonic()
            await asyncio.to_thread(fabric, "keys", "revoke", key.partition(".")[0], "-t", str(path))
            assert await close_code(ws) == 4401
            assert time.monotonic() - started < WAIT_S
        assert (await get(one, "/topology", key))[0] == 401

    asyncio.run(talk())


@pytest.mark.parametrize("command", ["check", "up"])
def test_a_public_gateway_without_keys_is_refused(tmp_path: Path, command: str) -> None:
    path, _, _ = write(tmp_path, access="", bind="0.0.0.0")
    ran = fabric(command, str(path))
    assert ran.returncode == 2
    for line, column in ((6, 28), (7, 28)):
        assert f"{path}:{line}:{column}: gateways." in ran.stderr
    assert "give access: {keys: keys.json}" in ran.stderr
    assert "Traceback" not in ran.stderr
