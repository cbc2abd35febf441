"""What the encoders of all wires share, compiled (pure): the state of a stream of packets.

An encoder works ahead of time: it cuts the events of the next milliseconds into the packets of each tick and says
when each is due, so that a tick only has to send. ``stamp`` and ``due`` of an event:
"""

from typing import Any

import numpy as np

from fabric.compiled import inlined

STREAM = np.dtype(
    [
        ("session", "<i8"),  # number of this incarnation
        ("sequence", "<i8"),  # number of the next message
        ("offset", "<i8"),  # bytes of messages sent so far (IEX-TP)
        ("second", "<i8"),  # the last second told, where messages tell only what has passed since (PITCH, XDP)
        ("midnight_ns", "<i8"),  # of the day in New York, in UTC
        ("skew_ns", "<i8"),  # what the exchange's clock is ahead of ours
        ("grid_ns", "<i8"),  # an instant of the grid of ticks,
        ("tick_ns", "<i8"),  # and their distance
    ]
)

PACKET_BYTES = 1_400
"""No packet is longer."""


@inlined
def due(stream: Any, event_ns: int) -> int:
    """The first tick after an event: when it leaves."""
    return stream["grid_ns"] + ((event_ns - stream["grid_ns"]) // stream["tick_ns"] + 1) * stream["tick_ns"]


def warm_up() -> None:
    """Nothing to do: these helpers are compiled into the kernels that use them."""
