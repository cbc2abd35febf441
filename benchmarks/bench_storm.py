"""A reconnect storm: thousands of clients come at once, beside those who are being served already.

Runs `gateway.yaml`. Some clients are served; in a first window nothing else happens, in a second one the others connect
as fast as they are let in. Printed is how long that took, and how late the first ones were served in both windows.

Run: python benchmarks/bench_storm.py [--steady 2000] [--storm 8000] [--seconds 20]
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench_gateway import HERE, Processes, generator, pids_of, put_ahead, put_first, skipped_by, stage, surge_lines
from machine import describe

from fabric import topology as topologies
from fabric.control import RunFolder
from fabric.launcher import running
from fabric.topology import GatewaySettings


def window(options: argparse.Namespace, port: int, processes: Processes, storm: int) -> dict[str, Any]:
    """The first clients' result of one window, and what came of those who connected in it."""
    came: dict[str, Any] = {}
    with ExitStack() as stack:
        stages = stack.enter_context(generator(options, port, "stream"))
        stage(stages, "ready")
        stage(stages, "connected")
        if storm:
            others = argparse.Namespace(**vars(options))
            others.clients, others.seed, others.pace = storm, options.seed + 1, 1e6
            others.begin_at = time.time() + options.settle  # when the window begins; until then they load
            others.settle = options.seconds  # they stay to its end
            crowd = stack.enter_context(generator(others, port, "stream"))
        stage(stages, "begun")
        processes.begin()
        if storm:
            stage(crowd, "ready")
            came = stage(crowd, "connected")
        stage(stages, "ended")
        processes.end()
        return stage(stages, "result") | {"came": came}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steady", type=int, default=2_000, help="clients that are there before")
    parser.add_argument("--storm", type=int, default=8_000, help="clients that come at once")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each window: the storm should last as long")
    parser.add_argument("--symbols-each", type=int, default=10)
    parser.add_argument("--symbols", type=int, default=5_000)
    parser.add_argument("--interval-ms", type=int, default=100)
    parser.add_argument("--settle", type=float, default=20.0, help="before a window, s: a crowd must have loaded")
    parser.add_argument("--topology", default=str(HERE / "gateway.yaml"))
    parser.add_argument("--niceness", type=int, default=0, help="of all processes of the run: below 0 they go first")
    parser.set_defaults(spread="uniform", seed=1, pace=400.0, stalled=0, sweep_ms=50.0, receive_bytes=0)
    options = parser.parse_args()
    options.clients = options.steady
    print(describe())
    topology = topologies.load(options.topology)
    settings = next(node.settings for node in topology.nodes if isinstance(node.settings, GatewaySettings))
    with tempfile.TemporaryDirectory() as folder, running(topology, RunFolder(Path(folder)), timeout_s=400) as launcher:
        processes = Processes(pids_of(launcher))
        put_first(processes.pids[node.name] for node in topology.nodes if node.role == "exchange")
        if options.niceness:
            put_ahead(processes.pids.values(), options.niceness)
        for storm in (0, options.storm):
            skipped = skipped_by(launcher)
            found = window(options, settings.port, processes, storm)
            p50, p99, p999 = found["latency_ms"]
            cores = ", ".join(f"{name} {cpu / options.seconds:.2f}" for name, cpu in processes.cpu_s.items())
            print(f"{options.steady} clients, {storm} more came: p50 {p50:.1f}  p99 {p99:.1f}  p99.9 {p999:.1f} ms;"
                  f" {found['updates'] / options.seconds:,.0f} updates/s, replaced"
                  f" {found['replaced'] / options.seconds:,.0f}/s, ended {found['closed']}", flush=True)  # fmt: skip
            if storm:
                seconds = found["came"]["seconds"]
                print(f"  all {storm} were subscribed after {seconds:.1f} s, {storm / seconds:,.0f} a second")
            time.sleep(1.5)  # a status is a second old
            lost = skipped_by(launcher) - skipped
            print(f"  cores: {cores}; the market gave up {lost}; surges: {surge_lines(folder)}", flush=True)


if __name__ == "__main__":
    main()
