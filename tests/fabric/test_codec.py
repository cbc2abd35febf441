"""Payloads against the msgpack library, both ways; and every way in which a frame can lie."""

import random
import struct
from typing import Any

import msgpack
import numpy as np
import pytest

from fabric import codec
from fabric.codec import FIELDS
from fabric.codec_kernel import WIRE_COUNT, WIRE_FLAG, WIRE_INT, WIRE_PRICE, WIRE_TEXT
from fabric.errors import CodecError
from fabric.records import CHANNELS, DTYPES, KIND_QUOTE, KIND_TRADE, NULL, PRICE_MAX, QUOTE, columns, empty, pack
from fabric.symbols import SymbolTable

CHANNEL_OF = {kind: channel for channel, kind in CHANNELS.items()}

# Written by hand from the msgpack specification: map 16 of 17 pairs, fixstr keys, int 64 (d3), float 64 (cb), nil (c0).
GOLDEN_QUOTE = bytes.fromhex(
    "de0011 a156 01 a154 a571756f7465"
    "a145 d30000000000000007 a14e d30000000000000003 a14f d30000000000000009 a158 c0"
    "a27431 d30000000000000001 a27432 d30000000000000002 a27433 c0"
    "a174 d3179d0ff9b4d4d5c8"
    "a26270 cb4067300000000000 a26273 d30000000000000064"
    "a26170 c0 a26173 c0"
    "a163 91a152 a17a a143"
    "a153 a44141504c".replace(" ", "")
)


@pytest.fixture
def symbols() -> SymbolTable:
    return SymbolTable(64)


def quote(symbols: SymbolTable, name: str = "AAPL") -> np.ndarray:
    rows = empty(1, QUOTE, KIND_QUOTE)
    rows["symbol"], rows["venue"] = symbols.intern(name), ord("V")
    rows["seq"], rows["epoch"], rows["position"], rows["recv_ns"], rows["feed_ns"] = 3, 7, 9, 1, 2
    rows["event_ns"] = 0x179D0FF9B4D4D5C8
    rows["bid_px"], rows["bid_size"] = 185_500_000_000, 100
    rows["condition"], rows["tape"] = pack("R"), pack("C")
    return rows


def test_a_quote_is_these_bytes(symbols: SymbolTable) -> None:
    assert codec.encode(quote(symbols), symbols) == [(b"quote.AAPL|V", GOLDEN_QUOTE)]


def test_these_bytes_are_that_quote(symbols: SymbolTable) -> None:
    (row,) = codec.decode([(b"quote.AAPL|V", GOLDEN_QUOTE)], symbols)
    assert columns(np.atleast_1d(row)).tolist() == columns(quote(symbols)).tolist()


