"""The slow and obvious twin of the log's kernels: CRC-32C bit by bit, and a segment read record by record."""

import struct

Record = tuple[int, int, int, bytes, bytes]
"""Position, epoch, stamp, topic, payload."""


def crc32c(raw: bytes) -> int:
    """RFC 3720: polynomial 0x1EDC6F41, reflected."""
    register = 0xFFFFFFFF
    for byte in raw:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def record(position: int, epoch: int, stamp_ns: int, topic: bytes, payload: bytes) -> bytes:
    """One record as it stands in a segment."""
    size = 32 + len(topic) + len(payload)
    rest = struct.pack("<Iqqq", size | len(topic) << 24, position, stamp_ns, epoch) + topic + payload
    rest += bytes(-size % 8)
    return struct.pack("<I", crc32c(bytes(4) + rest)) + rest


def records(raw: bytes, start: int = 64) -> list[Record]:
    """Every sound record of a segment without its trailer, skipping what is none word by word."""
    found: list[Record] = []
    at, last = start, 0
    while at + 32 < len(raw):
        crc, sizes, position, stamp_ns, epoch = struct.unpack_from("<IIqqq", raw, at)
        size, topic = sizes & 0xFFFFFF, sizes >> 24
        padded = (size + 7) // 8 * 8
        whole = raw[at : at + padded]
        if (
            32 < size <= 8_192
            and 0 < topic <= size - 32
            and len(whole) == padded
            and position > last
            and crc32c(bytes(4) + whole[4:]) == crc
        ):
            found.append((position, epoch, stamp_ns, whole[32 : 32 + topic], whole[32 + topic : size]))
            last = position
            at += padded
        else:
            at += 8
    return found
