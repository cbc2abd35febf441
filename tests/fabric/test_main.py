"""`fabric/__main__.py`: what any `python3` does with a bare clone."""

import os
import sys
from pathlib import Path

import pytest

from fabric import __main__ as start
from fabric import bootstrap


class ReplacedError(Exception):
    """This process has become another."""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as PATH; becoming another program raises ReplacedError with its command line."""

    def execvp(file: str, arguments: list[str]) -> None:
        raise ReplacedError(file, *arguments)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "execvp", execvp)
    monkeypatch.setattr(sys, "argv", ["fabric", "up", "--for", "1s"])
    return tmp_path


def command(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("version", [(3, 6), (3, 10), (3, 14)])
def test_another_python_hands_over_to_a_supported_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]
) -> None:
    command(path, "python3.11", "exit 127")  # a shim that refuses
    command(path, "python3.12", "exit 0")
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(ReplacedError) as raised:
        start.main()
    assert raised.value.args == ("python3.12", "python3.12", "-m", "fabric", "up", "--for", "1s")


def test_an_old_python_alone_says_what_is_needed(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad input 62."""
    monkeypatch.setattr(sys, "version_info", (3, 10))
    with pytest.raises(SystemExit) as raised:
        start.main()
    assert raised.value.code == 69
    complaint = capsys.readouterr().err
    assert complaint.startswith("fabric: error: needs Python 3.11, 3.12 or 3.13 and this is 3.10: install")
    assert complaint.count("\n") == 1


def test_another_system_is_told_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as raised:
        start.main()
    assert raised.value.code == 69
    assert "runs on Linux and this is win32" in capsys.readouterr().err


@pytest.mark.parametrize("version", start.SUPPORTED)
def test_a_supported_python_goes_on_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]
) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(bootstrap, "main", given.append)
    start.main()
    assert given == [["up", "--for", "1s"]]
