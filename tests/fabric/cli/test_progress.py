import os
import subprocess
import sys
from pathlib import Path

import pytest

from fabric import compiled
from fabric.cli import progress
from fabric.errors import FabricError


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What runs in place of `python -m fabric.kernels`: the last item is Python code."""
    command = [sys.executable, "-c", ""]
    start = subprocess.Popen
    monkeypatch.setattr(progress.subprocess, "Popen", lambda _, **options: start(command, **options))
    return command


def test_each_kernel_is_a_line_where_there_is_no_terminal(
    program: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    program[-1] = "print('0 2 nodes.a_kernel'); print('1 2 nodes.b_kernel'); print('2 2 ')"
    progress.compile_kernels("compiling")
    said = capsys.readouterr()
    assert said.err == "compiling: 1/2 nodes.a_kernel\ncompiling: 2/2 nodes.b_kernel\n"
    assert said.out == ""


def test_a_terminal_gets_a_bar(
    program: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    program[-1] = "print('0 2 nodes.a_kernel'); print('1 2 nodes.b_kernel'); print('2 2 ')"
    progress.compile_kernels("compiling")
    said = capsys.readouterr().err
    assert "1/2" in said
    assert "nodes.b_kernel" in said
    assert said.endswith("\x1b[2K"), "the bar is wiped at the end"


def test_a_full_cache_is_silent(program: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    progress.compile_kernels()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("raise TypeError('no field x')", "TypeError: no field x"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
    ],
)
def test_a_kernel_that_does_not_compile_is_named(program: list[str], ending: str, reason: str) -> None:
    program[-1] = f"print('0 1 nodes.a_kernel', flush=True); {ending}"
    with pytest.raises(FabricError, match=f"^nodes.a_kernel did not compile: {reason}$"):
        progress.compile_kernels()


def test_a_cache_that_cannot_be_written_is_said_once(
    program: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 43."""
    monkeypatch.setattr(compiled, "CACHED", False)
    progress.compile_kernels()
    assert capsys.readouterr().err == f"{progress.NO_CACHE}\n"


def test_the_program_itself_says_nothing_about_a_full_cache(tmp_path: Path) -> None:
    cache = tmp_path / compiled.fingerprint()
    cache.mkdir()
    (cache / "complete").touch()
    progress.compile_kernels(variables=os.environ | {"FABRIC_KERNEL_CACHE": str(tmp_path)})
    assert [path.name for path in cache.iterdir()] == ["complete"]
