"""Integers of the wire, read from bytes at any alignment (pure). Callers have checked that the bytes are there."""

from typing import Any

import numpy as np

from fabric.compiled import inlined


@inlined
def u8(data: Any, at: int) -> Any:
    """The byte at ``data[at]``, signed 64-bit like every number here."""
    return np.int64(data[at])


@inlined
def le16(data: Any, at: int) -> Any:
    """Little-endian u16 at ``data[at]``."""
    return u8(data, at) | u8(data, at + 1) << 8


@inlined
def le32(data: Any, at: int) -> Any:
    """Little-endian u32 at ``data[at]``."""
    return le16(data, at) | le16(data, at + 2) << 16


@inlined
def le64(data: Any, at: int) -> Any:
    """Little-endian i64 at ``data[at]``; what is above 2^63 comes out negative, which no caller accepts."""
    return le32(data, at) | le32(data, at + 4) << 32


@inlined
def be16(data: Any, at: int) -> Any:
    """Big-endian u16 at ``data[at]``."""
    return u8(data, at) << 8 | u8(data, at + 1)


@inlined
def be32(data: Any, at: int) -> Any:
    """Big-endian u32 at ``data[at]``."""
    return be16(data, at) << 16 | be16(data, at + 2)


@inlined
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


def warm_up() -> None:
    """Nothing to do: these helpers are compiled into the kernels that use them."""
