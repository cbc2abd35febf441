"""UQDF and UTDF: golden bytes from the specification's tables, the twin, the official NBBO, recordings, mutations."""

import random
import struct
from datetime import date
from typing import Any

import numpy as np
import pytest

import mutation
from fabric.records import NULL, QUOTE, STATE_STALE, STATUS, TRADE, unpack
from fabric.symbols import SymbolTable
from golden import golden
from naive_tape import NaiveTape
from nodes.conditions_kernel import allowed
from nodes.feeds import moldudp64_kernel, tape, tape_kernel, utp, utp_kernel, wires
from nodes.feeds.wire import from_payloads
from nodes.feeds.wire_kernel import RESTART
from nodes.quote_conditions import BOTH, UTP, tables
from support import random_count
from tape_support import as_dicts, changes, decode, frame, joined, manifest, mold_packet, plainly

FUZZ = random_count(20_000)
SIP_NS, TIME_NS = 0x1900000000000002, 0x1900000000000001

# Written by hand from the specification's tables, field by field.
(
    QUOTE_SHORT, QUOTE_LONG, COMBINED_SHORT, COMBINED_LONG, TRADE_SHORT, TRADE_SHORT_FRACTION, TRADE_LONG,
    TRADE_LONG_FRACTION, CANCEL, CANCEL_FRACTION, CORRECTION, CORRECTION_FRACTION, ACTION, MARKET_ACTION, DIRECTORY,
    SHORT_SALE, BANDS, BREAKER,
) = golden("tape/utp.hex").values()  # fmt: skip
GOLDEN = {
    "QE": (QUOTE_SHORT, 59), "QF": (QUOTE_LONG, 106), "QC": (COMBINED_SHORT, 52), "QD": (COMBINED_LONG, 110),
    "TA": (TRADE_SHORT, 61), "TM": (TRADE_SHORT_FRACTION, 67), "TW": (TRADE_LONG, 77), "TN": (TRADE_LONG_FRACTION, 81),
    "TZ": (CANCEL, 142), "TO": (CANCEL_FRACTION, 146), "TY": (CORRECTION, 168), "TP": (CORRECTION_FRACTION, 176),
    "AH": (ACTION, 59), "AK": (MARKET_ACTION, 50), "AB": (DIRECTORY, 90), "AV": (SHORT_SALE, 41), "AP": (BANDS, 65),
    "AD": (BREAKER, 30),
}  # fmt: skip
MESSAGES = [message for message, _ in GOLDEN.values()]


@pytest.fixture
def symbols() -> SymbolTable:
    return SymbolTable(64)


@pytest.fixture
def wire(symbols: SymbolTable) -> utp.Utp:
    return utp.Utp(symbols)


