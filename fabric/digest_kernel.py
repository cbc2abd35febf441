"""What was said of each topic, as two running words a topic; compiled (pure)."""

from typing import Any, Final

import numpy as np

from fabric.compiled import lean_kernel
from fabric.records import NULL, WIDTH

AS_IS: Final = 1
TEXT: Final = 2
"""Of a column: 0 and NULL mean the same."""
LIMIT: Final = WIDTH
"""The plan's column, behind those of the row, with the column that must be above 0 for a row to count, or -1."""
FIRST: Final = WIDTH + 1
"""... with the place of the kind's first topic, or -1 where the kind does not count."""
STRIDE: Final = WIDTH + 2
"""... with the topics of a symbol: 1, or `VENUE_STRIDE`."""
PLAN_WIDTH: Final = WIDTH + 3
LOW: Final = 0x2545F4914F6CDD1D
HIGH: Final = 0x1B873593CC9E2D51


@lean_kernel
def add(rows: Any, plan: Any, chains: Any) -> int:
    """Take ``rows`` into ``chains``, int64[topics, 2]: a topic's words become a function of what they were and of the
    columns that count; return how many rows did. Rows of the empty symbol do not.
    """
    count = 0
    for i in range(rows.shape[0]):
        kind = rows[i, 0]
        symbol = rows[i, 1]
        if kind >= plan.shape[0] or plan[kind, FIRST] < 0 or symbol == 0:
            continue
        topic = plan[kind, FIRST] + symbol * plan[kind, STRIDE]
        if plan[kind, STRIDE] > 1 and rows[i, 2] > 0:
            topic += rows[i, 2] - 64
        limit = plan[kind, LIMIT]
        if limit >= 0 and rows[i, limit] <= 0:
            continue
        low = chains[topic, 0]
        high = chains[topic, 1]
        for c in range(WIDTH):
            how = plan[kind, c]
            if how != 0:
                value = rows[i, c]
                if how == TEXT and value == 0:
                    value = NULL
                low = (low ^ value) * LOW
                low ^= low >> 29
                high = (high ^ value) * HIGH
                high ^= high >> 32
        chains[topic, 0] = low + 1
        chains[topic, 1] = high + 1
        count += 1
    return count


def warm_up() -> None:
    """Compile or load the kernel with the array types of its callers."""
    add(np.zeros((0, WIDTH), np.int64), np.zeros((1, PLAN_WIDTH), np.int64), np.zeros((1, 2), np.int64))
