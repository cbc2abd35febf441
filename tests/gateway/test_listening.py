"""Ports: taken alone, or shared by the processes of one gateway and by nobody else."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fabric.errors import UnavailableError
from gateway import listening
from gateway.listening import Listening, listen, listen_shared
from gateway_rig import free_port

SIBLINGS = ("web-1", "web-2", "web-3")


@pytest.fixture
def keep() -> Iterator[ExitStack]:
    """Closes what listens."""
    with ExitStack() as stack:
        yield stack


def kept(keep: ExitStack, found: Listening) -> Listening:
    keep.callback(found.close)
    return found


def shared(port: int, name: str, path: str = "/here/topology.yaml") -> Listening:
    return listen_shared("127.0.0.1", port, path, name, [other for other in SIBLINGS if other != name])


def test_a_port_that_is_taken_is_named_with_who_holds_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(UnavailableError, match=rf"127\.0\.0\.1:{port}: .*in use.*: held by pid \d+"):
            listen("127.0.0.1", port)


def test_a_port_that_needs_root_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(UnavailableError, match="ports below 1024"):
        listen("127.0.0.1", 80)
    with pytest.raises(UnavailableError, match="ports below 1024"):
        shared(80, "web-1")


def test_the_processes_of_a_gateway_share_its_port(keep: ExitStack) -> None:
    port = free_port()
    sockets = [kept(keep, shared(port, name)).socket for name in SIBLINGS]
    assert {found.getsockname()[1] for found in sockets} == {port}
    for found in sockets:
        found.setblocking(False)
    clients = [keep.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(60)]
    accepted = []
    for found in sockets:
        try:
            while True:
                accepted.append((found, keep.enter_context(found.accept()[0])))
        except BlockingIOError:
            pass
    assert len(accepted) == len(clients)
    assert {found for found, _ in accepted} == set(sockets), "each has its share"


@pytest.mark.parametrize("reuse", [False, True])
def test_a_stranger_shares_nothing(keep: ExitStack, reuse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_SIBLING_WAIT_S", 0.05)
    stranger = keep.enter_context(socket.create_server(("127.0.0.1", 0), reuse_port=reuse))
    port = stranger.getsockname()[1]
    with pytest.raises(UnavailableError, match=rf"127\.0\.0\.1:{port}: .*: held by pid \d+"):
        shared(port, "web-1")


def test_a_second_topology_with_the_same_names_shares_nothing(keep: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_SIBLING_WAIT_S", 0.05)
    port = free_port()
    kept(keep, shared(port, "web-1"))
    with pytest.raises(UnavailableError, match="held by pid"):
        shared(port, "web-2", path="/elsewhere/topology.yaml")


def test_who_has_closed_is_no_sibling_any_more(keep: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_SIBLING_WAIT_S", 0.05)
    port = free_port()
    first = shared(port, "web-1")
    first._claim.close()
    with pytest.raises(UnavailableError):
        shared(port, "web-2")
    first.close()
    kept(keep, shared(port, "web-2"))


def test_one_that_comes_again_joins_the_others(keep: ExitStack) -> None:
    port = free_port()
    first = shared(port, "web-1")
    kept(keep, shared(port, "web-2"))
    first.close()
    kept(keep, shared(port, "web-1"))
