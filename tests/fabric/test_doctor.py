import resource
import socket
import threading
from pathlib import Path

import pytest

from fabric import doctor
from fabric import topology as topologies
from fabric.control import RunFolder
from fabric.topology import CacheSettings, JournalSettings
from support import free_port


@pytest.mark.parametrize(
    ("finding", "health", "fix"),
    [
        (doctor.open_files(1_024, 20_000), "warn", "ulimit -n 20512"),
        (doctor.open_files(20_512, 20_000), "ok", ""),
        (doctor.open_files(resource.RLIM_INFINITY, 20_000), "ok", ""),
        (doctor.backlog(128), "warn", "net.core.somaxconn=1024"),
        (doctor.backlog(4_096), "ok", ""),
        (doctor.receive_buffer(212_992, root=False), "warn", f"net.core.rmem_max={32 << 20}"),
        (doctor.receive_buffer(212_992, root=True), "ok", ""),
        (doctor.receive_buffer(None, root=False), "ok", ""),
        (doctor.cores(1, 17), "warn", "two cores"),
        (doctor.cores(2, 17), "ok", ""),
        (doctor.memory(1 << 30, 17), "warn", "hosts:"),
        (doctor.memory(8 << 30, 17), "ok", ""),
        (doctor.clock(False, 0), "warn", "chrony"),
        (doctor.clock(None, 0), "warn", "chrony"),
        (doctor.clock(True, 50_000_000), "warn", "chrony"),
        (doctor.clock(True, 1_000_000), "ok", ""),
        (doctor.kernel_cache(cached=False, complete=False), "warn", "FABRIC_KERNEL_CACHE"),
        (doctor.kernel_cache(cached=True, complete=False), "ok", ""),
        (doctor.journal(JournalSettings("log", bytes_max=1 << 30), 4, 1 << 30), "warn", "journal.bytes"),
        (doctor.journal(JournalSettings("log", bytes_max=1 << 30), 4, 4 << 30), "ok", ""),
    ],
)
def test_what_is_not_well_comes_with_its_fix(finding: doctor.Finding, health: str, fix: str) -> None:
    assert finding.health == health, finding
    assert fix in finding.fix
    assert bool(finding.fix) == (health != "ok")


def test_a_port_in_use_is_found_with_its_holder() -> None:
    port = free_port()
    text = "venues: {{V: {{}}}}\nfeeds:\n  iex: {{wire: iex-tops-1.6, venues: V, lines: ['udp://127.0.0.1:{}']}}\n"
    topology = topologies.load_text(text.format(port), "t.yaml", {})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("127.0.0.1", port))
        (taken,) = [finding for finding in doctor.ports(topology) if str(port) in finding.found]
    assert taken.health == "alarm"
    assert "pid" in taken.found
    assert not any(str(port) in finding.found for finding in doctor.ports(topology))


def test_a_run_folder_is_judged_by_what_is_there(tmp_path: Path) -> None:
    assert doctor.run_folder(RunFolder(tmp_path / "not" / "yet")).health == "ok"
    assert doctor.run_folder(RunFolder(Path("/proc/self/none"))).health == "alarm"


def answering(text: bytes) -> tuple[str, threading.Thread]:
    """A server that answers one request with ``text``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(64)
            connection.sendall(text)

    thread = threading.Thread(target=serve)
    thread.start()
    return f"redis://user:word@127.0.0.1:{listener.getsockname()[1]}/0", thread


@pytest.mark.parametrize(
    ("answer", "health"), [(b"+PONG\r\n", "ok"), (b"-NOAUTH x\r\n", "ok"), (b"HTTP/1.1 400\r\n", "alarm")]
)
def test_a_redis_server_is_asked(answer: bytes, health: str) -> None:
    url, thread = answering(answer)
    (finding,) = doctor.cache(CacheSettings("server", (url,)))
    thread.join()
    assert finding.health == health
    assert "word" not in finding.found


def test_a_redis_server_that_is_not_there_is_found() -> None:
    (finding,) = doctor.cache(CacheSettings("server", (f"redis://127.0.0.1:{free_port()}/0",)))
    assert (finding.health, bool(finding.fix)) == ("alarm", True)


def test_the_default_topology_is_examined_whole(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "topology.yaml").read_text()
    found = list(doctor.examine(topologies.load_text(text, "topology.yaml", {}), RunFolder(tmp_path), running=True))
    names = {finding.name for finding in found}
    assert names >= {
        "open files",
        "receive buffers",
        "cores",
        "memory",
        "clock",
        "kernels",
        "ports",
        "log disk",
        "redis",
    }
    assert all(finding.health in ("ok", "warn", "alarm") for finding in found)
