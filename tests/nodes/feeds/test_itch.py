"""ITCH 5.0: golden bytes from the specification's offsets, the twin, recordings, LOBSTER's flow, lies, mutations."""

import random
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import itch_tables
import lobster
import mutation
import naive_itch
from fabric.records import EVENT, KIND_QUOTE, KIND_TRADE, NULL, QUOTE, STATUS, TRADE, Rows, columns, unpack
from fabric.symbols import SymbolTable
from golden import golden
from nodes.exchanges.market import NEVER_NS, Market
from nodes.exchanges.nasdaq import ItchEncoder
from nodes.feeds import itch, itch_kernel, moldudp64_kernel, rows_kernel
from nodes.feeds.capture import Capture
from nodes.feeds.lines import Lines
from nodes.feeds.trading_day import TradingDay
from nodes.feeds.wire import Packets, from_payloads
from nodes.feeds.wire_kernel import BLOCK, DATA, GAP, HEARTBEAT, RESTART
from support import random_count

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data"
recorded = pytest.mark.skipif(not SAMPLES.exists(), reason="the recorded samples (../shared/data) are not here")
FUZZ = random_count(20_000)
T0 = 1_692_711_000_000_000_000  # 2023-08-22 09:30:00 in New York
MIDNIGHT = T0 - 34_200 * 10**9
TICK = 100_000
PIECE_BYTES = 60_000


def block(first: int, count: int, start: int, stop: int, kind: int = DATA, skip: int = 0) -> tuple[int, ...]:
    return (0, 0, kind, first, count, skip, start, stop, 0, T0, 0)


def decode(wire: itch.Itch, *messages: bytes, first: int = 1, skip: int = 0) -> Rows:
    """The rows of messages in blocks that no packet exceeds."""
    blocks, at, start, number = [], 0, 0, first
    for i, message in enumerate(messages):
        at += 2 + len(message)
        if at - start > PIECE_BYTES or i == len(messages) - 1:
            blocks.append(block(number, first + i + 1 - number, start, at, skip=skip))
            start, number = at, first + i + 1
    buffer = np.frombuffer(lobster.framed(list(messages)) or b"\0", np.uint8)
    return run(wire, buffer, blocks)


def run(wire: itch.Itch, buffer: Any, blocks: list[tuple[int, ...]]) -> Rows:
    parts = [part.copy() for part in wire.decode(buffer, np.array(blocks, BLOCK))]
    return np.concatenate(parts) if parts else np.zeros(0, EVENT)


def gap(kind: int = GAP) -> list[tuple[int, ...]]:
    return [block(1, 1, 0, 0, kind)]


def number_of(value: int) -> int | None:
    return None if value == NULL else value


def price_of(value: int) -> int | None:
    return None if value == NULL else value // TICK


