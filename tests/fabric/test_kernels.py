import ast
import os
import time
from pathlib import Path

import pytest

from fabric import compiled, kernels

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "calls = []\ndef warm_up():\n    calls.append(1)\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two kernels and a module that is none, in a package of this test's own, with an empty cache."""
    package = tmp_path / "sample_package"
    for name, text in (("one_kernel", KERNEL), ("deep/two_kernel", KERNEL), ("plain", "raise AssertionError")):
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    cache = tmp_path / "cache" / "current"
    cache.mkdir(parents=True)
    monkeypatch.setattr(compiled, "ROOT", tmp_path)
    monkeypatch.setattr(compiled, "FOLDERS", ("sample_package",))
    monkeypatch.setattr(compiled, "CACHE_FOLDER", cache)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def aged(cache: Path, name: str, age_s: float) -> Path:
    folder = cache.parent / name
    folder.mkdir()
    (folder / "kernel.nbi").touch()
    os.utime(folder, (time.time() - age_s,) * 2)
    return folder


def test_kernel_modules_are_found_at_any_depth(tree: Path) -> None:
    assert kernels.modules() == ["sample_package.deep.two_kernel", "sample_package.one_kernel"]


def test_each_is_called_once_with_its_progress_and_then_the_cache_is_complete(tree: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    assert not kernels.complete()
    kernels.compile_all(lambda *step: steps.append(step))
    assert steps == [(0, 2, "sample_package.deep.two_kernel"), (1, 2, "sample_package.one_kernel"), (2, 2, "")]
    assert kernels.complete()
    kernels.compile_all()
    from sample_package import one_kernel  # type: ignore[import-not-found]

    assert one_kernel.calls == [1, 1]


def test_a_module_of_helpers_needs_no_call(tree: Path) -> None:
    (tree / "sample_package" / "zero_kernel.py").write_text("")
    kernels.compile_all()
    assert kernels.complete()


def test_a_kernel_that_fails_leaves_the_cache_incomplete(tree: Path) -> None:
    (tree / "sample_package" / "three_kernel.py").write_text("def warm_up():\n    raise IndexError('row 9')\n")
    with pytest.raises(IndexError, match="row 9"):
        kernels.compile_all()
    assert not kernels.complete()


def test_without_a_cache_all_is_compiled_and_nothing_is_complete(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "CACHE_FOLDER", None)
    kernels.compile_all()
    assert not kernels.complete()


def test_old_caches_are_forgotten_but_not_those_in_use(tree: Path) -> None:
    cache = compiled.CACHE_FOLDER
    assert cache is not None
    hour_s = 3600
    newer, old, oldest = (aged(cache, name, age * hour_s) for name, age in (("a", 2), ("b", 3), ("c", 4)))
    os.utime(cache, (time.time() - 9 * hour_s,) * 2)  # the one in use is the oldest of all
    kernels.prune()
    assert [folder.exists() for folder in (cache, newer, old, oldest)] == [True, True, True, True]
    aged(cache, "d", 1.5 * hour_s)
    kernels.prune()
    assert [folder.exists() for folder in (cache, newer, old, oldest)] == [True, True, True, False]


def test_a_cache_that_someone_may_be_filling_is_kept(tree: Path) -> None:
    cache = compiled.CACHE_FOLDER
    assert cache is not None
    young = [aged(cache, name, 60) for name in "abcdef"]
    kernels.prune()
    assert all(folder.exists() for folder in young)


@pytest.mark.parametrize("name", kernels.modules())
def test_every_module_with_a_kernel_can_be_warmed_up(name: str) -> None:
    body = ast.parse(ROOT.joinpath(*name.split(".")).with_suffix(".py").read_text()).body
    functions = [statement for statement in body if isinstance(statement, ast.FunctionDef)]
    decorators = {ast.unparse(decorator) for function in functions for decorator in function.decorator_list}
    entries = decorators & {"kernel", "waiting_kernel", "lean_kernel"}
    assert entries == set() or "warm_up" in {function.name for function in functions}
