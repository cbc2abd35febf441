"""DEEP+: golden bytes from the tables, the twin, gaps and restarts, recordings, mutations."""

import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mutation
from fabric.records import EVENT, NULL, QUOTE, STATUS, TRADE, Rows, unpack
from fabric.symbols import SymbolTable
from naive_deep_plus import NaiveDeepPlus
from nodes.feeds import deep_plus, deep_plus_kernel, iex_kernel, iextp_kernel, order_book_kernel, wires
from nodes.feeds.rows_kernel import new_out
from nodes.feeds.wire import from_payloads
from nodes.feeds.wire_kernel import BLOCK, GAP, RESTART
from support import random_count
from tape_support import GROUPS, manifest

FUZZ = random_count(20_000)
T0 = 1_727_787_282_000_000_000

# By hand from the tables: type, flag, time, symbol, order id, then the fields.
HEAD = "00a0c0c1c2c3f917 49424b5220202020"  # time, "IBKR"
ADD = bytes.fromhex("61 35" + HEAD + "0a00000000006300 64000000 08d4140000000000")  # sell 100 at 136.4998
MODIFY = bytes.fromhex("4d 01" + HEAD + "0a00000000006300 c8000000 841b150000000000")  # 200 at 138.3300
EXECUTED = bytes.fromhex("4c 40" + HEAD + "0a00000000006300 32000000 841b150000000000 1800000000006300")  # 50
DELETE = bytes.fromhex("52 20" + HEAD + "0a00000000006300")
CLEAR = bytes.fromhex("43 20" + HEAD)
TRADE_HIDDEN = bytes.fromhex("54 c0" + HEAD + "64000000 74f4140000000000 9000000000006300")
BROKEN = b"B" + TRADE_HIDDEN[1:]
HALT = bytes.fromhex("48 48" + HEAD + "54312020")
GOLDEN = [ADD, MODIFY, EXECUTED, DELETE, CLEAR, TRADE_HIDDEN, BROKEN, HALT]


def packet(*messages: bytes, sequence: int = 1, session: int = 9) -> bytes:
    """An IEX-TP packet; layout as in the specification."""
    body = b"".join(struct.pack("<H", len(message)) + message for message in messages)
    return struct.pack("<BBHIIHHqqq", 1, 0, 0x8005, 1, session, len(body), len(messages), 0, sequence, T0) + body


def blocks_of(*payloads: bytes) -> tuple[np.ndarray, np.ndarray, list[int]]:
    packets = from_payloads(list(payloads), 77)
    blocks, counters = np.zeros(len(payloads) + 1, BLOCK), np.zeros(iextp_kernel.N_COUNTERS, np.int64)
    _, made = iextp_kernel.frame(*packets, GROUPS, 0, blocks, counters, deep_plus_kernel.PROTOCOL_DEEP_PLUS)
    return packets.buffer, blocks[:made], counters.tolist()


def joined(wire: deep_plus.DeepPlus, buffer: np.ndarray, blocks: np.ndarray) -> Rows:
    return np.concatenate([np.zeros(0, EVENT), *(rows.copy() for rows in wire.decode(buffer, blocks))])


def decode(wire: deep_plus.DeepPlus, *payloads: bytes) -> Rows:
    return joined(wire, *blocks_of(*payloads)[:2])


def add(side: str, order_id: int, px: int, size: int, symbol: str = "A") -> bytes:
    return struct.pack("<BBq8sqIq", ord("a"), ord(side), T0, symbol.encode().ljust(8), order_id, size, px)


