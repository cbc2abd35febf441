"""What `fabric decode` shows of Cboe's PITCH: every golden message, recorded packets and lines, what cannot be read."""

import csv
import gzip
from collections import Counter
from datetime import date
from pathlib import Path

import naive_pitch as naive
from nodes.feeds.describe import describe
from nodes.feeds.describe_pitch import is_pitch, lines, packet
from nodes.feeds.pitch import TYPE_NAMES
from nodes.feeds.pitch_ascii import NO_DAY
from nodes.feeds.trading_day import midnight_ns

GOLDEN = naive.golden(Path(__file__).resolve().parents[2] / "data/pitch/pitch241.hex")


def test_every_golden_message_with_its_fields() -> None:
    names = [name for name in GOLDEN if name != "header"]
    found = {m["type"]: m for m in packet(naive.packet(*(GOLDEN[name] for name in names), sequence=7, unit=3), 99)}
    assert list(found) == names
    assert [m["sequence"] for m in found.values()] == list(range(7, 7 + len(names)))
    order = 0x0B1D568F775B4005
    assert found["add_order_expanded"] == {
        "t": 99, "sequence": 11, "type": "add_order_expanded", "symbol": "ZVXYZABC", "unit": 3, "offset_ns": 447_000,
        "order_id": order, "side": "B", "size": 20_000, "price": 100.1001, "flags": 1, "participant": "MPID",
        "customer": "",
    }  # fmt: skip
    shown = {name: message.get("price") for name, message in found.items() if "price" in message}
    assert shown == {
        "add_order_long": 0.905, "add_order_short": 100.1, "add_order_expanded": 100.1001, "trade_long": 0.905,
        "order_executed_at_price_size": 100.2516, "modify_order_long": 100.0983, "modify_order_short": 100.11,
        "trade_short": 100.1, "trade_expanded": 0.905, "auction_summary": 100.1,
    }  # fmt: skip
    assert (found["trading_status"]["status"], found["trading_status"]["short_sale"]) == ("H", "1")
    assert (found["time"]["second"], found["reduce_size_long"]["size"]) == (34_200, 75_000)


def test_heartbeats_and_what_cannot_be_read() -> None:
    found = list(packet(naive.packet(b"\x03\x22x", b"\x02\x29", b"\x02\xee", naive.symbol_mapping(), sequence=0), 5))
    assert [m["type"] for m in found] == ["malformed", "malformed", "unknown", "symbol_mapping"]
    assert [m["sequence"] for m in found] == [None] * 4
    assert found[2]["hex"] == "02ee"
    assert next(packet(naive.packet(sequence=8, unit=2), 5)) == {
        "t": 5, "sequence": 8, "type": "heartbeat", "symbol": None, "unit": 2
    }  # fmt: skip


def test_what_is_no_packet() -> None:
    good = naive.packet(GOLDEN["time"])
    assert is_pitch(good)
    lies = [b"", good[:7], good[:-1], good + b"\0", naive.packet(b"\x01"), naive.packet(b"\x02x", count=2)]
    assert not any(is_pitch(raw) for raw in lies)


def test_lines_of_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "bzx-20080501.gz"
    data = "S34200001A0000000000A1B000100ZVZZT 0000101000Y\r\n\n34200002E0000000000A10000300000000000ZZ\n"
    data += "34200003Z\n34200004X12\nhello\n34200005HZVZZT   T0"
    path.write_bytes(gzip.compress(data.encode()))
    counts: Counter[str] = Counter()
    found = list(lines(path, counts))
    opened = midnight_ns(date(2008, 5, 1)) + 34_200 * naive.SECOND_NS
    assert found[0] == {
        "t": opened + 1_000_000, "sequence": 1, "type": "add_order", "symbol": "ZVZZT", "order_id": "0000000000A1",
        "side": "B", "size": 100, "price": 10.1,
    }  # fmt: skip
    assert found[1]["execution_id"] == "0000000000ZZ"
    assert [m["type"] for m in found[2:]] == ["unknown", "malformed", "malformed", "trading_status"]
    assert (found[-1]["sequence"], found[-1]["status"]) == (6, "T")
    assert counts == {"add_order": 1, "order_executed": 1, "unknown": 1, "malformed": 2, "trading_status": 1}


def test_recorded_packets_equal_the_manifest(shared_data: Path) -> None:
    folder = shared_data / "omi_packets"
    checked = 0
    for line in csv.reader((folder / "MANIFEST.csv").read_text(errors="replace").splitlines()):
        if not line or not line[0].startswith("Cboe/"):
            continue
        wanted = Counter({"heartbeat": 0})
        for item in line[-1].split():
            kind, _, number = item.rpartition("x")
            code, _, size = kind.partition("/")
            if kind == "hb":
                wanted["heartbeat"] += int(number)
            elif size and int(size) < naive.SIZES.get(int(code, 16), 0):
                wanted["malformed"] += int(number)  # short forms of futures lack a field that those of equities have
            else:
                wanted[TYPE_NAMES[int(code, 16)]] += int(number)
        found = Counter(message["type"] for message in describe(folder / line[0], Counter()))
        assert found == wanted, line
        checked += 1
    assert checked == 12


def test_recorded_lines(shared_data: Path) -> None:
    path = shared_data / "bats_pitch_ascii/pitch_set1.txt.gz"
    counts: Counter[str] = Counter()
    found = list(describe(path, counts))
    assert counts == {"add_order": 7_930, "order_cancel": 7_364, "trade": 18, "order_executed": 9}
    assert found[0]["t"] == midnight_ns(NO_DAY) + 28_800_011 * 1_000_000
