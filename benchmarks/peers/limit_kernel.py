"""The loop of `limit_server`."""

from typing import Any

import numpy as np
from numba import njit

from fabric import native


@njit
def send_share(fds: Any, starts: Any, frames: Any, first: int, stop: int) -> int:
    """Send frames number ``first`` to ``stop``, the clients taking turns; return how many went whole."""
    whole = 0
    flags = np.int32(native.MSG_DONTWAIT | native.MSG_NOSIGNAL)
    for number in range(first, stop):
        client = number % fds.size
        size = starts[client + 1] - starts[client]
        sent = np.int64(native.send(np.int32(fds[client]), frames.ctypes.data + starts[client], size, flags))
        if sent == size:
            whole += 1
    return whole
