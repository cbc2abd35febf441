"""What the peers publish: a gateway's own JSON text, every symbol 10 times a second (standard library only).

The symbols take turns, a five-hundredth of them each 2 ms; those of one tick share its scheduled time.
"""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

TICK_S = 0.002
PERIOD_TICKS = 50


def names(path: str) -> list[str]:
    """The symbols, from a JSON file."""
    return list(json.loads(Path(path).read_text()))


class Feed:
    """Messages that are due."""

    def __init__(self, symbols: list[str]) -> None:
        self.symbols = symbols
        self._heads = [
            f'{{"T":"q","S":"{name}","bx":"V","bp":185.5,"bs":100,"ax":"V","ap":185.52,"as":200,"c":[],"z":null,"t":"'.encode()
            for name in symbols
        ]
        self._started_s = time.time()
        self._ticks = 0

    def due(self) -> Iterator[tuple[int, bytes]]:
        """Each (symbol's index, message) whose time has come since the last call."""
        until = int((time.time() - self._started_s) / TICK_S)
        while self._ticks < until:
            at_ns = int((self._started_s + self._ticks * TICK_S) * 1e9)
            moment = datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            tail = f'{moment}.{at_ns % 1_000_000_000:09d}Z"}}'.encode()
            for symbol in range(self._ticks % PERIOD_TICKS, len(self.symbols), PERIOD_TICKS):
                yield symbol, self._heads[symbol] + tail
            self._ticks += 1
