"""CQS and CTS: golden bytes from the specification's tables, the twin, the official NBBO, recordings, mutations."""

import random
import struct
from collections import Counter
from typing import Any

import numpy as np
import pytest

import mutation
from fabric.compiled import kernel
from fabric.records import KIND_QUOTE, NULL, PRICE_MAX, QUOTE, STATE_STALE, STATUS, TRADE, unpack
from fabric.symbols import SymbolTable
from golden import golden
from naive_tape import NaiveTape, cta_blocks
from nodes.feeds import cta, cta_block_kernel, cta_kernel, tape, tape_kernel, wires
from nodes.feeds.wire import from_payloads
from nodes.feeds.wire_kernel import BLOCK, GAP, RESTART
from support import random_count
from tape_support import DAY_S, as_dicts, changes, cta_block, decode, frame, joined, manifest, plainly

FUZZ = random_count(20_000)

# Written by hand from the specification's tables, field by field.
GOLDEN = tuple(golden("tape/cta.hex").values())
(
    QUOTE_LONG, QUOTE_SHORT, TRADE_LONG, TRADE_FRACTION, TRADE_SHORT, TRADE_SHORT_FRACTION, CANCEL_FRACTION, CANCEL,
    CORRECTION_FRACTION, CORRECTION, BANDS, HALT, REFERENCE, BREAKER,
) = GOLDEN  # fmt: skip


@pytest.fixture
def symbols() -> SymbolTable:
    return SymbolTable(64)


@pytest.fixture
def wire(symbols: SymbolTable) -> cta.Cta:
    return cta.Cta(symbols)


def one(wire: cta.Cta, message: bytes, dtype: Any, **header: Any) -> Any:
    (row,) = decode(wire, cta_block(message, **header)).view(dtype)
    return row


def long_quote(
    venue: str = "N",
    symbol: str = "A",
    bid: tuple[int, int] = (10_000_000, 1),
    ask: tuple[int, int] = (10_010_000, 2),
    indicator: str = "A",
    appended: bytes = b"",
    condition: str = "R",
    status: str = " ",
    short_sale: str = " ",
    outside: str = " ",
) -> bytes:
    """QL; layout as in the specification, prices in millionths."""
    head = struct.pack(">HccsIIBIq", 87 + len(appended), b"Q", b"L", venue.encode(), DAY_S, 1, 1, 0, 0)
    body = struct.pack(">11sccc", symbol.encode().ljust(11), b"0", condition.encode(), status.encode())
    body += struct.pack(">qIqI8s8x", *bid, *ask, b" " * 8)
    tail = f"{short_sale}N0 {outside} {indicator}".encode()
    return head + body + tail + appended


def appendage(venue: str, px: int, size: int) -> bytes:
    return struct.pack(">ccqI4s", venue.encode(), b"R", px, size, b"    ")