class TestMessages:
    @pytest.mark.parametrize("kind", GOLDEN)
    def test_golden_lengths_are_the_table_s(self, kind: str, wire: utp.Utp) -> None:
        message, length = GOLDEN[kind]
        assert (message[1:3].decode(), len(message)) == (kind, length)
        assert decode(wire, mold_packet(message)).size == 1
        assert wire.messages_by_type() == {utp.TYPE_NAMES[kind]: 1}

    def test_golden_quotes(self, wire: utp.Utp, symbols: SymbolTable) -> None:
        packets = mold_packet(QUOTE_SHORT, QUOTE_LONG, COMBINED_SHORT, COMBINED_LONG, sequence=7)
        buffer, blocks, _ = frame(moldudp64_kernel, packets)
        rows, official = joined(wire, buffer, blocks)
        short = {"kind": "quote", "symbol": "APPL", "venue": "K", "condition": "R"}
        short |= {"bid": (150_000_000, 1), "ask": (150_100_000, 2)}
        long = short | {"venue": "P", "condition": "Y", "bid": (150_000_000, 100), "ask": (150_100_000, 200)}
        assert as_dicts(symbols, rows) == [short, long, short, long]
        row = rows.view(QUOTE)[0]
        assert (row["exchange_seq"], row["event_ns"], row["recv_ns"]) == (7, TIME_NS, 77)
        assert unpack(row["tape"]) == "C"
        appended = (150_010_000, 300, "Q"), (150_090_000, 400, "Z")
        assert changes(symbols, official) == [
            ("APPL", 7, (150_010_000, 3, "Q"), (150_090_000, 4, "Z")),
            ("APPL", 8, *appended),
            ("APPL", 9, (150_000_000, 1, "K"), (150_100_000, 2, "K")),
            ("APPL", 10, *appended),
        ]

    @pytest.mark.parametrize(
        ("kind", "wanted"),
        [
            ("TA", ("K", 150_000_000, 99, "@I", 7, "", NULL)),
            ("TM", ("K", 150_000_000, 1, "@I", 7, "", NULL)),
            ("TW", ("D", 150_000_000, 55, "@F", 8, "", NULL)),
            ("TN", ("D", 150_000_000, 20, "@F", 8, "", NULL)),
            ("TZ", ("D", 150_000_000, 55, "@F", NULL, "x", 8)),
            ("TO", ("D", 150_000_000, 20, "@F", NULL, "x", 8)),
            ("TY", ("D", 151_000_000, 56, "@T", 9, "c", 8)),
            ("TP", ("D", 151_000_000, 56, "@T", 9, "c", 8)),
        ],
    )
    def test_golden_trades(self, wire: utp.Utp, symbols: SymbolTable, kind: str, wanted: tuple[Any, ...]) -> None:
        (row,) = decode(wire, mold_packet(GOLDEN[kind][0])).view(TRADE)
        found = (chr(row["venue"]), row["price"] // 1_000, row["size"], unpack(row["condition"]), row["trade_id"])
        assert (*found, unpack(row["mark"]), row["original_id"]) == wanted
        assert symbols.name(row["symbol"]) == "APPL"
        assert wire.counters()["fractional"] == (kind == "TM")

    def test_golden_statuses_tell_all_that_is_known(self, wire: utp.Utp, symbols: SymbolTable) -> None:
        resume = ACTION[:40] + b"T" + ACTION[41:53] + b"LUDR  "
        rows = decode(wire, mold_packet(DIRECTORY, SHORT_SALE, BANDS, ACTION, MARKET_ACTION, resume))
        known = {"kind": "status", "symbol": "APPL", "venue": "E", "trading": "", "reason": "", "indicator": ""}
        known |= {"upper": None, "lower": None, "short_sale": "", "lot": 40}
        restricted = known | {"short_sale": "1"}
        bands = restricted | {"indicator": "B", "lower": 140_000_000, "upper": 160_000_000}
        assert as_dicts(symbols, rows) == [
            known,
            restricted,
            bands,
            bands | {"venue": "Q", "trading": "H", "reason": "LUDP"},
            bands | {"venue": "Z", "trading": "H", "reason": "OPER"},
            bands | {"venue": "Q", "trading": "T", "reason": "LUDR"},
        ]

    def test_a_breach_of_the_market_wide_breaker_is_the_plan_s(self, wire: utp.Utp, symbols: SymbolTable) -> None:
        (row,) = decode(wire, mold_packet(BREAKER, sequence=9)).view(STATUS)
        assert (chr(row["venue"]), symbols.name(row["symbol"]), unpack(row["reason"])) == ("E", "", "MWC3")
        assert (unpack(row["venue_state"]), row["trading"], row["tape"]) == ("live", NULL, NULL)
        assert (row["exchange_seq"], row["event_ns"], row["recv_ns"]) == (9, SIP_NS, 77)

    @pytest.mark.parametrize(
        ("condition", "outside", "wanted", "sides"),
        [
            ("R", " ", "R", 3),
            ("Y", " ", "Y", 3),
            ("F", " ", "F", 0),
            ("I", " ", "I", 0),
            ("R", "A", "eR", 2),
            ("H", "B", "fH", 1),
            ("O", "C", "NO", 0),
        ],
    )
    def test_conditions_say_which_sides_count(
        self, wire: utp.Utp, condition: str, outside: str, wanted: str, sides: int
    ) -> None:
        middle = f"{condition} {outside} 0A".encode()
        (row,) = decode(wire, mold_packet(QUOTE_SHORT[:42] + middle)).view(QUOTE)
        assert unpack(row["condition"]) == wanted
        assert allowed.py_func(tables(date.max), UTP, int(row["condition"])) & BOTH == sides

    def test_sizes_were_round_lots_until_november_2025(self, wire: utp.Utp) -> None:
        sizes = []
        for sent_ns in (1_762_127_999_999_999_999, 1_762_128_000_000_000_000):  # 2025-11-03
            message = QUOTE_SHORT[:5] + struct.pack(">Q", sent_ns) + QUOTE_SHORT[13:]
            (row,) = decode(wire, mold_packet(message)).view(QUOTE)
            sizes.append(int(row["bid_size"]))
        assert sizes == [100, 1]

    def test_without_the_participant_s_time_the_processor_s_counts(self, wire: utp.Utp) -> None:
        (row,) = decode(wire, mold_packet(QUOTE_SHORT[:13] + bytes(8) + QUOTE_SHORT[21:]))
        assert row["event_ns"] == SIP_NS

    @pytest.mark.parametrize("indicator", ["0", "1", "4", " "])
    def test_what_the_indicator_says_without_an_appendage(
        self, wire: utp.Utp, symbols: SymbolTable, indicator: str
    ) -> None:
        plain = QUOTE_SHORT[:46] + indicator.encode() + b"A"
        buffer, blocks, _ = frame(moldudp64_kernel, mold_packet(QUOTE_SHORT, plain))
        found = [change[2:] for change in changes(symbols, joined(wire, buffer, blocks)[1])[1:]]
        own = ((150_000_000, 1, "K"), (150_100_000, 2, "K"))
        assert found == {"0": [], "1": [(None, None)], "4": [own], " ": []}[indicator]

    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"1Q", id="no type"),
            pytest.param(QUOTE_SHORT[:47], id="short"),
            pytest.param(QUOTE_SHORT[:58], id="appendage cut"),
            pytest.param(b"1CI" + bytes(20), id="control without a head"),
            pytest.param(QUOTE_SHORT[:3] + b"!" + QUOTE_SHORT[4:], id="no participant"),
            pytest.param(QUOTE_SHORT[:5] + b"\xff" * 8 + QUOTE_SHORT[13:], id="no time"),
            pytest.param(QUOTE_SHORT[:29] + b"     " + QUOTE_SHORT[34:], id="no symbol"),
            pytest.param(BREAKER[:29], id="breaker cut"),
            pytest.param(BREAKER[:29] + b" ", id="no level"),
            pytest.param(BREAKER[:5] + b"\xff" * 8 + BREAKER[13:], id="breaker without a time"),
        ],
    )
    def test_what_cannot_be_read_is_counted_and_costs_nothing_after_it(self, wire: utp.Utp, bad: bytes) -> None:
        rows = decode(wire, mold_packet(bad, QUOTE_LONG))
        assert rows["exchange_seq"].tolist() == [2]
        assert wire.counters()["malformed_message"] == 1

    def test_unknown_types_are_counted_and_skipped_and_new_fields_passed_over(self, wire: utp.Utp) -> None:
        rows = decode(wire, mold_packet(b"1Q9" + bytes(40), TRADE_LONG + b"new", TRADE_LONG))
        assert rows["exchange_seq"].tolist() == [2, 3]
        assert (wire.counters()["unknown"], wire.counters()["malformed_message"]) == (1, 0)


