import json
import struct
from typing import Any

import msgpack
import pytest

from fabric.topology import Venue
from gateway import protocol
from gateway.protocol import Auth, ProtocolError, Subscribe, Unsubscribe, parse
from gateway.protocol_kernel import JSON, MSGPACK, STREAM, VENUE


def test_the_messages_of_a_stock_client() -> None:
    auth = {"action": "auth", "key": "k", "secret": "s"}
    assert parse(json.dumps(auth), JSON) == parse(msgpack.packb(auth), MSGPACK) == Auth("k", "s")
    wanted = {"action": "subscribe", "quotes": ["AAPL", "BRK.B", "AAPL"], "bars": ["*"], "trades": []}
    expected = Subscribe({"quotes": ("AAPL", "BRK.B"), "bars": ("*",), "trades": ()})
    assert parse(msgpack.packb(wanted), MSGPACK) == expected
    assert parse(b'{"action":"unsubscribe","quotes":["A*"],"trades":null}', JSON) == Unsubscribe({"quotes": ("A*",)})


def test_our_additions() -> None:
    text = '{"action":"subscribe","venueQuotes":["A"],"interval_ms":250,"snapshot":false,"req_id":"x"}'
    assert parse(text, JSON) == Subscribe({"venueQuotes": ("A",)}, 250, False, "x")


@pytest.mark.parametrize(
    ("text", "field", "detail"),
    [
        ("{", "", "not JSON"),
        ("", "", "not JSON"),
        ("[" * 60_000, "", "not JSON"),
        ("[1]", "", "expected a map, found a list"),
        ("null", "", "expected a map, found null"),
        ("{}", "action", "missing"),
        ('{"action":1}', "action", "expected a text, found a number"),
        ('{"action":"subscribed"}', "action", "did you mean 'subscribe'?"),
        ('{"action":"jump"}', "action", "expected one of auth, subscribe, unsubscribe"),
        ('{"action":"auth","key":"k"}', "secret", "missing"),
        ('{"action":"auth","key":1,"secret":"s"}', "key", "expected a text, found a number"),
        ('{"action":"subscribe","qoutes":["A"]}', "qoutes", "did you mean 'quotes'?"),
        ('{"action":"unsubscribe","snapshot":true}', "snapshot", "unknown"),
        ('{"action":"subscribe","quotes":"A"}', "quotes", "expected a list of symbols, found a text"),
        ('{"action":"subscribe","quotes":["A",7]}', "quotes[1]", "found a number"),
        ('{"action":"subscribe","quotes":[' + "[" * 65 + "]" * 65 + "]}", "quotes[0]", "found a list"),
        ('{"action":"subscribe","quotes":[""]}', "quotes[0]", "no symbol"),
        ('{"action":"subscribe","quotes":["A*B"]}', "quotes[0]", "no symbol"),
        ('{"action":"subscribe","quotes":["A B"]}', "quotes[0]", "no symbol"),
        ('{"action":"subscribe","quotes":["A\\n"]}', "quotes[0]", "no symbol"),
        ('{"action":"subscribe","quotes":["É"]}', "quotes[0]", "no symbol"),
        ('{"action":"subscribe","quotes":["ABCDEFGHIJKLMNOPQ"]}', "quotes[0]", "1 to 16"),
        ('{"action":"subscribe","interval_ms":50}', "interval_ms", "0, 100, 250, 500, 1000"),
        ('{"action":"subscribe","fields":"bp"}', "fields", "a list of keys"),
        ('{"action":"subscribe","fields":["bp","bpp"]}', "fields[1]", "did you mean 'bp'?"),
        ('{"action":"subscribe","fields":[3]}', "fields[0]", "expected a key"),
        ('{"action":"subscribe","fields":["k"]}', "fields[0]", "unknown"),
        ('{"action":"subscribe","hb":1}', "hb", "true or false"),
        ('{"action":"subscribe","interval_ms":true}', "interval_ms", "0, 100, 250, 500, 1000"),
        ('{"action":"subscribe","interval_ms":NaN}', "interval_ms", "found nan"),
        ('{"action":"subscribe","snapshot":1}', "snapshot", "expected true or false"),
        ('{"action":"subscribe","req_id":{}}', "req_id", "found a map"),
    ],
)
def test_a_mistake_names_the_field(text: str, field: str, detail: str) -> None:
    with pytest.raises(ProtocolError) as found:
        parse(text, JSON)
    assert (found.value.code, found.value.field) == (400, field)
    assert detail in found.value.detail
    message = found.value.message("r")
    assert (message["code"], message["msg"], message["req_id"]) == (400, "invalid syntax", "r")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81\xa6action",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5_000 + b"\xc0",
        msgpack.packb({"action": "auth"}) + b"\0",
        msgpack.packb({1: 2}),
        msgpack.packb({"action": msgpack.ExtType(1, b"x")}),
        msgpack.packb({"action": "subscribe", "quotes": [msgpack.Timestamp(1)]}),
        msgpack.packb({"action": b"auth"}),
    ],
)
def test_bad_msgpack_is_a_mistake_and_no_accident(data: bytes) -> None:
    with pytest.raises(ProtocolError) as found:
        parse(data, MSGPACK)
    assert found.value.code == 400


