"""A gateway that cannot keep its intervals lengthens them by itself, and takes that back when it is calm (pure).

Judged are seconds, each by the clients that were served in it and how late that was: a second is late when most of them
were served more than `LATE_NS` late, and calm when most were served less than `CALM_NS` late. One late second begins a
surge, ten calm ones in a row end it. What would begin none must not hold one: on a busy machine some always wait for a
processor. How the gateway's turns went decides nothing: handshakes may keep a turn long while every client has its
frame in time, and a short turn may be one of hundreds that a late round needs.
"""

from typing import Final

from fabric.clock import MILLISECOND_NS, SECOND_NS

LATE_NS: Final = 50 * MILLISECOND_NS
CALM_NS: Final = 20 * MILLISECOND_NS
JUDGED_NS: Final = SECOND_NS
PAUSE_NS: Final = SECOND_NS // 4
"""A turn that took longer counts as one of this length: after a pause all are late once, which is no late second."""
CALM_FOR: Final = 10
"""Calm seconds that end a surge."""
SHORTEST_MS: Final = 500
"""Nobody is served more often in a surge."""


class Surge:
    """Judges from how late clients are served. Times are of the monotonic clock."""

    def __init__(self) -> None:
        self.on = False
        self.begun = 0
        """How many there were."""
        self._turned_ns: int | None = None
        self._judged_ns = 0  # of the second under way
        self._served = self._late = self._restless = 0  # in it
        self._calm = 0  # calm seconds in a row

    def changed(self, served: int, late: int, restless: int, now_ns: int) -> bool:
        """Take in how many clients one turn served; True when a surge begins or ends with it.

        ``late`` of them were served more than `LATE_NS` after they were due, ``restless`` at least `CALM_NS`, late ones
        included.
        """
        if self._turned_ns is not None:
            self._judged_ns += min(now_ns - self._turned_ns, PAUSE_NS)
        self._turned_ns = now_ns
        self._served += served
        self._late += late
        self._restless += restless
        if self._judged_ns < JUDGED_NS:
            return False
        is_late, is_calm = 2 * self._late > self._served, 2 * self._restless <= self._served
        self._judged_ns = self._served = self._late = self._restless = 0
        self._calm = self._calm + 1 if is_calm else 0
        if self._calm < CALM_FOR if self.on else not is_late:
            return False
        self.on = not self.on
        self.begun += self.on
        self._calm = 0
        return True