def test_a_restart_withdraws_every_quote_that_stood(wire: utp.Utp, symbols: SymbolTable) -> None:
    buffer, blocks, _ = frame(moldudp64_kernel, mold_packet(QUOTE_SHORT, QUOTE_LONG))
    restart = blocks[:1].copy()
    restart["kind"] = RESTART
    rows, official = joined(wire, buffer, np.concatenate([blocks, restart]))
    withdrawn = rows[2:].view(QUOTE)
    assert [chr(venue) for venue in withdrawn["venue"]] == ["K", "P"]
    assert withdrawn["bid_px"].tolist() == [NULL, NULL]
    assert withdrawn["event_ns"].tolist() == [77, 77]
    assert official["state"].tolist() == [0, 0, STATE_STALE]


def wipe_out(venue: str) -> bytes:
    return b"1CP" + venue.encode() + b" " + struct.pack(">QQQ", SIP_NS, TIME_NS, 0)


def test_a_wipe_out_withdraws_the_quotes_of_its_participant(wire: utp.Utp, symbols: SymbolTable) -> None:
    at_p = QUOTE_SHORT[:3] + b"P" + QUOTE_SHORT[4:]
    rows = decode(wire, mold_packet(QUOTE_SHORT, at_p, wipe_out("K"), wipe_out("Z"), at_p, wipe_out("E"), QUOTE_SHORT))
    found = [(chr(row["venue"]), row["bid_px"] != NULL) for row in rows.view(QUOTE)]
    assert found == [("K", True), ("P", True), ("K", False), ("P", True), ("P", False), ("K", True)]
    assert wire.counters()["withdrawn"] == 2


