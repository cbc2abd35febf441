"""PITCH messages as bytes: each golden one, and a decoder and a plain twin that agree on what they say."""

import gzip
import random
import struct
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naive_pitch as naive
from fabric.compiled import kernel as compiled
from fabric.records import pack
from fabric.symbols import SymbolTable
from nodes.exchanges import pitch_messages_kernel as kernel
from nodes.feeds import pitch, sequenced_unit_kernel
from nodes.feeds.pitch_ascii import PitchAscii
from nodes.feeds.trading_day import midnight_ns
from nodes.feeds.wire import from_payloads
from nodes.feeds.wire_kernel import BLOCK
from support import random_count

FUZZ = random_count(20_000)
GOLDEN = naive.golden(Path(__file__).resolve().parents[2] / "data/pitch/pitch241.hex")
DAY = midnight_ns(date(2026, 11, 20))
LONG, SHORT = 100_000, 10_000_000
AT, ORDER, OTHER, EXECUTION = 447_000, 0x0B1D568F775B4005, 0x0B1D568F775B4006, 0xA1B2C3
ZVZZT, LONGER = pack("ZVZZT"), pack("ZVXYZABC")
BUY, SELL = ord("B"), ord("S")


def written(put: Callable[..., Any], *fields: int) -> bytes:
    """The bytes that a function writes at place 3; those around them stay."""
    packet = np.full(64, 0xAA, np.uint8)
    count = put(packet, 3, *fields)
    raw: bytes = packet.tobytes()
    assert set(raw[:3] + raw[3 + count :]) == {0xAA}
    return raw[3 : 3 + count]


@pytest.mark.parametrize(
    ("name", "put", "fields"),
    [
        ("header", kernel.put_header, (49, 2, 3, 305_419_896)),
        ("time", kernel.put_time, (34_200,)),
        ("unit_clear", kernel.put_unit_clear, (1,)),
        ("add_order_long", kernel.put_add_long, (AT, ORDER, SELL, 20_000, ZVZZT, 9_050 * LONG)),
        ("add_order_short", kernel.put_add_short, (AT, ORDER, BUY, 20_000, ZVZZT, 10_010 * SHORT)),
        (
            "add_order_expanded",
            kernel.put_add_expanded,
            (AT, ORDER, BUY, 20_000, LONGER, 1_001_001 * LONG, pack("MPID")),
        ),
        ("order_executed", kernel.put_executed, (AT, ORDER, 100, EXECUTION)),
        (
            "order_executed_at_price_size",
            kernel.put_executed_at,
            (AT, ORDER, 100, 19_900, EXECUTION + 1, 1_002_516 * LONG),
        ),
        ("reduce_size_long", kernel.put_reduce_long, (AT, ORDER, 75_000)),
        ("reduce_size_short", kernel.put_reduce_short, (AT, ORDER, 100)),
        ("modify_order_long", kernel.put_modify_long, (AT, ORDER, 75_000, 1_000_983 * LONG, kernel.KEEP_PRIORITY)),
        ("modify_order_short", kernel.put_modify_short, (AT, ORDER, 100, 10_011 * SHORT, 0)),
        ("delete_order", kernel.put_delete, (AT, ORDER)),
        ("trade_long", kernel.put_trade_long, (AT, OTHER, 70_000, ZVZZT, 9_050 * LONG, EXECUTION + 2)),
        ("trade_short", kernel.put_trade_short, (AT, OTHER, 99, ZVZZT, 10_010 * SHORT, EXECUTION + 3)),
        ("trade_expanded", kernel.put_trade_expanded, (AT, OTHER, 70_000, LONGER, 9_050 * LONG, EXECUTION + 4)),
        ("trade_break", kernel.put_trade_break, (AT, EXECUTION)),
        ("end_of_session", kernel.put_end_of_session, (AT,)),
        ("trading_status", kernel.put_trading_status, (AT, ZVZZT, ord("H"), ord("1"))),
        (
            "auction_update",
            kernel.put_auction_update,
            (AT, ZVZZT, ord("C"), 1_001_000 * LONG, 500, 600, 1_001_100 * LONG, 1_001_200 * LONG),
        ),
        ("auction_summary", kernel.put_auction_summary, (AT, ZVZZT, ord("O"), 1_001_000 * LONG, 500)),
        ("retail_price_improvement", kernel.put_retail_improvement, (AT, ZVZZT, BUY)),
    ],
)
def test_golden_bytes(name: str, put: Any, fields: tuple[int, ...]) -> None:
    assert written(put.py_func, *fields).hex(" ") == GOLDEN[name].hex(" ")


def test_every_golden_message_is_written() -> None:
    names = set(GOLDEN) - {"header"}
    assert names == set(pitch.TYPE_NAMES.values()) - {"symbol_mapping", "future_instrument_definition"}


