"""NYSE's Integrated, BBO and Trades feeds decoded (Integrated also booked), messages a second on one core.

Beside each a plain copy of the same bytes: the limit that memory sets. The flows are seeded. Integrated: orders in many
symbols that come near the best of their side and mostly go soon, with executions, changes and replacements among them;
BBO: a quote at random over the symbols; Trades: likewise. Packets of 20 messages.

Run: python benchmarks/bench_xdp.py [messages] [symbols]
"""

import sys
from typing import Any

import numpy as np
from machine import best_seconds, describe

from fabric.compiled import kernel
from fabric.records import NULL
from fabric.symbols import SymbolTable
from nodes.exchanges import xdp_messages_kernel as put
from nodes.feeds import order_book_kernel, pillar_kernel, xdp
from nodes.feeds.wire import Packets
from nodes.feeds.wire_kernel import BLOCK

MESSAGES, SYMBOLS, ROUNDS, PER_PACKET, PIECES = 1_000_000, 2_000, 7, 20, 200
OPEN_NS = 1_793_457_000_000_000_000
CENT = 10_000_000
INTEGRATED, BBO, TRADES = range(3)
NAMES = ("Integrated", "BBO", "Trades")


@kernel
def mappings(names: Any, buffer: Any, offsets: Any, lengths: Any) -> int:
    """A packet for each symbol's mapping; return the bytes."""
    at = 0
    for symbol in range(names.size):
        start = at
        at += 16
        at += put.put_mapping(buffer, at, symbol, names[symbol], 1, 1, 78, 100, 0)
        put.put_header(buffer[start:at], at - start, 11, 1, symbol + 1, OPEN_NS)
        offsets[symbol] = start
        lengths[symbol] = at - start
    return at


@kernel
def flow(feed: int, draws: Any, prices: Any, buffer: Any, offsets: Any, lengths: Any, live: Any) -> int:
    """Write packets of messages, drawing from ``draws``; return the bytes. ``live`` has room for all orders."""
    at = 0
    orders = 0x0001010000000000
    held = 0
    for packet in range(offsets.size):
        start = at
        time = OPEN_NS + packet * 1_000_000
        at += 16
        for i in range(packet * PER_PACKET, packet * PER_PACKET + PER_PACKET):
            kind = draws[i, 0] % 100
            symbol = draws[i, 1] % prices.size
            if feed == BBO:
                bid = prices[symbol] + draws[i, 2] % 8 * CENT
                at += put.put_quote(buffer, at, time, symbol, i + 1, bid, 100, bid + CENT, 200, 82)
                continue
            if feed == TRADES:
                at += put.put_trade(buffer, at, time, symbol, i + 1, i, prices[symbol], 100, 64)
                continue
            mine = max(0, held - 1 - draws[i, 1] % 64) if draws[i, 1] % 16 else draws[i, 1] % max(held, 1)
            if kind < 45 or held < 1_000:
                side = draws[i, 2] & 1
                depth = min(draws[i, 2] >> 8 & 0xFF, draws[i, 2] >> 16 & 0xFF) * 12 // 256
                price = prices[symbol] + (depth + 1) * CENT * (1 if side else -1)
                orders += 1
                letter = 83 if side else 66
                at += put.put_add(buffer, at, time, symbol, i + 1, orders, price, 100, letter, 0)
                mine = held
                held += 1
                live[mine, 0] = orders
                live[mine, 1] = price
                live[mine, 2] = symbol
                continue
            order, price, symbol = live[mine, 0], live[mine, 1], live[mine, 2]
            if kind < 87:
                at += put.put_delete(buffer, at, time, symbol, i + 1, order)
                held -= 1
                for column in range(3):
                    live[mine, column] = live[held, column]
            elif kind < 92:
                at += put.put_execution(buffer, at, time, symbol, i + 1, order, i, price, 1, 1, 64)
            elif kind < 95:
                at += put.put_modify(buffer, at, time, symbol, i + 1, order, price, 200, 1, 66)
            else:
                orders += 1
                at += put.put_replace(buffer, at, time, symbol, i + 1, order, orders, price, 100, 66)
                live[mine, 0] = orders
        put.put_header(buffer[start:at], at - start, 11, PER_PACKET, packet * PER_PACKET + 1, time)
        offsets[packet] = start
        lengths[packet] = at - start
    return at


