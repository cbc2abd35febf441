"""Ten thousand people on one gateway: the whole fabric, its peers and the bare kernel in the same harness.

``ours`` runs `gateway.yaml` (exchange, feed, processors, Redis writer, Redis, gateway processes) against the load
generator of `load.py`: 10,000 WebSocket clients, 10 of 5,000 symbols each, every symbol changing 10 times a second.
An update that counts is a distinct (client, symbol, time), in order, with the same bytes for all clients. The values of
one symbol in ten are compared with the bus, and of these symbols every message of the bus must have been delivered or
be counted in a later one's ``k``. Latency is from the exchange's scheduled time to the kernel's receive stamp.

``limit`` is `send` of ready frames over as many sockets, ``tornado`` plain `write_message`, ``socketify`` uWebSockets,
``nats`` nats-server; where it is possible a peer makes its market in its own process (`peers/`). What is compared is
updates by second of the server's own processor time, so that a machine that is busy elsewhere does not decide it.

A run is void when the market was more than 10 ms late (p99) or gave messages up, or when a check failed.

Run: python benchmarks/bench_gateway.py [ours] [limit] [tornado] [socketify] [nats] [--clients 10000] [--seconds 10]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import zmq
from asker import Asker
from machine import describe
from peers import serve

from fabric import topology as topologies
from fabric.bus import Inbox
from fabric.clock import SystemClock
from fabric.control import COMBINED_LOG, RunFolder
from fabric.launcher import Running, running
from fabric.records import KIND_NBBO, NBBO
from fabric.symbols import SymbolTable
from fabric.topology import GatewaySettings, Limits, Source, Topology
from nodes.exchanges.market import tickers

HERE = Path(__file__).resolve().parent
LATE_MAX_MS: Final = 10.0
CHECKED_EVERY: Final = 10
"""One symbol in so many has its values compared with the bus: a reader of all would cost a tenth of a core."""
SERVERS = ("ours", "limit", "tornado", "socketify", "nats")
CLIENTS_AT_MOST: Final = {"tornado": 250, "socketify": 1_000, "nats": 1_000}
"""What a peer can carry on one core: compared is the processor time of an update, not who falls behind."""
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass
class Processes:
    """Processor time, memory and kernel socket memory of some processes over a window."""

    pids: dict[str, int]
    before: dict[str, int] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def begin(self) -> None:
        self.before = {name: cpu_ns(pid) for name, pid in self.pids.items()}

    def end(self) -> None:
        self.cpu_s = {name: (cpu_ns(pid) - self.before[name]) / 1e9 for name, pid in self.pids.items()}
        self.memory = {name: own_bytes(pid) for name, pid in self.pids.items()}


def cpu_ns(pid: int) -> int:
    """Processor time of a process so far, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_NS