def test_a_wipe_out_of_more_quotes_than_one_batch_holds() -> None:
    symbols = SymbolTable(8_000)
    wire = utp.Utp(symbols)
    for first in range(0, 7_500, 500):
        names = [f"{number:05}".encode() for number in range(first, first + 500)]
        decode(wire, mold_packet(*(QUOTE_SHORT[:29] + name + QUOTE_SHORT[34:46] + b"04" for name in names)))
    buffer, blocks, _ = frame(moldudp64_kernel, mold_packet(QUOTE_SHORT, wipe_out("K"), *[TRADE_LONG] * 100))
    parts = [rows.copy() for rows in wire.decode(buffer, blocks)]
    assert len(parts) > 1
    rows = np.concatenate(parts)
    assert np.unique(rows["symbol"][rows["exchange_seq"] == NULL]).size == wire.counters()["withdrawn"] == 7_501
    assert rows["exchange_seq"][rows["exchange_seq"] != NULL].tolist() == [1, *range(3, 103)]
    assert wire.counters()["messages"] == 7_500 + 102


def shuffled(chance: random.Random, count: int) -> list[bytes]:
    """Messages of every type with random bytes in some of the places that are read."""
    found = []
    for _ in range(count):
        raw = bytearray(chance.choice(MESSAGES))
        for _ in range(chance.randrange(3)):
            at = chance.choice((3, 29, 40, 42, 46, 72, 76, chance.randrange(21, len(raw))))
            if at < len(raw):
                raw[at] = chance.choice(
                    (0, 1, 32, 0x7F, 0xFF, *b"ABCDEFGHIJKLMNOPQRSTUVWXYZ01234", chance.randrange(256))
                )
        found.append(bytes(raw))
    return found


@pytest.mark.parametrize("use", [utp_kernel.decode, utp_kernel.decode.py_func], ids=["compiled", "plain"])
def test_random_messages_become_what_the_twin_says(use: Any) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    compiled = use is utp_kernel.decode
    symbols, twin = SymbolTable(20_000), NaiveTape()
    state = tape_kernel.new_state(20_000, tape.size_units(), utp_kernel.LAYOUTS)
    sequence = 1
    for _ in range(100 if compiled else 10):
        messages = shuffled(chance, 60 if compiled else 8)
        buffer, blocks, _ = frame(moldudp64_kernel, mold_packet(*messages, sequence=sequence))
        rows, official = plainly(use, buffer, blocks, symbols, state)
        twin.rows, twin.changes = [], []
        for message in messages:
            twin.sequence = sequence
            twin.utp(message)
            sequence += 1
        assert as_dicts(symbols, rows) == twin.rows, f"seed {seed}"
        assert changes(symbols, official) == twin.changes, f"seed {seed}"
    assert state.counters[tape_kernel.MESSAGE] == twin.bad, f"seed {seed}"


