"""Multicast PITCH: golden bytes from the specification's tables, a plain twin, gaps, lies, mutations, real packets."""

import random
from datetime import date
from pathlib import Path

import numpy as np
import pytest

import mutation
import naive_pitch as naive
from fabric.records import (
    EVENT,
    KIND_QUOTE,
    NULL,
    QUOTE,
    Rows,
    columns,
    empty,
)
from fabric.symbols import SymbolTable
from naive_pitch import SECOND_NS, packet
from nodes.feeds import pitch, pitch_kernel, sequenced_unit_kernel, wires
from nodes.feeds.rows_kernel import new_out
from nodes.feeds.trading_day import midnight_ns
from nodes.feeds.wire import from_payloads
from nodes.feeds.wire_kernel import BLOCK, GAP, HEARTBEAT, RESTART
from support import random_count

FUZZ = random_count(20_000)
GOLDEN = naive.golden(Path(__file__).resolve().parents[2] / "data/pitch/pitch241.hex")
DAY = midnight_ns(date(2026, 11, 20))
OPEN = DAY + 34_200 * SECOND_NS
CENT = 10_000_000
NO_SIDE = (None, None)


def blocks_of(*payloads: bytes, recv_ns: int = OPEN) -> tuple[np.ndarray, np.ndarray]:
    """The bytes and blocks of packets, all on one line."""
    packets = from_payloads(list(payloads), recv_ns)
    blocks, counters = np.zeros(len(payloads), BLOCK), np.zeros(sequenced_unit_kernel.N_COUNTERS, np.int64)
    _, made = sequenced_unit_kernel.frame(*packets, np.zeros(1, np.int64), 0, blocks, counters)
    return packets.buffer, blocks[:made]


def void(kind: int, unit: int = 1, recv_ns: int = OPEN) -> np.ndarray:
    """A GAP or RESTART of a unit, as the sequencer makes it."""
    block = np.zeros(1, BLOCK)
    block["kind"], block["stream"], block["recv_ns"], block["count"] = kind, unit, recv_ns, 5
    return block


class Decoder:
    """A market with room for little, and what it made of packets."""

    def __init__(self, rows_max: int = pitch.ROWS_MIN, symbols_max: int = 64, orders_max: int = 1 << 12) -> None:
        self.symbols = SymbolTable(symbols_max)
        self.pitch = pitch.Pitch(self.symbols, "Y", orders_max, orders_max, rows_max)

    def take(self, *payloads: bytes, recv_ns: int = OPEN) -> list[naive.Row]:
        return self.blocks(*blocks_of(*payloads, recv_ns=recv_ns))

    def blocks(self, buffer: np.ndarray, blocks: np.ndarray) -> list[naive.Row]:
        return naive.rows_of(self.rows(buffer, blocks), self.symbols)

    def rows(self, buffer: np.ndarray, blocks: np.ndarray) -> Rows:
        parts = [part.copy() for part in self.pitch.decode(buffer, blocks)]
        return np.concatenate(parts) if parts else empty(0, EVENT)

    def messages(self, *messages: bytes, sequence: int = 1, unit: int = 1) -> list[naive.Row]:
        """The rows of one packet that begins at the opening."""
        return self.take(packet(naive.time(34_200), *messages, sequence=sequence, unit=unit))

    def __getitem__(self, counter: str) -> int:
        return self.pitch.counters()[counter]


@pytest.fixture
def market() -> Decoder:
    return Decoder()


