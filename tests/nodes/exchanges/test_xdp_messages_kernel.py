"""NYSE's messages as bytes: golden bytes from the specification's tables, and the decoder reads what was written."""

import random

import numpy as np
import pytest

from fabric.compiled import kernel
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
    columns,
    empty,
    pack,
)
from fabric.symbols import SymbolTable
from golden import golden
from nodes.exchanges import xdp_messages_kernel as wire
from nodes.feeds import pillar_kernel, xdp
from nodes.feeds.wire_kernel import BLOCK
from support import random_count

BYTES = golden("nyse/pillar.hex")
T = 1_692_711_000_000_714_240
INDEX = 16_192
ORDER = 0x000101000000A6E9
PX, PX_LOW = 40_270_000_000, 40_260_100_000
BUY, LISTED, CORE, REGULAR = (ord(letter) for letter in "BNOR")

CALLS = {
    "reset": (wire.put_reset, (T, 3, 1)),
    "time_reference": (wire.put_time_reference, (54, T)),
    "mapping": (wire.put_mapping, (INDEX, pack("BRK.B"), 1, 54, LISTED, 100, PX)),
    "clear": (wire.put_clear, (T, INDEX, 1)),
    "status_halted": (wire.put_status, (T, INDEX, 7, ord("4"), ord("M"), 0, 0, 0, CORE)),
    "status_indication": (wire.put_status, (T, INDEX, 8, ord("G"), 0, PX_LOW, PX, ord("E"), ord("P"))),
    "refresh_header": (wire.put_refresh_header, (1, 2, 512_086, 5)),
    "unavailable": (wire.put_unavailable, (1_000, 1_999, 3, 1)),
    "quote": (wire.put_quote, (T, INDEX, 4, PX_LOW, 100, PX, 300, REGULAR)),
    "add": (wire.put_add, (T, INDEX, 4, ORDER, PX, 1_200, BUY, pack("FIRM"))),
    "modify": (wire.put_modify, (T, INDEX, 5, ORDER, PX_LOW, 100, 1, BUY)),
    "delete": (wire.put_delete, (T, INDEX, 6, ORDER)),
    "execution": (wire.put_execution, (T, INDEX, 7, ORDER, 68_747, PX, 100, 1, pack("@F I"))),
    "replace": (wire.put_replace, (T, INDEX, 8, ORDER, ORDER + 1, PX_LOW, 200, BUY)),
    "imbalance": (wire.put_imbalance, (T, INDEX, 9, PX, 900, 1_100, ord("C"), BUY)),
    "add_refresh": (wire.put_add_refresh, (T, INDEX, 4, ORDER, PX, 1_200, BUY, pack("FIRM"))),
    "non_displayed": (wire.put_non_displayed, (T, INDEX, 10, 91_449, PX, 100, 1, pack("@"))),
    "cross": (wire.put_cross, (T, INDEX, 11, 184_796, PX, 1_000, ord("6"))),
    "break": (wire.put_break, (T, INDEX, 12, 91_449)),
    "cross_correction": (wire.put_cross_correction, (T, INDEX, 13, 184_796, 900)),
    "retail": (wire.put_retail, (T, INDEX, 14, ord("C"))),
    "trade": (wire.put_trade, (T, INDEX, 15, 42, PX, 10, pack("@  I"))),
    "trade_cancel": (wire.put_trade_cancel, (T, INDEX, 16, 42)),
    "trade_correction": (wire.put_trade_correction, (T, INDEX, 17, 42, 43, PX_LOW, 11, pack("@  I"))),
    "summary": (wire.put_summary, (T, INDEX, PX, PX_LOW, PX, PX_LOW, 900)),
}


def written(put, *values: int, compiled: bool = False) -> bytes:
    """What ``put`` writes over other bytes."""
    packet = np.full(100, 0xEE, np.uint8)
    length = (put if compiled else put.py_func)(packet, 10, *values)
    assert (packet[:10] == 0xEE).all()
    assert (packet[10 + length :] == 0xEE).all()
    return packet[10 : 10 + length].tobytes()


@pytest.mark.parametrize("name", CALLS)
def test_each_message_is_the_specification_s(name: str) -> None:
    put, values = CALLS[name]
    assert written(put, *values).hex(" ") == BYTES[name].hex(" ")


def test_every_golden_message_can_be_written() -> None:
    assert set(CALLS) == set(BYTES) - {"heartbeat", "packet"}