def told(rows: Rows, symbols: SymbolTable) -> list[naive_itch.Row]:
    """Rows as the twin gives them."""
    found: list[naive_itch.Row] = []
    for row in rows:
        head = (int(row["exchange_seq"]), int(row["event_ns"]) - MIDNIGHT, symbols.name(int(row["symbol"])))
        if row["kind"] == KIND_QUOTE:
            q = row.view(QUOTE)
            sides = [
                None if q[px] == NULL else (int(q[px]) // TICK, int(q[size]))
                for px, size in (("bid_px", "bid_size"), ("ask_px", "ask_size"))
            ]
            found.append(("quote", *head, *sides, unpack(q["condition"]), unpack(q["tape"])))
        elif row["kind"] == KIND_TRADE:
            t = row.view(TRADE)
            traded = (price_of(t["price"]), number_of(t["size"]), unpack(t["condition"]), number_of(t["trade_id"]))
            found.append(("trade", *head, *traded, unpack(t["mark"]), number_of(t["original_id"]), unpack(t["tape"])))
        else:
            s = row.view(STATUS)
            texts = (unpack(s["trading"]), unpack(s["reason"]), unpack(s["short_sale"]))
            numbers = (number_of(s["round_lot"]), price_of(s["upper_px"]), price_of(s["lower_px"]))
            found.append(("status", *head, *texts, *numbers, unpack(s["tape"])))
    return found


def small(symbols: SymbolTable, venue: str = "Q") -> itch.Itch:
    return itch.Itch(symbols, venue, orders_max=4_096, levels_max=4_096)


@pytest.fixture
def symbols() -> SymbolTable:
    return SymbolTable(16)


@pytest.fixture
def wire(symbols: SymbolTable) -> itch.Itch:
    return small(symbols)


# Written by hand from the specification's tables, field by field.
GOLDEN = tuple(golden("nasdaq/itch50.hex").values())
(
    ADD_BUY, ADD_SELL, EXECUTED, EXECUTED_AT, CANCEL, REPLACE, DELETE, TRADE_HIDDEN, CROSS, BROKEN, DIRECTORY,
    ACTION, REG_SHO, COLLAR, HALT_HERE, EVENT_OPEN, BREAKER,
) = GOLDEN  # fmt: skip
AT = 34_200_000_000_001


def test_golden_messages(wire: itch.Itch, symbols: SymbolTable) -> None:
    px = 1_500_000
    assert told(decode(wire, *GOLDEN), symbols) == [
        ("quote", 1, AT, "AAPL", (px, 200), None, "R", ""),
        ("quote", 2, AT, "AAPL", (px, 200), (px + 100, 50), "R", ""),
        ("trade", 3, AT, "AAPL", px, 100, "@", 9, "", None, ""),
        ("quote", 3, AT, "AAPL", (px, 100), (px + 100, 50), "R", ""),
        ("trade", 4, AT, "AAPL", px - 12, 40, "I", 10, "", None, ""),
        ("quote", 4, AT, "AAPL", (px, 60), (px + 100, 50), "R", ""),
        ("quote", 5, AT, "AAPL", (px, 50), (px + 100, 50), "R", ""),
        ("quote", 6, AT, "AAPL", (px - 6, 300), (px + 100, 50), "R", ""),
        ("quote", 7, AT, "AAPL", (px - 6, 300), None, "R", ""),
        ("trade", 8, AT, "AAPL", px + 50, 100, "@", 11, "", None, ""),
        ("trade", 9, AT, "AAPL", px, 1_000_000, "O", 12, "", None, ""),
        ("trade", 10, AT, "AAPL", None, None, "", None, "x", 11, ""),
        ("status", 11, AT, "AAPL", "", "", "", 40, None, None, "C"),
        ("quote", 11, AT, "AAPL", (px - 6, 300), None, "N", "C"),
        ("status", 12, AT, "AAPL", "H", "T1", "", 40, None, None, "C"),
        ("status", 13, AT, "AAPL", "H", "T1", "1", 40, None, None, "C"),
        ("status", 14, AT, "AAPL", "H", "T1", "1", 40, 1_547_304, 1_452_696, "C"),
        ("status", 15, AT, "AAPL", "H", "T1", "1", 40, 1_547_304, 1_452_696, "C"),
        ("status", 16, AT, "", "Q", "", "", None, None, None, ""),
        ("status", 17, AT, "", "", "MWC2", "", None, None, None, ""),
    ]
    counts = wire.counters()
    assert (counts["messages"], counts["quotes"], counts["trades"], counts["trade_breaks"]) == (17, 8, 4, 1)
    assert counts["malformed"] == counts["unknown"] == counts["orders_orphaned"] == 0
    assert wire.messages_by_type()["add_attributed"] == 1


def test_the_tables_give_the_same_bytes_as_the_hand() -> None:
    assert itch_tables.assemble("A", 7, AT, 100, "B", 200, "AAPL", 1_500_000) == ADD_BUY
    assert itch_tables.assemble("C", 7, AT, 100, 40, 10, "Y", 1_499_988) == EXECUTED_AT
    assert {kind: max(at + width for _, at, width, _ in fields) for kind, fields in itch_tables.FIELDS.items()} == (
        itch_kernel.LENGTHS
    )


def compare(seed: int, count: int) -> Counter[str]:
    """Random messages of every type through twin and kernel; return what was counted."""
    chance = random.Random(seed)
    symbols = SymbolTable(16)
    wire, twin = small(symbols), naive_itch.NaiveItch()
    for first in range(1, count, 2_000):
        found = itch_tables.random_messages(chance, 2_000)
        bodies = [
            itch_tables.assemble(kind, locate, time_ns, *values, tracking=tracking)
            for kind, locate, tracking, time_ns, values in found
        ]
        wanted = [row for i, body in enumerate(bodies) for row in twin.apply(body, first + i)]
        assert told(decode(wire, *bodies, first=first), symbols) == wanted, f"seed {seed}, message {first} on"
    counts = wire.counters()
    assert (counts["orders_orphaned"], counts["malformed"], counts["orders"]) == (
        twin.orphans,
        twin.malformed,
        len(twin.book.orders),
    )
    assert counts["orders_duplicate"] == twin.book.duplicates
    assert counts["orders_overdrawn"] == twin.book.overdrawn
    return Counter(counts)


def test_random_messages_give_the_rows_of_the_twin() -> None:
    counts = compare(seed=20_261_122, count=FUZZ)
    assert min(counts[name] for name in ("quotes", "trades", "trade_breaks", "statuses", "unprinted")) > 0
    assert min(counts[name] for name in ("orders_orphaned", "orders_duplicate", "orders_overdrawn")) > 0


def test_compiled_and_plain_python_decode_alike() -> None:
    bodies = [itch_tables.assemble(m[0], m[1], m[3], *m[4]) for m in itch_tables.random_messages(random.Random(1), 300)]
    buffer = np.frombuffer(lobster.framed([*GOLDEN, *bodies, b"", b"zebra"]), np.uint8)
    blocks = np.array([block(1, 318, 0, buffer.size), *gap(), *gap(RESTART), (0,) * 11], BLOCK)
    blocks["kind"][3] = HEARTBEAT
    day, results = TradingDay(), []
    day.at(T0)
    for use in (itch_kernel.decode, itch_kernel.decode.py_func):
        symbols, rows = SymbolTable(16), np.zeros(itch.ROWS_MIN, EVENT)
        state = itch_kernel.new_state(16, 512, 512)
        out = rows_kernel.new_out(rows)
        days = (day.midnight_ns, day.next_midnight_ns)
        taken, n = use(buffer, blocks, 0, ord("Q"), *days, symbols.arrays, state, out)
        results.append((taken, columns(rows[:n]).tolist(), state.counters.tolist(), symbols.names()))
    assert results[0] == results[1]
    assert results[0][0] == 4


class TestStatus:
    def test_a_listed_symbol_is_firm_only_while_it_trades(self, wire: itch.Itch, symbols: SymbolTable) -> None:
        release = ACTION[:19] + b"T" + ACTION[20:]
        end_here = HALT_HERE[:20] + b"T"
        other_market = HALT_HERE[:19] + b"B" + HALT_HERE[20:]
        rows = told(decode(wire, DIRECTORY, ADD_BUY, release, HALT_HERE, other_market, end_here, ACTION), symbols)
        assert [(row[0], row[4] if row[0] == "status" else row[6]) for row in rows] == [
            ("status", ""),
            ("quote", "N"),
            ("status", "T"),
            ("quote", "R"),
            ("status", "H"),
            ("quote", "N"),
            ("status", "T"),
            ("quote", "R"),
            ("status", "H"),
            ("quote", "N"),
        ]
        assert rows[4][5] == "OPER"

    def test_the_tape_is_that_of_the_listing_market(self, symbols: SymbolTable) -> None:
        for category, tape in (("Q", "C"), ("G", "C"), ("S", "C"), ("N", "A"), ("A", "B"), ("P", "B"), ("V", "B")):
            rows = decode(small(symbols), DIRECTORY[:19] + category.encode() + DIRECTORY[20:], ADD_BUY).view(QUOTE)
            assert unpack(rows[1]["tape"]) == tape

    def test_a_venue_event_keeps_the_line_live(self, wire: itch.Itch) -> None:
        row = decode(wire, EVENT_OPEN).view(STATUS)[0]
        assert (unpack(row["trading"]), unpack(row["venue_state"]), row["symbol"]) == ("Q", "live", 0)

    def test_a_breach_of_the_market_wide_breaker_is_the_venue_s(self, wire: itch.Itch) -> None:
        rows = decode(wire, *(BREAKER[:11] + level for level in (b"1", b"2", b"3"))).view(STATUS)
        assert [unpack(reason) for reason in rows["reason"]] == ["MWC1", "MWC2", "MWC3"]
        for row in rows:
            assert (row["trading"], unpack(row["venue_state"]), row["symbol"]) == (NULL, "live", 0)
        assert decode(wire, BREAKER[:11] + b"0", BREAKER[:11] + b"4", BREAKER[:11] + b" ").size == 0
        assert wire.counters()["malformed_message"] == 3


class TestGaps:
    def test_a_gap_withdraws_what_was_quoted_and_empties_the_book(self, wire: itch.Itch, symbols: SymbolTable) -> None:
        other = itch_tables.assemble("A", 8, AT, 7, "S", 100, "MSFT", 20)
        decode(wire, ADD_BUY, other, itch_tables.assemble("Y", 9, AT, "QUIET", "0"))
        rows = run(wire, np.zeros(1, np.uint8), gap())
        assert [(row[3], row[4], row[5]) for row in told(rows, symbols)] == [("AAPL", None, None), ("MSFT", None, None)]
        assert rows["exchange_seq"].tolist() == [NULL, NULL]
        assert (wire.counters()["withdrawn"], wire.counters()["orders"]) == (2, 0)
        assert decode(wire, EXECUTED).size == 0
        assert (wire.counters()["orders_orphaned"], wire.counters()["sides_unknown"]) == (1, 6)

    def test_after_a_gap_a_side_is_told_where_it_is_better_than_an_execution(
        self, wire: itch.Itch, symbols: SymbolTable
    ) -> None:
        def after(*message: itch_tables.Value) -> list[Any]:
            kind, *values = message
            return [row[3:5] for row in told(decode(wire, itch_tables.assemble(str(kind), 7, AT, *values)), symbols)]

        decode(wire, ADD_BUY)
        run(wire, np.zeros(1, np.uint8), gap())
        assert after("A", 5, "B", 10, "", 30) == []  # an older one may be better, or before it; the name is known
        assert after("A", 6, "B", 10, "", 29) == []
        assert after("E", 5, 4, 1) == [("AAPL", 30)]  # none was better, but some may be left beside it
        assert after("A", 7, "B", 3, "", 31) == [("AAPL", (31, 3))]
        assert after("D", 7) == [("AAPL", None)]
        assert after("D", 5) == []
        assert after("E", 6, 1, 2) == [("AAPL", 29)]
        assert after("A", 9, "B", 2, "", 30) == [("AAPL", (30, 2))]
        assert after("U", 70, 71, 5, 28) == []  # unknown, and a bid
        assert after("U", 71, 72, 5, 31) == [("AAPL", None)]  # a bid or an ask, and as a bid the best
        assert after("E", 6, 1, 3) == [("AAPL", 29), ("AAPL", (30, 2))]
        assert after("A", 8, "S", 3, "", 32) == []  # the other side is still unknown
        assert wire.counters()["sides_unknown"] == 1

    def test_who_comes_late_tells_nothing_that_is_not_so(self) -> None:
        """The market model matches by price and time, as an exchange does."""
        market = Market(symbols=20, seed=5, start_ns=T0, rate=20_000, venue="Q", by_orders=True, renumbers=True)
        encoder = ItchEncoder(market.names, session=1)
        whole, late = (itch.Itch(SymbolTable(64), orders_max=4_096, levels_max=4_096) for _ in range(2))
        late_from, known = 700, [0, 0]
        for number, payload in enumerate(simulated(market, encoder, 1_500)):
            for wire in (whole, late) if number >= late_from else (whole,):
                packets = from_payloads([payload], recv_ns=T0)
                run(wire, packets.buffer, frame(packets).tolist())
            if number >= late_from:
                mine, theirs = (by_name(wire) for wire in (late, whole))
                for name, sides in mine.items():
                    for side, other in zip(sides, theirs[name], strict=True):
                        assert side in (None, other), (number, name)
                        known[number >= 1_100] += side is not None
        assert whole.counters()["sides_unknown"] == 0
        assert known[1] > known[0] > 0
        assert late.counters()["sides_unknown"] < 20

    @recorded
    def test_who_comes_late_to_lobsters_hour_tells_nothing_that_is_not_so(self) -> None:
        _, _, _, messages = lobster_messages("message_50")
        whole, late = small(SymbolTable(4)), small(SymbolTable(4))
        known = []
        for number, payload in enumerate(lobster.packets(messages, bytes_max=120)):
            packets = from_payloads([payload], recv_ns=T0)
            for wire in (whole, late) if number >= 100 else (whole,):
                run(wire, packets.buffer, frame(packets).tolist())
            if number >= 100:
                for side, other in zip(by_name(late).get("AAPL", ()), by_name(whole)["AAPL"], strict=False):
                    assert side in (None, other), number
                    known.append(side is not None)
        assert np.mean(known) > 0.9

    def test_a_restart_forgets_names_and_statuses_too(self, wire: itch.Itch, symbols: SymbolTable) -> None:
        decode(wire, DIRECTORY, ACTION, ADD_BUY)
        assert run(wire, np.zeros(1, np.uint8), gap(RESTART)).size == 1
        rows = decode(wire, itch_tables.assemble("A", 7, AT, 5, "B", 10, "MSFT", 30), DIRECTORY)
        assert [row[3:] for row in told(rows, symbols)] == [
            ("MSFT", (30, 10), None, "R", ""),
            ("AAPL", "", "", "", 40, None, None, "C"),
        ]

    def test_more_withdrawals_than_one_batch_holds(self) -> None:
        symbols = SymbolTable(30_000)
        wire = itch.Itch(symbols, orders_max=1 << 15, levels_max=1 << 15)
        adds = [itch_tables.assemble("A", i, AT, i, "B", 100, f"S{i}", 30) for i in range(1, 29_000)]
        assert decode(wire, *adds).size == 28_999
        rows = run(wire, np.zeros(1, np.uint8), gap())
        assert np.unique(rows["symbol"]).size == rows.size == 28_999
        assert (decode(wire, adds[0]).size, wire.counters()["orders"]) == (0, 1)


class TestLies:
    def test_short_and_unknown_messages_are_skipped_by_their_length(self, wire: itch.Itch) -> None:
        late = bytes.fromhex("44 0007 0000 ffffffffffff 0000000000000064")
        sideways = ADD_BUY[:19] + b"X" + ADD_BUY[20:]
        nameless = ADD_BUY[:24] + b"A B     " + ADD_BUY[32:]
        rows = decode(wire, ADD_BUY[:35], b"", b"zebra", b"A", late, sideways, nameless, ADD_BUY + b"appended")
        assert rows["exchange_seq"].tolist() == [8]
        counts = wire.counters()
        assert (counts["malformed_message"], counts["unknown"], counts["messages"]) == (6, 1, 8)
        assert wire.messages_by_type()["unknown_0x7a"] == 1

    def test_orders_without_price_shares_or_name_are_counted(self, wire: itch.Itch) -> None:
        free = ADD_BUY[:32] + bytes(4)
        empty = ADD_BUY[:20] + bytes(4) + ADD_BUY[24:]
        unlisted = BROKEN[:1] + b"\x03" + BROKEN[2:]
        assert decode(wire, free, empty, unlisted, ADD_BUY, ADD_BUY).size == 1
        counts = wire.counters()
        assert (counts["unencodable"], counts["orders_refused"], counts["orders_duplicate"]) == (1, 1, 1)
        assert counts["unlisted"] == 1

    def test_a_full_symbol_table_refuses_and_counts(self) -> None:
        wire = small(SymbolTable(2))
        decode(wire, ADD_BUY, itch_tables.assemble("A", 8, AT, 8, "B", 1, "MSFT", 9))
        assert (wire.counters()["refused"], wire.counters()["quotes"]) == (1, 1)

    def test_a_block_that_ends_within_a_message_costs_that_message(self, wire: itch.Itch) -> None:
        buffer = np.frombuffer(lobster.framed([ADD_BUY, ADD_SELL]), np.uint8)
        assert run(wire, buffer, [block(1, 2, 0, buffer.size - 1), block(3, 1, 0, 38)]).size == 1
        assert wire.counters()["messages"] == 2

    def test_messages_had_before_are_passed_over(self, wire: itch.Itch) -> None:
        assert decode(wire, ADD_BUY, ADD_SELL, skip=1)["exchange_seq"].tolist() == [2]


def test_times_count_from_the_midnight_of_each_block(wire: itch.Itch) -> None:
    buffer = np.frombuffer(lobster.framed([ADD_BUY, ADD_SELL]), np.uint8)
    blocks = np.array([block(1, 1, 0, 38), block(2, 1, 38, 80)], BLOCK)
    blocks["recv_ns"][1] += 86_400 * 10**9
    events = [int(ns) for part in wire.decode(buffer, blocks) for ns in part["event_ns"]]
    assert events == [T0 + 1, T0 + 1 + 86_400 * 10**9]


@pytest.mark.timeout(0)
def test_no_mutation_crashes_or_costs_the_next_packet() -> None:
    chance = random.Random(seed := random.randrange(1 << 32))
    pool = [itch_tables.assemble(m[0], m[1], m[3], *m[4]) for m in itch_tables.random_messages(chance, 5_000)]
    samples = [lobster.packets(chance.sample(pool, chance.randrange(1, 6)))[0] for _ in range(5_000)]
    sound = lobster.packets([itch_tables.assemble("P", 60_000, AT, 0, "B", 100, "ZZ", 30, 1)] * 2)[0]
    symbols = SymbolTable(4_096)
    symbols.intern("ZZ")
    wire = itch.Itch(symbols, orders_max=256, levels_max=64)
    mutations = mutation.Mutations(seed, samples, sound)
    counts = mutation.fuzz("nasdaq-itch-5.0", wire, symbols, mutations, FUZZ, T0, "ZZ")
    assert min(counts[name] for name in ("malformed_message", "unknown", "malformed_short", "orders_orphaned")) > 0
    assert counts["messages"] > FUZZ


def test_warming_up_compiles_what_the_live_path_calls(wire: itch.Itch) -> None:
    itch_kernel.warm_up()
    compiled = list(itch_kernel.decode.signatures)
    decode(wire, *GOLDEN)
    assert itch_kernel.decode.signatures == compiled


def frame(packets: Packets) -> Any:
    """The blocks of packets, all sound."""
    blocks, counters = np.zeros(packets.offsets.size, BLOCK), np.zeros(moldudp64_kernel.N_COUNTERS, np.int64)
    _, made = moldudp64_kernel.frame(*packets, np.zeros(1, np.int64), 0, blocks, counters)
    assert made == counters[moldudp64_kernel.PACKETS] == packets.offsets.size
    assert not counters[[moldudp64_kernel.SHORT, moldudp64_kernel.SEQUENCE, moldudp64_kernel.LENGTH]].any()
    return blocks


def payloads_of(path: Path) -> list[bytes]:
    """The UDP payloads of a capture file."""
    with Capture(path) as capture:
        return [
            batch.packets.buffer[at : at + length].tobytes()
            for batch in capture
            for at, length in zip(batch.packets.offsets, batch.packets.lengths, strict=True)
        ]


@recorded
class TestRecorded:
    def test_every_nasdaq_packet_decodes_to_its_manifest(self) -> None:
        folder = SAMPLES / "omi_packets"
        seen: Counter[str] = Counter()
        for line in (folder / "MANIFEST.csv").read_text(encoding="latin-1").splitlines():
            name, _, _, _, _, listed = line.split(",")
            if "TotalView.Itch.v5.0" not in name:
                continue
            symbols = SymbolTable(64)
            wire, twin = small(symbols), naive_itch.NaiveItch()
            wanted = Counter({item.split("/")[0]: int(item.split("x")[1]) for item in listed.split()})
            lengths = {item.split("/")[0]: int(item.split("/")[1].split("x")[0]) for item in listed.split()}
            packets = from_payloads(payloads := payloads_of(folder / name), recv_ns=T0)
            rows = run(wire, packets.buffer, frame(packets).tolist())
            bodies = [(int.from_bytes(p[10:18], "big"), p[22 : 22 + int.from_bytes(p[20:22], "big")]) for p in payloads]
            assert told(rows, symbols) == [row for number, body in bodies for row in twin.apply(body, number)], name
            assert wire.messages_by_type() == {itch.TYPE_NAMES[kind]: count for kind, count in wanted.items()}, name
            assert {kind: itch_kernel.LENGTHS[kind] for kind in wanted} == lengths, name
            assert wire.counters()["malformed"] == wire.counters()["unknown"] == 0, name
            seen.update(wanted)
        assert set(seen) == set("AFECXDUPQIHLYJS")
        assert sum(seen.values()) == 71

    def test_the_start_of_a_day_gives_its_known_answers(self) -> None:
        raw = (SAMPLES / "itch50_small/sample.itch").read_bytes()
        symbols = SymbolTable(2_000)
        wire, twin = small(symbols), naive_itch.NaiveItch()
        bodies, at = [], 0
        while at < len(raw):
            bodies.append(raw[at + 2 : at + 2 + int.from_bytes(raw[at : at + 2], "big")])
            at += 2 + len(bodies[-1])
        rows = decode(wire, *bodies)
        assert told(rows, symbols) == [row for i, body in enumerate(bodies, 1) for row in twin.apply(body, i)]
        by_type = {"stock_directory": 993, "trading_action": 3, "reg_sho": 3, "system_event": 1}
        assert wire.messages_by_type() == by_type
        counts = wire.counters()
        assert (counts["messages"], counts["statuses"], counts["malformed"], counts["unknown"]) == (1_000, 1_000, 0, 0)

    def test_lobsters_flow_gives_its_published_book(self) -> None:
        """Re-encoded. In 44 rows from 440 on the best is a level below the tenth, which the start does not tell."""
        events, levels, encoder, messages = lobster_messages("message_10")
        symbols = SymbolTable(4)
        wire = small(symbols)
        packets = from_payloads(lobster.packets(messages), recv_ns=T0)
        rows = run(wire, packets.buffer, frame(packets).tolist()).view(QUOTE)
        quotes = rows[rows["kind"] == KIND_QUOTE]
        started = len(messages) - len(events) + 1  # the book of row 0 is what is sent first
        last = np.searchsorted(quotes["exchange_seq"], np.arange(started, len(messages) + 1), side="right") - 1
        exact = [
            best_of(row) == tuple(int(quotes[i][name]) // (TICK if "px" in name else 1) for name in SIDES)
            for row, i in zip(levels, last, strict=True)
        ]
        assert exact.index(False) == 440
        assert all(exact[487:])
        assert sum(exact[1:]) == 954
        assert encoder.orphans == wire.counters()["orders_orphaned"] == 4

    def test_lobsters_hour_executes_at_the_best_and_is_never_crossed(self) -> None:
        """Re-encoded, over a real socket: line and numbers lose nothing, and the book is the one that traded."""
        events, levels, encoder, messages = lobster_messages("message_50")
        symbols = SymbolTable(4)
        wire = small(symbols)
        rows = over_a_socket(wire, lobster.packets(messages))
        counts = wire.counters()
        assert counts["messages"] == len(messages) == len(events) - 1 + 2 + len(levels[0])
        assert counts["orders_orphaned"] == encoder.orphans == 53
        assert counts["malformed"] == counts["orders_duplicate"] == counts["orders_overdrawn"] == 0
        best: dict[str, int] = {}
        executed = at_best = shares = 0
        sides = {i + started_at(messages, events): event.is_buy for i, event in enumerate(events) if event.type == 4}
        for row in rows:
            if row["kind"] == KIND_QUOTE:
                quote = row.view(QUOTE)
                best = {name: int(quote[name]) for name in SIDES}
                assert best["bid_px"] < best["ask_px"] or NULL in best.values()
            elif row["kind"] == KIND_TRADE:
                trade = row.view(TRADE)
                shares += int(trade["size"])
                if int(row["exchange_seq"]) in sides:
                    executed += 1
                    at_best += trade["price"] == best["bid_px" if sides[int(row["exchange_seq"])] else "ask_px"]
        assert (executed, at_best) == (4_067, 4_067)
        assert shares == 533_629


def simulated(market: Market, encoder: ItchEncoder, count: int) -> Iterator[bytes]:
    """The first packets of a market."""
    while count > 0:
        events, taken = market.take(NEVER_NS), 0
        while taken < events.size and count > 0:
            taken, made = encoder.encode(events, taken)
            for i in range(min(made, count)):
                yield encoder.packets[i, : encoder.lengths[i]].tobytes()
            count -= made


def by_name(wire: itch.Itch) -> dict[str, list[tuple[int, int] | None]]:
    """Bid and ask of each symbol as they were told last."""
    symbols = wire._symbols
    return {
        symbols.name(i): [
            None if px == NULL else (px, size)
            for px, size in zip(wire.state.symbols[i]["px"], wire.state.symbols[i]["size"], strict=True)
        ]
        for i in range(1, len(symbols))
    }


SIDES = ("ask_px", "ask_size", "bid_px", "bid_size")


def lobster_messages(name: str) -> tuple[list[lobster.Event], list[list[lobster.Level]], lobster.Encoder, list[bytes]]:
    """LOBSTER's AAPL: its events, its ten-level book, and both as messages from the book of row 0 on."""
    events = lobster.read_events(SAMPLES / f"lobster/AAPL_2012-06-21_{name}.csv.gz")
    levels = lobster.read_levels(SAMPLES / "lobster/AAPL_2012-06-21_orderbook_10.csv.gz")
    encoder = lobster.Encoder()
    messages = encoder.start(events[0].time_ns, levels[0]) + [encoder.encode(event) for event in events[1:]]
    return events, levels, encoder, messages


def started_at(messages: list[bytes], events: list[lobster.Event]) -> int:
    """The number of the message that event 0 would be."""
    return len(messages) - len(events) + 1


def best_of(levels: list[lobster.Level]) -> tuple[int, ...]:
    """Price and size of the best ask and bid of a row."""
    ask = next((level for level in levels if not level[2]), (NULL, NULL, False))
    bid = next((level for level in levels if level[2]), (NULL, NULL, True))
    return (*ask[:2], *bid[:2])


def over_a_socket(wire: itch.Itch, payloads: list[bytes]) -> Rows:
    """Send packets over loopback and decode what arrives, a few at a time so that no buffer overflows."""
    found = []
    with (
        closing(Lines([("127.0.0.1", 0)])) as lines,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sender.connect(lines.addresses[0])
        for start in range(0, len(payloads), 50):
            sent = payloads[start : start + 50]
            for payload in sent:
                sender.send(payload)
            arrived = 0
            while arrived < len(sent):
                lines.wait(2_000)
                packets = lines.receive(T0)
                assert packets.offsets.size, "a packet did not arrive within two seconds"
                arrived += packets.offsets.size
                found += [part.copy() for part in wire.decode(packets.buffer, frame(packets))]
    return np.concatenate(found)
