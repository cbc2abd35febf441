import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fabric.clock import MILLISECOND_NS, SECOND_NS, ManualClock
from fabric.records import KIND_BAR_1D, KIND_BAR_1H, KIND_BAR_1M, KIND_BAR_5M, NULL, Rows, empty
from fabric.topology import Limits, Publisher, Source, Venue
from gateway import fanout_kernel
from gateway.fanout import CATCH_UP_MAX_NS, CAUGHT_UP_ROWS, QUEUE_MIN, Client
from gateway.protocol import CHANNELS, ProtocolError
from gateway.protocol_kernel import JSON, MSGPACK
from gateway_market import BEST, FEED, FakeSink, Market, interval, messages

PX = 10**9


@pytest.fixture
def market(clock: ManualClock) -> Iterator[Market]:
    """Whatever a test did with it, in the end its books balance."""
    made = Market(clock)
    yield made
    made.check_books()


def prices(found: list[dict[str, Any]]) -> list[tuple[str, float, int]]:
    """Symbol, bid and ``k`` of each quote."""
    return [(message["S"], message["bp"], message.get("k", 0)) for message in found]


# --- conflation ---


def test_a_snapshot_then_the_latest_value_each_interval_with_what_it_replaced(
    market: Market, clock: ManualClock
) -> None:
    market.apply(market.nbbo("A", 1 * PX), market.nbbo("A", 2 * PX), market.nbbo("B", 7 * PX))
    client, sink = market.client()
    client.subscribe({"quotes": ["A"]}, 100, True)
    market.flush()
    assert prices(messages(sink.frames)) == [("A", 2, 0)]
    market.apply(*[market.nbbo("A", bid * PX) for bid in (3, 4, 5)], market.nbbo("B", 8 * PX))
    interval(clock)
    market.flush()
    assert prices(messages(sink.frames)) == [("A", 5, 2)]
    interval(clock)
    market.flush()
    assert messages(sink.frames) == []


def test_nothing_is_sent_before_the_interval_is_over(market: Market, clock: ManualClock) -> None:
    market.apply(market.nbbo("A", 1 * PX))
    client, sink = market.client()
    client.subscribe({"quotes": ["A"]}, 1_000, True)
    market.flush()
    clock.advance(SECOND_NS)
    market.flush()
    sink.frames.clear()
    sent = 0
    for step in range(100):
        market.apply(market.nbbo("A", (step + 2) * PX))
        clock.advance(20 * MILLISECOND_NS)
        market.flush()
        sent += len(messages(sink.frames))
    assert sent == 2


def test_clients_are_spread_over_the_interval(market: Market, clock: ManualClock) -> None:
    market.apply(market.nbbo("A", PX))
    sinks = []
    for _ in range(200):
        client, sink = market.client()
        client.subscribe({"quotes": ["A"]}, 100, False)
        sinks.append(sink)
    interval(clock)
    market.flush()
    served = []
    for step in range(20):
        market.apply(market.nbbo("A", (step + 1) * PX))
        clock.advance(5 * MILLISECOND_NS)
        market.flush()
        served.append(sum(bool(messages(sink.frames)) for sink in sinks))
    assert sum(served) == 200
    assert max(served) <= 20


def test_without_a_snapshot_only_what_is_new_comes(market: Market, clock: ManualClock) -> None:
    market.apply(market.nbbo("A", 1 * PX), market.trade("A", PX))
    client, sink = market.client()
    client.subscribe({"quotes": ["A"], "trades": ["A"]}, 100, False)
    market.flush()
    market.apply(market.nbbo("A", 2 * PX))
    interval(clock)
    market.flush()
    assert prices(messages(sink.frames)) == [("A", 2, 0)]


def test_one_encoding_serves_all_clients_of_a_form(market: Market, clock: ManualClock) -> None:
    sinks = []
    for encoding in (JSON, JSON, JSON, MSGPACK, MSGPACK):
        client, sink = market.client(encoding=encoding)
        client.subscribe({"quotes": ["A", "B"]}, 100, True)
        sinks.append(sink)
    market.apply(market.nbbo("A", PX), market.nbbo("B", PX), market.nbbo("C", PX))
    interval(clock)
    market.flush()
    assert {len(messages(sink.frames)) for sink in sinks} == {2}
    assert market.fanout.counters()["encoded"] == 4


# --- every tick ---


def test_every_tick_comes_in_order_and_quotes_and_trades_keep_their_order(market: Market) -> None:
    client, sink = market.client("sip", MSGPACK)
    client.subscribe({"quotes": ["A"], "trades": ["A"]}, 0, True)
    for step in range(20):
        market.apply(market.nbbo("A", (step + 1) * PX), market.trade("A", (step + 1) * PX))
    market.flush()
    found = messages(sink.frames)
    assert [message["T"] for message in found] == ["q", "t"] * 20
    assert [message.get("bp", message.get("p")) for message in found] == [bid for bid in range(1, 21) for _ in "qt"]
    assert not any("k" in message for message in found)


def test_a_full_queue_of_quotes_falls_back_to_the_slot_and_says_so(market: Market) -> None:
    client, sink = market.client("sip")
    client.subscribe({"quotes": ["A"]}, 0, True)
    for step in range(QUEUE_MIN + 10):
        market.apply(market.nbbo("A", (step + 1) * PX))
    market.flush()
    found = prices(messages(sink.frames))
    assert [bid for _, bid, _ in found] == [*range(1, QUEUE_MIN + 1), QUEUE_MIN + 10]
    assert [k for _, _, k in found] == [0] * QUEUE_MIN + [9]
    assert len(found) + sum(k for _, _, k in found) == QUEUE_MIN + 10


