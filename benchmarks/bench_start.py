"""How long a second start takes: from ``python3 -m fabric up`` to the first live quote in a client that retries.

The client asks `/quotes/AAPL` every 50 ms from the moment the command is given. Beside it, in the same run, what the
start cannot avoid: a bare Python that imports numba, and the same with Tornado and ZeroMQ. Needs a clone whose first
start has been done, and the default ports free.

Run: python benchmarks/bench_start.py [--rounds 3]
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from machine import describe

from fabric.bootstrap import keep_bytecode

ROOT = Path(__file__).resolve().parents[1]
QUOTE = "http://127.0.0.1:8080/quotes/AAPL"
RETRY_S = 0.05
PATIENCE_S = 60.0


def first_quote(started: float) -> float:
    """Seconds from ``started`` to the first live quote."""
    while time.perf_counter() - started < PATIENCE_S:
        try:
            with urllib.request.urlopen(QUOTE, timeout=1) as answer:
                if json.load(answer)["state"] == "live":
                    return time.perf_counter() - started
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(RETRY_S)
    raise TimeoutError(f"no live quote within {PATIENCE_S:.0f} s")


def start_once() -> float:
    """Start, wait for the quote, stop."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "fabric", "up"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            return first_quote(started)
        finally:
            process.terminate()
            process.wait(30)


def importing(names: str) -> float:
    """Seconds that a bare Python takes to import ``names`` and end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {names}"], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print each round and the floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(describe())
    keep_bytecode()  # the imports beside it have theirs from a cache too, ...
    importing("numba, tornado.web, zmq, redis")  # ... from now on
    floor = [importing("numba"), importing("numba, tornado.web, zmq, redis")]
    print(f"bare Python that imports numba: {floor[0]:.2f} s; and tornado, zmq, redis: {floor[1]:.2f} s")
    for number in range(1, rounds + 1):
        seconds = start_once()
        print(f"start {number}: first quote after {seconds:.2f} s ({seconds / floor[1]:.1f} x the imports)")


if __name__ == "__main__":
    main()