@pytest.mark.timeout(0)
def test_no_mutation_crashes_or_costs_the_next_packet() -> None:
    chance = random.Random(seed := random.randrange(1 << 32))
    pool = MESSAGES + shuffled(chance, 5_000)
    samples = [mold_packet(*chance.choices(pool, k=chance.randrange(1, 5))) for _ in range(5_000)]
    sound = mold_packet(*[TRADE_LONG[:37] + b"ZZ".ljust(11) + TRADE_LONG[48:]] * 2)
    symbols = SymbolTable(256)
    symbols.intern("ZZ")
    mutations = mutation.Mutations(seed, samples, sound)
    counts = mutation.fuzz("utp", utp.Utp(symbols), symbols, mutations, FUZZ, 77, "ZZ")
    assert min(counts[name] for name in ("malformed_short", "malformed_message", "unknown", "unencodable")) > 0
    assert counts["packets"] > FUZZ


def test_warming_up_compiles_what_the_live_path_calls(wire: utp.Utp) -> None:
    utp_kernel.warm_up()
    compiled = list(utp_kernel.decode.signatures)
    decode(wire, mold_packet(QUOTE_SHORT))
    assert utp_kernel.decode.signatures == compiled


def test_the_wire_has_its_name() -> None:
    wire = wires.SequencedWire(wires.format_of("utp").transport(), utp.Utp(SymbolTable(8)), "KP")
    payloads = [mold_packet(QUOTE_SHORT, sequence=1), mold_packet(QUOTE_LONG, sequence=2)]
    rows = np.concatenate([part.copy() for part in wire.decode(from_payloads(payloads, 77))])
    assert [chr(venue) for venue in rows["venue"]] == ["K", "P"]
    assert (wire.accepted, wire.gaps) == (2, 0)


class TestRecorded:
    def test_every_packet_has_the_messages_of_the_manifest_and_nothing_left_over(self, shared_data: Any) -> None:
        files = list(manifest(shared_data / "omi_packets", "Nasdaq/Uqdf"))
        assert len(files) == 3
        for file, counts, payloads in files:
            wire, twin, symbols = utp.Utp(table := SymbolTable(8)), NaiveTape(), table
            _, _, counters = frame(moldudp64_kernel, *payloads)
            assert counters == [1, 0, 0, 0, 0, 0], file
            rows = decode(wire, *payloads)
            ((said, count),) = counts.items()
            kind, length = said.split("/")
            (message,) = (payload[22:] for payload in payloads)
            assert (count, len(message), message[1:3].decode()) == (1, int(length), kind), file
            assert wire.messages_by_type() == {utp.TYPE_NAMES[kind]: 1}
            twin.utp(message)
            assert as_dicts(symbols, rows) == twin.rows, file
            assert len(twin.rows) == 1

    def test_the_long_quote_of_amzn(self, shared_data: Any) -> None:
        symbols = SymbolTable(8)
        ((_, _, payloads),) = manifest(shared_data / "omi_packets", "Nasdaq/Uqdf.Output.Utp.v1.5/QuoteLong")
        buffer, blocks, _ = frame(moldudp64_kernel, *payloads)
        rows, official = joined(utp.Utp(symbols), buffer, blocks)
        assert as_dicts(symbols, rows) == [
            {"kind": "quote", "symbol": "AMZN", "venue": "K", "condition": "R"}
            | {"bid": (767_250_000, 300), "ask": (767_310_000, 200)}
        ]
        assert changes(symbols, official) == [("AMZN", 19_969_935, (767_250_000, 300, "K"), (767_260_000, 100, "Z"))]
