"""Packet records of a capture file -> where their UDP payloads lie, compiled (pure).

Sources: the pcap and pcapng file formats (IETF opsawg drafts), tcpdump.org's list of link types, IEEE 802.1Q,
RFC 791, RFC 8200.
"""

from typing import Any

import numpy as np

from fabric.compiled import inlined, kernel
from nodes.feeds.wire_kernel import be16, be32, le16, le32, u8

LINK_ETHERNET = 1
LINK_RAW = 101
LINK_SLL = 113
LINK_SLL2 = 276
LINK_TYPES = (LINK_ETHERNET, LINK_RAW, LINK_SLL, LINK_SLL2)

BLOCK_SIMPLE = 3
BLOCK_ENHANCED = 6
PCAP_RECORD_BYTES = 16
CAPTURED_MAX = 1 << 18
"""Bytes of one captured packet: libpcap's own limit (MAXIMUM_SNAPLEN). More is a broken file."""

# Why a scan stopped.
MORE = 0  # the rest of the bytes is the beginning of a record
FULL = 1  # the output is full
OTHER = 2  # a block that is not a packet: the caller reads it
BROKEN_LENGTH = 3  # a record's length cannot be
BROKEN_INTERFACE = 4  # a packet of an interface that was not described

# Columns of `counters`.
FRAMES = 0  # packet records
NOT_UDP = 1
FRAGMENTS = 2  # of an IP packet in pieces: not put together
CUT = 3  # UDP payloads of which the file holds less than was sent
N_COUNTERS = 4


@inlined
def u16(data: Any, at: int, big: bool) -> Any:
    """u16 in the file's byte order."""
    return be16(data, at) if big else le16(data, at)


@inlined
def u32(data: Any, at: int, big: bool) -> Any:
    """u32 in the file's byte order."""
    return be32(data, at) if big else le32(data, at)


@kernel
def network_start(data: Any, at: int, end: int, link: int) -> int:
    """Where the IP packet of a frame begins; -1 when the frame carries none."""
    if link == LINK_RAW:
        return at
    if link == LINK_ETHERNET:
        protocol_at = at + 12
    elif link == LINK_SLL:
        protocol_at = at + 14
    else:
        return at + 20 if at + 20 <= end and (be16(data, at) == 0x0800 or be16(data, at) == 0x86DD) else -1
    while protocol_at + 2 <= end:
        protocol = be16(data, protocol_at)
        if protocol == 0x0800 or protocol == 0x86DD:
            return protocol_at + 2
        if protocol != 0x8100 and protocol != 0x88A8:  # not a VLAN tag either
            return -1
        protocol_at += 4
    return -1


@kernel
def transport_start(data: Any, at: int, end: int, counters: Any) -> int:
    """Where the UDP header of the IP packet at ``at`` begins; -1 (counted) when it has none."""
    version = data[at] >> 4 if at < end else 0
    if version == 4 and at + 20 <= end:
        if data[at + 9] != 17:
            counters[NOT_UDP] += 1
            return -1
        if be16(data, at + 6) & 0x3FFF:  # more fragments, or an offset
            counters[FRAGMENTS] += 1
            return -1
        return at + (u8(data, at) & 15) * 4
    if version == 6 and at + 40 <= end:
        following = u8(data, at + 6)
        pos = at + 40
        while (following == 0 or following == 43 or following == 60) and pos + 8 <= end:  # options and routing
            following = u8(data, pos)
            pos += 8 + u8(data, pos + 1) * 8
        if following == 17:
            return pos
        if following == 44:
            counters[FRAGMENTS] += 1
            return -1
    counters[NOT_UDP] += 1
    return -1