class TestMessages:
    def test_golden_lengths(self) -> None:
        assert [len(message) for message in GOLDEN] == [struct.unpack_from(">H", message)[0] for message in GOLDEN]

    def test_golden_long_quote(self, wire: cta.Cta, symbols: SymbolTable) -> None:
        rows = decode(wire, cta_block(QUOTE_LONG, sequence=5))
        row, status = rows.view(QUOTE)[0], rows.view(STATUS)[1]
        assert symbols.name(row["symbol"]) == "BRK.A"
        assert (chr(row["venue"]), row["exchange_seq"], row["recv_ns"]) == ("K", 5, 77)
        assert row["event_ns"] == 0x69D49658 * 10**9 + 7
        assert (row["bid_px"], row["bid_size"]) == (29_450_000_000, 100)
        assert (row["ask_px"], row["ask_size"]) == (29_470_000_000, 200)
        assert (unpack(row["condition"]), unpack(row["tape"])) == ("R", "A")
        assert row["seq"] == row["epoch"] == row["feed_ns"] == NULL
        assert (unpack(status["short_sale"]), unpack(status["trading"]), status["round_lot"]) == ("E", "", NULL)
        assert changes(symbols, wire.official) == []  # the rows were taken: it is theirs only
        (official,) = wire.official_of(int(row["symbol"]))
        assert official["px"].tolist() == [29_460_000_000, 29_464_840_000]
        assert official["size"].tolist() == [300, 400]
        assert official["venue"].tolist() == [ord("Z"), ord("N")]

    def test_golden_short_quote(self, wire: cta.Cta, symbols: SymbolTable) -> None:
        buffer, blocks, _ = frame(cta_block_kernel, cta_block(QUOTE_SHORT))
        rows, official = joined(wire, buffer, blocks)
        assert as_dicts(symbols, rows) == [
            {"kind": "quote", "symbol": "IBM", "venue": "P", "condition": "R"}
            | {"bid": (150_000_000, 1), "ask": (150_100_000, 2)}
        ]
        assert changes(symbols, official) == [("IBM", 1, (150_010_000, 3, "N"), (150_090_000, 4, "Z"))]

    @pytest.mark.parametrize(
        ("message", "wanted"),
        [
            (TRADE_LONG, ("D", 150_000, 55, "@FI", 0x413045303155, "", NULL, "B")),
            (TRADE_FRACTION, ("K", 150_000, 20, "I", 17, "", NULL, "A")),
            (TRADE_SHORT, ("J", 150_000, 99, "I", 18, "", NULL, "A")),
            (TRADE_SHORT_FRACTION, ("J", 150_000, 1, "@", 19, "", NULL, "A")),
            (CANCEL_FRACTION, ("D", 150_000, 5, "@", NULL, "x", 17, "A")),
            (CANCEL, ("N", 150_000, 5, "@", NULL, "x", 18, "A")),
            (CORRECTION_FRACTION, ("D", 150_030, 100, "T", 21, "c", 17, "A")),
            (CORRECTION, ("N", 150_030, 100, "T", 22, "c", 18, "A")),
        ],
    )
    def test_golden_trades(self, wire: cta.Cta, symbols: SymbolTable, message: bytes, wanted: tuple[Any, ...]) -> None:
        row = one(wire, message, TRADE)
        found = (chr(row["venue"]), row["price"] // 1_000_000, row["size"], unpack(row["condition"]), row["trade_id"])
        assert (*found, unpack(row["mark"]), row["original_id"], unpack(row["tape"])) == wanted
        assert symbols.name(row["symbol"]) == "IBM"
        assert wire.counters()["fractional"] == (message is TRADE_SHORT_FRACTION)

    def test_golden_statuses_tell_all_that_is_known(self, wire: cta.Cta, symbols: SymbolTable) -> None:
        resume = HALT[:70] + b"3 " + HALT[72:]
        rows = decode(wire, cta_block(REFERENCE, BANDS, HALT, resume))
        known = {"kind": "status", "symbol": "IBM", "venue": "S", "trading": "", "reason": "", "indicator": ""}
        known |= {"upper": None, "lower": None, "short_sale": "C", "lot": 40}
        bands = known | {"upper": 157_999_680, "lower": 142_283_584, "indicator": "B", "short_sale": "A"}
        assert as_dicts(symbols, rows) == [
            known,
            bands,
            bands | {"trading": "H", "reason": "P"},
            bands | {"trading": "T"},
        ]

    def test_a_breach_of_the_market_wide_breaker_is_the_plan_s(self, wire: cta.Cta, symbols: SymbolTable) -> None:
        rows = decode(wire, cta_block(BREAKER, sequence=5))
        (row,) = rows.view(STATUS)
        assert (chr(row["venue"]), symbols.name(row["symbol"]), unpack(row["reason"])) == ("S", "", "MWC1")
        assert (unpack(row["venue_state"]), row["trading"]) == ("live", NULL)
        assert (row["exchange_seq"], row["event_ns"], row["recv_ns"]) == (5, 0x69D49658 * 10**9 + 0x11, 77)

    def test_bands_in_a_quote_are_no_quote(self, wire: cta.Cta, symbols: SymbolTable) -> None:
        rows = decode(wire, cta_block(long_quote(status="0", venue="S")))
        (found,) = as_dicts(symbols, rows)
        assert (found["kind"], found["lower"], found["upper"], found["indicator"]) == (
            "status", 10_000_000, 10_010_000, "0",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("fields", "condition"),
        [
            ({"condition": "C"}, "C"),
            ({"status": "M"}, "NR"),
            ({"status": "2"}, "R"),
            ({"outside": "A"}, "eR"),
            ({"outside": "B", "status": "T"}, "fNR"),
        ],
    )
    def test_what_the_plan_keeps_from_the_nbbo_shows_in_the_condition(
        self, wire: cta.Cta, fields: dict[str, str], condition: str
    ) -> None:
        row = decode(wire, cta_block(long_quote(**fields))).view(QUOTE)[0]
        assert unpack(row["condition"]) == condition

    def test_status_of_quotes_is_told_when_it_changes(self, wire: cta.Cta, symbols: SymbolTable) -> None:
        fields = [{}, {"short_sale": "A"}, {"short_sale": "A"}, {"status": "P"}, {"status": "P"}, {"status": "T"}, {}]
        rows = decode(wire, *(cta_block(long_quote(**f), sequence=i) for i, f in enumerate(fields, 1)))
        told = [(row["short_sale"], row["trading"], row["reason"]) for row in as_dicts(symbols, rows) if "lot" in row]
        assert told == [("A", "", ""), ("0", "H", "P"), ("0", "T", "")]

    @pytest.mark.parametrize(
        ("px", "size"), [(0, 0), (0, 5), (5, 0), (-1, 5), (PRICE_MAX // 1_000 + 1, 5), (-(2**63), 5)]
    )
    def test_a_side_without_a_price_or_size_does_not_exist(self, wire: cta.Cta, px: int, size: int) -> None:
        row = one(wire, long_quote(bid=(px, size)), QUOTE)
        assert row["bid_px"] == row["bid_size"] == NULL
        assert row["ask_px"] == 10_010_000_000
        assert wire.counters()["unencodable"] == (px < 0 or px > 5)

    def test_sizes_were_round_lots_until_november_2025(self, wire: cta.Cta) -> None:
        last = one(wire, long_quote(), QUOTE, seconds=1_762_127_999)
        first = one(wire, long_quote(), QUOTE, seconds=1_762_128_000)  # 2025-11-03
        assert (last["bid_size"], first["bid_size"]) == (100, 1)

    def test_trades_of_less_than_a_share_are_counted_and_left_out(self, wire: cta.Cta) -> None:
        small = TRADE_FRACTION[:50] + struct.pack(">q", 999_999) + TRADE_FRACTION[58:]
        assert decode(wire, cta_block(small)).size == 0
        assert wire.counters()["fractional"] == 1

    def test_without_a_time_of_its_own_a_message_has_that_of_its_block(self, wire: cta.Cta) -> None:
        row = one(wire, QUOTE_SHORT[:5] + b"\0" * 8 + QUOTE_SHORT[13:], QUOTE)
        assert row["event_ns"] == DAY_S * 10**9 + 5

    def test_a_full_symbol_table_refuses_and_counts(self) -> None:
        wire = cta.Cta(SymbolTable(2))
        assert decode(wire, cta_block(*(long_quote(symbol=name) for name in "ABA"))).size == 2
        assert wire.counters()["refused"] == 1

    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param(QUOTE_LONG[:122], id="appendage cut"),
            pytest.param(long_quote()[:86], id="short"),
            pytest.param(long_quote(symbol=""), id="no symbol"),
            pytest.param(long_quote(symbol="A|B"), id="no name"),
            pytest.param(long_quote(venue="1"), id="no participant"),
            pytest.param(long_quote()[:9] + b"\xff\xff\xff\xff" + long_quote()[13:], id="no time"),
            pytest.param(b"\0\0CZ", id="control without a head"),
            pytest.param(BREAKER[:26], id="breaker cut"),
            pytest.param(BREAKER[:26] + b"0\0", id="no level"),
            pytest.param(BREAKER[:9] + b"\xff\xff\xff\xff" + BREAKER[13:], id="breaker without a time"),
        ],
    )
    def test_what_cannot_be_read_is_counted_and_costs_nothing_after_it(self, wire: cta.Cta, bad: bytes) -> None:
        bad = struct.pack(">H", len(bad)) + bad[2:]
        rows = decode(wire, cta_block(bad, long_quote()))
        assert rows["exchange_seq"].tolist() == [2]
        assert wire.counters()["malformed_message"] == 1

    def test_unknown_types_are_counted_and_skipped_and_new_fields_passed_over(self, wire: cta.Cta) -> None:
        strange = struct.pack(">H", 30) + b"Q9" + bytes(26)
        longer = struct.pack(">H", 90) + long_quote()[2:] + b"new"
        rows = decode(wire, cta_block(strange, longer, long_quote()))
        assert rows["exchange_seq"].tolist() == [2, 3]
        assert wire.counters()["unknown"] == 1
        assert wire.messages_by_type() == {"long_quote": 2, "unknown_0x5139": 1}


def sides(wire: cta.Cta, symbols: SymbolTable, *payloads: bytes) -> list[Any]:
    buffer, blocks, _ = frame(cta_block_kernel, *payloads)
    return [change[1:] for change in changes(symbols, joined(wire, buffer, blocks)[1])]


class TestOfficial:
    def test_the_quote_itself_appendages_and_no_change(self, wire: cta.Cta, symbols: SymbolTable) -> None:
        both = appendage("Z", 10_001_000, 3) + appendage("P", 10_009_000, 4)
        messages = [
            long_quote(indicator="G"),
            long_quote(indicator="A", venue="P"),
            long_quote(indicator="U", venue="Z", appended=both),
            long_quote(indicator="U", venue="Z", appended=both),
            long_quote(indicator=" "),
            long_quote(indicator="O", condition="C"),
        ]
        assert sides(wire, symbols, cta_block(*messages)) == [
            (1, (10_000_000, 1, "N"), (10_010_000, 2, "N")),
            (3, (10_001_000, 3, "Z"), (10_009_000, 4, "P")),
            (6, None, None),
        ]
        assert wire.counters()["official_changes"] == 3

    def test_every_letter_of_the_indicator_as_the_twin_has_it(self, wire: cta.Cta, symbols: SymbolTable) -> None:
        twin, found = NaiveTape(), []
        long = appendage("Z", 10_001_000, 3), appendage("P", 10_009_000, 4)
        short = struct.pack(">cHH", b"X", 1_001, 7), struct.pack(">cHH", b"Y", 1_008, 8)
        for i, letter in enumerate("GABCDEGFGHIJGKLMNOGPQRSTUVWU "):
            says = cta_kernel._BID_SAYS[ord(letter)], cta_kernel._OFFER_SAYS[ord(letter)]
            parts = [{2: short, 3: long}.get(said, (b"", b""))[side] for side, said in enumerate(says)]
            message = long_quote(
                indicator=letter, appended=b"".join(parts), bid=(9_990_000 + i, i), ask=(11_000_000, i)
            )
            twin.sequence = i + 1
            twin.cta(message)
            found += sides(wire, symbols, cta_block(message, sequence=i + 1))
        assert found == [change[1:] for change in twin.changes]
        assert twin.bad == wire.counters()["malformed_message"] == 0
        assert len(found) > 20

    def test_a_side_is_known_only_when_it_has_been_stated(self, wire: cta.Cta, symbols: SymbolTable) -> None:
        assert sides(wire, symbols, cta_block(long_quote(indicator="F"))) == []
        assert len(sides(wire, symbols, cta_block(long_quote(indicator="B"), sequence=2))) == 1

    def test_after_a_gap_the_official_value_is_unknown_until_it_is_stated_anew(
        self, wire: cta.Cta, symbols: SymbolTable
    ) -> None:
        first = cta_block(long_quote(indicator="G"), long_quote(indicator="G", symbol="B"))
        buffer, blocks, _ = frame(cta_block_kernel, first, cta_block(long_quote(indicator="G"), sequence=9))
        gap = np.zeros(1, BLOCK)
        gap["stream"], gap["kind"] = blocks[0]["stream"], GAP
        _, official = joined(wire, buffer, np.concatenate([blocks[:1], gap, gap, blocks[1:]]))
        assert official["state"].tolist() == [0, 0, STATE_STALE, 0]
        assert official["exchange_seq"].tolist() == [1, 2, NULL, 9]
        assert wire.official_of(symbols.find("B"))["known"].tolist() == [0]
        assert wire.counters()["official_forgotten"] == 2

    def test_gaps_alone_do_not_fill_the_log(self, wire: cta.Cta) -> None:
        gaps = np.zeros(5_000, BLOCK)
        gaps["kind"] = GAP
        assert list(wire.decode(np.zeros(1, np.uint8), gaps)) == []
        assert wire.official.size == 1


class TestRestart:
    def test_every_quote_that_stood_is_withdrawn(self, wire: cta.Cta, symbols: SymbolTable) -> None:
        messages = [long_quote(venue) for venue in "NPZ"] + [long_quote("K", symbol="B")]
        buffer, blocks, _ = frame(cta_block_kernel, cta_block(*messages), cta_block(long_quote("P"), sequence=1))
        other = cta_block(long_quote("N", symbol="C"), feed=b"T")
        decode(wire, other)
        restart = blocks[:1].copy()
        restart["kind"] = RESTART
        rows, official = joined(wire, buffer, np.concatenate([blocks[:1], restart, blocks[1:]]))
        withdrawn = rows[4:8].view(QUOTE)
        told = [(symbols.name(int(row["symbol"])), chr(row["venue"])) for row in withdrawn]
        assert told == [("A", "N"), ("A", "P"), ("A", "Z"), ("B", "K")]
        assert set(withdrawn["bid_px"].tolist()) == set(withdrawn["ask_size"].tolist()) == {NULL}
        assert withdrawn["exchange_seq"].tolist() == [NULL] * 4
        assert rows.size == 9
        assert wire.counters()["withdrawn"] == 4
        assert official["state"].tolist() == [STATE_STALE]

    def test_more_withdrawals_than_one_batch_holds(self) -> None:
        symbols = SymbolTable(1_000)
        wire = cta.Cta(symbols)
        names = [f"S{i}" for i in range(900)]
        for venue in "NPZ":
            for start in range(0, 900, 9):
                decode(wire, cta_block(*(long_quote(venue, symbol=name) for name in names[start : start + 9])))
        restart = np.zeros(1, BLOCK)
        restart["stream"], restart["kind"], restart["sent_ns"] = 3 << 16 | ord("Q"), RESTART, 5
        parts = [rows.copy() for rows in wire.decode(np.zeros(1, np.uint8), restart)]
        assert len(parts) > 1
        rows = np.concatenate(parts)
        assert len({(row["symbol"], row["venue"]) for row in rows}) == rows.size == 2_700


def shuffled(chance: random.Random, count: int) -> list[bytes]:
    """Messages of every type with random prices, sizes and letters in the places that are read."""
    found = []
    for _ in range(count):
        raw = bytearray(chance.choice(GOLDEN))
        for _ in range(chance.randrange(3)):
            at = chance.choice((4, 26, 38, 39, 46, 54, 70, 72, 75, 80, 84, 86, chance.randrange(26, len(raw))))
            if at < len(raw):
                raw[at] = chance.choice(
                    (0, 1, 32, 0x7F, 0xFF, *b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123", chance.randrange(256))
                )
        found.append(bytes(raw))
    return found


@pytest.mark.parametrize("use", [cta_kernel.decode, cta_kernel.decode.py_func], ids=["compiled", "plain"])
def test_random_messages_become_what_the_twin_says(use: Any) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    compiled = use is cta_kernel.decode
    symbols, twin = SymbolTable(20_000), NaiveTape()
    state = tape_kernel.new_state(20_000, tape.size_units(), cta_kernel.LAYOUTS)
    sequence = 1
    for _ in range(60 if compiled else 6):
        messages = shuffled(chance, 60 if compiled else 8)
        buffer, blocks, _ = frame(cta_block_kernel, cta_block(*messages, sequence=sequence))
        rows, official = plainly(use, buffer, blocks, symbols, state)
        twin.rows, twin.changes = [], []
        for message in messages:
            twin.sequence = sequence
            twin.cta(message)
            sequence += 1
        assert as_dicts(symbols, rows) == twin.rows, f"seed {seed}"
        assert changes(symbols, official) == twin.changes, f"seed {seed}"
    assert state.counters[tape_kernel.MESSAGE] == twin.bad, f"seed {seed}"


@kernel
def sealed(packet: Any, size: int) -> None:
    """Make length and checksum of a mutated block right again."""
    if size < 20:
        return
    packet[1], packet[2] = size >> 8, size & 0xFF
    total = 0
    for i in range(size):
        total += packet[i]
    total = (total - packet[18] - packet[19]) & 0xFFFF
    packet[18], packet[19] = total >> 8, total & 0xFF


@pytest.mark.timeout(0)
def test_no_mutation_crashes_or_costs_the_next_block() -> None:
    chance = random.Random(seed := random.randrange(1 << 32))
    pool = [*GOLDEN, *shuffled(chance, 5_000)]
    samples = [cta_block(*chance.choices(pool, k=chance.randrange(1, 5))) for _ in range(5_000)]
    sound = cta_block(*[TRADE_LONG[:26] + b"ZZ".ljust(11) + TRADE_LONG[37:]] * 2)
    symbols = SymbolTable(256)
    symbols.intern("ZZ")
    mutations = mutation.Mutations(seed, samples, sound, sealed)
    counts = mutation.fuzz("cta", cta.Cta(symbols), symbols, mutations, FUZZ, 77, "ZZ")
    assert min(counts[name] for name in ("malformed_length", "malformed_message", "unknown", "unencodable")) > 0
    assert counts["packets"] > FUZZ


def test_warming_up_compiles_what_the_live_path_calls(wire: cta.Cta) -> None:
    cta_kernel.warm_up()
    compiled = list(cta_kernel.decode.signatures)
    decode(wire, cta_block(long_quote()))
    assert cta_kernel.decode.signatures == compiled


def test_the_wire_has_its_name() -> None:
    symbols = SymbolTable(8)
    wire = wires.SequencedWire(wires.format_of("cta").transport(), cta.Cta(symbols), "NP")
    payloads = [cta_block(long_quote(), sequence=1), cta_block(long_quote("P"), sequence=2)]
    rows = [part.copy() for part in wire.decode(from_payloads(payloads, 77))]
    quotes = np.concatenate(rows).view(QUOTE)
    assert [chr(row["venue"]) for row in quotes if row["kind"] == KIND_QUOTE] == ["N", "P"]
    assert (wire.accepted, wire.gaps) == (2, 0)


class TestNumbersReset:
    """The tape may reset its numbers within a day: message C L, then numbers from 1."""

    def take(self, wire: wires.SequencedWire, *payloads: bytes) -> str:
        """Venue letters of the quotes, ``-`` for one withdrawn."""
        rows = [part.copy() for part in wire.decode(from_payloads(list(payloads), 77))]
        quotes = np.concatenate(rows).view(QUOTE) if rows else np.zeros(0, QUOTE)
        quotes = quotes[quotes["kind"] == KIND_QUOTE]
        return "".join(chr(row["venue"]) + ("-" if row["bid_px"] == NULL else "") for row in quotes)

    @pytest.fixture
    def named(self) -> wires.SequencedWire:
        made = wires.make("cta", SymbolTable(8), "NP")
        before = [cta_block(long_quote("N"), sequence=number, ns=number) for number in range(100, 104)]
        assert self.take(made, *before) == "NNNN"
        return made

    def test_what_follows_is_a_new_numbering(self, named: wires.SequencedWire) -> None:
        reset = cta_block(bytes.fromhex("001a 43 4c 53") + bytes(21), sequence=0, seconds=DAY_S + 1)
        after = [cta_block(long_quote("P"), sequence=number, seconds=DAY_S + 1, ns=number) for number in (1, 2, 3)]
        assert self.take(named, reset, *after) == "N-PPP"
        assert [named.counters()[name] for name in ("restarts", "gaps", "duplicates")] == [1, 0, 0]
        late = cta_block(long_quote("N"), sequence=104, ns=104)
        assert self.take(named, late) == "", "of before the reset"

    def test_what_is_sent_again_is_not(self, named: wires.SequencedWire) -> None:
        again = [cta_block(long_quote("P"), sequence=number, again=b"V", seconds=DAY_S + 1) for number in (100, 101)]
        assert self.take(named, *again) == ""
        assert self.take(named, cta_block(long_quote("N"), sequence=104, seconds=DAY_S + 2)) == "N"
        assert [named.counters()[name] for name in ("restarts", "duplicates")] == [0, 2]


class TestRecorded:
    def test_every_packet_has_the_messages_of_the_manifest_and_nothing_left_over(self, shared_data: Any) -> None:
        files = list(manifest(shared_data / "omi_packets", "Siac/"))
        assert len(files) == 32
        for file, counts, payloads in files:
            wire = cta.Cta(SymbolTable(64))
            _, blocks, counters = frame(cta_block_kernel, *payloads)
            counted = dict(zip(cta_block_kernel.NAMES, counters, strict=True))
            assert sum(count for name, count in counted.items() if name.startswith("malformed_")) == 0, file
            lengths: Counter[str] = Counter()
            for payload in payloads:
                believed = cta_blocks(payload)
                assert believed is not None
                lengths.update(f"{message[2:4].decode()}/{len(message)}" for message in believed[1])
            assert lengths == counts, file
            rows = decode(wire, *payloads)
            types = {cta.TYPE_NAMES[said.split("/")[0]]: count for said, count in counts.items()}
            heartbeats = types.pop("line_integrity", 0)
            assert (wire.messages_by_type(), counted["heartbeats"]) == (types, heartbeats), file
            assert wire.counters()["unknown"] == wire.counters()["malformed_message"] == 0, file
            assert int(blocks["count"].sum()) == sum(counts.values()) - heartbeats
            assert set(rows["kind"].tolist()) <= {1, 2, 3}

    def test_values_of_the_long_quote_with_both_appendages(self, shared_data: Any) -> None:
        symbols = SymbolTable(64)
        wire = cta.Cta(symbols)
        ((_, _, payloads),) = manifest(shared_data / "omi_packets", "Siac/Cqs.Cta.v1.91")
        buffer, blocks, _ = frame(cta_block_kernel, *payloads)
        rows, official = joined(wire, buffer, blocks)
        assert as_dicts(symbols, rows) == [
            {"kind": "quote", "symbol": "STOR", "venue": "K", "condition": "R"}
            | {"bid": (29_450_000, 100), "ask": (29_470_000, 100)}
        ]
        assert changes(symbols, official) == [("STOR", 19_878_165, (29_460_000, 300, "Z"), (29_470_000, 200, "Z"))]

    def test_rows_of_every_packet_are_the_twin_s(self, shared_data: Any) -> None:
        kinds: Counter[int] = Counter()
        for file, _, payloads in manifest(shared_data / "omi_packets", "Siac/"):
            symbols, twin = SymbolTable(64), NaiveTape(lot=1 if "v2.1" in file else 100)
            rows = decode(cta.Cta(symbols), *payloads)
            for payload in payloads:
                for message in (cta_blocks(payload) or ("", []))[1]:
                    twin.cta(message)
            assert as_dicts(symbols, rows) == twin.rows, file
            kinds.update(rows["kind"].tolist())
        assert kinds[KIND_QUOTE] == 2
