"""The processes of a topology: start in order, watch, restart with a bound, stop; and nothing left behind.

One thread, one selector: node pipes, the fork server, commands and signals all arrive in `Launcher.turn`. A node
is started when those it depends on have settled, so nodes that do not depend on one another start together. Of a
node that dies, only that node is started again, with a larger epoch: at once if it had lived for `LIVED_NS`, so that
its data is back within 1.5 s, else ever later, until `limits.restarts_max` deaths within `limits.restart_window_ns`
make it `failed` and the others live on without it.

`Launcher` is driven by whoever made it, from its main thread. `running` puts one into a process of its own, for code
that wants a topology beside it: replays, benchmarks, tests.
"""

import contextlib
import json
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Self

from fabric import machine, metrics
from fabric.clock import MILLISECOND_NS, SECOND_NS, SystemClock, utc_text
from fabric.control import COMBINED_LOG, Control, ControlServer, RunFolder
from fabric.errors import FabricError, UnavailableError
from fabric.forkserver import ENTRY, ForkServer, child_environment
from fabric.logs import Combined, Console, NodeLog
from fabric.operations import Operations
from fabric.scrape import ScrapeServer
from fabric.topology import NodeSpec, Topology

READY_WITHIN_NS = 30 * SECOND_NS
"""A node that is not ready by then is killed, and counts as dead."""
FORKED_WITHIN_NS = 30 * SECOND_NS
"""A fork server that has not forked by then hangs, even if it had to load the program first."""
SERVER_WITHIN_NS = 300 * SECOND_NS
"""The fork server may have to compile every kernel first."""
LIVED_NS = SECOND_NS
"""A node that was ready and has lived for so long did not die of its start: it is back at once."""
BACKOFF_FIRST_NS = 100 * MILLISECOND_NS
BACKOFF_MAX_NS = 5 * SECOND_NS
READ_MAX = 64 * 1024
"""Bytes read from one pipe in one turn, so that no node keeps the others waiting: a pipe holds as much."""
STATUS_LINE_MAX = 64 * 1024
_SAMPLE_NS = SECOND_NS
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError)
"""What a report may raise that a node has made up itself: it is not shown."""
_SERVER_LOG = "forkserver"
_STOP_ORDER = ("exchange", "feed", "processor", "writer", "history", "gateway", "cache")
"""From the source to the door, so that what is under way still reaches the clients; the cache outlives its writers."""


class State(StrEnum):
    """Where a node is in its life; the value is what `fabric status` shows."""

    WAITING = "waiting"  # for the nodes that it reads from
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "back-off"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"  # given up


ALIVE = (State.STARTING, State.READY, State.STOPPING)


@dataclass
class _Node:
    """One node over all of its incarnations. Times are monotonic nanoseconds."""

    spec: NodeSpec
    needs: tuple[str, ...]
    log: NodeLog
    state: State = State.WAITING
    pid: int | None = None  # None while the fork server has not answered
    epoch: int = 0
    started_ns: int = 0
    until_ns: int = 0  # the end of what the state waits for: readiness, back-off, drain
    settled: bool = False  # was ready or died once: those that depend on it wait no longer
    killed: str = ""  # why we have killed it
    again: bool = False  # a restart was asked for
    restarts: int = 0
    deaths: deque[int] = field(default_factory=deque)
    early_deaths: int = 0  # in a row, counted from the last incarnation that had lived for a while
    exit_code: int | None = None
    detail: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    report_ns: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    cpu_ns: int = 0
    cpu_percent: float = 0.0
    rss_bytes: int = 0
    samples_dead: int = 0  # in a row, in which it had ended and the fork server had not said so
    log_pipe: int = -1
    status_pipe: int = -1
    status_rest: bytes = b""


