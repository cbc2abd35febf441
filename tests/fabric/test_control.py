"""The run folder, its lock, and the socket's protocol over a real socket."""

import json
import os
import selectors
import stat
import threading

import pytest

from fabric.control import Control, ControlServer, RunFolder
from fabric.errors import FabricError, NotRunningError, UnavailableError


@pytest.fixture
def folder(tmp_path):
    found = RunFolder(tmp_path / ".fabric")
    found.make()
    return found


@pytest.fixture
def serve(folder):
    """Answer commands by ``answer`` in a thread until the end of the test."""
    ours, theirs = os.pipe()
    threads = []

    def begin(answer):
        selector = selectors.DefaultSelector()
        server = ControlServer(folder.socket_path(), selector, answer)
        selector.register(ours, selectors.EVENT_READ, None)

        def loop():
            while all(key.data is not None and key.data() is None for key, _ in selector.select()):
                pass
            server.refuse()
            server.close()
            selector.close()

        threads.append(threading.Thread(target=loop))
        threads[-1].start()

    yield begin
    os.write(theirs, b"x")
    for thread in threads:
        thread.join()
    os.close(ours)
    os.close(theirs)


def test_the_folder_is_its_owners_alone(folder):
    for path in (folder.path, folder.path / "logs", folder.path / "epochs"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_folder_stands_beside_the_file_or_in_the_folder_that_is_named(tmp_path):
    (tmp_path / "topology.yaml").touch()
    assert RunFolder.beside(tmp_path / "topology.yaml").path == RunFolder.beside(tmp_path).path == tmp_path / ".fabric"


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FabricError, match="no run folder can be made here: Not a directory"):
        RunFolder(tmp_path / "file" / ".fabric").make()


def test_the_lock_is_held_once_and_ends_with_its_descriptor(folder):
    first = folder.lock({"topology": "x"})
    with pytest.raises(UnavailableError, match=f"already running in {folder.path.parent}: pid {os.getpid()}"):
        folder.lock({})
    os.close(first)
    os.close(folder.lock({}))
    assert folder.state()["pid"] == os.getpid()


def test_request_and_reply(folder, serve):
    serve(lambda request: {"heard": request, "long": "x" * 1_000_000})
    with Control(folder) as control:
        assert control.ask("status", node="a")["heard"] == {"do": "status", "node": "a"}
        assert len(control.ask("status")["long"]) == 1_000_000


def test_a_refusal_is_an_error(folder, serve):
    serve(lambda request: {"error": "no"})
    with Control(folder) as control, pytest.raises(FabricError, match=r"^no$"):
        control.ask("status")


def test_none_that_runs_and_one_that_was_killed_are_both_said_plainly(folder):
    with pytest.raises(NotRunningError, match=f"no topology is running in {folder.path.parent}"):
        Control(folder)
    with selectors.DefaultSelector() as selector:
        server = ControlServer(folder.socket_path(), selector, dict)
        left = folder.socket_path().with_name("left")
        folder.socket_path().rename(left)  # as kill -9 leaves it: a name without a listener
        server.refuse()
        left.rename(folder.socket_path())
        with pytest.raises(NotRunningError):
            Control(folder)
        ControlServer(folder.socket_path(), selector, dict).refuse()  # and the next one takes its place


def test_an_unreadable_state_is_an_empty_one(folder):
    for text in ("", "{", "[]", json.dumps("x")):
        folder.state_path.write_text(text)
        assert folder.state() == {}
