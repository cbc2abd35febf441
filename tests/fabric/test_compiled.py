import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fabric import compiled, kernels, symbols_kernel
from fabric.compiled import inlined, kernel, waiting_kernel
from support import product_environment

ROOT = Path(__file__).resolve().parents[2]


@inlined
def double(value: int) -> int:
    return 2 * value


@kernel
def double_at(values: npt.NDArray[np.int64], index: int) -> int:
    return double(values[index])


@waiting_kernel
def double_at_without_gil(values: npt.NDArray[np.int64], index: int) -> int:
    return double(values[index])


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small clone in place of ours."""
    for name in [*compiled.SOURCES, "nodes/sum_kernel.py", "pyproject.toml"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr(compiled, "ROOT", tmp_path)
    monkeypatch.delenv("FABRIC_KERNEL_CACHE")
    yield tmp_path
    compiled.module_folder.cache_clear()
    compiled._closure.cache_clear()


@pytest.mark.parametrize("function", [double_at, double_at_without_gil])
def test_kernels_under_test_check_every_index(function: "type[double_at]") -> None:
    values = np.array([3, 4], np.int64)
    assert function(values, 1) == 8
    with pytest.raises(IndexError):
        function(values, 2)


def test_a_kernel_runs_uncompiled_as_its_py_func() -> None:
    assert double_at.py_func([5], 0) == 10  # type: ignore[attr-defined]


def test_the_cache_of_tests_is_not_the_products() -> None:
    assert compiled.CACHED
    assert compiled.CACHE_FOLDER is not None
    assert compiled.CACHE_FOLDER.parent.name == "kernels-checked"


def test_machine_code_is_in_the_folder_of_its_module() -> None:
    folder = compiled.module_folder("fabric.symbols_kernel")
    assert folder is not None
    symbols_kernel.warm_up()
    assert {path.name.split(".")[0] for path in folder.rglob("*_kernel.*.nbi")} == {"symbols_kernel"}


def test_machine_code_serves_a_clone_at_another_path(tmp_path: Path) -> None:
    symbols_kernel.warm_up()
    shutil.copytree(ROOT / "fabric", tmp_path / "fabric", ignore=shutil.ignore_patterns("__pycache__"))
    program = """
from fabric import symbols_kernel
symbols_kernel.warm_up()
stats = symbols_kernel.intern.stats
print(symbols_kernel.__file__, len(stats.cache_hits), len(stats.cache_misses))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "fabric/symbols_kernel.py"), "1", "0"]


def test_an_edit_moves_the_cache_of_a_module_and_of_those_that_build_on_it(tree: Path) -> None:
    names = ["nodes.sum_kernel", "nodes.mean_kernel", "nodes.other_kernel"]
    (tree / "nodes/mean_kernel.py").write_text("from nodes import sum_kernel")
    (tree / "nodes/other_kernel.py").write_text("import numpy")

    def folders() -> list[Path | None]:
        compiled.module_folder.cache_clear()
        compiled._closure.cache_clear()
        return [compiled.module_folder(name) for name in names]

    before = folders()
    assert folders() == before
    (tree / "nodes/sum_kernel.py").write_text("# edited")
    assert [old == new for old, new in zip(before, folders(), strict=True)] == [False, False, True]
    (tree / "fabric/records.py").write_text("# edited")
    assert not set(before) & set(folders())


@pytest.mark.parametrize("module", kernels.modules())
def test_what_a_kernel_builds_on_is_found_as_python_finds_it(module: str) -> None:
    for path in compiled._closure(module):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert node.col_offset == 0, f"{path}:{node.lineno}: a kernel imports at the left margin"
            if isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.endswith("_kernel")]
            elif isinstance(node, ast.ImportFrom):
                for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                    if name is not None and name.endswith("_kernel") and compiled._source(name).exists():
                        assert compiled._source(name) in compiled._closure(module)


def test_without_a_cache_a_module_has_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "CACHE_FOLDER", None)
    assert compiled.module_folder("nodes.absent_kernel") is None  # a name of its own: answers are remembered


@pytest.mark.parametrize("name", ["nodes/sum_kernel.py", "fabric/native.py", "fabric/records.py"])
def test_an_edit_of_any_kernel_source_is_another_cache(tree: Path, name: str) -> None:
    before = compiled.fingerprint()
    assert compiled.fingerprint() == before
    (tree / name).write_text("# edited")
    assert compiled.fingerprint() != before


def test_checked_and_unchecked_kernels_have_different_caches(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compiled.fingerprint()
    monkeypatch.delenv("NUMBA_BOUNDSCHECK")
    assert compiled.fingerprint() != before


def test_a_clone_keeps_its_kernels_in_itself(tree: Path) -> None:
    assert compiled._cache_folder() == tree / ".fabric" / "kernels" / compiled.fingerprint()


def test_an_installed_package_keeps_them_in_the_users_cache(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "pyproject.toml").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tree / "cache"))
    assert compiled._cache_folder() == tree / "cache" / "fabric" / "kernels" / compiled.fingerprint()


def test_a_cache_that_cannot_be_written_is_none(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FABRIC_KERNEL_CACHE", "/proc/kernels")
    assert compiled._cache_folder() is None


def test_without_a_cache_kernels_compile_in_memory() -> None:
    """Fault 43: the process that cannot write its cache works all the same."""
    program = "from fabric import compiled, symbols; print(compiled.CACHED, symbols.SymbolTable(4).intern('A'))"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=product_environment(FABRIC_KERNEL_CACHE="/proc/kernels"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout, ran.stderr, ran.returncode) == ("False 1\n", "", 0)


def test_asking_about_the_cache_does_not_import_numba() -> None:
    program = "import sys; from fabric import kernels; kernels.complete(); print('numba' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
