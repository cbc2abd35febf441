"""The guards of `conftest.py`, tried on tests that deserve them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SKIPPED = """
import pytest

def test_that_runs():
    pass

def test_without_data():
    pytest.skip("no data")
"""

LEAVING = """
import subprocess, threading, zmq

kept = []

def test_leaves_a_thread_a_process_and_a_context():
    gate = threading.Event()
    kept.append(gate)
    threading.Thread(target=gate.wait, name="left-thread").start()
    kept.append(subprocess.Popen(["sleep", "60"]))
    kept.append(zmq.Context())

def test_ends_what_the_other_left():
    gate, process, context = kept
    gate.set()
    process.kill()
    process.wait()
    context.term()
"""

TIDY = """
import subprocess, threading, zmq

def test_closes_all(context):
    thread = threading.Thread(target=lambda: None)
    thread.start()
    subprocess.run(["true"], check=True)
    with context.socket(zmq.PUB):
        pass
    zmq.Context().term()
"""


def run_pytest(folder: Path, text: str, **variables: str) -> tuple[int, str]:
    """Exit code and output of pytest, with our conftest, over one test file."""
    test = folder / "test_sample.py"
    test.write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "conftest",
        "-p",
        "no:cacheprovider",
        "-c",
        ROOT / "pyproject.toml",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | variables
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
    ran = subprocess.run([*command, test], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout


def test_a_skipped_test_is_one_test_less(tmp_path: Path) -> None:
    code, said = run_pytest(tmp_path, SKIPPED)
    assert code == pytest.ExitCode.OK
    assert "1 passed, 1 skipped" in said


def test_in_ci_a_skipped_test_fails_the_run_and_is_named(tmp_path: Path) -> None:
    code, said = run_pytest(tmp_path, SKIPPED, CI="true")
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "test_without_data: Skipped: no data" in said
    assert "1 passed, 1 skipped" in said.splitlines()[-1]


def test_what_a_test_leaves_behind_fails_it(tmp_path: Path) -> None:
    code, said = run_pytest(tmp_path, LEAVING)
    assert code == pytest.ExitCode.TESTS_FAILED
    (complaint,) = (line for line in said.splitlines() if line.startswith("E ") and "left behind: " in line)
    assert "thread left-thread" in complaint
    assert "sleep 60" in complaint
    assert "Context" in complaint
    assert "2 passed, 1 error" in said.splitlines()[-1]


def test_what_is_closed_is_not_left_behind(tmp_path: Path) -> None:
    assert run_pytest(tmp_path, TIDY)[0] == pytest.ExitCode.OK