class TestGolden:
    """The bytes of tests/data/pitch/pitch241.hex, each type once."""

    def test_the_orders_life(self, market: Decoder) -> None:
        names = ["add_order_short", "order_executed", "order_executed_at_price_size", "reduce_size_short"]
        names += ["modify_order_short", "modify_order_long", "reduce_size_long", "add_order_short", "delete_order"]
        at = OPEN + 447_000
        rows = market.take(packet(GOLDEN["time"], *(GOLDEN[name] for name in names), sequence=10))
        zvzzt = ("quote", "ZVZZT")
        assert rows == [
            (*zvzzt, 11, at, 10_010 * CENT, 20_000, None, None, "R"),
            ("trade", "ZVZZT", 12, at, 10_010 * CENT, 100, "@", 0xA1B2C3, None, None),
            (*zvzzt, 12, at, 10_010 * CENT, 19_900, None, None, "R"),
            ("trade", "ZVZZT", 13, at, 100_251_600_000, 100, "@", 0xA1B2C4, None, None),
            (*zvzzt, 14, at, 10_010 * CENT, 19_800, None, None, "R"),
            (*zvzzt, 15, at, 10_011 * CENT, 100, None, None, "R"),
            (*zvzzt, 16, at, 100_098_300_000, 75_000, None, None, "R"),
            (*zvzzt, 17, at, None, None, None, None, "R"),
            (*zvzzt, 18, at, 10_010 * CENT, 20_000, None, None, "R"),
            (*zvzzt, 19, at, None, None, None, None, "R"),
        ]
        assert market["malformed"] == market["unknown"] == market["orders"] == 0

    def test_long_and_expanded_orders(self, market: Decoder) -> None:
        expanded = bytearray(GOLDEN["add_order_expanded"])
        expanded[6] += 1  # another order
        rows = market.take(packet(GOLDEN["time"], GOLDEN["add_order_long"], bytes(expanded)))
        at = OPEN + 447_000
        assert rows == [
            ("quote", "ZVZZT", 2, at, None, None, 905_000_000, 20_000, "R"),
            ("quote", "ZVXYZABC", 3, at, 100_100_100_000, 20_000, None, None, "R"),
        ]

    def test_trades_and_a_break(self, market: Decoder) -> None:
        names = ["trade_long", "trade_short", "trade_expanded", "trade_break"]
        rows = market.take(packet(GOLDEN["time"], *(GOLDEN[name] for name in names)))
        at = OPEN + 447_000
        assert rows == [
            ("trade", "ZVZZT", 2, at, 905_000_000, 70_000, "@", 0xA1B2C5, None, None),
            ("trade", "ZVZZT", 3, at, 10_010 * CENT, 99, "I", 0xA1B2C6, None, None),
            ("trade", "ZVXYZABC", 4, at, 905_000_000, 70_000, "@", 0xA1B2C7, None, None),
        ]
        assert market["unknown_breaks"] == 1
        market.take(packet(GOLDEN["add_order_short"], GOLDEN["order_executed"], sequence=9))
        rows = market.take(packet(GOLDEN["trade_break"], GOLDEN["trade_break"], sequence=11))
        assert rows == [("trade", "ZVZZT", 11, at, 10_010 * CENT, 100, "@", None, "x", 0xA1B2C3)]
        assert (market["trade_breaks"], market["unknown_breaks"]) == (1, 2)

    def test_status_session_and_what_has_no_row(self, market: Decoder) -> None:
        names = ["trading_status", "auction_update", "auction_summary", "retail_price_improvement", "end_of_session"]
        rows = market.take(packet(GOLDEN["time"], *(GOLDEN[name] for name in names), GOLDEN["trading_status"]))
        at = OPEN + 447_000
        assert rows == [("status", "ZVZZT", 2, at, "H", "1", ""), ("status", "", 6, at, "C", "", "live")]
        assert market["malformed"] == market["unknown"] == 0
        types = {"trading_status": 2, "time": 1, "end_of_session": 1, "auction_update": 1, "auction_summary": 1}
        assert market.pitch.messages_by_type() == types | {"retail_price_improvement": 1}

    def test_unit_clear(self, market: Decoder) -> None:
        rows = market.take(packet(GOLDEN["time"], GOLDEN["add_order_long"], GOLDEN["unit_clear"]))
        assert rows[1:] == [("quote", "ZVZZT", 3, OPEN + 1, None, None, None, None, "R")]
        assert (market["clears"], market["withdrawn"], market["orders"]) == (1, 1, 0)

    def test_the_header(self, market: Decoder) -> None:
        _, blocks = blocks_of(GOLDEN["header"] + bytes(41))
        assert blocks.size == 0
        _, blocks = blocks_of(GOLDEN["header"] + GOLDEN["reduce_size_long"] + b"\x17\xee" + bytes(21))
        assert (blocks["stream"][0], blocks["first"][0], blocks["count"][0]) == (3, 305_419_896, 2)


