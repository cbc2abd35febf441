"""The AsyncAPI document against what is really said: every key of every message, and its own references."""

import asyncio
import json
from typing import Any

import msgpack
import pytest

from fabric.clock import ManualClock
from fabric.codec import encode
from fabric.records import CHANNELS, DTYPES, empty
from fabric.symbols import SymbolTable
from fabric.topology import Topology
from gateway import asyncapi, protocol, protocol_kernel
from gateway.protocol_kernel import JSON
from gateway_market import BEST, FEED, VENUES, Market, interval, messages
from gateway_rig import ask, running

PX = 10**9
DOCUMENT = asyncapi.document(Topology("t", (), VENUES))
MESSAGES = DOCUMENT["components"]["messages"]


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = MESSAGES[name]["payload"]["properties"]
    return found


def test_every_reference_leads_somewhere() -> None:
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                target: Any = DOCUMENT
                for step in value["$ref"].removeprefix("#/").split("/"):
                    target = target[step]
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(DOCUMENT)
    assert DOCUMENT["asyncapi"] == "3.0.0"
    json.dumps(DOCUMENT)


def test_the_bus_has_the_keys_that_are_encoded() -> None:
    """Every record through the codec: the map's keys are those that are described."""
    symbols = SymbolTable(4)
    for channel, kind in CHANNELS.items():
        if kind not in DTYPES or f"bus_{channel.replace('.', '_')}" not in MESSAGES:
            continue
        row = empty(1, DTYPES[kind], kind)
        row["symbol"], row["venue"] = symbols.intern("AAPL"), ord("V")
        (_, payload), *_ = encode(row, symbols)
        assert set(msgpack.unpackb(payload)) == set(properties(f"bus_{channel.replace('.', '_')}")), channel
    assert {name for name in MESSAGES if name.startswith("bus_")} == {
        f"bus_{channel.replace('.', '_')}" for channel in CHANNELS if channel != "alert"
    }


def test_market_messages_have_the_keys_that_are_described(clock: ManualClock) -> None:
    market = Market(clock)
    _, sink = market.client("sip")
    client = next(iter(market.fanout._each()))
    wanted = {channel: ["*"] for channel in protocol.CHANNELS if channel != "venueQuotes"}
    client.subscribe(wanted, 0, True)
    market.fanout._fan.clients["stamps"][client.row] = protocol_kernel.TRACE | protocol_kernel.PLACE
    market.apply(
        market.nbbo("A", PX), market.trade("A", PX), market.trade("A", PX, mark="x", of=1),
        market.trade("A", PX, mark="c", of=1), market.bar("A", 0, PX, 1), market.bar("A", 0, PX, 2),
        market.status("A", trading="H", upper_px=2 * PX, lower_px=PX), market.status("", venue_state="stale"),
        market.lost_trades("A", 2),
    )  # fmt: skip
    market.flush()
    market.apply(market.link(BEST, False))
    market.flush()
    said = messages(sink.frames)
    assert any("st" in message for message in said)
    assert {"q", "t", "x", "c", "b", "u", "s", "l", "venue", "gap"} <= {message["T"] for message in said}
    for message in said:
        assert set(message) <= set(properties(f"server.{message['T']}")), message


def test_conflated_messages_have_the_keys_that_are_described(clock: ManualClock) -> None:
    market = Market(clock)
    _, sink = market.client("stream")
    client = next(iter(market.fanout._each()))
    client.subscribe({channel: ["*"] for channel in ("quotes", "venueQuotes", "barsNow")}, 100, True)
    for bid in (1, 2, 3):
        market.apply(market.nbbo("A", bid * PX), market.quote("A", bid * PX), market.bar("A", 0, bid * PX, 0))
    interval(clock)
    market.flush()
    for bid in (4, 5):
        market.apply(market.nbbo("A", bid * PX), market.quote("A", bid * PX), market.bar("A", 0, bid * PX, 0))
    market.apply(market.link(FEED, False))
    interval(clock)
    market.flush()
    said = messages(sink.frames)
    assert {message["T"] for message in said} == {"q", "vq", "now"}
    assert any("k" in message for message in said)
    for message in said:
        assert set(message) <= set(properties(f"server.{message['T']}")), message


def test_answers_have_the_keys_that_are_described() -> None:
    answers = [
        protocol.success("connected", "r"),
        protocol.subscription({channel: ["A"] for channel in protocol.ALPACA_CHANNELS}, 0, "r"),
        protocol.ProtocolError(405, "", "").message("r"),
        protocol.mark({"iex": (1, 2)}) | {"req_id": "r"},
        protocol.resumed(3) | {"req_id": "r"},
    ]
    for answer in answers:
        assert set(answer) == set(properties(f"server.{answer['T']}")), answer


@pytest.mark.parametrize("action", protocol.FIELDS)
def test_a_client_may_say_what_is_described_and_nothing_else(action: str) -> None:
    described = properties(f"client.{action}")
    assert set(described) == {"action", "req_id", *protocol.FIELDS[action]}
    assert all(described[name] for name in protocol.FIELDS[action]), "a field without a word of what it is"
    with pytest.raises(protocol.ProtocolError):
        protocol.parse(json.dumps({"action": action, "key": "", "secret": "", "nonsense": 1}), JSON)


def test_every_message_says_what_it_is() -> None:
    assert [name for name, message in MESSAGES.items() if not message["summary"]] == []


def test_it_is_served() -> None:
    async def look() -> None:
        async with running() as rig:
            status, found, _ = await ask(rig, "/asyncapi.json")
            assert (status, found["asyncapi"]) == (200, "3.0.0")
            assert found["channels"]["feed"]["parameters"]["feed"]["enum"] == ["sip", "iex"]

    asyncio.run(look())
