"""ITCH messages as bytes: field by field as the tables have them, and what the decoder makes of them."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

import itch_tables
import naive_itch
from fabric.records import EVENT, KIND_QUOTE, KIND_TRADE, QUOTE, TRADE, pack
from fabric.symbols import SymbolTable
from itch_tables import PRICE, TEXT
from nodes.exchanges import itch_messages_kernel as kernel
from nodes.feeds import itch, moldudp64_kernel
from nodes.feeds.wire import from_payloads
from nodes.feeds.wire_kernel import BLOCK
from support import random_count

MESSAGES = random_count(2_000)
T0 = 1_692_711_000_000_000_000  # 2023-08-22 09:30:00 in New York
PUT: dict[str, Any] = {
    "S": kernel.put_system_event,
    "R": kernel.put_stock_directory,
    "H": kernel.put_trading_action,
    "h": kernel.put_operational_halt,
    "Y": kernel.put_reg_sho,
    "L": kernel.put_participant_position,
    "V": kernel.put_breaker_levels,
    "W": kernel.put_breaker_status,
    "K": kernel.put_ipo_quotation,
    "J": kernel.put_auction_collar,
    "A": kernel.put_add,
    "F": kernel.put_add_attributed,
    "E": kernel.put_executed,
    "C": kernel.put_executed_with_price,
    "X": kernel.put_cancel,
    "D": kernel.put_delete,
    "U": kernel.put_replace,
    "P": kernel.put_trade,
    "Q": kernel.put_cross_trade,
    "B": kernel.put_broken_trade,
    "I": kernel.put_imbalance,
    "N": kernel.put_retail_interest,
    "O": kernel.put_direct_listing,
}


def put(
    packet: Any, at: int, kind: str, locate: int, tracking: int, time_ns: int, values: list[itch_tables.Value]
) -> int:
    """Write a message with the kernel of its type; values as `itch_tables` has them."""
    arguments = []
    for (_, _, _, what), value in zip(itch_tables.FIELDS[kind], values, strict=True):
        if isinstance(value, str):
            arguments.append(pack(value) if what == TEXT else ord(value))
        else:
            arguments.append(np.uint64(value).astype(np.int64) if what != PRICE else value * kernel.WIRE_PRICE)
    return int(PUT[kind](packet, at, locate, tracking, time_ns, *arguments))


def test_every_type_has_its_function() -> None:
    assert set(PUT) == set(itch_tables.LENGTHS)


@pytest.mark.parametrize("kind", PUT)
def test_the_bytes_are_those_of_the_table(kind: str) -> None:
    chance = random.Random(ord(kind))
    for found in itch_tables.random_messages(chance, 20, kind):
        packet = np.full(80, 0xEE, np.uint8)
        _, locate, tracking, time_ns, values = found
        size = put(packet, 5, *found)
        expected = itch_tables.assemble(kind, locate, time_ns, *values, tracking=tracking)
        assert packet[5 : 5 + size].tobytes() == len(expected).to_bytes(2, "big") + expected
        assert size == 2 + itch_tables.LENGTHS[kind] <= kernel.MESSAGE_BYTES_MAX
        assert (packet[:5] == 0xEE).all()
        assert (packet[5 + size :] == 0xEE).all()


def test_the_header_is_that_of_the_table() -> None:
    packet, session = np.zeros(24, np.uint8), np.frombuffer(b"20261122AB", np.uint8)
    assert kernel.put_header(packet, session, 258, kernel.END_OF_SESSION) == 20
    assert packet.tobytes() == b"20261122AB" + bytes.fromhex("0000000000000102 ffff") + bytes(4)


@pytest.mark.timeout(0)
def test_encoder_and_decoder_agree_on_seeded_messages_of_every_type() -> None:
    """Random messages of every type in packets of every fill: as many, of the same types, with the twin's rows."""
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    symbols = SymbolTable(16)
    wire, twin = itch.Itch(symbols, orders_max=4_096, levels_max=4_096), naive_itch.NaiveItch()
    session, counters = np.frombuffer(b"20261122AB", np.uint8), np.zeros(moldudp64_kernel.N_COUNTERS, np.int64)
    sent: Counter[str] = Counter()
    number = 1
    while number <= MESSAGES:
        payloads, wanted = [], []
        for _ in range(64):
            packet = np.zeros(1_500, np.uint8)
            chosen = list(itch_tables.random_messages(chance, chance.randrange(1, 28)))
            end = kernel.put_header(packet, session, number, len(chosen))
            for message in chosen:
                end += put(packet, end, *message)
                kind, locate, tracking, time_ns, values = message
                body = itch_tables.assemble(kind, locate, time_ns, *values, tracking=tracking)
                wanted += twin.apply(body, number)
                sent[itch.TYPE_NAMES[kind]] += 1
                number += 1
            payloads.append(packet[:end].tobytes())
        packets, blocks = from_payloads(payloads, recv_ns=T0), np.zeros(64, BLOCK)
        moldudp64_kernel.frame(*packets, np.zeros(1, np.int64), 0, blocks, counters)
        rows = [part.copy() for part in wire.decode(packets.buffer, blocks)]
        assert summary(np.concatenate(rows)) == [brief(row) for row in wanted], f"seed {seed}, before {number}"
    assert wire.messages_by_type() == dict(sent)
    assert set(sent) == set(itch.TYPE_NAMES.values())
    assert counters[moldudp64_kernel.PACKETS] > 0
    assert counters[moldudp64_kernel.SHORT :].sum() == wire.counters()["malformed"] == wire.counters()["unknown"] == 0


def summary(rows: Any) -> list[tuple[Any, ...]]:
    """Number of each row, and a quote's sides or a trade's price and size, in the wire's units."""
    found: list[tuple[Any, ...]] = []
    for row in rows.view(EVENT):
        if row["kind"] == KIND_QUOTE:
            quote = row.view(QUOTE)
            prices = (quote["bid_px"], quote["bid_size"], quote["ask_px"], quote["ask_size"])
        elif row["kind"] == KIND_TRADE:
            trade = row.view(TRADE)
            prices = (trade["price"], trade["size"])
        else:
            prices = ()
        units = [None if p < 0 else int(p) // (1 if i % 2 else kernel.WIRE_PRICE) for i, p in enumerate(prices)]
        found.append((int(row["exchange_seq"]), *units))
    return found


def brief(row: naive_itch.Row) -> tuple[Any, ...]:
    """A row of the twin in the same form."""
    if row[0] == "quote":
        return (row[1], *(row[4] or (None, None)), *(row[5] or (None, None)))
    return (row[1], *row[4:6]) if row[0] == "trade" else (row[1],)
