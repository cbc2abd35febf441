"""What every program gets from the launcher, and the loop of a processor: receive, step, send.

A program is a function ``main(runtime)``. The loop owns the outside world, the node owns the state, a pure
kernel owns the rule. Nothing here knows what a node computes.
"""

import importlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import zmq

from fabric.bus import Inbox, LogReader, Outbox
from fabric.clock import MILLISECOND_NS, SECOND_NS, Clock, EventClock, SystemClock, TurnClock, utc_text
from fabric.digest import Digest
from fabric.errors import FabricError, UsageError
from fabric.follow import follow
from fabric.latency import Latency
from fabric.records import Rows
from fabric.recovery import Lasting, Recovery
from fabric.symbols import SymbolTable
from fabric.topology import Following, NodeSpec, Topology

RECEIVE_MS = 20
"""A loop's longest wait: what is due by time (heartbeat, greeting, stop) is late by this at most."""
JOIN_MAX_NS = 3 * SECOND_NS
"""A processor that has not heard all its publishers by then works with those that it hears."""
READERS_MAX_NS = 10 * SECOND_NS
"""In a replay of its order log a processor waits for its readers, but no longer than this."""

GIVES_WAY = {"exchange": 10}
"""Niceness by role, setpriority(2): a simulated market that is too much for its machine should itself be late."""

Counters = Mapping[str, int | float | str]


class Node(Protocol):
    """A processor: rows in, rows out; time is an argument."""

    def warm_up(self) -> None:
        """Compile or load what `step` needs, with the array types of the live path."""

    def step(self, batch: Rows, now_ns: int) -> Rows:
        """Take a batch in order of arrival; return what to publish, as a view that is good until the next step."""

    def counters(self) -> Counters:
        """What has happened so far."""


class Runtime:
    """One program's view of the topology and of the launcher."""

    def __init__(self, topology: Topology, spec: NodeSpec, epoch: int, status_fd: int | None = None) -> None:
        """``status_fd``: where ready and report lines go (JSON, one a line); None when nobody listens."""
        self.topology = topology
        self.spec = spec
        self.epoch = epoch
        self.clock: Clock = EventClock() if topology.clock == "event" else SystemClock()
        self.turn = TurnClock()
        """What a processor asks for the time: it says the same throughout one turn of `run`."""
        self.symbols = SymbolTable(topology.limits.symbols_max)
        self.log = logging.getLogger(spec.name)
        self.latency: Latency | None = None if topology.clock == "event" else Latency()
        """What messages have taken up to here; None in a replay, whose time is that of the messages."""
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._status_fd = status_fd
        self._stopping = False
        self._ready = False
        self._next_report_ns = 0
        self._reported: Counters = {}
        self._open: list[Inbox | Outbox | LogReader | Recovery] = []
        self.digest = Digest(self.symbols, spec.publishes.channels) if spec.publishes and self.replays else None
        """In a replay, the hash of what this node says."""

    @property
    def replays(self) -> bool:
        """Whether this is a replay."""
        return self.topology.clock == "event"

    @property
    def event_time(self) -> bool:
        """Whether a processor has the time from the events alone: in a replay, but not in one of its own turns, which
        have the times that they had.
        """
        return self.replays and self.spec.follows is None

    def inbox(self, linger_ns: int | None = None, *, complete: bool = False) -> Inbox:
        """What this node reads, as the topology says. ``linger_ns``: how long a node that is in no hurry lets messages
        gather on a busy stream; by default `limits.linger_ns`. ``complete``: it wants old states too (`Inbox`).
        """
        limits = self.topology.limits
        inbox = Inbox(
            self.context, () if self.spec.follows else self.spec.reads, self.symbols, limits, self.clock,
            linger_ns=limits.linger_ns if linger_ns is None else max(linger_ns, limits.linger_ns),
            lossless=self.topology.lossless, same_host=True, complete=complete,
            curve=self.topology.curve(self.spec.host),
        )  # fmt: skip
        self._open.append(inbox)
        return inbox

    def outbox(self) -> Outbox:
        """What this node publishes, as the topology says; a feed stamps t2, every other node t3."""
        assert self.spec.publishes is not None, f"{self.spec.name} publishes nothing"
        outbox = Outbox(
            self.context, self.spec.publishes, self.symbols, self.topology.limits, self.clock,
            epoch=self.epoch, stamp="feed_ns" if self.spec.role == "feed" else "proc_ns",
            lossless=self.topology.lossless, counters=lambda: self._reported, beside=self._condition,
        )  # fmt: skip
        self._open.append(outbox)
        return outbox

    def log_reader(self) -> LogReader:
        """The logs of what this node reads."""
        publishers = [source.publisher for source in self.spec.reads]
        curve = self.topology.curve(self.spec.host)
        reader = LogReader(self.context, publishers, self.symbols, self.topology.limits, self.clock, curve)
        self._open.append(reader)
        return reader

    def recovery(self, node: Lasting, inbox: Inbox, outbox: Outbox) -> Recovery | None:
        """What makes a processor durable; None where it keeps no log."""
        if outbox.publisher.journal is None:
            return None
        recovery = Recovery(
            node, inbox, outbox, self.symbols, self.turn, self.clock, topology=self.topology, spec=self.spec,
            epoch=self.epoch,
        )  # fmt: skip
        self._open.append(recovery)
        return recovery

    def ready(self, detail: str = "") -> None:
        """Tell the launcher, once, that the program can work."""
        if not self._ready:
            self._ready = True
            self._tell({"ready": True, "detail": detail})

    def report(self, counters: Counters | Callable[[], Counters]) -> None:
        """Tell the launcher how things stand: counters, links and latency. May be called at every turn: one call a
        second is taken, the rest are free.
        """
        now = self.clock.monotonic_ns()
        if now >= self._next_report_ns:
            self._next_report_ns = now + SECOND_NS
            self._reported = counters() if callable(counters) else counters
            self._tell({"report": dict(self._reported), **self._condition()})

    def stop(self) -> None:
        """Ask the program to end; `stopping` is true from now on."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether SIGTERM or SIGINT has come."""
        return self._stopping

    def close(self) -> None:
        """Close what the program has opened and left open, then the context."""
        for end in self._open:
            end.close()
        self._open.clear()
        self.context.destroy(linger=0)

    def _condition(self) -> dict[str, Any]:
        """The histograms of the hops that end here, and how the links of what is read here are."""
        return {
            "hops": {} if self.latency is None else self.latency.packed(),
            "links": [link for end in self._open if isinstance(end, Inbox) for link in end.links()],
        }

    def _tell(self, line: dict[str, Any]) -> None:
        if self._status_fd is None:
            return
        try:
            os.write(self._status_fd, json.dumps(line).encode() + b"\n")
        except OSError:  # the launcher is gone or its pipe is full: a report is never worth a stall
            if line.get("ready"):
                self._ready = False


