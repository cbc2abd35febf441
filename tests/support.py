"""What tests share that is no fixture: the product's own environment, free ports."""

import os
import socket

TEST_ONLY = ("NUMBA_BOUNDSCHECK", "FABRIC_KERNEL_CACHE")
"""Set by `conftest.py` for kernels under test; a topology that a test starts runs as a user's does."""


def product_environment(**extra: str) -> dict[str, str]:
    """The environment for a real `fabric` process: kernels unchecked and from the product's own cache."""
    return {name: value for name, value in os.environ.items() if name not in TEST_ONLY} | extra


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that is free at this moment (SOCK_DGRAM for UDP)."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def random_count(few: int) -> int:
    """How many random messages or packets a test makes: FABRIC_FUZZ, or few."""
    return int(os.environ.get("FABRIC_FUZZ", few))
