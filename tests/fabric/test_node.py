"""What every node does to itself when it starts."""

import subprocess
import sys

from fabric.node import GIVES_WAY

NICENESS = """
import os
from fabric.node import give_way
os.setsid()  # as a node: its own session is what the kernel shares processors among
for niceness in (0, 5, 3):
    give_way(niceness)
    print(os.getpriority(os.PRIO_PROCESS, 0))
try:
    print(open("/proc/self/autogroup").read().split()[-1])
except OSError:
    print("no autogroup")
"""


def test_a_simulation_gives_way_and_never_takes_it_back() -> None:
    """All that a real market needs keeps its share: those nodes are as nice as their launcher."""
    done = subprocess.run([sys.executable, "-c", NICENESS], capture_output=True, text=True, check=True)
    start, lowered, kept, group = done.stdout.splitlines()
    assert int(lowered) == int(kept) == max(5, int(start))
    assert group in ("5", "no autogroup")
    assert set(GIVES_WAY) == {"exchange"}
