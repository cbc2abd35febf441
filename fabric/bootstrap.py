"""The environment of a clone: ``.venv`` beside ``pyproject.toml``, made from the hashed lock when it is not there yet.

Standard library only, as nothing else exists at this moment. What has been made is said in a stamp, written
last: the locks that are installed (by hash), where the clone stood, and the version. While every line that
is needed stands in the stamp, nothing is done but to become ``.venv/bin/fabric``. A file lock lets two
starts at once wait for each other; what was interrupted, the next start completes.

`fabric up` needs `requirements.lock`; `fabric test` and `bench` need `requirements-dev.lock`, which contains the other.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import fabric
from fabric.__main__ import EX_UNAVAILABLE, SUPPORTED

ROOT = Path(__file__).resolve().parent.parent
RUNTIME_LOCK = "requirements.lock"
DEVELOPMENT_LOCK = "requirements-dev.lock"
SIZE_MB = {RUNTIME_LOCK: 350, DEVELOPMENT_LOCK: 560}
"""On disk, as measured; said before the work begins."""
PIP_SETTINGS_DROPPED = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
"""They would send the packages elsewhere. The user's index, proxy and certificates stay in force."""

SCRIPT = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys

try:
    from fabric.cli.main import main

    main()
except KeyboardInterrupt:  # while it was being imported
    sys.exit(130)
"""
"""Shell and Python at once, as pip's own scripts are where a path is long or has spaces."""


