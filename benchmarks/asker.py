"""Asks a gateway's REST at a steady rate while something else is measured.

Requests are due at fixed times on connections that stay open, which the kernel deals out to the processes of a gateway.
Latency is from the due time to the last byte, so that one slow answer makes those behind it late too.
"""

import http.client
import itertools
import threading
import time
from typing import Final

import numpy as np

CONNECTIONS: Final = 8
TIMEOUT_S: Final = 5.0


class Asker:
    """``rate`` requests a second of these paths in turn, from `begin` to `finish`."""

    def __init__(self, port: int, rate: float, paths: list[str]) -> None:
        self._port = port
        self._period_s = CONNECTIONS / rate
        self._paths = paths
        self._stopping = threading.Event()
        self._took_ms: list[float] = []
        self._failed: list[str] = []
        self._threads: list[threading.Thread] = []

    def begin(self) -> None:
        started_s = time.monotonic()
        for number in range(CONNECTIONS):
            due_s = started_s + number * self._period_s / CONNECTIONS
            self._threads.append(threading.Thread(target=self._ask, args=(number, due_s), daemon=True))
            self._threads[-1].start()

    def finish(self) -> str:
        """Stop; say what came of it."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        count = len(self._took_ms) + len(self._failed)
        p50, p99, most = np.percentile(self._took_ms or [0.0], (50, 99, 100)).tolist()
        return (
            f"{count} requests: p50 {p50:.1f}  p99 {p99:.1f}  max {most:.1f} ms, {len(self._failed)} failed"
            f" {sorted(set(self._failed)) or ''}"
        )

    def _ask(self, first: int, due_s: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        for path in itertools.islice(itertools.cycle(self._paths), first, None, CONNECTIONS):
            if self._stopping.wait(max(0.0, due_s - time.monotonic())):
                break
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                if answer.status == http.HTTPStatus.OK:
                    self._took_ms.append((time.monotonic() - due_s) * 1_000)
                else:
                    self._failed.append(str(answer.status))
            except (OSError, http.client.HTTPException) as error:
                self._failed.append(type(error).__name__)
                connection.close()
            due_s += self._period_s
        connection.close()