def run(node: Node, inbox: Inbox, outbox: Outbox, runtime: Runtime) -> None:
    """Drive one processor until it is told to stop: take what is there, step once, send what came of it.

    One that is `Lasting` and keeps a log notes each batch before it takes it, and comes back from where it was killed.
    In a replay of its order log it takes the turns of that.
    """
    node.warm_up()
    if runtime.spec.follows is not None:
        take_again(node, outbox, runtime, runtime.spec.follows)
        return
    latency, digest = runtime.latency, runtime.digest
    recovery = runtime.recovery(node, inbox, outbox) if isinstance(node, Lasting) else None
    if recovery is not None:
        recovery.recover()
    joined_by = runtime.clock.monotonic_ns() + JOIN_MAX_NS
    while not runtime.stopping():
        batch = inbox.recv_batch(RECEIVE_MS)
        now_ns = runtime.turn.begin(runtime.clock)
        if recovery is not None:
            recovery.note(batch)
        changes = node.step(batch, now_ns)
        outbox.send(changes)
        if digest is not None:
            digest.add(changes)
        if latency is not None and changes.size:
            latency.processed(changes, inbox.since_ns)
        outbox.tick()
        if recovery is not None:
            recovery.keep()
        if inbox.ready() or runtime.clock.monotonic_ns() > joined_by:
            runtime.ready()
        runtime.report(lambda: {
            **node.counters(), **inbox.counters(), **outbox.counters(), **(recovery.counters() if recovery else {}),
            **hashed(digest),
        })  # fmt: skip
    if recovery is not None:
        recovery.leave()


