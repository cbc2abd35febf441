"""REST answers, built from memory by pure functions: values, staleness, errors, parameters; and the store behind it."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fabric.clock import SECOND_NS
from fabric.errors import StoreError
from fabric.records import (
    EVENT,
    KIND_LINK,
    KIND_NBBO,
    LINK,
    NBBO,
    NULL,
    STATE_HALTED,
    STATE_LOCKED,
    STATE_STALE,
    empty,
    pack,
    venue_mask,
)
from fabric.symbols import SymbolTable
from fabric.topology import CacheSettings, GatewaySettings, Limits, NodeSpec, Publisher, Source, Topology, Venue
from gateway import rest
from gateway.latest import Latest
from gateway.rest import Problem, StoreReader

NOW_NS = 1_704_567_890 * SECOND_NS
EVENT_NS = NOW_NS - 250_000_001
LIMITS = Limits(symbols_max=16, candles_kept=50)
PUBLISHER = Publisher("nbbo-a-h", "tcp://127.0.0.1:5502", "tcp://127.0.0.1:5503", ("nbbo", "bar.1m"))


@pytest.fixture
def latest() -> Latest:
    symbols = SymbolTable(LIMITS.symbols_max)
    for name in ("AAPL", "BRK.B", "AA"):
        symbols.intern(name)
    return Latest(LIMITS, [Venue("V", "IEX", "iex")], [Source(PUBLISHER, ("",))], symbols)


def put(latest: Latest, name: str = "AAPL", **columns: int) -> None:
    row = empty(1, NBBO, KIND_NBBO)
    values = {
        "symbol": latest.symbols.intern(name),
        "seq": 3,
        "epoch": 1,
        "event_ns": EVENT_NS,
        "recv_ns": NOW_NS - 200_000_000,
        "bid_px": 185_500_000_000,
        "bid_size": 300,
        "bid_venue": pack("V"),
        "ask_px": 185_520_000_000,
        "ask_size": 100,
        "ask_venue": pack("P"),
        "last_px": 185_510_000_000,
        "state": 0,
        "scope": venue_mask("VP"),
    }
    for column, value in (values | columns).items():
        row[column] = value
    latest.apply(row.view(EVENT), NOW_NS)


def problem_of(call: Callable[[], object]) -> Problem:
    with pytest.raises(Problem) as caught:
        call()
    return caught.value


# Quotes


def test_a_live_quote_in_the_words_of_the_contract(latest: Latest) -> None:
    put(latest)
    assert rest.quote(latest, "AAPL", NOW_NS) == {
        "symbol": "AAPL",
        "kind": "composite",
        "bid": 185.5,
        "ask": 185.52,
        "bid_size": 300,
        "ask_size": 100,
        "bid_venue": "V",
        "ask_venue": "P",
        "last": 185.51,
        "ts": 1_704_567_889.75,  # the double that is nearest
        "t": "2024-01-06T19:04:49.749999999Z",
        "age_ms": 200,
        "state": "live",
        "flags": [],
        "scope": "PV",
        "seq": 3,
        "epoch": 1,
    }


def test_a_side_that_does_not_exist_is_null_and_never_zero(latest: Latest) -> None:
    put(latest, ask_px=NULL, ask_size=NULL, ask_venue=NULL, last_px=NULL, event_ns=NULL, recv_ns=NULL, scope=NULL)
    answer = rest.quote(latest, "AAPL", NOW_NS)
    nothing = ("ask", "ask_size", "ask_venue", "last", "ts", "t", "age_ms")
    assert [answer[key] for key in nothing] == [None] * len(nothing)
    assert answer["scope"] == ""


@pytest.mark.parametrize(
    ("bits", "state", "flags"),
    [
        (STATE_LOCKED, "live", ["locked"]),
        (STATE_HALTED, "halted", ["halted"]),
        (STATE_HALTED | STATE_STALE, "stale", ["halted", "stale"]),
    ],
)
def test_the_state_is_one_word_and_the_flags_say_the_rest(
    latest: Latest, bits: int, state: str, flags: list[str]
) -> None:
    put(latest, state=bits)
    answer = rest.quote(latest, "AAPL", NOW_NS)
    assert (answer["state"], answer["flags"]) == (state, flags)


def test_a_stale_quote_is_still_answered_with_its_last_known_sides_and_its_age(latest: Latest) -> None:
    put(latest)
    put(latest, bid_px=NULL, ask_px=NULL, state=STATE_STALE, seq=4)
    answer = rest.quote(latest, "AAPL", NOW_NS + 9 * SECOND_NS)
    assert (answer["bid"], answer["ask"], answer["state"], answer["age_ms"]) == (185.5, 185.52, "stale", 9_200)


def test_a_quote_of_a_lost_publisher_is_stale(latest: Latest) -> None:
    put(latest)
    down = empty(1, LINK, KIND_LINK)
    down["publisher"], down["up"] = 0, 0
    latest.apply(down.view(EVENT), NOW_NS)
    answer = rest.quote(latest, "AAPL", NOW_NS)
    assert (answer["state"], answer["flags"]) == ("stale", ["stale"])


def test_a_stamp_from_the_future_has_no_negative_age(latest: Latest) -> None:
    put(latest, recv_ns=NOW_NS + SECOND_NS)
    assert rest.quote(latest, "AAPL", NOW_NS)["age_ms"] == 0


def test_an_unknown_symbol_and_one_without_a_quote_are_told_apart(latest: Latest) -> None:
    unknown = problem_of(lambda: rest.quote(latest, "NOPE", NOW_NS))
    waiting = problem_of(lambda: rest.quote(latest, "AAPL", NOW_NS))
    assert (unknown.status_code, unknown.code) == (404, "unknown_symbol")
    assert (waiting.status_code, waiting.code) == (404, "no_quote")
    assert "'AAPL'" in problem_of(lambda: rest.quote(latest, "aapl", NOW_NS)).detail


def test_the_empty_symbol_is_no_symbol(latest: Latest) -> None:
    """Id 0 stands for a whole venue."""
    assert latest.find("") == -1


def test_a_batch_keeps_the_order_and_says_what_is_missing(latest: Latest) -> None:
    put(latest)
    put(latest, "AA")
    answer = rest.quotes(latest, ["AA", "NOPE", "AAPL", "AA", "BRK.B"], NOW_NS)
    assert [value["symbol"] for value in answer["quotes"]] == ["AA", "AAPL"]
    assert answer["missing"] == [
        {"symbol": "NOPE", "code": "unknown_symbol"},
        {"symbol": "BRK.B", "code": "no_quote"},
    ]


def test_a_problem_document_has_the_members_of_the_rfc() -> None:
    document = rest.problem_document(404, "unknown_symbol", "no such", "/quotes/X", {"symbol": "X"})
    assert document == {
        "type": "urn:fabric:problem:unknown_symbol",
        "title": "Unknown symbol",
        "status": 404,
        "detail": "no such",
        "instance": "/quotes/X",
        "code": "unknown_symbol",
        "symbol": "X",
    }


# Parameters


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("1970-01-01", 0),
        ("1970-01-02", 86_400 * SECOND_NS),
        ("1970-01-01T00:00:01Z", SECOND_NS),
        ("1970-01-01T00:00:01.000000001Z", SECOND_NS + 1),
        ("1970-01-01T01:00:01.5+01:00", SECOND_NS + 500_000_000),
        ("1970-01-01T01:00:01 01:00", SECOND_NS),  # an unescaped plus
        ("1969-12-31T19:00:01-05:00", SECOND_NS),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
        ("1704567890000000001", 1_704_567_890_000_000_001),
    ],
)
def test_instants(text: str, time_ns: int) -> None:
    assert rest.parse_instant("start", text) == time_ns


@pytest.mark.parametrize(
    "text",
    ["", "now", "2024-13-01", "2024-01-01T00:00", "2024-01-01T25:00:00Z", "9" * 19, "1e9", "2024-01-01T00:00:00"],
)
def test_what_is_no_instant_is_refused_by_name(text: str) -> None:
    refused = problem_of(lambda: rest.parse_instant("end", text))
    assert (refused.status_code, refused.members["parameter"]) == (400, "end")


@pytest.mark.parametrize("text", ["", "A" * 17, "A B", "Ä", "A\n"])
def test_what_cannot_be_a_symbol_is_refused(text: str) -> None:
    assert problem_of(lambda: rest.parse_symbol("symbol", text)).status_code == 400


@pytest.mark.parametrize("text", ["", "A,,B", ",", ",".join(["A"] * (rest.BATCH_MAX + 1))])
def test_a_list_of_symbols_is_bounded_and_has_no_holes(text: str) -> None:
    assert problem_of(lambda: rest.parse_symbols(text)).members["parameter"] == "symbols"


# Candles, symbols


def test_a_date_that_is_none_is_refused() -> None:
    with pytest.raises(Problem) as caught:
        rest.parse_date("date", "2026-13-01")
    assert caught.value.detail == "date: '2026-13-01' is not a date such as 2026-11-27"


def test_symbols_by_prefix_and_by_how_busy_they_are(latest: Latest) -> None:
    index = rest.SymbolIndex(latest)
    assert index.find("A", 10) == {"symbols": ["AA", "AAPL"], "total": 2}
    assert index.find("", 1) == {"symbols": ["AA"], "total": 3}
    latest.symbols.intern("AB")
    assert index.find("A", 10)["symbols"] == ["AA", "AAPL", "AB"]
    put(latest, "BRK.B", seq=9)
    put(latest, "AA", seq=4)
    assert index.busiest(10)["symbols"] == ["BRK.B", "AA"]


def test_the_topology_names_addresses_and_no_settings(latest: Latest) -> None:
    gateway = NodeSpec(
        "web",
        "gateway",
        "gateway.app:main",
        GatewaySettings("127.0.0.1", 8080, ("",)),
        reads=(Source(PUBLISHER, ("",)),),
    )
    nbbo = NodeSpec(
        "nbbo-a-h", "processor", "nodes.nbbo:main", CacheSettings(servers=("redis://:secret@h",)), PUBLISHER
    )
    cache = CacheSettings("server", ("redis://:secret@h",))
    answer = rest.topology_answer(
        Topology("t.yaml", (nbbo, gateway), (Venue("V", "IEX", "iex"),), cache=cache), gateway, latest
    )
    assert answer["nodes"][0]["endpoint"] == "tcp://127.0.0.1:5502"
    assert answer["nodes"][0]["up"] is None
    assert answer["nodes"][1]["reads"] == ["nbbo-a-h"]
    assert "secret" not in repr(answer)


# The store behind it


class FakeStore:
    """Answers, raises, or hangs until released."""

    def __init__(self, quote: dict[str, Any] | None = None, error: StoreError | None = None) -> None:
        self.value = quote
        self.error = error
        self.released = threading.Event()
        self.released.set()

    def quote(self, symbol: str) -> dict[str, Any] | None:
        self.released.wait()
        if self.error:
            raise self.error
        return self.value

    def candle(self, symbol: str, interval: str) -> dict[str, Any] | None:
        return self.quote(symbol)

    def server_info(self) -> object:
        return self.quote("")

    def close(self) -> None:
        pass


def test_a_stored_quote_is_aged_by_its_own_time() -> None:
    async def ask() -> list[dict[str, Any]]:
        reader = StoreReader(FakeStore({"bid": 1.5, "ts": NOW_NS / 1e9 - 1, "state": "live"}), 2_500_000_000)
        try:
            return [(await reader.quotes(["A"], NOW_NS + late * SECOND_NS))[0] for late in (0, 2)]
        finally:
            reader.close()

    fresh, old = asyncio.run(ask())
    assert fresh == {"symbol": "A", "bid": 1.5, "ts": NOW_NS / 1e9 - 1, "state": "live", "age_ms": 1_000}
    assert (old["state"], old["age_ms"]) == ("stale", 3_000)


def test_a_store_that_hangs_costs_its_bound_once_and_then_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "STORE_WAIT_S", 0.01)
    store = FakeStore()
    store.released.clear()

    async def ask() -> list[str]:
        reader = StoreReader(store, 2_500_000_000)
        said = []
        try:
            for _ in range(rest.STORE_READS_MAX + 1):
                with pytest.raises(StoreError) as caught:
                    await reader.quotes(["A"], NOW_NS)
                said.append(str(caught.value))
            assert reader.failures == rest.STORE_READS_MAX + 1
        finally:
            store.released.set()
            reader.close()
        return said

    said = asyncio.run(ask())
    assert all("no answer within" in text for text in said[:-1])
    assert "readers wait" in said[-1]


def test_trouble_with_the_store_is_known_until_it_answers_again() -> None:
    store = FakeStore(error=StoreError("refused"))

    async def ask() -> None:
        reader = StoreReader(store, 2_500_000_000)
        try:
            with pytest.raises(StoreError):
                await reader.candle("A", "1m")
            assert reader.trouble == "refused"
            store.error = None
            assert await reader.candle("A", "1m") is None
            assert reader.trouble == ""
        finally:
            reader.close()

    asyncio.run(ask())
