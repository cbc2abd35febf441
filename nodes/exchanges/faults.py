"""What can go wrong on the way from an exchange, on demand and by a seed: the same faults for every wire (pure).

A packet that is about to leave comes out as what each line really carries: nothing, the packet, two of it, a broken
one, each with the delay after which it leaves and by how many others it is overtaken. Line A and line B have dice of
their own, so that what one loses the other mostly brings; ``drop_both`` loses the same packets on every line, which
only a request can mend.
"""

import random
from dataclasses import fields
from typing import Final, NamedTuple

from fabric.topology import FaultSettings

ON_LINES: Final = ("drop", "duplicate", "reorder", "corrupt", "mute", "flap_ns")
"""Faults that only the chosen lines have."""


class Copy(NamedTuple):
    """What a line carries of a packet."""

    line: int
    delay_ns: int
    behind: int
    """It leaves after so many packets of its line that would have followed it."""
    packet: bytes


class Faults:
    """The faults of one exchange's lines, with their dice."""

    def __init__(self, settings: FaultSettings, roles: str, seed: int, start_ns: int) -> None:
        """``roles`` has the letter of each line (``ABAB``: two groups); times count from ``start_ns``."""
        self._settings = settings
        self._roles = roles
        self._chosen = [letter in settings.lines for letter in roles]
        self._begin_ns = start_ns + settings.after_ns
        self._end_ns = self._begin_ns + settings.for_ns if settings.for_ns else None
        self._both = random.Random(f"{seed} both")
        self._dice = [random.Random(f"{seed} {line}") for line in range(len(roles))]
        self.counters = dict.fromkeys(("dropped", "muted", "duplicated", "reordered", "corrupted", "delayed"), 0)

    @staticmethod
    def wanted(settings: FaultSettings) -> bool:
        """Whether packets can meet any fault at all under these settings."""
        return any(
            getattr(settings, field.name)
            for field in fields(settings)
            if field.name in (*ON_LINES, "drop_both", "delay_ns")
        )

    def copies(self, packet: bytes, now_ns: int) -> list[Copy]:
        """What each line carries of a packet that leaves at ``now_ns``; call once for each packet, in order."""
        settings = self._settings
        delays = [settings.delay_ns if letter == "B" else 0 for letter in self._roles]
        if now_ns < self._begin_ns or (self._end_ns is not None and now_ns >= self._end_ns):
            return [Copy(line, delay_ns, 0, packet) for line, delay_ns in enumerate(delays)]
        if self._both.random() < settings.drop_both:
            self.counters["dropped"] += len(self._roles)
            return []
        found: list[Copy] = []
        for line, delay_ns in enumerate(delays):
            self.counters["delayed"] += delay_ns > 0
            if self._chosen[line]:
                found += self._on_line(line, delay_ns, packet, now_ns)
            else:
                found.append(Copy(line, delay_ns, 0, packet))
        return found

    def _on_line(self, line: int, delay_ns: int, packet: bytes, now_ns: int) -> list[Copy]:
        settings, dice, counters = self._settings, self._dice[line], self.counters
        if settings.mute or (settings.flap_ns and (now_ns - self._begin_ns) // settings.flap_ns % 2 == 0):
            counters["muted"] += 1
            return []
        if dice.random() < settings.drop:
            counters["dropped"] += 1
            return []
        behind = dice.randint(0, settings.reorder) if settings.reorder else 0
        counters["reordered"] += behind > 0
        if dice.random() < settings.corrupt:
            counters["corrupted"] += 1
            packet = self._broken(packet, dice)
        if dice.random() < settings.duplicate:
            counters["duplicated"] += 1
            return [Copy(line, delay_ns, behind, packet)] * 2
        return [Copy(line, delay_ns, behind, packet)]

    @staticmethod
    def _broken(packet: bytes, dice: random.Random) -> bytes:
        """One in four is cut short, the others have up to four wrong bytes."""
        if dice.random() < 0.25:
            return packet[: dice.randrange(len(packet))]
        broken = bytearray(packet)
        for _ in range(dice.randint(1, 4)):
            broken[dice.randrange(len(broken))] ^= dice.randint(1, 255)
        return bytes(broken)
