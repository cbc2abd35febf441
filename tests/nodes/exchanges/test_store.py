"""What an exchange keeps of what it sent: whatever is cut out of it holds what was asked for, against a plain list."""

import random

import numpy as np
import pytest

from naive_recovery import HEADER_BYTES, TRANSPORTS, UNIT, NaiveStore, packet, parse
from nodes.exchanges import store_kernel
from nodes.exchanges.store import Store
from nodes.feeds.recovery_kernel import IEXTP, MOLDUDP64, PILLAR, SEQUENCED_UNIT


def keep(store: Store, *payloads: bytes) -> None:
    width = max(len(payload) for payload in payloads)
    rows = np.zeros((len(payloads), width), np.uint8)
    for row, payload in zip(rows, payloads, strict=True):
        row[: len(payload)] = np.frombuffer(payload, np.uint8)
    store.keep(rows, np.array([len(payload) for payload in payloads], np.int64), len(payloads))


def bodies(*texts: str) -> list[bytes]:
    return [text.encode() for text in texts]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_part_of_a_packet_is_cut_out_with_its_numbers(transport):
    store = Store(transport)
    keep(store, packet(transport, 7, bodies("one", "two", "three!"), sent_ns=5_000_000_001))
    taken, cut = store.cut(UNIT[transport], 8, 1)
    assert taken == 1
    whole = packet(transport, 7, bodies("one"), sent_ns=5_000_000_001)
    expected = bytearray(packet(transport, 8, bodies("two"), sent_ns=5_000_000_001))
    if transport == IEXTP:  # byte 0 of message 7 is byte 7,000,000 of the stream, so of message 8 as much further
        expected[16:24] = (7_000_000 + len(whole) - HEADER_BYTES[transport]).to_bytes(8, "little")
    assert cut == expected


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_more_than_one_packet_and_nothing_that_was_never_sent(transport):
    store, unit = Store(transport), UNIT[transport]
    keep(store, packet(transport, 1, bodies("a", "b")), packet(transport, 3, bodies("c")))
    assert store.cut(unit, 2, 100)[0] == 1
    assert store.cut(unit, 4, 1) == (0, b"")
    assert store.cut(unit, 0, 1) == (0, b"")
    assert store.cut(unit + 1, 1, 1) == (0, b"")
    assert store.bounds(unit) == (1, 4)
    assert store.bounds(unit + 1) == (0, 0)
    store.forget()
    assert store.cut(unit, 1, 1) == (0, b"")
    assert store.bounds(unit) == (0, 0)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_heartbeats_and_packets_that_are_not_whole_are_not_kept(transport):
    store = Store(transport)
    keep(store, packet(transport, 1, []), packet(transport, 1, bodies("abc"))[:-1], b"", b"\xff" * 60)
    assert store.packets == 0


def test_the_oldest_go_first_when_bytes_or_packets_run_out():
    store = Store(MOLDUDP64, bytes_max=100, packets_max=8)
    for number in range(1, 30):
        keep(store, packet(MOLDUDP64, number, [b"12345678"]))  # 30 bytes
        assert store.bounds(0) == (max(1, number - 2), number + 1)
        for held in range(max(1, number - 2), number + 1):
            assert store.cut(0, held, 1)[0] == 1
    few = Store(MOLDUDP64, bytes_max=10_000, packets_max=4)
    for number in range(1, 10):
        keep(few, packet(MOLDUDP64, number, [b"x"]))
    assert few.bounds(0) == (6, 10)


def test_a_packet_longer_than_the_ring_is_not_kept():
    store = Store(MOLDUDP64, bytes_max=64)
    keep(store, packet(MOLDUDP64, 1, [b"x" * 60]))
    assert store.packets == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_random_packets_against_the_plain_list(transport):
    seed = random.randrange(1 << 32)
    random_ = random.Random(seed)
    store, naive = Store(transport, bytes_max=3_000, packets_max=40), NaiveStore(transport)
    units = [1, 2, 3] if transport in (SEQUENCED_UNIT, IEXTP) else [0]
    following = dict.fromkeys(units, 1)
    for _ in range(400):
        unit = random_.choice(units)
        texts = [random_.randbytes(random_.randrange(1, 40)) for _ in range(random_.randrange(0, 6))]
        data = packet(transport, following[unit], texts, unit=unit)
        following[unit] += len(texts)
        keep(store, data)
        naive.keep(data)
        naive.kept = naive.kept[-store.packets :] if store.packets else []
        for _ in range(5):
            asked = random_.choice(units), random_.randrange(1, following[unit] + 2), random_.randrange(1, 8)
            taken, cut = store.cut(*asked)
            wanted = naive.cut(*asked)
            assert taken == len(wanted), f"seed {seed}"
            if wanted:
                parsed = parse(transport, cut)
                assert parsed is not None, f"seed {seed}"
                assert (parsed.unit, parsed.first, parsed.messages) == (*asked[:2], wanted), f"seed {seed}"


def test_the_kernels_say_the_same_uncompiled():
    store = store_kernel.new_store(200, 4)
    data = np.frombuffer(packet(PILLAR, 5, bodies("aa", "bb", "cc")), np.uint8).reshape(1, -1).copy()
    lengths = np.array([data.size], np.int64)
    store_kernel.keep.py_func(store, data, lengths, 1, PILLAR)
    out = np.zeros(100, np.uint8)
    taken, length = store_kernel.cut.py_func(store, 0, 6, 9, PILLAR, out)
    assert (taken, out[:length].tobytes()) == (2, packet(PILLAR, 6, bodies("bb", "cc")))
    assert store_kernel.bounds.py_func(store, 0) == (5, 8)
    assert store_kernel.find.py_func(store, 0, 8) == -1