class TestRules:
    def test_the_best_is_of_all_orders_at_it(self, market: Decoder) -> None:
        orders = [naive.add_short(1, "B", 100, "A", 1000), naive.add_short(2, "B", 50, "A", 1000)]
        rows = market.messages(*orders, naive.add_short(3, "B", 7, "A", 999), naive.delete(1), naive.delete(2))
        assert [(row[4], row[5]) for row in rows] == [
            (1000 * CENT, 100), (1000 * CENT, 150), (1000 * CENT, 50), (999 * CENT, 7)
        ]  # fmt: skip

    def test_what_is_left_is_trusted_when_more_was_executed_than_shown(self, market: Decoder) -> None:
        rows = market.messages(
            naive.add_short(1, "S", 100, "A", 1000),
            naive.executed_at(1, 250, 100, 7, 100_500),
            naive.executed_at(1, 100, 0, 8, 100_000),
        )
        assert [row[0] for row in rows] == ["quote", "trade", "trade", "quote"]
        assert rows[1][4:8] == (1005 * CENT, 250, "@", 7)
        assert rows[3][4:8] == (None, None, None, None)
        assert market["orders_overdrawn"] == 0

    def test_an_id_may_come_back_after_its_delete_but_not_before(self, market: Decoder) -> None:
        rows = market.messages(
            naive.add_short(1, "B", 100, "A", 1000),
            naive.add_short(1, "B", 100, "A", 1001),
            naive.delete(1),
            naive.add_short(1, "S", 5, "B", 2000),
        )
        assert [(row[1], row[4], row[6]) for row in rows] == [
            ("A", 1000 * CENT, None), ("A", None, None), ("B", None, 2000 * CENT)
        ]  # fmt: skip
        assert market["orders_duplicate"] == 1

    def test_an_unknown_order_is_counted(self, market: Decoder) -> None:
        assert market.messages(naive.delete(9), naive.executed(9, 1, 1), naive.modify_short(9, 1, 1)) == []
        assert market["orders_orphaned"] == 3

    def test_an_order_for_which_there_is_no_room_is_counted(self) -> None:
        market = Decoder(orders_max=2)
        market.messages(*(naive.add_short(order, "B", 100, "A", 1000) for order in range(1, 5)))
        assert (market["orders"], market["orders_refused"]) == (2, 2)

    @pytest.mark.parametrize("price", [0, 2_250_000 * 10_000 + 1, 2**63, 2**64 - 1])
    def test_a_price_that_no_record_can_hold_is_not_booked(self, market: Decoder, price: int) -> None:
        good = naive.add_long(1, "B", 100, "A", 10_000)
        assert market.messages(naive.add_long(2, "B", 100, "A", price), naive.trade_long(5, "A", price, 1)) == []
        assert len(market.messages(good, naive.modify_long(1, 50, price))) == 2
        assert (market["unencodable"], market["orders"]) == (3, 0)

    def test_conditions_follow_from_time_and_size(self, market: Decoder) -> None:
        trades = [naive.trade_short(size, "A", 1000, 1) for size in (100, 99)]
        early, late = naive.time(34_199), naive.time(57_600)
        rows = market.take(
            packet(early, *trades, naive.time(34_200), *trades, naive.time(57_599), *trades, late, *trades)
        )
        assert [row[6] for row in rows] == ["T", "TI", "@", "I", "@", "I", "T", "TI"]

    def test_a_symbol_that_does_not_trade_has_no_firm_quote(self, market: Decoder) -> None:
        rows = market.messages(
            naive.trading_status("A", "Q"),
            naive.add_short(1, "B", 100, "A", 1000),
            naive.trading_status("A", "T"),
            naive.trading_status("A", "T", "1"),
            naive.trading_status("A", "H", "1"),
        )
        assert [(row[0], row[4] if row[0] == "status" else row[8]) for row in rows] == [
            ("status", "Q"), ("quote", "N"), ("status", "T"), ("quote", "R"), ("status", "T"), ("status", "H"),
            ("quote", "N"),
        ]  # fmt: skip
        assert [row[5] for row in rows if row[0] == "status"] == ["0", "0", "1", "1"]

    def test_units_have_their_own_seconds(self, market: Decoder) -> None:
        market.take(packet(naive.time(34_200), unit=1), packet(naive.time(34_205), unit=2))
        rows = market.take(
            packet(naive.add_short(1, "B", 1, "A", 1, at=7), unit=1),
            packet(naive.add_short(2, "B", 1, "B", 1, at=8), unit=2),
            packet(naive.add_short(3, "B", 1, "C", 1, at=9), unit=3),
        )
        assert [row[3] - OPEN for row in rows] == [7, 5 * SECOND_NS + 8, 0]
        assert market["untimed"] == 1

    def test_midnight_is_that_of_the_time_told(self, market: Decoder) -> None:
        tomorrow = DAY + naive.DAY_NS
        status = naive.trading_status("A", "T")
        rows = market.take(packet(naive.time(86_399), status), recv_ns=tomorrow + 5)
        rows += market.take(packet(naive.time(3), naive.trading_status("A", "H")), recv_ns=tomorrow - 5)
        assert [row[3] for row in rows] == [tomorrow - SECOND_NS, tomorrow + 3 * SECOND_NS]
        assert market.take(packet(naive.time(90_000))) == []
        assert market["malformed_message"] == 1

    def test_venues_are_letters(self) -> None:
        symbols = SymbolTable(4)
        for letter in pitch.MARKETS:
            wire = pitch.Pitch(symbols, letter, 16, 16)
            row = next(iter(wire.decode(*blocks_of(packet(naive.trading_status("A", "T"))))))[0]
            assert chr(row["venue"]) == letter

    def test_more_units_than_the_table_holds_are_counted(self) -> None:
        market = Decoder()
        payload, blocks = blocks_of(packet(naive.trading_status("A", "T")))
        for stream in range(400):
            blocks["stream"] = stream << 16
            market.blocks(payload, blocks)
        assert 0 < market["malformed_units"] < 400 - pitch.UNITS_MAX + 1


