"""What the launcher asks of the machine: free ports, room for descriptors, what a process uses, systemd's socket.

Read from `/proc` (proc(5)) and by plain system calls: no dependency, and no process is started for it.
"""

import errno
import os
import resource
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fabric.clock import SECOND_NS
from fabric.errors import UnavailableError
from fabric.topology import CacheSettings, FeedSettings, GatewaySettings, Topology

_TCP_LISTEN = "0A"
DESCRIPTORS_BESIDE_CLIENTS = 512
"""Of a gateway: bus links, HTTP requests, files, the interpreter's own."""
_HANDOVER_S = 1.0
"""How long a port may still be held by the nodes of a launcher that has just been killed."""


@dataclass(frozen=True)
class Port:
    """An address that a node will bind."""

    node: str
    use: str  # PUB | ROUTER | HTTP | Redis | UDP | metrics
    host: str
    number: int
    shared: bool = False  # by several nodes: the processes of one gateway


@dataclass(frozen=True)
class Usage:
    """What a process has used."""

    cpu_ns: int
    rss_bytes: int
    ended: bool  # a zombie: its parent has not taken notice yet


def addressed(hosts: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The names of those of ``hosts``, (name, address), whose address is one of this machine's."""
    return tuple(name for name, address in hosts if _is_ours(address))


def _is_ours(address: str) -> bool:
    with suppress(OSError):
        for family, kind, protocol, _, where in socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM):
            with suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.bind(where)
                return True
    return False


def ports(topology: Topology) -> list[Port]:
    """Every port that the nodes started here bind, in start order. Multicast lines may be shared and are left out."""
    found: list[Port] = []
    for node in topology.local_nodes():
        if node.publishes is not None:
            publisher = node.publishes
            for use, address in (
                ("PUB", publisher.bind or publisher.endpoint),
                ("ROUTER", publisher.snapshot_bind or publisher.snapshot_endpoint),
            ):
                if address.startswith("tcp://"):
                    host, _, number = address.removeprefix("tcp://").rpartition(":")
                    found.append(Port(node.name, use, "0.0.0.0" if host == "*" else host.strip("[]"), int(number)))
        match node.settings:
            case GatewaySettings(host=host, port=port, processes=processes):
                found.append(Port(node.name, "HTTP", host, port, processes > 1))
            case FeedSettings(source="", lines=lines):
                found += [Port(node.name, "UDP", host, number) for host, number in lines if not _is_multicast(host)]
            case CacheSettings(mode="embedded", servers=(server,)) if node.role == "cache":
                url = urlsplit(server)
                found.append(Port(node.name, "Redis", url.hostname or "127.0.0.1", url.port or 6379))
            case _:
                pass
    if topology.metrics is not None:
        found.append(Port("fabric", "metrics", *topology.metrics))
    return found


def check_ports(wanted: Iterable[Port]) -> None:
    """Raise UnavailableError for the first port that cannot be bound, naming who holds it.

    A gateway's own sockets share a port (SO_REUSEPORT), so that a second topology of the same user would steal
    half of the connections unseen: these probes do not share.
    """
    until = time.monotonic() + _HANDOVER_S
    for port in wanted:
        while (problem := _probe(port)) is not None:
            if problem.errno == errno.EADDRINUSE and time.monotonic() < until:
                time.sleep(0.02)
                continue
            raise UnavailableError(_explain(port, problem))


def problem_of(port: Port) -> str:
    """Why a port cannot be bound, in a sentence that names who holds it; empty where it can."""
    problem = _probe(port)
    return "" if problem is None else _explain(port, problem)


def holder(number: int, udp: bool = False) -> str:
    """Who has bound a local port: ``pid 123 (command line)``, or what can be said without root."""
    inodes = set()
    for table in ("udp", "udp6") if udp else ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == number and (udp or fields[3] == _TCP_LISTEN):
                    inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) in inodes:
                    words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
                    command = " ".join(words)  # one line, whatever its arguments are
                    return f"pid {process.name} ({command[:120]})"
    return "a process of another user" if inodes else "a process that has just let go of it"


def raise_file_limit(topology: Topology) -> str | None:
    """Raise the limit of open files as far as this user may; a warning with the numbers where that is too little."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    needed = topology.limits.clients_max + DESCRIPTORS_BESIDE_CLIENTS
    gateways = any(isinstance(node.settings, GatewaySettings) for node in topology.local_nodes())
    if not gateways or soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    return (
        f"open files are limited to {soft}, but limits.clients_max: {topology.limits.clients_max} needs {needed}: "
        f"a gateway will hold about {max(0, soft - DESCRIPTORS_BESIDE_CLIENTS)} clients (ulimit -n {needed})"
    )


def usage(pid: int) -> Usage | None:
    """Processor time and resident memory of a process; None when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    cpu_ns = (int(fields[11]) + int(fields[12])) * SECOND_NS // os.sysconf("SC_CLK_TCK")
    return Usage(cpu_ns, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), fields[0] == "Z")


def notify_systemd(text: str) -> None:
    """Tell systemd (sd_notify(3)) if it has asked to be told; a lost datagram is its loss."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notifier:
        notifier.sendto(text.encode(), "\0" + address[1:] if address.startswith("@") else address)


def watchdog_ns() -> int | None:
    """How often systemd wants a sign of life: half of what it would wait, None if it does not ask this process."""
    text = os.environ.get("WATCHDOG_USEC", "")
    if not text.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) * 1_000 // 2 or None


def _is_multicast(host: str) -> bool:
    return host.partition(".")[0].isdigit() and 224 <= int(host.partition(".")[0]) < 240


def _probe(port: Port) -> OSError | None:
    """Why ``port`` cannot be bound; None if it is free."""
    family = socket.AF_INET6 if ":" in port.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if port.use == "UDP" else socket.SOCK_STREAM) as probe:
        if port.use != "UDP":  # connections of an earlier run that linger in TIME_WAIT are no obstacle
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host, port.number))
        except OSError as error:
            return error
    return None


def _explain(port: Port, problem: OSError) -> str:
    what = f"port {port.number} on {port.host} ({port.use} of {port.node})"
    if problem.errno == errno.EADDRINUSE:
        return f"{what} is in use by {holder(port.number, port.use == 'UDP')}"
    if problem.errno == errno.EACCES and port.number < 1024:
        return (
            f"{what} needs root: choose a port from 1024 on, or allow it by "
            f"`sysctl net.ipv4.ip_unprivileged_port_start={port.number}`"
        )
    return f"{what} cannot be bound: {problem.strerror}"
