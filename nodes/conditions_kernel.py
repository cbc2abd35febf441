"""What a text of condition codes allows, compiled (pure)."""

from typing import Any

import numpy as np

from fabric.compiled import lean
from fabric.records import NULL


@lean
def allowed(tables: Any, plan: int, condition: int) -> int:
    """Return the bits that all characters of the packed text ``condition`` have in ``tables[plan]``; an empty one is a
    blank. Blanks pad the tape's slots and allow everything.
    """
    if condition == NULL or condition == 0:
        return tables[plan, 32]
    bits = -1
    while condition:
        bits &= tables[plan, condition & 0xFF]
        condition = (condition >> 8) & 0x00FF_FFFF_FFFF_FFFF
    return bits


def warm_up() -> None:
    """Compile, or load, with the array types of the live path."""
    allowed(np.zeros((1, 256), np.int64), 0, 0)
