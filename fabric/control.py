"""The run folder of a topology, and the Unix socket in it through which commands reach the running launcher.

`.fabric/` stands beside the topology file, readable by its owner only: ``state.json`` (who runs here; locked
while it runs, so a dead launcher can never look alive), ``control.sock``, ``epochs/`` and ``logs/``. A replay
or a test has a run folder of its own and so touches nothing of a running topology.

The protocol is one JSON object a line each way: ``{"do": "status"}`` is answered by the status, anything that
is not understood by ``{"error": ...}``. One bound holds each resource: `REQUEST_MAX` bytes a request,
`CONNECTIONS_MAX` connections (the oldest is cut for a new one, so that stuck clients cannot lock out `down`).
"""

import fcntl
import hashlib
import json
import os
import selectors
import socket
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from fabric.errors import FabricError, NotRunningError, UnavailableError

REQUEST_MAX = 64 * 1024
REPLY_MAX = 16 * 1024 * 1024
RETRY_S = 0.02
CONNECTIONS_MAX = 32
SOCKET_PATH_MAX = 107
"""sizeof(sockaddr_un.sun_path) - 1 on Linux (unix(7))."""
COMBINED_LOG = "fabric"
"""Name of the log that holds the launcher's own lines and, prefixed, those of every node."""


class RunFolder:
    """Where one running topology keeps its state; see the module's text."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    @classmethod
    def beside(cls, topology: str | Path) -> Self:
        """The run folder of a topology file: `.fabric` beside it. A folder stands for the file in it."""
        path = Path(topology)
        return cls((path if path.is_dir() else path.parent) / ".fabric")

    @property
    def state_path(self) -> Path:
        return self.path / "state.json"

    def log_path(self, name: str) -> Path:
        """Log of a node, or of all together under `COMBINED_LOG`; the part before it ends in ``.1``."""
        return self.path / "logs" / f"{name}.log"

    def socket_path(self, name: str = "control") -> Path:
        """`<name>.sock` here, or under a short folder of this user where this path is too long for a socket."""
        path = self.path / f"{name}.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
            return path
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        folder = Path(runtime) / "fabric" if runtime else Path(tempfile.gettempdir()) / f"fabric-{os.getuid()}"
        return folder / f"{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]}{name.removeprefix('control')}.sock"

    def make(self) -> None:
        """Make the folder and what stands in it; raises FabricError where that cannot be."""
        try:
            for folder in (self.path, self.path / "logs", self.path / "epochs", self.socket_path().parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                found = folder.stat()
                if found.st_uid != os.getuid():  # /tmp is everyone's: someone may have been there first
                    raise FabricError(f"{folder}: belongs to user {found.st_uid}, not to this user ({os.getuid()})")
                if stat.S_IMODE(found.st_mode) & 0o077:
                    folder.chmod(0o700)
        except OSError as error:
            raise FabricError(f"{self.path}: no run folder can be made here: {error.strerror}") from error

    def lock(self, state: dict[str, Any]) -> int:
        """Claim the folder and write ``state`` (with ``pid``); the returned descriptor holds the claim.

        Raises UnavailableError with the pid of the launcher that has it.
        """
        descriptor = os.open(self.state_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            holder = self.state()
            raise UnavailableError(
                f"already running in {self.path.parent}: pid {holder.get('pid', 'unknown')}; "
                "`fabric status` shows it, `fabric down` stops it"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({**state, "pid": os.getpid(), "socket": str(self.socket_path())}).encode())
        return descriptor

    def state(self) -> dict[str, Any]:
        """What the launcher that runs, or ran, here wrote; empty where there is nothing readable."""
        try:
            state = json.loads(self.state_path.read_bytes())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def next_epoch(self, name: str, now_ns: int) -> int:
        """The epoch of a node's next start: the time, but always above the last one, also when the clock was set back.

        Not synced to disk: after a crash of the machine the time alone has moved on.
        """
        path = self.path / "epochs" / name
        try:
            last = int(path.read_text())
        except (OSError, ValueError):
            last = 0
        epoch = max(now_ns, last + 1)
        fresh = path.with_name(f"{name}.{os.getpid()}.new")
        fresh.write_text(f"{epoch}\n")
        fresh.replace(path)
        return epoch


class ControlServer:
    """The launcher's end: answers each request line by ``answer(request)``. Driven by the launcher's selector.

    A selector key's ``data`` is the function to call when something can be done.
    """

    def __init__(
        self, path: Path, selector: selectors.BaseSelector, answer: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        self._path = path
        self._selector = selector
        self._answer = answer
        self._connections: dict[socket.socket, _Connection] = {}
        path.unlink(missing_ok=True)  # of a launcher that was killed: the lock says that none runs here
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(16)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def refuse(self) -> None:
        """Take no more connections and remove the socket: the next launcher will make its own."""
        self._selector.unregister(self._listener)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """End all connections: whoever waits for the end of the launcher sees it by that, so this comes last."""
        for connection in list(self._connections):
            self._cut(connection)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # gone again, or out of descriptors: the next turn tries anew
            return
        if len(self._connections) >= CONNECTIONS_MAX:
            self._cut(next(iter(self._connections)))
        connection.setblocking(False)
        self._connections[connection] = _Connection()
        self._selector.register(connection, selectors.EVENT_READ, partial(self._serve, connection))

    def _serve(self, connection: socket.socket) -> None:
        state = self._connections[connection]
        try:
            alive = self._receive(connection, state)
            if alive and state.unsent:
                state.unsent = state.unsent[connection.send(state.unsent) :]
        except BlockingIOError:
            alive = True
        except OSError:
            alive = False
        if not alive:
            self._cut(connection)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if state.unsent else 0)
        self._selector.modify(connection, wanted, partial(self._serve, connection))

    def _receive(self, connection: socket.socket, state: "_Connection") -> bool:
        """Take what has come and answer each whole line; False at the end and beyond a bound."""
        try:
            data = connection.recv(REQUEST_MAX)
        except BlockingIOError:
            return True
        *lines, state.received = (state.received + data).split(b"\n")
        for line in lines:
            state.unsent += json.dumps(self._reply(line)).encode() + b"\n"
        return bool(data) and len(state.received) <= REQUEST_MAX and len(state.unsent) <= REPLY_MAX

    def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"error": "not JSON"}
        if not isinstance(request, dict):
            return {"error": "not a JSON object"}
        return self._answer(request)

    def _cut(self, connection: socket.socket) -> None:
        del self._connections[connection]
        self._selector.unregister(connection)
        connection.close()


class _Connection:
    """What has come in without a line end yet, and what has not gone out yet."""

    def __init__(self) -> None:
        self.received = b""
        self.unsent = b""


class Control:
    """A command's end: ask the launcher of a run folder. Raises NotRunningError where none answers."""

    def __init__(self, folder: RunFolder, timeout_s: float = 10.0) -> None:
        self._folder = folder
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        until = time.monotonic() + timeout_s
        while True:
            try:
                self._socket.connect(str(folder.socket_path()))
                return
            except BlockingIOError:  # more wait to be accepted than the launcher's queue holds
                if time.monotonic() > until:
                    self._socket.close()
                    raise NotRunningError(f"the topology in {folder.path.parent} answers nobody") from None
                time.sleep(RETRY_S)
            except OSError as error:
                self._socket.close()
                raise NotRunningError(f"no topology is running in {folder.path.parent}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One request, one reply; a refusal is raised as FabricError."""
        try:
            self._socket.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
            received = bytearray()
            while not received.endswith(b"\n"):
                data = self._socket.recv(1 << 16)
                if not data:
                    raise NotRunningError(f"the topology in {self._folder.path.parent} has just ended")
                received += data
        except TimeoutError:
            raise FabricError(f"the launcher in {self._folder.path.parent} does not answer") from None
        except OSError as error:
            raise NotRunningError(f"the topology in {self._folder.path.parent} has just ended") from error
        reply: dict[str, Any] = json.loads(received)
        if "error" in reply:
            raise FabricError(reply["error"])
        return reply

    def wait_end(self, timeout_s: float) -> bool:
        """Wait until the launcher has stopped everything and closed the socket; False after ``timeout_s``."""
        self._socket.settimeout(timeout_s)
        with suppress(ConnectionError):
            try:
                return self._socket.recv(1) == b""
            except TimeoutError:
                return False
        return True