class TestVoid:
    ORDERS = (naive.add_short(1, "B", 100, "A", 1000), naive.add_short(2, "S", 100, "B", 1001))

    @pytest.mark.parametrize("kind", [GAP, RESTART])
    def test_orders_of_the_unit_are_void_and_its_quotes_withdrawn(self, market: Decoder, kind: int) -> None:
        market.messages(*self.ORDERS, naive.trading_status("A", "T"), unit=1)
        market.messages(naive.add_short(3, "B", 100, "C", 1000), unit=2)
        rows = market.blocks(np.zeros(1, np.uint8), void(kind))
        nothing = (*NO_SIDE, *NO_SIDE, "R")
        assert rows == [("quote", "A", None, OPEN, *nothing), ("quote", "B", None, OPEN, *nothing)]
        assert market.blocks(np.zeros(1, np.uint8), void(kind)) == []
        assert (market["withdrawn"], market["orders"]) == (2, 1)
        rows = market.take(packet(naive.delete(1), naive.add_short(4, "B", 9, "A", 998), sequence=50))
        assert rows == [("quote", "A", 51, OPEN, 998 * CENT, 9, *NO_SIDE, "R")], "its second is unknown too"
        assert (market["orders_orphaned"], market["untimed"]) == (1, 2)
        told = market.take(packet(naive.trading_status("A", "T"), sequence=52))
        assert [row[0] for row in told] == (["status"] if kind == RESTART else [])

    def test_more_withdrawals_than_one_array_holds(self) -> None:
        market = Decoder(symbols_max=2_000, orders_max=4_000)
        names = [f"S{i}" for i in range(1_500)]
        orders = [naive.add_short(i + 1, "B", 100, name, 1000) for i, name in enumerate(names)]
        for start in range(0, 1_500, 100):
            market.take(packet(*orders[start : start + 100], sequence=start + 1))
        again = [naive.add_short(i + 1, "S", 100, name, 1000) for i, name in enumerate(names[:200])]
        rows = market.take(packet(naive.time(34_200), naive.unit_clear(), *again, sequence=5_000))
        assert [row[1] for row in rows] == names + names[:200]
        assert all(row[4] is None for row in rows)
        assert [row[2] for row in rows[1_498:1_502]] == [5_001, 5_001, 5_002, 5_003]
        assert market["clears"] == 1
        assert len(market.blocks(np.zeros(1, np.uint8), void(GAP))) == 200

    def test_skipped_messages_and_other_kinds_of_blocks_are_passed_over(self, market: Decoder) -> None:
        buffer, blocks = blocks_of(packet(*self.ORDERS, sequence=7))
        blocks["skip"] = 1
        assert [row[1:3] for row in market.blocks(buffer, blocks)] == [("B", 8)]
        blocks["kind"] = HEARTBEAT
        assert market.blocks(buffer, blocks) == []
        assert market["messages"] == 1

    def test_an_image_of_the_book_has_no_numbers(self, market: Decoder) -> None:
        buffer, blocks = blocks_of(packet(*self.ORDERS))
        blocks["first"] = 0
        assert [row[2] for row in market.blocks(buffer, blocks)] == [None, None]


