"""Durable logs of feeds as a recording: what they published, merged by the time of publication.

Several feeds meet in the order of their stamps ``t2``, those of one log in its own order, equal stamps in the order of
the publishers' names: a function of the logs alone, so every replay of a range is the same stream.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fabric import journal
from fabric.errors import CaptureError, CodecError
from fabric.journal import Cursor, Query
from fabric.logged import rows_of
from fabric.records import Rows
from fabric.symbols import SymbolTable
from fabric.topics import channel_of

CHANNELS = ("quote", "trade", "status")
PREFIXES = tuple(f"{channel}.".encode() for channel in CHANNELS)


def folders(source: Path) -> list[Path]:
    """The logs of feeds in a folder of logs, or the folder itself where it is one; empty where there are none."""
    if not source.is_dir():
        return []
    candidates = [source, *sorted(path for path in source.iterdir() if path.is_dir())]
    return [path for path in candidates if journal.files(path) and _is_feed(path)]


def _is_feed(folder: Path) -> bool:
    listing = journal.segments(folder)
    for _, _, _, topic, _ in journal.records(Cursor(lambda: listing[:1], Query())):
        return channel_of(topic.decode("ascii", "replace")) in CHANNELS
    return False


@dataclass
class _Log:
    """One log on its way: the rows that are decoded and not given yet."""

    blocks: Iterator[Rows]
    folder: Path
    rows: list[Rows] = field(default_factory=list)
    ended: bool = False

    def fill(self) -> None:
        """Have rows at hand, unless the log is at its end."""
        if self.rows or self.ended:
            return
        try:
            block = next(self.blocks, None)
        except CodecError as error:
            raise CaptureError(f"{self.folder}: a logged message cannot be read: {error}") from error
        if block is None:
            self.ended = True
        else:
            self.rows.append(block)

    def until(self, stamp_ns: int) -> Rows:
        """Take the rows that were published up to ``stamp_ns``."""
        (rows,) = self.rows
        count = int(np.searchsorted(np.maximum.accumulate(rows["feed_ns"]), stamp_ns, "right"))
        self.rows = [rows[count:]] if count < rows.size else []
        return rows[:count]


def read(paths: list[Path], symbols: SymbolTable, from_ns: int, to_ns: int) -> Iterator[Rows]:
    """The rows that the logs hold of [from_ns, to_ns), merged; each array good for ever. Raises CaptureError."""
    logs = []
    for path in paths:
        listing = journal.segments(path)
        cursor = Cursor(lambda listing=listing: listing, Query(from_ns=max(from_ns, 0), prefixes=PREFIXES))  # type: ignore[misc]
        logs.append(_Log(rows_of(cursor, symbols), path))
    while True:
        for log in logs:
            log.fill()
        logs = [log for log in logs if log.rows]
        if not logs:
            return
        # Up to where every log is known: at least one of them is used up.
        stamp_ns = min(int(log.rows[0]["feed_ns"].max()) for log in logs)
        merged = np.concatenate([log.until(stamp_ns) for log in logs])
        merged = merged[np.argsort(merged["feed_ns"], kind="stable")]
        if merged["feed_ns"][0] >= to_ns:
            return
        yield merged[merged["feed_ns"] < to_ns]
