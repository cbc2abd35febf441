"""What recovery must know of a packet of any transport, compiled (pure): its numbers, and whether its bytes keep them.

A client holds an answer against what it asked for before the sequencer sees it; a request server finds the packets
that it has sent by the same numbers, and cuts out of them what was asked for.

Sources: MoldUDP64 1.00, IEX-TP 1.25, Cboe Multicast PITCH 2.41 (Sequenced Unit Header), NYSE XDP Common Client
Specification (packet header); offsets as in their tables.
"""

from typing import Any

import numpy as np

from fabric.compiled import inlined, kernel
from nodes.feeds.wire_kernel import be16, be64, le16, le32, le64, text_hash, u8

# Transports.
MOLDUDP64 = 1  # session[10], sequence u64, count u16; blocks of u16 length and data; big-endian
IEXTP = 2  # 40 bytes, sequence i64 @24; blocks of u16 length and data; little-endian
SEQUENCED_UNIT = 3  # length u16, count u8, unit u8, sequence u32; messages begin with their length u8
PILLAR = 4  # size u16, flag u8, count u8, sequence u32, time; messages begin with their size u16

MALFORMED = -1
NO_MESSAGES = -2  # heartbeat, end of session
ANY_SESSION = -1  # of a transport whose packets do not name one


@inlined
def header_bytes(transport: int) -> int:
    """Bytes before the first message."""
    if transport == MOLDUDP64:
        return 20
    if transport == IEXTP:
        return 40
    if transport == SEQUENCED_UNIT:
        return 8
    return 16


@inlined
def unit_of(data: Any, at: int, transport: int) -> Any:
    """The unit of the header at ``data[at]`` as in the low 16 bits of a stream; 0 where the header has none."""
    if transport == SEQUENCED_UNIT:
        return u8(data, at + 3)
    if transport == IEXTP:
        return le32(data, at + 4) & 0xFFFF
    return np.int64(0)


@inlined
def session_of(data: Any, at: int, transport: int) -> Any:
    """The session as a BLOCK has it; `ANY_SESSION` where the header has none."""
    if transport == MOLDUDP64:
        return text_hash(data, at, 10)
    if transport == IEXTP:
        return le32(data, at + 8)
    return np.int64(ANY_SESSION)


@inlined
def first_of(data: Any, at: int, transport: int) -> Any:
    """Number of the first message."""
    if transport == MOLDUDP64:
        return be64(data, at + 10)
    if transport == IEXTP:
        return le64(data, at + 24)
    return le32(data, at + 4)


@inlined
def count_of(data: Any, at: int, transport: int) -> Any:
    """Number of messages, as stated."""
    if transport == MOLDUDP64:
        count = be16(data, at + 18)
        return np.int64(0) if count == 0xFFFF else count
    if transport == IEXTP:
        return le16(data, at + 14)
    if transport == SEQUENCED_UNIT:
        return u8(data, at + 2)
    return u8(data, at + 3)


@inlined
def message_bytes(data: Any, at: int, stop: int, transport: int) -> Any:
    """Bytes of the message at ``data[at]`` with its length; -1 when they do not end by ``stop`` or cannot be."""
    least = 2
    size = np.int64(0)
    if transport == SEQUENCED_UNIT:
        if at < stop:
            size = u8(data, at)
    elif at + 2 <= stop:
        if transport == MOLDUDP64:
            size = be16(data, at) + 2
        elif transport == IEXTP:
            size = le16(data, at) + 2
        else:
            size = le16(data, at)
            least = 4
    if size < least or at + size > stop:
        return np.int64(-1)
    return size


@kernel
def numbers(data: Any, at: int, length: int, transport: int) -> Any:
    """Session, unit, first number and count of the packet ``data[at:at + length]``.

    The count is `NO_MESSAGES` for a heartbeat or the end of a session, and `MALFORMED` when the packet does not hold as
    many messages as it says.
    """
    head = header_bytes(transport)
    if length < head:
        return np.int64(0), np.int64(0), np.int64(0), np.int64(MALFORMED)
    session, unit = session_of(data, at, transport), unit_of(data, at, transport)
    first, count = first_of(data, at, transport), count_of(data, at, transport)
    if count == 0:
        return session, unit, first, np.int64(NO_MESSAGES)
    stop = at + length
    position = at + head
    for _ in range(count):
        size = message_bytes(data, position, stop, transport)
        if size < 0:
            return session, unit, first, np.int64(MALFORMED)
        position += size
    return session, unit, first, count


def warm_up() -> None:
    """Compile or load the entry kernel with the array type of the live path: bytes, which are read-only."""
    numbers(np.frombuffer(b"\0", np.uint8), 0, 0, MOLDUDP64)
