import ast
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fabric import compiled, kernels

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "calls = []\ndef warm_up():\n    calls.append(1)\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
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
    monkeypatch.setattr(compiled, "SOURCES", ())
    monkeypatch.setattr(compiled, "CACHE_FOLDER", cache)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    compiled.module_folder.cache_clear()
    compiled._closure.cache_clear()


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


def test_each_module_keeps_its_own_newest_caches(tree: Path) -> None:
    cache = compiled.CACHE_FOLDER
    assert cache is not None
    mine = [aged(cache, f"a.one_kernel-{age}", age * 3600) for age in range(2, 7)]
    other = aged(cache, "a.two_kernel-9", 9 * 3600)
    kernels.prune()
    assert [folder.exists() for folder in [*mine, other]] == [True, True, True, False, False, True]


class FakeWorker:
    """Compiles nothing, and remembers what it was asked for."""

    compiled: list[str]
    problem = ""

    def compile(self, name: str) -> None:
        self.compiled.append(name)
        if self.problem:
            raise RuntimeError(f"{name}: {self.problem}")

    def close(self) -> None: ...


def test_modules_are_compiled_side_by_side_and_then_the_cache_is_complete(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeWorker, "compiled", [], raising=False)
    monkeypatch.setattr(kernels, "Worker", FakeWorker)
    kernels._compile_side_by_side()
    assert sorted(FakeWorker.compiled) == kernels.modules()
    *steps, end = capsys.readouterr().out.splitlines()
    assert [step.rpartition(" ")[0] for step in steps] == ["0 2", "1 2"]
    assert sorted(step.rpartition(" ")[2] for step in steps) == kernels.modules()
    assert end == "2 2 "
    assert kernels.complete()


def test_a_module_that_does_not_compile_is_the_last_one_named(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeWorker, "compiled", [], raising=False)
    monkeypatch.setattr(FakeWorker, "problem", "no field x")
    monkeypatch.setattr(kernels, "Worker", FakeWorker)
    with pytest.raises(RuntimeError, match="no field x") as failed:
        kernels._compile_side_by_side()
    (said,) = capsys.readouterr().out.splitlines()
    assert str(failed.value) == f"{said.split()[2]}: no field x"
    assert not kernels.complete()


def test_a_worker_compiles_one_module_after_another_and_what_it_says_when_one_fails_comes_through() -> None:
    with closing(kernels.Worker()) as worker:
        worker.compile("nodes.conditions_kernel")
        worker.compile("nodes.feeds.wire_kernel")
        with pytest.raises(RuntimeError, match=r"(?s)^fabric\.missing_kernel: .*ModuleNotFoundError"):
            worker.compile("fabric.missing_kernel")


def test_a_cache_that_someone_may_be_filling_is_kept(tree: Path) -> None:
    cache = compiled.CACHE_FOLDER
    assert cache is not None
    young = [aged(cache, name, 60) for name in "abcdef"]
    kernels.prune()
    assert all(folder.exists() for folder in young)


def imported_by_others() -> set[str]:
    """The kernel modules that a module which is none itself imports."""
    paths = [path for folder in compiled.FOLDERS for path in (ROOT / folder).rglob("*.py")]
    nodes = [
        node for path in paths if not path.stem.endswith("_kernel") for node in ast.walk(ast.parse(path.read_text()))
    ]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & set(kernels.modules())


IMPORTED = imported_by_others()


@pytest.mark.parametrize("name", kernels.modules())
def test_every_module_with_a_kernel_can_be_warmed_up(name: str) -> None:
    """Who imports a kernel calls it; what nobody warmed up would compile in the middle of the market. A module without
    a function is a layout that kernels share.
    """
    body = ast.parse(ROOT.joinpath(*name.split(".")).with_suffix(".py").read_text()).body
    functions = [statement for statement in body if isinstance(statement, ast.FunctionDef)]
    decorators = {ast.unparse(decorator) for function in functions for decorator in function.decorator_list}
    entries = decorators & {"kernel", "waiting_kernel", "lean_kernel"}
    if entries or (functions and name in IMPORTED):
        assert "warm_up" in {function.name for function in functions}


def test_kernels_are_imported_by_others() -> None:
    assert {"fabric.symbols_kernel", "nodes.nbbo_kernel"} <= IMPORTED
