"""What was logged and recorded live, replayed: the hashes say that everything is as it was."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fabric import audit
from support import product_environment
from topologies import ROOT, default_topology, product

pytestmark = pytest.mark.timeout(600)
MESSAGES = 20_000


def fabric(folder: Path, *arguments: str) -> Any:
    """What a command prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "fabric", *arguments, "--json"],
        cwd=folder, env={**product_environment(), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def recording(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """`fabric record` at work; what it says at its end, a file each."""
    told: list[dict[str, Any]] = []
    with subprocess.Popen(
        [sys.executable, "-m", "fabric", "record", "--to", "recorded", "--json"],
        cwd=folder, env={**product_environment(), "PYTHONPATH": str(ROOT), "FABRIC_RUN_DIR": str(folder / "run")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            assert "recording to" in process.stderr.readline()
            yield told
        finally:
            process.terminate()
            told += json.loads(process.communicate()[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], int]:
    """The folder of a run that has ended, what was recorded of it from its first packet, and how many quotes the feed
    told again.
    """
    folder = tmp_path_factory.mktemp("logged")
    topology = default_topology(folder, only="nasdaq", rate="10000", symbols_max="6000")
    with recording(folder) as recorded, product(topology, folder / "run") as launcher:
        deadline = time.monotonic() + 120
        while True:
            status = launcher.status()
            reports = {node["name"]: node["report"] for node in status["nodes"]}
            books = audit.living(topology, status)
            if reports["nasdaq"].get("published", 0) > MESSAGES and sum(hop.delivered for hop in books) > MESSAGES:
                break
            assert time.monotonic() < deadline, reports
            time.sleep(0.1)
    for hop in books:
        assert hop.balanced, hop
    assert {hop.reader for hop in books} == {"web", "history", "redis-writer"}
    assert {hop.publisher for hop in books if hop.reader == "web"} >= {"nasdaq", "nbbo-1", "candles-1"}
    return folder, recorded[0], reports["nasdaq"]["retold"]


def test_processors_say_again_what_they_said(run: tuple[Path, dict[str, Any], int]) -> None:
    folder, _, _ = run
    summary = fabric(folder, "replay", ".fabric/journal", "--bare")
    assert summary["records"] > MESSAGES
    assert set(summary["hash"]) >= {"nbbo", "why"}
    assert summary["hash"] == summary["live"] == fabric(folder, "journal", "hash")


def test_a_recording_of_a_feed_is_whole_and_says_what_the_feed_said(run: tuple[Path, dict[str, Any], int]) -> None:
    folder, recorded, retold = run
    assert (recorded["feed"], recorded["dropped"], recorded["kernel_drops"]) == ("nasdaq", 0, 0)
    first, again = (fabric(folder, "replay", recorded["file"], "--bare") for _ in range(2))
    assert first["packets"] == recorded["packets"]
    assert (first["gaps"], first["malformed"]) == (0, 0)
    assert first["quotes"] + first["trades"] > MESSAGES / 2
    assert first["hash"] == again["hash"]
    live = fabric(folder, "journal", "hash", "nasdaq")
    assert set(live) == {"quote", "trade", "status"}
    for channel in ("quote", "trade") if retold == 0 else ():  # a feed that slept for seconds tells its quotes again
        assert first["hash"][channel] == live[channel], channel
