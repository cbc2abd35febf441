"""The IEX decoder: golden bytes from the specification's offsets, recordings, sequence rules, lies, mutations."""

import random
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import mutation
import naive_iex
from fabric.records import (
    EVENT,
    KIND_QUOTE,
    KIND_STATUS,
    KIND_TRADE,
    NULL,
    PRICE_MAX,
    QUOTE,
    STATUS,
    TRADE,
    Rows,
    columns,
    unpack,
)
from fabric.symbols import SymbolTable
from nodes.feeds import iex, iex_kernel, iextp_kernel, rows_kernel, sequencer_kernel, wires
from nodes.feeds.lines import Lines
from nodes.feeds.wire import Packets, from_payloads
from nodes.feeds.wire_kernel import BLOCK, RESTART
from nodes.feeds.wires import SequencedWire
from support import random_count

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data"
recorded = pytest.mark.skipif(not SAMPLES.exists(), reason="the recorded samples (../shared/data) are not here")
T0 = 1_500_000_000_000_000_000
CENT = 10_000_000

# One TOPS packet written by hand from the specification's tables, byte by byte.
GOLDEN_TOPS = bytes.fromhex(
    "01 00 0380 01000000 0000cd43"  # version, reserved, protocol 0x8003, channel 1, session
    "2c00 0100 0000000000000000 0700000000000000 0100000000000000"  # 44 bytes, 1 message, number 7, sent at 1 ns
    "2a00"  # 42 bytes
    "51 00 0200000000000000 42524b2e42202020"  # Q, flags, 2 ns, "BRK.B   "
    "64000000 2410120000000000 8810120000000000 c8000000"  # 100 at 118.3780, 118.3880 for 200
)


def packet(*messages: bytes, sequence: int = 1, protocol: int = 0x8003, sent_ns: int = T0, session: int = 9) -> bytes:
    """An IEX-TP packet; layout as in the specification."""
    blocks = b"".join(struct.pack("<H", len(message)) + message for message in messages)
    return header(len(blocks), len(messages), sequence, protocol, sent_ns, session) + blocks


def header(
    size: int, count: int, sequence: int, protocol: int = 0x8003, sent_ns: int = T0, session: int = 9, channel: int = 1
) -> bytes:
    return struct.pack("<BBHIIHHqqq", 1, 0, protocol, channel, session, size, count, 0, sequence, sent_ns)


def quote(
    symbol: str = "A", bid: int = 10000, ask: int = 10100, flags: int = 0, sizes: tuple[int, int] = (1, 2)
) -> bytes:
    return struct.pack("<BBq8sIqqI", ord("Q"), flags, T0, symbol.encode().ljust(8), sizes[0], bid, ask, sizes[1])


def trade(symbol: str = "A", price: int = 10000, flags: int = 0, trade_id: int = 5, kind: str = "T") -> bytes:
    return struct.pack("<BBq8sIqq", ord(kind), flags, T0, symbol.encode().ljust(8), 30, price, trade_id)


def level(side: str, price: int, size: int, flags: int = 1, symbol: str = "A") -> bytes:
    return struct.pack("<BBq8sIq", ord(side), flags, T0, symbol.encode().ljust(8), size, price)


def status(code: str, reason: str = "", symbol: str = "A") -> bytes:
    return struct.pack("<BBq8s4s", ord("H"), ord(code), T0, symbol.encode().ljust(8), reason.encode().ljust(4))


def halt(code: str, symbol: str = "A") -> bytes:
    return struct.pack("<BBq8s", ord("O"), ord(code), T0, symbol.encode().ljust(8))


def event(code: str) -> bytes:
    return struct.pack("<BBq", ord("S"), ord(code), T0)


def decode(wire: SequencedWire, *payloads: bytes) -> Rows:
    """All rows of these packets, copied; what waits for a late packet is not waited for."""
    parts = [rows.copy() for rows in wire.decode(from_payloads(list(payloads), recv_ns=T0 + 1))]
    parts += [rows.copy() for rows in wire.flush()]
    return np.concatenate(parts) if parts else np.zeros(0, EVENT)


