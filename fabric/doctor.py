"""Is this machine fit for a topology: what `fabric doctor` looks at, and the fix for what is not well.

Each check is a function of what was read, so that it can be tried with any value; `examine` reads and asks them all.
Sources: proc(5), setrlimit(2), adjtimex(2), socket(7), Linux' Documentation/admin-guide/sysctl/net.rst.
"""

import ctypes
import os
import resource
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from fabric import compiled, kernels, machine
from fabric.control import RunFolder
from fabric.topology import CacheSettings, FeedSettings, GatewaySettings, JournalSettings, Topology

RECEIVE_BUFFER_BYTES: Final = 32 << 20
"""What a feed asks the kernel for: a burst of packets waits there, and is not dropped."""
BACKLOG: Final = 1_024
"""Connections that may wait at a gateway to be accepted."""
CLOCK_ERROR_NS: Final = 10_000_000
"""Beyond this, latencies across machines say little."""
MEMORY_BYTES_A_NODE: Final = 150 << 20
_TIME_ERROR: Final = 5
_CONNECT_S: Final = 1.0


@dataclass(frozen=True)
class Finding:
    """One check: ``health`` is ok, warn or alarm; ``fix`` is empty where nothing need be done."""

    name: str
    health: str
    found: str
    fix: str = ""


def examine(topology: Topology, folder: RunFolder, running: bool) -> Iterator[Finding]:
    """Check all that matters for the nodes that start on this machine. ``running``: they run already."""
    gateways = [node.settings for node in topology.local_nodes() if isinstance(node.settings, GatewaySettings)]
    feeds = [node for node in topology.local_nodes() if isinstance(node.settings, FeedSettings)]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if gateways:
        yield open_files(hard, topology.limits.clients_max)
        yield backlog(_sysctl("net/core/somaxconn"))
    if feeds:
        yield receive_buffer(_sysctl("net/core/rmem_max"), os.geteuid() == 0)
    yield cores(len(os.sched_getaffinity(0)), len(topology.local_nodes()))
    yield memory(_available_bytes(), len(topology.local_nodes()))
    yield clock(*_clock_state())
    yield kernel_cache(compiled.CACHED, kernels.complete())
    if running:
        yield Finding("ports", "ok", "in use by the topology that runs here")
    else:
        yield from ports(topology)
    yield run_folder(folder)
    for settings in {node.publishes.journal for node in topology.local_nodes() if node.publishes}:
        if settings is not None:
            publishers = sum(1 for node in topology.local_nodes() if node.publishes and node.publishes.journal)
            yield journal(settings, publishers, _free_bytes(Path(settings.folder)))
    yield from cache(topology.cache)


def open_files(hard: int, clients_max: int) -> Finding:
    """``hard``: the limit of open files that a process may raise itself to."""
    needed = clients_max + machine.DESCRIPTORS_BESIDE_CLIENTS
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return Finding("open files", "ok", f"{'unlimited' if hard == resource.RLIM_INFINITY else f'{hard:,}'}")
    return Finding(
        "open files", "warn", f"{hard:,}, and limits.clients_max: {clients_max} needs {needed:,}",
        f"ulimit -n {needed}, LimitNOFILE={needed} in the unit, or a smaller limits.clients_max",
    )  # fmt: skip


def backlog(somaxconn: int | None) -> Finding:
    """``somaxconn``: how many connections may wait at one listening socket."""
    if somaxconn is None:
        return Finding("listen backlog", "ok", "not told by this kernel")
    if somaxconn >= BACKLOG:
        return Finding("listen backlog", "ok", f"{somaxconn:,}")
    return Finding("listen backlog", "warn", f"{somaxconn}: clients that come all at once are turned away",
                   f"sysctl -w net.core.somaxconn={BACKLOG}")  # fmt: skip


def receive_buffer(rmem_max: int | None, root: bool) -> Finding:
    """``rmem_max``: bytes that a process may ask for; root may ask for more (SO_RCVBUFFORCE)."""
    if rmem_max is None or root or rmem_max >= RECEIVE_BUFFER_BYTES:
        shown = "not told by this kernel" if rmem_max is None else f"{rmem_max:,} bytes"
        return Finding("receive buffers", "ok", shown + (", and this is root" if root else ""))
    return Finding("receive buffers", "warn", f"{rmem_max:,} bytes: a burst of packets may be dropped",
                   f"sysctl -w net.core.rmem_max={RECEIVE_BUFFER_BYTES}")  # fmt: skip


def cores(count: int, nodes: int) -> Finding:
    """``count``: cores that this process may use."""
    found = f"{count} for {nodes} nodes"
    if count >= 2:
        return Finding("cores", "ok", found)
    return Finding("cores", "warn", f"{found}: latency will be that of the scheduler",
                   "give it two cores or more (taskset, a container's cpus), or spread nodes: hosts:")  # fmt: skip


