"""The symbols that a process has met: name <-> dense id, so that arrays are indexed and never searched.

Ids are local to a process and never leave it; the bus carries names. Id 0 is the empty symbol, which
stands for a whole venue. The table is bounded: a name beyond its capacity is refused and counted.
"""

import numpy as np

from fabric import symbols_kernel
from fabric.errors import SymbolsFullError
from fabric.records import SYMBOL_MAX


class SymbolTable:
    """Names learnt so far, in the order in which they were first met."""

    def __init__(self, capacity: int) -> None:
        """Room for ``capacity`` names, the empty one included."""
        self.arrays = symbols_kernel.make_symbols(capacity)
        self.capacity = capacity
        self.intern("")

    def __len__(self) -> int:
        return int(self.arrays.used[0])

    @property
    def refused(self) -> int:
        """Names that did not fit: too long, or more than the capacity."""
        return int(self.arrays.refused[0])

    def intern(self, name: str) -> int:
        """Return the id of ``name``, learning it if it is new; raises SymbolsFullError when there is no room."""
        raw = np.frombuffer(name.encode("ascii") or b"\0", np.uint8).copy()
        found = int(symbols_kernel.intern(self.arrays, raw, 0, len(name)))
        if found < 0:
            raise SymbolsFullError(f"symbol {name!r}: the table holds {self.capacity} names of {SYMBOL_MAX} bytes")
        return found

    def find(self, name: str) -> int:
        """Return the id of ``name``, or -1 when it has not been met."""
        raw = np.frombuffer(name.encode("utf-8") or b"\0", np.uint8).copy()
        return int(symbols_kernel.find(self.arrays, raw, 0, len(name.encode("utf-8"))))

    def name(self, symbol: int) -> str:
        """Return the name of id ``symbol``."""
        return self.arrays.names[symbol, : self.arrays.lengths[symbol]].tobytes().decode("ascii")

    def names(self) -> list[str]:
        """All names, by id."""
        return [self.name(symbol) for symbol in range(len(self))]