def of_kind(rows: Rows, kind: int) -> Rows:
    dtype = {KIND_QUOTE: QUOTE, KIND_TRADE: TRADE, KIND_STATUS: STATUS}[kind]
    return rows[rows["kind"] == kind].view(dtype)


@pytest.fixture
def symbols() -> SymbolTable:
    return SymbolTable(64)


def tops_wire(symbols: SymbolTable) -> SequencedWire:
    return wires.make("iex-tops-1.6", symbols, "V")


def deep_wire(symbols: SymbolTable, levels_max: int = 256) -> SequencedWire:
    messages = iex.Iex(iex_kernel.PROTOCOL_DEEP, symbols, levels_max)
    return SequencedWire(wires.format_of("iex-deep-1.0").transport(), messages, "V")


@pytest.fixture
def tops(symbols: SymbolTable) -> SequencedWire:
    return tops_wire(symbols)


@pytest.fixture
def deep(symbols: SymbolTable) -> SequencedWire:
    return deep_wire(symbols)


class TestMessages:
    def test_golden_quote(self, tops: SequencedWire, symbols: SymbolTable) -> None:
        row = decode(tops, GOLDEN_TOPS).view(QUOTE)[0]
        assert symbols.name(row["symbol"]) == "BRK.B"
        assert (chr(row["venue"]), row["exchange_seq"], row["event_ns"], row["recv_ns"]) == ("V", 7, 2, T0 + 1)
        assert (row["bid_px"], row["bid_size"]) == (118_378_000_000, 100)
        assert (row["ask_px"], row["ask_size"]) == (118_388_000_000, 200)
        assert unpack(row["condition"]) == "R"
        assert row["seq"] == row["epoch"] == row["feed_ns"] == row["tape"] == NULL

    @pytest.mark.parametrize(("bid", "size"), [(0, 0), (0, 100), (10000, 0), (-1, 100), (PRICE_MAX // 100_000 + 1, 1)])
    def test_a_side_without_a_price_or_size_does_not_exist(self, tops: SequencedWire, bid: int, size: int) -> None:
        row = decode(tops, packet(quote(bid=bid, sizes=(size, 5)))).view(QUOTE)[0]
        assert row["bid_px"] == row["bid_size"] == NULL
        assert (row["ask_px"], row["ask_size"]) == (101 * CENT, 5)
        assert tops.counters()["unencodable"] == (bid < 0 or bid > 10000)

    def test_a_quote_that_is_not_available_for_trading_is_not_firm(self, tops: SequencedWire) -> None:
        rows = decode(tops, packet(quote(flags=0xC0), quote(flags=0x40)))
        assert [unpack(condition) for condition in rows.view(QUOTE)["condition"]] == ["N", "R"]

    @pytest.mark.parametrize(
        ("flags", "condition"),
        [(0, "@"), (0x10, "@"), (0x80, "F"), (0x40, "T"), (0x20, "I"), (0x18, "X"), (0xE0, "FTI"), (0xE8, "FTIX")],
    )
    def test_sale_flags_are_tape_conditions(self, tops: SequencedWire, flags: int, condition: str) -> None:
        row = decode(tops, packet(trade(flags=flags))).view(TRADE)[0]
        assert unpack(row["condition"]) == condition
        assert (row["price"], row["size"], row["trade_id"]) == (100 * CENT, 30, 5)
        assert (unpack(row["mark"]), row["original_id"]) == ("", NULL)

    def test_a_break_names_the_trade_it_undoes(self, tops: SequencedWire) -> None:
        row = decode(tops, packet(trade(kind="B", trade_id=77))).view(TRADE)[0]
        assert (unpack(row["mark"]), row["original_id"], row["trade_id"]) == ("x", 77, NULL)

    def test_a_trade_without_a_price_or_shares_is_counted_and_left_out(self, tops: SequencedWire) -> None:
        nothing = trade()[:18] + bytes(4) + trade()[22:]
        assert decode(tops, packet(trade(price=-5), nothing)).size == 0
        assert tops.counters()["unencodable"] == 2

    def test_status_of_a_symbol_is_told_when_it_changes(self, tops: SequencedWire) -> None:
        sent = [status("T"), halt("N"), status("T"), status("H", "T1"), status("T"), halt("O"), halt("O"), halt("N")]
        rows = of_kind(decode(tops, packet(*sent)), KIND_STATUS)
        told = [(unpack(row["trading"]), unpack(row["reason"])) for row in rows]
        assert told == [("T", ""), ("H", "T1"), ("T", ""), ("H", "OPER"), ("T", "")]

    def test_system_event_is_about_the_venue(self, tops: SequencedWire) -> None:
        row = decode(tops, packet(event("R"))).view(STATUS)[0]
        assert (row["symbol"], unpack(row["trading"]), unpack(row["venue_state"])) == (0, "R", "live")

    def test_a_full_symbol_table_refuses_and_counts(self) -> None:
        wire = tops_wire(SymbolTable(2))  # the empty name and one more
        assert decode(wire, packet(quote("A"), quote("B"), quote("A"))).size == 2
        assert wire.counters()["refused"] == 1

    @pytest.mark.parametrize("name", ["", "A B", "A|B", "\x7f", "é"])
    def test_what_is_no_symbol_is_malformed(self, tops: SequencedWire, name: str) -> None:
        assert decode(tops, packet(quote(name), quote("OK"))).size == 1
        assert tops.counters()["malformed_message"] == 1

    def test_fields_appended_to_a_message_are_passed_over(self, tops: SequencedWire) -> None:
        rows = decode(tops, packet(quote("A") + b"new field", quote("B")))
        assert rows["exchange_seq"].tolist() == [1, 2]


class TestDeep:
    def test_a_quote_only_when_the_event_is_complete(self, deep: SequencedWire) -> None:
        messages = [level("8", 10000, 100, flags=0), level("5", 10200, 50, flags=0), level("5", 10100, 70, flags=1)]
        row = decode(deep, packet(*messages, protocol=0x8004)).view(QUOTE)
        assert row["exchange_seq"].tolist() == [3]
        assert (row["bid_px"], row["bid_size"], row["ask_px"], row["ask_size"]) == (100 * CENT, 100, 101 * CENT, 70)

    def test_no_quote_when_the_best_has_not_changed(self, deep: SequencedWire) -> None:
        rows = decode(deep, packet(level("8", 10000, 100), level("8", 9900, 5), level("8", 9900, 0), protocol=0x8004))
        assert rows["exchange_seq"].tolist() == [1]

    def test_an_emptied_side_is_null(self, deep: SequencedWire) -> None:
        rows = decode(deep, packet(level("8", 10000, 100), level("8", 10000, 0), protocol=0x8004)).view(QUOTE)
        assert rows["bid_px"].tolist() == [100 * CENT, NULL]

    def test_each_wire_knows_its_own_types(self, deep: SequencedWire, tops: SequencedWire) -> None:
        assert decode(deep, packet(quote(), protocol=0x8004)).size == 0
        assert decode(tops, packet(level("8", 10000, 1))).size == 0
        assert deep.counters()["unknown"] == tops.counters()["unknown"] == 1


class TestSequence:
    def test_a_gap_is_told_once_with_its_range(self, tops: SequencedWire) -> None:
        rows = decode(tops, packet(quote(), sequence=10), packet(quote(), sequence=15), packet(quote(), sequence=16))
        gap = of_kind(rows, KIND_STATUS)
        assert [(unpack(r["venue_state"]), r["gap_from"], r["gap_to"], r["symbol"]) for r in gap] == [
            ("gap", 11, 14, 0)
        ]
        assert [tops.counters()[name] for name in ("gaps", "lost", "duplicates")] == [1, 4, 0]
        assert rows["kind"].tolist() == [KIND_QUOTE, KIND_STATUS, KIND_QUOTE, KIND_QUOTE, KIND_QUOTE]

    def test_a_gap_withdraws_what_may_not_hold_any_more(self, tops: SequencedWire) -> None:
        rows = of_kind(decode(tops, packet(quote("A"), quote("B")), packet(quote("B"), sequence=5)), KIND_QUOTE)
        assert rows.view(QUOTE)["bid_px"].tolist() == [100 * CENT, 100 * CENT, NULL, NULL, 100 * CENT]
        assert rows["symbol"].tolist() == [1, 2, 1, 2, 2]
        assert {unpack(row["condition"]) for row in rows.view(QUOTE)} == {"R"}
        assert tops.counters()["withdrawn"] == 2

    @pytest.mark.parametrize("late", [False, True])
    def test_a_book_that_may_lack_levels_is_not_firm_until_the_next_session(
        self, deep: SequencedWire, late: bool
    ) -> None:
        first = [] if late else [packet(level("8", 9_900, 5), protocol=0x8004)]
        update = packet(level("8", 9_800, 4), sequence=7, protocol=0x8004)
        rows = of_kind(decode(deep, *first, update), KIND_QUOTE).view(QUOTE)
        told = [(row["bid_size"], unpack(row["condition"])) for row in rows]
        assert told == ([] if late else [(5, "R"), (NULL, "R")]) + [(4, "N")]
        again = [packet(level("8", 9_800, n), sequence=n, protocol=0x8004, session=10) for n in (1, 2)]
        rows = of_kind(decode(deep, *again), KIND_QUOTE).view(QUOTE)
        assert [(row["bid_size"], unpack(row["condition"])) for row in rows] == [(NULL, "R"), (1, "R"), (2, "R")]

    def test_a_heartbeat_shows_what_was_lost_before_it(self, tops: SequencedWire) -> None:
        decode(tops, packet(quote(), sequence=1), packet(sequence=2), packet(sequence=5), packet(quote(), sequence=5))
        counts = tops.counters()
        assert (counts["heartbeats"], counts["gaps"], counts["lost"], counts["malformed"]) == (2, 1, 3, 0)

    def test_repeated_and_overlapping_packets_give_each_message_once(self, tops: SequencedWire) -> None:
        first = packet(quote("A"), quote("B"), sequence=1)
        rows = decode(tops, first, first, packet(quote("B"), quote("C"), sequence=2))
        assert rows["exchange_seq"].tolist() == [1, 2, 3]
        assert tops.counters()["duplicates"] == 3

    def test_channels_are_counted_apart(self, tops: SequencedWire) -> None:
        other = header(0, 0, 500, channel=2)
        decode(tops, packet(quote(), sequence=1), other, packet(quote(), sequence=2), other)
        assert tops.counters()["gaps"] == 0
        decode(tops, *(header(0, 0, 1, channel=channel) for channel in range(3, 300)))
        assert tops.counters()["streams_full"] == 299 - 256

    @pytest.mark.parametrize(
        "again",
        [
            pytest.param({"session": 10}, id="new session"),
            pytest.param({"sent_ns": T0 + 10**9}, id="same session, later"),
        ],
    )
    def test_a_restart_withdraws_the_old_quotes_and_counts_anew(
        self, tops: SequencedWire, again: dict[str, int]
    ) -> None:
        decode(tops, packet(quote("A"), quote("B"), sequence=100))
        rows = decode(tops, packet(quote("B"), sequence=1, **again), packet(quote("C"), sequence=2, **again)).view(
            QUOTE
        )
        assert rows["exchange_seq"].tolist() == [NULL, NULL, 1, 2]
        assert rows["symbol"].tolist() == [1, 2, 2, 3]
        assert rows["bid_px"].tolist() == [NULL, NULL, 100 * CENT, 100 * CENT]
        counts = tops.counters()
        assert (counts["restarts"], counts["withdrawn"], counts["gaps"], counts["duplicates"]) == (1, 2, 0, 0)

    def test_a_restart_far_behind_is_one_even_when_the_clock_went_back(self, tops: SequencedWire) -> None:
        decode(tops, packet(quote(), sequence=10**6))
        rows = decode(tops, packet(quote(), sequence=1, sent_ns=T0 - 10**9))
        assert rows["exchange_seq"].tolist() == [NULL, 1]

    def test_a_restart_empties_the_level_book(self, deep: SequencedWire) -> None:
        decode(deep, packet(level("8", 10000, 100), sequence=50, protocol=0x8004))
        rows = decode(deep, packet(level("8", 9900, 7), protocol=0x8004, session=10)).view(QUOTE)
        assert rows["bid_px"].tolist() == [NULL, 99 * CENT]

    def test_more_withdrawals_than_one_batch_holds(self) -> None:
        wire = tops_wire(SymbolTable(6_000))
        names = [f"S{i}" for i in range(5_990)]
        for start in range(0, len(names), 1_000):
            decode(wire, packet(*map(quote, names[start : start + 1_000]), sequence=start + 1))
        rows = decode(wire, packet(quote("NEW"), session=10))
        assert rows.size == 5_991
        assert rows["exchange_seq"][-1] == 1
        assert np.unique(rows["symbol"]).size == 5_991
        assert wire.counters()["packets"] == 7


class TestLies:
    @pytest.mark.parametrize(
        ("bad", "counter"),
        [
            pytest.param(b"", "malformed_short", id="empty"),
            pytest.param(packet(quote())[:39], "malformed_short", id="short of a header"),
            pytest.param(b"\x02" + packet(quote())[1:], "malformed_version", id="version"),
            pytest.param(packet(quote(), protocol=0x8005), "malformed_protocol", id="protocol"),
            pytest.param(packet(quote(), sequence=-1), "malformed_sequence", id="negative number"),
            pytest.param(packet(quote(), sent_ns=-1), "malformed_sequence", id="negative time"),
        ],
    )
    def test_a_packet_that_is_not_ours_changes_nothing(self, tops: SequencedWire, bad: bytes, counter: str) -> None:
        rows = decode(tops, packet(quote(), sequence=1), bad, packet(quote(), sequence=2))
        assert rows["exchange_seq"].tolist() == [1, 2]
        counts = tops.counters()
        assert (counts[counter], counts["malformed"], counts["packets"], counts["gaps"]) == (1, 1, 2, 0)

    def test_a_count_that_is_too_high_costs_nothing_after_it(self, tops: SequencedWire) -> None:
        body = packet(quote())[40:]
        rows = decode(tops, header(len(body), 60_000, 1) + body, packet(quote(), sequence=2))
        assert rows["exchange_seq"].tolist() == [1, 2]
        assert tops.counters()["malformed_length"] == 1

    def test_a_message_that_runs_over_the_end_is_lost_and_shows_as_a_gap(self, tops: SequencedWire) -> None:
        cut = packet(quote("A"), quote("B"), sequence=1)[:-1]
        rows = decode(tops, cut, packet(quote("C"), sequence=3))
        assert rows["exchange_seq"].tolist() == [1, NULL, NULL, 3]  # the gap, and what it withdraws
        gap = of_kind(rows, KIND_STATUS)[0]
        assert (gap["gap_from"], gap["gap_to"]) == (2, 2)
        assert tops.counters()["malformed_length"] == 1

    def test_short_and_unknown_messages_are_skipped_by_their_length(self, tops: SequencedWire) -> None:
        rows = decode(tops, packet(quote()[:41], b"", b"zebra", b"Q", quote("B")))
        assert rows["exchange_seq"].tolist() == [5]
        counts = tops.counters()
        assert (counts["malformed_message"], counts["unknown"], counts["messages"]) == (3, 1, 5)
        assert tops.messages_by_type()["unknown_0x7a"] == 1

    def test_a_negative_time_is_malformed(self, tops: SequencedWire) -> None:
        bad = struct.pack("<BBq", ord("S"), ord("R"), -5)
        assert decode(tops, packet(bad)).size == 0
        assert tops.counters()["malformed_message"] == 1


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", ["iex-tops-1.6", "iex-deep-1.0"])
def test_no_mutation_crashes_or_costs_the_next_packet(name: str) -> None:
    chance = random.Random(seed := random.randrange(1 << 32))
    protocol = iex_kernel.PROTOCOL_TOPS if "tops" in name else iex_kernel.PROTOCOL_DEEP
    pool = [status("H", "T1"), halt("O"), event("R"), trade("C", kind="B"), trade("A", 0)]
    for symbol in "ABC":
        pool += [quote(symbol), trade(symbol), level("8", 10_000, 5, symbol=symbol), level("5", 10_100, 5)]
        pool += [level(side, px, chance.randrange(3), symbol=symbol) for side in "85" for px in range(9_990, 10_000)]
    samples = [packet(*chance.choices(pool, k=chance.randrange(1, 6)), protocol=protocol) for _ in range(5_000)]
    sound = packet(trade("ZZ"), trade("ZZ"), protocol=protocol)
    symbols = SymbolTable(256)
    symbols.intern("ZZ")
    wire = iex.Iex(protocol, symbols, levels_max=64)
    mutations = mutation.Mutations(seed, samples, sound, mutation.iextp_length)
    counts = mutation.fuzz(name, wire, symbols, mutations, random_count(20_000), T0, "ZZ")
    assert min(counts[f"malformed_{what}"] for what in ("short", "version", "protocol", "length", "message")) > 0
    assert counts["packets"] > 10_000


def test_compiled_and_plain_python_decode_alike() -> None:
    messages = [quote("A"), quote("B", flags=0x80), trade("A"), trade("A", kind="B"), status("H", "T1"), halt("O", "B")]
    payloads = [packet(*messages, sequence=1), packet(event("R"), sequence=9), b"short", packet(quote(), session=3)]
    packets = from_payloads(payloads, recv_ns=T0)
    results = []
    for frame, decode_with in (
        (iextp_kernel.frame, iex_kernel.decode),
        (iextp_kernel.frame.py_func, iex_kernel.decode.py_func),
    ):
        symbols, rows, blocks = SymbolTable(8), np.zeros(iex.ROWS_MIN, EVENT), np.zeros(8, BLOCK)
        counters = np.zeros(iextp_kernel.N_COUNTERS, np.int64)
        framed = frame(*packets, np.zeros(1, np.int64), 0, blocks, counters, iex_kernel.PROTOCOL_TOPS)
        blocks[2]["kind"] = RESTART
        state = iex_kernel.new_state(8, 1)
        taken, n = decode_with(
            packets.buffer, blocks[:3], 0, iex_kernel.PROTOCOL_TOPS, ord("V"), symbols.arrays, state,
            rows_kernel.new_out(rows),
        )  # fmt: skip
        counted = counters.tolist(), state.counters.tolist()
        results.append((framed, blocks.tolist(), taken, columns(rows[:n]).tolist(), *counted, symbols.names()))
    assert results[0] == results[1]
    assert (results[0][0], results[0][2]) == ((4, 3), 3)


def test_warming_up_compiles_what_the_live_path_calls(tops: SequencedWire) -> None:
    kernels = (iex_kernel.decode, iextp_kernel.frame, sequencer_kernel.sequence)
    for module in (iex_kernel, iextp_kernel, sequencer_kernel):
        module.warm_up()
    compiled = [list(kernel.signatures) for kernel in kernels]
    decode(tops, packet(quote()))
    with closing(Lines([("127.0.0.1", 0)])) as lines:
        assert not list(tops.decode(lines.receive(T0), 5))
    assert [list(kernel.signatures) for kernel in kernels] == compiled


def recorded_packets(path: Path) -> Packets:
    return from_payloads([payload for _, payload in naive_iex.udp_payloads(path)], recv_ns=T0)


@recorded
class TestRecorded:
    def test_tops_known_answers(self) -> None:
        symbols = SymbolTable(20_000)
        wire = tops_wire(symbols)
        for _ in wire.decode(recorded_packets(SAMPLES / "iex/TOPS16.pcapng.gz")):
            pass
        by_type = {"quote": 27_217, "trading_status": 7_803, "short_sale": 7_802, "operational_halt": 7_801}
        by_type |= {"trade": 6_390, "auction": 642, "security_directory": 10, "system_event": 6, "trade_break": 3}
        assert wire.messages_by_type() == by_type
        counts = wire.counters()
        assert (counts["packets"], counts["heartbeats"], counts["messages"]) == (13_022, 237, 57_674)
        assert (counts["quotes"], counts["trades"], counts["trade_breaks"]) == (27_217, 6_390, 3)
        assert counts["gaps"] == counts["duplicates"] == counts["malformed"] == counts["unknown"] == 0
        assert len(symbols) - 1 == 7_799

    def test_tops_rows_equal_a_plain_reading(self) -> None:
        symbols = SymbolTable(20_000)
        path = SAMPLES / "iex/TOPS16.pcapng.gz"
        rows = [part.copy() for part in tops_wire(symbols).decode(recorded_packets(path))]
        quotes = of_kind(np.concatenate(rows), KIND_QUOTE)
        names = symbols.names()
        found = [
            (row["exchange_seq"], names[row["symbol"]], row["event_ns"],
             row["bid_px"], row["bid_size"], row["ask_px"], row["ask_size"])
            for row in quotes
        ]  # fmt: skip
        wanted = []
        for message in naive_iex.messages(path):
            if message.type == "Q":
                sides = [
                    value for side in naive_iex.quote_sides(message.body)
                    for value in ((side[0] * 100_000, side[1]) if side else (NULL, NULL))
                ]  # fmt: skip
                wanted.append((message.sequence, message.symbol, message.event_ns, *sides))
        assert found == wanted

    def test_deep_known_answers_and_every_best(self) -> None:
        symbols = SymbolTable(20_000)
        path = SAMPLES / "iex/DEEP10_session12.pcap.gz"
        wire = deep_wire(symbols, 4_096)
        rows = np.concatenate([part.copy() for part in wire.decode(recorded_packets(path))])
        counts = wire.counters()
        by_type = {"trade": 61_245, "price_level_sell": 11_066, "price_level_buy": 9_397, "trading_status": 7_803}
        by_type |= {"operational_halt": 7_803, "short_sale": 7_803, "trade_break": 73, "security_event": 14}
        assert wire.messages_by_type() == by_type | {"system_event": 6}
        assert (counts["packets"], counts["heartbeats"], counts["gaps"]) == (80_922, 146, 0)
        assert (counts["levels_removed"], counts["levels_absent"], counts["levels_refused"]) == (1_380, 2, 0)
        book = naive_iex.NaiveBook()
        wanted, complete, in_progress = [], 0, 0
        for message in naive_iex.messages(path):
            if message.type in "85":
                complete += message.body[1] & 1
                in_progress += not message.body[1] & 1
                best = book.apply(message)
                if best is not None:
                    wanted.append((message.sequence, message.symbol, *(s and (s[0] * 100_000, s[1]) for s in best)))
        assert (complete, in_progress, book.removals, book.absent) == (19_606, 857, 1_380, 2)
        names = symbols.names()
        found = [
            (row["exchange_seq"], names[row["symbol"]],
             None if row["bid_px"] == NULL else (row["bid_px"], row["bid_size"]),
             None if row["ask_px"] == NULL else (row["ask_px"], row["ask_size"]))
            for row in of_kind(rows, KIND_QUOTE)
        ]  # fmt: skip
        assert found == wanted
        assert len(found) > 400

    def test_single_packets_of_each_kind(self) -> None:
        folder = SAMPLES / "omi_packets/Iex"
        tops, deep = tops_wire(SymbolTable(8)), deep_wire(SymbolTable(8), 8)
        for _ in tops.decode(recorded_packets(folder / "Tops.IexTp.v1.6/QuoteUpdateMessage.pcap")):
            pass
        for name in ("Heartbeat", "PriceLevelBuyUpdateMessage", "PriceLevelSellUpdateMessage"):
            for _ in deep.decode(recorded_packets(folder / f"Deep.IexTp.v1.0/{name}.pcap")):
                pass
            for _ in deep.flush():  # each file is of another session
                pass
        assert tops.messages_by_type() == {"quote": 1}
        assert deep.messages_by_type() == {"price_level_buy": 1, "price_level_sell": 1}
        assert deep.counters()["heartbeats"] == 1
        assert tops.counters()["malformed"] == deep.counters()["malformed"] == 0
