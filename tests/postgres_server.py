"""A real PostgreSQL for tests, from the system's own package: a fresh cluster on a free port, gone at the end."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import free_port

WAIT_S = 20.0


def find_binaries() -> Path | None:
    """The folder with ``initdb`` and ``postgres``; Debian keeps them off the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    found = [str(versions[-1])] if versions else [shutil.which("postgres")]
    return Path(found[0]).resolve().parent if found[0] else None


class PostgresServer:
    """One cluster, which can be stopped, frozen and started again."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._data = folder / "data"
        self._port = free_port()
        self._user = "postgres" if os.geteuid() == 0 else ""  # it refuses to run as root
        if self._user:
            shutil.chown(folder, self._user)
        self._run("initdb", "-D", str(self._data), "-U", "fabric", "-A", "trust", "--no-sync")
        self.url = f"postgresql://fabric@127.0.0.1:{self._port}/postgres"
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self._port)]
        command += ["-h", "127.0.0.1", "-k", "", "-c", "fsync=off"]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL, user=self._user or None)
        deadline = time.monotonic() + WAIT_S
        asking = [str(self._binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        while subprocess.run(asking, check=False).returncode:
            assert self._process.poll() is None, "postgres ended"
            assert time.monotonic() < deadline, "postgres did not start"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it at once, with every connection."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=self._user or None, cwd="/")


@contextmanager
def server() -> Iterator[PostgresServer]:
    """A running server; `find_binaries` must have found some."""
    binaries = find_binaries()
    assert binaries is not None
    with tempfile.TemporaryDirectory(prefix="fabric-postgres-") as folder:
        made = PostgresServer(binaries, Path(folder))
        try:
            yield made
        finally:
            made.stop()
