"""What all wires share in compiled code (pure): blocks of messages, integers at any alignment, names of symbols.

A packet of any transport becomes one `BLOCK`: which stream of numbers it belongs to, the number of its first message,
how many there are and where they lie. Framing makes blocks, the sequencer puts them in order and drops what
has come twice, a format's decoder reads the messages. Readers of integers rely on their caller for that the bytes
are there.
"""

from typing import Any

import numpy as np

from fabric.compiled import lean
from fabric.symbols_kernel import find_word, learn

BLOCK = np.dtype(
    [
        ("stream", "<i8"),  # which sequence of numbers: the group of lines << 16 | unit or channel in the header
        ("session", "<i8"),  # incarnation of that sequence: another value means that numbers start anew
        ("kind", "<i8"),  # DATA to RESTART
        ("first", "<i8"),  # number of its first message; HEARTBEAT and END: of the next; GAP: the first that is lost
        ("count", "<i8"),  # messages in it; GAP: how many are lost
        ("skip", "<i8"),  # messages at its beginning that were had before; set by the sequencer
        ("start", "<i8"),  # its messages are buffer[start:stop]
        ("stop", "<i8"),
        ("sent_ns", "<i8"),  # the exchange's time of sending, 0 where the transport has none
        ("recv_ns", "<i8"),  # received (or captured)
        ("line", "<i8"),  # index of the line that brought it
    ]
)

DATA = 0
HEARTBEAT = 1  # the line lives; tells the number of the next message
END = 2  # the session is over
GAP = 3  # from the sequencer: these numbers never came; what hangs on them is no longer known
RESTART = 4  # from the sequencer: the stream begins anew; all that it said before is void


@lean
def u8(data: Any, at: int) -> Any:
    """The byte at ``data[at]``, signed 64-bit like every number here.

    The index is unsigned: one that could count from the end would keep the bytes of an integer from being one load.
    """
    return np.int64(data[np.uint64(at)])


@lean
def le16(data: Any, at: int) -> Any:
    """Little-endian u16 at ``data[at]``."""
    return u8(data, at) | u8(data, at + 1) << 8


@lean
def le32(data: Any, at: int) -> Any:
    """Little-endian u32 at ``data[at]``."""
    return le16(data, at) | le16(data, at + 2) << 16


@lean
def le64(data: Any, at: int) -> Any:
    """Little-endian i64 at ``data[at]``; what is above 2^63 comes out negative, which no caller accepts."""
    return le32(data, at) | le32(data, at + 4) << 32


@lean
def be16(data: Any, at: int) -> Any:
    """Big-endian u16 at ``data[at]``."""
    return u8(data, at) << 8 | u8(data, at + 1)


@lean
def be32(data: Any, at: int) -> Any:
    """Big-endian u32 at ``data[at]``."""
    return be16(data, at) << 16 | be16(data, at + 2)


@lean
def be48(data: Any, at: int) -> Any:
    """Big-endian u48 at ``data[at]``."""
    return be16(data, at) << 32 | be32(data, at + 2)


@lean
def be64(data: Any, at: int) -> Any:
    """Big-endian i64 at ``data[at]``; what is above 2^63 comes out negative, which no caller accepts."""
    return be32(data, at) << 32 | be32(data, at + 4)


@lean
def text(data: Any, at: int, length: int) -> Any:
    """Space-padded text of up to eight characters as a record column holds it; 0 when it is not plain ASCII."""
    packed = np.int64(0)
    end = length
    while end > 0 and data[at + end - 1] == 32:
        end -= 1
    for i in range(end):
        character = u8(data, at + i)
        if character < 32 or character > 126:
            return np.int64(0)
        packed |= character << (8 * i)
    return packed


@lean
def is_name(data: Any, at: int, length: int) -> bool:
    """Whether these bytes can name a symbol: printable ASCII without a space, or ``|``, which ends it in a topic."""
    for i in range(length):
        character = u8(data, at + i)
        if character <= 32 or character > 126 or character == 124:
            return False
    return length > 0


@lean
def read_symbol(symbols: Any, data: Any, at: int, width: int) -> int:
    """Intern the name in ``width`` (6 or 8) bytes, padded with blanks: its id, -1 if the table is full, -2 if none."""
    word = le32(data, at) | le16(data, at + 4) << 32
    if width == 8:
        word |= le16(data, at + 6) << 48
    length = width
    while length > 0 and (word >> (8 * length - 8)) & 0xFF == 32:
        length -= 1
    if length == 0:
        return -2
    if length < 8:
        word &= (1 << (8 * length)) - 1
    found = find_word(symbols.ids, symbols.words, word, 0)
    if found >= 0 and symbols.words[found, 2] == length:  # else there are zeros at its end
        return found
    if not is_name(data, at, length):
        return -2
    return learn(symbols, -1 - found, word, 0, length)


@lean
def text_hash(data: Any, at: int, length: int) -> Any:
    """The bytes as one number that is not negative: FNV-1a of 64 bits, the uppermost cleared.

    Kept in two halves, so that no product leaves 63 bits.
    """
    low = np.int64(0x84222325)
    high = np.int64(0xCBF29CE4)
    for i in range(length):
        low ^= u8(data, at + i)
        product = low * 0x1B3
        high = (high * 0x1B3 + (product >> 32) + (low << 8)) & 0xFFFFFFFF
        low = product & 0xFFFFFFFF
    return (high & 0x7FFFFFFF) << 32 | low


def warm_up() -> None:
    """Nothing to do: these helpers are compiled into the kernels that use them."""