class SetupError(Exception):
    """Why there is no environment: one sentence, with the way out."""

    def __init__(self, message: str, exit_code: int = EX_UNAVAILABLE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main(arguments: list[str]) -> None:
    """Become the ``fabric`` command with ``arguments``; returns only where there is no clone to prepare."""
    open_streams()
    if not (ROOT / "pyproject.toml").exists():  # installed as a package: whoever did so chose the environment
        from fabric.cli.main import main as command

        command()
        return
    environment = Environment(ROOT)
    try:
        environment.prepare(DEVELOPMENT_LOCK if arguments[:1] in (["test"], ["bench"]) else RUNTIME_LOCK)
    except KeyboardInterrupt:
        say("interrupted: the same command completes what is missing")
        sys.exit(130)
    except SetupError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        say(f"error: cannot prepare {environment.folder}: {error.strerror}: {error.filename}")
        sys.exit(1)
    keep_bytecode()
    python = str(environment.python)
    os.execv(python, [python, str(environment.script), *arguments])


def open_streams() -> None:
    """Let standard streams that were closed (``<&-``, ``>&-``) be ``/dev/null``.

    Else the next file that is opened, a socket or a log, would be stdin or stdout for whoever writes there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)
            if null != number:
                os.close(null)
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115  (it lasts)


def keep_bytecode() -> None:
    """Keep bytecode in `.fabric/bytecode` where Python was told to write none beside the sources, as images often do.

    Compiling every module from its source, numba's too, would take as long again as the rest of each start. This holds
    for this process and for those that it starts.
    """
    if sys.dont_write_bytecode and sys.pycache_prefix is None and (ROOT / "pyproject.toml").exists():
        sys.dont_write_bytecode = False
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / ".fabric" / "bytecode")
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


class Environment:
    """The ``.venv`` of one clone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.python = self.folder / "bin" / "python"
        self.script = self.folder / "bin" / "fabric"
        self.stamp = self.folder / "fabric-setup"
        self.log = self.folder / "fabric-setup.log"

    def prepare(self, lock: str) -> None:
        """Install what ``lock`` asks for, unless the stamp says that it is; raises SetupError or OSError."""
        if self._ready(lock):
            return
        with self._alone():
            if self._ready(lock):  # another start made it while this one waited
                return
            say(f"preparing {self.folder} from {lock}, {SIZE_MB[lock]} MB, once; it takes about a minute")
            started = time.monotonic()
            if not self._usable():
                self._create()
            self._install(lock)
            self._link()
            self._write_stamp(lock)
            say(f"ready in {time.monotonic() - started:.0f} s")

    def _place(self) -> set[str]:
        return {f"root {self.root}", f"fabric {fabric.__version__}"}

    def _line(self, lock: str) -> str:
        return f"{lock} {hashlib.sha256((self.root / lock).read_bytes()).hexdigest()}"

    def _stamped(self) -> set[str]:
        try:
            return set(self.stamp.read_text().splitlines())
        except FileNotFoundError:
            return set()

    def _ready(self, lock: str) -> bool:
        return self._stamped() >= self._place() | {self._line(lock)} and os.access(self.python, os.X_OK)

    def _write_stamp(self, lock: str) -> None:
        lines = self._place() | {self._line(RUNTIME_LOCK), self._line(lock)}
        temporary = self.stamp.with_suffix(".new")
        temporary.write_text("\n".join(sorted(lines)) + "\n")
        temporary.replace(self.stamp)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one start at a time work here; the lock goes with the process, however it ends."""
        (self.root / ".fabric").mkdir(exist_ok=True)
        with (self.root / ".fabric" / "setup.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another start that is preparing .venv")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _usable(self) -> bool:
        """Whether there is an environment to complete: it stands where it was made, starts, and has pip."""
        if self._stamped() and f"root {self.root}" not in self._stamped():
            return False
        probe = f"import sys, pip; sys.exit(sys.version_info[:2] not in {SUPPORTED})"
        try:
            return subprocess.run([self.python, "-c", probe], capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    def _create(self) -> None:
        if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
            package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
            raise SetupError(
                f"this Python cannot make environments: run `apt install {package}` as root, then try again"
            )
        if self.folder.exists() and not (self.folder / "pyvenv.cfg").exists():
            raise SetupError(f"{self.folder} is no virtual environment: move it away, then try again", exit_code=1)
        made = subprocess.run(
            [sys.executable, "-m", "venv", "--clear", self.folder], capture_output=True, text=True, check=False
        )
        if made.returncode:
            reason = last_line(made.stdout + made.stderr)
            raise SetupError(f"cannot make {self.folder}: {reason}", exit_code=1)

    def _install(self, lock: str) -> None:
        command = [
            str(self.python),
            "-m",
            "pip",
            "install",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "--no-compile",
        ]
        command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--retries", "2"]
        wheelhouse = os.environ.get("FABRIC_WHEELHOUSE")
        if wheelhouse:
            if not Path(wheelhouse).is_dir():
                raise SetupError(f"FABRIC_WHEELHOUSE: {wheelhouse} is no folder", exit_code=2)
            command += ["--no-index", "--find-links", wheelhouse]
        variables = {name: value for name, value in os.environ.items() if name not in PIP_SETTINGS_DROPPED}
        total = len(re.findall(r"^[\w.-]+==", (self.root / lock).read_text(), re.MULTILINE))
        with (
            self.log.open("w") as log,
            subprocess.Popen(
                [*command, "-r", str(self.root / lock)],
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as pip,
        ):
            assert pip.stdout is not None
            with Ticker() as ticker:
                found = 0
                for line in pip.stdout:
                    log.write(line)
                    if package := re.match(r"(?:Collecting|Requirement already satisfied:) ([\w.-]+)", line):
                        found += 1
                        ticker.show(f"fetching {found}/{total} {package[1]}")
                    elif line.startswith("Installing collected packages"):
                        ticker.show("installing")
        if pip.returncode:
            raise SetupError(f"{explain(self.log.read_text(), wheelhouse)} (pip's words: {self.log})")

    def _link(self) -> None:
        """Put the clone on the environment's path, and the command into it; pip refuses to do so beside hashes."""
        ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
        answer = subprocess.run([self.python, "-c", ask], capture_output=True, text=True, check=True).stdout
        (Path(answer.strip()) / "fabric-clone.pth").write_text(f"{self.root}\n")
        self.script.write_text(SCRIPT.format(python=self.python))
        self.script.chmod(0o755)


class Ticker:
    """One line of a terminal that says what is being done now; nothing where there is no terminal."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def show(self, text: str) -> None:
        if self.shown:
            sys.stderr.write(f"\r\x1b[Kfabric: {text}")
            sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def explain(output: str, wheelhouse: str | None) -> str:
    """Say in one sentence why pip failed and what helps, from what it printed."""
    package = re.search(r"No matching distribution found for ([\w.-]+==\S+)", output)
    if "No space left on device" in output:
        return "the disk is full: free some space, then try again"
    if mismatch := re.search(r"DO NOT MATCH THE HASHES.*?\n\s+([\w.-]+==\S+)", output, re.DOTALL):
        return f"{mismatch[1]} is not the file that the lock names: check the package index or mirror in use"
    if wheelhouse and package:
        return f"FABRIC_WHEELHOUSE: {wheelhouse} has no wheel of {package[1]} for this Python"
    if re.search(
        r"Retrying \(|Connection ?(Error|refused|reset)|Name or service not known|ProxyError|timed out", output
    ):
        return (
            "the package index cannot be reached: check the network or HTTPS_PROXY, "
            "or let FABRIC_WHEELHOUSE name a folder with the wheels"
        )
    if package:
        system = f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}"
        libc = " ".join(platform.libc_ver()) or "no glibc"
        return f"there is no wheel of {package[1]} for this machine ({system}, {libc}): use CPython 3.11 on glibc Linux"
    return f"pip failed: {last_line(output)}"


def last_line(output: str) -> str:
    """The last line that says something; the last error if there is one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it said nothing"])[-1]


def say(text: str) -> None:
    """Tell the user, on stderr, so that what the command prints stays clean."""
    sys.stderr.write(f"fabric: {text}\n")
    sys.stderr.flush()