class TestNumbers:
    """The wire as a feed has it: what begins anew and what does not."""

    LAST = 2**32 - 1

    def take(self, wire: wires.SequencedWire, *payloads: bytes, now_ns: int = 0) -> list[tuple[int | None, str]]:
        """(exchange's number, what) of each quote: ``B`` for a bid, ``-`` for a withdrawal."""
        rows = [part.copy() for part in wire.decode(from_payloads(list(payloads), OPEN), now_ns)]
        quotes = np.concatenate(rows).view(QUOTE) if rows else np.zeros(0, QUOTE)
        return [
            (None if row["exchange_seq"] == NULL else int(row["exchange_seq"]), "-" if row["bid_px"] == NULL else "B")
            for row in quotes
            if row["kind"] == KIND_QUOTE
        ]

    @pytest.fixture
    def wire(self) -> wires.SequencedWire:
        return wires.make("cboe-pitch-2.41", SymbolTable(8), "Z")

    def test_1_follows_the_last_and_the_book_stands(self, wire: wires.SequencedWire) -> None:
        orders = [naive.add_short(order, "B", 100, "A", 10_000, 0) for order in range(1, 5)]
        first = packet(naive.time(34_200), *orders[:3], sequence=self.LAST - 2)
        assert self.take(wire, first) == [(self.LAST - 1, "B"), (self.LAST, "B"), (1, "B")]
        assert self.take(wire, packet(sequence=2), packet(orders[3], sequence=2)) == [(2, "B")]
        assert [wire.counters()[name] for name in ("restarts", "orders", "gaps")] == [0, 4, 0]

    def test_after_the_end_of_the_session_another_begins_at_1(self, wire: wires.SequencedWire) -> None:
        order = naive.add_short(1, "B", 100, "A", 10_000, 0)
        self.take(wire, packet(naive.time(34_200), order, naive.end_of_session(), sequence=100))
        night = 8 * 3_600 * SECOND_NS
        new = [packet(sequence=1), packet(naive.time(25_200), sequence=1), packet(order, sequence=2)]
        assert self.take(wire, *new, now_ns=night) == [(None, "-"), (2, "B")]
        assert [wire.counters()[name] for name in ("restarts", "orders", "gaps", "lost")] == [1, 1, 0, 0]


