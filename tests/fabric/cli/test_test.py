import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fabric.cli import main, test
from fabric.errors import FabricError

RUFF_FORMAT, RUFF_CHECK, MYPY, PYTEST, PYTEST_SYSTEM = test.CHECKS.values()


class Tools:
    """Stands in for the tools: what was run, and the exit codes that they will have."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, ...]] = []
        self.codes: dict[tuple[str, ...], int] = {}

    def run(self, command: list[str], **options: object) -> SimpleNamespace:
        assert command[:2] == [sys.executable, "-m"]
        self.ran.append(tuple(command[2:]))
        return SimpleNamespace(returncode=self.codes.get(tuple(command[2:]), 0))


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Tools:
    made = Tools()
    monkeypatch.setattr(subprocess, "run", made.run)
    monkeypatch.setattr(test, "compile_kernels", lambda label, variables=None: None)
    return made


def test_all_checks_run_and_the_tests_come_last(tools: Tools) -> None:
    assert main.run(["test"]) == 0
    assert tools.ran == [RUFF_FORMAT, RUFF_CHECK, MYPY, PYTEST, PYTEST_SYSTEM]


def test_the_first_failure_gives_the_code_and_the_others_still_run(
    tools: Tools, capfd: pytest.CaptureFixture[str]
) -> None:
    tools.codes = {MYPY: 2, PYTEST: 1}
    assert main.run(["test"]) == 2
    assert tools.ran[-1] == PYTEST_SYSTEM
    assert "failed: types, tests" in capfd.readouterr().err


def test_a_kernel_that_does_not_compile_fails_the_run_but_does_not_end_it(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(label: str, variables: object = None) -> None:
        raise FabricError("nodes.a_kernel did not compile: TypeError")

    monkeypatch.setattr(test, "compile_kernels", refuse)
    assert main.run(["test"]) == 1
    assert tools.ran[-1] == PYTEST_SYSTEM
    assert "fabric: error: nodes.a_kernel did not compile: TypeError" in capsys.readouterr().err


def test_arguments_are_pytests(tools: Tools) -> None:
    assert main.run(["test", "-k", "clock", "--lf", "tests/fabric"]) == 0
    assert tools.ran == [("pytest", "-k", "clock", "--lf", "tests/fabric")]


def test_a_missing_tool_is_told(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main.run(["test"]) == 69
    assert "mypy, pytest, ruff, xdist not installed: run `python3 -m fabric test`" in capsys.readouterr().err


def test_an_installed_package_has_no_tests(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(test, "ROOT", tmp_path)
    assert main.run(["test"]) == 69
    assert "needs a clone" in capsys.readouterr().err


def test_tests_find_their_kernels_where_they_were_compiled() -> None:
    """`conftest.py` names the same folder, or every run would compile without a word."""
    assert {name: os.environ[name] for name in test.TEST_KERNELS} == test.TEST_KERNELS
