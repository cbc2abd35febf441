"""Programs of the product with a fault that a test can start: name ``faulty:<program>`` where a topology says ``run``.

SIGUSR1 steps the wall clock of a node 5 s ahead and SIGUSR2 5 s back, as an administrator or NTP does; a node whose
program is named with ``blocking=`` instead sleeps in its main thread for `BLOCK_S` at SIGUSR1, and one with ``slow=``
takes `SLOW_S` for each row that it reads from SIGUSR1 on, until SIGUSR2. The log of one with ``unsynced=`` has a disk
on which every sync fails (EIO) from SIGUSR1 on, until SIGUSR2.
"""

import errno
import functools
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gateway.app
import gateway.redis_writer
import nodes.candles
import nodes.feeds.feed
import nodes.nbbo
from fabric import journal_kernel
from fabric.bus import outbox
from fabric.clock import SECOND_NS, SystemClock
from fabric.topology import Topology

PROGRAMS = (gateway.app.main, gateway.redis_writer.main, nodes.candles.main, nodes.feeds.feed.main, nodes.nbbo.main)
"""Imported where nodes are forked from, so that their kernels are loaded there."""

STEP_NS = 5 * SECOND_NS
BLOCK_S = 6.0
SLOW_S = 1e-3
BLOCKING = "blocking="
SLOW = "slow="
UNSYNCED = "unsynced="


class SteppedClock(SystemClock):
    """The machine's clock, off by what it has been set forward or back."""

    def __init__(self) -> None:
        self.offset_ns = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.offset_ns


def with_faults(topology: Topology, *roles: str, kind: str = "") -> Topology:
    """The same topology with the programs of these roles made faulty: of a kind above, or with a stepped clock."""
    nodes = [replace(n, run=f"faulty:{kind}{n.run}") if n.role in roles else n for n in topology.nodes]
    return replace(topology, nodes=tuple(nodes))


def __getattr__(name: str) -> Callable[[Any], None]:
    """The program ``name``, made faulty."""
    wanted = name.removeprefix(BLOCKING).removeprefix(SLOW).removeprefix(UNSYNCED)
    program = next((p for p in PROGRAMS if f"{p.__module__}:{p.__name__}" == wanted), None)
    if program is None:
        raise AttributeError(name)

    def blocking(runtime: Any) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: time.sleep(BLOCK_S))
        program(runtime)

    def slow(runtime: Any) -> None:
        a_row = {"s": 0.0}
        signal.signal(signal.SIGUSR1, lambda *_: a_row.update(s=SLOW_S))
        signal.signal(signal.SIGUSR2, lambda *_: a_row.update(s=0.0))
        make_inbox = runtime.inbox

        def inbox(*arguments: Any) -> Any:
            made = make_inbox(*arguments)
            receive = made.recv_batch

            def recv_batch(timeout_ms: int) -> Any:
                rows = receive(timeout_ms)
                time.sleep(rows.size * a_row["s"])
                return rows

            made.recv_batch = recv_batch
            return made

        runtime.inbox = inbox
        program(runtime)

    def unsynced(runtime: Any) -> None:
        failing = threading.Event()
        signal.signal(signal.SIGUSR1, lambda *_: failing.set())
        signal.signal(signal.SIGUSR2, lambda *_: failing.clear())

        def sync(address: int, length: int) -> int:
            return errno.EIO if failing.is_set() else int(journal_kernel.sync(address, length))

        outbox.Journal = functools.partial(outbox.Journal, sync=sync)  # type: ignore[misc, assignment]  (in place of a class)
        program(runtime)

    def stepped(runtime: Any) -> None:
        runtime.clock = clock = SteppedClock()

        def step(number: int, _: object) -> None:
            clock.offset_ns += STEP_NS if number == signal.SIGUSR1 else -STEP_NS

        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, step)
        program(runtime)

    kinds = {BLOCKING: blocking, SLOW: slow, UNSYNCED: unsynced}
    return next((made for kind, made in kinds.items() if name.startswith(kind)), stepped)
