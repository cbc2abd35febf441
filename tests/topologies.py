"""Real topologies for system tests: the default one on free ports, its nodes as product processes."""

import random
import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import yaml

from fabric import topology as topologies
from fabric.control import RunFolder
from fabric.launcher import Running, running
from fabric.topology import Topology
from support import TEST_ONLY

ROOT = Path(__file__).resolve().parents[1]
READY_S = 400.0
"""The first start in a clone compiles every kernel."""


def free_range(count: int) -> int:
    """The first of ``count`` consecutive free ports of 127.0.0.1, below those that the kernel gives to clients."""
    while True:
        base = random.randrange(15_000, 32_000)
        if all(_is_free(port) for port in range(base, base + count)):
            return base


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def default_topology(folder: Path, only: str = "", **changes: str) -> Topology:
    """topology.yaml of the clone on free ports; each change replaces the value of the first key of that name.

    ``only``: with this one feed and its exchange, which then sends what all of them do.
    """
    text = (ROOT / "topology.yaml").read_text()
    base = free_range(62)
    values = {"base": str(base), "span": "40", "port": str(base + 40), **changes}
    for key, value in values.items():
        text, replaced = re.subn(rf"(\b{key}: )[^\s,}}#]+", rf"\g<1>{value}", text, count=1)
        assert replaced == 1, f"topology.yaml has no {key}"
    text = re.sub(r"127\.0\.0\.1:54([89])(\d)", lambda at: f"127.0.0.1:{base + 41 + int(at[1] + at[2]) - 80}", text)
    path = folder / "topology.yaml"
    path.write_text(_alone(text, only) if only else text)
    return topologies.load(path, {})


def _alone(text: str, feed: str) -> str:
    content = yaml.safe_load(text)
    content["feeds"] = {feed: content["feeds"][feed]}
    venues = content["feeds"][feed]["venues"]
    content["venues"] = {letter: venue for letter, venue in content["venues"].items() if letter in venues}
    rate = sum(exchange["rate"] for exchange in content["exchanges"].values())
    content["exchanges"] = {
        name: {**exchange, "rate": rate} for name, exchange in content["exchanges"].items() if exchange["to"] == [feed]
    }
    return yaml.safe_dump(content, sort_keys=False)


@contextmanager
def product(topology: Topology, folder: Path) -> Iterator[Running]:
    """The topology as a user runs it: kernels unchecked, from the product's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        for name in TEST_ONLY:
            patch.delenv(name, raising=False)
        with running(topology, RunFolder(folder), timeout_s=READY_S) as launcher:
            yield launcher