def random_value(wire: int, rng: random.Random) -> tuple[int, Any]:
    """A column's value and what the library must read for it."""
    if rng.random() < 0.2:
        return NULL, None
    if wire == WIRE_INT:
        value = rng.choice([0, 1, -1, 127, 128, -128, 2**31, -(2**31), 2**63 - 1, -(2**63) + 1, rng.getrandbits(62)])
        return value, value
    if wire == WIRE_COUNT:
        value = rng.choice([0, 1, 2**31, 2**63 - 1, rng.getrandbits(40)])
        return value, value
    if wire == WIRE_PRICE:
        value = rng.choice(
            [1, PRICE_MAX, rng.randrange(1, PRICE_MAX), rng.randrange(1, 10**12) // 10**7 * 10**7 + 10**7]
        )
        return value, value / 1e9
    if wire == WIRE_FLAG:
        value = rng.randrange(2)
        return value, bool(value)
    text = "".join(chr(rng.randrange(0x21, 0x7F)) for _ in range(rng.randrange(1, 9)))
    return pack(text), text if wire == WIRE_TEXT else list(text)


@pytest.mark.parametrize("kind", FIELDS, ids=CHANNEL_OF.get)
def test_random_rows_survive_and_are_what_the_library_reads(kind: int, symbols: SymbolTable) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    names = DTYPES[kind].names
    assert names is not None
    for _ in range(200):
        row = empty(1, DTYPES[kind], kind)
        name = "".join(rng.choice("ABZ09.-") for _ in range(rng.randrange(0, 17)))
        row["symbol"] = symbols.intern(name) if len(symbols) < 60 else 1
        expected: dict[str, Any] = {"V": 1, "T": CHANNEL_OF[kind]}
        venue = rng.choice([0, ord("A"), ord("Z")]) if kind <= 3 else 0
        for key, column, wire in FIELDS[kind]:
            value, expected[key] = (
                random_value(wire, rng) if column != "venue" else (venue, chr(venue) if venue else None)
            )
            row[column] = value
        row["venue"] = venue
        expected["S"] = symbols.name(int(row["symbol"][0]))
        ((topic, payload),) = codec.encode(row, symbols)
        assert msgpack.unpackb(payload) == expected, f"seed {seed}"
        assert topic.decode() == f"{CHANNEL_OF[kind]}.{expected['S']}|{chr(venue) if venue else ''}", f"seed {seed}"
        back = codec.decode([(topic, payload)], symbols)
        if kind == KIND_TRADE and not venue:
            back["venue"] = 0  # a trade of no venue says x: nil
        assert columns(back).tolist() == columns(row).tolist(), f"seed {seed}"


def test_any_order_width_and_unknown_key_is_read(symbols: SymbolTable) -> None:
    plain = msgpack.unpackb(GOLDEN_QUOTE)
    for seed in range(300):
        rng = random.Random(seed)
        pairs = [
            *plain.items(),
            ("zz", {"a": [1, {"b": b"\0" * 300}], "c": None}),
            ("a key longer than any", "x" * 70_000),
        ]
        rng.shuffle(pairs)
        back = codec.decode([(b"quote.AAPL|V", msgpack.packb(dict(pairs)))], symbols)
        assert columns(back).tolist() == columns(quote(symbols)).tolist(), f"seed {seed}"


def test_a_single_precision_price_and_a_whole_one_are_prices(symbols: SymbolTable) -> None:
    whole = msgpack.packb({**msgpack.unpackb(GOLDEN_QUOTE), "bp": 185, "ap": 186.5, "as": 1}, use_single_float=True)
    (row,) = codec.decode([(b"quote.AAPL|V", whole)], symbols).view(QUOTE)
    assert (int(row["bid_px"]), int(row["ask_px"])) == (185_000_000_000, 186_500_000_000)


def changed(**values: Any) -> bytes:
    return bytes(msgpack.packb({**msgpack.unpackb(GOLDEN_QUOTE), **values}))


def without(key: str) -> bytes:
    return bytes(msgpack.packb({k: v for k, v in msgpack.unpackb(GOLDEN_QUOTE).items() if k != key}))


def nested(depth: int) -> bytes:
    return GOLDEN_QUOTE[:3].replace(b"\x11", b"\x12") + b"\xa2zz" + b"\x91" * depth + b"\xc0" + GOLDEN_QUOTE[3:]


BAD = {
    "empty": (b"", "truncated"),
    "truncated": (GOLDEN_QUOTE[:-1], "truncated"),
    "trailing bytes": (GOLDEN_QUOTE + b"\0", "trailing_bytes"),
    "a list": (msgpack.packb([1, 2]), "not_a_map"),
    "text": (b"GET / HTTP/1.1", "not_a_map"),
    "a map header cut short": (b"\xde\0", "truncated"),
    "extension as a value": (changed(bs=msgpack.ExtType(5, b"xx")), "extension"),
    "extension under an unknown key": (changed(zz=msgpack.ExtType(5, b"xx")), "extension"),
    "no bid": (without("bp"), "missing_key"),
    "no symbol": (without("S"), "missing_key"),
    "no version": (without("V"), "missing_key"),
    "no kind": (without("T"), "missing_key"),
    "text for a price": (changed(bp="185.5"), "wrong_type"),
    "float for a size": (changed(bs=1.0), "wrong_type"),
    "list for a time": (changed(t=[1]), "wrong_type"),
    "beyond 64 bits": (changed(t=2**64 - 1), "wrong_type"),
    "newer version": (changed(V=2), "newer_version"),
    "NaN": (changed(bp=float("nan")), "bad_price"),
    "infinite": (changed(bp=float("inf")), "bad_price"),
    "minus infinite": (changed(bp=float("-inf")), "bad_price"),
    "negative price": (changed(bp=-1.0), "bad_price"),
    "zero price": (changed(bp=0.0), "bad_price"),
    "whole zero price": (changed(bp=0), "bad_price"),
    "price beyond the exact": (changed(bp=2_250_000.01), "bad_price"),
    "negative size": (changed(bs=-1), "bad_size"),
    "another symbol": (changed(S="MSFT"), "topic_mismatch"),
    "another kind": (changed(T="trade"), "topic_mismatch"),
    "deep nesting": (nested(5_000), "nesting"),
    "a huge array header": (
        GOLDEN_QUOTE[:3].replace(b"\x11", b"\x12") + b"\xa2zz\xdd\xff\xff\xff\xff" + GOLDEN_QUOTE[3:],
        "truncated",
    ),
    "a huge string header": (
        GOLDEN_QUOTE[:3].replace(b"\x11", b"\x12") + b"\xa2zz\xdb\xff\xff\xff\xff" + GOLDEN_QUOTE[3:],
        "truncated",
    ),
    "a huge map": (b"\xdf\xff\xff\xff\xff", "truncated"),
    "nine conditions": (changed(c=list("ABCDEFGHI")), "bad_text"),
    "a long condition": (changed(c=["AB"]), "bad_text"),
    "a long tape": (changed(z="ABCDEFGHI"), "bad_text"),
    "a tape that is not ASCII": (changed(z="é"), "bad_text"),
    "the unused tag": (GOLDEN_QUOTE[:3] + b"\xc1" + GOLDEN_QUOTE[3:], "wrong_type"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_payload_is_refused_with_its_reason(case: str, symbols: SymbolTable) -> None:
    payload, reason = BAD[case]
    with pytest.raises(CodecError) as refused:
        codec.decode([(b"quote.AAPL|V", payload)], symbols)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "topic",
    [b"", b"quote", b"quote.", b"quote.AAPL", b"quotes.AAPL|V", b"quote.AAPL|VV", b"quote.AAPL|v", b"nbbo.AAPL|V",
     b"quote.A B|V", b"quote.ABCDEFGHIJKLMNOPQ|V", b"quote.\xff|V"],
)  # fmt: skip
def test_a_bad_topic_is_refused(topic: bytes, symbols: SymbolTable) -> None:
    with pytest.raises(CodecError, match="bad_topic"):
        codec.decode([(topic, GOLDEN_QUOTE)], symbols)


def test_a_full_symbol_table_refuses_new_names_only() -> None:
    symbols = SymbolTable(2)
    codec.decode([(b"quote.AAPL|V", GOLDEN_QUOTE)], symbols)
    with pytest.raises(CodecError, match="symbols_full"):
        codec.decode([(b"quote.MSFT|V", changed(S="MSFT"))], symbols)
    assert codec.decode([(b"quote.AAPL|V", GOLDEN_QUOTE)], symbols).size == 1


def test_a_price_that_a_float_cannot_carry_is_not_sent(symbols: SymbolTable) -> None:
    rows = quote(symbols)
    rows["bid_px"] = PRICE_MAX + 1
    with pytest.raises(CodecError, match=r"bad_price.*AAPL"):
        codec.encode(rows, symbols)


@pytest.mark.parametrize("price", [1, 100, 99_990_000, 1_000_000_001, 185_500_000_000, PRICE_MAX - 1, PRICE_MAX])
def test_a_price_up_to_the_bound_is_exact(price: int, symbols: SymbolTable) -> None:
    rows = quote(symbols)
    rows["bid_px"] = price
    assert int(codec.decode(codec.encode(rows, symbols), symbols).view(QUOTE)["bid_px"][0]) == price


def test_mutated_payloads_never_give_a_row_that_the_library_reads_otherwise(symbols: SymbolTable) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    for _ in range(20_000):
        raw = bytearray(GOLDEN_QUOTE)
        for _ in range(rng.randrange(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        if rng.random() < 0.3:
            raw = raw[: rng.randrange(len(raw))]
        try:
            (row,) = codec.decode([(b"quote.AAPL|V", bytes(raw))], symbols).view(QUOTE)
        except CodecError:
            continue
        read = msgpack.unpackb(bytes(raw), strict_map_key=False)
        assert read["bs"] == (None if row["bid_size"] == NULL else int(row["bid_size"])), f"seed {seed}: {raw.hex()}"
        assert read["N"] == (None if row["seq"] == NULL else int(row["seq"])), f"seed {seed}: {raw.hex()}"
        if read["bp"] is not None:
            assert round(read["bp"] * 1e9) == pytest.approx(int(row["bid_px"]), abs=1), f"seed {seed}: {raw.hex()}"


def test_golden_bytes_are_what_the_specification_says() -> None:
    assert struct.unpack(">d", bytes.fromhex("4067300000000000")) == (185.5,)
    assert msgpack.unpackb(GOLDEN_QUOTE)["bp"] == 185.5
