"""The process that every node is forked from: it has imported its program and called each of its kernels once.

Importing numba and loading kernels costs a process about a second and 100 MB; a child of this server has
both in milliseconds and shares the memory. Where the kernels are in the cache the server forks at once, and loads a
program when the first node of it is asked for, or while nothing is asked for: the first nodes work already while it
loads what the next ones need. It has no thread and no ZeroMQ context, which would not survive
a fork. It is our own and not `multiprocessing.forkserver` because that one swallows a failed preload, loses
the exit codes of its children with it, and has no channel for their output.

Nothing outlives the launcher, not even `kill -9`: the kernel kills this server with the launcher, and each
node with this server (PR_SET_PDEATHSIG, prctl(2): one hop each, since the setting does not survive a fork).
That signal is tied to the *thread* that forked, so both ends fork from their main thread only.

Messages are one JSON object in one datagram of a SOCK_SEQPACKET pair; a request to spawn carries the node's
log and status descriptors (SCM_RIGHTS, unix(7)).
"""

import array
import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import importlib
import json
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn, Self

from fabric import kernels
from fabric.topology import NodeSpec, Settings, Topology

MESSAGE_MAX = 64 * 1024
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


ENTRY = "fabric.node:start"
"""What a child becomes: ``module:function(topology, name, epoch, status descriptor)``, which returns its exit code."""


class ForkServer:
    """The launcher's end. Make and use it from the main thread only."""

    def __init__(self, topology: Topology, output: int, entry: str = ENTRY) -> None:
        """Start the server; it answers ``{"serving": ...}`` when every kernel is in the cache.

        ``output`` is where its own stdout and stderr go; ``entry`` is as in `ENTRY`.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        packed = os.memfd_create("topology")
        try:
            with theirs, os.fdopen(os.dup(packed), "wb") as file:
                pickle.dump(topology, file)
                file.flush()
                command = [sys.executable, "-P", "-m", "fabric.forkserver"]
                command += [str(theirs.fileno()), str(packed), str(os.getpid()), entry]
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(theirs.fileno(), packed),
                    start_new_session=True,  # Ctrl-C in a terminal reaches the launcher alone, which then drains
                    env=child_environment(),
                )
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(packed)
        self._socket = ours
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        return self._socket.fileno()

    def spawn(self, name: str, epoch: int, log: int, status: int) -> None:
        """Ask for a node; the answer is ``{"spawned": name, "pid": ..., "epoch": ...}``.

        Raises OSError where the server is gone or does not read.
        """
        request = json.dumps({"spawn": name, "epoch": epoch}).encode()
        socket.send_fds(self._socket, [request], [log, status])

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come, without waiting; None when the server has ended.

        ``{"serving": true}`` once; ``{"progress": [done, total, what]}`` before it; ``{"problem": text}`` for what
        cannot be loaded; ``{"spawned": name, "pid", "epoch"}``; ``{"exited": pid, "code"}`` with a negative signal
        number.
        """
        messages: list[dict[str, Any]] = []
        while len(messages) < 256:
            try:
                data = self._socket.recv(MESSAGE_MAX)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            if not data:
                return messages or None
            messages.append(json.loads(data))
        return messages

    def close(self) -> None:
        """Kill the server and, with it, what it has forked."""
        self._process.kill()
        self._process.wait()
        self._socket.close()


