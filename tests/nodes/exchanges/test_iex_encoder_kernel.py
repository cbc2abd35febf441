"""The IEX-TP encoder against bytes taken from the specification."""

from pathlib import Path

import numpy as np
import pytest

from fabric.records import pack
from nodes.exchanges import iex_encoder_kernel as kernel
from nodes.exchanges.encoder_kernel import PACKET_BYTES, STREAM
from nodes.exchanges.market_events_kernel import (
    DIRECTORY,
    EVENT,
    EXTENDED_HOURS,
    ODD_LOT,
    QUOTE,
    STATUS,
    SYSTEM,
    TRADE,
)

GOLDEN = Path(__file__).parents[2] / "data" / "iex" / "tops16.hex"
QUOTED_NS = 1_471_980_632_572_715_948
SENT_NS = 1_471_980_632_572_839_404
TRADED_NS = 1_471_980_683_662_974_915
CENT = 10_000_000
ZIEXT = np.array([pack("ZIEXT   ")], np.int64)

EVENTS = {
    "quote": {
        "kind": QUOTE,
        "event_ns": QUOTED_NS,
        "bid_size": 9_700,
        "bid_px": 9_905 * CENT,
        "ask_px": 9_907 * CENT,
        "ask_size": 1_000,
    },
    "trade": {"kind": TRADE, "event_ns": TRADED_NS, "size": 100, "price": 9_905 * CENT, "trade_id": 429_974},
    "status": {"kind": STATUS, "event_ns": QUOTED_NS, "code": ord("T")},
    "directory": {"kind": DIRECTORY, "event_ns": 1_492_414_800_000_000_000, "size": 100, "price": 9_905 * CENT},
    "system": {"kind": SYSTEM, "event_ns": 1_492_448_400_000_000_000, "code": ord("E")},
}
EVENTS["quote_extended"] = EVENTS["quote"] | {"code": EXTENDED_HOURS}
EVENTS["trade_odd_lot_extended"] = EVENTS["trade"] | {"size": 99, "code": ODD_LOT | EXTENDED_HOURS}


@pytest.fixture(scope="module")
def golden() -> dict[str, bytes]:
    found: dict[str, str] = {}
    name = ""
    for line in GOLDEN.read_text().splitlines():
        text = line.split("#")[0]
        if text.endswith(":") or ":" in text:
            name = text.split(":")[0].strip()
            found[name] = ""
        elif text.strip():
            found[name] += text
    return {name: bytes.fromhex(text) for name, text in found.items()}


def events_of(*names: str) -> np.ndarray:
    events = np.zeros(len(names), EVENT)
    for event, name in zip(events, names, strict=True):
        for column, value in EVENTS[name].items():
            event[column] = value
    return events


def encode(events: np.ndarray, stream: np.ndarray, encoder=kernel.encode) -> list[bytes]:
    packets = np.full((events.size + 1, PACKET_BYTES), 0xEE, np.uint8)
    lengths, due_ns = np.zeros(len(packets), np.int64), np.zeros(len(packets), np.int64)
    taken, count = encoder(events, 0, 0, ZIEXT, stream, packets, lengths, due_ns)
    assert taken == events.size
    return [packets[i, : lengths[i]].tobytes() for i in range(count)]


def heartbeat(stream: np.ndarray) -> bytes:
    packets, lengths = np.full((1, PACKET_BYTES), 0xEE, np.uint8), np.zeros(1, np.int64)
    kernel.heartbeat(stream, packets, lengths, SENT_NS)
    return packets[0, : lengths[0]].tobytes()


def stream_of_the_specification() -> np.ndarray:
    """Its one tick is that of `SENT_NS`."""
    stream = np.zeros(1, STREAM)
    stream["session"], stream["sequence"], stream["offset"] = 1_116_143_616, 50_122, 2_205_324
    stream["grid_ns"], stream["tick_ns"] = SENT_NS, 2**61
    return stream


@pytest.mark.parametrize("name", EVENTS)
def test_each_message_is_the_specification_s(golden, name):
    (packet,) = encode(events_of(name), stream_of_the_specification())
    assert packet[42:].hex(" ") == golden[name].hex(" ")
    assert int.from_bytes(packet[40:42], "little") == len(golden[name])


def test_a_packet_and_the_heartbeat_after_it(golden):
    stream = stream_of_the_specification()
    assert heartbeat(stream).hex(" ") == golden["heartbeat"].hex(" ")
    events = events_of("system", "status")
    events["event_ns"] -= events["event_ns"].max() - SENT_NS + 1  # of the tick that ends at SENT_NS
    packet = encode(events, stream)[0]
    at = slice(44, 52), slice(56, 64)
    stamps = [int.from_bytes(golden["packet"][place], "little") for place in at]
    for place, stamp in zip(at, stamps, strict=True):
        packet = packet[: place.start] + stamp.to_bytes(8, "little") + packet[place.stop :]
    assert packet.hex(" ") == golden["packet"].hex(" ")
    assert (stream["sequence"], stream["offset"]) == (50_124, 2_205_324 + 36)


@pytest.mark.parametrize(("count", "sizes"), [(30, [30]), (31, [30, 1]), (60, [30, 30]), (61, [30, 30, 1])])
def test_a_packet_takes_thirty_quotes(count, sizes):
    packets = encode(events_of(*["quote"] * count), stream_of_the_specification())
    assert [int.from_bytes(packet[14:16], "little") for packet in packets] == sizes
    assert all(len(packet) <= 1_400 for packet in packets)
    assert int.from_bytes(packets[-1][24:32], "little") == 50_122 + count - sizes[-1]
    assert int.from_bytes(packets[-1][16:24], "little") == 2_205_324 + 44 * (count - sizes[-1])


def test_the_kernel_does_what_its_python_source_says():
    names = [name for name in EVENTS for _ in range(9)]
    ours, theirs = stream_of_the_specification(), stream_of_the_specification()
    assert encode(events_of(*names), ours) == encode(events_of(*names), theirs, kernel.encode.py_func)
    assert ours == theirs


def test_an_event_of_no_known_kind_is_a_broken_promise():
    events = events_of("quote")
    events["kind"] = 99
    with pytest.raises(AssertionError):
        encode(events, stream_of_the_specification())