def packets_of(buffer: Any, size: int, offsets: Any, lengths: Any) -> Packets:
    return Packets(buffer[:size].copy(), offsets, lengths, *np.full((2, offsets.size), [[OPEN_NS], [0]], np.int64))


def measure(feed: int, messages: int, symbols: int) -> None:
    """Print the rates of one feed."""
    rng = np.random.default_rng(1)
    count = messages // PER_PACKET
    names = np.array([int.from_bytes(f"S{i}".encode(), "little") for i in range(symbols)])
    prices, draws = rng.integers(1_000, 40_000, symbols) * CENT, rng.integers(0, 2**31, (count * PER_PACKET, 3))
    buffer, offsets, lengths = np.zeros(messages * 44, np.uint8), np.zeros(count, np.int64), np.zeros(count, np.int64)
    size = flow(feed, draws, prices, buffer, offsets, lengths, np.zeros((messages, 3), np.int64))
    packets = packets_of(buffer, size, offsets, lengths)
    first = np.zeros(symbols * 60, np.uint8), np.zeros(symbols, np.int64), np.zeros(symbols, np.int64)
    listed = packets_of(first[0], mappings(names, *first), *first[1:])

    blocks, counters = np.zeros(max(count, symbols), BLOCK), np.zeros(pillar_kernel.N_COUNTERS, np.int64)
    groups, streams, copy = np.zeros(1, np.int64), pillar_kernel.new_streams(1), np.empty_like(packets.buffer)
    wire = xdp.Xdp(SymbolTable(symbols + 1))
    pillar_kernel.frame(*listed, groups, 0, blocks, counters, streams)
    assert sum(rows.size for rows in wire.decode(listed.buffer, blocks[:symbols])) == symbols
    pieces = [slice(at, at + count // PIECES) for at in range(0, count, count // PIECES)]
    rows = 0

    def begin(piece: int) -> None:
        """Empty the book before its first piece, keeping its memory."""
        nonlocal rows
        if piece == 0:
            order_book_kernel.clear_all(wire.state.book)
            for name in ("bid_px", "bid_size", "ask_px", "ask_size"):
                wire.state.listings[name] = NULL
            rows = 0

    def frame(piece: int) -> None:
        part = packets.part(pieces[piece].start, pieces[piece].stop)
        made = pillar_kernel.frame(*part, groups, 0, blocks[pieces[piece]], counters, streams)[1]
        assert made == part.offsets.size

    def decode(piece: int) -> None:
        nonlocal rows
        rows += sum(part.size for part in wire.decode(packets.buffer, blocks[pieces[piece]]))

    def copied(piece: int) -> None:
        part = slice(packets.buffer.size // PIECES * piece, packets.buffer.size // PIECES * (piece + 1))
        np.copyto(copy[part], packets.buffer[part])

    times = best_seconds(len(pieces), ROUNDS, begin, frame, decode, copied)[1:]
    counts = wire.counters()
    assert counts["malformed"] == counts["orphans"] == counts["orders_refused"] == counts["no_mapping"] == 0
    print(
        f"{NAMES[feed]}: {messages:,} messages of {packets.buffer.size / messages:.1f} bytes, {symbols:,} symbols, "
        f"{rows:,} rows, {counts['orders']:,} orders open at the end; {PIECES} pieces, each at its best of {ROUNDS}"
    )
    for what, time in zip(("framing", "decode", "copy"), times, strict=True):
        rate = packets.buffer.size / time / 1e9
        print(
            f"{what:<10} {messages / time / 1e6:8.2f} M messages/s {rate:8.2f} GB/s, {times[2] / time:.4f} of the copy"
        )


def main(messages: int = MESSAGES, symbols: int = SYMBOLS) -> None:
    print(describe())
    for feed in (INTEGRATED, BBO, TRADES):
        measure(feed, messages, symbols)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
