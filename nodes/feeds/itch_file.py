"""ITCH daily files, in gzip or not, as batches of packets: what `capture` is for captures.

The file has no date in it: it is that of the name as NASDAQ gives them (``12302019.NASDAQ_ITCH50``,
``20190730.BX_ITCH_50``, ``S081321-v50``), else the day in New York on which the file was last changed.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np

from fabric.errors import CaptureError
from nodes.feeds import itch_file_kernel as kernel
from nodes.feeds.itch_kernel import LENGTHS
from nodes.feeds.trading_day import NEW_YORK, midnight_ns
from nodes.feeds.wire import Packets

PIECE_BYTES: Final = 1 << 20
BATCH_MAX: Final = 4_096
"""Packets in one batch."""
_OUT_BYTES: Final = 2 << 20
_HEAD_BYTES: Final = 4_096
_GZIP: Final = b"\x1f\x8b"
_FAILURES: Final = (OSError, EOFError, zlib.error)
_DATES: Final = (
    (re.compile(r"(?<!\d)(\d{4})(\d\d)(\d\d)(?!\d)"), (1, 2, 3)),
    (re.compile(r"(?<!\d)(\d\d)(\d\d)(\d{4})(?!\d)"), (3, 1, 2)),
    (re.compile(r"(?<!\d)(\d\d)(\d\d)(\d\d)(?!\d)"), (3, 1, 2)),
)


def is_itch_file(path: Path) -> bool:
    """Whether the file begins with ITCH 5.0 messages; raises CaptureError when it cannot be read."""
    try:
        with _opened(path) as stream:
            head = stream.read(_HEAD_BYTES)
    except _FAILURES as error:
        raise CaptureError(f"{path}: {error}") from error
    at = messages = 0
    while at + 3 <= len(head):
        if int.from_bytes(head[at : at + 2], "big") != LENGTHS.get(chr(head[at + 2])):
            return False
        at += 2 + LENGTHS[chr(head[at + 2])]
        messages += 1
    return messages > 0


def day_of(path: Path) -> date:
    """The day in New York that a file is of."""
    for pattern, (year, month, day) in _DATES:
        for found in pattern.finditer(path.name):
            try:
                return date(int(found[year]) % 2_000 + 2_000, int(found[month]), int(found[day]))
            except ValueError:  # digits that are no date
                continue
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).astimezone(NEW_YORK).date()


def read(path: Path) -> Iterator[Packets]:
    """The messages of a file in MoldUDP64 packets, numbered from 1, each batch good until the next is taken.

    What is whole is given first; then CaptureError says where the file broke.
    """
    data, out = np.zeros(2 * PIECE_BYTES, np.uint8), np.zeros(_OUT_BYTES, np.uint8)
    offsets, lengths, recv_ns, lines = np.zeros((4, BATCH_MAX), np.int64)
    start = end = base = 0
    number = 1
    failed: Exception | None = None
    try:
        midnight = midnight_ns(day_of(path))
        stream = _opened(path)
    except _FAILURES as error:
        raise CaptureError(f"{path}: {error}") from error
    with stream:
        while True:
            data[: end - start] = data[start:end].copy()
            base, start, end = base + start, 0, end - start
            try:
                piece = stream.read(PIECE_BYTES)
            except _FAILURES as error:
                piece, failed = b"", error
            data[end : end + len(piece)] = np.frombuffer(piece, np.uint8)
            end += len(piece)
            while True:
                start, number, count = kernel.wrap(data, start, end, midnight, number, out, offsets, lengths, recv_ns)
                if not count:
                    break
                yield Packets(out, offsets[:count], lengths[:count], recv_ns[:count], lines[:count])
            if not piece:
                break
    if failed is not None:
        raise CaptureError(f"{path}: byte {base + end}: expected more: {failed}") from failed
    if start < end:
        raise CaptureError(
            f"{path}: byte {base + start}: expected a whole message; the file ends {end - start} bytes on"
        )


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as stream:
        packed = stream.read(2) == _GZIP
    return cast(BinaryIO, gzip.open(path)) if packed else path.open("rb")