def test_an_answer_carries_the_request_id_if_it_can_be_made_out() -> None:
    assert protocol.req_id_of('{"action":"jump","req_id":7}', JSON) == 7
    assert protocol.req_id_of(msgpack.packb({"req_id": "a"}), MSGPACK) == "a"
    assert protocol.req_id_of("{", JSON) is None
    assert protocol.req_id_of('{"req_id":[]}', JSON) is None


def test_the_subscription_lists_what_a_stock_client_expects() -> None:
    found = protocol.subscription({"trades": ["A"], "bars1h": ["B"], "barsNow": []}, 0, "r")
    assert found == {
        "T": "subscription",
        "trades": ["A"],
        "quotes": [],
        "bars": [],
        "updatedBars": [],
        "dailyBars": [],
        "statuses": [],
        "lulds": [],
        "corrections": ["A"],
        "cancelErrors": ["A"],
        "bars1h": ["B"],
        "interval_ms": 0,
        "req_id": "r",
    }


def _payload(frame: bytes) -> tuple[int, bytes]:
    """The first byte and the payload of an unmasked frame (RFC 6455, 5.2), which it must fill exactly."""
    size, start = frame[1], 2
    if size == 126:
        (size,), start = struct.unpack_from("!H", frame, 2), 4
        assert size >= 126
    elif size == 127:
        (size,), start = struct.unpack_from("!Q", frame, 2), 10
        assert size >= 1 << 16
    assert len(frame) == start + size
    return frame[0], frame[start:]


@pytest.mark.parametrize("length", [0, 60, 90, 91, 92, 93, 94, 95, 200, 65_500, 70_000])
@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
def test_a_frame_is_whole_at_every_length(length: int, encoding: int) -> None:
    messages: list[dict[str, Any]] = [{"T": "error", "msg": "x" * length}]
    first, payload = _payload(protocol.frame(messages, encoding))
    assert first == (0x81 if encoding == JSON else 0x82)
    assert (json.loads(payload) if encoding == JSON else msgpack.unpackb(payload)) == messages


def test_feeds() -> None:
    two = protocol.feeds([Venue("V", "IEX", "iex"), Venue("N", "NYSE", "nyse")])
    assert set(two) == {"sip", "iex", "nyse", "stream"}
    assert (two["nyse"].venue, two["nyse"].dialect, two["nyse"].composite_bars) == (1, VENUE, False)
    assert (two["stream"].venue, two["stream"].dialect, two["stream"].alpaca) == (-1, STREAM, False)
    assert protocol.feeds([Venue("V", "IEX", "iex")])["iex"].composite_bars


def test_a_client_may_choose_keys_and_ask_for_heartbeats() -> None:
    asked = protocol.parse('{"action":"subscribe","fields":["bp","ap","bp"],"hb":true}', JSON)
    assert isinstance(asked, Subscribe)
    assert (asked.fields, asked.heartbeat) == (("ap", "bp"), True)
    silent = protocol.parse('{"action":"subscribe"}', JSON)
    assert isinstance(silent, Subscribe)
    assert (silent.fields, silent.heartbeat) == (None, None)