def memory(available: int | None, nodes: int) -> Finding:
    """``available``: bytes that can be had without swapping."""
    needed = nodes * MEMORY_BYTES_A_NODE
    if available is None or available >= needed:
        return Finding("memory", "ok", "not told" if available is None else f"{available >> 20:,} MB available")
    return Finding("memory", "warn", f"{available >> 20:,} MB available, {nodes} nodes want about {needed >> 20:,} MB",
                   "end what else runs, or spread the nodes over hosts:")  # fmt: skip


def clock(synchronized: bool | None, error_ns: int) -> Finding:
    """``error_ns``: the kernel's own bound of how far its clock is off."""
    fix = "run chrony or systemd-timesyncd (timedatectl set-ntp true); for microseconds PTP"
    if synchronized is None:
        return Finding("clock", "warn", "the kernel does not tell whether it is synchronized", fix)
    if not synchronized:
        return Finding("clock", "warn", "not synchronized: latencies across machines and event times are off", fix)
    shown = f"synchronized, at most {error_ns / 1e6:,.3g} ms off"
    return Finding("clock", *(("ok", shown) if error_ns <= CLOCK_ERROR_NS else ("warn", shown, fix)))


def kernel_cache(cached: bool, complete: bool) -> Finding:
    """``cached``: whether machine code can be kept; ``complete``: whether all of it is there."""
    where = str(compiled.CACHE_FOLDER.parent) if compiled.CACHE_FOLDER else ""
    if not cached:
        return Finding("kernels", "warn", "their machine code cannot be kept: each start compiles all of it",
                       "FABRIC_KERNEL_CACHE=<folder that can be written>")  # fmt: skip
    if not complete:
        return Finding("kernels", "ok", f"not compiled yet: the first start takes some minutes ({where})")
    return Finding("kernels", "ok", f"compiled ({where})")


def ports(topology: Topology) -> Iterator[Finding]:
    """Every port that cannot be bound."""
    wanted = machine.ports(topology)
    taken = [why for port in wanted if (why := machine.problem_of(port))]
    for why in taken:
        yield Finding("ports", "alarm", why, "stop what holds it, or change the port in the topology (ports:, port:)")
    if not taken:
        yield Finding("ports", "ok", f"{len(wanted)} free")


def run_folder(folder: RunFolder) -> Finding:
    """Whether the run folder can be written."""
    place = next(path for path in (folder.path, *folder.path.parents) if path.exists())
    if os.access(place, os.W_OK):
        return Finding("run folder", "ok", str(folder.path))
    return Finding("run folder", "alarm", f"{place} cannot be written", "FABRIC_RUN_DIR=<folder of this user>")


def journal(settings: JournalSettings, publishers: int, free: int | None) -> Finding:
    """``free``: bytes on the disk of the log's folder."""
    needed = publishers * settings.bytes_max
    if free is None or free >= needed:
        shown = "not told" if free is None else f"{free >> 20:,} MB free"
        return Finding("log disk", "ok", f"{shown}, the log takes at most {needed >> 20:,} MB")
    return Finding("log disk", "warn", f"{free >> 20:,} MB free, and the log takes up to {needed >> 20:,} MB",
                   "a larger disk (journal.folder), or less: journal.bytes, journal.keep")  # fmt: skip


def cache(settings: CacheSettings) -> Iterator[Finding]:
    """Whether each Redis server answers."""
    if settings.mode == "off":
        return
    if settings.mode == "embedded":
        yield Finding("redis", "ok", "the topology starts its own")
        return
    for url in settings.servers:
        problem = _ping(url)
        shown = url.rpartition("@")[2] if "@" in url else url
        if problem:
            yield Finding("redis", "alarm", f"{shown}: {problem}", "start it, or name another: cache.server, REDIS_URL")
        else:
            yield Finding("redis", "ok", f"{shown} answers")


def _ping(url: str) -> str:
    """Why a server does not answer; empty where it does, also where it wants to know first who asks."""
    parts = urlsplit(url)
    if parts.scheme == "rediss":
        return ""  # TLS: the writer will tell
    try:
        if parts.scheme == "unix":
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(_CONNECT_S)
            connection.connect(parts.path)
        else:
            connection = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), _CONNECT_S)
        with connection:
            connection.sendall(b"PING\r\n")
            answer = connection.recv(64)
    except OSError as error:
        return error.strerror or str(error)
    return "" if answer.startswith((b"+PONG", b"-NOAUTH", b"-WRONGPASS")) else f"it answers {answer!r}, not as Redis"


def _sysctl(name: str) -> int | None:
    with suppress(OSError, ValueError):
        return int((Path("/proc/sys") / name).read_text())
    return None


def _available_bytes() -> int | None:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) << 10
    return None


def _free_bytes(folder: Path) -> int | None:
    place = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    return None if place is None else shutil.disk_usage(place).free


def _clock_state() -> tuple[bool | None, int]:
    """Whether the kernel's clock is synchronized, and its bound of the error in ns: adjtimex(2), which only reads."""
    timex = ctypes.create_string_buffer(256)  # struct timex: modes (int), offset, freq, maxerror (long), ...
    libc: Any = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(timex)
    if state < 0:
        return None, 0
    (error_us,) = struct.unpack_from("@q", timex.raw, 24)
    return state != _TIME_ERROR, error_us * 1_000
