"""UTP messages as bytes: the decoder reads what the encoder writes, for seeded messages of every type."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fabric.records import NULL, pack
from fabric.symbols import SymbolTable
from nodes.exchanges import itch_messages_kernel as mold
from nodes.exchanges import utp_messages_kernel as encoder
from nodes.feeds import moldudp64_kernel, utp
from nodes.feeds.wire import Packets
from nodes.feeds.wire_kernel import BLOCK
from tape_messages import MESSAGES, Chance, Made, as_made, assert_same, packed, sale, side, volume
from tape_support import GROUPS, manifest

PER_PACKET = 4
SESSION = np.frombuffer(b"SESSION001", np.uint8)
TAPE = pack("C")


def head(c: Chance, *, is_long: bool) -> tuple[tuple[Any, ...], tuple[int, int, np.ndarray]]:
    """(venue, processor's time, participant's time, name) for the encoder; (venue, time, name) of the row."""
    venue, sent_ns, time_ns, name = c.venue(), c.time_ns(), c.time_ns(), c.name(is_long=is_long)
    if c.random.random() < 0.1:
        return (venue, sent_ns, 0, name), (venue, sent_ns, name)
    return (venue, sent_ns, time_ns, name), (venue, time_ns, name)


def quote(c: Chance, packet: np.ndarray, at: int, *, is_long: bool, is_combined: bool) -> Made:
    given, row = head(c, is_long=is_long)
    bid, ask = ((c.px(is_long=is_long), c.size(is_long=is_long)) for _ in range(2))
    condition, indicator = ord(c.random.choice("ABFHILNORUXYZ")), c.random.choice("01234")
    put = encoder.put_long_quote if is_long else encoder.put_short_quote
    length = put(packet, at, *given, *bid, *ask, condition, ord(indicator), is_combined)
    if indicator in "23":
        best = [(c.venue(), c.px(is_long=indicator == "3"), c.size(is_long=indicator == "3")) for _ in range(2)]
        append = encoder.put_long_appendage if indicator == "3" else encoder.put_short_appendage
        length = append(packet, at, length, 82, *best[0], *best[1])
    return length, [("quote", *row, *side(*bid), *side(*ask), condition, TAPE)]


def trade(c: Chance, packet: np.ndarray, at: int, *, is_long: bool, is_fraction: bool) -> Made:
    given, row = head(c, is_long=is_long)
    trade_id, conditions, px = c.reference(), c.conditions(), c.px(is_long=is_long)
    wire, shares = volume(c, is_fraction=is_fraction, is_long=is_long or is_fraction)
    put = encoder.put_long_trade if is_long else encoder.put_short_trade
    length = put(packet, at, *given, trade_id, px, wire, is_fraction, conditions)
    return length, sale("trade", row, px, shares, packed(conditions), trade_id, NULL, NULL, TAPE)


def cancel(c: Chance, packet: np.ndarray, at: int, *, is_fraction: bool) -> Made:
    given, row = head(c, is_long=True)
    original, conditions, px = c.reference(), c.conditions(), c.px(is_long=True)
    wire, shares = volume(c, is_fraction=is_fraction)
    length = encoder.put_cancel(packet, at, *given, ord("C"), original, px, wire, is_fraction, conditions)
    return length, sale("trade", row, px, shares, packed(conditions), NULL, pack("x"), original, TAPE)


def correction(c: Chance, packet: np.ndarray, at: int, *, is_fraction: bool) -> Made:
    given, row = head(c, is_long=True)
    original, trade_id, conditions, px = c.reference(), c.reference(), c.conditions(), c.px(is_long=True)
    old_px, (old, _), (wire, shares) = c.px(is_long=True), *(volume(c, is_fraction=is_fraction) for _ in range(2))
    length = encoder.put_correction(
        packet, at, *given, original, old_px, old, c.conditions(), trade_id, px, wire, is_fraction, conditions
    )
    return length, sale("trade", row, px, shares, packed(conditions), trade_id, pack("c"), original, TAPE)


def trading_action(c: Chance, packet: np.ndarray, at: int) -> Made:
    given, row = head(c, is_long=True)
    action, reason = c.random.choice("HQTP"), pack(c.random.choice(["T1", "LUDP", "IPO1", "MWC0", "R4", ""]))
    length = encoder.put_trading_action(packet, at, *given, ord(action), reason)
    return length, [("status", *row, {"trading": pack(action), "reason": reason, "tape": TAPE})]


def market_action(c: Chance, packet: np.ndarray, at: int) -> Made:
    given, row = head(c, is_long=True)
    action, market = c.random.choice("HQT"), c.venue()
    length = encoder.put_market_action(packet, at, *given, ord(action), market)
    return length, [("status", market, *row[1:], {"trading": pack(action), "reason": pack("OPER")})]


def directory(c: Chance, packet: np.ndarray, at: int) -> Made:
    given, row = head(c, is_long=True)
    lot = c.random.choice((1, 10, 40, 100))
    return encoder.put_directory(packet, at, *given, lot), [("status", *row, {"round_lot": lot})]


def short_sale(c: Chance, packet: np.ndarray, at: int) -> Made:
    given, row = head(c, is_long=True)
    action = c.random.choice("012")
    length = encoder.put_short_sale(packet, at, *given, ord(action))
    return length, [("status", *row, {"short_sale": pack(action)})]


def price_bands(c: Chance, packet: np.ndarray, at: int) -> Made:
    given, row = head(c, is_long=True)
    indicator, lower, upper = c.random.choice("ABCDEF"), c.px(is_long=True), c.px(is_long=True)
    length = encoder.put_price_bands(packet, at, *given, ord(indicator), lower, upper)
    told = {"indicator": pack(indicator), "lower_px": lower or NULL, "upper_px": upper or NULL}
    return length, [("status", *row, told)]


def plain(c: Chance, packet: np.ndarray, at: int) -> Made:
    return encoder.put_plain(packet, at, ord("C"), ord(c.random.choice("IJOCZP")), 69, c.time_ns()), []


def breaker(c: Chance, packet: np.ndarray, at: int) -> Made:
    if c.random.random() < 0.5:
        level, time_ns = c.random.choice("123"), c.time_ns()
        told = {"reason": pack(f"MWC{level}"), "venue_state": pack("live"), "trading": NULL, "tape": NULL}
        length = encoder.put_breaker_status(packet, at, 69, time_ns, ord(level))
        return length, [("status", 69, time_ns, np.zeros(16, np.uint8), told)]
    return encoder.put_breaker_levels(packet, at, 69, c.time_ns(), *(c.px(is_long=True) for _ in range(3))), []


def of(make: Callable[..., Made], **forms: bool) -> Callable[[Chance, np.ndarray, int], Made]:
    return lambda c, packet, at: make(c, packet, at, **forms)


MAKERS = {
    "QE": of(quote, is_long=False, is_combined=False),
    "QF": of(quote, is_long=True, is_combined=False),
    "QC": of(quote, is_long=False, is_combined=True),
    "QD": of(quote, is_long=True, is_combined=True),
    "TA": of(trade, is_long=False, is_fraction=False),
    "TM": of(trade, is_long=False, is_fraction=True),
    "TW": of(trade, is_long=True, is_fraction=False),
    "TN": of(trade, is_long=True, is_fraction=True),
    "TZ": of(cancel, is_fraction=False),
    "TO": of(cancel, is_fraction=True),
    "TY": of(correction, is_fraction=False),
    "TP": of(correction, is_fraction=True),
    "AH": trading_action,
    "AK": market_action,
    "AB": directory,
    "AV": short_sale,
    "AP": price_bands,
    "C": plain,
    "A": breaker,
}


def agree(kind: str, seed: int, count: int) -> int:
    """Encode, frame and decode ``count`` messages; compare each row; return how many rows there were."""
    chance, compared = Chance(seed), 0
    symbols = SymbolTable(16)
    wire = utp.Utp(symbols)
    at_once = 250
    packets = np.zeros((at_once, 1_024), np.uint8)
    blocks, counters = np.zeros(at_once, BLOCK), np.zeros(moldudp64_kernel.N_COUNTERS, np.int64)
    zeros = np.zeros(at_once, np.int64)
    done = 0
    while done < count:
        lengths, wanted = np.zeros(at_once, np.int64), []
        for i in range(at_once):
            at = mold.put_header(packets[i], SESSION, done, PER_PACKET)
            for _ in range(PER_PACKET):
                length, rows = MAKERS[kind](chance, packets[i], at)
                assert length == 2 + int.from_bytes(packets[i, at : at + 2].tobytes(), "big"), f"seed {seed}"
                at += length
                wanted += rows
            lengths[i] = at
            done += PER_PACKET
        batch = Packets(packets.reshape(-1), np.arange(at_once) * 1_024, lengths, zeros, zeros)
        _, made = moldudp64_kernel.frame(*batch, GROUPS, 0, blocks, counters)
        assert made == at_once
        parts = [rows.copy() for rows in wire.decode(batch.buffer, blocks)]
        found = as_made(symbols, np.concatenate(parts)) if parts else []
        assert len(found) == len(wanted), f"seed {seed}"
        for got, expected in zip(found, wanted, strict=True):
            assert_same(got, expected, f"seed {seed}")
        compared += len(found)
    counts = wire.counters()
    assert (counts["messages"], counts["malformed_message"], counts["unknown"]) == (done, 0, 0)
    assert counters.tolist() == [done // PER_PACKET, 0, 0, 0, 0, 0]
    return compared


@pytest.mark.timeout(0 if MESSAGES > 10_000 else 120)
@pytest.mark.parametrize("kind", MAKERS)
def test_encoder_and_decoder_agree_on_seeded_messages(kind: str) -> None:
    compared = agree(kind, seed=random.randrange(1 << 32), count=MESSAGES)
    assert compared > MESSAGES // 2 or kind in ("C", "A")


def test_recorded_quotes_come_out_of_the_encoder(shared_data: Any) -> None:
    """Byte by byte, but for the participant's token, FINRA's time and the price band letters."""
    packet = np.zeros(256, np.uint8)
    recorded = {file: payload for file, _, (payload,) in manifest(shared_data / "omi_packets", "Nasdaq/Uqdf")}
    for file, payload in recorded.items():
        at = mold.put_header(packet, np.frombuffer(payload[:10], np.uint8), int.from_bytes(payload[10:18], "big"), 1)
        sent_ns, time_ns = (int.from_bytes(payload[i : i + 8], "big") for i in (27, 35))
        blank: list[tuple[int, int]] = [(43, 51)]
        if "Short" in file:
            name = np.frombuffer(b"AKAM".ljust(16, b"\0"), np.uint8)
            prices = (51_230 * 10**6, 1, 51_240 * 10**6, 1)
            size = encoder.put_short_quote(packet, at, ord("K"), sent_ns, time_ns, name, *prices, 82, ord("0"), False)
            blank.append((69, 70))
        elif "Long" in file:
            name = np.frombuffer(b"AMZN".ljust(16, b"\0"), np.uint8)
            prices = (767_250 * 10**6, 3, 767_310 * 10**6, 2)
            size = encoder.put_long_quote(packet, at, ord("K"), sent_ns, time_ns, name, *prices, 82, ord("3"), False)
            best = ord("K"), 767_250 * 10**6, 3, ord("Z"), 767_260 * 10**6, 1
            size = encoder.put_long_appendage(packet, at, size, 82, *best)
            blank.append((99, 101))
        else:
            name = np.frombuffer(b"ANDA".ljust(16, b"\0"), np.uint8)
            bands = ord("C"), 8_870 * 10**6, 10_840 * 10**6
            size = encoder.put_price_bands(packet, at, ord("E"), sent_ns, time_ns, name, *bands)
            blank += [(35, 43), (63, 71)]
        ours, theirs = bytearray(packet[: at + size].tobytes()), bytearray(payload)
        for raw in (ours, theirs):
            for first, last in blank:
                raw[first:last] = bytes(last - first)
        assert ours.hex(" ") == theirs.hex(" "), file
    assert len(recorded) == 3