def test_a_heartbeat_and_the_header_of_a_packet() -> None:
    packet = np.full(16, 0xEE, np.uint8)
    assert wire.put_header.py_func(packet, 16, 1, 0, 490_558, T) == 16
    assert packet.tobytes().hex(" ") == BYTES["heartbeat"].hex(" ")
    wire.put_header.py_func(packet, 66, 11, 2, 490_558, T - 714_240 + 748_288)
    assert packet.tobytes().hex(" ") == BYTES["packet"].hex(" ")


@pytest.mark.parametrize(
    ("name", "sent"), [("ACP", "ACP"), ("BRK.B", "BRK B"), ("AHL-C", "AHL PRC"), ("ABCDEFGH", "ABCDEFGH")]
)
def test_names_are_nyse_s(name: str, sent: str) -> None:
    data = written(wire.put_mapping, 1, pack(name), 1, 1, LISTED, 100, 0)
    assert data[8:20] == sent.encode().ljust(12, b"\0")


# The messages of one round of a symbol, in their order: with the clear at its end nothing is left of it.
REFERENCE, MAPPING, ADD_BID, ADD_ASK, MODIFY, PRINTED, UNPRINTED, REPLACE, DELETE, TRADE_, CANCEL = range(11)
CORRECTION, HIDDEN, CROSS, CROSS_CORRECTION, BREAK, HALT, INDICATION, OPEN, IMBALANCE, RETAIL = range(11, 21)
SUMMARY, UNAVAILABLE, STRAY_REFRESH, QUOTED, CLEAR = range(21, 26)
ROUND = 26
PER_PACKET = 13
LOTS = (100, 10)
TEXTS = [pack(text) for text in ("@", "@F", "@F I", "@ T", "@  I", "@4", "C")]
(
    TIME,
    SYMBOL,
    OWN,
    FIRST_ID,
    SECOND_ID,
    THIRD_ID,
    FIRST_PX,
    SECOND_PX,
    THIRD_PX,
    FIRST_SIZE,
    SECOND_SIZE,
    TEXT,
    LOT,
) = range(13)


@kernel
def write(fields, names, buffer, offsets, lengths):
    """Write the rounds of ``fields``, two packets each; return the bytes written."""
    at = 0
    sequence = 1
    packets = 0
    for i in range(len(fields)):
        f = fields[i]
        t, index, own = f[TIME], f[SYMBOL], f[OWN]
        order, other, third = f[FIRST_ID], f[SECOND_ID], f[THIRD_ID]
        px, px2, px3 = f[FIRST_PX], f[SECOND_PX], f[THIRD_PX]
        size, size2 = f[FIRST_SIZE], f[SECOND_SIZE]
        text = f[TEXT]
        trade, trade2 = order & 0xFFFFFFFF, other & 0xFFFFFFFF
        for half in range(2):
            start = at
            at += 16
            for step in range(half * PER_PACKET, (half + 1) * PER_PACKET):
                me = own + step
                if step == REFERENCE:
                    at += wire.put_time_reference(buffer, at, 5, t)
                elif step == MAPPING:
                    at += wire.put_mapping(buffer, at, index, names[index], 1, 5, 78, f[LOT], px)
                elif step == ADD_BID:
                    at += wire.put_add(buffer, at, t, index, me, order, px, size, 66, 0)
                elif step == ADD_ASK:
                    at += wire.put_add(buffer, at, t, index, me, other, px2, size2, 83, 0)
                elif step == MODIFY:
                    at += wire.put_modify(buffer, at, t, index, me, order, px3, size2, 1, 66)
                elif step == PRINTED:
                    at += wire.put_execution(buffer, at, t, index, me, other, trade, px3, size2 - 2, 1, text)
                elif step == UNPRINTED:
                    at += wire.put_execution(buffer, at, t, index, me, other, trade, px3, 1, 0, text)
                elif step == REPLACE:
                    at += wire.put_replace(buffer, at, t, index, me, order, third, px2, size, 66)
                elif step == DELETE:
                    at += wire.put_delete(buffer, at, t, index, me, other)
                elif step == TRADE_:
                    at += wire.put_trade(buffer, at, t, index, me, trade, px, size, text)
                elif step == CANCEL:
                    at += wire.put_trade_cancel(buffer, at, t, index, me, trade)
                elif step == CORRECTION:
                    at += wire.put_trade_correction(buffer, at, t, index, me, trade, trade2, px2, size2, text)
                elif step == HIDDEN:
                    at += wire.put_non_displayed(buffer, at, t, index, me, trade2, px3, size, 1, text)
                elif step == CROSS:
                    at += wire.put_cross(buffer, at, t, index, me, trade, px, size2, 79)
                elif step == CROSS_CORRECTION:
                    at += wire.put_cross_correction(buffer, at, t, index, me, trade, size)
                elif step == BREAK:
                    at += wire.put_break(buffer, at, t, index, me, trade2)
                elif step == HALT:
                    at += wire.put_status(buffer, at, t, index, me, 52, 68, 0, 0, 69, 79)
                elif step == INDICATION:
                    at += wire.put_status(buffer, at, t, index, me, 73, 68, px, px2, 69, 79)
                elif step == OPEN:
                    at += wire.put_status(buffer, at, t, index, me, 53, 0, 0, 0, 0, 79)
                elif step == IMBALANCE:
                    at += wire.put_imbalance(buffer, at, t, index, me, px, size, size2, 67, 66)
                elif step == RETAIL:
                    at += wire.put_retail(buffer, at, t, index, me, 65)
                elif step == SUMMARY:
                    at += wire.put_summary(buffer, at, t, index, px, px2, px3, px, size)
                elif step == UNAVAILABLE:
                    at += wire.put_unavailable(buffer, at, size, size2, 3, 1)
                elif step == STRAY_REFRESH:
                    at += wire.put_refresh_header(buffer, at, 1, 1, size, size2)
                elif step == QUOTED:
                    at += wire.put_quote(buffer, at, t, index, me, px3, size, px, size2, 82)
                else:
                    at += wire.put_clear(buffer, at, t, index, 1)
            header = buffer[start:at]
            wire.put_header(header, at - start, 11, PER_PACKET, sequence, t)
            offsets[packets] = start
            lengths[packets] = at - start
            packets += 1
            sequence += PER_PACKET
    return at