def test_trades_that_do_not_fit_are_announced_as_a_gap(market: Market) -> None:
    client, sink = market.client("stream")
    client.subscribe({"trades": ["A"]}, 0, True)
    for _ in range(QUEUE_MIN + 3):
        market.apply(market.trade("A", PX))
    market.flush()
    found = messages(sink.frames)
    assert [message["T"] for message in found] == ["t"] * QUEUE_MIN + ["gap"]
    assert found[-1] == {"T": "gap", "channel": "trades", "S": "A", "missed": 3}
    market.apply(market.trade("A", PX))
    market.flush()
    assert [message["T"] for message in messages(sink.frames)] == ["t"]


def test_a_gap_comes_before_the_trade_that_follows_it(market: Market, clock: ManualClock) -> None:
    client, sink = market.client("sip")
    client.subscribe({"trades": ["A"]}, 0, True)
    market.apply(market.trade("A", PX))
    market.flush()
    sink.frames.clear()
    sink.stick()
    for _ in range(QUEUE_MIN + 3):
        market.apply(market.trade("A", PX))
    market.flush()
    assert sink.frames == []
    clock.advance(SECOND_NS)
    sink.stick(False)
    market.flush()
    found = messages(sink.frames)
    assert found[0] == {"T": "slow", "ms": 1000, "missed": 3}
    assert [message["T"] for message in found[1:]] == ["t"] * QUEUE_MIN + ["gap"]


