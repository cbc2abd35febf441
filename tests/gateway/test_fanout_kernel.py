import random

import numpy as np
import pytest

from fabric.clock import ManualClock
from gateway import fanout_kernel as kernel
from gateway.fanout_kernel import Fan
from gateway.protocol_kernel import JSON, MSGPACK
from gateway_market import Market, messages

SYMBOLS = 40
STREAMS = kernel.states(1) * SYMBOLS
SLOTS = kernel.planes(1) * SYMBOLS


def linked(fan: Fan, slot: int) -> list[tuple[int, int]]:
    """The (client, slot) of each entry that a slot's list holds, walked in both directions."""
    found = []
    before, after = 0, int(fan.head[slot])
    while after:
        entry = fan.entries[after - 1]
        assert entry["prev"] == before
        found.append((int(entry["owner"]), int(entry["slot"])))
        before, after = after, int(entry["next"])
    return found


def test_entries_are_where_a_dict_says_they_are() -> None:
    """Seeded random subscriptions, moves, intervals and departures against a plain model."""
    for seed in range(20):
        rng = random.Random(seed)
        fan = kernel.make(SYMBOLS, 1, 8, 1)
        wanted: dict[int, dict[int, None]] = {client: {} for client in range(8)}
        intervals = dict.fromkeys(range(8), 0)
        for client in range(8):
            fan.clients[client]["start"] = client * 64
        blocks = {client: client * 64 for client in range(8)}
        spare = [512 + 64 * place for place in range(8)]
        for _ in range(150):
            client = rng.randrange(8)
            mine = wanted[client]
            match rng.randrange(5):
                case 0:
                    slots = rng.sample([slot for slot in range(SLOTS) if slot not in mine], rng.randrange(6))
                    if len(mine) + len(slots) <= 64:
                        kernel.append(fan, client, np.array(slots, np.int64), STREAMS, True)
                        mine |= dict.fromkeys(slots)
                case 1:
                    keep = np.array([rng.random() < 0.6 for _ in mine], np.int64)
                    start, count = fan.clients[client]["start"], fan.clients[client]["count"]
                    held = fan.entries["slot"][start : start + count].tolist()
                    kernel.retain(fan, client, keep, np.empty_like(keep))
                    wanted[client] = {slot: None for slot, kept in zip(held, keep, strict=True) if kept}
                case 2:
                    spare.append(blocks[client])
                    blocks[client] = spare.pop(0)
                    kernel.move_entries(fan, client, blocks[client])
                case 3:
                    intervals[client] = rng.choice((0, 100))
                    kernel.set_interval(fan, client, intervals[client], 0, STREAMS)
                case 4 if rng.random() < 0.2:
                    kernel.release(fan, client)
                    wanted[client] = {}
        for client, mine in wanted.items():
            start, count = fan.clients[client]["start"], fan.clients[client]["count"]
            assert sorted(fan.entries["slot"][start : start + count].tolist()) == sorted(mine), f"seed {seed}"
        for slot in range(SLOTS):
            expected = [
                (client, slot)
                for client, mine in wanted.items()
                if slot in mine and (slot >= STREAMS or intervals[client] == 0)
            ]
            assert sorted(linked(fan, slot)) == expected, f"seed {seed}"


def test_a_queue_that_moves_keeps_its_order() -> None:
    fan = kernel.make(SYMBOLS, 1, 1, 1)
    mine = fan.clients[0]
    mine["queue_size"], mine["queue_first"], mine["queue_count"] = 4, 6, 3  # wraps round
    for place, event in ((2, 1), (3, 2), (0, 3)):
        fan.queue[place]["event"] = event
    kernel.move_queue(fan, 0, 8, 16)
    assert fan.queue["event"][8:11].tolist() == [1, 2, 3]
    assert (mine["queue_start"], mine["queue_size"], mine["queue_first"], mine["queue_count"]) == (8, 16, 0, 3)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 300])
@pytest.mark.parametrize("form", [JSON, MSGPACK])
def test_headers_of_every_length(form: int, count: int) -> None:
    """The frame's headers fit its payload exactly (RFC 6455, 5.2; msgpack arrays)."""
    item = b"0" if form == JSON else b"\x00"
    items = (b"," if form == JSON else b"").join([item] * count)
    frame = np.zeros(4_096, np.uint8)
    frame[16 : 16 + len(items)] = np.frombuffer(items, np.uint8)
    start, end = kernel.seal.py_func(frame, 16 + len(items), count, form)
    assert messages([frame[start:end].tobytes()]) == [0] * count


def test_the_cache_may_go_round_as_often_as_it_likes(clock: ManualClock) -> None:
    market = Market(clock)
    client, sink = market.client("sip")
    client.subscribe({"quotes": ["*"]}, 0, True)
    symbols = [f"S{i}" for i in range(20)]
    expected = 0
    fan = market.fanout._fan
    while fan.cached.max() < 1.1 * kernel.CACHE_BYTES:
        rows = []
        for place in range(300):
            expected += 1
            rows.append(market.nbbo(symbols[place % 20], expected * 10**9))
        market.apply(*rows)
        market.flush()
        found = messages(sink.frames)
        assert [round(message["bp"]) for message in found] == list(range(expected - 299, expected + 1))


def test_a_cached_value_is_sent_to_the_next_client_as_it_was(clock: ManualClock) -> None:
    market = Market(clock)
    market.apply(market.nbbo("A", 10**9))
    frames = []
    for _ in range(3):
        client, sink = market.client()
        client.subscribe({"quotes": ["A"]}, 100, True)
        market.flush()
        frames += sink.frames
    assert len(set(frames)) == 1
    assert messages(frames)[0]["bp"] == 1


def test_clients_are_served_round_robin_when_they_are_due(clock: ManualClock) -> None:
    market = Market(clock)
    sinks = [market.client() for _ in range(6)]
    for client, _ in sinks:
        client.subscribe({"quotes": ["A"]}, 100, True)
    market.flush()
    market.apply(market.nbbo("A", 10**9))
    fan, names = market.fanout._fan, market.symbols.arrays
    fan.wake[:6] = (50, 50, 51, kernel.NOW_DUE, 50, 50)
    fan.clients["busy"][4] = 1

    def flush(cursor: int, limit: int, most: int) -> tuple[int, int]:
        """Who was served last, and how many rows were looked at."""
        frame = np.zeros(kernel.FRAME_BYTES, np.uint8)
        row, seen, *_ = kernel.flush(fan, market.fanout._values, names, cursor, 6, limit, most, 50, 0, frame)
        return row, seen

    assert flush(1, 6, 8) == (1, 1)  # each of them needs Python: they have no descriptor
    assert flush(2, 5, 8) == (3, 2)
    assert flush(4, 3, 8) == (5, 2)
    assert flush(0, 1, 0) == (-1, 0), "as many as may be"
    assert flush(0, 1, 8) == (0, 1)
    assert flush(1, 6, 8) == (-1, 6), "nobody is left but one that is not due and one that is busy"
