"""Programs of the product whose wall clock is so many seconds ahead: ``shifted:<seconds>=<program>`` where a topology
says ``run``.

A test that is about the turn of a minute begins shortly before one, whenever it is run.
"""

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fabric.clock import SECOND_NS, SystemClock
from fabric.topology import Topology


class ShiftedClock(SystemClock):
    """The machine's clock, with another wall time."""

    def __init__(self, ahead_s: int) -> None:
        self._ahead_ns = ahead_s * SECOND_NS

    def now_ns(self) -> int:
        return super().now_ns() + self._ahead_ns


def shifted(topology: Topology, ahead_s: int, *roles: str) -> Topology:
    """The same topology with the clocks of the nodes of these roles ahead of the machine's."""
    nodes = [replace(n, run=f"shifted:{ahead_s}={n.run}") if n.role in roles else n for n in topology.nodes]
    return replace(topology, nodes=tuple(nodes))


def __getattr__(name: str) -> Callable[[Any], None]:
    """The program ``<seconds>=<module>:<function>``."""
    seconds, is_program, path = name.partition("=")
    if not is_program:
        raise AttributeError(name)
    module, _, function = path.partition(":")

    def program(runtime: Any) -> None:
        runtime.clock = ShiftedClock(int(seconds))
        getattr(importlib.import_module(module), function)(runtime)

    return program
