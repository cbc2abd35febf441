"""CTA messages as bytes: the decoder reads what the encoder writes, for seeded messages of every type."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fabric.records import NULL, pack
from fabric.symbols import SymbolTable
from nodes.exchanges import cta_messages_kernel as encoder
from nodes.feeds import cta, cta_block_kernel
from nodes.feeds.wire import Packets
from nodes.feeds.wire_kernel import BLOCK
from tape_messages import MESSAGES, Chance, Made, as_made, assert_same, packed, sale, side, volume
from tape_support import GROUPS, manifest

PER_BLOCK = 4
DAY_NS = 1_775_540_000 * 10**9


def tape_of(primary: int) -> int:
    return pack("A" if primary == ord("N") else "B")


def long_quote(c: Chance, packet: np.ndarray, at: int, number: int) -> Made:
    venue, time_ns, name, primary = c.venue(), c.time_ns(), c.name(is_long=True), c.venue()
    bid, ask = ((c.px(is_long=True), c.size(is_long=True)) for _ in range(2))
    condition = ord(c.random.choice("ABCEFHLNORUW4"))
    status, outside = c.random.choice("   M1T"), c.random.choice("  AB")
    indicator = c.random.choice("AGOU ")
    length = encoder.put_long_quote(
        packet,
        at,
        number,
        venue,
        time_ns,
        name,
        condition,
        ord(status),
        *bid,
        *ask,
        32,
        primary,
        ord(outside),
        ord(indicator),
    )
    if indicator == "U":
        for _ in range(2):
            px, size = c.px(is_long=True), c.size(is_long=True)
            length = encoder.put_long_appendage(packet, at, length, c.venue(), 82, px, size)
    text = {"A": "e", "B": "f"}.get(outside, "") + ("N" if status in "MT" else "") + chr(condition)
    row = ("quote", venue, time_ns, name, *side(*bid), *side(*ask), pack(text), tape_of(primary))
    return length, [row]


def short_quote(c: Chance, packet: np.ndarray, at: int, number: int) -> Made:
    venue, time_ns, name, primary = c.venue(), c.time_ns(), c.name(is_long=False), c.venue()
    bid, ask = ((c.px(is_long=False), c.size(is_long=False)) for _ in range(2))
    indicator = c.random.choice("AGOT ")
    length = encoder.put_short_quote(packet, at, number, venue, time_ns, name, *bid, *ask, primary, ord(indicator))
    if indicator == "T":
        for _ in range(2):
            px, size = c.px(is_long=False), c.size(is_long=False)
            length = encoder.put_short_appendage(packet, at, length, c.venue(), px, size)
    row = ("quote", venue, time_ns, name, *side(*bid), *side(*ask), pack("R"), tape_of(primary))
    return length, [row]


def trade(c: Chance, packet: np.ndarray, at: int, number: int, *, is_fraction: bool) -> Made:
    head = c.venue(), c.time_ns(), c.name(is_long=True)
    reference, conditions, px, primary = c.reference(), c.conditions(), c.px(is_long=True), c.venue()
    wire, shares = volume(c, is_fraction=is_fraction)
    length = encoder.put_trade(
        packet, at, number, head[0], head[1], reference, head[2], conditions, px, wire, is_fraction, 32, primary
    )
    return length, sale("trade", head, px, shares, packed(conditions), reference, NULL, NULL, tape_of(primary))


def short_trade(c: Chance, packet: np.ndarray, at: int, number: int, *, is_fraction: bool) -> Made:
    head = c.venue(), c.time_ns(), c.name(is_long=False)
    reference, condition, px, primary = c.reference(), c.random.choice(" IT4"), c.px(is_long=False), c.venue()
    wire, shares = volume(c, is_fraction=is_fraction, is_long=False)
    length = encoder.put_short_trade(
        packet, at, number, head[0], head[1], reference, head[2], ord(condition), 52, px, wire, is_fraction, primary
    )
    text = pack(condition.strip() or "@")
    return length, sale("trade", head, px, shares, text, reference, NULL, NULL, tape_of(primary))


def cancel(c: Chance, packet: np.ndarray, at: int, number: int, *, is_fraction: bool) -> Made:
    head = c.venue(), c.time_ns(), c.name(is_long=True)
    original, conditions, px, primary = c.reference(), c.conditions(), c.px(is_long=True), c.venue()
    wire, shares = volume(c, is_fraction=is_fraction)
    length = encoder.put_cancel(
        packet, at, number, head[0], head[1], 5, head[2], conditions, px, wire, is_fraction, original, 49, primary
    )
    return length, sale("trade", head, px, shares, packed(conditions), NULL, pack("x"), original, tape_of(primary))


def correction(c: Chance, packet: np.ndarray, at: int, number: int, *, is_fraction: bool) -> Made:
    head = c.venue(), c.time_ns(), c.name(is_long=True)
    reference, original, primary = c.reference(), c.reference(), c.venue()
    conditions, px, old_conditions, old_px = c.conditions(), c.px(is_long=True), c.conditions(), c.px(is_long=True)
    wire, shares = volume(c, is_fraction=is_fraction)
    old, _ = volume(c, is_fraction=is_fraction)
    length = encoder.put_correction(
        packet, at, number, head[0], head[1], reference, head[2], conditions, px, wire, is_fraction, original,
        old_conditions, old_px, old, primary,
    )  # fmt: skip
    return length, sale("trade", head, px, shares, packed(conditions), reference, pack("c"), original, tape_of(primary))


def trading_status(c: Chance, packet: np.ndarray, at: int, number: int) -> Made:
    head = c.venue(), c.time_ns(), c.name(is_long=True)
    status, reason = c.random.choice("23F"), c.random.choice("DIMPXY123")
    upper, lower = c.px(is_long=True), c.px(is_long=True)
    short_sale, primary, indicator = c.random.choice(" ACDE"), c.venue(), c.random.choice("ABCDEFGHIJ")
    letters = ord(status), ord(reason)
    length = encoder.put_trading_status(
        packet, at, number, *head, *letters, upper, lower, ord(short_sale), primary, ord(indicator)
    )
    told = {"short_sale": pack(short_sale.replace(" ", "0")), "tape": tape_of(primary)}
    if status == "F":
        told |= {"upper_px": upper or NULL, "lower_px": lower or NULL, "indicator": pack(indicator)}
    else:
        told |= {"trading": pack("H" if status == "2" else "T"), "reason": pack(reason) if status == "2" else 0}
    return length, [("status", *head, told)]


def symbol_reference(c: Chance, packet: np.ndarray, at: int, number: int) -> Made:
    head = c.venue(), c.time_ns(), c.name(is_long=True)
    primary, lot, short_sale, reason = (
        c.venue(),
        c.random.choice((1, 10, 40, 100)),
        *c.random.choice((" P", "A ", "C ")),
    )
    length = encoder.put_symbol_reference(
        packet, at, number, *head, primary, c.px(is_long=True), lot, ord(short_sale), ord(reason)
    )
    told = {"round_lot": lot, "short_sale": pack(short_sale.replace(" ", "0")), "tape": tape_of(primary)}
    if reason == "P":
        told |= {"trading": pack("H"), "reason": pack("P")}
    return length, [("status", *head, told)]


def plain(c: Chance, packet: np.ndarray, at: int, number: int) -> Made:
    category, kind = c.random.choice(["CA", "CC", "CO", "CZ", "CL", "AA", "AB", "AC", "AD"])
    return encoder.put_plain(packet, at, ord(category), ord(kind), number, 83, c.time_ns()), []


def breaker(c: Chance, packet: np.ndarray, at: int, number: int) -> Made:
    if c.random.random() < 0.5:
        level, time_ns = c.random.choice("123"), c.time_ns()
        told = {"reason": pack(f"MWC{level}"), "venue_state": pack("live"), "trading": NULL, "tape": NULL}
        length = encoder.put_breaker_status(packet, at, number, 83, time_ns, ord(level))
        return length, [("status", 83, time_ns, np.zeros(16, np.uint8), told)]
    return encoder.put_breaker_levels(packet, at, number, 83, c.time_ns(), *(c.px(is_long=True) for _ in range(3))), []


def fractional(make: Callable[..., Made], *, is_fraction: bool) -> Callable[[Chance, np.ndarray, int, int], Made]:
    return lambda c, packet, at, number: make(c, packet, at, number, is_fraction=is_fraction)


MAKERS = {
    "QL": long_quote,
    "QQ": short_quote,
    "TL": fractional(trade, is_fraction=False),
    "TR": fractional(trade, is_fraction=True),
    "TT": fractional(short_trade, is_fraction=False),
    "TH": fractional(short_trade, is_fraction=True),
    "TX": fractional(cancel, is_fraction=False),
    "TE": fractional(cancel, is_fraction=True),
    "TC": fractional(correction, is_fraction=False),
    "TO": fractional(correction, is_fraction=True),
    "TS": trading_status,
    "AS": symbol_reference,
    "": plain,
    "M": breaker,
}


def agree(kind: str, seed: int, count: int) -> int:
    """Encode, frame and decode ``count`` messages; compare each row; return how many rows there were."""
    chance, compared = Chance(seed), 0
    symbols = SymbolTable(16)
    wire = cta.Cta(symbols)
    blocks_at_once = 500
    packets = np.zeros((blocks_at_once, 1_024), np.uint8)
    blocks, counters = np.zeros(blocks_at_once, BLOCK), np.zeros(cta_block_kernel.N_COUNTERS, np.int64)
    zeros = np.zeros(blocks_at_once, np.int64)
    done = 0
    while done < count:
        lengths, wanted = np.zeros(blocks_at_once, np.int64), []
        for i in range(blocks_at_once):
            at = 20
            for number in range(PER_BLOCK):
                length, rows = MAKERS[kind](chance, packets[i], at, number + 1)
                assert length == int.from_bytes(packets[i, at : at + 2].tobytes(), "big"), f"seed {seed}"
                at += length
                wanted += rows
            lengths[i] = encoder.put_header(packets[i], at, ord("Q"), False, done, PER_BLOCK, DAY_NS)
            done += PER_BLOCK
        batch = Packets(packets.reshape(-1), np.arange(blocks_at_once) * 1_024, lengths, zeros, zeros)
        _, made = cta_block_kernel.frame(*batch, GROUPS, 0, blocks, counters)
        assert made == blocks_at_once
        parts = [rows.copy() for rows in wire.decode(batch.buffer, blocks)]
        found = as_made(symbols, np.concatenate(parts)) if parts else []
        if kind in ("QL", "QQ"):
            found = [row for row in found if row[0] == "quote"]
        assert len(found) == len(wanted), f"seed {seed}"
        for got, expected in zip(found, wanted, strict=True):
            assert_same(got, expected, f"seed {seed}")
        compared += len(found)
    counts = wire.counters()
    assert (counts["messages"], counts["malformed_message"], counts["unknown"]) == (done, 0, 0)
    assert counters.tolist() == [done // PER_BLOCK, 0, 0, 0, 0, 0, 0, 0]
    return compared


@pytest.mark.timeout(0 if MESSAGES > 10_000 else 120)
@pytest.mark.parametrize("kind", MAKERS)
def test_encoder_and_decoder_agree_on_seeded_messages(kind: str) -> None:
    compared = agree(kind, seed=random.randrange(1 << 32), count=MESSAGES)
    assert compared > MESSAGES // 2 or kind in ("", "M")


def test_recorded_bytes_come_out_of_the_encoder(shared_data: Any) -> None:
    """The quote with both appendages; what the encoder leaves blank is blanked in both."""
    packet = np.zeros(256, np.uint8)
    ((_, _, (quote,)),) = manifest(shared_data / "omi_packets", "Siac/Cqs.Cta.v1.91")
    stor = np.frombuffer(b"STOR".ljust(16, b"\0"), np.uint8)
    size = encoder.put_long_quote(
        packet,
        20,
        1,
        ord("K"),
        1_540_480_512_526_286_000,
        stor,
        82,
        32,
        29_450 * 10**6,
        1,
        29_470 * 10**6,
        1,
        32,
        78,
        32,
        85,
    )
    size = encoder.put_long_appendage(packet, 20, size, ord("Z"), 82, 29_460 * 10**6, 3)
    size = encoder.put_long_appendage(packet, 20, size, ord("Z"), 82, 29_470 * 10**6, 2)
    sent_ns = int.from_bytes(quote[10:14], "big") * 10**9 + int.from_bytes(quote[14:18], "big")
    size = encoder.put_header(packet, 20 + size, ord("Q"), False, 19_878_165, 1, sent_ns)
    ours, theirs = bytearray(packet[:size].tobytes()), bytearray(quote)
    for raw in (ours, theirs):  # version, checksum, transaction and reference, FINRA's time, price bands, market maker
        for first, last in ((0, 1), (18, 20), (34, 46), (92, 100), (105, 106)):
            raw[first:last] = bytes(last - first)
    assert ours.hex(" ") == theirs.hex(" ")


def test_recorded_trades_come_out_of_the_encoder(shared_data: Any) -> None:
    packet = np.zeros(256, np.uint8)
    ((_, _, (trade_packet,)),) = manifest(shared_data / "omi_packets", "Siac/Cts.Cta.v2.9/LongTrade")
    gme = np.frombuffer(b"GME".ljust(16, b"\0"), np.uint8)
    conditions, price, reference = pack("    "), 27_100 * 10**6, 0x303032314954
    size = encoder.put_trade(
        packet, 20, 1, ord("N"), 1_738_009_844_232_063_203, reference, gme, conditions, price, 100, False, 32, 78
    )
    sent_ns = int.from_bytes(trade_packet[10:14], "big") * 10**9 + int.from_bytes(trade_packet[14:18], "big")
    size = encoder.put_header(packet, 20 + size, ord("T"), False, 2_764_864, 1, sent_ns)
    ours, theirs = bytearray(packet[:size].tobytes()), bytearray(trade_packet)
    for raw in (ours, theirs):  # checksum, transaction, high/low/last indicators
        for first, last in ((18, 20), (34, 38), (90, 92)):
            raw[first:last] = bytes(last - first)
    assert ours.hex(" ") == theirs.hex(" ")
