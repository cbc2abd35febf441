"""`fabric/bootstrap.py` in small real clones: their lock names one wheel that this test has made."""

import base64
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fabric import bootstrap
from fabric.bootstrap import DEVELOPMENT_LOCK, RUNTIME_LOCK, Environment, SetupError

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import sys

def main():
    import sample_wheel
    print(sys.prefix, sample_wheel.VERSION, sys.argv[1:])
"""


def make_wheel(folder: Path, version: str) -> str:
    """Write a wheel of one module; return its line in a lock.

    The versions differ in length: Python takes bytecode for current that has the size and the second of its source.
    """
    module = f"VERSION = {version!r}\n{'#' * int(version)}\n".encode()
    info = f"sample_wheel-{version}.dist-info"
    files = {
        "sample_wheel.py": module,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: sample-wheel\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    records = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in files.items()
    )
    wheel = folder / f"sample_wheel-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", f"{records}{info}/RECORD,,\n")
    return f"sample-wheel=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse with two versions of one package; their lock lines stand in `1.lock` and `2.lock`."""
    folder = tmp_path_factory.mktemp("wheels")
    for version in ("1", "2"):
        (folder / f"{version}.lock").write_text(make_wheel(folder, version))
    return folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Path:
    """A clone at a path with a space, prepared by two starts at the same time."""
    root = tmp_path_factory.mktemp("a clone")
    (root / "fabric" / "cli").mkdir(parents=True)
    for name in ("__init__.py", "__main__.py", "bootstrap.py"):
        shutil.copy(ROOT / "fabric" / name, root / "fabric" / name)
    (root / "fabric" / "cli" / "__init__.py").touch()
    (root / "fabric" / "cli" / "main.py").write_text(COMMAND)
    (root / "pyproject.toml").touch()
    for lock in (RUNTIME_LOCK, DEVELOPMENT_LOCK):
        shutil.copy(wheels / "1.lock", root / lock)
    starts = [launch(root, wheels, "up", number) for number in ("1", "2")]
    told = [start.communicate(timeout=50) for start in starts]
    assert [start.returncode for start in starts] == [0, 0], told
    assert sorted(out for out, _ in told) == [f"{root}/.venv 1 ['up', '{number}']\n" for number in ("1", "2")]
    assert sum("fabric: ready in" in err for _, err in told) == 1
    return root


def launch(root: Path, wheelhouse: Path | None, *arguments: str) -> "subprocess.Popen[str]":
    """`python -m fabric` in a clone, with no index but a closed port."""
    variables = os.environ | {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "FABRIC_WHEELHOUSE": str(wheelhouse or ""),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "fabric", *arguments],
        cwd=root,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start(root: Path, wheelhouse: Path | None, *arguments: str) -> tuple[int, str, str]:
    with launch(root, wheelhouse, *arguments) as process:
        out, err = process.communicate(timeout=50)
    return process.returncode, out, err


def test_a_second_start_prepares_nothing(clone: Path) -> None:
    assert start(clone, None, "status") == (0, f"{clone}/.venv 1 ['status']\n", "")


def test_the_command_in_the_environment_works_from_anywhere(clone: Path) -> None:
    script = clone / ".venv" / "bin" / "fabric"
    ran = subprocess.run([script, "tail"], cwd="/", capture_output=True, text=True, check=True)
    assert ran.stdout == f"{clone}/.venv 1 ['tail']\n"


def test_ctrl_c_while_the_command_is_loaded_is_no_traceback(clone: Path) -> None:
    (clone / "fabric" / "cli" / "main.py").write_text("raise KeyboardInterrupt\n")
    try:
        assert start(clone, None, "status") == (130, "", "")
    finally:
        (clone / "fabric" / "cli" / "main.py").write_text(COMMAND)