@kernel
def take_frame(data: Any, at: int, end: int, link: int, time_ns: int, out: Any, n: int, counters: Any) -> int:
    """Write the UDP payload of the frame ``data[at:end]`` to row ``n`` of ``out``; return 1, or 0 (counted) without."""
    counters[FRAMES] += 1
    ip = network_start(data, at, end, link)
    if ip < 0:
        counters[NOT_UDP] += 1
        return 0
    udp = transport_start(data, ip, end, counters)
    if udp < 0:
        return 0
    if udp + 8 > end:
        counters[NOT_UDP] += 1
        return 0
    length = max(be16(data, udp + 4) - 8, 0)
    if udp + 8 + length > end:
        counters[CUT] += 1
        length = end - udp - 8
    out[n]["offset"] = udp + 8
    out[n]["length"] = length
    out[n]["recv_ns"] = time_ns
    out[n]["ip_at"] = ip
    out[n]["udp_at"] = udp
    return 1


@kernel
def scan_pcap(
    data: Any, first: int, end: int, big: bool, unit_ns: int, link: int, out: Any, counters: Any
) -> tuple[int, int, int]:
    """Walk whole records in ``data[first:end]``; return (bytes taken up to, payloads written, why it stopped)."""
    at = first
    n = 0
    while at + PCAP_RECORD_BYTES <= end:
        if n == out.size:
            return at, n, FULL
        captured = u32(data, at + 8, big)
        if captured > CAPTURED_MAX:
            return at, n, BROKEN_LENGTH
        frame = at + PCAP_RECORD_BYTES
        if frame + captured > end:
            break
        time_ns = u32(data, at, big) * 1_000_000_000 + u32(data, at + 4, big) * unit_ns
        n += take_frame(data, frame, frame + captured, link, time_ns, out, n, counters)
        at = frame + captured
    return at, n, MORE


@kernel
def scan_pcapng(
    data: Any, first: int, end: int, big: bool, interfaces: Any, out: Any, counters: Any
) -> tuple[int, int, int]:
    """Walk whole packet blocks in ``data[first:end]``; return (bytes taken up to, payloads written, why it stopped).

    ``interfaces`` holds, for each described so far, its link type, the units of its clock in a second and the
    longest that it captures (0 for no limit). A simple packet block has no time: it gets 0.
    """
    at = first
    n = 0
    while at + 12 <= end:
        if n == out.size:
            return at, n, FULL
        kind = u32(data, at, big)
        if kind != BLOCK_ENHANCED and kind != BLOCK_SIMPLE:
            return at, n, OTHER
        length = u32(data, at + 4, big)
        header = 28 if kind == BLOCK_ENHANCED else 12
        if length % 4 or length < header + 4 or length > CAPTURED_MAX * 2:
            return at, n, BROKEN_LENGTH
        if at + length > end:
            break
        interface = u32(data, at + 8, big) if kind == BLOCK_ENHANCED else 0
        if interface >= interfaces.size:
            return at, n, BROKEN_INTERFACE
        known = interfaces[interface]
        frame = at + header
        if kind == BLOCK_ENHANCED:
            captured = u32(data, at + 20, big)
            ticks = u32(data, at + 12, big) << 32 | u32(data, at + 16, big)
            rate = known["ticks_per_second"]
            time_ns = ticks // rate * 1_000_000_000 + ticks % rate * 1_000_000_000 // rate
        else:
            captured = min(u32(data, at + 8, big), length - 16)
            if known["captured_max"]:
                captured = min(captured, known["captured_max"])
            time_ns = np.int64(0)
        if captured > length - header - 4:
            return at, n, BROKEN_LENGTH
        n += take_frame(data, frame, frame + captured, known["link"], time_ns, out, n, counters)
        at += length
    return at, n, MORE


INTERFACE = np.dtype([("link", "<i8"), ("ticks_per_second", "<i8"), ("captured_max", "<i8")])
FOUND = np.dtype([("offset", "<i8"), ("length", "<i8"), ("recv_ns", "<i8"), ("ip_at", "<i8"), ("udp_at", "<i8")])


def warm_up() -> None:
    """Compile or load the scanners with the live array types."""
    data = np.zeros(64, np.uint8)
    out = np.zeros(1, FOUND)
    counters = np.zeros(N_COUNTERS, np.int64)
    scan_pcap(data, 0, 0, False, 1000, LINK_ETHERNET, out, counters)
    scan_pcapng(data, 0, 0, False, np.zeros(1, INTERFACE), out, counters)
