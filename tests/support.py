"""What tests share that is no fixture: the product's own environment, free ports, small file systems, capture files."""

import os
import random
import socket
import struct
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

TEST_ONLY = ("NUMBA_BOUNDSCHECK", "FABRIC_KERNEL_CACHE")
"""Set by `conftest.py` for kernels under test; a topology that a test starts runs as a user's does."""


def product_environment(**extra: str) -> dict[str, str]:
    """The environment for a real `fabric` process: kernels unchecked and from the product's own cache."""
    return {name: value for name, value in os.environ.items() if name not in TEST_ONLY} | extra


@contextmanager
def file_system(place: Path, megabytes: int) -> Iterator[None]:
    """A file system of this size at ``place``. Only root may mount one: CI is root, where a skip is a failure."""
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs a privilege that this user has not")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


_GIVEN: Final = deque[int](maxlen=1_000)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that is free at this moment (SOCK_DGRAM for UDP), below those that the kernel gives to
    clients: of these a reader that connects again and again would one day get the very port that it asks for.

    Test processes that run at once (pytest-xdist numbers them) choose among different ones, so that none takes what
    another has chosen and not yet bound.
    """
    number, count = _worker()
    each = (32_000 - 15_000) // count
    while True:
        port = random.randrange(15_000 + number * each, 15_000 + (number + 1) * each)
        if port in _GIVEN:  # chosen, and perhaps not yet bound
            continue
        with socket.socket(socket.AF_INET, kind) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _GIVEN.append(port)
            return port


def _worker() -> tuple[int, int]:
    """The number of this test process, from 0, and how many there are."""
    number = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return int(number), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def random_count(few: int) -> int:
    """How many random messages or packets a test makes: FABRIC_FUZZ, or few."""
    return int(os.environ.get("FABRIC_FUZZ", few))


def capture_of(path: Path, *payloads: bytes, recv_ns: int = 5_000_000_007) -> Path:
    """Write UDP payloads, all captured at ``recv_ns``, as a pcap file of raw IPv4."""
    seconds, fraction = divmod(recv_ns, 10**9)
    data = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 101)
    for payload in payloads:
        udp = struct.pack(">HHHH", 1, 2, 8 + len(payload), 0) + payload
        ip = struct.pack(">BBHHHBBH4B4B", 0x45, 0, 20 + len(udp), 0, 0, 9, 17, 0, 10, 0, 0, 1, 10, 0, 0, 2) + udp
        data += struct.pack("<IIII", seconds, fraction, len(ip), len(ip)) + ip
    path.write_bytes(data)
    return path