class Launcher:
    """Runs the nodes of one topology. Use from the main thread: `start`, then `turn` until `ended`."""

    def __init__(
        self,
        topology: Topology,
        folder: RunFolder,
        console: Console | None = None,
        on_progress: Callable[[int, int, str], None] | None = None,
        entry: str = ENTRY,
    ) -> None:
        """``entry`` is as in `forkserver.ENTRY`.

        ``on_progress(done, total, what)`` hears of kernels as they are compiled or loaded from the cache.
        """
        self.topology = topology = replace(topology, run_folder=str(folder.path))
        self.folder = folder
        self._clock = SystemClock()
        self._console = console
        self._on_progress = on_progress
        self._entry = entry
        self._json = topology.log_format == "json"
        self._operations = Operations(topology)
        self._began_ns = self._clock.monotonic_ns()
        self._nodes: dict[str, _Node] = {}
        self._by_pid: dict[int, _Node] = {}
        self._server: ForkServer | None = None
        self._serving = False
        self._server_until_ns = 0
        self._server_deaths: deque[int] = deque()
        self._server_pipe = -1
        self._held: list[tuple[int, Callable[[], None]]] = []  # pipes left alone until the next second
        self._stopping = False
        self._unclean = False
        self.status_at_stop: dict[str, Any] = {}
        """What `status` said just before the stop: the drain would blur the rates."""
        self._told_ready = False
        self._sampled_ns = 0
        self._watchdog_ns = machine.watchdog_ns()
        self._watchdog_at_ns = 0
        self._lock = -1
        self._selector = selectors.DefaultSelector()
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what its owner asks

    def start(self) -> None:
        """Claim the run folder, check the ports, start the fork server. Raises UnavailableError; then nothing runs."""
        self.folder.make()
        self._lock = self.folder.lock({"topology": str(Path(self.topology.path).absolute())})
        machine.check_ports(machine.ports(self.topology))
        names = tuple(node.name for node in self.topology.local_nodes())
        self._combined = Combined(
            self.folder.log_path(COMBINED_LOG), self._console, (*names, COMBINED_LOG, _SERVER_LOG), self._json
        )
        self._resources.callback(self._combined.close)
        for spec in self.topology.local_nodes():
            log = NodeLog(spec.name, self.folder.log_path(spec.name), self._combined)
            self._resources.callback(log.close)
            self._nodes[spec.name] = _Node(spec, needs(spec, self.topology), log)
        self._server_log = NodeLog(_SERVER_LOG, self.folder.log_path(_SERVER_LOG), self._combined)
        self._resources.callback(self._server_log.close)
        warning = machine.raise_file_limit(self.topology)
        if warning:
            self._say("warning", warning)
        control = ControlServer(self.folder.socket_path(), self._selector, self.answer)
        self._resources.callback(control.close)  # whoever waits for the end may start anew at once: so first ...
        self._resources.callback(self._unlock)
        self._resources.callback(control.refuse)  # ... and before the lock, or this would remove the next one's
        if self.topology.metrics is not None:
            host, port = self.topology.metrics
            pages = {"/metrics": lambda: (metrics.CONTENT_TYPE, self._scrape())}
            scraped = ScrapeServer(host, port, self._selector, pages)
            self._resources.callback(scraped.close)
            self._say("info", f"metrics at http://{host}:{port}/metrics")
        self._start_server()

    def turn(self, timeout_s: float = 1.0) -> None:
        """Wait until something happens, at most ``timeout_s``, and do what it asks for."""
        now_ns = self._clock.monotonic_ns()
        wait_ns = min(self._next_ns(now_ns) - now_ns, round(timeout_s * SECOND_NS))
        for key, _ in self._selector.select(max(0, wait_ns) / SECOND_NS):
            if self._selector.get_map().get(key.fd) is key:  # not closed, nor its number reused, by an earlier one
                key.data()
        self._advance(self._clock.monotonic_ns())

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` in `turn` whenever ``descriptor`` can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ, callback)

    def unwatch(self, descriptor: int) -> None:
        """The opposite of `watch`."""
        self._selector.unregister(descriptor)

    def settled(self) -> bool:
        """Whether every node is ready or given up: the start is over."""
        return all(node.state in (State.READY, State.FAILED) for node in self._nodes.values())

    def failed(self) -> list[str]:
        """The nodes that have been given up."""
        return [name for name, node in self._nodes.items() if node.state is State.FAILED]

    def stop(self) -> None:
        """Begin to stop all nodes, sources first; `turn` goes on until `ended`."""
        if not self._stopping:
            self.status_at_stop = self.status()
            self._stopping = True
            self._unclean = self._unclean or bool(self.failed())
            self._say("info", "stopping")
            machine.notify_systemd("STOPPING=1\nSTATUS=stopping")

    def kill(self) -> None:
        """Stop without a drain: every node is killed now."""
        self.stop()
        self._unclean = True
        self._end_server()

    @property
    def stopping(self) -> bool:
        """Whether a stop has begun."""
        return self._stopping

    def ended(self) -> bool:
        """Whether a stop is complete, or nothing is left that could be run."""
        return self._stopping and all(node.state in (State.STOPPED, State.FAILED) for node in self._nodes.values())

    def exit_code(self) -> int:
        """0 after a clean stop; 1 if a node had been given up, was killed in the drain or ended with an error."""
        return 1 if self._unclean else 0

    def close(self) -> None:
        """End everything that still runs, at once, and give the run folder free."""
        self._end_server()
        self._resources.close()
        self._selector.close()
        self._unlock()

    def restart(self, name: str) -> None:
        """Drain one node and start it again, also one that was given up; raises FabricError."""
        node = self._nodes.get(name)
        if node is None:
            guess = get_close_matches(name, self._nodes, n=1)
            hint = f"; did you mean {guess[0]!r}?" if guess else ""
            raise FabricError(f"no node is called {name!r}{hint} (there are {', '.join(self._nodes)})")
        if self._stopping:
            raise FabricError("the topology is stopping")
        now_ns = self._clock.monotonic_ns()
        self._say("info", f"{name}: restart was asked for")
        if node.state in ALIVE:
            self._terminate(node, now_ns)
            node.again = True
        elif node.state is not State.WAITING:
            self._anew(node, now_ns)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What a command is told that came by the control socket."""
        match request:
            case {"do": "status"}:
                return self.status()
            case {"do": "ops"}:
                since = request.get("since")
                return self.operations(since if isinstance(since, int | float) else None)
            case {"do": "metrics"}:
                return {"text": self._scrape()}
            case {"do": "restart", "node": str(name)}:
                try:
                    self.restart(name)
                except FabricError as error:
                    return {"error": str(error)}
            case {"do": "down"}:
                self.stop()
            case {"do": "kill"}:
                self.kill()
            case _:
                known = "status, ops, metrics, restart, down and kill"
                return {"error": f"unknown request {json.dumps(request)[:200]}; there are {known}"}
        return {"ok": True, "pid": os.getpid()}

    def status(self) -> dict[str, Any]:
        """The launcher and its nodes as JSON data; times in seconds, rates per second, sizes in bytes."""
        now_ns = self._clock.monotonic_ns()
        return {
            "pid": os.getpid(),
            "topology": str(Path(self.topology.path).absolute()),
            "folder": str(self.folder.path),
            "state": self._overall(),
            "forkserver": self._server.pid if self._server is not None else None,
            "nodes": [self._node_status(node, now_ns) for node in self._nodes.values()],
        }

    def operations(self, from_s: float | None) -> dict[str, Any]:
        """What operators see (`fabric.operations`), with the points of the series after ``from_s`` (UTC seconds)."""
        now_ns = self._clock.monotonic_ns()
        uptime_s = round((now_ns - self._began_ns) / SECOND_NS, 1)
        return self._operations.document(self.status(), uptime_s, self._clock.now_ns(), now_ns, from_s)

    def _scrape(self) -> str:
        return metrics.exposition(self.status(), self._operations)

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- one turn

    def _advance(self, now_ns: int) -> None:
        """Do what is due at ``now_ns``."""
        if self._stopping:
            self._stop_next(now_ns)
        elif self._server is None:
            if now_ns >= self._server_until_ns:
                self._start_server()
        elif not self._serving and now_ns >= self._server_until_ns:
            self._say("error", f"the fork server did not answer within {SERVER_WITHIN_NS // SECOND_NS} s")
            self._server_died(now_ns)
        for node in self._nodes.values():
            if node.state is State.WAITING and self._serving and not self._stopping and self._may_start(node):
                self._start(node, now_ns)
            elif node.state is State.BACKOFF and now_ns >= node.until_ns:
                node.state = State.WAITING
                if self._serving:
                    self._start(node, now_ns)
            elif node.state in (State.STARTING, State.STOPPING) and now_ns >= node.until_ns and not node.killed:
                self._overdue(node, now_ns)
        if now_ns - self._sampled_ns >= _SAMPLE_NS:
            self._sample(now_ns)
        if self._watchdog_ns is not None and now_ns >= self._watchdog_at_ns:
            machine.notify_systemd("WATCHDOG=1")
            self._watchdog_at_ns = now_ns + self._watchdog_ns
        if self._console is not None:
            self._console.flush()
        if not self._told_ready and not self._stopping and self.settled():
            self._told_ready = True
            given_up = self.failed()
            self._say("info", f"all nodes have started{', except ' + ', '.join(given_up) if given_up else ''}")
            machine.notify_systemd(f"READY=1\nSTATUS={len(self._nodes)} nodes, {len(given_up)} failed")

    def _next_ns(self, now_ns: int) -> int:
        """When `_advance` has something to do next, if nothing happens before."""
        due = [self._sampled_ns + _SAMPLE_NS]
        if self._console is not None and self._console.behind:
            due.append(now_ns + 20 * MILLISECOND_NS)
        if not self._serving and not self._stopping:
            due.append(self._server_until_ns)
        if self._watchdog_ns is not None:
            due.append(self._watchdog_at_ns)
        timed = (State.STARTING, State.BACKOFF, State.STOPPING)
        due += [node.until_ns for node in self._nodes.values() if node.state in timed and not node.killed]
        return min(due)

    def _sample(self, now_ns: int) -> None:
        """Once a second: what each process uses; and pipes that were left alone are read again."""
        elapsed_ns = now_ns - self._sampled_ns
        for node in self._nodes.values():
            node.log.exhausted(now_ns)  # a new second: it tells what it had to drop
            used = machine.usage(node.pid) if node.pid is not None else None
            if used is None:
                continue
            node.cpu_percent = 100 * (used.cpu_ns - node.cpu_ns) / elapsed_ns if node.cpu_ns else 0.0
            node.cpu_ns, node.rss_bytes = used.cpu_ns, used.rss_bytes
            node.samples_dead = node.samples_dead + 1 if used.ended else 0
        self._sampled_ns = now_ns
        wall_s = self._clock.now_ns() // SECOND_NS
        self._operations.tick([self._node_status(node, now_ns) for node in self._nodes.values()], wall_s)
        held, self._held = self._held, []
        for descriptor, callback in held:
            self._selector.register(descriptor, selectors.EVENT_READ, callback)
        if any(node.samples_dead > 1 for node in self._nodes.values()):
            self._say("error", "the fork server does not report the end of a node")
            self._server_died(now_ns)

    # -- the fork server

    def _start_server(self) -> None:
        self._server_pipe, theirs = os.pipe()
        try:
            self._server = ForkServer(self.topology, theirs, self._entry)
        finally:
            os.close(theirs)
        os.set_blocking(self._server_pipe, False)
        self._selector.register(self._server, selectors.EVENT_READ, self._hear_server)
        self._selector.register(self._server_pipe, selectors.EVENT_READ, self._read_server_log)
        self._server_until_ns = self._clock.monotonic_ns() + SERVER_WITHIN_NS

    def _read_server_log(self) -> None:
        data = _read(self._server_pipe)
        if data:
            self._server_log.feed(data, self._clock.monotonic_ns())
        elif data == b"":
            self._close_server_pipe()

    def _close_server_pipe(self) -> None:
        if self._server_pipe >= 0:
            self._selector.unregister(self._server_pipe)
            os.close(self._server_pipe)
            self._server_pipe = -1

    def _hear_server(self) -> None:
        assert self._server is not None
        messages = self._server.receive()
        now_ns = self._clock.monotonic_ns()
        if messages is None:
            self._server_died(now_ns)
            return
        for message in messages:
            match message:
                case {"progress": [done, total, what]}:
                    if self._on_progress is not None:
                        self._on_progress(done, total, what)
                case {"serving": True}:
                    self._serving = True
                case {"problem": problem}:
                    self._say("error", f"preload: {problem}")
                case {"spawned": name, "pid": pid, "epoch": epoch}:
                    self._spawned(self._nodes[name], pid, epoch)
                case {"exited": pid, "code": code}:
                    node = self._by_pid.pop(pid)
                    self._exited(node, code, now_ns)

    def _server_died(self, now_ns: int) -> None:
        """Start it and its nodes again, with the same patience as a node."""
        self._end_server()
        if self._stopping:
            self._unclean = True
            return
        if self._too_often(self._server_deaths, now_ns):
            self._say("error", f"the fork server has died {len(self._server_deaths)} times: nothing can be started")
            self._unclean = True
            self.stop()
        else:
            self._server_until_ns = now_ns + _backoff(len(self._server_deaths))
            self._say("error", "the fork server has died, and all nodes with it; all start again")

    def _end_server(self) -> None:
        """End the fork server, if it has not ended, and bury its nodes, which die with it."""
        if self._server is not None:
            self._selector.unregister(self._server)
            self._server.close()
            self._server, self._serving = None, False
        if self._server_pipe >= 0:
            self._read_server_log()  # its last words
        self._close_server_pipe()
        self._by_pid.clear()
        for node in self._nodes.values():
            if node.state in ALIVE:
                if node.pid is not None:
                    with contextlib.suppress(ProcessLookupError):  # the kernel was quicker
                        os.killpg(node.pid, signal.SIGKILL)  # the node's own children, too
                self._bury(node, -signal.SIGKILL)
                node.restarts += not self._stopping
                node.state = State.STOPPED if self._stopping else State.WAITING

    # -- one node

    def _may_start(self, node: _Node) -> bool:
        return all(self._nodes[name].settled for name in node.needs)

    def _start(self, node: _Node, now_ns: int) -> None:
        assert self._server is not None
        wall_ns = self._clock.now_ns()
        try:
            node.epoch = self.folder.next_epoch(node.spec.name, wall_ns)
        except OSError as error:  # a full disk: no reason not to start
            node.epoch = max(wall_ns, node.epoch + 1)
            self._say("warning", f"{node.spec.name}: its epoch could not be kept: {error}")
        try:
            (log_pipe, log), (status_pipe, status) = _pipes()
        except OSError as error:
            node.settled = True
            self._died(node, f"could not be started: {error}", now_ns)
            return
        try:
            self._server.spawn(node.spec.name, node.epoch, log, status)
        except OSError:  # it has died or hangs: the end of its socket, or the bound on the start, will say so
            os.close(log_pipe)
            os.close(status_pipe)
            return
        finally:
            os.close(log)
            os.close(status)
        node.state, node.pid, node.started_ns, node.until_ns = State.STARTING, None, now_ns, now_ns + FORKED_WITHIN_NS
        node.killed, node.again, node.detail = "", False, ""
        node.report, node.report_ns, node.rates = {}, 0, {}
        node.cpu_ns, node.cpu_percent, node.rss_bytes = 0, 0.0, 0
        node.log_pipe, node.status_pipe, node.status_rest = log_pipe, status_pipe, b""
        os.set_blocking(log_pipe, False)
        self._selector.register(log_pipe, selectors.EVENT_READ, partial(self._read_log, node))

    def _spawned(self, node: _Node, pid: int, epoch: int) -> None:
        assert epoch == node.epoch
        node.pid, node.started_ns = pid, self._clock.monotonic_ns()
        self._by_pid[pid] = node
        # only now: a quick node is ready before we have heard what its pid is
        self._selector.register(node.status_pipe, selectors.EVENT_READ, partial(self._read_status, node))
        if node.killed:
            self._kill(node, node.killed)
        elif node.state is State.STOPPING:
            self._signal(node, signal.SIGTERM)
        else:
            node.until_ns = node.started_ns + READY_WITHIN_NS

    def _overdue(self, node: _Node, now_ns: int) -> None:
        """Neither ready nor ended within its bound."""
        if node.pid is None:
            self._say("error", "the fork server does not answer")
            self._server_died(now_ns)
        elif node.state is State.STARTING:
            self._kill(node, f"not ready within {READY_WITHIN_NS // SECOND_NS} s")
        else:
            self._unclean = self._unclean or self._stopping
            self._kill(node, f"still alive {self.topology.limits.drain_ns / SECOND_NS:g} s after SIGTERM")

    def _read_log(self, node: _Node) -> None:
        now_ns = self._clock.monotonic_ns()
        data = _read(node.log_pipe)
        if data:
            node.log.feed(data, now_ns)
        if data == b"":  # closed by the node: its end will be reported
            self._selector.unregister(node.log_pipe)
        elif node.log.exhausted(now_ns):
            self._held.append((node.log_pipe, self._selector.unregister(node.log_pipe).data))

    def _read_status(self, node: _Node) -> None:
        data = _read(node.status_pipe)
        if data == b"":
            self._selector.unregister(node.status_pipe)
        *lines, rest = (node.status_rest + (data or b"")).split(b"\n")
        node.status_rest = rest[-STATUS_LINE_MAX:]
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                continue  # a node that writes there by mistake; its report goes missing, and that is shown
            match message:
                case {"ready": True}:
                    self._ready(node, str(message.get("detail", "")))
                case {"report": dict(report)}:
                    self._reported(node, report)
                    with contextlib.suppress(*_MALFORMED):
                        self._operations.reported(node.spec.name, message, node.report_ns)

    def _ready(self, node: _Node, detail: str) -> None:
        if node.state is State.STARTING:
            node.state, node.settled, node.detail = State.READY, True, detail
            took_ms = (self._clock.monotonic_ns() - node.started_ns) // MILLISECOND_NS
            what = "ready again" if node.restarts else "ready"
            self._say("info", f"{node.spec.name}: {what} in {took_ms} ms (pid {node.pid}) {detail}".rstrip())

    def _reported(self, node: _Node, report: dict[str, Any]) -> None:
        now_ns = self._clock.monotonic_ns()
        if node.report_ns:
            elapsed_s = (now_ns - node.report_ns) / SECOND_NS
            node.rates = {
                key: (value - node.report[key]) / elapsed_s
                for key, value in report.items()
                if isinstance(value, int | float) and isinstance(node.report.get(key), int | float) and elapsed_s > 0
            }
        node.report, node.report_ns = report, now_ns

    def _exited(self, node: _Node, code: int, now_ns: int) -> None:
        """A process of ``node`` has ended: what follows depends on whether we wanted it to."""
        wanted = node.state is State.STOPPING
        what = node.killed or ("" if wanted else _end_of(code))
        self._bury(node, code)
        if wanted and not node.again:
            if not node.killed and code not in (0, -signal.SIGTERM):
                self._unclean = True
                self._say("warning", f"{node.spec.name}: {_end_of(code)} when it was told to stop")
            node.state = State.STOPPED
            return
        if self._stopping:
            node.state = State.STOPPED
            return
        node.settled = True
        if node.again:
            self._anew(node, now_ns)
        else:
            self._died(node, what, now_ns)

    def _anew(self, node: _Node, now_ns: int) -> None:
        """Start it again because someone wants it: no death, and the earlier ones are forgiven."""
        node.deaths.clear()
        node.early_deaths = 0
        node.state, node.until_ns, node.restarts = State.BACKOFF, now_ns, node.restarts + 1

    def _died(self, node: _Node, what: str, now_ns: int) -> None:
        """Start it again after a while, or give it up."""
        lived = node.state is State.READY and now_ns - node.started_ns >= LIVED_NS
        node.early_deaths = 1 if lived else node.early_deaths + 1
        if self._too_often(node.deaths, now_ns):
            node.state = State.FAILED
            window_s = self.topology.limits.restart_window_ns // SECOND_NS
            self._say(
                "error",
                f"{node.spec.name}: FAILED: {what}; died {len(node.deaths)} times within {window_s} s and is given up, "
                f"the other nodes go on (`fabric restart {node.spec.name}` tries anew)",
            )
            machine.notify_systemd(f"STATUS={len(self._nodes)} nodes, failed: {', '.join(self.failed())}")
            if len(self.failed()) == len(self._nodes):
                self.stop()  # nothing is left that could be supervised
            return
        delay_ns = _backoff(node.early_deaths)
        node.state, node.until_ns = State.BACKOFF, now_ns + delay_ns
        node.restarts += 1
        when = f"in {delay_ns / SECOND_NS:g} s" if delay_ns else "now"
        self._say("warning", f"{node.spec.name}: {what}; starts again {when} (restart {node.restarts})")

    def _too_often(self, deaths: deque[int], now_ns: int) -> bool:
        """Note a death; whether there have now been too many."""
        limits = self.topology.limits
        deaths.append(now_ns)
        while deaths[0] < now_ns - limits.restart_window_ns:
            deaths.popleft()
        return len(deaths) > limits.restarts_max

    def _bury(self, node: _Node, code: int) -> None:
        """Take its last words, then let go of what it leaves."""
        assert node.log_pipe >= 0
        for _ in range(64):  # a pipe holds 64 kB; a grandchild that still writes does not keep us here
            data = _read(node.log_pipe)
            if not data:
                break
            node.log.feed(data, self._clock.monotonic_ns())
        node.log.end_of_stream()
        if node.status_pipe in self._selector.get_map():
            self._read_status(node)
        self._close_pipes(node)
        node.pid, node.exit_code, node.samples_dead = None, code, 0
        self._operations.ended(node.spec.name)

    def _close_pipes(self, node: _Node) -> None:
        self._held = [(pipe, callback) for pipe, callback in self._held if pipe != node.log_pipe]
        for pipe in (node.log_pipe, node.status_pipe):
            if pipe in self._selector.get_map():
                self._selector.unregister(pipe)
            os.close(pipe)
        node.log_pipe = node.status_pipe = -1

    def _terminate(self, node: _Node, now_ns: int) -> None:
        """SIGTERM now, SIGKILL after the drain."""
        node.state, node.until_ns, node.killed = State.STOPPING, now_ns + self.topology.limits.drain_ns, ""
        if node.pid is not None:
            self._signal(node, signal.SIGTERM)

    def _kill(self, node: _Node, why: str) -> None:
        if not node.killed:
            self._say("warning", f"{node.spec.name}: killed: {why}")
        node.killed = f"killed: {why}"
        if node.pid is not None:
            self._signal(node, signal.SIGKILL)

    def _signal(self, node: _Node, number: signal.Signals) -> None:
        assert node.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it has ended, and the fork server is about to say so
            os.kill(node.pid, number)

    def _stop_next(self, now_ns: int) -> None:
        """Stop the first role that still lives, in the order of `_STOP_ORDER`."""
        for node in self._nodes.values():
            if node.state in (State.WAITING, State.BACKOFF):
                node.state = State.STOPPED
        alive = [node for node in self._nodes.values() if node.state in ALIVE]
        if not alive:
            return
        first = min(_stop_rank(node.spec) for node in alive)
        for node in alive:
            node.again = False
            if _stop_rank(node.spec) == first and node.state is not State.STOPPING:
                self._terminate(node, now_ns)

    def _overall(self) -> str:
        if self._stopping:
            return "stopping"
        if not self.settled():
            return "degraded" if self._told_ready else "starting"
        return "failed" if self.failed() else "ready"

    def _node_status(self, node: _Node, now_ns: int) -> dict[str, Any]:
        alive = node.state in ALIVE
        return {
            "name": node.spec.name,
            "role": node.spec.role,
            "state": node.state.value,
            "ready": node.state is State.READY,
            "pid": node.pid,
            "epoch": node.epoch,
            "uptime_s": round((now_ns - node.started_ns) / SECOND_NS, 1) if alive else None,
            "restarts": node.restarts,
            "exit_code": node.exit_code,
            "detail": node.detail,
            "cpu_percent": round(node.cpu_percent, 1) if alive else None,
            "rss_bytes": node.rss_bytes if alive else None,
            "log_lines_dropped": node.log.dropped,
            "report_age_s": round((now_ns - node.report_ns) / SECOND_NS, 1) if node.report_ns and alive else None,
            "books": self._operations.books(node.spec.name),
            "report": node.report,
            "rates": {key: round(rate, 1) for key, rate in node.rates.items()},
        }

    def _say(self, level: str, text: str) -> None:
        """A line of the launcher itself, in its own log and on the console; several lines are kept apart."""
        stamp = utc_text(self._clock.now_ns() / SECOND_NS)
        if self._json:
            lines = [json.dumps({"time": stamp, "level": level, "node": COMBINED_LOG, "message": text})]
        else:
            lines = [f"{stamp} {level.upper():<7} {line}" for line in text.splitlines()]
        self._combined.write(COMBINED_LOG, [line.encode() for line in lines])


def supervise(
    launcher: Launcher, for_ns: int | None = None, on_settled: Callable[[], None] | None = None, hangup: bool = True
) -> int:
    """Drive a started launcher to its end; the exit code. For the main thread of a process that does nothing else.

    SIGTERM, SIGINT and (with ``hangup``) SIGHUP drain, a second one kills. ``for_ns`` after every node had started it
    stops by itself; ``on_settled`` is called when they have.
    """
    numbers = [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hangup else [])]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)

        def heard() -> None:
            for number in ours.recv(64):
                if number in numbers:
                    if launcher.stopping:
                        launcher.kill()
                    else:
                        launcher.stop()

        for number in numbers:
            signal.signal(number, lambda *_: None)
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        launcher.watch(ours.fileno(), heard)
        stop_at_ns: int | None = None
        told = False
        try:
            while not launcher.ended():
                launcher.turn()
                if not told and launcher.settled():
                    told = True
                    stop_at_ns = None if for_ns is None else time.monotonic_ns() + for_ns
                    if on_settled is not None:
                        on_settled()
                if stop_at_ns is not None and time.monotonic_ns() >= stop_at_ns:
                    launcher.stop()
        finally:
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)  # the process is about to end, with the exit code that it has
            signal.set_wakeup_fd(wakeup)
    return launcher.exit_code()


class Running:
    """A launcher in a process of its own, seen from outside. When its owner ends, in whatever way, it drains and stops.

    Detached (``leashed=False``), it lives on alone, as `fabric up --detach` leaves it.
    """

    def __init__(self, topology: Topology, folder: RunFolder, leashed: bool = True, entry: str = ENTRY) -> None:
        folder.make()
        self.folder = folder
        errors = os.open(folder.log_path(COMBINED_LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fabric.launcher"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                env=child_environment(),
            )
        finally:
            os.close(errors)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._leash, self._news = self._process.stdin, self._process.stdout
        pickle.dump((topology, folder.path, leashed, entry), self._leash)
        self._leash.flush()

    @property
    def pid(self) -> int:
        """Of the launcher."""
        return self._process.pid

    def wait_ready(
        self, timeout_s: float = 60.0, on_progress: Callable[[int, int, str], None] | None = None
    ) -> list[str]:
        """Wait until every node is ready or given up; return those that were given up.

        Raises what `Launcher.start` raised, and FabricError after ``timeout_s`` without news.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._news, selectors.EVENT_READ)
            rest = b""
            while selector.select(timeout_s):
                data = os.read(self._news.fileno(), READ_MAX)
                if not data:
                    code = self._process.wait()
                    raise FabricError(f"the launcher {_end_of(code)}: see {self.folder.log_path(COMBINED_LOG)}")
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    match json.loads(line):
                        case {"progress": [done, total, what]} if on_progress is not None:
                            on_progress(done, total, what)
                        case {"settled": True, "failed": list(failed)}:
                            return [str(name) for name in failed]
                        case {"error": str(text), "code": code}:
                            self._process.wait()
                            raise (UnavailableError if code == UnavailableError.exit_code else FabricError)(text)
        raise FabricError(f"the topology was not ready within {timeout_s:g} s")

    def status(self) -> dict[str, Any]:
        """See `Launcher.status`."""
        with Control(self.folder) as control:
            return control.ask("status")

    def node(self, name: str) -> dict[str, Any]:
        """The status of one node; raises KeyError."""
        found: dict[str, dict[str, Any]] = {node["name"]: node for node in self.status()["nodes"]}
        return found[name]

    def restart(self, name: str) -> None:
        """Restart one node: a drain, then a new process."""
        with Control(self.folder) as control:
            control.ask("restart", node=name)

    def stop(self, timeout_s: float = 60.0) -> int:
        """Drain and stop all; the launcher's exit code. After ``timeout_s`` everything is killed."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise FabricError(f"the topology did not stop within {timeout_s:g} s and was killed") from None
        self.release()
        return code

    def kill(self) -> None:
        """`kill -9`; the kernel kills the nodes with it."""
        self._process.kill()
        self._process.wait()
        self.release()

    def release(self) -> None:
        """Let go of the launcher: a leashed one drains, a detached one lives on."""
        self._leash.close()
        self._news.close()


@contextlib.contextmanager
def running(topology: Topology, folder: RunFolder, timeout_s: float = 60.0, entry: str = ENTRY) -> Iterator[Running]:
    """A topology that runs during a with-block, its nodes ready, and is drained and stopped at the end of it."""
    launcher = Running(topology, folder, entry=entry)
    try:
        launcher.wait_ready(timeout_s)
        yield launcher
    finally:
        launcher.stop()


def main() -> int:
    """Be the process of a `Running`: settings come by stdin, which is then the leash; news go to stdout."""
    topology, path, leashed, entry = pickle.load(sys.stdin.buffer)

    def tell(**news: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # whoever started a detached launcher need not wait for it
            os.write(1, json.dumps(news).encode() + b"\n")

    def settled() -> None:
        tell(settled=True, failed=launcher.failed())

    def progress(done: int, total: int, what: str) -> None:
        tell(progress=[done, total, what])

    launcher = Launcher(topology, RunFolder(path), None, progress, entry)
    with launcher:
        try:
            launcher.start()
        except FabricError as error:
            tell(error=str(error), code=error.exit_code)
            return error.exit_code
        if leashed:

            def let_go() -> None:
                launcher.unwatch(0)
                launcher.stop()

            launcher.watch(0, let_go)
        return supervise(launcher, on_settled=settled, hangup=False)


def _backoff(deaths: int) -> int:
    """How long to wait before the next start after so many deaths in a row, in nanoseconds."""
    return 0 if deaths == 1 else min(BACKOFF_FIRST_NS << min(deaths - 2, 10), BACKOFF_MAX_NS)


def needs(spec: NodeSpec, topology: Topology) -> tuple[str, ...]:
    """The nodes that must have settled before ``spec`` starts, of those that start here.

    Those that it reads from, if they stand before it (two nodes may read from each other); for whoever uses the cache
    the cache; for an exchange all that is no exchange: its market opens when everyone listens. What it sent earlier
    would have to be caught up with, by processors that still load.
    """
    needs = set()
    local = topology.local_nodes()
    read = {source.publisher.name for source in spec.reads}
    for other in local[: local.index(spec)]:
        if other.publishes is not None and other.publishes.name in read:
            needs.add(other.name)
    for other in local:
        if spec.role == "exchange" and other.role != "exchange":
            needs.add(other.name)
        if other.role == "cache" and spec.role in ("writer", "gateway"):
            needs.add(other.name)
    return tuple(sorted(needs - {spec.name}))


def _stop_rank(spec: NodeSpec) -> int:
    return _STOP_ORDER.index(spec.role)


def _end_of(code: int) -> str:
    """How a process ended, in words: ``exited with code 3``, ``was killed by SIGKILL``."""
    if code >= 0:
        return f"exited with code {code}"
    return f"was killed by {signal.Signals(-code).name}"


def _pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    """The two pipes of a node, each as (to read, to write): what it prints, and its reports. Raises OSError."""
    log = os.pipe()
    try:
        status = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # a report is never worth a node's stall
    except OSError:
        for pipe in log:
            os.close(pipe)
        raise
    return log, status


def _read(pipe: int) -> bytes | None:
    """What waits in a pipe, up to a bound; None where nothing does, empty at its end."""
    try:
        return os.read(pipe, READ_MAX)
    except BlockingIOError:
        return None


if __name__ == "__main__":
    sys.exit(main())
