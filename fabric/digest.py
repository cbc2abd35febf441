"""A hash of what processors have said, the same for the same words: of a live run, of its replay, of each replay.

It stands for what each topic said, in its order: all keys of the market, but not when it was said (``t1``, ``t2``,
``t3``), nor the numbers that depend on restarts and repetitions (``N``, ``E``, ``O``). Of candles it takes what is a
function of the trades, the revisions above 0. How topics were mixed, and which shard said them, makes no difference:
hashes of several publishers are added. 128 bits against chance, not against an adversary.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fabric import codec, digest_kernel
from fabric.codec_kernel import WIRE_LIST, WIRE_TEXT
from fabric.digest_kernel import AS_IS, FIRST, HIGH, LIMIT, LOW, PLAN_WIDTH, STRIDE, TEXT
from fabric.journal import NO_END, Cursor, Query, segments
from fabric.logged import rows_of
from fabric.records import BAR, CHANNELS, DTYPES, VENUE_CHANNELS, Rows, columns
from fabric.sequence_kernel import VENUE_STRIDE
from fabric.symbols import SymbolTable

LEFT_OUT = ("seq", "epoch", "position", "recv_ns", "feed_ns", "proc_ns")
WORD = (1 << 64) - 1
KINDS = max(CHANNELS.values()) + 1


def _plan(channels: Iterable[str], symbols: int) -> tuple[npt.NDArray[np.int64], int]:
    """What counts, by kind, and how many topics there may be."""
    plan = np.zeros((KINDS, PLAN_WIDTH), np.int64)
    plan[:, [LIMIT, FIRST]] = -1
    total = 0
    for channel in channels:
        kind = CHANNELS[channel]
        names = DTYPES[kind].names
        assert names is not None
        plan[kind, FIRST] = total
        plan[kind, STRIDE] = VENUE_STRIDE if channel in VENUE_CHANNELS else 1
        total += symbols * int(plan[kind, STRIDE])
        for _, column, wire in codec.FIELDS[kind]:
            if column not in LEFT_OUT:
                plan[kind, names.index(column)] = TEXT if wire in (WIRE_TEXT, WIRE_LIST) else AS_IS
        if DTYPES[kind] == BAR:
            plan[kind, LIMIT] = names.index("rev")
    return plan, total


class Digest:
    """The hash of what one publisher says, by channel."""

    def __init__(self, symbols: SymbolTable, channels: Iterable[str]) -> None:
        self._symbols = symbols
        self._channels = tuple(channel for channel in channels if CHANNELS[channel] in codec.FIELDS)
        self._plan, total = _plan(self._channels, symbols.capacity)
        self._chains = np.zeros((total, 2), np.int64)

    def add(self, rows: Rows) -> None:
        """Take rows in the order in which they are published; those of other channels do not count."""
        digest_kernel.add(columns(rows), self._plan, self._chains)

    def hashes(self) -> dict[str, str]:
        """By channel, 32 hexadecimal digits; only channels of which something was said."""
        words = self._symbols.arrays.words[: len(self._symbols), :2]
        found = {}
        for channel in self._channels:
            first, stride = self._plan[CHANNELS[channel], [FIRST, STRIDE]].tolist()
            chains = self._chains[first : first + stride * words.shape[0]]
            said = np.flatnonzero(chains.any(axis=1))
            if said.size:
                names, venues, chains = words[said // stride], said % stride, chains[said]
                sums = []
                for lane, factor in enumerate((LOW, HIGH)):
                    mixed = _mixed(chains[:, lane] ^ names[:, 0], factor)
                    sums.append(int(_mixed(_mixed(mixed ^ names[:, 1], factor) ^ venues, factor).sum()))
                found[channel] = f"{sums[0] & WORD:016x}{sums[1] & WORD:016x}"
        return found


def of_log(folder: Path, channels: Iterable[str], first: int = 1, last: int = NO_END) -> dict[str, str]:
    """The hashes of what a publisher's log holds from position ``first`` to ``last``. Raises CodecError, OSError."""
    symbols = SymbolTable(1 << 16)
    digest = Digest(symbols, channels)
    listing = segments(folder)
    for rows in rows_of(Cursor(lambda: listing, Query(first, last)), symbols):
        digest.add(rows)
    return digest.hashes()


def together(hashes: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The hash of what several publishers have said, each of topics of its own."""
    sums: dict[str, tuple[int, int]] = {}
    for each in hashes:
        for channel, text in each.items():
            low, high = sums.get(channel, (0, 0))
            sums[channel] = low + int(text[:16], 16) & WORD, high + int(text[16:], 16) & WORD
    return {channel: f"{low:016x}{high:016x}" for channel, (low, high) in sorted(sums.items())}


def _mixed(words: npt.NDArray[np.int64], factor: int) -> npt.NDArray[np.int64]:
    mixed: npt.NDArray[np.int64] = words * np.int64(factor)
    return mixed ^ (mixed >> np.int64(29))