def take_again(node: Node, outbox: Outbox, runtime: Runtime, how: Following) -> None:
    """Drive a processor through the turns of its order log, then keep its last values available until told to stop."""
    digest = runtime.digest
    assert digest is not None
    told = {"done": 0, "turns": 0, "records": 0, "took_ms": 0, "hashed_first": 0, "hashed_last": 0}

    def beat() -> None:
        outbox.tick()
        runtime.report(lambda: {**node.counters(), **outbox.counters(), **told, **hashed(digest)})

    def rest(monotonic_ns: int) -> None:
        """Until then, unless told to stop."""
        while (left_ns := monotonic_ns - runtime.clock.monotonic_ns()) > 0 and not runtime.stopping():
            time.sleep(min(left_ns, RECEIVE_MS * MILLISECOND_NS) / SECOND_NS)
            beat()

    turns = follow(runtime.spec, runtime.symbols, runtime.topology.limits)
    runtime.ready(how.folder)
    readers = sum(any(source.publisher.name == runtime.spec.name for source in n.reads) for n in runtime.topology.nodes)
    until_ns = runtime.clock.monotonic_ns() + READERS_MAX_NS
    while outbox.readers < readers and not runtime.stopping() and runtime.clock.monotonic_ns() < until_ns:
        rest(runtime.clock.monotonic_ns() + RECEIVE_MS * MILLISECOND_NS)
    rest(runtime.clock.monotonic_ns() + how.delay_ns)

    began_ns = runtime.clock.monotonic_ns()
    start_ns = first_ns = 0
    for turn, rows in turns:
        if runtime.stopping() or (how.to_ns is not None and turn.now_ns >= how.to_ns):
            break
        told["turns"] += 1
        told["records"] += rows.size
        changes = node.step(rows, runtime.turn.begin_again(turn.now_ns, turn.monotonic_ns))
        if how.from_ns is not None and turn.now_ns < how.from_ns:
            outbox.send_again(changes)
            continue
        if how.speed:
            if not start_ns:
                start_ns, first_ns = runtime.clock.monotonic_ns(), turn.now_ns
            rest(start_ns + int((turn.now_ns - first_ns) / how.speed))
        if isinstance(runtime.clock, EventClock):
            runtime.clock.saw(turn.now_ns)
        before = outbox.position
        outbox.send(changes)
        if turn.own + 1 >= how.hash_from:
            digest.add(changes)
            told["hashed_first"] = told["hashed_first"] or turn.own + 1
            told["hashed_last"] = turn.own + outbox.position - before
        beat()
    told["took_ms"] = (runtime.clock.monotonic_ns() - began_ns) // MILLISECOND_NS
    told["done"] = 1
    while not runtime.stopping():
        rest(runtime.clock.monotonic_ns() + SECOND_NS)


def hashed(digest: Digest | None) -> Counters:
    """The hashes of what was said, as a report has them."""
    return {f"hash_{channel}": text for channel, text in digest.hashes().items()} if digest is not None else {}


def give_way(niceness: int) -> None:
    """Lower this process's share of the processors; it can only be lowered further.

    Where the kernel groups processes by session (sched(7), autogroup) the group's own value decides, and each node has
    a session of its own.
    """
    if niceness:
        os.setpriority(os.PRIO_PROCESS, 0, max(niceness, os.getpriority(os.PRIO_PROCESS, 0)))
        with suppress(OSError, IndexError):  # no such file, or an empty one: this kernel does not group
            group = Path("/proc/self/autogroup")
            if int(group.read_text().split()[-1]) < niceness:
                group.write_text(str(niceness))


def load_program(text: str) -> Callable[[Runtime], None]:
    """Find the program that a topology names as ``module:function``; raises UsageError naming what is missing."""
    module_name, _, function_name = text.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(f"program {text!r}: {error}") from error
    program: Callable[[Runtime], None] | None = getattr(module, function_name, None)
    if not callable(program):
        raise UsageError(f"program {text!r}: module {module_name!r} has no function {function_name!r}")
    return program


def start(topology: Topology, name: str, epoch: int, status_fd: int | None = None) -> int:
    """Run the node ``name`` in this process until it ends or is told to; return its exit code."""
    _log_to_stderr(topology)
    spec = topology.node(name)
    give_way(GIVES_WAY.get(spec.role, 0))
    runtime = Runtime(topology, spec, epoch, status_fd)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: runtime.stop())
    try:
        load_program(spec.run)(runtime)
    except FabricError as error:
        runtime.log.error("%s", error)
        return error.exit_code
    except Exception:
        runtime.log.exception("%s ended by an error of its own", name)
        return 1
    finally:
        runtime.close()
    return 0


class _TextLines(logging.Formatter):
    """As the launcher's own lines: time, level, message; a traceback follows without."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{utc_text(record.created)} {record.levelname:<7} {super().format(record)}"


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "t": round(record.created, 6),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _log_to_stderr(topology: Topology) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if topology.log_format == "json" else _TextLines())
    logging.basicConfig(level=topology.log_level, handlers=[handler], force=True)