class TestLies:
    def test_messages_of_other_markets_are_counted_as_such(self, market: Decoder) -> None:
        futures = [naive.add_short(1, "B", 1, "A", 1)[:25], naive.modify_short(1, 1, 1)[:18]]
        messages = [naive.symbol_mapping(), *(bytes([len(raw), *raw[1:]]) for raw in futures)]
        assert market.messages(*messages) == []
        assert (market["not_equities"], market["malformed"]) == (3, 0)

    def test_fields_behind_those_known_are_passed_over(self, market: Decoder) -> None:
        longer = naive.add_short(1, "B", 100, "A", 1000) + b"new"
        rows = market.messages(bytes([len(longer), *longer[1:]]), naive.add_short(2, "S", 100, "A", 1001))
        assert len(rows) == 2

    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param(b"\x21" + naive.add_long(1, "B", 1, "A", 1)[1:-1], id="shorter than its type"),
            pytest.param(b"\x02\x20", id="nothing but its head"),
            pytest.param(naive.add_short(1, "X", 1, "A", 100), id="side"),
            pytest.param(naive.add_short(1, "B", 1, "", 100), id="no symbol"),
            pytest.param(naive.add_short(1, "B", 1, "A B", 100), id="blank in a symbol"),
            pytest.param(naive.add_short(1, "B", 1, "A|B", 100), id="bar in a symbol"),
            pytest.param(naive.add_expanded(1, "B", 1, "\x7f" * 8, 100), id="symbol not printable"),
            pytest.param(naive.trading_status("A", " "), id="no status"),
            pytest.param(naive.trading_status("A", "T", "\0"), id="short sale not printable"),
        ],
    )
    def test_what_cannot_be_read_is_malformed(self, market: Decoder, bad: bytes) -> None:
        rows = market.messages(bad, naive.add_short(9, "B", 1, "OK", 100))
        assert [row[1:3] for row in rows] == [("OK", 3)]
        assert (market["malformed_message"], market["messages"]) == (1, 3)

    def test_a_block_that_lies_about_its_bytes_costs_itself(self, market: Decoder) -> None:
        buffer, blocks = blocks_of(packet(*TestVoid.ORDERS))
        blocks["count"], blocks["stop"] = 9, blocks["stop"] - 1
        assert len(market.blocks(buffer, blocks)) == 1
        assert market["malformed_length"] == 1

    def test_a_full_symbol_table_refuses_and_counts(self) -> None:
        market = Decoder(symbols_max=2)
        rows = market.messages(*(naive.add_short(i, "B", 1, name, 1) for i, name in enumerate("ABA", 1)))
        assert [row[1] for row in rows] == ["A", "A"]
        assert market["refused"] == 1


class TestTwin:
    SYMBOLS = ("A", "BRK.B", "SIXSIX", "SEVENTH7", "ZZ")

    @pytest.mark.parametrize("rows_max", [pitch.ROWS_MIN, 4_096])
    @pytest.mark.parametrize("seed", range(3))
    def test_random_flow(self, seed: int, rows_max: int) -> None:
        chance = random.Random(seed)
        market, twin = Decoder(rows_max), naive.NaivePitch(DAY)
        flows = {unit: naive.Flow(chance, [f"{name[:7]}{unit}" for name in self.SYMBOLS]) for unit in (1, 2, 300 % 256)}
        for unit, flow in flows.items():
            flow.orders = flow.executions = unit * 100_000
        sequence, recv_ns = dict.fromkeys(flows, 1), OPEN
        for _ in range(250):
            unit = chance.choice(list(flows))
            recv_ns += chance.randrange(SECOND_NS)
            wanted: list[naive.Row] = []
            if chance.random() < 0.02:
                kind = chance.choice((GAP, RESTART))
                wanted += twin.void(unit, recv_ns, kind == RESTART)
                found = market.blocks(np.zeros(1, np.uint8), void(kind, unit, recv_ns))
            else:
                messages = [flows[unit].next() for _ in range(chance.randrange(1, 30))]
                messages += [naive.unit_clear(5)] * (chance.random() < 0.02)
                for i, raw in enumerate(messages):
                    wanted += twin.apply(unit, sequence[unit] + i, raw, recv_ns)
                found = market.take(packet(*messages, sequence=sequence[unit], unit=unit), recv_ns=recv_ns)
                sequence[unit] += len(messages)
            assert found == wanted, f"seed {seed}"
        counts = market.pitch.counters()
        assert {name: counts[name] for name in twin.counts} == dict(twin.counts), f"seed {seed}"
        assert min(counts[name] for name in ("quotes", "trades", "trade_breaks", "statuses", "withdrawn")) > 0
        assert counts["orders"] == len(twin.book.orders)

    def test_compiled_and_plain_python_decode_alike(self) -> None:
        chance = random.Random(5)
        flow = naive.Flow(chance, ["A", "SEVENTH7"])
        messages = [naive.time(34_200), *(flow.next() for _ in range(120)), naive.unit_clear(), flow.next()]
        buffer, blocks = blocks_of(packet(*messages), packet(b"\x03\xee\0", sequence=200))
        blocks = np.concatenate([blocks, void(GAP)])
        results = []
        for use in (pitch_kernel.decode, pitch_kernel.decode.py_func):
            symbols, rows = SymbolTable(8), empty(1_000, EVENT)
            state = pitch_kernel.new_state(8, 256, 256, 4, 256)
            arguments = (buffer, blocks, 0, ord("Y"), DAY, DAY + naive.DAY_NS, pitch_kernel.message_bytes())
            taken, n = use(*arguments, symbols.arrays, state, new_out(rows))
            results.append((taken, columns(rows[:n]).tolist(), state.counters.tolist(), symbols.names()))
        assert results[0] == results[1]
        assert results[0][0] == blocks.size


