"""IEX's recorded TOPS 1.6 and DEEP 1.0 decoded (DEEP also booked), messages a second on one core.

Beside each a plain copy of the same bytes: the limit that memory sets. The captures are IEX's own samples (real packets
of its test environment), read into memory first; each round is the whole session again.

Run: python benchmarks/bench_iex.py [folder with TOPS16.pcapng.gz and DEEP10_session12.pcap.gz]
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from machine import best_seconds, describe

from fabric.symbols import SymbolTable
from nodes.feeds import iex, iex_kernel, iextp_kernel
from nodes.feeds.capture import Capture
from nodes.feeds.wire import Packets, from_payloads
from nodes.feeds.wire_kernel import BLOCK

FOLDER = Path(__file__).resolve().parents[2] / "shared/data/iex"
ROUNDS, PIECES, SYMBOLS_MAX = 9, 100, 16_384
FEEDS = (
    ("TOPS 1.6", "TOPS16.pcapng.gz", iex_kernel.PROTOCOL_TOPS, iex.tops),
    ("DEEP 1.0", "DEEP10_session12.pcap.gz", iex_kernel.PROTOCOL_DEEP, iex.deep),
)


def recorded(path: Path) -> Packets:
    """All UDP payloads of a capture as one batch."""
    payloads: list[bytes] = []
    with Capture(path) as capture:
        for batch in capture:
            packets = batch.packets
            payloads += [
                packets.buffer[at : at + length].tobytes()
                for at, length in zip(packets.offsets.tolist(), packets.lengths.tolist(), strict=True)
            ]
    return from_payloads(payloads)


def measure(name: str, packets: Packets, protocol: int, decoder: Callable[[SymbolTable], iex.Iex]) -> None:
    """Print the rates of one feed."""
    count = packets.offsets.size
    blocks, counters = np.zeros(count, BLOCK), np.zeros(iextp_kernel.N_COUNTERS, np.int64)
    groups, copy = np.zeros(1, np.int64), np.empty_like(packets.buffer)
    edges = np.linspace(0, count, PIECES + 1).astype(int).tolist()
    pieces = [slice(start, stop) for start, stop in pairwise(edges)]
    parts = [packets.part(piece.start, piece.stop) for piece in pieces]
    ends = [*packets.offsets.tolist(), packets.buffer.size]
    wire = decoder(SymbolTable(SYMBOLS_MAX))
    rows = 0

    def frame(piece: int) -> None:
        made = iextp_kernel.frame(*parts[piece], groups, 0, blocks[pieces[piece]], counters, protocol)[1]
        assert made == parts[piece].offsets.size

    def decode(piece: int) -> None:
        nonlocal rows
        rows += sum(part.size for part in wire.decode(packets.buffer, blocks[pieces[piece]]))

    def copied(piece: int) -> None:
        part = slice(ends[pieces[piece].start], ends[pieces[piece].stop])
        np.copyto(copy[part], packets.buffer[part])

    times = best_seconds(PIECES, ROUNDS, frame, decode, copied)
    counts = wire.counters()
    messages = counts["messages"] // ROUNDS
    assert counts["unknown"] == counts["malformed_message"] == counts["refused"] == 0
    print(
        f"{name}: {messages:,} recorded messages in {count:,} packets, {packets.buffer.size / messages:.1f} bytes a "
        f"message, {rows // ROUNDS:,} rows; {PIECES} pieces, each at its best of {ROUNDS}"
    )
    for what, time in zip(("framing", "decode", "copy"), times, strict=True):
        rate = packets.buffer.size / time / 1e9
        print(
            f"{what:<10} {messages / time / 1e6:8.2f} M messages/s {rate:8.2f} GB/s, {times[2] / time:.4f} of the copy"
        )


def main(folder: Path = FOLDER) -> None:
    print(describe())
    for name, file, protocol, decoder in FEEDS:
        measure(name, recorded(folder / file), protocol, decoder)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))
