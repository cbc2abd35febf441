"""Capture files of every form, built by hand from the format descriptions; broken ones; and the recorded ones."""

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import naive_iex
from fabric.errors import CaptureError
from nodes.feeds.capture import BATCH_MAX, PIECE_BYTES, Capture, is_capture

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data"
recorded = pytest.mark.skipif(not SAMPLES.exists(), reason="the recorded samples (../shared/data) are not here")
T = 1_500_000_000


def udp(payload: bytes) -> bytes:
    return struct.pack(">HHHH", 1111, 2222, 8 + len(payload), 0) + payload


def ipv4(body: bytes, protocol: int = 17, fragment: int = 0, options: bytes = b"") -> bytes:
    first = 0x40 | (5 + len(options) // 4)
    addresses = bytes([10, 0, 0, 1, 224, 0, 0, 9])
    length = 20 + len(options) + len(body)
    return struct.pack(">BBHHHBBH", first, 0, length, 0, fragment, 9, protocol, 0) + addresses + options + body


def ipv6(body: bytes, following: int = 17, extensions: bytes = b"") -> bytes:
    addresses = bytes(15) + b"\1" + b"\xff\2" + bytes(13) + b"\5"
    return struct.pack(">IHBB", 6 << 28, len(extensions) + len(body), following, 9) + addresses + extensions + body


def ethernet(packet: bytes, kind: int = 0x0800, tags: bytes = b"") -> bytes:
    return bytes(12) + tags + struct.pack(">H", kind) + packet


def pcap(*frames: bytes, order: str = "<", magic: int = 0xA1B2C3D4, link: int = 1) -> bytes:
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    records = (struct.pack(order + "IIII", T + i, 7, len(f), len(f)) + f for i, f in enumerate(frames))
    return head + b"".join(records)


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack(order + "II", kind, 12 + len(body)) + body + struct.pack(order + "I", 12 + len(body))


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, link: int = 1, resolution: int | None = None, snap: int = 0) -> bytes:
    option = b"" if resolution is None else struct.pack(order + "HHB3xHH", 9, 1, resolution, 0, 0)
    return block(order, 1, struct.pack(order + "HHI", link, 0, snap) + option)


def enhanced(order: str, frame: bytes, ticks: int, number: int = 0) -> bytes:
    return block(
        order, 6, struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame)) + frame
    )


def simple(order: str, frame: bytes) -> bytes:
    return block(order, 3, struct.pack(order + "I", len(frame)) + frame)


def read(path: Path) -> list[tuple[int, bytes]]:
    with Capture(path) as capture:
        return list(payloads(capture))


def payloads(capture: Capture) -> Iterator[tuple[int, bytes]]:
    for batch in capture:
        buffer, offsets, lengths, times, _ = batch.packets
        for offset, length, time_ns in zip(offsets.tolist(), lengths.tolist(), times.tolist(), strict=True):
            yield time_ns, buffer[offset : offset + length].tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.cap"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "fraction_ns"), [(0xA1B2C3D4, 7_000), (0xA1B23C4D, 7)])
def test_pcap(path: Path, order: str, magic: int, fraction_ns: int, packed: bool) -> None:
    data = pcap(ethernet(ipv4(udp(b"one"))), ethernet(ipv4(udp(b""))), order=order, magic=magic)
    path.write_bytes(gzip.compress(data) if packed else data)
    assert is_capture(path)
    assert read(path) == [(T * 10**9 + fraction_ns, b"one"), ((T + 1) * 10**9 + fraction_ns, b"")]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("resolution", "ticks", "time_ns"),
    [
        pytest.param(None, T * 10**6 + 5, T * 10**9 + 5_000, id="microseconds by default"),
        pytest.param(9, T * 10**9 + 5, T * 10**9 + 5, id="nanoseconds"),
        pytest.param(3, T * 10**3 + 5, T * 10**9 + 5_000_000, id="milliseconds"),
        pytest.param(0x80 | 10, T * 1024 + 512, T * 10**9 + 500_000_000, id="power of two"),
    ],
)
def test_pcapng(path: Path, order: str, resolution: int | None, ticks: int, time_ns: int) -> None:
    frame = ethernet(ipv4(udp(b"payload")))
    path.write_bytes(
        section(order)
        + interface(order, resolution=resolution)
        + block(order, 5, b"statistics")
        + enhanced(order, frame, ticks)
    )
    assert read(path) == [(time_ns, b"payload")]


