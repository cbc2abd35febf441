"""Real topologies for system tests: the default one on free ports, its nodes as product processes."""

import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fabric import topology as topologies
from fabric.control import RunFolder
from fabric.launcher import Running, running
from fabric.topology import Topology
from support import TEST_ONLY, free_port

ROOT = Path(__file__).resolve().parents[1]
READY_S = 400.0
"""The first start in a clone compiles every kernel."""


def free_range(count: int) -> int:
    """The first of ``count`` consecutive TCP ports of 127.0.0.1 that are free at this moment."""
    while True:
        base = free_port()
        if base + count < 65_536 and all(_is_free(port) for port in range(base, base + count)):
            return base


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def default_topology(folder: Path, **changes: str) -> Topology:
    """topology.yaml of the clone on free ports; each change replaces the value of the first key of that name."""
    text = (ROOT / "topology.yaml").read_text()
    values = {"base": str(free_range(40)), "port": str(free_port()), **changes}
    for key, value in values.items():
        text, replaced = re.subn(rf"(\b{key}: )[^\s,}}#]+", rf"\g<1>{value}", text, count=1)
        assert replaced == 1, f"topology.yaml has no {key}"
    text = text.replace("127.0.0.1:5490", f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}")
    path = folder / "topology.yaml"
    path.write_text(text)
    return topologies.load(path, {})


@contextmanager
def product(topology: Topology, folder: Path) -> Iterator[Running]:
    """The topology as a user runs it: kernels unchecked, from the product's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        for name in TEST_ONLY:
            patch.delenv(name, raising=False)
        with running(topology, RunFolder(folder), timeout_s=READY_S) as launcher:
            yield launcher
