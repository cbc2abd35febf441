"""What was logged and recorded live, replayed: the hashes say that everything is as it was."""

import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fabric import audit
from fabric.control import RunFolder
from fabric.recording import Recorder
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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder, dict[str, Any]]:
    """The folder of a run that has ended, recorded from its first packet; and what the feed last reported."""
    folder = tmp_path_factory.mktemp("logged")
    topology = default_topology(folder, only="nasdaq", rate="10000", symbols_max="6000")
    with closing(Recorder(RunFolder(folder / "run"), folder / "recorded", (), 1 << 30)) as recorder:
        with product(topology, folder / "run") as launcher:
            deadline = time.monotonic() + 120
            while True:
                recorder.turn(0.05)
                reports = {node["name"]: node["report"] for node in launcher.status()["nodes"]}
                if reports["nasdaq"].get("published", 0) > MESSAGES:
                    break
                assert time.monotonic() < deadline, reports
            books = audit.living(topology, launcher.status())
        while recorder._by_socket:  # what the feed had passed on before its end
            recorder.turn(1)
    for hop in books:
        assert hop.balanced, hop
    assert {hop.reader for hop in books} == {"web", "history", "redis-writer"}
    assert {hop.publisher for hop in books if hop.reader == "web"} >= {"nasdaq", "nbbo-1", "candles-1"}
    assert sum(hop.delivered for hop in books) > MESSAGES
    return folder, recorder, reports["nasdaq"]


def test_processors_say_again_what_they_said(run: tuple[Path, Recorder, dict[str, Any]]) -> None:
    folder, _, _ = run
    summary = fabric(folder, "replay", ".fabric/journal", "--bare")
    assert summary["records"] > MESSAGES
    assert set(summary["hash"]) >= {"nbbo", "why"}
    assert summary["hash"] == summary["live"] == fabric(folder, "journal", "hash")


def test_a_feed_says_of_its_recording_what_it_said(run: tuple[Path, Recorder, dict[str, Any]]) -> None:
    folder, recorder, report = run
    recorded = recorder.recorded["nasdaq"]
    assert recorded.lost == 0
    summary = fabric(folder, "replay", str(recorded.path), "--bare")
    assert summary["packets"] == recorded.packets
    assert (summary["gaps"], summary["malformed"]) == (0, 0)
    if report["breaker_openings"] == 0:  # on a machine that stops the feed for seconds it tells quotes again
        live = fabric(folder, "journal", "hash", "nasdaq")
        assert {channel: summary["hash"][channel] for channel in live} == live
    again = fabric(folder, "replay", str(recorded.path), "--bare")
    assert again["hash"] == summary["hash"], "from run to run"
