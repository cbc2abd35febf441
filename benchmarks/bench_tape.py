"""CQS and UQDF quotes decoded, messages a second on one core, beside a plain copy of the same bytes.

The flow is seeded: quotes of 12 venues in many symbols, half in short and half in long forms, of which one in four
changes the official NBBO and carries it in appendages (as a fifth of the recorded quotes of 2018 do), ten to a
packet. Framing includes the CTA's checksum over every byte. The copy is the limit that memory sets.

Run: python benchmarks/bench_tape.py [messages] [symbols]
"""

import sys
from typing import Any

import numpy as np
from machine import best_seconds, describe

from fabric.compiled import kernel
from fabric.symbols import SymbolTable
from nodes.exchanges import cta_messages_kernel as cta_put
from nodes.exchanges import itch_messages_kernel as mold_put
from nodes.exchanges import utp_messages_kernel as utp_put
from nodes.feeds import cta, cta_block_kernel, moldudp64_kernel, utp
from nodes.feeds.tape import Tape
from nodes.feeds.wire import Packets
from nodes.feeds.wire_kernel import BLOCK

MESSAGES, SYMBOLS, ROUNDS, PER_PACKET, PIECES = 1_000_000, 2_000, 7, 10, 200
OPEN_NS = 1_793_457_000_000_000_000
PACKET_BYTES = 1_400
SESSION = np.frombuffer(b"SESSION001", np.uint8)
VENUES = np.frombuffer(b"ABCJKMNPTVYZ", np.uint8).astype(np.int64)


