import json
import random

import msgpack
import numpy as np
import pytest

import naive_protocol
from fabric.records import BAR, KIND_NBBO, NBBO, NULL, QUOTE, STATUS, TRADE, Rows, columns, empty, pack
from gateway import protocol_kernel as kernel
from gateway.protocol_kernel import JSON, MESSAGE_MAX, MSGPACK, SIP, STREAM, VENUE

FORMS = range(kernel.FORMS)
KINDS = {
    "best": (kernel.BEST, NBBO),
    "own": (kernel.OWN, QUOTE),
    "t": (kernel.TRADED, TRADE),
    "x": (kernel.CANCEL, TRADE),
    "c": (kernel.CORRECTION, TRADE),
    "now": (kernel.NOW, BAR),
    "b": (kernel.CLOSED, BAR),
    "u": (kernel.REVISED, BAR),
    "b5m": (kernel.CLOSED_5M, BAR),
    "b1h": (kernel.CLOSED_1H, BAR),
    "s": (kernel.HALT, STATUS),
    "l": (kernel.BANDS, STATUS),
    "venue": (kernel.LINE, STATUS),
}
TEXTS = ("condition", "tape", "mark", "trading", "reason", "indicator", "short_sale", "venue_state")
LETTERS = ("venue", "bid_venue", "ask_venue")
EXTREMES = (NULL, NULL + 1, -1, 0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**32, 2**53 + 1, 2**63 - 1)
FAR_FUTURE_NS = 2**63 - 1
NOW_NS = 1_795_392_000_123_456_789


def write(
    message: int, form: int, row: Rows, symbol: str, stale: bool = False, k: int = 0, mask: int = 0, stamps: int = 0
) -> bytes:
    """What the kernel writes, checked to stay where it was allowed to."""
    out = np.full(3 * MESSAGE_MAX, 0xEE, np.uint8)
    name = np.frombuffer(symbol.encode().ljust(16, b"\0"), np.uint8).copy()
    cells = columns(row.reshape(1))[0]
    start = 7
    end = kernel.encode(
        out, start, form, message, cells, name, len(symbol), stale, np.zeros(kernel.SCRATCH, np.uint8), mask
    )
    if stamps:
        chars = np.zeros(kernel.SCRATCH, np.uint8)
        end = kernel.append_stamps(out, start, end, form, message, cells, stamps, NOW_NS, chars)
    if k:
        end = kernel.append_count(out, start, end, form, k)
    assert end - start <= MESSAGE_MAX
    assert (out[:start] == 0xEE).all()
    assert (out[start + MESSAGE_MAX :] == 0xEE).all()
    return out[start:end].tobytes()