def child_environment() -> dict[str, str]:
    """The environment of a Python process that must find the modules that this one finds, and print without delay."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
        "PYTHONUNBUFFERED": "1",
        "OPENBLAS_NUM_THREADS": "1",  # it would start threads when it is imported, and a thread does not survive a fork
        # Tables have room for all symbols and use little of it, in many places: huge pages are mostly zeroes.
        "NUMPY_MADVISE_HUGEPAGE": os.environ.get("NUMPY_MADVISE_HUGEPAGE", "0"),
    }


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that forked it ends; end now if it already has."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)


def main(arguments: list[str]) -> int:
    """Serve one launcher: ``SOCKET TOPOLOGY PARENT ENTRY``: two inherited descriptors, a pid, what children become."""
    control, packed, parent = map(int, arguments[:3])
    entry = arguments[3]
    die_with_parent(parent)
    # It ends when the launcher closes the socket, not before the drain. Held back, not ignored: a child that is told
    # to stop in its first instant finds the signal when it is ready for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    with os.fdopen(packed, "rb") as file:
        file.seek(0)
        topology: Topology = pickle.load(file)
    with socket.socket(fileno=control) as launcher:
        programs = _Programs(topology, entry, launcher)
        if not kernels.complete():
            programs.load_all()
        _send(launcher, {"serving": True})
        return _Server(topology, entry, programs, launcher).run()


class _Programs:
    """The programs of a topology, imported, and the kernels that came with them, each called once.

    What fails is told, and fails again in the node.
    """

    def __init__(self, topology: Topology, entry: str, launcher: socket.socket) -> None:
        self._entry = entry
        self._launcher = launcher
        self._left = {_program(node): node for node in topology.local_nodes()}
        self._total = len(self._left)
        self._cold: list[str] = []  # kernel modules that have been imported and not yet called
        self._warm: set[str] = set()
        gc.disable()  # it would look through all that is being loaded, again and again
        self._import(entry)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to load."""
        return not (self._left or self._cold)

    def need(self, node: NodeSpec) -> None:
        """Load what this node runs, unless that has been done."""
        if self._left.pop(_program(node), None) is not None:
            self._import(node.run, node.settings)
        while self._cold:
            self._call_one()

    def load_one(self) -> None:
        """Do one step, of some milliseconds, towards having everything."""
        if self._cold:
            self._call_one()
        else:
            node = self._left.pop(next(iter(self._left)))
            self._import(node.run, node.settings)

    def load_all(self) -> None:
        """Load everything; tell how far that is."""
        while not self.complete:
            what = self._cold[0] if self._cold else next(iter(self._left.values())).run.partition(":")[0]
            _send(self._launcher, {"progress": [self._total - len(self._left) - bool(self._cold), self._total, what]})
            self.load_one()
        _send(self._launcher, {"progress": [self._total, self._total, ""]})

    def _import(self, program: str, settings: Settings | None = None) -> None:
        name = program.partition(":")[0]
        try:
            module = importlib.import_module(name)
            if settings is not None and hasattr(module, "preload"):
                module.preload(settings)
        except Exception:  # noqa: BLE001  (whatever it is, the launcher must be able to say it)
            self._problem(name)
        # a kernel module without a warm_up holds helpers, which are compiled into their callers
        found = sorted(name for name in sys.modules if name.endswith("_kernel") and name not in self._warm)
        self._cold = [name for name in found if hasattr(sys.modules[name], "warm_up")]

    def _call_one(self) -> None:
        name = self._cold.pop(0)
        self._warm.add(name)
        try:
            sys.modules[name].warm_up()
        except Exception:  # noqa: BLE001
            self._problem(name)
        if not self._cold:
            gc.collect()
            gc.freeze()  # the collector would write to, and so copy, every page that the nodes share
            if threads := len(list(Path("/proc/self/task").iterdir())) - 1:
                self._tell(f"{threads} threads run in the fork server; nodes will not have them")

    def _problem(self, name: str) -> None:
        self._tell(f"{name}: {traceback.format_exc()}")

    def _tell(self, problem: str) -> None:
        _send(self._launcher, {"problem": problem[: MESSAGE_MAX // 8]})  # JSON makes up to six bytes of a character


def _program(node: NodeSpec) -> tuple[str, str]:
    """What decides about the modules that a node needs: its program and, where it has one, its wire."""
    return node.run, getattr(node.settings, "wire", "")


def _send(launcher: socket.socket, message: dict[str, Any]) -> None:
    launcher.send(json.dumps(message).encode())


class _Server:
    """Fork on request, report each end; leave no member of a node's process group behind."""

    def __init__(self, topology: Topology, entry: str, programs: _Programs, launcher: socket.socket) -> None:
        self._topology = topology
        self._entry = entry
        self._programs = programs
        self._launcher = launcher
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        self._selector.register(self._launcher, selectors.EVENT_READ)
        while True:
            ready = self._selector.select(None if self._programs.complete else 0)
            if not ready:
                self._programs.load_one()
            for key, _ in ready:
                if key.data is not None:
                    self._reap(key.fd, key.data)
                elif not self._serve():
                    return 0

    def _serve(self) -> bool:
        """Do one request; False when the launcher has closed."""
        ancillary = socket.CMSG_SPACE(2 * array.array("i").itemsize)
        data, control, _, _ = self._launcher.recvmsg(MESSAGE_MAX, ancillary)
        if not data:
            return False
        descriptors = array.array("i")
        for _, _, part in control:
            descriptors.frombytes(part)
        request = json.loads(data)
        log, status = descriptors
        pid = self._fork(request["spawn"], request["epoch"], log, status)
        os.close(log)
        os.close(status)
        self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
        _send(self._launcher, {"spawned": request["spawn"], "pid": pid, "epoch": request["epoch"]})
        return True

    def _fork(self, name: str, epoch: int, log: int, status: int) -> int:
        self._programs.need(self._topology.node(name))
        server = os.getpid()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _child(self._entry, self._topology, name, epoch, log, status, server)
        return pid

    def _reap(self, pidfd: int, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it died before it had a group
            os.killpg(pid, signal.SIGKILL)  # what the node has started; the dead node itself still holds the number
        _, ended = os.waitpid(pid, 0)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        _send(self._launcher, {"exited": pid, "code": os.waitstatus_to_exitcode(ended)})


def _child(entry: str, topology: Topology, name: str, epoch: int, log: int, status: int, server: int) -> NoReturn:
    """Become the node: own group, plain signals, its output to the launcher, nothing else inherited."""
    code = 1
    try:
        die_with_parent(server)
        gc.enable()
        os.setsid()
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)  # what ps and top show
        # by way of high numbers, since each of the two may stand in the other's place
        status_high, log_high = (fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 16) for number in (status, log))
        os.dup2(log_high, 1)
        os.dup2(log_high, 2)
        os.dup2(status_high, 3, inheritable=False)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        faulthandler.enable()  # a crash in compiled code leaves its stack in the log
        module, _, function = entry.partition(":")
        code = getattr(importlib.import_module(module), function)(topology, name, epoch, 3)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  (nothing may return into the server's stack)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