def as_tuples(symbols: SymbolTable, rows: Rows) -> list[tuple[Any, ...]]:
    """Rows of the bus as the twin writes them."""
    found: list[tuple[Any, ...]] = []
    quotes, trades, statuses = rows.view(QUOTE), rows.view(TRADE), rows.view(STATUS)
    for i, kind in enumerate(rows["kind"].tolist()):
        name = symbols.name(int(rows[i]["symbol"]))
        if kind == 1:
            q = quotes[i]
            found.append(("quote", name, side(q["bid_px"], q["bid_size"]), side(q["ask_px"], q["ask_size"])))
        elif kind == 2:
            t = trades[i]
            ids = (number(t["trade_id"]), unpack(t["mark"]), number(t["original_id"]))
            found.append(("trade", name, int(t["price"]) // 100_000, int(t["size"]), unpack(t["condition"]), *ids))
        else:
            s = statuses[i]
            texts = (unpack(s[column]) for column in ("trading", "reason", "short_sale"))
            found.append(("status", name, *texts, number(s["round_lot"])))
    return found


def side(px: int, size: int) -> tuple[int, int] | None:
    return None if px == NULL else (int(px) // 100_000, int(size))


def number(value: int) -> int | None:
    return None if value == NULL else int(value)


@pytest.fixture
def symbols() -> SymbolTable:
    return SymbolTable(64)


@pytest.fixture
def wire(symbols: SymbolTable) -> deep_plus.DeepPlus:
    return deep_plus.DeepPlus(symbols, orders_max=64, levels_max=64)


class TestMessages:
    def test_golden_life_of_an_order(self, wire: deep_plus.DeepPlus, symbols: SymbolTable) -> None:
        rows = decode(wire, packet(ADD, MODIFY, EXECUTED, DELETE, TRADE_HIDDEN, BROKEN, HALT, sequence=5))
        assert as_tuples(symbols, rows) == [
            ("quote", "IBKR", None, (1_365_000, 100)),
            ("quote", "IBKR", None, (1_383_300, 200)),
            ("trade", "IBKR", 1_383_300, 50, "T", 0x63000000000018, "", None),
            ("quote", "IBKR", None, (1_383_300, 150)),
            ("quote", "IBKR", None, None),
            ("trade", "IBKR", 1_373_300, 100, "FT", 0x63000000000090, "", None),
            ("trade", "IBKR", 1_373_300, 100, "FT", None, "x", 0x63000000000090),
            ("status", "IBKR", "H", "T1", "", None),
        ]
        assert rows["exchange_seq"].tolist() == [5, 6, 7, 7, 8, 9, 10, 11]
        assert {chr(venue) for venue in rows["venue"]} == {"V"}
        assert set(rows["event_ns"].tolist()) == {0x17F9C3C2C1C0A000}
        assert rows.view(QUOTE)[0]["ask_px"] == 136_500_000_000

    def test_the_size_at_the_best_is_of_all_orders_there(self, wire: deep_plus.DeepPlus, symbols: SymbolTable) -> None:
        clear = struct.pack("<BBq8s", ord("C"), 32, T0, b"A       ")
        rows = decode(
            wire, packet(add("8", 1, 100, 5), add("8", 2, 100, 7), add("8", 3, 99, 1), add("5", 4, 101, 2), clear)
        )
        assert as_tuples(symbols, rows) == [
            ("quote", "A", (100, 5), None),
            ("quote", "A", (100, 12), None),
            ("quote", "A", (100, 12), (101, 2)),
            ("quote", "A", None, None),
        ]
        assert wire.counters()["orders"] == 0

    def test_orphans_duplicates_and_a_full_book_are_counted(self, wire: deep_plus.DeepPlus) -> None:
        decode(
            wire,
            packet(DELETE, ADD, ADD, ADD[:10] + b"OTHER   " + ADD[18:], b"R" + ADD[1:10] + b"OTHER   " + ADD[18:26]),
        )
        decode(wire, packet(*(add("8", i, 100, 1) for i in range(70))))
        counts = wire.counters()
        assert (counts["orphans"], counts["duplicate_orders"], counts["orders"], counts["orders_refused"]) == (
            2,
            2,
            64,
            7,
        )

    @pytest.mark.parametrize(
        "bad",
        [
            b"",
            ADD[:37],
            ADD[:2] + b"\xff" * 8 + ADD[10:],
            ADD[:10] + b"        " + ADD[18:],
            ADD[:25] + b"\x80" + ADD[26:],
            b"a6" + ADD[2:],
        ],
    )
    def test_what_cannot_be_read_is_counted_and_costs_nothing_after_it(
        self, wire: deep_plus.DeepPlus, bad: bytes
    ) -> None:
        assert decode(wire, packet(bad, b"Z", ADD))["exchange_seq"].tolist() == [3]
        counts = wire.counters()
        assert (counts["malformed_message"], counts["unknown"], counts["messages"]) == (1, 1, 3)


@pytest.mark.parametrize("kind", [GAP, RESTART])
def test_after_lost_messages_orders_are_void_and_quotes_withdrawn(
    wire: deep_plus.DeepPlus, symbols: SymbolTable, kind: int
) -> None:
    first = packet(add("8", 1, 100, 5), add("5", 2, 101, 5), add("8", 3, 90, 5, "B"))
    delete = struct.pack("<BBq8sq", ord("R"), 32, T0, b"A       ", 1)
    buffer, blocks, _ = blocks_of(first, packet(delete, add("8", 1, 99, 4), sequence=9))
    loss = blocks[:1].copy()
    loss["kind"] = kind
    rows = joined(wire, buffer, np.concatenate([blocks[:1], loss, blocks[1:]]))
    assert as_tuples(symbols, rows)[3:] == [
        ("quote", "A", None, None),
        ("quote", "B", None, None),
        ("quote", "A", (99, 4), None),
    ]
    assert rows["exchange_seq"][3:].tolist() == [NULL, NULL, 10]
    assert (wire.counters()["withdrawn"], wire.counters()["orphans"]) == (2, 1)


def test_more_withdrawals_than_one_batch_holds() -> None:
    count = deep_plus.ROWS_MIN + 100
    symbols = SymbolTable(count + 1)
    wire = deep_plus.DeepPlus(symbols, orders_max=count, levels_max=count)
    for start in range(0, count, 100):
        names = range(start, min(start + 100, count))
        decode(wire, packet(*(add("8", i, 100, 5, f"S{i}") for i in names)))
    _, blocks, _ = blocks_of(packet(ADD))
    blocks["kind"] = RESTART
    parts = [rows.copy() for rows in wire.decode(np.zeros(1, np.uint8), blocks)]
    assert [rows.size for rows in parts] == [deep_plus.ROWS_MIN, 100]
    assert np.unique(np.concatenate(parts)["symbol"]).size == count


def some_messages(chance: random.Random, count: int) -> list[bytes]:
    """Messages about few orders of few symbols, so that they meet, and some with random bytes."""
    found = []
    for _ in range(count):
        symbol, order_id = chance.choice("AB").encode().ljust(8), chance.randrange(12)
        px, size = chance.choice((99, 100, 101, 101, 0, -1)), chance.choice((0, 1, 5, 5, 7))
        kind = chance.choice("aaaaMMRLLLTBHOPDCSIE")
        flags = ord(chance.choice("85")) if kind == "a" else chance.choice((0, 1, 0x40, 0xE8, *b"OHTN"))
        head = struct.pack("<BBq", ord(kind), flags, T0)
        body = {
            "a": struct.pack("<qIq", order_id, size, px),
            "M": struct.pack("<qIq", order_id, size, px),
            "R": struct.pack("<q", order_id),
            "L": struct.pack("<qIqq", order_id, size, px, order_id + 1_000),
            "T": struct.pack("<Iqq", size, px, order_id),
            "B": struct.pack("<Iqq", size, px, order_id),
            "H": chance.choice((b"T1  ", b"    ", b"IPO1")),
            "P": b"A",
            "D": struct.pack("<Iqb", size * 20, px, 1),
        }.get(kind, b"")
        raw = bytearray(head if kind == "S" else head + symbol + body)
        if chance.random() < 0.1:
            raw[chance.randrange(len(raw))] = chance.choice((0, 32, 0x7F, 0xFF, chance.randrange(256)))
        found.append(bytes(raw))
    return found


@pytest.mark.parametrize("use", [deep_plus_kernel.decode, deep_plus_kernel.decode.py_func], ids=["compiled", "plain"])
def test_random_messages_become_what_the_twin_says(use: Any) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    compiled = use is deep_plus_kernel.decode
    symbols, twin = SymbolTable(5_000), NaiveDeepPlus()
    state = deep_plus_kernel.new_state(5_000, 512, 512)
    for _ in range(100 if compiled else 10):
        messages = some_messages(chance, 50 if compiled else 10)
        buffer, blocks, _ = blocks_of(packet(*messages))
        rows = np.zeros(deep_plus.ROWS_MIN, EVENT)
        taken, n = use(buffer, blocks, 0, ord("V"), symbols.arrays, state, new_out(rows))
        assert taken == 1
        twin.rows = []
        for message in messages:
            twin.apply(message)
        assert as_tuples(symbols, rows[:n]) == twin.rows, f"seed {seed}"
    book = state.book.counters
    assert state.counters[iex_kernel.MESSAGE] == twin.bad, f"seed {seed}"
    assert book[order_book_kernel.ORPHANS] == twin.orphans, f"seed {seed}"
    assert book[order_book_kernel.DUPLICATES] == twin.duplicates, f"seed {seed}"
    assert book[order_book_kernel.ORDERS] == len(twin.orders), f"seed {seed}"


@pytest.mark.timeout(0)
def test_no_mutation_crashes_or_costs_the_next_packet() -> None:
    chance = random.Random(seed := random.randrange(1 << 32))
    pool = GOLDEN + some_messages(chance, 5_000)
    samples = [packet(*chance.choices(pool, k=chance.randrange(1, 6))) for _ in range(5_000)]
    sound = packet(*[TRADE_HIDDEN[:10] + b"ZZ".ljust(8) + TRADE_HIDDEN[18:]] * 2)
    symbols = SymbolTable(256)
    symbols.intern("ZZ")
    wire = deep_plus.DeepPlus(symbols, orders_max=128, levels_max=64)
    mutations = mutation.Mutations(seed, samples, sound, mutation.iextp_length)
    counts = mutation.fuzz("iex-deep-plus-1.0", wire, symbols, mutations, FUZZ, T0, "ZZ")
    assert min(counts[name] for name in ("malformed_message", "unknown", "unencodable", "orphans")) > 0
    assert counts["packets"] > FUZZ


def test_warming_up_compiles_what_the_live_path_calls(wire: deep_plus.DeepPlus) -> None:
    deep_plus_kernel.warm_up()
    compiled = list(deep_plus_kernel.decode.signatures)
    decode(wire, packet(ADD))
    assert deep_plus_kernel.decode.signatures == compiled


def test_the_wire_has_its_name() -> None:
    symbols = SymbolTable(8)
    wire = wires.SequencedWire(
        wires.format_of("iex-deep-plus-1.0").transport(), deep_plus.DeepPlus(symbols, orders_max=8, levels_max=8), "V"
    )
    rows = [part.copy() for part in wire.decode(from_payloads([packet(ADD), packet(ADD, ADD)], 77))]
    assert as_tuples(symbols, np.concatenate(rows)) == [("quote", "IBKR", None, (1_365_000, 100))]
    assert (wire.accepted, wire.gaps, wire.counters()["duplicate_orders"]) == (2, 0, 1)


class TestRecorded:
    def test_every_packet_has_the_messages_of_the_manifest_and_nothing_left_over(self, shared_data: Path) -> None:
        files = list(manifest(shared_data / "omi_packets", "Iex/DeepPlus"))
        assert len(files) == 14
        for file, counts, payloads in files:
            symbols, twin = SymbolTable(128), NaiveDeepPlus()
            wire = deep_plus.DeepPlus(symbols, orders_max=64, levels_max=64)
            buffer, blocks, counters = blocks_of(*payloads)
            assert counters == [len(payloads), 0, 0, 0, 0, 0, 0], file
            found: Counter[str] = Counter()
            for block in blocks:
                at = int(block["start"])
                while at < block["stop"]:
                    size = int.from_bytes(buffer[at : at + 2].tobytes(), "little")
                    body = buffer[at + 2 : at + 2 + size].tobytes()
                    found[f"{chr(body[0])}/{size}"] += 1
                    twin.apply(body)
                    at += 2 + size
            assert found == counts, file
            rows = joined(wire, buffer, blocks)
            by_type = {deep_plus.TYPE_NAMES[said[0]]: count for said, count in counts.items()}
            assert wire.messages_by_type() == by_type, file
            assert wire.counters()["unknown"] == wire.counters()["malformed_message"] == 0, file
            assert as_tuples(symbols, rows) == twin.rows, file
            assert wire.counters()["orphans"] == twin.orphans

    def test_values_of_the_order_that_was_added(self, shared_data: Path) -> None:
        symbols = SymbolTable(8)
        ((_, _, payloads),) = manifest(shared_data / "omi_packets", "Iex/DeepPlus.IexTp.1.0.2/a_Add")
        rows = decode(deep_plus.DeepPlus(symbols, orders_max=4, levels_max=4), *payloads)
        assert as_tuples(symbols, rows) == [("quote", "IBKR", None, (1_365_000, 100))]
        assert rows["exchange_seq"].tolist() == [47_150]
