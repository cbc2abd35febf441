"""ITCH daily files: recognised, read like captures, in gzip or not; broken ones say where."""

import gzip
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lobster
from fabric.errors import CaptureError
from fabric.symbols import SymbolTable
from itch_tables import assemble
from nodes.feeds import itch, itch_file, itch_file_kernel, moldudp64_kernel
from nodes.feeds.trading_day import midnight_ns
from nodes.feeds.wire import Packets
from nodes.feeds.wire_kernel import BLOCK

SAMPLE = Path(__file__).resolve().parents[4] / "shared/data/itch50_small/sample.itch"
SECOND_NS = 10**9
TIMES = [34_200 * SECOND_NS, 34_200 * SECOND_NS + 99_999, 34_200 * SECOND_NS + 100_000, 57_600 * SECOND_NS]
MESSAGES = [assemble("A", 7, time_ns, i, "B", 100, "AAPL", 1_500_000) for i, time_ns in enumerate(TIMES)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "12302019.NASDAQ_ITCH50"
    path.write_bytes(lobster.framed(MESSAGES))
    return path


def payloads(batches: list[Packets]) -> list[bytes]:
    return [
        batch.buffer[at : at + length].tobytes()
        for batch in batches
        for at, length in zip(batch.offsets, batch.lengths, strict=True)
    ]


def test_messages_sent_together_share_a_packet(file: Path) -> None:
    (batch,) = itch_file.read(file)
    midnight = midnight_ns(date(2019, 12, 30))
    head = b" " * 10
    assert payloads([batch]) == [
        head + bytes.fromhex("0000000000000001 0002") + lobster.framed(MESSAGES[:2]),
        head + bytes.fromhex("0000000000000003 0001") + lobster.framed(MESSAGES[2:3]),
        head + bytes.fromhex("0000000000000004 0001") + lobster.framed(MESSAGES[3:]),
    ]
    assert batch.recv_ns.tolist() == [midnight + TIMES[i] for i in (1, 2, 3)]


def test_packets_are_no_longer_than_on_the_wire(tmp_path: Path) -> None:
    path = tmp_path / "day.gz"
    messages = [assemble("A", 7, TIMES[0], i, "B", 100, "AAPL", 1) for i in range(70_000)]
    path.write_bytes(gzip.compress(lobster.framed([*messages, b"", b"short", bytes(2_000)]), 1))
    sent = []
    for batch in itch_file.read(path):
        assert batch.offsets.size <= itch_file.BATCH_MAX
        sent += payloads([batch])
    assert max(map(len, sent[:-1])) <= itch_file_kernel.PACKET_BYTES
    assert b"".join(payload[20:] for payload in sent) == lobster.framed([*messages, b"short", bytes(2_000)])
    numbers = [int.from_bytes(payload[10:18], "big") for payload in sent]
    assert np.diff(numbers).tolist() == [int.from_bytes(payload[18:20], "big") for payload in sent[:-1]]


@pytest.mark.parametrize("use", [itch_file_kernel.wrap, itch_file_kernel.wrap.py_func], ids=["compiled", "python"])
def test_stops_where_there_is_no_room_and_goes_on(use: Callable[..., Any]) -> None:
    data = np.frombuffer(lobster.framed(MESSAGES), np.uint8)
    out, columns = np.zeros(70, np.uint8), np.zeros((3, 2), np.int64)
    at, number, found = 0, 1, []
    while at < data.size:
        at, number, count = use(data, at, data.size, 0, number, out, *columns)
        found += [out[start : start + size].tobytes() for start, size in zip(*columns[:2, :count], strict=True)]
    assert [payload[20:] for payload in found] == [lobster.framed([message]) for message in MESSAGES]


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("12302019.NASDAQ_ITCH50.gz", date(2019, 12, 30)),
        ("20190730.BX_ITCH_50.gz", date(2019, 7, 30)),
        ("S081321-v50.txt", date(2021, 8, 13)),
        ("99999999-123199", date(2026, 1, 2)),
        ("sample.itch", date(2026, 1, 2)),
    ],
)
def test_the_day_is_that_of_the_name(tmp_path: Path, name: str, day: date) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    os.utime(path, (1_767_366_000, 1_767_366_000))  # 2026-01-02, ten in New York
    assert itch_file.day_of(path) == (day if "1231" not in name else date(2099, 12, 31))


def test_a_broken_file_gives_what_is_whole_and_says_where_it_broke(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])
    batches = itch_file.read(file)
    assert len(payloads([next(batches)])) == 2
    with pytest.raises(CaptureError, match=r"byte 114: expected a whole message; the file ends 37 bytes on"):
        next(batches)
    packed = tmp_path / "cut.gz"
    packed.write_bytes(gzip.compress(lobster.framed(MESSAGES))[:-9])
    with pytest.raises(CaptureError, match="expected more"):
        list(itch_file.read(packed))
    with pytest.raises(CaptureError, match="No such file"):
        list(itch_file.read(tmp_path / "none"))


def test_other_files_are_not_taken_for_one(file: Path, tmp_path: Path) -> None:
    assert itch_file.is_itch_file(file)
    other = tmp_path / "other"
    for raw in (b"", b"S", b"\x00\x0cX" + bytes(11), b"\xd4\xc3\xb2\xa1" + bytes(40), lobster.framed([b"Sx"])):
        other.write_bytes(raw)
        assert not itch_file.is_itch_file(other)
    with pytest.raises(CaptureError, match="No such file"):
        itch_file.is_itch_file(tmp_path / "none")


@pytest.mark.skipif(not SAMPLE.exists(), reason="the recorded samples (../shared/data) are not here")
def test_the_recorded_file_decodes_whole() -> None:
    assert itch_file.is_itch_file(SAMPLE)
    wire, counters = itch.Itch(SymbolTable(2_000), orders_max=8, levels_max=8), np.zeros(6, np.int64)
    for batch in itch_file.read(SAMPLE):
        blocks = np.zeros(batch.offsets.size, BLOCK)
        moldudp64_kernel.frame(*batch, np.zeros(1, np.int64), 0, blocks, counters)
        for _ in wire.decode(batch.buffer, blocks):
            pass
    by_type = {"stock_directory": 993, "trading_action": 3, "reg_sho": 3, "system_event": 1}
    assert wire.messages_by_type() == by_type
    assert counters[1:].sum() == wire.counters()["malformed"] == 0