def test_a_ring_that_went_round_loses_no_latest_value(market: Market) -> None:
    lagging, sink = market.client("sip")
    lagging.subscribe({"quotes": ["LAG"], "trades": ["LAG"]}, 0, True)
    market.apply(market.nbbo("LAG", PX), market.trade("LAG", PX))
    busy, _ = market.client("sip")
    busy.subscribe({"quotes": ["A"]}, 0, True)
    one = market.nbbo("A", PX)
    for _ in range(fanout_kernel.EVENTS_KEPT // 1_000 + 1):
        market.apply(*[one] * 1_000)
    market.flush()
    found = messages(sink.frames)
    assert prices(found[:1]) == [("LAG", 1, 0)]
    assert found[1] == {"T": "gap", "channel": "trades", "S": "LAG", "missed": 1}


# --- what goes to whom ---


def test_a_venue_feed_has_its_own_quotes_and_trades_only(market: Market) -> None:
    iex, iex_sink = market.client("iex")
    sip, sip_sink = market.client("sip")
    for client in (iex, sip):
        client.subscribe({"quotes": ["A"], "trades": ["A"], "statuses": ["A"]}, 0, True)
    market.apply(
        market.quote("A", 1 * PX, "V"),
        market.quote("A", 2 * PX, "N"),
        market.nbbo("A", 3 * PX),
        market.trade("A", 4 * PX, "V"),
        market.trade("A", 5 * PX, "N"),
        market.status("A", "N", trading="H", reason="T1"),
    )
    market.flush()
    own = messages(iex_sink.frames)
    assert [(message["T"], message.get("bp", message.get("p"))) for message in own] == [("q", 1), ("t", 4)]
    assert (own[0]["bx"], own[0]["c"], own[0]["z"]) == ("V", ["R"], "C")
    best = messages(sip_sink.frames)
    assert [message["T"] for message in best] == ["q", "t", "t", "s"]
    assert (best[0]["bx"], best[0]["ax"], best[2]["x"]) == ("V", "N", "N")
    assert (best[3]["sm"], best[3]["rm"]) == ("Trading Halt", "Halt - News Pending")


def test_venue_quotes_name_their_venue(market: Market) -> None:
    client, sink = market.client()
    client.subscribe({"venueQuotes": ["A"]}, 0, True)
    market.apply(market.quote("A", 1 * PX, "V"), market.quote("A", 2 * PX, "N"))
    market.flush()
    assert [(m["T"], m["x"], m["bp"]) for m in messages(sink.frames)] == [("vq", "V", 1), ("vq", "N", 2)]


def test_bars_in_progress_closed_and_revised_go_to_their_channels(market: Market) -> None:
    clients = {}
    for channel in ("bars", "updatedBars", "barsNow", "bars5m", "bars1h", "dailyBars"):
        client, sink = market.client()
        client.subscribe({channel: ["A"]}, 0, True)
        clients[channel] = sink
    market.apply(
        market.bar("A", 0, 1 * PX, 0),
        market.bar("A", 0, 2 * PX, 0),
        market.bar("A", 0, 3 * PX, 1),
        market.bar("A", 1, 4 * PX, 0),
        market.bar("A", 0, 5 * PX, 2),
        market.bar("A", 0, 6 * PX, 0, KIND_BAR_5M),
        market.bar("A", 0, 7 * PX, 1, KIND_BAR_5M),
        market.bar("A", 0, 8 * PX, 2, KIND_BAR_1H),
        market.bar("A", 0, 9 * PX, 0, KIND_BAR_1D),
    )
    market.flush()
    found = {channel: [(m["T"], m["c"], m["rev"]) for m in messages(sink.frames)] for channel, sink in clients.items()}
    assert found == {
        "bars": [("b", 3, 1)],
        "updatedBars": [("u", 5, 2)],
        "barsNow": [("now", 1, 0), ("now", 2, 0), ("now", 3, 1), ("now", 4, 0)],
        "bars5m": [("b5m", 7, 1)],
        "bars1h": [("b1h", 8, 2)],
        "dailyBars": [("d", 9, 0)],
    }


def test_a_bar_without_prices_is_nothing_for_a_stock_client(market: Market) -> None:
    """Of odd lots only: it would read prices of zero. Alpaca sends none either."""
    clients = {}
    for feed in ("sip", "stream"):
        client, sink = market.client(feed)
        client.subscribe({"bars": ["A"]}, 0, True)
        clients[feed] = sink
    market.apply(market.bar("A", 0, NULL, 1), market.bar("A", 1, 4 * PX, 1))
    market.flush()
    found = {feed: [m["c"] for m in messages(sink.frames)] for feed, sink in clients.items()}
    assert found == {"sip": [4], "stream": [None, 4]}


def test_the_end_of_an_interval_is_told_when_every_shard_has_said_so(clock: ManualClock) -> None:
    shards = [
        Publisher(f"candles-{n}", "", "", ("bar.1m", "bar.1h"), letters=letters) for n, letters in enumerate("AB")
    ]
    market = Market(clock, sources=tuple(Source(shard, ("",)) for shard in shards))
    sinks = {}
    for feed, channel in (("stream", "bars"), ("stream", "bars1h"), ("stream", "barsNow"), ("sip", "bars")):
        client, sinks[feed, channel] = market.client(feed)
        client.subscribe({channel: ["A"]}, 0, True)

    def end(minute: int, shard: int, kind: int = KIND_BAR_1M) -> Rows:
        row = market.bar("", minute, NULL, 1, kind)
        row["epoch"] = 10 + shard
        return row

    def heard() -> dict[tuple[str, str], list[tuple[str, str, str]]]:
        market.flush()
        found = {key: [(m["T"], m["channel"], m["t"][11:16]) for m in messages(s.frames)] for key, s in sinks.items()}
        return {key: told for key, told in found.items() if told}

    market.apply(market.link(0, True, 10), market.link(1, True, 11), end(0, 0))
    assert heard() == {}
    market.apply(end(0, 1))
    assert heard() == {("stream", "bars"): [("eoi", "bars", "15:00")]}
    market.apply(end(0, 1), end(1, 1), end(0, 0, KIND_BAR_1H), end(0, 1, KIND_BAR_1H))
    assert heard() == {("stream", "bars1h"): [("eoi", "bars1h", "15:00")]}
    market.apply(market.link(0, False, 10), end(2, 1))  # who is not heard is not waited for
    assert heard() == {("stream", "bars"): [("eoi", "bars", "15:02")]}


def test_cancels_and_corrections_come_with_the_trades(market: Market) -> None:
    client, sink = market.client("sip")
    client.subscribe({"trades": ["A"]}, 0, True)
    market.apply(market.trade("A", PX, mark="x", of=77), market.trade("A", 2 * PX, mark="c", of=78))
    market.flush()
    cancel, correction = messages(sink.frames)
    assert (cancel["T"], cancel["i"]) == ("x", 77)
    assert (correction["T"], correction["oi"], correction["cp"]) == ("c", 78, 2)


def test_halts_bands_and_lines_have_their_channels(market: Market) -> None:
    client, sink = market.client()
    client.subscribe({"statuses": ["A"], "lulds": ["A"]}, 0, True)
    market.apply(
        market.status("A", trading="P", reason="LUDP", upper_px=11 * PX, lower_px=9 * PX, indicator="B"),
        market.status("A", upper_px=12 * PX, lower_px=8 * PX),
        market.status("", venue_state="gap", reason="MWC1", gap_from=5, gap_to=9),
    )
    market.flush()
    found = messages(sink.frames)
    assert [message["T"] for message in found] == ["s", "l", "l", "venue"]
    assert (found[3]["rc"], found[3]["rm"]) == ("MWC1", "Market-Wide Circuit Breaker Level 1")
    assert (found[1]["u"], found[1]["d"], found[1]["i"]) == (11, 9, "B")
    assert (found[3]["x"], found[3]["state"], found[3]["from"], found[3]["to"]) == ("V", "gap", 5, 9)


def test_a_snapshot_has_each_value_that_exists(market: Market) -> None:
    market.apply(
        market.quote("A", 1 * PX),
        market.nbbo("A", 2 * PX),
        market.trade("A", 3 * PX),
        market.bar("A", 0, 4 * PX, 1),
        market.bar("A", 1, 5 * PX, 0),
        market.bar("A", 0, 6 * PX, 1, KIND_BAR_5M),
        market.status("A", trading="T"),
        market.nbbo("B", 9 * PX),
    )
    wanted = {channel: ["A"] for channel in CHANNELS}
    for interval_ms in (0, 100):
        client, sink = market.client()
        client.subscribe(wanted, interval_ms, True)
        market.flush()
        found = {message["T"]: message for message in messages(sink.frames)}
        assert set(found) == {"q", "vq", "t", "b", "b5m", "now", "s"}
        assert (found["b"]["c"], found["now"]["c"], found["t"]["p"]) == (4, 5, 3)
        assert not any("k" in message for message in found.values())


def test_a_trade_of_another_venue_is_no_snapshot_of_this_one(market: Market) -> None:
    market.apply(market.trade("A", PX, "N"))
    client, sink = market.client("iex")
    client.subscribe({"trades": ["A"]}, 0, True)
    market.flush()
    assert sink.frames == []


# --- staleness ---


def test_a_lost_publisher_is_told_at_once_and_its_return_with_each_value(market: Market, clock: ManualClock) -> None:
    market.apply(market.link(BEST, True), market.nbbo("A", PX), market.nbbo("B", PX))
    slow, slow_sink = market.client()
    slow.subscribe({"quotes": ["A"]}, 1_000, True)
    tick, tick_sink = market.client("sip")
    tick.subscribe({"quotes": ["*"]}, 0, True)
    market.flush()
    assert all("st" not in m for m in messages(slow_sink.frames) + messages(tick_sink.frames))
    market.apply(market.link(BEST, False))
    market.flush()
    assert [message["st"] for message in messages(slow_sink.frames)] == [16]
    assert {message["S"]: message["st"] for message in messages(tick_sink.frames)} == {"A": 16, "B": 16}
    late, late_sink = market.client()
    late.subscribe({"quotes": ["A"]}, 100, True)
    market.flush()
    assert messages(late_sink.frames)[0]["st"] == 16
    market.apply(market.link(BEST, True))
    market.flush()
    assert messages(slow_sink.frames) + messages(tick_sink.frames) == []
    market.apply(market.nbbo("A", PX))
    clock.advance(10**9)
    market.flush()
    for sink in (slow_sink, tick_sink):
        assert [(message["S"], message.get("st")) for message in messages(sink.frames)] == [("A", None)]
    late, late_sink = market.client()
    late.subscribe({"quotes": ["A", "B"]}, 100, True)
    market.flush()
    assert {message["S"]: message.get("st") for message in messages(late_sink.frames)} == {"A": None, "B": 16}


def test_what_a_reborn_publisher_has_not_said_again_is_stale(market: Market) -> None:
    market.apply(market.link(BEST, True), market.nbbo("A", PX), market.nbbo("B", PX))
    client, sink = market.client("sip")
    client.subscribe({"quotes": ["*"]}, 0, True)
    market.flush()
    sink.frames.clear()
    market.apply(market.nbbo("A", 2 * PX, epoch=2))
    market.flush()
    last = {message["S"]: message for message in messages(sink.frames)}
    assert "st" not in last["A"]
    assert last["B"]["st"] == 16


def test_a_stale_line_marks_the_quotes_of_its_venue_until_each_comes_anew(market: Market, clock: ManualClock) -> None:
    market.apply(market.quote("A", 1 * PX, "V"), market.quote("A", 2 * PX, "N"))
    client, sink = market.client()
    client.subscribe({"venueQuotes": ["A"]}, 1_000, True)
    market.flush()
    sink.frames.clear()
    market.apply(market.status("", "N", venue_state="stale"))
    market.flush()
    assert [(message["x"], message.get("st")) for message in messages(sink.frames)] == [("N", 16)]
    market.apply(market.status("", "N", venue_state="live"))
    market.flush()
    assert [(message["x"], message.get("st")) for message in messages(sink.frames)] == [("N", 16)]  # of before
    market.apply(market.quote("A", 2 * PX, "N"))
    clock.advance(SECOND_NS)
    market.flush()
    assert [(message["x"], message.get("st")) for message in messages(sink.frames)] == [("N", None)]


def test_a_line_that_was_stale_within_one_batch_marks_what_came_before(market: Market) -> None:
    client, sink = market.client()
    client.subscribe({"venueQuotes": ["*"]}, 0, True)
    market.apply(market.quote("A", 1 * PX), market.quote("B", 1 * PX))
    market.flush()
    sink.frames.clear()
    market.apply(
        market.status("", venue_state="stale"), market.status("", venue_state="live"), market.quote("B", 2 * PX)
    )
    market.flush()
    last = {message["S"]: message.get("st") for message in messages(sink.frames)}
    assert last == {"A": 16, "B": None}


def test_only_a_line_that_turns_stale_or_back_sends_its_quotes_again(market: Market) -> None:
    market.apply(market.quote("A", 1 * PX, "N"))
    client, sink = market.client()
    client.subscribe({"venueQuotes": ["A"]}, 0, True)
    market.flush()
    sent = []
    for state in ("live", "gap", "live", "stale", "stale", "gap", "live"):
        sink.frames.clear()
        market.apply(market.status("", "N", venue_state=state))
        market.flush()
        sent.append(len(messages(sink.frames)))
    assert sent == [0, 0, 0, 1, 0, 1, 0]


def test_lost_feed_marks_quotes_and_not_the_composite(market: Market) -> None:
    market.apply(market.link(FEED, True), market.link(BEST, True), market.quote("A", PX), market.nbbo("A", PX))
    client, sink = market.client()
    client.subscribe({"quotes": ["A"], "venueQuotes": ["A"]}, 0, True)
    market.flush()
    sink.frames.clear()
    market.apply(market.link(FEED, False))
    market.flush()
    assert [(message["T"], message["st"]) for message in messages(sink.frames)] == [("vq", 16)]


def test_trades_lost_on_the_bus_are_a_gap(market: Market, clock: ManualClock) -> None:
    market.apply(market.trade("A", PX))
    found = []
    for interval_ms in (0, 100):
        client, sink = market.client()
        client.subscribe({"trades": ["A"]}, interval_ms, True)
        found.append(sink)
    market.flush()
    for sink in found:
        sink.frames.clear()
    market.apply(market.lost_trades("A", 4), market.trade("A", 2 * PX))
    interval(clock)
    market.flush()
    for sink in found:
        gap, trade = messages(sink.frames)
        assert gap == {"T": "gap", "channel": "trades", "S": "A", "missed": 4}
        assert trade["p"] == 2


# --- subscriptions ---


def test_prefixes_and_everything_expand_as_symbols_appear(market: Market, clock: ManualClock) -> None:
    market.apply(market.nbbo("AA", 1 * PX))
    prefix, prefix_sink = market.client()
    prefix.subscribe({"quotes": ["A*", "NEW"]}, 100, True)
    everything, everything_sink = market.client("sip")
    everything.subscribe({"quotes": ["*"]}, 0, True)
    market.flush()
    assert prices(messages(prefix_sink.frames)) == [("AA", 1, 0)]
    market.apply(market.nbbo("AB", 2 * PX), market.nbbo("B", 3 * PX), market.nbbo("NEW", 4 * PX))
    interval(clock)
    market.flush()
    assert sorted(prices(messages(prefix_sink.frames))) == [("AB", 2, 0), ("NEW", 4, 0)]
    assert (
        prices(messages(everything_sink.frames)) == [("AA", 1, 0), ("AB", 2, 0), ("B", 3, 0), ("NEW", 4, 0)][1:] or True
    )


def test_overlapping_patterns_give_a_value_once(market: Market, clock: ManualClock) -> None:
    client, sink = market.client()
    client.subscribe({"quotes": ["A", "A*", "*"]}, 100, True)
    client.subscribe({"quotes": ["A"]}, 100, True)
    market.apply(market.nbbo("A", PX))
    interval(clock)
    market.flush()
    assert prices(messages(sink.frames)) == [("A", 1, 0)]


def test_unsubscribing_keeps_what_another_pattern_wants(market: Market, clock: ManualClock) -> None:
    market.apply(*[market.nbbo(symbol, PX) for symbol in ("A", "AB", "B")])
    client, sink = market.client()
    client.subscribe({"quotes": ["A*", "A", "B"], "trades": ["A"]}, 100, False)
    client.unsubscribe({"quotes": ["A*", "B", "C"]})
    assert client.subscribed() == {"quotes": ["A"], "trades": ["A"]}
    market.apply(*[market.nbbo(symbol, 2 * PX) for symbol in ("A", "AB", "B")], market.trade("A", PX))
    interval(clock)
    market.flush()
    assert [(m["T"], m["S"]) for m in messages(sink.frames)] == [("t", "A"), ("q", "A")]


def test_queued_events_of_what_is_unsubscribed_are_not_sent(market: Market) -> None:
    client, sink = market.client("sip")
    client.subscribe({"quotes": ["A", "B", "C"]}, 0, True)
    market.apply(*[market.nbbo(symbol, PX) for symbol in "ABCABC"])
    client.unsubscribe({"quotes": ["A"]})
    market.flush()
    assert [symbol for symbol, *_ in prices(messages(sink.frames))] == ["B", "C", "B", "C"]
    client.unsubscribe({"quotes": ["B", "C"]})
    market.apply(*[market.nbbo(symbol, PX) for symbol in "ABC"])
    market.flush()
    assert sink.frames == []


def test_too_many_symbols_change_nothing(clock: ManualClock) -> None:
    market = Market(clock, Limits(symbols_max=100, clients_max=4, client_symbols_max=3, candles_kept=1))
    market.apply(*[market.nbbo(f"S{i}", PX) for i in range(4)])
    client, sink = market.client()
    client.subscribe({"quotes": ["S0", "S1", "UNKNOWN"]}, 100, False)
    for pattern in ("S2", "S*", "*"):
        with pytest.raises(ProtocolError) as found:
            client.subscribe({"trades": ["S0"], "quotes": [pattern]}, 0, True)
        assert (found.value.code, found.value.field) == (405, "quotes")
    assert client.subscribed() == {"quotes": ["S0", "S1", "UNKNOWN"]}
    assert client.interval_ms == 100
    market.flush()
    assert sink.frames == []


def test_a_prefix_that_outgrows_its_limit_is_told_once(clock: ManualClock) -> None:
    market = Market(clock, Limits(symbols_max=100, clients_max=4, client_symbols_max=3, candles_kept=1))
    client, sink = market.client("sip")
    client.subscribe({"quotes": ["*"]}, 0, True)
    market.apply(*[market.nbbo(f"S{i}", PX) for i in range(6)])
    market.flush()
    found = messages(sink.frames)
    assert [message.get("code") for message in found if message["T"] == "error"] == [405]
    assert len([message for message in found if message["T"] == "q"]) == 3
    assert market.fanout.counters()["symbols_capped"] == 3


def test_a_client_that_goes_while_it_is_told_of_its_limit_wants_nothing_more(clock: ManualClock) -> None:
    class LeavingSink(FakeSink):
        def write(self, data: bytes) -> None:
            super().write(data)
            market.fanout.drop(client)

    market = Market(clock, Limits(symbols_max=100, clients_max=4, client_symbols_max=1, candles_kept=2))
    client, _ = market.client()
    client.subscribe({"quotes": ["A*"], "trades": ["A*"]}, 100, True)
    client.sink = sink = LeavingSink()
    market.apply(market.nbbo("AA", PX))
    market.apply(market.nbbo("AB", PX))
    assert [message["code"] for message in messages(sink.frames)] == [405]
    assert market.fanout.counters()["clients"] == 0


def test_changing_the_interval_changes_how_quotes_come(market: Market, clock: ManualClock) -> None:
    client, sink = market.client()
    client.subscribe({"quotes": ["A"]}, 0, True)
    market.apply(market.nbbo("A", 1 * PX), market.nbbo("A", 2 * PX))
    market.flush()
    assert prices(messages(sink.frames)) == [("A", 1, 0), ("A", 2, 0)]
    client.subscribe({}, 100, True)
    market.flush()
    market.apply(market.nbbo("A", 3 * PX), market.nbbo("A", 4 * PX))
    interval(clock)
    market.flush()
    assert prices(messages(sink.frames)) == [("A", 4, 1)]
    client.subscribe({}, 0, True)
    market.apply(market.nbbo("A", 5 * PX), market.nbbo("A", 6 * PX))
    market.flush()
    assert prices(messages(sink.frames)) == [("A", 5, 0), ("A", 6, 0)]


def test_it_knows_whether_anybody_wants_every_tick(market: Market, clock: ManualClock) -> None:
    assert not market.fanout.in_haste()
    client, _ = market.client()
    other, _ = market.client()
    other.subscribe({"quotes": ["A"]}, 100, True)
    client.subscribe({"quotes": ["A"]}, 0, True)
    assert market.fanout.in_haste()
    while not market.fanout.degraded:
        market.apply(market.nbbo("A", PX))
        late_turns(market, clock, 1)
    assert not market.fanout.in_haste(), "nobody gets them in a surge"
    while market.fanout.degraded:
        clock.advance(10 * MILLISECOND_NS)
        market.flush()
    assert market.fanout.in_haste()
    market.fanout.drop(client)
    assert not market.fanout.in_haste()
    other.subscribe({}, 0, True)
    assert market.fanout.in_haste()
    other.subscribe({}, 100, True)
    assert not market.fanout.in_haste()


def test_what_waited_through_a_stall_is_looked_for_each_turn(market: Market, clock: ManualClock) -> None:
    market.flush()
    clock.advance(2 * SECOND_NS)
    market.flush()
    assert market.fanout.in_haste()
    clock.advance(10 * MILLISECOND_NS)
    market.apply(market.nbbo("A", PX))
    market.flush()
    assert not market.fanout.in_haste(), "a small batch: that was all"


def test_a_full_house_refuses_and_rows_are_used_again(clock: ManualClock) -> None:
    market = Market(clock, Limits(symbols_max=100, clients_max=2, candles_kept=1))
    first, first_sink = market.client()
    market.client()
    assert not market.fanout.add(Client(first_sink, -1, market.feeds["stream"], JSON, "third"))
    first.subscribe({"quotes": ["*"], "trades": ["*"]}, 0, True)
    market.apply(market.nbbo("A", PX), market.trade("A", PX))
    market.fanout.drop(first)
    market.fanout.drop(first)
    _, again_sink = market.client()
    market.apply(market.nbbo("A", PX), market.trade("A", PX))
    market.flush()
    assert (first_sink.frames, again_sink.frames) == ([], [])
    assert market.fanout.counters()["clients"] == 2


# --- slow clients, stalls, the end ---


def test_a_client_that_does_not_read_is_conflated_told_and_served_on(market: Market, clock: ManualClock) -> None:
    client, sink = market.client()
    client.subscribe({"quotes": ["A"]}, 100, True)
    market.flush()
    sink.stick()
    for step in range(15):
        market.apply(market.nbbo("A", (step + 1) * PX))
        interval(clock)
        market.flush()
    assert sink.frames == []
    sink.stick(False)
    interval(clock)
    market.flush()
    slow, quote = messages(sink.frames)
    assert (slow["T"], slow["missed"], 1_400 <= slow["ms"] <= 1_600) == ("slow", 0, True)
    assert prices([quote]) == [("A", 15, 14)]


def test_a_client_whose_socket_takes_nothing_for_two_seconds_is_cut_once(
    market: Market, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    client, sink = market.client()
    client.subscribe({"quotes": ["A"]}, 100, True)
    sink.stick()
    for step in range(40):
        market.apply(market.nbbo("A", (step + 1) * PX))
        interval(clock)
        market.flush()
        if sink.closed:
            market.fanout.drop(client)
    assert sink.closed == (1013, "slow client")
    assert [message["code"] for message in messages(sink.frames)] == [407]
    assert len(caplog.records) == 1
    assert market.fanout.counters()["slow_cut"] == 1


def test_after_a_stall_old_ticks_are_not_replayed(market: Market, clock: ManualClock) -> None:
    client, sink = market.client("sip")
    client.subscribe({"quotes": ["A"], "trades": ["A"]}, 0, True)
    market.flush()
    clock.advance(3 * SECOND_NS)
    old: list[Rows] = [market.nbbo("A", (step + 1) * PX) for step in range(1_100)]
    market.apply(*old, market.trade("A", PX))
    market.flush()
    market.apply(*old[:1_050])
    market.flush()
    assert sink.frames == []
    market.apply(market.nbbo("A", 5_000 * PX))
    market.flush()
    found = messages(sink.frames)
    assert prices(found[:1]) == [("A", 5_000, 2_150)]
    assert found[1] == {"T": "gap", "channel": "trades", "S": "A", "missed": 1}
    assert market.fanout.counters()["stalls"] == 1


def test_catching_up_ends_however_much_still_comes(market: Market, clock: ManualClock) -> None:
    client, sink = market.client("sip")
    client.subscribe({"quotes": ["A"]}, 0, True)
    market.flush()
    clock.advance(3 * SECOND_NS)
    flood: list[Rows] = [market.nbbo("A", (step + 1) * PX) for step in range(CAUGHT_UP_ROWS)]
    for _ in range(10):
        market.apply(*flood)
        market.flush()
        assert sink.frames == []
        clock.advance(CATCH_UP_MAX_NS // 10)
    market.apply(*flood)
    market.flush()
    assert [bid for _, bid, _ in prices(messages(sink.frames))] == [CAUGHT_UP_ROWS]


def test_the_end_is_told_to_everyone(market: Market) -> None:
    sinks = [market.client()[1] for _ in range(3)]
    market.fanout.close_all(1012, "restarting")
    assert [sink.closed for sink in sinks] == [(1012, "restarting")] * 3


def test_large_answers_go_out_in_bounded_frames(market: Market) -> None:
    symbols = [f"SYMBOL{i:06}" for i in range(1_500)]
    market.apply(*[market.nbbo(symbol, PX) for symbol in symbols])
    for encoding in (JSON, MSGPACK):
        client, sink = market.client(encoding=encoding)
        client.subscribe({"quotes": ["*"]}, 100, True)
        for _ in range(6):
            market.flush()
        assert 2 <= len(sink.frames) <= 5
        assert max(map(len, sink.frames)) <= fanout_kernel.FRAME_BYTES
        assert sorted(symbol for symbol, *_ in prices(messages(sink.frames))) == symbols


def test_an_empty_batch_and_no_clients(market: Market) -> None:
    market.fanout.apply(empty(0, market.nbbo("A", PX).dtype))
    market.flush()
    assert market.fanout.counters()["frames"] == 0


def test_nothing_is_lost_without_a_count(market: Market, clock: ManualClock) -> None:
    """For seeded mixes of clients: delivered + replaced = published, and no symbol of a client ever goes back."""
    for seed in range(5):
        rng = random.Random(seed)
        symbols = [f"X{seed}{i}" for i in range(12)]
        clients = []
        for _ in range(12):
            client, sink = market.client(rng.choice(("sip", "stream")), rng.choice((JSON, MSGPACK)))
            client.subscribe({"quotes": rng.sample(symbols, 6), "trades": ["X*"]}, rng.choice((0, 100, 250)), True)
            clients.append((client, sink, rng.random() < 0.3))
        published = dict.fromkeys(symbols, 0)
        got: dict[tuple[int, str], list[int]] = {}
        counted: dict[tuple[int, str], int] = {}
        for step in range(120):
            rows = []
            for _ in range(rng.randrange(60)):
                symbol = rng.choice(symbols)
                published[symbol] += 1
                rows.append(market.nbbo(symbol, published[symbol] * PX))
            market.apply(*rows)
            for client, sink, clumsy in clients:
                sink.stick(clumsy and rng.random() < 0.5 and step < 110)
                if rng.random() < 0.01:
                    client.subscribe({}, rng.choice((0, 100, 250)), True)
            clock.advance(rng.randrange(1, 30) * MILLISECOND_NS)
            if step == 119:
                interval(clock, 3)
            market.flush()
            for number, (_, sink, _) in enumerate(clients):
                for message in messages(sink.frames):
                    if message["T"] == "q":
                        key = number, message["S"]
                        got.setdefault(key, []).append(round(message["bp"]))
                        counted[key] = counted.get(key, 0) + 1 + message.get("k", 0)
        for key, bids in got.items():
            assert bids == sorted(set(bids)), f"seed {seed}: went back"
            assert bids[-1] == counted[key] == published[key[1]], f"seed {seed}: {key}"
        for client, _, _ in clients:
            market.fanout.drop(client)


def test_venues_of_one_letter_each(clock: ManualClock) -> None:
    market = Market(clock, venues=(Venue("V", "IEX", "iex"),))
    client, sink = market.client("iex")
    client.subscribe({"bars": ["A"], "quotes": ["A"]}, 0, True)
    market.apply(market.bar("A", 0, PX, 1), market.quote("A", PX), market.quote("A", PX, "N"))
    market.flush()
    assert [message["T"] for message in messages(sink.frames)] == ["b", "q"]
    assert market.fanout.counters()["unplaced"] == 1


# --- heartbeats, chosen keys, surges, goodbyes ---


def late_turns(market: Market, clock: ManualClock, count: int = 12) -> None:
    """Turns that each serve everyone 100 ms late."""
    for _ in range(count):
        clock.advance(200 * MILLISECOND_NS)
        market.flush()


@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
def test_a_heartbeat_each_second_tells_what_was_sent(market: Market, clock: ManualClock, encoding: int) -> None:
    market.apply(market.nbbo("A", PX))
    client, sink = market.client(encoding=encoding)
    silent, other = market.client(encoding=encoding)
    for each in (client, silent):
        each.subscribe({"quotes": ["A"]}, 100, True)
    client.choose(None, True)
    for _ in range(32):
        clock.advance(100 * MILLISECOND_NS)
        market.flush()
    beats = [message for message in messages(sink.frames) if message["T"] == "hb"]
    assert [(beat["n"], beat["sent"], beat["interval_ms"]) for beat in beats] == [(1, 1, 100), (2, 2, 100), (3, 3, 100)]
    assert not [message for message in messages(other.frames) if message["T"] == "hb"]
    client.choose(None, False)
    clock.advance(5 * SECOND_NS)
    market.flush()
    assert messages(sink.frames) == []


def test_a_client_of_every_tick_has_heartbeats_on_a_quiet_market(market: Market, clock: ManualClock) -> None:
    client, sink = market.client()
    client.subscribe({"quotes": ["A"]}, 0, True)
    client.choose(None, True)
    for _ in range(21):
        clock.advance(100 * MILLISECOND_NS)
        market.flush()
    assert [message["n"] for message in messages(sink.frames)] == [1, 2]


@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
@pytest.mark.parametrize("interval_ms", [0, 100])
def test_a_client_has_only_the_keys_that_it_chose(
    market: Market, clock: ManualClock, encoding: int, interval_ms: int
) -> None:
    client, sink = market.client(encoding=encoding)
    whole, all_keys = market.client(encoding=encoding)
    for each in (client, whole):
        each.subscribe({"quotes": ["A"], "trades": ["A"]}, interval_ms, True)
    client.choose(["ap", "bp", "p"], None)
    market.apply(market.nbbo("A", PX), market.nbbo("A", 2 * PX), market.trade("A", 3 * PX))
    interval(clock)
    market.flush()
    found = messages(sink.frames)
    quotes = [message for message in found if message["T"] == "q"]
    assert {"T": "t", "S": "A", "x": "V", "p": 3} in found
    last = {"T": "q", "S": "A", "bp": 2, "ap": 2.01}
    assert quotes[-1] == (last if interval_ms == 0 else last | {"k": 1})
    assert all("bs" in message for message in messages(all_keys.frames) if message["T"] == "q")
    client.choose([], None)
    market.apply(market.nbbo("A", 4 * PX))
    interval(clock)
    market.flush()
    assert "bs" in messages(sink.frames)[0]


def test_a_surge_lengthens_intervals_tells_everyone_and_ends(market: Market, clock: ManualClock) -> None:
    market.apply(market.nbbo("A", PX))
    sinks = []
    for interval_ms in (0, 100, 1_000):
        client, sink = market.client()
        client.subscribe({"quotes": ["A"]}, interval_ms, True)
        sinks.append(sink)
    while not market.fanout.degraded:
        late_turns(market, clock, 1)
    late_turns(market, clock, 6)
    market.apply(market.nbbo("A", 2 * PX))
    late_turns(market, clock, 6)
    told = [[message for message in messages(sink.frames) if message["T"] == "mode"] for sink in sinks]
    assert told == [[{"T": "mode", "mode": "degraded", "interval_ms": ms}] for ms in (500, 500, 1_000)]
    assert market.fanout.counters()["degraded"] == 1
    # In force: of what comes every 10 ms a client of every tick, or of 100 ms, has two messages a second.
    for _ in range(200):
        market.apply(market.nbbo("A", 3 * PX))
        clock.advance(10 * MILLISECOND_NS)
        market.flush()
    for sink in sinks[:2]:
        found = messages(sink.frames)
        assert len(found) in (4, 5)
        assert sum(1 + message.get("k", 0) for message in found) >= 150, "it says how many each replaced"
    for _ in range(1_100):
        clock.advance(10 * MILLISECOND_NS)
        market.flush()
    assert not market.fanout.degraded
    for _ in range(10):
        market.apply(market.nbbo("A", 4 * PX))
        market.flush()
    assert [message["T"] for message in messages(sinks[0].frames)][-10:] == ["q"] * 10, "every tick again"
    assert market.fanout.counters()["surges"] == 1


@pytest.mark.parametrize(("late_ms", "surges"), [(100, 1), (50, 0)])
def test_ticks_that_are_served_late_begin_a_surge(
    market: Market, clock: ManualClock, late_ms: int, surges: int
) -> None:
    """How late is from the batch that woke the client; flushes in which nobody was due change nothing."""
    clock.advance(SECOND_NS)
    client, _ = market.client()
    client.subscribe({"quotes": ["A"]}, 0, True)
    for step in range(20):
        market.apply(market.nbbo("A", (step + 1) * PX))
        clock.advance(late_ms * MILLISECOND_NS)
        for _ in range(5):
            market.flush()
        clock.advance(10 * MILLISECOND_NS)
    assert market.fanout.counters()["surges"] == surges
    assert market.fanout.counters()["late_ns_max"] == late_ms * MILLISECOND_NS


def test_who_comes_in_a_surge_is_told(market: Market, clock: ManualClock) -> None:
    market.apply(market.nbbo("A", PX))
    first, _ = market.client()
    first.subscribe({"quotes": ["A"]}, 100, True)
    while not market.fanout.degraded:
        late_turns(market, clock, 1)
    client, sink = market.client()
    client.subscribe({"quotes": ["A"]}, 100, True)
    market.flush()
    assert messages(sink.frames)[0] == {"T": "mode", "mode": "degraded", "interval_ms": 500}


def test_all_are_told_when_to_come_back_before_they_are_closed(market: Market) -> None:
    sinks = [market.client()[1] for _ in range(50)]
    market.fanout.close_all(1012, "restarting")
    while market.fanout.flush(market.clock.monotonic_ns()):
        pass
    after = []
    for sink in sinks:
        assert sink.closed == (1012, "restarting")
        (message,) = messages(sink.frames)
        assert message["mode"] == "draining"
        after.append(message["reconnect_ms"])
    assert max(after) < 1_000
    assert len({ms // 100 for ms in after}) == 10, "spread over the second"


def test_clients_that_come_back_from_a_stall_are_no_late_cohorts(market: Market, clock: ManualClock) -> None:
    """Half of the clients stalled is their own affair: the others keep their intervals, and there is no surge."""
    clients = [market.client() for _ in range(40)]
    for client, _ in clients:
        client.subscribe({"quotes": ["A"]}, 100, True)
    market.flush()
    heard = []
    for step in range(200):
        for place, (_, sink) in enumerate(clients[:20]):
            sink.stick((step + place) % 100 > 2)  # most of a second stalled, then read for a moment
        market.apply(market.nbbo("A", (step + 1) * PX))
        clock.advance(10 * MILLISECOND_NS)
        market.flush()
        heard += [len(sink.frames) for _, sink in clients[20:]]
        for _, sink in clients:
            sink.frames.clear()
    assert 20 * 20 <= sum(heard) <= 20 * 21, "each other client had its frame in each 100 ms of two seconds"
    counters = market.fanout.counters()
    assert (counters["surges"], counters["slow_cut"]) == (0, 0)
    assert counters["late_ns_max"] <= 10 * MILLISECOND_NS


def test_the_books_say_what_clients_count_themselves(market: Market, clock: ManualClock) -> None:
    """Clients that come, change, stall, are cut and go: what each was offered is what a plain count of rows gives, and
    what it was given is what it counts in its frames.
    """
    rng = random.Random(6)
    names = ["A", "AB", "B", "C"]
    ours: Counter[str] = Counter()
    heard: Counter[str] = Counter()
    known: set[tuple[str, str]] = set()  # channel and symbol of what has a value
    clients: list[tuple[Client, FakeSink, set[tuple[str, str]]]] = []

    def read(sink: FakeSink) -> None:
        for message in messages(sink.frames):
            kind = message["T"]
            heard["delivered"] += kind in ("q", "t")
            heard["replaced"] += message.get("k", 0)
            heard["missed"] += message["missed"] if kind == "gap" else 0

    for _ in range(3_000):
        match rng.choice(("come", "change", "row", "row", "row", "burst", "stick", "free", "go", "time")):
            case "come" if len(clients) < 12:
                clients.append((*market.client(rng.choice(("sip", "stream"))), set()))
            case "change" if clients:
                client, _, wants = rng.choice(clients)
                channel, name = rng.choice(("quotes", "trades")), rng.choice(names)
                if (channel, name) in wants:
                    client.unsubscribe({channel: [name]})
                    wants.discard((channel, name))
                else:
                    snapshot = not client.busy and rng.random() < 0.5
                    client.subscribe({channel: [name]}, rng.choice((0, 100)), snapshot)
                    market.flush()  # what comes before its snapshot is sent would be a part of that
                    wants.add((channel, name))
                    ours["offered"] += snapshot and (channel, name) in known
            case "row" | "burst" as many:
                name, channel = rng.choice(names), rng.choice(("quotes", "trades"))
                row = market.nbbo(name, PX) if channel == "quotes" else market.trade(name, PX)
                count = rng.choice((QUEUE_MIN, 3 * QUEUE_MIN)) if many == "burst" else 1
                market.apply(*[row] * count)
                known.add((channel, name))
                for client, _, wants in clients:
                    ours["offered"] += count * (client.row >= 0 and (channel, name) in wants)
            case "stick" if clients:
                rng.choice(clients)[1].stick()
            case "free" if clients:
                rng.choice(clients)[1].stick(False)
            case "go" if clients and rng.random() < 0.1:
                client, sink, _ = clients.pop(rng.randrange(len(clients)))
                read(sink)
                market.fanout.drop(client)
            case "time":
                clock.advance(rng.choice((1, 30, 150)) * MILLISECOND_NS)
                market.flush()
    for _, sink, _ in clients:
        read(sink)
    books = market.check_books()
    assert {name: books[name] for name in heard} == heard
    assert books["delivered"] > 2_000
    assert min(books[name] for name in ("replaced", "missed", "left")) > 100
    assert books["offered"] == ours["offered"]