def random_row(rng: random.Random, dtype: np.dtype) -> Rows:
    row = empty(1, dtype)[0]
    for name in dtype.names:
        if name in TEXTS:
            text = "".join(chr(rng.randrange(1, 128)) for _ in range(rng.randrange(9)))
            row[name] = rng.choice((NULL, pack(text), pack("H"), pack("T1"), pack("LUDP")))
        elif name in LETTERS:
            row[name] = rng.choice((0, ord("V"), ord("N"), NULL if name != "venue" else 0))
        elif name in ("event_ns", "recv_ns", "feed_ns", "proc_ns"):
            row[name] = rng.choice((NULL, 0, 1, -1, 10**9, FAR_FUTURE_NS, rng.randrange(2 * 10**18)))
        elif name == "state":
            row[name] = rng.choice((NULL, 0, 1, 33, 63))
        elif name in ("final", "gap"):
            row[name] = rng.choice((NULL, 0, 1))
        else:
            row[name] = rng.choice((*EXTREMES, rng.randrange(10**13), rng.randrange(10**4) * 10**7))
    return row


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_message_is_what_the_libraries_write(kind: str, form: int) -> None:
    message, dtype = KINDS[kind]
    for seed in range(150):
        rng = random.Random(f"{kind} {form} {seed}")
        row = random_row(rng, dtype)
        symbol = rng.choice(("A", "BRK.B", "ZVZZT", "ABCDEFGHIJKLMNOP", 'A"\\B'))
        stale = rng.random() < 0.3 and kind in ("best", "own")
        k = rng.choice((0, 1, 200, 70_000)) if kind in ("best", "own", "now") else 0
        expected = naive_protocol.write(naive_protocol.message(kind, row, symbol, form // 2, stale, k), form & 1)
        assert write(message, form, row, symbol, stale, k) == expected, f"seed {seed}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_stamps_are_what_the_libraries_write(kind: str, form: int) -> None:
    message, dtype = KINDS[kind]
    for seed in range(40):
        rng = random.Random(f"stamps {kind} {form} {seed}")
        row = random_row(rng, dtype)
        stamps = rng.choice((kernel.TRACE, kernel.PLACE, kernel.TRACE | kernel.PLACE))
        k = rng.choice((0, 1, 70_000)) if kind in ("best", "own", "now") else 0
        made = naive_protocol.message(kind, row, "BRK.B", form // 2, False, k)
        made = naive_protocol.stamped(made, row, bool(stamps & kernel.TRACE), bool(stamps & kernel.PLACE), NOW_NS)
        expected = naive_protocol.write(made, form & 1, long_map=True)
        assert write(message, form, row, "BRK.B", k=k, stamps=stamps) == expected, f"seed {seed}"


def test_a_notice_has_no_way() -> None:
    row = empty(1, TRADE)[0]
    assert write(kernel.LAGGED, STREAM * 2, row, "") == write(kernel.LAGGED, STREAM * 2, row, "", stamps=kernel.TRACE)


def test_a_quote_is_what_a_stock_client_knows() -> None:
    """The example of Alpaca's reference, with the keys in its order."""
    row = empty(1, QUOTE)[0]
    row["venue"] = ord("V")
    row["bid_px"], row["bid_size"], row["ask_px"], row["ask_size"] = 87_660_000_000, 100, 87_680_000_000, 400
    row["condition"], row["tape"], row["event_ns"] = pack("R"), pack("A"), 1_704_207_845_123_456_789
    assert write(kernel.OWN, VENUE * 2 + JSON, row, "AMD") == (
        b'{"T":"q","S":"AMD","bx":"V","bp":87.66,"bs":100,"ax":"V","ap":87.68,"as":400,"c":["R"],"z":"A",'
        b'"t":"2024-01-02T15:04:05.123456789Z"}'
    )


def test_msgpack_bytes_by_hand() -> None:
    row = empty(1, STATUS)[0]
    row["venue"], row["venue_state"], row["event_ns"] = ord("V"), pack("live"), 5_000_000_000
    expected = bytes.fromhex("88 a154 a5") + b"venue" + bytes.fromhex("a178 a156 a5") + b"state" + b"\xa4live"
    expected += b"\xa2rc\xc0\xa2rm\xc0"
    expected += b"\xa4from\xc0\xa2to\xc0" + bytes.fromhex("a174 d6ff 00000005")
    assert write(kernel.LINE, STREAM * 2 + MSGPACK, row, "") == expected


@pytest.mark.parametrize(
    ("units", "text"),
    [
        (185_500_000_000, "185.5"),
        (185_000_000_000, "185"),
        (1, "0.000000001"),
        (-1, "-0.000000001"),
        (0, "0"),
        (10_000_000, "0.01"),
        (2_250_000 * 10**9, "2250000"),
        (2**63 - 1, "9223372036.854775807"),
        (-(2**63) + 1, "-9223372036.854775807"),
    ],
)
def test_a_json_price_is_the_shortest_exact_decimal(units: int, text: str) -> None:
    row = empty(1, TRADE)[0]
    row["price"] = units
    assert f'"p":{text},"s"' in write(kernel.TRADED, STREAM * 2 + JSON, row, "A").decode()


def test_a_side_that_does_not_exist_is_null_and_for_stock_clients_zero() -> None:
    row = empty(1, NBBO, KIND_NBBO)[0]
    row["bid_px"], row["bid_size"], row["bid_venue"] = 10**9, 100, ord("N")
    row["ask_venue"] = ord("Q")  # of a side that has been withdrawn
    row["state"] = 4
    ours = json.loads(write(kernel.BEST, STREAM * 2 + JSON, row, "A"))
    assert (ours["ap"], ours["as"], ours["ax"], ours["t"], ours["st"]) == (None, None, None, None, 4)
    stock = msgpack.unpackb(write(kernel.BEST, SIP * 2 + MSGPACK, row, "A"))
    assert (stock["ap"], stock["as"], stock["ax"], stock["t"].to_unix()) == (0.0, 0, " ", 0)


def test_a_stale_price_says_so_whatever_else_it_is() -> None:
    row = empty(1, NBBO, KIND_NBBO)[0]
    row["state"] = 1
    assert json.loads(write(kernel.BEST, STREAM * 2 + JSON, row, "A", stale=True))["st"] == 17
    assert json.loads(write(kernel.OWN, STREAM * 2 + JSON, empty(1, QUOTE)[0], "A", stale=True))["st"] == 16


def test_the_longest_message_fits() -> None:
    nothing_but_escapes = pack("\x01" * 8)
    for message, dtype in KINDS.values():
        row = empty(1, dtype)[0]
        for name in dtype.names:
            row[name] = nothing_but_escapes if name in TEXTS else ord("V") if name in LETTERS else NULL + 1
        for form in FORMS:
            write(message, form, row, "\x01" * 16, message < kernel.NOW)


def test_gap_and_slow() -> None:
    gap = empty(1, QUOTE)
    cells = columns(gap)[0]
    cells[:3] = 0, kernel.CHANNEL_TEXTS.index("lulds"), 12
    assert json.loads(write(kernel.MISSED, 0, gap[0], "AA")) == {
        "T": "gap",
        "channel": "lulds",
        "S": "AA",
        "missed": 12,
    }
    cells[:2] = 250, 3
    assert json.loads(write(kernel.LAGGED, 0, gap[0], "")) == {"T": "slow", "ms": 250, "missed": 3}