@kernel
def cqs(draws: Any, names: Any, venues: Any, packets: Any, lengths: Any) -> None:
    """Blocks of CQS quotes, drawing from ``draws``."""
    for p in range(lengths.size):
        packet = packets[p]
        at = 20
        for i in range(PER_PACKET):
            draw = draws[p * PER_PACKET + i]
            name = names[draw[0] % names.shape[0]]
            venue = venues[draw[0] // 65_536 % venues.size]
            cents = 1_000 + draw[1] % 40_000
            time_ns = OPEN_NS + p * 1_000
            bid, ask = cents * 10_000_000, (cents + 1) * 10_000_000
            is_new = draw[2] % 4 == 0
            size = 1 + draw[1] % 1_000
            if draw[2] // 4 % 2:
                says = 85 if is_new else 65
                length = cta_put.put_long_quote(
                    packet, at, i + 1, venue, time_ns, name, 82, 32, bid, 100, ask, 200, 32, 78, 32, says
                )
                for side in range(2 if is_new else 0):
                    length = cta_put.put_long_appendage(packet, at, length, 80, 82, ask if side else bid, size)
            else:
                says = 84 if is_new else 65
                length = cta_put.put_short_quote(packet, at, i + 1, venue, time_ns, name, bid, 100, ask, 200, 78, says)
                for side in range(2 if is_new else 0):
                    length = cta_put.put_short_appendage(packet, at, length, 80, ask if side else bid, size)
            at += length
        lengths[p] = cta_put.put_header(packet, at, 81, False, p * PER_PACKET + 1, PER_PACKET, OPEN_NS + p * 1_000)


@kernel
def uqdf(draws: Any, names: Any, venues: Any, packets: Any, lengths: Any) -> None:
    """MoldUDP64 packets of UQDF quotes, drawing from ``draws``."""
    for p in range(lengths.size):
        packet = packets[p]
        at = mold_put.put_header(packet, SESSION, p * PER_PACKET + 1, PER_PACKET)
        for i in range(PER_PACKET):
            draw = draws[p * PER_PACKET + i]
            name = names[draw[0] % names.shape[0]]
            venue = venues[draw[0] // 65_536 % venues.size]
            cents = 1_000 + draw[1] % 40_000
            time_ns = OPEN_NS + p * 1_000
            bid, ask = cents * 10_000_000, (cents + 1) * 10_000_000
            is_new = draw[2] % 4 == 0
            size = 1 + draw[1] % 1_000
            if draw[2] // 4 % 2:
                says = 51 if is_new else 48
                length = utp_put.put_long_quote(
                    packet, at, venue, time_ns + 9, time_ns, name, bid, 100, ask, 200, 82, says, False
                )
                if is_new:
                    length = utp_put.put_long_appendage(packet, at, length, 82, 80, bid, size, 81, ask, size)
            else:
                says = 50 if is_new else 48
                length = utp_put.put_short_quote(
                    packet, at, venue, time_ns + 9, time_ns, name, bid, 100, ask, 200, 82, says, False
                )
                if is_new:
                    length = utp_put.put_short_appendage(packet, at, length, 82, 80, bid, size, 81, ask, size)
            at += length
        lengths[p] = at


def make_packets(write: Any, messages: int, symbols: int) -> Packets:
    """The flow as a batch of packets, one behind the other."""
    count = messages // PER_PACKET
    names = np.zeros((symbols, 16), np.uint8)
    for i in range(symbols):
        names[i, :5] = np.frombuffer(f"S{i}".encode().ljust(5, b"\0"), np.uint8)
    draws = np.random.default_rng(1).integers(0, 2**31, (count * PER_PACKET, 3))
    packets, lengths = np.zeros((count, PACKET_BYTES), np.uint8), np.zeros(count, np.int64)
    write(draws, names, VENUES, packets, lengths)
    buffer = packets[np.arange(PACKET_BYTES) < lengths[:, None]]
    stamps = np.full((2, count), [[OPEN_NS], [0]], np.int64)
    return Packets(buffer, np.cumsum(lengths) - lengths, lengths, *stamps)


def measure(what: str, wire: Tape, framing: Any, packets: Packets, messages: int) -> None:
    """Print a line for framing, decoding and copying each."""
    count = packets.offsets.size
    blocks, counters = np.zeros(count, BLOCK), np.zeros(framing.N_COUNTERS, np.int64)
    groups, copy = np.zeros(1, np.int64), np.empty_like(packets.buffer)
    pieces = [slice(at, at + count // PIECES) for at in range(0, count, count // PIECES)]
    rows = 0

    def frame(piece: int) -> None:
        part = packets.part(pieces[piece].start, pieces[piece].stop)
        assert framing.frame(*part, groups, 0, blocks[pieces[piece]], counters)[1] == part.offsets.size

    def decode(piece: int) -> None:
        nonlocal rows
        rows += sum(part.size for part in wire.decode(packets.buffer, blocks[pieces[piece]]))

    def copied(piece: int) -> None:
        part = slice(packets.buffer.size // PIECES * piece, packets.buffer.size // PIECES * (piece + 1))
        np.copyto(copy[part], packets.buffer[part])

    times = best_seconds(len(pieces), ROUNDS, frame, decode, copied)
    counts = wire.counters()
    assert rows == ROUNDS * messages == counts["quotes"]
    news = counts["official_changes"] / rows
    print(
        f"{what}: {messages:,} messages of {packets.buffer.size / messages:.1f} bytes, {news:.0%} change the "
        f"official NBBO; {PIECES} pieces, each at its best of {ROUNDS}"
    )
    for step, time in zip(("framing", "decode", "copy"), times, strict=True):
        speed, rate = messages / time / 1e6, packets.buffer.size / time / 1e9
        print(f"{step:<16} {speed:8.2f} M messages/s {rate:8.2f} GB/s, {times[2] / time:.4f} of the copy")


def main(messages: int = MESSAGES, symbols: int = SYMBOLS) -> None:
    print(describe())
    measure("CQS", cta.Cta(SymbolTable(symbols + 1)), cta_block_kernel, make_packets(cqs, messages, symbols), messages)
    measure(
        "UQDF", utp.Utp(SymbolTable(symbols + 1)), moldudp64_kernel, make_packets(uqdf, messages, symbols), messages
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3]))