def test_pcapng_sections_interfaces_and_simple_packets(path: Path) -> None:
    raw, framed = ipv4(udp(b"raw")), ethernet(ipv4(udp(b"framed")))
    first = section("<") + interface("<", link=101) + interface("<") + enhanced("<", framed, 1, 1) + simple("<", raw)
    second = section(">") + interface(">", link=1, snap=len(framed) - 2) + simple(">", framed)
    path.write_bytes(first + second)
    assert read(path) == [(1_000, b"framed"), (0, b"raw"), (0, b"fram")]


@pytest.mark.parametrize(
    ("frame", "link"),
    [
        pytest.param(ethernet(ipv4(udp(b"x"))), 1, id="ethernet"),
        pytest.param(ethernet(ipv4(udp(b"x")) + bytes(6)), 1, id="padded to the shortest frame"),
        pytest.param(ethernet(ipv4(udp(b"x")), tags=bytes.fromhex("81000005")), 1, id="VLAN"),
        pytest.param(ethernet(ipv4(udp(b"x")), tags=bytes.fromhex("88a8000581000006")), 1, id="VLAN in VLAN"),
        pytest.param(ethernet(ipv4(udp(b"x"), options=bytes(8))), 1, id="IPv4 options"),
        pytest.param(ethernet(ipv6(udp(b"x")), kind=0x86DD), 1, id="IPv6"),
        pytest.param(
            ipv6(udp(b"x"), 0, bytes([60, 0]) + bytes(6) + bytes([17, 1]) + bytes(14)), 101, id="IPv6 options"
        ),
        pytest.param(ipv4(udp(b"x")), 101, id="raw"),
        pytest.param(bytes(14) + b"\x08\x00" + ipv4(udp(b"x")), 113, id="Linux cooked"),
        pytest.param(b"\x08\x00" + bytes(18) + ipv4(udp(b"x")), 276, id="Linux cooked 2"),
    ],
)
def test_link_and_network_layers(path: Path, frame: bytes, link: int) -> None:
    path.write_bytes(pcap(frame, link=link))
    assert [payload for _, payload in read(path)] == [b"x"]


def test_what_is_not_udp_is_counted(path: Path) -> None:
    frames = [
        ethernet(b"arp", kind=0x0806),
        ethernet(ipv4(udp(b"tcp"), protocol=6)),
        ethernet(ipv4(udp(b"first"), fragment=0x2000)),
        ethernet(ipv4(udp(b"rest"), fragment=5)),
        ethernet(ipv6(bytes(20), 44), kind=0x86DD),
        ethernet(ipv4(b"")),
        b"",
        ethernet(b""),
        ethernet(ipv4(udp(b"cut off"))[:-3]),
    ]
    path.write_bytes(pcap(*frames))
    with Capture(path) as capture:
        assert [payload for _, payload in payloads(capture)] == [b"cut "]
        assert capture.counters() == {"frames": 9, "payloads": 1, "not_udp": 5, "fragments": 3, "cut": 1}


def test_addresses(path: Path) -> None:
    path.write_bytes(pcap(ethernet(ipv4(udp(b"x"))), ethernet(ipv6(udp(b"y")), kind=0x86DD)))
    with Capture(path) as capture:
        batch = next(iter(capture))
        assert batch.addresses(0) == ("10.0.0.1", 1111, "224.0.0.9", 2222)
        assert batch.addresses(1) == ("::1", 1111, "ff02::5", 2222)


def test_batches_and_pieces_lose_nothing(path: Path) -> None:
    frames = [ethernet(ipv4(udp(struct.pack("<I", i) + bytes(i % 700)))) for i in range(BATCH_MAX + 3_000)]
    data = pcap(*frames)
    assert len(data) > 2 * PIECE_BYTES
    path.write_bytes(data)
    assert [struct.unpack_from("<I", payload)[0] for _, payload in read(path)] == list(range(len(frames)))