@pytest.mark.parametrize(
    ("symbol", "size", "price", "kinds"),
    [
        ("A", 65_535, 65_535 * SHORT, (0x22, 0x26, 0x28, 0x2B)),
        ("SIXSIX", 1, 1 * SHORT, (0x22, 0x26, 0x28, 0x2B)),
        ("A", 65_536, 1 * SHORT, (0x21, 0x25, 0x27, 0x2A)),
        ("A", 1, 65_536 * SHORT, (0x21, 0x26, 0x27, 0x2A)),
        ("A", 1, 1 * LONG, (0x21, 0x26, 0x27, 0x2A)),
        ("SEVENTH", 1, 1 * SHORT, (0x2F, 0x26, 0x28, 0x30)),
    ],
)
def test_the_shortest_form_that_holds_it(symbol: str, size: int, price: int, kinds: tuple[int, ...]) -> None:
    blank_padded = int.from_bytes(symbol.encode().ljust(8), "little")
    for name in (pack(symbol), blank_padded):
        messages = [
            written(kernel.put_add.py_func, AT, ORDER, BUY, size, name, price),
            written(kernel.put_reduce.py_func, AT, ORDER, size),
            written(kernel.put_modify.py_func, AT, ORDER, size, price, 0),
            written(kernel.put_trade.py_func, AT, ORDER, size, name, price, EXECUTION),
        ]
        assert tuple(message[1] for message in messages) == kinds
        assert [message[0] for message in messages] == [naive.SIZES[kind] for kind in kinds]


@compiled
def put_one(packet: Any, at: int, kind: int, time: int, f: Any) -> int:
    """Write a message of the type ``kind`` from its fields in the order of their table."""
    if kind == 0x20:
        return kernel.put_time(packet, at, time)
    if kind == 0x97:
        return kernel.put_unit_clear(packet, at, time)
    if kind == 0x2D:
        return kernel.put_end_of_session(packet, at, time)
    if kind == 0x21:
        return kernel.put_add_long(packet, at, time, f[0], f[1], f[2], f[3], f[4] * LONG)
    if kind == 0x22:
        return kernel.put_add_short(packet, at, time, f[0], f[1], f[2], f[3], f[4] * SHORT)
    if kind == 0x2F:
        return kernel.put_add_expanded(packet, at, time, f[0], f[1], f[2], f[3], f[4] * LONG, f[6])
    if kind == 0x23:
        return kernel.put_executed(packet, at, time, f[0], f[1], f[2])
    if kind == 0x24:
        return kernel.put_executed_at(packet, at, time, f[0], f[1], f[2], f[3], f[4] * LONG)
    if kind == 0x25:
        return kernel.put_reduce_long(packet, at, time, f[0], f[1])
    if kind == 0x26:
        return kernel.put_reduce_short(packet, at, time, f[0], f[1])
    if kind == 0x27:
        return kernel.put_modify_long(packet, at, time, f[0], f[1], f[2] * LONG, f[3])
    if kind == 0x28:
        return kernel.put_modify_short(packet, at, time, f[0], f[1], f[2] * SHORT, f[3])
    if kind == 0x29:
        return kernel.put_delete(packet, at, time, f[0])
    if kind == 0x2A:
        return kernel.put_trade_long(packet, at, time, f[0], f[2], f[3], f[4] * LONG, f[5])
    if kind == 0x2B:
        return kernel.put_trade_short(packet, at, time, f[0], f[2], f[3], f[4] * SHORT, f[5])
    if kind == 0x30:
        return kernel.put_trade_expanded(packet, at, time, f[0], f[2], f[3], f[4] * LONG, f[5])
    if kind == 0x2C:
        return kernel.put_trade_break(packet, at, time, f[0])
    if kind == 0x31:
        return kernel.put_trading_status(packet, at, time, f[0], f[1], f[2])
    if kind == 0x95:
        prices = (f[2] * LONG, f[5] * LONG, f[6] * LONG)
        return kernel.put_auction_update(packet, at, time, f[0], f[1], prices[0], f[3], f[4], prices[1], prices[2])
    if kind == 0x96:
        return kernel.put_auction_summary(packet, at, time, f[0], f[1], f[2] * LONG, f[3])
    return kernel.put_retail_improvement(packet, at, time, f[0], f[1])


FORMS = {
    0x20: "", 0x97: "", 0x2D: "", 0x21: "<qcI6sQB", 0x22: "<qcH6sHB", 0x2F: "<qcI8sQB4sc", 0x23: "<qIq",
    0x24: "<qIIqQ", 0x25: "<qI", 0x26: "<qH", 0x27: "<qIQB", 0x28: "<qHHB", 0x29: "<q", 0x2A: "<qcI6sQq",
    0x2B: "<qcH6sHq", 0x30: "<qcI8sQq", 0x2C: "<q", 0x31: "<8scc2s", 0x95: "<8scQIIQQ", 0x96: "<8scQI", 0x98: "<8sc",
}  # fmt: skip


def again(raw: bytes, packet: np.ndarray) -> bytes:
    """The message read by its table and written by the encoder; as it is when it is not of this market."""
    kind, time = struct.unpack_from("<BI", raw, 1)
    if kind not in FORMS:
        return raw
    values = struct.unpack(FORMS[kind], raw[6:])
    fields = [int.from_bytes(value, "little") if isinstance(value, bytes) else value for value in values]
    return packet[: put_one(packet, 0, kind, time, np.array(fields or [0], np.int64))].tobytes()


