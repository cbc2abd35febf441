"""Two machines with one topology and keys, as two launchers: a market across them, and nothing for strangers."""

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import yaml
import zmq

from fabric import keys
from fabric import topology as topologies
from fabric.client import Client, Update
from fabric.launcher import Running
from fabric.topology import Publisher, Topology
from topologies import default_topology, product

pytestmark = pytest.mark.timeout(600)
HOSTS = ("core", "edge")
PATIENCE_S = 60.0


def two_hosts(folder: Path, clients: list[str]) -> Topology:
    """The default topology with the one feed of IEX and its gateway on a host of its own; each host has keys."""
    path = Path(default_topology(folder, only="iex").path)
    content = yaml.safe_load(path.read_text())
    for name in HOSTS:
        (folder / name).mkdir()
    content["hosts"] = {
        name: {
            "curve_secret_file": f"{name}/node.key",
            "curve_public_key": keys.make_curve(folder / name / "node.key"),
            "curve_clients": clients,
        }
        for name in HOSTS
    }
    content["gateways"]["web"]["host"] = "edge"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return topologies.load(path, {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("curve")


@pytest.fixture(scope="module")
def bot(folder: Path) -> str:
    return keys.make_curve(folder / "bot.key")


@pytest.fixture(scope="module")
def topology(folder: Path, bot: str) -> Topology:
    return two_hosts(folder, [bot])


@pytest.fixture(scope="module")
def launchers(topology: Topology, folder: Path) -> Iterator[dict[str, Running]]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(product(replace(topology, here=(name,)), folder / name / "run")) for name in HOSTS
        }


def nbbo(topology: Topology) -> Publisher:
    return next(publisher for publisher in topology.publishers() if publisher.name == "nbbo-1")


def report(launcher: Running, name: str) -> dict[str, Any]:
    found: dict[str, Any] = launcher.node(name)["report"]
    return found


def test_a_gateway_on_another_host_serves_live_quotes(launchers: dict[str, Running], topology: Topology) -> None:
    port = next(node.settings.port for node in topology.nodes if node.name == "web")  # type: ignore[union-attr]  (a gateway has one)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/quotes/AAPL", timeout=10) as answer:
            quote = json.load(answer)
        if quote["state"] == "live":
            break
        assert time.monotonic() < deadline, quote
    assert quote["bid"] < quote["ask"]
    for name in ("nbbo-1", "nbbo-2", "nbbo-3", "candles-1", "iex"):
        assert report(launchers["core"], name)["keys_refused"] == 0


def test_a_bot_with_a_key_gets_every_number_and_a_stranger_nothing(
    launchers: dict[str, Running], topology: Topology, folder: Path
) -> None:
    core, publisher = launchers["core"], nbbo(topology)
    assert publisher.curve is not None
    secret = (folder / "bot.key").read_bytes().strip()
    before = report(core, "nbbo-1")["keys_refused"]
    with zmq.Context() as context:
        bot, stranger, other = (context.socket(zmq.SUB) for _ in range(3))
        for socket, pair in ((bot, (zmq.curve_public(secret), secret)), (other, zmq.curve_keypair())):
            socket.curve_serverkey = publisher.curve.public_key.encode()
            socket.curve_publickey, socket.curve_secretkey = pair
        for socket in (bot, stranger, other):
            socket.linger = 0
            socket.subscribe(b"nbbo.A")
            socket.connect(publisher.endpoint)
        numbers: dict[bytes, list[int]] = {}
        deadline = time.monotonic() + PATIENCE_S
        while (
            sum(map(len, numbers.values())) < 2_000 or report(launchers["core"], "nbbo-1")["keys_refused"] < before + 2
        ):
            assert time.monotonic() < deadline
            topic, payload = bot.recv_multipart()
            found = msgpack.unpackb(payload)
            if not numbers.get(topic) or numbers[topic][-1] != found["N"]:  # what is silent comes again
                numbers.setdefault(topic, []).append(found["N"])
        for held in numbers.values():
            assert held == list(range(held[0], held[0] + len(held)))
        for socket in (stranger, other):
            assert socket.poll(0) == 0
            socket.close()
        bot.close()


def test_the_client_library_shows_the_key_of_its_host(launchers: dict[str, Running], topology: Topology) -> None:
    with Client("nbbo.AAPL|", topology_file=topology.path) as client:
        update = next(found for found in client if isinstance(found, Update))
    assert update.payload["S"] == "AAPL"