def own_bytes(pid: int) -> int:
    """Memory that nobody shares with a process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Private_"))


def kernel_socket_bytes() -> int:
    """What all TCP sockets of the machine hold in the kernel."""
    line = next(text for text in Path("/proc/net/sockstat").read_text().splitlines() if text.startswith("TCP:"))
    return int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")


def put_ahead(pids: Iterable[int], niceness: int) -> None:
    """Put processes, with their groups (sched(7), autogroup), ahead of what else the machine does: root may."""
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/autogroup").write_text(str(niceness))
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), niceness)


def put_first(pids: Iterable[int]) -> None:
    """Let processes run as soon as they want to, before all others (sched(7), SCHED_RR), or say that this is denied.

    For exchanges: they stand for the world outside, which does not wait for this machine.
    """
    try:
        for pid in pids:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        print("  exchanges run at the priority of all others: only root may put them first")


def steal() -> tuple[int, int]:
    """Ticks that the host took, and all ticks."""
    fields = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[7], sum(fields)


class Bus(threading.Thread):
    """Writes down the NBBOs of the checked symbols as the bus has them."""

    def __init__(self, topology: Topology, names: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        topics = tuple(f"nbbo.{name}|" for name in names[::CHECKED_EVERY])
        self._sources = [Source(p, topics) for p in topology.publishers() if "nbbo" in p.channels]
        self._symbols = SymbolTable(topology.limits.symbols_max)
        self._stopping = threading.Event()
        self._batches: list[np.ndarray] = []
        self.counters: dict[str, int] = {}

    def run(self) -> None:
        with zmq.Context[zmq.Socket[bytes]]() as context:
            inbox = Inbox(context, self._sources, self._symbols, Limits(linger_ns=50_000_000), SystemClock())
            while not self._stopping.is_set():
                rows = inbox.recv_batch(100)
                self._batches.append(rows[rows["kind"] == KIND_NBBO].view(NBBO))
            self.counters = inbox.counters()
            inbox.close()

    def finish(self) -> np.ndarray:
        """All rows, and `name(row["symbol"])`."""
        self._stopping.set()
        self.join()
        return np.concatenate(self._batches)

    def name(self, symbol: int) -> str:
        return self._symbols.name(symbol)


@contextmanager
def generator(
    options: argparse.Namespace, port: int, dialect: str, save: str = ""
) -> Iterator[Iterator[dict[str, Any]]]:
    """The load generator's stages, one after the other."""
    command = [sys.executable, str(HERE / "load.py"), "--port", str(port), "--dialect", dialect, "--save", save]
    for name in (
        "clients",
        "symbols_each",
        "symbols",
        "spread",
        "seed",
        "interval_ms",
        "seconds",
        "pace",
        "stalled",
        "settle",
        "sweep_ms",
        "receive_bytes",
    ):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    command += ["--checked-every", str(CHECKED_EVERY), "--begin-at", str(getattr(options, "begin_at", 0.0))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield map(json.loads, process.stdout)
        finally:
            process.terminate()


def stage(stages: Iterator[dict[str, Any]], name: str) -> dict[str, Any]:
    found = next(stages, None)
    if found is None or found["stage"] != name:
        raise SystemExit(f"the load generator ended before {name!r}; its message stands above")
    return found


def measure(
    options: argparse.Namespace, port: int, processes: Processes, dialect: str = "stream", save: str = "",
    begun: Callable[[], None] = lambda: None, ended: Callable[[], None] = lambda: None,
) -> dict[str, Any]:  # fmt: skip
    """Let the generator work against a port; its result, with what the server's processes have used.

    ``begun`` and ``ended`` are called when the window that counts begins and ends.
    """
    with generator(options, port, dialect, save) as stages:
        stage(stages, "ready")
        if options.niceness:
            put_ahead([os.getpid(), *processes.pids.values()], options.niceness)
        idle = {name: own_bytes(pid) for name, pid in processes.pids.items()}
        print(f"  connecting {options.clients} clients ...", flush=True)
        connected = stage(stages, "connected")
        stage(stages, "begun")
        if options.verbose:
            print("  begun: " + " ".join(f"{name}={pid}" for name, pid in processes.pids.items()), flush=True)
        begun()
        before = steal()
        processes.begin()
        stage(stages, "ended")
        processes.end()
        after = steal()
        ended()
        sockets = kernel_socket_bytes()
        result = stage(stages, "result")
    return result | {
        "connect_s": connected["seconds"],
        "steal": (after[0] - before[0]) / max(1, after[1] - before[1]),
        "kernel_bytes": sockets,
        "idle": idle,
    }


def report(
    name: str, options: argparse.Namespace, result: dict[str, Any], processes: Processes, serving: list[str]
) -> float:
    """Print one run; return the updates by second of the server's own processor time."""
    seconds = options.seconds
    updates, frames, mb = (result[key] / seconds for key in ("updates", "frames", "bytes"))
    if name == "limit":  # its frames never change
        updates = frames * options.symbols_each
    p50, p99, p999 = result["latency_ms"]
    used = sum(processes.cpu_s[node] for node in serving) / seconds
    print(f"{name}: {updates:,.0f} updates/s delivered in {frames:,.0f} frames/s, {mb / 1e6:.0f} MB/s")
    print(
        f"  latency ms from the scheduled time: p50 {p50:.1f}  p99 {p99:.1f}  p99.9 {p999:.1f}"
        f"  max {result['latency_ms_max']}"
    )
    print(
        f"  wrong: repeated or back {result['repeated']}, other bytes {result['different']}, not asked for"
        f" {result['foreign']}, torn {result['torn']}; subscriptions without any {result['quiet']};"
        f" replaced by later ones (k) {result['replaced'] / seconds:,.0f}/s"
    )
    print(
        f"  connections that ended {result['closed']} {result['close_codes'] or ''}; connected in"
        f" {result['connect_s']} s; generator {result['cpu_s'] / seconds:.2f} cores, its rounds p99"
        f" {result['sweep_late_ms_p99']} ms late, {result['together'] / max(1, result['timed']):.1%} of timed frames"
        f" stamped late; steal {result['steal']:.0%}, load {os.getloadavg()[0]:.1f}"
    )
    print("  cores: " + ", ".join(f"{node} {cpu / seconds:.2f}" for node, cpu in processes.cpu_s.items()))
    print("  MB: " + ", ".join(f"{node} {size / 1e6:.0f}" for node, size in processes.memory.items()))
    grown = sum(processes.memory[node] - result["idle"][node] for node in serving)
    clients = options.clients
    print(
        f"  above the idle server {grown / clients / 1e3:.1f} kB a client; kernel, both ends,"
        f" {result['kernel_bytes'] / clients / 1e3:.1f} kB a client"
    )
    if not updates:
        return 0.0
    print(f"  {updates / used:,.0f} updates/s by core of the server")
    return updates / used


def check_values(bus: Bus, saved: str) -> bool:
    """Compare what clients got with what the bus had; print and return whether all agrees."""
    rows = bus.finish()
    found = np.load(saved)
    names = [*tickers(20_000)]
    published = {}
    numbers: dict[str, list[int]] = {}
    for row in rows:
        name = bus.name(int(row["symbol"]))
        published[name, int(row["event_ns"])] = row
        numbers.setdefault(name, []).append(int(row["event_ns"]))
    wrong = unknown = 0
    text = found["text"].tobytes()
    for fresh in found["fresh"]:
        message = json.loads(text[fresh["at"] : fresh["at"] + fresh["size"]] + b"}")
        row = published.get((message["S"], int(fresh["time_ns"])))
        if row is None:
            unknown += 1
            continue
        for key, column in (("bp", "bid_px"), ("ap", "ask_px")):
            wrong += message[key] is not None and round(message[key] * 1e9) != row[column]
        wrong += message["bs"] is not None and message["bs"] != row["bid_size"]
        wrong += message["as"] is not None and message["as"] != row["ask_size"]
    lost = twice = subscriptions = delivered = 0
    times = {name: np.unique(stamps) for name, stamps in numbers.items()}
    for entry in found["entries"].ravel():
        if entry["symbol"] % CHECKED_EVERY or entry["count"] < 2:
            continue
        stamps = times.get(names[entry["symbol"]])
        if stamps is None:
            continue
        first, last = np.searchsorted(stamps, [entry["first_ns"], entry["until_ns"]])
        expected = int(last - first)
        told = int(entry["count"] - 1 + entry["replaced"])
        lost += max(0, expected - told)
        twice += max(0, told - expected)
        delivered += int(entry["count"])
        subscriptions += 1
    print(
        f"  against the bus, one symbol in {CHECKED_EVERY}: {found['fresh'].size - unknown:,} distinct values compared,"
        f" {wrong} wrong, {unknown} outside its log; {delivered:,} deliveries of {subscriptions:,} subscriptions,"
        f" {lost} neither delivered nor told in k, {twice} told twice; the log itself lost {bus.counters['lost']}"
    )
    return not wrong and not lost and not twice


def pids_of(launcher: Running) -> dict[str, int]:
    """All processes of a topology: its nodes, and those that have no node's name (launcher, fork server, Redis)."""
    found = {node["name"]: node["pid"] for node in launcher.status()["nodes"]}
    for pid in descendants(os.getpid()):
        if pid not in found.values():
            found[f"{Path(f'/proc/{pid}/comm').read_text().strip()} {pid}"] = pid
    return found


def descendants(pid: int) -> Iterator[int]:
    """The processes below one, their own before the next."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (thread / "children").read_text().split()):
            yield child
            yield from descendants(child)


def skipped_by(launcher: Running) -> int:
    """Messages that exchanges have given up so far."""
    reports = [node["report"] for node in launcher.status()["nodes"] if node["role"] == "exchange"]
    return sum(int(found.get("skipped", 0)) for found in reports)


def surge_lines(folder: str) -> str:
    """How often gateways have said that a surge began or ended."""
    logs = [path for path in Path(folder).rglob("*.log") if path.stem != COMBINED_LOG]
    text = "".join(path.read_text(errors="replace") for path in logs)
    return f"{text.count('surge: clients are served late')} begun, {text.count('the surge is over')} ended in the logs"


def ours(options: argparse.Namespace) -> float:
    """The fabric."""
    topology = topologies.load(options.topology)
    settings = next(node.settings for node in topology.nodes if isinstance(node.settings, GatewaySettings))
    serving = [node.name for node in topology.nodes if node.role == "gateway"]
    with tempfile.TemporaryDirectory() as folder:
        saved = str(Path(folder) / "seen.npz")
        with running(topology, RunFolder(Path(folder)), timeout_s=400) as launcher:
            processes = Processes(pids_of(launcher) | {"checker": os.getpid()})
            bus = Bus(topology, tickers(options.symbols))
            exchanges = [node.name for node in topology.nodes if node.role == "exchange"]
            put_first(processes.pids[name] for name in exchanges)
            if options.check:
                bus.start()
            skipped: list[int] = []  # up to the window: while everything started, and ten thousand connected
            asker = Asker(settings.port, options.rest, paths(options.symbols)) if options.rest else None

            def begun() -> None:
                skipped.append(skipped_by(launcher))
                if asker:
                    asker.begin()

            def ended() -> None:
                if asker:
                    print(f"  REST at {options.rest:g}/s meanwhile: {asker.finish()}")

            save = saved if options.check else ""
            result = measure(options, settings.port, processes, save=save, begun=begun, ended=ended)
            late = [n["report"] for n in launcher.status()["nodes"] if n["role"] == "exchange"]
            speed = report("ours", options, result, processes, serving)
            whole = not options.check or check_values(bus, saved)
            reports = {n["name"]: n["report"] for n in launcher.status()["nodes"]}
            gaps = {name: found["gaps"] for name, found in reports.items() if found.get("gaps")}
            print(f"  gaps on the bus: {gaps or 'none'}; surges: {surge_lines(folder)}")
            if options.verbose:
                print(json.dumps(reports, indent=1))
        late_ms = max(float(found["late_ms_p99"]) for found in late)
        lost = sum(int(found["skipped"]) for found in late) - skipped[0]
        offered = sum(int(found["rate"]) for found in late)
        print(f"  market: {offered:,} messages/s, p99 {late_ms:.1f} ms late in the last second, gave up {lost}")
        if late_ms > LATE_MAX_MS or lost or not whole:
            print("  VOID: the load was late or short, or a check failed")
    return speed


def paths(symbols: int) -> list[str]:
    """What REST is asked for: one quote, those of thirty symbols, and candles."""
    names = tickers(symbols)
    found = []
    for i in range(0, max(1, symbols - 30), 31):
        found += [f"/quotes/{names[i]}", f"/quotes?symbols={','.join(names[i : i + 30])}", f"/candles/{names[i]}"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", metavar="SERVER", help=f"of {', '.join(SERVERS)} (default: ours limit)")
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--symbols-each", type=int, default=10)
    parser.add_argument("--symbols", type=int, default=5_000)
    parser.add_argument("--spread", choices=("uniform", "zipf"), default="uniform")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--interval-ms", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--pace", type=float, default=400.0)
    parser.add_argument("--settle", type=float, default=14.0, help="from the last subscription to the window, s")
    parser.add_argument("--stalled", type=int, default=0, help="so many of the clients never read")
    parser.add_argument("--sweep-ms", type=float, default=50.0, help="between two reads of a timed client")
    parser.add_argument("--receive-bytes", type=int, default=0, help="SO_RCVBUF of each client; 0: the system's")
    parser.add_argument("--topology", default=str(HERE / "gateway.yaml"))
    parser.add_argument("--no-check", dest="check", action="store_false", help="no comparison with the bus")
    parser.add_argument("--rest", type=float, default=0.0, help="ask ours for so many REST answers a second meanwhile")
    parser.add_argument("--nats-server", help="the program, if it is not on PATH")
    parser.add_argument("--socketify-python", help="a Python that has socketify, if this one has not")
    parser.add_argument("--niceness", type=int, default=0, help="of all processes of the run: below 0 they go first")
    parser.add_argument("--verbose", action="store_true", help="each node's own report")
    options = parser.parse_args()
    if unknown := set(options.servers) - set(SERVERS):
        parser.error(f"unknown server {min(unknown)!r}: there are {', '.join(SERVERS)}")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < options.clients + 256:
        sys.exit(
            f"{options.clients} clients need {options.clients + 256} file descriptors a process, the limit is {hard}"
        )
    print(describe())
    speeds = {}
    for name in options.servers or ["ours", "limit"]:
        if name == "ours":
            speeds[name] = ours(options)
        else:
            fewer = argparse.Namespace(**vars(options))
            fewer.clients = min(options.clients, CLIENTS_AT_MOST.get(name, options.clients))
            with serve.started(name, fewer) as (port, pids, dialect):
                processes = Processes(pids)
                result = measure(fewer, port, processes, dialect)
                speeds[name] = report(name, fewer, result, processes, [n for n in pids if n.startswith("server")])
    if "ours" in speeds:
        for name, speed in speeds.items():
            if name != "ours" and speed:
                print(f"ours / {name}: {speeds['ours'] / speed:.2f} by core of the server")


if __name__ == "__main__":
    main()
