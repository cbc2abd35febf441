"""Mutated packets in bulk, each with a sound one behind it: a decoder may lose a packet that lies, never the next.

Compiled, so that ten million a wire take minutes: FABRIC_FUZZ=10000000 fabric test -k mutation.
"""

import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fabric.compiled import kernel
from fabric.records import KIND_QUOTE, KIND_STATUS, KIND_TRADE, NULL, PRICE_MAX, QUOTE, TRADE, Rows
from fabric.symbols import SymbolTable
from nodes.feeds.wire import Messages, Packets
from nodes.feeds.wire_kernel import BLOCK, DATA, GAP, RESTART
from nodes.feeds.wires import format_of

PAIRS = 500
"""Mutated packets in a batch, and as many sound ones."""
CHANGES_MAX = 4
SPAN_MAX = 60
"""Bytes doubled or taken out at once."""

GROUPS = np.array([0, 1])
"""Sound packets have a stream of their own."""
Repair = Callable[[Any, int], None]
"""A kernel that puts right, in a mutated packet of so many bytes, what would hide its mutations: a length, a sum."""


@kernel
def as_it_is(packet: Any, size: int) -> None:
    """A `Repair` for a transport that has nothing over its whole packet."""


@kernel
def iextp_length(packet: Any, size: int) -> None:
    """The length in an IEX-TP header, mostly."""
    if size >= 40 and np.random.randint(0, 10) < 7:
        packet[12], packet[13] = (size - 40) & 0xFF, (size - 40) >> 8


@kernel
def mutate(samples: Any, sizes: Any, odd: Any, sound: Any, repair: Any, buffer: Any, lengths: Any) -> None:
    """Fill rows of ``buffer`` by turns with a mutated sample and the sound packet; their bytes in ``lengths``."""
    for row in range(0, lengths.size, 2):
        packet = buffer[row]
        chosen = np.random.randint(0, sizes.size)
        size = sizes[chosen]
        packet[:size] = samples[chosen, :size]
        for _ in range(np.random.randint(1, CHANGES_MAX + 1)):
            what = np.random.randint(0, 8)
            at = np.random.randint(0, size + 1)
            span = np.random.randint(0, SPAN_MAX)
            if what == 0:
                size = at
            elif what == 1:  # doubled
                span = min(span, size - at)
                for i in range(size - 1, at - 1, -1):
                    packet[i + span] = packet[i]
                size += span
            elif what == 2:  # taken out
                span = min(span, size - at)
                for i in range(at, size - span):
                    packet[i] = packet[i + span]
                size -= span
            elif at < size:
                packet[at] = odd[np.random.randint(0, odd.size)] if what < 6 else np.random.randint(0, 256)
        repair(packet, size)
        lengths[row] = size
        buffer[row + 1, : sound.size] = sound
        lengths[row + 1] = sound.size


@kernel
def begin(seed: int) -> None:
    """Seed what `mutate` draws from."""
    np.random.seed(seed)


class Mutations:
    """Batches of packets: numbers 0, 2, 4, ... are mutated, the others the sound one, on another line."""

    def __init__(self, seed: int, samples: Sequence[bytes], sound: bytes, repair: Repair = as_it_is) -> None:
        """``samples`` are sound packets."""
        self.label = f"seed {seed}"
        self._chance = random.Random(seed)
        self._sizes = np.array([len(sample) for sample in samples], np.int64)
        self._samples = np.zeros((len(samples), self._sizes.max()), np.uint8)
        for row, sample in zip(self._samples, samples, strict=True):
            row[: len(sample)] = np.frombuffer(sample, np.uint8)
        self._odd = np.frombuffer(b"\x00\x01\x02\x20\x7f\x80\xfe\xff0ABDFNRT", np.uint8)
        self._sound, self._repair = np.frombuffer(sound, np.uint8), repair
        width = max(int(self._sizes.max()) + CHANGES_MAX * SPAN_MAX, len(sound))
        self._buffer = np.zeros((2 * PAIRS, width), np.uint8)
        self._lengths = np.zeros(2 * PAIRS, np.int64)
        self._offsets = np.arange(2 * PAIRS) * width
        self._lines = np.arange(2 * PAIRS) % 2
        begin(seed & 0xFFFFFFFF)

    def batch(self, recv_ns: int) -> Packets:
        """The next packets, all received at ``recv_ns``; good until the next call."""
        mutate(self._samples, self._sizes, self._odd, self._sound, self._repair, self._buffer, self._lengths)
        stamps = np.full(2 * PAIRS, recv_ns)
        return Packets(self._buffer.reshape(-1), self._offsets, self._lengths, stamps, self._lines)

    def disturb(self, blocks: Any) -> None:
        """Make one of the mutated blocks of a batch, or none, a GAP or RESTART of its stream."""
        number = self._chance.randrange(blocks.size)
        if blocks["line"][number] == 0:
            blocks["kind"][number] = self._chance.choice((DATA, DATA, DATA, GAP, RESTART))


def fuzz(
    wire: str, messages: Messages, symbols: SymbolTable, mutations: Mutations, rounds: int, recv_ns: int, name: str
) -> Counter[str]:
    """Frame and decode ``rounds`` mutated packets; return what was counted.

    Each sound packet must give its two trades of the symbol ``name``, whatever came before it.
    """
    transport = format_of(wire).transport()
    blocks, framed = np.zeros(2 * PAIRS, BLOCK), np.zeros(max(transport.counters) + 1, np.int64)
    for done in range(0, rounds, PAIRS):
        label = f"{wire}, packets {done} to {done + PAIRS} of {mutations.label}"
        packets = mutations.batch(recv_ns)
        taken, made = transport.frame(*packets, GROUPS, 0, blocks, framed, *transport.arguments)
        assert taken == 2 * PAIRS, label
        mutations.disturb(blocks[:made])
        heard = 0
        for rows in messages.decode(packets.buffer, blocks[:made]):
            assert_sound(rows, len(symbols), label)
            heard += int(((rows["kind"] == KIND_TRADE) & (rows["symbol"] == symbols.find(name))).sum())
        assert heard >= 2 * PAIRS, label
    counts = Counter({name: int(framed[column]) for column, name in transport.counters.items()})
    counts.update(messages.counters())
    sys.stdout.write(f"{wire}, {mutations.label}: {dict(counts)}\n")  # shown by pytest -s, and where a test fails
    return counts


def assert_sound(rows: Rows, symbols: int, label: str) -> None:
    """Whatever the bytes were: rows are such as every reader relies on, of ``symbols`` that exist."""
    assert np.isin(rows["kind"], (KIND_QUOTE, KIND_TRADE, KIND_STATUS)).all(), label
    assert ((rows["symbol"] >= 0) & (rows["symbol"] < symbols)).all(), label
    assert (rows["venue"] > 0).all(), label
    quotes, trades = (rows[rows["kind"] == k].view(d) for k, d in ((KIND_QUOTE, QUOTE), (KIND_TRADE, TRADE)))
    for px, size in (("bid_px", "bid_size"), ("ask_px", "ask_size")):
        has = quotes[px] != NULL
        assert ((quotes[px] > 0) & (quotes[px] <= PRICE_MAX) & (quotes[size] > 0))[has].all(), label
        assert (quotes[size] == NULL)[~has].all(), label
    has = trades["price"] != NULL
    assert ((trades["price"] > 0) & (trades["price"] <= PRICE_MAX) & (trades["size"] > 0))[has].all(), label
    assert (trades["mark"] != NULL)[~has].all(), label
