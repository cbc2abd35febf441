"""Which wire a recorded packet is of, by the structure that its transport must have (pure).

For recordings alone: they may hold several feeds and other traffic, and a live feed is told its wire. Only what adds
up to the last byte is taken for a wire, and heartbeats are taken for none, since they hold too little to tell.
"""

import struct
from typing import Final

from nodes.feeds import describe_itch, describe_pitch

IEX: Final = {0x8003: "iex-tops-1.6", 0x8004: "iex-deep-1.0", 0x8005: "iex-deep-plus-1.0"}
VENUES: Final = {"nasdaq-itch-5.0": "Q", "cboe-pitch-2.41": "Z", "nyse-pillar": "N"} | dict.fromkeys(IEX.values(), "V")
"""The market that a recording of a wire is taken to be of, where nobody says."""
_IEXTP: Final = struct.Struct("<BxHIIHHqqq")
_XDP: Final = struct.Struct("<HBBIII")
_XDP_FLAGS: Final = frozenset((10, 11, 12, 13, 15, 17, 18, 19, 20))
_SECOND_NS: Final = 1_000_000_000


def wire_of(payload: bytes) -> str | None:
    """The name of the wire of one UDP payload, or None."""
    if _is_iextp(payload):
        return IEX[_IEXTP.unpack_from(payload)[1]]
    if _is_xdp(payload):
        return "nyse-pillar"
    if describe_itch.is_itch(payload):
        return None if len(payload) == 20 else "nasdaq-itch-5.0"
    if describe_pitch.is_pitch(payload) and payload[2] > 0:
        return "cboe-pitch-2.41"
    return None


def _is_iextp(payload: bytes) -> bool:
    if len(payload) < _IEXTP.size:
        return False
    version, protocol, _, _, size, count, *_ = _IEXTP.unpack_from(payload)
    return version == 1 and protocol in IEX and count > 0 and size == len(payload) - _IEXTP.size


def _is_xdp(payload: bytes) -> bool:
    if len(payload) < _XDP.size:
        return False
    size, flag, count, _, _, nanoseconds = _XDP.unpack_from(payload)
    if size != len(payload) or flag not in _XDP_FLAGS or count == 0 or nanoseconds >= _SECOND_NS:
        return False
    at = _XDP.size
    for _ in range(count):
        length = int.from_bytes(payload[at : at + 2], "little")
        if length < 4:
            return False
        at += length
    return at == size
