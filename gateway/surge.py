"""A gateway that cannot keep its intervals lengthens them by itself, and takes that back when it is calm (pure).

Judged are seconds, each by its turns: a second is late when most of them were, and calm when nine in ten were. One late
second begins a surge, ten calm ones in a row end it. A single turn decides nothing: on a busy machine some always wait
for a processor, and a pause of the collector is no surge.
"""

from typing import Final

from fabric.clock import MILLISECOND_NS, SECOND_NS

LATE_NS: Final = 50 * MILLISECOND_NS
CALM_NS: Final = 20 * MILLISECOND_NS
JUDGED_NS: Final = SECOND_NS
CALM_FOR: Final = 10
"""Calm seconds that end a surge."""
SHORTEST_MS: Final = 500
"""Nobody is served more often in a surge."""


class Surge:
    """Judges from how late clients are served, turn by turn. Times are of the monotonic clock."""

    def __init__(self) -> None:
        self.on = False
        self.begun = 0
        """How many there were."""
        self._from_ns: int | None = None  # when the second under way began
        self._turns = self._late = self._restless = 0  # of it
        self._calm = 0  # calm seconds in a row

    def changed(self, late_ns: int, now_ns: int) -> bool:
        """Take the lateness of one turn; True when a surge begins or ends with it."""
        if self._from_ns is None:
            self._from_ns = now_ns
        self._turns += 1
        self._late += late_ns > LATE_NS
        self._restless += late_ns >= CALM_NS
        if now_ns - self._from_ns < JUDGED_NS:
            return False
        late, calm = 2 * self._late > self._turns, 10 * self._restless <= self._turns
        self._from_ns, self._turns, self._late, self._restless = now_ns, 0, 0, 0
        self._calm = self._calm + 1 if calm else 0
        if self._calm < CALM_FOR if self.on else not late:
            return False
        self.on = not self.on
        self.begun += self.on
        self._calm = 0
        return True
