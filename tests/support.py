"""What tests share that is no fixture: the product's own environment, free ports, capture files."""

import os
import random
import socket
from contextlib import suppress
import struct
from pathlib import Path

TEST_ONLY = ("NUMBA_BOUNDSCHECK", "FABRIC_KERNEL_CACHE")
"""Set by `conftest.py` for kernels under test; a topology that a test starts runs as a user's does."""


def product_environment(**extra: str) -> dict[str, str]:
    """The environment for a real `fabric` process: kernels unchecked and from the product's own cache."""
    return {name: value for name, value in os.environ.items() if name not in TEST_ONLY} | extra


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that is free at this moment (SOCK_DGRAM for UDP), below those that the kernel gives to clients:
    of these a reader that connects again and again would one day get the very port that it asks for.
    """
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket(socket.AF_INET, kind) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