def test_bytecode_is_kept_apart_where_none_may_stand_beside_the_sources(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    beside = set(clone.rglob("__pycache__"))
    assert start(clone, None, "status")[0] == 0
    assert [path.name.split(".")[0] for path in (clone / ".fabric" / "bytecode").rglob("sample_wheel.*.pyc")] == [
        "sample_wheel"
    ]
    assert set(clone.rglob("__pycache__")) == beside


@pytest.mark.parametrize(("told", "prefix"), [(False, None), (True, "elsewhere")])
def test_bytecode_stays_where_the_user_has_it(monkeypatch: pytest.MonkeyPatch, told: bool, prefix: str | None) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", told)
    monkeypatch.setattr(sys, "pycache_prefix", prefix)
    before = dict(os.environ)
    bootstrap.keep_bytecode()
    assert (sys.dont_write_bytecode, sys.pycache_prefix, dict(os.environ)) == (told, prefix, before)


def test_a_changed_lock_is_installed(clone: Path, wheels: Path) -> None:
    shutil.copy(wheels / "2.lock", clone / RUNTIME_LOCK)
    code, out, err = start(clone, wheels, "up")
    assert (code, out) == (0, f"{clone}/.venv 2 ['up']\n"), err
    shutil.copy(wheels / "1.lock", clone / RUNTIME_LOCK)
    assert start(clone, wheels)[1] == f"{clone}/.venv 1 []\n"


def test_tests_need_the_development_lock_once(clone: Path, wheels: Path) -> None:
    assert not Environment(clone)._ready(DEVELOPMENT_LOCK)
    code, _, err = start(clone, wheels, "test")
    assert (code, f"preparing {clone}/.venv from {DEVELOPMENT_LOCK}" in err) == (0, True)
    assert start(clone, None, "test") == (0, f"{clone}/.venv 1 ['test']\n", "")
    assert start(clone, None, "up") == (0, f"{clone}/.venv 1 ['up']\n", "")


@pytest.mark.parametrize(
    ("lock", "wheelhouse", "code", "sentence"),
    [
        ("sample-wheel==3 --hash=sha256:" + "0" * 64, "wheels", 69, "has no wheel of sample-wheel==3 for this Python"),
        (
            "sample-wheel==2 --hash=sha256:" + "0" * 64,
            "wheels",
            69,
            "sample-wheel==2 is not the file that the lock names",
        ),
        ("sample-wheel==3 --hash=sha256:" + "0" * 64, None, 69, "the package index cannot be reached"),
        ("sample-wheel==3", "nowhere", 2, "FABRIC_WHEELHOUSE: /nowhere is no folder"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    clone: Path, wheels: Path, lock: str, wheelhouse: str | None, code: int, sentence: str
) -> None:
    """Bad input 62."""
    folder = {"wheels": wheels, "nowhere": Path("/nowhere"), None: None}[wheelhouse]
    shutil.copy(wheels / "1.lock", clone / RUNTIME_LOCK)
    (clone / RUNTIME_LOCK).write_text(lock)
    try:
        failed, out, err = start(clone, folder, "up")
    finally:
        shutil.copy(wheels / "1.lock", clone / RUNTIME_LOCK)
    assert (failed, out) == (code, "")
    last = err.splitlines()[-1]
    assert last.startswith("fabric: error: ")
    assert sentence in last
    assert "Traceback" not in err


class TestEnvironment:
    """Parts that need no real environment."""

    @pytest.fixture
    def environment(self, tmp_path: Path) -> Environment:
        (tmp_path / RUNTIME_LOCK).write_text("a==1\n")
        (tmp_path / DEVELOPMENT_LOCK).write_text("a==1\nb==1\n")
        made = Environment(tmp_path)
        made.python.parent.mkdir(parents=True)
        made.python.symlink_to(sys.executable)
        made._write_stamp(RUNTIME_LOCK)
        return made

    def test_what_was_stamped_is_ready(self, environment: Environment) -> None:
        assert environment._ready(RUNTIME_LOCK)
        assert not environment._ready(DEVELOPMENT_LOCK)

    def test_the_development_lock_holds_the_other(self, environment: Environment) -> None:
        environment._write_stamp(DEVELOPMENT_LOCK)
        assert environment._ready(RUNTIME_LOCK)
        assert environment._ready(DEVELOPMENT_LOCK)

    def test_an_edited_lock_is_not_ready(self, environment: Environment) -> None:
        (environment.root / RUNTIME_LOCK).write_text("a==2\n")
        assert not environment._ready(RUNTIME_LOCK)

    def test_a_python_that_has_gone_is_not_ready(self, environment: Environment) -> None:
        environment.python.unlink()
        assert not environment._ready(RUNTIME_LOCK)
        assert not environment._usable()

    def test_a_clone_that_was_moved_starts_anew(self, environment: Environment, tmp_path: Path) -> None:
        moved = Environment(tmp_path / "elsewhere")
        environment.root.joinpath("elsewhere").mkdir()
        shutil.copytree(environment.folder, moved.folder, symlinks=True)
        shutil.copy(environment.root / RUNTIME_LOCK, moved.root)
        assert not moved._ready(RUNTIME_LOCK)
        assert not moved._usable()

    def test_a_python_without_ensurepip_says_what_to_install(
        self, environment: Environment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(SetupError, match=r"apt install python3\.\d+-venv"):
            environment._create()

    def test_a_folder_that_is_no_environment_is_left_alone(self, environment: Environment) -> None:
        with pytest.raises(SetupError, match="is no virtual environment: move it away"):
            environment._create()
        assert environment.python.exists()

    def test_who_comes_second_waits_and_says_so(
        self, environment: Environment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other finishes while this one waits, so that nothing is left to do."""
        environment.stamp.unlink()
        waited = []

        def flock(file: object, how: int) -> None:
            if how & fcntl.LOCK_NB:
                raise BlockingIOError
            waited.append(how)
            environment._write_stamp(RUNTIME_LOCK)

        monkeypatch.setattr(bootstrap.fcntl, "flock", flock)
        environment.prepare(RUNTIME_LOCK)
        assert waited == [fcntl.LOCK_EX]
        assert capsys.readouterr().err == "fabric: waiting for another start that is preparing .venv\n"


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: No matching distribution found for numba==1.0", "there is no wheel of numba==1.0 for this machine"),
        ("WARNING: Retrying (Retry(total=1))\nERROR: No matching distribution found for a==1", "cannot be reached"),
        ("note\nERROR: something else\nmore", "pip failed: ERROR: something else"),
        ("", "pip failed: it said nothing"),
    ],
)
def test_pip_is_explained(output: str, sentence: str) -> None:
    assert sentence in bootstrap.explain(output, wheelhouse=None)


def test_where_nothing_can_be_written_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Environment, lock: str) -> None:
        raise PermissionError(13, "Permission denied", "/clone/.venv")

    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(Environment, "prepare", refuse)
    with pytest.raises(SystemExit) as raised:
        bootstrap.main(["up"])
    assert raised.value.code == 1
    assert capsys.readouterr().err == (
        f"fabric: error: cannot prepare {tmp_path}/.venv: Permission denied: /clone/.venv\n"
    )


def test_ctrl_c_is_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(self: Environment, lock: str) -> None:
        raise KeyboardInterrupt

    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(Environment, "prepare", interrupt)
    with pytest.raises(SystemExit) as raised:
        bootstrap.main(["up"])
    assert raised.value.code == 130
    assert "interrupted" in capsys.readouterr().err