def test_a_block_longer_than_a_piece(path: Path) -> None:
    data = section("<") + block("<", 0xBAD, bytes(2 * PIECE_BYTES)) + interface("<")
    path.write_bytes(data + enhanced("<", ethernet(ipv4(udp(b"after"))), 1))
    assert read(path) == [(1_000, b"after")]


def test_cut_at_every_byte_delivers_what_is_whole(path: Path) -> None:
    frame = ethernet(ipv4(udp(b"whole")))
    for whole, starts in (
        (pcap(frame, frame), [24 + (16 + len(frame)) * i for i in range(3)]),
        (section("<") + interface("<") + enhanced("<", frame, 1) * 2, [0, 28, 48, 128, 208]),
    ):
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            got: list[bytes] = []
            try:
                with Capture(path) as capture:
                    got.extend(payload for _, payload in payloads(capture))
            except CaptureError as error:
                assert size not in starts[1:] or size == 0
                at = max([start for start in starts if start <= size], default=0)
                assert f"{path}: byte {at}: expected " in str(error)  # noqa: PT017
            else:
                assert size in starts
            assert len(got) == sum(end <= size for end in starts[-2:])


def test_a_broken_length_names_its_byte(path: Path) -> None:
    good = pcap(ethernet(ipv4(udp(b"x"))))
    path.write_bytes(good + struct.pack("<IIII", T, 0, 1 << 30, 1 << 30) + bytes(100))
    with Capture(path) as capture:
        packets = payloads(capture)
        assert next(packets)[1] == b"x"
        with pytest.raises(CaptureError, match=f"byte {len(good)}: expected a packet record whose length is possible"):
            next(packets)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"", "expected a capture", id="empty"),
        pytest.param(b"not a capture at all, is it?", "expected a capture", id="text"),
        pytest.param(pcap(link=147), "link type", id="link type"),
        pytest.param(section("<") + interface("<", link=147), "byte 28: expected link type", id="interface link type"),
        pytest.param(section("<") + interface("<", resolution=12), "no finer than nanoseconds", id="picoseconds"),
        pytest.param(
            section("<") + enhanced("<", bytes(60), 0), "byte 28: expected a packet of one of the 0", id="no interface"
        ),
        pytest.param(section("<")[:8] + bytes(20), "byte-order mark", id="byte order"),
        pytest.param(section("<") + struct.pack("<III", 7, 13, 0), "length is possible, not 13", id="odd length"),
        pytest.param(section("<") + struct.pack("<III", 7, 4, 0), "length is possible, not 4", id="no progress"),
        pytest.param(gzip.compress(pcap(bytes(5000)))[:-20], "expected more", id="gzip cut"),
        pytest.param(b"\x1f\x8b\x08" + bytes(40), "expected", id="gzip garbage"),
    ],
)
def test_broken_files_are_one_clear_error(path: Path, data: bytes, expected: str) -> None:
    path.write_bytes(data)
    with pytest.raises(CaptureError, match=expected) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for bad in (tmp_path / "none", tmp_path):
        with pytest.raises(CaptureError, match=str(bad)):
            Capture(bad)
        with pytest.raises(CaptureError, match=str(bad)):
            is_capture(bad)


def test_other_files_are_not_captures(path: Path) -> None:
    for data in (b"", b"ts_us,seq", b"\0\0\0\0"):
        path.write_bytes(data)
        assert not is_capture(path)


@recorded
@pytest.mark.parametrize("name", ["iex/TOPS16.pcapng.gz", "iex/DEEP10_session12.pcap.gz"])
def test_recorded_captures_equal_a_plain_reading(name: str) -> None:
    assert read(SAMPLES / name) == list(naive_iex.udp_payloads(SAMPLES / name))


@recorded
def test_every_recorded_packet_is_read_whole() -> None:
    frames = 0
    for path in sorted((SAMPLES / "omi_packets").rglob("*.pcap")):
        with Capture(path) as capture:
            for _ in capture:
                pass
            counts = capture.counters()
        assert counts["payloads"] == counts["frames"], path
        assert counts["cut"] == 0, path
        frames += counts["frames"]
    assert frames == 218
