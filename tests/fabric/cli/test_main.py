import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import fabric
from fabric.cli import main
from fabric.errors import TopologyError, UnavailableError

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(
    path.stem
    for path in (ROOT / "fabric" / "cli").glob("*.py")
    if re.search(r"^(def command\(|command\b.*=)", path.read_text(), re.MULTILINE)
)
"""Files that hold a command; the others are what commands share."""


def having(monkeypatch: pytest.MonkeyPatch, do: object) -> None:
    """Let `fabric test` do this instead: return it if it is a number, raise it if it is an exception."""

    @click.command()
    def instead() -> object:
        if isinstance(do, BaseException):
            raise do
        return do

    monkeypatch.setattr(importlib.import_module("fabric.cli.test"), "command", instead)


def test_help_lists_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in main.COMMANDS if f"\n  {name} " in shown] == [
        name for name in main.COMMANDS if name in FILES
    ]


@pytest.mark.parametrize("name", FILES)
def test_every_command_is_listed_with_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert name in main.COMMANDS
    assert main.run([name, "--help"]) == 0
    assert f"Usage: fabric {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"fabric, version {fabric.__version__}\n"


def test_help_waits_for_nothing_heavy() -> None:
    program = """
import sys
from fabric.cli import main
assert main.run(["--help"]) == 0
print([name for name in ("numba", "numpy", "zmq", "tornado", "pydantic", "rich") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["test", "--for"]])
def test_wrong_usage_is_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad input 60."""
    having(monkeypatch, 0)
    assert main.run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert arguments[-1] in said.err
    (line,) = said.err.splitlines()
    assert line.startswith("fabric: error: ")
    assert line.endswith(" --help)")


def test_a_mistyped_command_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["statsu"]) == 2
    assert capsys.readouterr().err == "fabric: error: no command 'statsu'; did you mean 'status'? (fabric --help)\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(closed: str) -> None:
    """A scheduler may start us so. What we open next must not become our standard output."""
    command = f"exec {sys.executable} -m fabric.cli.main check --json {closed}"
    ran = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert bool(ran.stdout) == (">&-" not in closed.split())


def test_a_wrong_variable_is_2_and_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad input 61."""
    having(monkeypatch, 0)
    monkeypatch.setenv("FABRIC_PORT", "abc")
    monkeypatch.setenv("REDIS_URL", "foo")
    assert main.run(["test"]) == 2
    port, redis = capsys.readouterr().err.splitlines()
    assert port.startswith("fabric: error: FABRIC_PORT: 'abc'")
    assert redis.startswith("fabric: error: REDIS_URL: 'foo'")


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_command_may_return_its_exit_code(returned: int | None, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, returned)
    assert main.run(["test"]) == code


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UnavailableError("port 8080: in use"), 69, "fabric: error: port 8080: in use\n"),
        (TopologyError(["t.yaml:1:1: a: b", "t.yaml:2:1: c: d"]), 2, "t.yaml:1:1: a: b\nt.yaml:2:1: c: d\n"),
        (click.BadParameter("no such node"), 2, "fabric: error: invalid value: no such node (fabric test --help)\n"),
        (KeyboardInterrupt(), 130, "\n"),
        (
            ZeroDivisionError("a\nb"),
            1,
            "fabric: error: unexpected ZeroDivisionError: a b (FABRIC_DEBUG=1 shows where)\n",
        ),
    ],
)
def test_every_failure_is_a_line_and_a_code(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    having(monkeypatch, error)
    assert main.run(["test"]) == code
    assert capsys.readouterr().err.endswith(said)


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, ZeroDivisionError())
    monkeypatch.setenv("FABRIC_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main.run(["test"])


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_leaves_gets_no_complaint(lines: int) -> None:
    """Whether it leaves before the last words are flushed, or in the middle of many."""
    program = f"""
import click, sys
from fabric.cli import main, test

@click.command()
def command():
    sys.stdin.read()
    for line in range({lines}):
        sys.stdout.write("line\\n")

test.command = command
sys.argv = ["fabric", "test"]
main.main()
"""
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(writer)
        os.close(reader)
        _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (1, "")
