from pathlib import Path

import pytest

from fabric.cli import bench, main

GOOD = '''"""Doubles a second, beside halves. More of it."""
import sys
print("ratio", sys.argv[1:], flush=True)
'''


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "bench_double.py").write_text(GOOD)
    (folder / "bench_broken.py").write_text('"""Fails."""\nraise SystemExit(3)')
    (folder / "load.py").write_text("what benchmarks share")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "compile_kernels", lambda label: None)
    return tmp_path


def test_the_list_says_what_each_measures(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["bench", "--list"]) == 0
    assert capsys.readouterr().out == "broken  Fails\ndouble  Doubles a second, beside halves\n"


def test_one_is_run_with_its_arguments(clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["bench", "double", "--seconds", "2"]) == 0
    assert "ratio ['--seconds', '2']" in capfd.readouterr().out


def test_all_are_run_and_a_failure_gives_the_code(clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["bench"]) == 3
    said = capfd.readouterr()
    assert "ratio []" in said.out
    assert "failed: broken" in said.err


def test_an_unknown_one_is_named_with_those_there_are(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["bench", "triple"]) == 2
    assert "no benchmark 'triple': there are broken, double" in capsys.readouterr().err


def test_an_installed_package_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    assert main.run(["bench"]) == 69
    assert "needs a clone" in capsys.readouterr().err
