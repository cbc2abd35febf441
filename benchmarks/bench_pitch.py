"""Multicast PITCH decoded and booked, messages a second on one core, beside a plain copy of the same bytes.

The flow is seeded: orders in many symbols that come near the best of their side and mostly go soon, with executions,
changes and trades among them, in packets of 20 messages. The copy is the limit that memory sets.

Run: python benchmarks/bench_pitch.py [messages] [symbols]
"""

import sys
from typing import Any

import numpy as np
from machine import best_seconds, describe

from fabric.compiled import kernel
from fabric.records import NULL
from fabric.symbols import SymbolTable
from nodes.exchanges import pitch_messages_kernel as put
from nodes.feeds import order_book_kernel, pitch, pitch_kernel, sequenced_unit_kernel
from nodes.feeds.wire import Packets
from nodes.feeds.wire_kernel import BLOCK

MESSAGES, SYMBOLS, ROUNDS, PER_PACKET, PIECES = 1_000_000, 2_000, 7, 20, 200
OPEN_NS = 1_793_457_000_000_000_000
CENT = 10_000_000


@kernel
def flow(draws: Any, names: Any, prices: Any, buffer: Any, offsets: Any, lengths: Any, live: Any) -> int:
    """Write packets of messages, drawing from ``draws``; return the bytes. ``live`` has room for all orders."""
    at = 0
    orders = 0
    held = 0
    for packet in range(offsets.size):
        offsets[packet] = at
        at += 8
        at += put.put_time(buffer, at, 34_200 + packet * 60 // offsets.size)
        for i in range(packet * PER_PACKET, packet * PER_PACKET + PER_PACKET - 1):
            time = i % 1_000_000_000
            kind = draws[i, 0] % 100
            mine = max(0, held - 1 - draws[i, 1] % 64) if draws[i, 1] % 16 else draws[i, 1] % max(held, 1)
            if kind < 47 or held < 1_000:
                symbol = draws[i, 1] % names.size
                side = draws[i, 2] & 1
                depth = min(draws[i, 2] >> 8 & 0xFF, draws[i, 2] >> 16 & 0xFF) * 12 // 256
                price = prices[symbol] + (depth + 1) * CENT * (1 if side else -1)
                orders += 1
                live[held, 0] = orders
                live[held, 1] = price
                held += 1
                letter = ord("S") if side else ord("B")
                at += put.put_add_short(buffer, at, time, orders, letter, 100, names[symbol], price)
            elif kind < 88:
                at += put.put_delete(buffer, at, time, live[mine, 0])
                held -= 1
                live[mine, 0] = live[held, 0]
                live[mine, 1] = live[held, 1]
            elif kind < 92:
                at += put.put_reduce_short(buffer, at, time, live[mine, 0], 10)
            elif kind < 95:
                at += put.put_modify_short(buffer, at, time, live[mine, 0], 200, live[mine, 1], 0)
            elif kind < 99:
                at += put.put_executed(buffer, at, time, live[mine, 0], 10, i)
            else:
                symbol = draws[i, 1] % names.size
                at += put.put_trade_short(buffer, at, time, 1, 100, names[symbol], prices[symbol], i)
        lengths[packet] = at - offsets[packet]
        put.put_header(buffer, offsets[packet], lengths[packet], PER_PACKET, 1, packet * PER_PACKET + 1)
    return at


def make_packets(messages: int, symbols: int) -> Packets:
    """The flow as a batch of packets."""
    rng = np.random.default_rng(1)
    count = messages // PER_PACKET
    names = np.array([int.from_bytes(f"S{i}".encode().ljust(8), "little") for i in range(symbols)])
    prices = rng.integers(1_000, 40_000, symbols) * CENT
    draws = rng.integers(0, 2**31, (count * PER_PACKET, 3))
    buffer, offsets, lengths = np.zeros(messages * 34, np.uint8), np.zeros(count, np.int64), np.zeros(count, np.int64)
    size = flow(draws, names, prices, buffer, offsets, lengths, np.zeros((messages, 2), np.int64))
    stamps = np.full((2, count), [[OPEN_NS], [0]], np.int64)
    return Packets(buffer[:size].copy(), offsets, lengths, *stamps)


def main(messages: int = MESSAGES, symbols: int = SYMBOLS) -> None:
    packets = make_packets(messages, symbols)
    count = packets.offsets.size
    blocks, counters = np.zeros(count, BLOCK), np.zeros(sequenced_unit_kernel.N_COUNTERS, np.int64)
    groups, copy = np.zeros(1, np.int64), np.empty_like(packets.buffer)
    table = SymbolTable(symbols + 1)
    wire = pitch.Pitch(table, "Z")
    pieces = [slice(at, at + count // PIECES) for at in range(0, count, count // PIECES)]
    rows = 0

    def begin(piece: int) -> None:
        """Empty the book before its first piece, keeping its memory."""
        nonlocal rows
        if piece == 0:
            order_book_kernel.clear_all(wire.state.book)
            wire.state.symbols[:, : pitch_kernel.OF_UNIT] = NULL
            wire.state.counters[:] = rows = 0

    def frame(piece: int) -> None:
        part = packets.part(pieces[piece].start, pieces[piece].stop)
        assert sequenced_unit_kernel.frame(*part, groups, 0, blocks[pieces[piece]], counters)[1] == part.offsets.size

    def decode(piece: int) -> None:
        nonlocal rows
        rows += sum(part.size for part in wire.decode(packets.buffer, blocks[pieces[piece]]))

    def copied(piece: int) -> None:
        part = slice(packets.buffer.size // PIECES * piece, packets.buffer.size // PIECES * (piece + 1))
        np.copyto(copy[part], packets.buffer[part])

    times = best_seconds(len(pieces), ROUNDS, begin, frame, decode, copied)[1:]
    counts = wire.counters()
    assert counts["malformed"] == counts["orders_orphaned"] == counts["orders_refused"] == 0
    print(describe())
    print(
        f"{messages:,} messages of {packets.buffer.size / messages:.1f} bytes, {symbols:,} symbols, {rows:,} rows, "
        f"{counts['orders']:,} orders open at the end; {PIECES} pieces, each at its best of {ROUNDS}"
    )
    for what, time in zip(("framing", "decode and book", "copy"), times, strict=True):
        rate = packets.buffer.size / time / 1e9
        print(
            f"{what:<16} {messages / time / 1e6:8.2f} M messages/s {rate:8.2f} GB/s, {times[2] / time:.4f} of the copy"
        )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
