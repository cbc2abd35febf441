"""What every test has: checked kernels, a clock that moves when told to, and a guard that nothing is left behind.

The environment is set before anything of the project is imported: kernels under test check every index, and
such code is cached apart (`fabric/cli/test.py` compiles it beforehand, under the same names).
"""

import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ["NUMBA_BOUNDSCHECK"] = "1"
os.environ["FABRIC_KERNEL_CACHE"] = str(ROOT / ".fabric" / "kernels-checked")

import zmq  # noqa: E402

from fabric.clock import ManualClock  # noqa: E402

SHARED_DATA = ROOT.parent / "shared" / "data"
GRACE_S = 2.0
"""What a thread or process that was told to end may still take."""
HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Python's own processes: one for all tests, ended with the run."""

_contexts: "weakref.WeakSet[zmq.Context[zmq.Socket[bytes]]]" = weakref.WeakSet()
_make_context = zmq.Context.__init__


def _remember_context(self: "zmq.Context[zmq.Socket[bytes]]", *arguments: object, **options: object) -> None:
    _make_context(self, *arguments, **options)  # type: ignore[arg-type]
    _contexts.add(self)


zmq.Context.__init__ = _remember_context  # type: ignore[method-assign]


@pytest.fixture
def clock() -> ManualClock:
    """A clock at 2026-01-02T15:00:00Z (a trading day, ten in New York) that moves when told to."""
    return ManualClock(1_767_366_000_000_000_000)


@pytest.fixture
def context() -> Iterator["zmq.Context[zmq.Socket[bytes]]"]:
    """A ZeroMQ context whose sockets do not linger. Close them: one that is forgotten is a warning, so an error."""
    with zmq.Context() as made:
        made.linger = 0
        yield made


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded market data beside the clone."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no recorded market data: {SHARED_DATA} is missing")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread, a child process or a ZeroMQ context behind that was not there before."""
    before = _open_things()
    yield
    deadline = time.monotonic() + GRACE_S
    while (left := _open_things() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, f"left behind: {', '.join(sorted(name for _, name in left))}"


def _open_things() -> set[tuple[int, str]]:
    """Identity and name of each thread that would outlive the run, each child process and each open context."""
    threads = {(id(t), f"thread {t.name}") for t in threading.enumerate() if not t.daemon}
    contexts = {(id(context), f"{context!r}") for context in _contexts if not context.closed}
    return threads | contexts | _children()


def _children() -> set[tuple[int, str]]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except FileNotFoundError:  # a thread that has ended meanwhile
            continue
        for pid in pids:
            command = _command_line(pid)
            if not any(helper in command for helper in HELPERS):
                found.add((int(pid), f"process {pid} {command}"))
    return found


def _command_line(pid: str) -> str:
    try:
        return Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI everything that tests need is there: a skipped test is one that was not run, and fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")  # one of several processes has none
    skipped = reporter is not None and reporter.stats.get("skipped")
    if os.environ.get("CI") and session.exitstatus == pytest.ExitCode.OK and skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why the run failed though no test did."""
    skipped = terminalreporter.stats.get("skipped", [])
    if os.environ.get("CI") and skipped:
        terminalreporter.section("skipped tests are failures in CI")
        for report in skipped:
            terminalreporter.line(f"{report.nodeid}: {report.longrepr[2]}")
