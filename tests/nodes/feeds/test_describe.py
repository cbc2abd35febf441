"""What `fabric decode` shows, against the recorded packets' manifest and a plain reading."""

import csv
import struct
from collections import Counter
from pathlib import Path

import pytest

import naive_iex
from itch_tables import assemble
from lobster import framed
from nodes.feeds.describe import describe
from support import capture_of

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data"
recorded = pytest.mark.skipif(not SAMPLES.exists(), reason="the recorded samples (../shared/data) are not here")


def iex(count: int, body: bytes) -> bytes:
    return struct.pack("<BBHIIHHqqq", 1, 0, 0x8003, 1, 9, len(body), count, 0, 70, 1) + body


def test_fields_and_what_cannot_be_read(tmp_path: Path) -> None:
    trade = struct.pack("<BBq8sIqq", ord("T"), 0xC0, 99, b"BRK.B   ", 30, 1_234_567, 5)
    body = struct.pack("<H", len(trade)) + trade + b"\x02\0zz" + b"\x03\0Tab" + b"\xff\0cut"
    counts: Counter[str] = Counter()
    path = capture_of(tmp_path / "x.pcap", iex(9, body), iex(0, b""), b"dns?")
    found = list(describe(path, counts))
    assert found[0] == {
        "t": 99, "sequence": 70, "type": "trade", "symbol": "BRK.B",
        "flags": 0xC0, "size": 30, "price": 123.4567, "trade_id": 5,
    }  # fmt: skip
    assert [(m["sequence"], m["type"]) for m in found[1:]] == [
        (71, "unknown"), (72, "malformed"), (73, "malformed"), (70, "heartbeat"), (None, "udp"),
    ]  # fmt: skip
    assert found[-1] == {
        "t": 5_000_000_007, "sequence": None, "type": "udp", "symbol": None,
        "source": "10.0.0.1:1", "target": "10.0.0.2:2", "bytes": 4,
    }  # fmt: skip
    assert counts["packets"] == 3
    assert counts["malformed"] == 2


def test_a_daily_file_of_itch_message_by_message(tmp_path: Path) -> None:
    path, opens_ns = tmp_path / "12302019.NASDAQ_ITCH50", 34_200 * 10**9
    path.write_bytes(framed([assemble("A", 7, opens_ns + 5, 9, "B", 100, "ZVZZT", 10_000), assemble("D", 7, 6, 9)]))
    counts: Counter[str] = Counter()
    found = list(describe(path, counts))
    assert found[0] == {
        "t": 1_577_716_200_000_000_005, "sequence": 1, "type": "add", "symbol": "ZVZZT", "locate": 7,
        "order_id": 9, "side": "B", "shares": 100, "price": 1.0,
    }  # fmt: skip
    assert (found[1]["type"], found[1]["symbol"], found[1]["order_id"]) == ("delete", "ZVZZT", 9)
    assert counts == {"add": 1, "delete": 1}


@recorded
def test_recorded_session_equals_a_plain_reading() -> None:
    path = SAMPLES / "iex/TOPS16.pcapng.gz"
    counts: Counter[str] = Counter()
    found = [m for m in describe(path, counts) if m["type"] != "heartbeat"]
    assert counts["heartbeat"] == 237
    for message, plain in zip(found, naive_iex.messages(path), strict=True):
        assert (message["sequence"], message["t"]) == (plain.sequence, plain.event_ns)
        if plain.type == "Q":
            bid_size, bid, ask, ask_size = struct.unpack_from("<IqqI", plain.body, 18)
            shown = [message[name] for name in ("symbol", "bid_size", "bid", "ask", "ask_size")]
            assert shown == [plain.symbol, bid_size, bid / 10_000, ask / 10_000, ask_size]


@recorded
def test_counts_equal_the_manifest() -> None:
    names = {"Q": "quote", "8": "price_level_buy", "5": "price_level_sell", "hb": "heartbeat"}
    folder = SAMPLES / "omi_packets"
    checked = 0
    for line in csv.reader((folder / "MANIFEST.csv").read_text(errors="replace").splitlines()):
        if line and line[0].startswith(("Iex/Tops", "Iex/Deep.")):
            counts: Counter[str] = Counter()
            list(describe(folder / line[0], counts))
            kind, _, number = line[-1].partition("x")
            assert counts[names[kind.partition("/")[0]]] == int(number), line
            checked += 1
    assert checked == 4