def expected_rows(fields: np.ndarray, symbol_ids: np.ndarray) -> np.ndarray:
    """The rows of these rounds, from the fields alone."""
    f = fields.T
    trade, trade2 = f[FIRST_ID] & 0xFFFFFFFF, f[SECOND_ID] & 0xFFFFFFFF
    px, px2, px3, size, size2 = f[FIRST_PX], f[SECOND_PX], f[THIRD_PX], f[FIRST_SIZE], f[SECOND_SIZE]
    made: list[np.ndarray] = []

    def row(step: int, kind: int, dtype: np.dtype, **values: object) -> None:
        rows = empty(len(fields), dtype, kind)
        rows["symbol"], rows["venue"], rows["tape"] = symbol_ids[f[SYMBOL]], LISTED, pack("A")
        rows["exchange_seq"] = np.arange(len(fields)) * ROUND + step + 1
        rows["event_ns"], rows["recv_ns"] = f[TIME], 1
        for name, value in values.items():
            rows[name] = value
        made.append(columns(rows))

    def quote(step: int, bid: tuple, ask: tuple = (NULL, NULL)) -> None:
        row(
            step,
            KIND_QUOTE,
            QUOTE,
            bid_px=bid[0],
            bid_size=bid[1],
            ask_px=ask[0],
            ask_size=ask[1],
            condition=pack("R"),
        )

    def sale(step: int, price: object, shares: object, text: object, number: object, **values: object) -> None:
        row(step, KIND_TRADE, TRADE, price=price, size=shares, condition=text, trade_id=number, **values)

    def status(step: int, trading: object, reason: object, short_sale: object, **values: object) -> None:
        known = {"trading": trading, "reason": reason, "short_sale": short_sale, "round_lot": f[LOT]}
        row(step, KIND_STATUS, STATUS, **known, **values)

    # The first round of a symbol finds nothing; the others what its last round left.
    rank = np.zeros(len(fields), np.int64)
    for symbol in np.unique(f[SYMBOL]):
        mine = f[SYMBOL] == symbol
        rank[mine] = np.arange(mine.sum())
    later = rank > 0
    known = [np.where(later, pack(text), NULL) for text in ("T", "O", "0")]
    status(MAPPING, *known)
    quote(ADD_BID, (px, size))
    quote(ADD_ASK, (px, size), (px2, size2))
    quote(MODIFY, (px3, size2), (px2, size2))
    sale(PRINTED, px3, size2 - 2, f[TEXT], trade)
    quote(PRINTED, (px3, size2), (px2, 2))
    quote(UNPRINTED, (px3, size2), (px2, 1))
    quote(REPLACE, (px2, size), (px2, 1))
    quote(DELETE, (px2, size))
    sale(TRADE_, px, size, f[TEXT], trade)
    sale(CANCEL, NULL, NULL, NULL, NULL, mark=pack("x"), original_id=trade)
    sale(CORRECTION, px2, size2, f[TEXT], trade2, mark=pack("c"), original_id=trade)
    sale(HIDDEN, px3, size, f[TEXT], trade2)
    sale(CROSS, px, size2, pack("@O"), trade)
    sale(CROSS_CORRECTION, px, size, pack("@"), trade, mark=pack("c"), original_id=trade)
    sale(BREAK, NULL, NULL, NULL, NULL, mark=pack("x"), original_id=trade2)
    status(HALT, pack("H"), pack("D"), pack("1"))
    low, high = np.minimum(px, px2), np.maximum(px, px2)
    status(INDICATION, pack("H"), pack("D"), pack("1"), lower_px=low, upper_px=high, indicator=pack("I"))
    status(OPEN, pack("T"), pack("O"), pack("0"))
    quote(QUOTED, (px3, size), (px, size2))
    quote(CLEAR, (NULL, NULL))
    return np.stack(made, axis=1).reshape(-1, len(EVENT))


