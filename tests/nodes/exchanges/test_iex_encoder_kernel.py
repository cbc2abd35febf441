"""The IEX-TP encoder against bytes taken from the specification, and the decoder that reads what it writes."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fabric import records
from fabric.records import NULL, pack
from fabric.symbols import SymbolTable
from nodes.exchanges import iex_encoder_kernel as kernel
from nodes.exchanges.encoder_kernel import PACKET_BYTES, STREAM
from nodes.exchanges.market_events_kernel import (
    BREAK,
    DIRECTORY,
    EVENT,
    EXTENDED_HOURS,
    ODD_LOT,
    QUOTE,
    SHORT_SALE,
    STATUS,
    SYSTEM,
    TRADE,
)
from nodes.feeds import iex, iex_kernel, iextp_kernel
from nodes.feeds.wire_kernel import BLOCK
from support import random_count

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


def random_events(chance: np.random.Generator, count: int, start_ns: int, symbols: int) -> np.ndarray:
    """Events of every kind that the wire has, in the order of their times, with fields from all of their ranges."""
    events = np.zeros(count, EVENT)
    events["kind"] = chance.choice([QUOTE, TRADE, BREAK, STATUS, DIRECTORY, SHORT_SALE, SYSTEM], count)
    events["event_ns"] = start_ns + np.cumsum(chance.integers(0, 100_000, count))
    events["symbol"] = chance.integers(0, symbols, count)
    for name in ("bid_px", "ask_px", "price"):
        events[name] = chance.integers(1, records.PRICE_MAX // 100_000 + 1, count) * 100_000
    for name in ("bid_size", "ask_size"):
        events[name] = chance.integers(0, 1 << 32, count) * (chance.random(count) < 0.9)
    for side in ("bid", "ask"):
        events[f"{side}_px"][events[f"{side}_size"] == 0] = 0
    events["size"] = chance.integers(1, 1 << 32, count)
    events["trade_id"] = chance.integers(0, 1 << 62, count)
    codes = {QUOTE: [0, EXTENDED_HOURS], STATUS: b"HOPT", SHORT_SALE: b"01", SYSTEM: b"OSRMEC"}
    codes[TRADE] = codes[BREAK] = [0, ODD_LOT, EXTENDED_HOURS, ODD_LOT | EXTENDED_HOURS]
    for kind, letters in codes.items():
        mine = events["kind"] == kind
        events["code"][mine] = chance.choice(list(letters), mine.sum())
    reasons = np.array([pack(text) for text in ("", "T1", "IPO1", "MCB3")])
    events["reason"] = chance.choice(reasons, count) * (events["kind"] == STATUS)
    return events


def row_of(event: Any, known: list[Any]) -> tuple[Any, ...] | None:
    """What must reach the bus of an event; ``known`` is its symbol's status, and the one told last, or None."""
    kind, code = event["kind"], int(event["code"])
    if kind == QUOTE:
        sides = [
            (int(event[f"{side}_px"]), int(event[f"{side}_size"])) if event[f"{side}_size"] else (NULL, NULL)
            for side in ("bid", "ask")
        ]
        return (*sides, pack("R") if event["bid_size"] or event["ask_size"] else pack("N"))
    if kind in (TRADE, BREAK):
        flags = ("T" if code & EXTENDED_HOURS else "") + ("I" if code & ODD_LOT else "")
        ids = (NULL, pack("x"), int(event["trade_id"])) if kind == BREAK else (int(event["trade_id"]), NULL, NULL)
        return (int(event["price"]), int(event["size"]), pack(flags or "@"), *ids)
    if kind == SYSTEM:
        return (code, NULL, NULL, NULL)
    status, told = known
    if kind == STATUS:
        status[:2] = code, int(event["reason"])
    elif kind == SHORT_SALE:
        status[2] = code
    else:
        status[3] = int(event["size"])
    known[1] = list(status)
    return None if status == told else (*status[:3], status[3] or NULL)


def told_by(row: Any) -> tuple[Any, ...]:
    """A row of the bus in the form of `row_of`."""
    if row["kind"] == records.KIND_QUOTE:
        row = row.view(records.QUOTE)
        return ((row["bid_px"], row["bid_size"]), (row["ask_px"], row["ask_size"]), row["condition"])
    names = ("price", "size", "condition", "trade_id", "mark", "original_id")
    if row["kind"] == records.KIND_STATUS:
        names = ("trading", "reason", "short_sale", "round_lot")
    return tuple(int(row.view(records.TRADE if len(names) == 6 else records.STATUS)[name]) for name in names)


@pytest.mark.timeout(0)
def test_encoder_and_decoder_agree_on_seeded_messages_of_every_type():
    seed = random.randrange(1 << 32)
    chance, total, at_once = np.random.default_rng(seed), random_count(20_000), 5_000
    names = ["A", "BRK.B", "ZVZZT", "SEVENTH", "EIGHTH.X"]
    packed = np.array([int.from_bytes(name.ljust(8).encode(), "little") for name in names], np.int64)
    symbols = SymbolTable(16)
    wire, ids = iex.tops(symbols), {symbols.intern(name): i for i, name in enumerate(names)}
    stream, known = stream_of_the_specification(), [[[0, 0, 0, 0], [0, 0, 0, 0]] for _ in names]
    stream["tick_ns"], stream["grid_ns"], number = 2_000_000, QUOTED_NS, int(stream["sequence"][0])
    packets, blocks = np.zeros((at_once, PACKET_BYTES), np.uint8), np.zeros(at_once, BLOCK)
    lengths, due_ns, stamps, offsets = (np.zeros(at_once, np.int64) for _ in range(4))
    offsets[:] = np.arange(at_once) * PACKET_BYTES
    counters, start_ns, compared = np.zeros(iextp_kernel.N_COUNTERS, np.int64), QUOTED_NS, 0
    for _ in range(0, total, at_once):
        events = random_events(chance, at_once, start_ns, len(names))
        start_ns = int(events["event_ns"][-1])
        taken, made = kernel.encode(events, 0, 0, packed, stream, packets, lengths, due_ns)
        assert taken == at_once
        arrays = (packets.reshape(-1), offsets[:made], lengths[:made], stamps[:made], stamps[:made])
        framed = iextp_kernel.frame(*arrays, np.zeros(1, np.int64), 0, blocks, counters, iex_kernel.PROTOCOL_TOPS)
        assert framed == (made, made), f"seed {seed}"
        rows = np.concatenate([part.copy() for part in wire.decode(arrays[0], blocks[:made])])
        wanted = [(number + i, event, row_of(event, known[event["symbol"]])) for i, event in enumerate(events)]
        wanted = [found for found in wanted if found[2] is not None]
        number += at_once
        assert rows["exchange_seq"].tolist() == [found[0] for found in wanted], f"seed {seed}"
        assert rows["event_ns"].tolist() == [int(found[1]["event_ns"]) for found in wanted], f"seed {seed}"
        for row, (at, event, expected) in zip(rows, wanted, strict=True):
            assert told_by(row) == expected, f"seed {seed}, message {at}"
            assert event["kind"] == SYSTEM or ids[int(row["symbol"])] == event["symbol"], f"seed {seed}, message {at}"
        compared += rows.size
    counts = wire.counters()
    assert (counts["messages"], counts["malformed_message"], counts["unknown"]) == (total, 0, 0)
    assert counters[iextp_kernel.SHORT :].sum() == 0
    assert len(wire.messages_by_type()) == 7
    assert compared > total // 2
