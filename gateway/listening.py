"""The port that a gateway listens on: alone, or shared by its processes (SO_REUSEPORT) and by nobody else.

The kernel lets any process of the same user join a shared port, and spreads new connections over all of them: a
second topology that was started by mistake would take half of the clients unseen. So a port is shared only with
those who are known. A process that finds the port free (an ordinary bind says so) takes it; one that finds it
taken joins only if one of its siblings says that it is the one who listens: by holding a name, in the abstract space of
unix(7), that is made of the topology's path, the node and the port, and that ends with its process.
"""

import errno
import hashlib
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from fabric import machine
from fabric.errors import UnavailableError

BACKLOG: Final = 4096
"""Connections that may wait to be accepted: after a restart all clients come at once."""
_SIBLING_WAIT_S: Final = 2.0
"""How long a taken port may be that of a sibling which has not said so yet, or of a process that is ending."""


class Listening:
    """A listening socket, and the claim to share its port."""

    def __init__(self, listening: socket.socket, claim: socket.socket | None = None) -> None:
        self.socket = listening
        self._claim = claim

    def close(self) -> None:
        """Let go of the port; no sibling may rely on this process any longer."""
        if self._claim is not None:
            self._claim.close()
        self.socket.close()


def listen(host: str, port: int) -> Listening:
    """Take a port alone; raises UnavailableError naming the port and who holds it."""
    try:
        return Listening(_bound(host, port))
    except OSError as error:
        raise _unavailable(host, port, error) from error


def listen_shared(host: str, port: int, path: str, name: str, siblings: Sequence[str]) -> Listening:
    """Take a port for the node ``name`` of the topology at ``path``, or join the ``siblings`` that have it.

    Raises UnavailableError naming the port and who holds it, when that is none of them.
    """
    until = time.monotonic() + _SIBLING_WAIT_S
    while True:
        try:
            if not any(_claimed(path, other, host, port) for other in siblings):
                _bound(host, port).close()
            # A sibling that looks whether the port is free holds it for that instant: then this fails, and is repeated.
            listening = _bound(host, port, shared=True)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise _unavailable(host, port, error) from error
            time.sleep(0.02)
            continue
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with suppress(OSError):  # this node's predecessor has not quite ended: nobody joins by this one's claim then
            claim.bind(_claim_name(path, name, host, port))
        return Listening(listening, claim)


def _bound(host: str, port: int, shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
    listening.setblocking(False)
    return listening


def _unavailable(host: str, port: int, error: OSError) -> UnavailableError:
    what = f"{host}:{port}: {error.strerror}"
    if isinstance(error, PermissionError):
        return UnavailableError(f"{what}: ports below 1024 are root's; choose another in gateways")
    return UnavailableError(f"{what}: held by {machine.holder(port)}")


def _claim_name(path: str, node: str, host: str, port: int) -> bytes:
    digest = hashlib.sha256(f"{Path(path).resolve()}\0{node}\0{host}\0{port}".encode()).hexdigest()[:32]
    return f"\0fabric-gateway-{digest}".encode()


def _claimed(path: str, node: str, host: str, port: int) -> bool:
    """Whether a living process of that node listens on the port."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_claim_name(path, node, host, port))
        except OSError:
            return False
    return True