@pytest.mark.timeout(0)
def test_encoder_and_decoder_agree_on_seeded_messages_of_every_type() -> None:
    """Every type but resets and refreshes: those have tests of their own in `tests/nodes/feeds/test_xdp.py`."""
    seed = random.randrange(1 << 32)
    rng = np.random.default_rng(seed)
    total = random_count(50_000)
    symbols_count, rounds = 50, total // ROUND + 1
    symbols = SymbolTable(64)
    names = np.array([pack(f"S{i}.A" if i % 3 else f"S{i}-B") for i in range(symbols_count)], np.int64)
    decoder = xdp.Xdp(symbols, orders_max=1_024, levels_max=1_024)

    fields = np.zeros((rounds, 13), np.int64)
    fields[:, TIME] = 1_692_711_000 * 10**9 + np.cumsum(rng.integers(1, 10**7, rounds))
    fields[:, SYMBOL] = rng.integers(0, symbols_count, rounds)
    fields[:, OWN] = rng.integers(1, 1 << 31, rounds)
    fields[:, FIRST_ID : THIRD_ID + 1] = rng.integers(1, 1 << 63, (rounds, 3))
    raw = rng.integers(1, min(1 << 32, PRICE_MAX // wire.WIRE_PRICE), (rounds, 3))
    raw[:, 1] += raw[:, 1] == raw[:, 0]
    fields[:, FIRST_PX : THIRD_PX + 1] = raw * wire.WIRE_PRICE
    fields[:, FIRST_SIZE : SECOND_SIZE + 1] = rng.integers(3, 1 << 32, (rounds, 2))
    fields[:, TEXT] = rng.choice(TEXTS, rounds)
    last: dict[int, int] = {}
    for i, symbol in enumerate(fields[:, SYMBOL].tolist()):
        last[symbol] = 1 - last.get(symbol, 0)
        fields[i, LOT] = LOTS[last[symbol]]

    buffer = np.zeros(rounds * 2 * 700, np.uint8)
    offsets, lengths = np.zeros((2, rounds * 2), np.int64)
    used = write(fields, names, buffer, offsets, lengths)
    zeros, ones = np.zeros(rounds * 2, np.int64), np.ones(rounds * 2, np.int64)
    blocks, counted = np.zeros(rounds * 2, BLOCK), np.zeros(pillar_kernel.N_COUNTERS, np.int64)
    streams = pillar_kernel.new_streams(1)
    taken, made = pillar_kernel.frame(buffer, offsets, lengths, ones, zeros, zeros[:1], 0, blocks, counted, streams)
    assert (taken, made, counted[pillar_kernel.PACKETS]) == (rounds * 2, rounds * 2, rounds * 2)
    assert (blocks["stop"][-1], blocks["first"][-1]) == (used, rounds * ROUND - PER_PACKET + 1)
    rows = np.concatenate([columns(part).copy() for part in decoder.decode(buffer, blocks)])

    counts = decoder.counters()
    assert (counts["messages"], counts["malformed"], counts["unknown"]) == (rounds * ROUND, 0, 0), f"seed {seed}"
    assert (counts["orphans"], counts["orders"], counts["no_price"]) == (0, 0, 0), f"seed {seed}"
    texts = [symbols.name(i) for i in range(len(symbols))]
    sent = [f"S{i}.A" if i % 3 else f"S{i}-B" for i in range(symbols_count)]
    ids = np.array([texts.index(name) if name in texts else 0 for name in sent])
    expected = expected_rows(fields, ids)
    assert rows.shape == expected.shape, f"seed {seed}"
    wrong = np.flatnonzero((rows != expected).any(axis=1))
    assert wrong.size == 0, f"seed {seed}, row {wrong[0]}: {rows[wrong[0]]} is not {expected[wrong[0]]}"
