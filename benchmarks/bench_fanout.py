"""What an update costs a gateway: one gateway process, a publisher of NBBOs, and clients, nothing else of the fabric.

The publisher moves every symbol 10 times a second; the clients are those of `load.py`. Printed is the gateway's
processor time by thread, so that it says where a change pays: without clients it is what receiving costs, and each
client's share comes on top. Short enough to be run after every change.

Run: python benchmarks/bench_fanout.py [--clients 0 1000 2000] [--seconds 5]
"""

import argparse
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import bench_gateway
import numpy as np
import zmq
from machine import describe
from peers import serve

from fabric import node
from fabric import topology as topologies
from fabric.bus import Outbox
from fabric.clock import SECOND_NS, SystemClock
from fabric.records import KIND_NBBO, NBBO, empty, pack
from fabric.symbols import SymbolTable
from fabric.topology import Topology
from nodes.exchanges.market import tickers

TICK_NS = 2_000_000
PERIOD_NS = 100_000_000
TOPOLOGY = """
version: 1
venues: {V: {name: IEX, feed: iex}}
feeds: {iex: {wire: iex-tops-1.6, venues: V, lines: ["udp://127.0.0.1:16490"]}}
processors: {nbbo: {run: "nodes.nbbo:main", reads: [quote, trade, status], publishes: [nbbo]}}
gateways: {web: {port: 18090, reads: [nbbo]}}
cache: {server: "off"}
ports: {base: 16500, span: 20}
"""


def publish(topology: Topology, symbols: int) -> None:
    """Publish as the NBBO node does, until killed: a fiftieth of the symbols each tick, their time the tick's own."""
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    publisher = topology.node("nbbo").publishes
    assert publisher is not None
    clock = SystemClock()
    table = SymbolTable(topology.limits.symbols_max)
    rows = empty(symbols, NBBO, KIND_NBBO)
    rows["symbol"] = [table.intern(name) for name in tickers(symbols)]
    rows["bid_px"], rows["ask_px"], rows["bid_size"], rows["ask_size"] = 185 * 10**9, 185_020_000_000, 300, 100
    rows["bid_venue"] = rows["ask_venue"] = pack("V")
    rows["state"], rows["scope"] = 0, 1 << 21
    parts = PERIOD_NS // TICK_NS
    with zmq.Context[zmq.Socket[bytes]]() as context:
        outbox = Outbox(context, publisher, table, topology.limits, clock, epoch=clock.now_ns(), stamp="proc_ns")
        due_ns = clock.now_ns()
        tick = 0
        while True:
            time.sleep(max(0, due_ns - clock.now_ns()) / SECOND_NS)
            batch = rows[tick % parts :: parts].copy()
            batch["event_ns"] = batch["recv_ns"] = batch["feed_ns"] = due_ns
            batch["bid_px"] += np.arange(batch.size) % 7 * 10**7 + tick % 11 * 10**7
            outbox.send(batch)
            outbox.tick()
            tick += 1
            due_ns += TICK_NS


def threads(pid: int) -> dict[str, int]:
    """Processor time of each thread of a process, by its name, in ns."""
    found: dict[str, int] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):
            used, _, _ = map(int, (task / "schedstat").read_text().split())
            name = (task / "comm").read_text().strip()
            name = "main" if int(task.name) == pid else name
            found[name] = found.get(name, 0) + used
    return found


class Threads(bench_gateway.Processes):
    """The processor time of one process by thread, for `bench_gateway.measure`."""

    def begin(self) -> None:
        (self.pid,) = self.pids.values()
        self.before = threads(self.pid)

    def end(self) -> None:
        after = threads(self.pid)
        self.cpu_s = {name: (used - self.before.get(name, 0)) / 1e9 for name, used in after.items()}
        self.memory = {name: bench_gateway.own_bytes(pid) for name, pid in self.pids.items()}


def measure(options: argparse.Namespace, pid: int, clients: int) -> None:
    """One line for so many clients."""
    counted = Threads({"web": pid})
    options.clients = clients
    result: dict[str, Any] = {"updates": 0, "frames": 0}
    if clients:
        result = bench_gateway.measure(options, 18090, counted)
    else:
        counted.begin()
        time.sleep(options.seconds)
        counted.end()
    seconds = options.seconds
    total = sum(counted.cpu_s.values()) / seconds
    updates, frames = result["updates"] / seconds, result["frames"] / seconds
    parts = ", ".join(f"{name} {used / seconds:.3f}" for name, used in counted.cpu_s.items() if used > 0.001 * seconds)
    print(
        f"{clients:,} clients: {updates:,.0f} updates/s in {frames:,.0f} frames/s; {total:.3f} cores: {parts}",
        flush=True,
    )
    if clients:
        grown = (counted.memory["web"] - result["idle"]["web"]) / clients / 1e3
        print(f"    latency ms p50, p99, p99.9 {result['latency_ms']}; replaced {result['replaced'] / seconds:,.0f}/s;"
              f" {grown:.1f} kB a client; wrong {result['repeated'] + result['different'] + result['torn']};"
              f" generator {result['cpu_s'] / seconds:.2f} cores")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="*", default=[0, 1_000, 2_000])
    parser.add_argument("--symbols", type=int, default=5_000)
    parser.add_argument("--symbols-each", type=int, default=10)
    parser.add_argument("--interval-ms", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--settle", type=float, default=2.0)
    parser.add_argument("--pace", type=float, default=1_000.0)
    parser.add_argument("--pid-file", default="", help="where to write the gateway's process id, for a profiler")
    parser.add_argument("--niceness", type=int, default=0, help="of the gateway and its clients: below 0 they go first")
    parser.add_argument("--verbose", action="store_true", help="say when the window begins, for a profiler")
    parser.set_defaults(spread="uniform", seed=1, stalled=0, sweep_ms=50.0, receive_bytes=0)
    options = parser.parse_args()
    print(describe())
    topology = topologies.load_text(TOPOLOGY, str(bench_gateway.HERE / "gateway.yaml"))
    make = multiprocessing.get_context("spawn")
    gateway = make.Process(target=node.start, args=(topology, "web", 1))
    market = make.Process(target=publish, args=(topology, options.symbols), daemon=True)
    gateway.start()
    market.start()
    assert gateway.pid is not None
    if options.pid_file:
        Path(options.pid_file).write_text(str(gateway.pid))
    try:
        serve.wait_for(18090)
        time.sleep(3)  # first values are in
        for clients in options.clients:
            measure(options, gateway.pid, clients)
    finally:
        os.kill(gateway.pid, signal.SIGTERM)
        gateway.join()
        market.kill()
        market.join()


if __name__ == "__main__":
    main()
