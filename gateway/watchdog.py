"""Says in the log where the loop is stuck: the loop itself cannot, and afterwards nobody knows.

A thread of its own looks at when the loop last turned. It can run because whatever blocks a loop in practice (a
sleep, a file, a socket, a long calculation in Python) lets go of the GIL now and then.
"""

import logging
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Final, Self

BLOCKED_AFTER_S: Final = 2.0
LOOKS: Final = 8
"""Looks at the loop within ``blocked_after_s``: a block is seen late by no more than this part of it."""


class Watchdog:
    """Watches the thread that enters it: until it leaves, its loop must turn. To be entered once.

    Each block is one warning with the stack that it is stuck in, and one line when it is over.
    """

    def __init__(self, log: logging.Logger, blocked_after_s: float = BLOCKED_AFTER_S) -> None:
        self._log = log
        self._blocked_after_s = blocked_after_s
        self._ident = 0
        self._turned_s = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._ident = threading.get_ident()
        self.turned()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def turned(self) -> None:
        """The loop has turned."""
        self._turned_s = time.monotonic()

    def _watch(self) -> None:
        blocked_since_s: float | None = None
        while not self._stopped.wait(self._blocked_after_s / LOOKS):
            turned_s = self._turned_s
            if blocked_since_s is not None and turned_s != blocked_since_s:
                self._log.warning("the loop turns again: it was blocked for %.1f s", turned_s - blocked_since_s)
                blocked_since_s = None
            idle_s = time.monotonic() - turned_s
            if blocked_since_s is None and idle_s >= self._blocked_after_s:
                blocked_since_s = turned_s
                stack = "".join(traceback.format_stack(sys._current_frames()[self._ident]))
                self._log.warning("the loop has not turned for %.1f s; it is in\n%s", idle_s, stack)
