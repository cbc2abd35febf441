"""Tiny programs for the tests of the launcher, and a small `start` that runs them without bus and kernels."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fabric.topology import Limits, NodeSpec, ProcessorSettings, Publisher, Source, Topology

START = "programs:start"
WAIT_S = 0.05


class SmallRuntime:
    """The part of `fabric.node.Runtime` that these programs use."""

    def __init__(self, topology: Topology, name: str, epoch: int, status: int) -> None:
        self.topology = topology
        self.spec = topology.node(name)
        self.epoch = epoch
        self._status = status
        self._stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def ready(self, detail: str = "") -> None:
        self._tell({"ready": True, "detail": detail})

    def report(self, counters: dict[str, Any]) -> None:
        self._tell({"report": counters})

    def stopping(self) -> bool:
        return self._stopping

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _tell(self, message: dict[str, Any]) -> None:
        os.write(self._status, json.dumps(message).encode() + b"\n")


def start(topology: Topology, name: str, epoch: int, status: int) -> int:
    """What a child of the fork server becomes in these tests."""
    runtime = SmallRuntime(topology, name, epoch, status)
    module, _, function = runtime.spec.run.partition(":")
    getattr(importlib.import_module(module), function)(runtime)
    return 0


def _wait(runtime: SmallRuntime, each: Callable[[], None] = lambda: None) -> None:
    while not runtime.stopping():
        each()
        time.sleep(WAIT_S)


def sleeper(runtime: SmallRuntime) -> None:
    """Ready at once, then idle until told to stop; says so."""
    sys.stdout.write(f"here with epoch {runtime.epoch}\n")
    runtime.ready("asleep")
    count = 0

    def report() -> None:
        nonlocal count
        count += 1
        runtime.report({"published": count})

    _wait(runtime, report)
    sys.stdout.write(f"stopped at {time.monotonic_ns()}\n")


def binder(runtime: SmallRuntime) -> None:
    """Holds its publisher's port."""
    assert runtime.spec.publishes is not None
    host, _, port = runtime.spec.publishes.endpoint.removeprefix("tcp://").rpartition(":")
    with socket.create_server((host, int(port))):
        runtime.ready()
        _wait(runtime)


def crasher(runtime: SmallRuntime) -> None:
    """Never even ready."""
    sys.stderr.write("about to crash\n")
    raise SystemExit(3)


def stubborn(runtime: SmallRuntime) -> None:
    """Does not hear SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    runtime.ready()
    _wait(runtime)


def flooder(runtime: SmallRuntime) -> None:
    """Prints as fast as it can."""
    runtime.ready()
    text = "flood " * 20 + "\n"
    while not runtime.stopping():
        sys.stdout.write(text * 100)


def late(runtime: SmallRuntime) -> None:
    """Alive, but never ready."""
    _wait(runtime)


def parent(runtime: SmallRuntime) -> None:
    """Starts a process of its own and leaves it behind."""
    child = subprocess.Popen(["/bin/sleep", "1000"])
    runtime.ready(str(child.pid))
    _wait(runtime)


def topology(folder: Path, *nodes: NodeSpec, **limits: int) -> Topology:
    """A topology of these programs, whose run folder is beside ``folder``/topology.yaml."""
    return Topology(str(folder / "topology.yaml"), nodes, (), limits=Limits(**limits))


def node(name: str, program: str, role: str = "processor", reads: tuple[NodeSpec, ...] = (), port: int = 0) -> NodeSpec:
    """A node that runs a program of this file; those that it reads from must have a port."""
    publisher = Publisher(name, f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port + 1}", ("quote",)) if port else None
    sources = tuple(Source(other.publishes, ("quote.",)) for other in reads if other.publishes)
    return NodeSpec(name, role, f"programs:{program}", ProcessorSettings("", ""), publisher, sources)