@pytest.mark.timeout(0)
def test_no_mutation_crashes_or_costs_the_next_packet() -> None:
    chance = random.Random(seed := random.randrange(1 << 32))
    flow = naive.Flow(chance, ["A", "BRK.B", "SEVENTH7"])
    pool = [flow.next() for _ in range(5_000)] + list(GOLDEN.values())
    samples = [packet(*chance.choices(pool, k=chance.randrange(1, 6))) for _ in range(5_000)]
    prints = [naive.trade_long(number, "ZZ", 10_000, number) for number in (1, 2)]
    sound = packet(naive.time(34_200), *prints, sequence=5, unit=77)
    market = Decoder(symbols_max=256, orders_max=512)
    market.symbols.intern("ZZ")
    mutations = mutation.Mutations(seed, samples, sound)
    counts = mutation.fuzz("cboe-pitch-2.41", market.pitch, market.symbols, mutations, FUZZ, OPEN, "ZZ")
    seen = ("malformed_short", "malformed_length", "malformed_message", "unknown", "unencodable", "orders_orphaned")
    assert min(counts[name] for name in seen) > 0
    assert counts["packets"] > FUZZ


def test_warming_up_compiles_what_the_live_path_calls(market: Decoder) -> None:
    pitch_kernel.warm_up()
    compiled = list(pitch_kernel.decode.signatures)
    market.messages(naive.add_short(1, "B", 100, "A", 1000))
    assert pitch_kernel.decode.signatures == compiled


class TestRecorded:
    def test_byx_equities(self, shared_data: Path) -> None:
        path = shared_data / "omi_packets/Cboe/Byx.Equities.DepthOfBook.Pitch.v2.41/AddOrderShortMessage.pcap"
        market, rows = Decoder(), []
        for time_ns, payload in naive.udp_payloads(path):
            rows += market.take(payload, recv_ns=time_ns)
        assert market.pitch.messages_by_type() == {"add_order_short": 7, "time": 2}
        assert market["malformed"] == market["unknown"] == market["not_equities"] == 0
        assert [(row[1], row[4], row[6]) for row in rows] == [
            ("MAT", 2066 * CENT, None),
            ("JDST", 756 * CENT, None),
            ("IXN", 5990 * CENT, None),
            ("IWO", None, 23526 * CENT),
            ("IWO", 23414 * CENT, 23526 * CENT),
            ("YANG", 1133 * CENT, None),
            ("XSVN", 4667 * CENT, None),
        ]
        opened = midnight_ns(date(2023, 8, 22)) + 34_200 * SECOND_NS
        assert [row[3] - opened for row in rows[1:]] == [646_000, 674_000, 771_000, 777_000, 754_000, 772_000]

    @pytest.mark.parametrize(
        ("market_name", "types", "not_equities"),
        [
            (
                "Futures",
                {"trading_status": 16, "modify_order_short": 2, "delete_order": 1, "add_order_short": 1, "time": 1},
                3,
            ),
            ("Options", {"time": 3, "add_order_long": 1, "delete_order": 1, "modify_order_long": 1}, 0),
        ],
    )
    def test_options_and_futures_are_walked(
        self, shared_data: Path, market_name: str, types: dict[str, int], not_equities: int
    ) -> None:
        market = Decoder()
        for path in (shared_data / "omi_packets/Cboe").glob(f"{market_name}.*/*.pcap"):
            for time_ns, payload in naive.udp_payloads(path):
                market.take(payload, recv_ns=time_ns)
        assert market.pitch.messages_by_type() == types
        assert (market["malformed"], market["unknown"], market["not_equities"]) == (0, 0, not_equities)