@pytest.mark.timeout(0)
def test_encoder_and_decoder_agree_on_seeded_messages_of_every_type() -> None:
    seed = random.randrange(1 << 32)
    symbols = SymbolTable(64)
    wire = pitch.Pitch(symbols, "Z", 1 << 20, 1 << 16)
    twin = naive.NaivePitch(DAY)
    flow = naive.Flow(random.Random(seed), ["A", "BRK.B", "SIXSIX", "SEVENTH7", *(f"S{i}" for i in range(20))])
    packet = np.zeros(64, np.uint8)
    sequence, rows = 1, 0
    for _ in range(FUZZ // 200):
        messages = [flow.next() for _ in range(200)]
        encoded = [again(message, packet) for message in messages]
        assert encoded == messages, f"seed {seed}"
        head = written(kernel.put_header.py_func, 8 + sum(map(len, encoded)), 200, 1, sequence & 0xFFFFFFFF)
        assert head + b"".join(encoded) == naive.packet(*messages, sequence=sequence)
        block = np.zeros(1, BLOCK)
        block["first"], block["count"], block["recv_ns"], block["stop"] = sequence, 200, DAY, sum(map(len, encoded))
        buffer = np.frombuffer(b"".join(encoded), np.uint8).copy()
        found = [row for part in wire.decode(buffer, block) for row in naive.rows_of(part, symbols)]
        wanted = [row for i, raw in enumerate(messages) for row in twin.apply(0, sequence + i, raw, DAY)]
        assert found == wanted, f"seed {seed}"
        sequence, rows = sequence + 200, rows + len(wanted)
    counts = wire.counters()
    assert {name: counts[name] for name in twin.counts} == dict(twin.counts), f"seed {seed}"
    assert counts["orders"] == len(twin.book.orders)
    assert rows > FUZZ // 10
    assert set(wire.state.types.nonzero()[0]) >= set(naive.SIZES)


def flow_again(data: bytes) -> list[bytes]:
    """Recorded lines of ASCII PITCH as packets of Multicast PITCH, with a Time message where the second turns."""
    packets: list[bytes] = []
    messages: list[bytes] = []
    sequence, second = 1, -1
    for line in data.splitlines():
        text = line.removeprefix(b"S").decode()
        ms, kind, order = int(text[:8]), text[8], int(text[9:21], 36)
        if ms // 1000 != second:
            second = ms // 1000
            messages.append(written(kernel.put_time.py_func, second))
        at = ms % 1000 * 1_000_000
        if kind in "AP":
            size, symbol, price = int(text[22:28]), pack(text[28:34].strip()), int(text[34:44]) * LONG
            if kind == "A":
                put, fields = kernel.put_add, (order, ord(text[21]), size, symbol, price)
            else:
                put, fields = kernel.put_trade, (order, size, symbol, price, int(text[44:56], 36))
        elif kind == "E":
            put, fields = kernel.put_executed, (order, int(text[21:27]), int(text[27:39], 36))
        else:
            put, fields = kernel.put_reduce, (order, int(text[21:27]))
        messages.append(written(put.py_func, at, *fields))
        if len(messages) > 20:
            packets.append(naive.packet(*messages, sequence=sequence))
            sequence += len(messages)
            messages = []
    return [*packets, naive.packet(*messages, sequence=sequence)]


def test_recorded_flow_encoded_again_gives_the_same_rows(shared_data: Path) -> None:
    """Not a recording of this wire: real orders of 2008, re-encoded."""
    data = gzip.decompress((shared_data / "bats_pitch_ascii/pitch_set1.txt.gz").read_bytes())
    day = date(2008, 5, 1)
    recorded = [SymbolTable(512), SymbolTable(512)]
    lines, wire = PitchAscii(recorded[0], day), pitch.Pitch(recorded[1], "Z")
    wanted = [row for part in lines.decode(data) for row in naive.rows_of(part, recorded[0])]
    packets = from_payloads(flow_again(data), midnight_ns(day) + 28_800 * naive.SECOND_NS)
    blocks, counters = np.zeros(packets.offsets.size, BLOCK), np.zeros(sequenced_unit_kernel.N_COUNTERS, np.int64)
    sequenced_unit_kernel.frame(*packets, np.zeros(1, np.int64), 0, blocks, counters)
    found = [row for part in wire.decode(packets.buffer, blocks) for row in naive.rows_of(part, recorded[1])]
    assert [(*row[:2], *row[3:]) for row in found] == [(*row[:2], *row[3:]) for row in wanted]  # but for the number
    mine, theirs = wire.counters(), lines.counters()
    assert mine.pop("messages") - wire.messages_by_type()["time"] == theirs.pop("messages") == 15_321
    assert mine == theirs
    assert (mine["orders"], mine["orders_orphaned"], mine["untimed"], mine["malformed"]) == (588, 0, 0, 0)
