"""The last row of each topic with its sequence number, for whoever comes late (pure).

One table a publisher: a slot for each (channel, symbol) or (channel, symbol, venue) that it owns. The
bus kernels write it as they send; `select` reads it from the snapshot thread. Kernels that write hold the
GIL, and each read here is one numpy call that holds it too, so no row is ever seen half written.
"""

import numpy as np
import numpy.typing as npt

from fabric import topics
from fabric.records import CHANNELS, EVENT, STATE_CHANNELS, VENUE_CHANNELS, WIDTH, Rows
from fabric.symbols import SymbolTable

KINDS = max(CHANNELS.values()) + 1


class LastValues:
    """What a publisher has last said on each of its topics. Memory is touched only for symbols in use."""

    def __init__(self, channels: tuple[str, ...], venues: str, symbols: SymbolTable) -> None:
        """``venues``: letters that the publisher speaks for; venue channels have a slot for none and for each."""
        self.channels = channels
        self.symbols = symbols
        self.layout = np.full((KINDS, 2), -1, np.int64)  # first slot and slots a symbol, by kind
        self.venue_slot = np.full(256, -1, np.int64)
        self.venue_slot[0] = 0
        for number, letter in enumerate(venues, 1):
            self.venue_slot[ord(letter)] = number
        total = 0
        for channel in channels:
            stride = 1 + len(venues) if channel in VENUE_CHANNELS else 1
            self.layout[CHANNELS[channel]] = total, stride
            total += stride * symbols.capacity
        self.rows = np.zeros((total, WIDTH), np.int64)
        self.sent_ns = np.zeros(total, np.int64)

    def state_ranges(self) -> list[tuple[int, int]]:
        """Slots [start, stop) in use of each channel that holds a state."""
        count = len(self.symbols)
        kinds = [CHANNELS[channel] for channel in self.channels if channel in STATE_CHANNELS]
        return [(int(first), int(first + count * stride)) for first, stride in self.layout[kinds].tolist()]

    def in_use(self) -> npt.NDArray[np.int64]:
        """The slots that hold a row."""
        count = len(self.symbols)
        used = [np.zeros(0, np.int64)]
        for first, stride in self.layout.tolist():
            if first >= 0:
                used.append(first + np.flatnonzero(self.rows[first : first + count * stride, 3] > 0))
        return np.concatenate(used)

    def select(self, prefix: str) -> Rows:
        """Return a copy of the last row of every topic that begins with ``prefix``, in the order of the table."""
        chosen: list[npt.NDArray[np.int64]] = []
        for channel in topics.prefix_channels(prefix):
            if channel not in self.channels:
                continue
            first, stride = self.layout[CHANNELS[channel]].tolist()
            rest = prefix[len(channel) + 1 :]
            name, bar, venue = rest.partition("|")
            if bar:
                found = self.symbols.find(name)
                ids = np.array([found] if found >= 0 else [], np.int64)
            else:
                ids = self._beginning_with(name)
            slots = (first + ids[:, None] * stride + np.arange(stride)).reshape(-1)
            rows = self.rows[slots]
            rows = rows[rows[:, 3] > 0]
            if venue:
                rows = rows[rows[:, 2] == ord(venue[0])]
            chosen.append(rows)
        rows = np.concatenate(chosen) if chosen else np.empty((0, WIDTH), np.int64)
        return rows.view(EVENT).reshape(rows.shape[0])

    def _beginning_with(self, name: str) -> npt.NDArray[np.int64]:
        raw = np.frombuffer(name.encode("utf-8"), np.uint8)
        if raw.size > self.symbols.arrays.names.shape[1]:
            return np.empty(0, np.int64)
        names = self.symbols.arrays.names[: len(self.symbols), : raw.size]
        return np.flatnonzero((names == raw).all(axis=1))
