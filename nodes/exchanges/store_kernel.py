"""What an exchange has sent, kept to be sent again, compiled (pure): a ring of packets, the oldest going first.

Packets lie one behind the other in a ring of bytes, none across its end; a second ring says where each is and
which numbers it holds. A request is looked for from the newest packet back, where nearly all requests are.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fabric.compiled import kernel
from nodes.feeds.recovery_kernel import (
    IEXTP,
    MOLDUDP64,
    PILLAR,
    SEQUENCED_UNIT,
    header_bytes,
    message_bytes,
    numbers,
)
from nodes.feeds.wire_kernel import le64

# Columns of `Store.places`.
UNIT = 0
FIRST = 1
COUNT = 2
START = 3
LENGTH = 4
N_COLUMNS = 5

# Columns of `Store.heads`.
WRITTEN = 0  # packets kept since the start; number i lies in places[i % size]
OLDEST = 1  # number of the oldest packet that is still there
AT = 2  # where the next packet goes in the ring of bytes
N_HEADS = 3


class Store(NamedTuple):
    """Packets kept."""

    ring: npt.NDArray[np.uint8]
    places: npt.NDArray[np.int64]  # [packets_max, N_COLUMNS]
    heads: npt.NDArray[np.int64]  # [N_HEADS]


def new_store(bytes_max: int, packets_max: int) -> Store:
    """Nothing kept; at most ``packets_max`` packets of ``bytes_max`` in all."""
    return Store(
        np.zeros(bytes_max, np.uint8), np.zeros((packets_max, N_COLUMNS), np.int64), np.zeros(N_HEADS, np.int64)
    )


@kernel
def keep(store: Any, packets: Any, lengths: Any, count: int, transport: int) -> None:
    """Keep ``packets[i, :lengths[i]]`` for i below ``count``, but for those without messages; forget the oldest."""
    ring, places, heads = store
    for i in range(count):
        length = lengths[i]
        packet = packets[i]
        _, unit, first, messages = numbers(packet, 0, length, transport)
        if messages <= 0 or length > ring.size:
            continue
        start = heads[AT]
        if start + length > ring.size:
            start = 0
            # What lies between here and the end is older than all that lies before: it goes first.
            while heads[OLDEST] < heads[WRITTEN] and places[heads[OLDEST] % places.shape[0], START] >= heads[AT]:
                heads[OLDEST] += 1
        while heads[OLDEST] < heads[WRITTEN]:
            oldest = places[heads[OLDEST] % places.shape[0]]
            full = heads[WRITTEN] - heads[OLDEST] == places.shape[0]
            if not full and (oldest[START] >= start + length or oldest[START] + oldest[LENGTH] <= start):
                break
            heads[OLDEST] += 1
        ring[start : start + length] = packet[:length]
        place = places[heads[WRITTEN] % places.shape[0]]
        place[UNIT] = unit
        place[FIRST] = first
        place[COUNT] = messages
        place[START] = start
        place[LENGTH] = length
        heads[WRITTEN] += 1
        heads[AT] = start + length


@kernel
def find(store: Any, unit: int, number: int) -> int:
    """Number of the packet that holds message ``number`` of a unit; -1 when there is none (any more)."""
    _, places, heads = store
    i = heads[WRITTEN] - 1
    while i >= heads[OLDEST]:
        place = places[i % places.shape[0]]
        if place[UNIT] == unit and place[FIRST] <= number:
            return i if number < place[FIRST] + place[COUNT] else -1
        i -= 1
    return -1


@kernel
def bounds(store: Any, unit: int) -> Any:
    """Number of the oldest message of a unit, and of the one after the newest; (0, 0) when it has none."""
    _, places, heads = store
    oldest = np.int64(0)
    following = np.int64(0)
    i = heads[OLDEST]
    while i < heads[WRITTEN] and following == 0:
        place = places[i % places.shape[0]]
        if place[UNIT] == unit:
            oldest = place[FIRST]
            following = place[FIRST] + place[COUNT]
        i += 1
    i = heads[WRITTEN] - 1
    while i >= heads[OLDEST] and following != 0:
        place = places[i % places.shape[0]]
        if place[UNIT] == unit:
            following = place[FIRST] + place[COUNT]
            break
        i -= 1
    return oldest, following


@kernel
def cut(store: Any, unit: int, first: int, count: int, transport: int, out: Any) -> Any:
    """Write to ``out`` a packet with messages ``first`` to ``first + count`` as far as one kept packet holds them.

    Returns how many there are in it, and its bytes; (0, 0) when ``first`` is not there. The header is that of the
    packet as it was sent, with numbers and lengths of what is in it. ``out`` must have room for any packet kept.
    """
    ring, places, _ = store
    found = find(store, unit, first)
    if found < 0:
        return np.int64(0), np.int64(0)
    place = places[found % places.shape[0]]
    head = header_bytes(transport)
    start, stop = place[START], place[START] + place[LENGTH]
    at = start + head
    for _ in range(first - place[FIRST]):
        at += message_bytes(ring, at, stop, transport)
    begin = at
    taken = min(count, place[FIRST] + place[COUNT] - first)
    for _ in range(taken):
        at += message_bytes(ring, at, stop, transport)
    body = at - begin
    out[:head] = ring[start : start + head]
    out[head : head + body] = ring[begin:at]
    if transport == MOLDUDP64:
        put_be(out, 10, 8, first)
        put_be(out, 18, 2, taken)
    elif transport == IEXTP:
        put_le(out, 12, 2, body)
        put_le(out, 14, 2, taken)
        put_le(out, 16, 8, le64(ring, start + 16) + begin - start - head)
        put_le(out, 24, 8, first)
    elif transport == SEQUENCED_UNIT:
        put_le(out, 0, 2, head + body)
        put_le(out, 2, 1, taken)
        put_le(out, 4, 4, first)
    elif transport == PILLAR:
        put_le(out, 0, 2, head + body)
        put_le(out, 3, 1, taken)
        put_le(out, 4, 4, first)
    return np.int64(taken), np.int64(head + body)


@kernel
def put_le(out: Any, at: int, size: int, value: int) -> None:
    """Write a little-endian integer."""
    for i in range(size):
        out[at + i] = value >> 8 * i & 0xFF


@kernel
def put_be(out: Any, at: int, size: int, value: int) -> None:
    """Write a big-endian integer."""
    for i in range(size):
        out[at + i] = value >> 8 * (size - 1 - i) & 0xFF


def warm_up() -> None:
    """Compile or load the entry kernels with the array types of the live path."""
    store = new_store(64, 1)
    keep(store, np.zeros((1, 1), np.uint8), np.zeros(1, np.int64), 0, MOLDUDP64)
    find(store, 0, 0)
    bounds(store, 0)
    cut(store, 0, 0, 0, MOLDUDP64, np.zeros(1, np.uint8))
