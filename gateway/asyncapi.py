"""The WebSocket and the bus as an AsyncAPI 3.0 document (pure): what `/asyncapi.json` answers.

Made from the tables by which messages are written and read, so that it names the keys that are really there; what
no table holds is written here, and the tests hold it against what a session says.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from fabric import __version__
from fabric.codec import FIELDS
from fabric.records import CHANNELS
from fabric.topology import Topology
from gateway import protocol, protocol_kernel
from gateway.auth import OAUTH, TICKET

Json = dict[str, Any]

_TEXT: Final[Json] = {"type": "string"}
_REQ_ID: Final[Json] = {"type": ["string", "integer"], "description": "echoed in the answer"}
_SYMBOLS: Final[Json] = {
    "type": "array",
    "items": {"type": "string", "description": "a symbol, a prefix that ends in *, or *"},
}
_PLACE: Final[Json] = {
    "type": "array",
    "prefixItems": [
        {"type": ["string", "integer"], "description": "epoch"},
        {"type": "integer", "description": "position"},
    ],
    "minItems": 2,
    "maxItems": 2,
}
_CLIENT: Final[dict[str, Json]] = {
    "key": _TEXT | {"description": f"a key's name; {OAUTH!r} with a token, {TICKET!r} with a ticket as the secret"},
    "secret": _TEXT,
    "takeover": {"type": "boolean", "description": "replace an older connection where there are too many"},
    "interval_ms": {"enum": list(protocol.INTERVALS_MS), "description": "0: every tick"},
    "snapshot": {"type": "boolean", "default": True, "description": "each value that exists comes first"},
    "fields": {"type": "array", "items": _TEXT, "description": "the keys of quotes that it wants; none: all"},
    "hb": {"type": "boolean", "description": "a heartbeat each second"},
    "trace": {"type": "boolean", "description": "messages say when each hop had them"},
    "resume": {"type": "object", "additionalProperties": _PLACE, "description": "the `at` of the last mark, or {}"},
    **dict.fromkeys(protocol.CHANNELS, _SYMBOLS),
}
_HOW: Final[dict[str, str]] = {
    "q": "a quote: of all venues together on /v2/sip and /stream, of its venue on /v2/<venue>",
    "vq": "one venue's own quote",
    "now": "the candle in progress",
    "t": "a trade",
    "x": "a trade was cancelled",
    "c": "a trade was corrected",
    "b": "a candle of a minute is closed",
    "u": "a closed candle was revised",
    "b5m": "a candle of five minutes is closed",
    "b1h": "a candle of an hour is closed",
    "s": "the trading status of a symbol",
    "l": "limit-up limit-down bands",
    "venue": "the state of a venue's line",
    "gap": "messages were lost",
    "slow": "this client reads too slowly",
    "d": "a candle of a day is closed or has changed",
    "eoi": "every candle of an interval has been sent",
    "hb": "the heartbeat that was asked for",
    "mode": "normal, degraded or draining, with the interval in force",
}
_STATE: Final[Json] = {
    "st": {"type": "integer", "description": "state bits, as on the bus; not there when none is set"}
}
_REPLACED: Final[Json] = {"k": {"type": "integer", "description": "updates that this one replaced; not there for none"}}
_SOMETIMES: Final[dict[str, Json]] = {"q": _STATE | _REPLACED, "vq": _STATE | _REPLACED, "now": _STATE | _REPLACED}
_STAMPS: Final[Json] = {
    **{
        key: {"description": f"with `trace`: when {who} had it"}
        for key, who in {
            "t1": "a feed",
            "t2": "the bus",
            "t3": "the bus behind a processor",
            "t4": "this gateway",
        }.items()
    },
    "E": {"type": ["string", "null"], "description": "with `resume`: epoch of the publisher"},
    "N": {"type": ["integer", "null"], "description": "with `resume`: number on its topic"},
    "O": {"type": ["integer", "null"], "description": "with `resume`: position in the publisher's log"},
}
"""Keys that no table holds: the flush adds them where they say something."""
SAID: Final[dict[str, tuple[str, dict[str, Json]]]] = {
    "success": ("connected, or authenticated", {"msg": {"enum": ["connected", "authenticated"]}}),
    "subscription": (
        "the whole current set",
        dict.fromkeys((*protocol.ALPACA_CHANNELS, *protocol.FOLLOWING_CHANNELS), _SYMBOLS)
        | {"interval_ms": {"enum": list(protocol.INTERVALS_MS)}},
    ),
    "error": ("a mistake, or a limit", {"code": {"enum": list(protocol.WORDS)}, "msg": _TEXT}),
    "mark": (
        "each second after `resume`: up to where everything has come",
        {"at": {"type": "object", "additionalProperties": _PLACE}},
    ),
    "resumed": ("what was missed has come; what follows is live", {"messages": {"type": "integer"}}),
    "expiring": ("the token ends: authenticate again", {"msg": _TEXT, "expires_in_ms": {"type": "integer"}}),
}
"""Messages that no table of the kernels holds: what each is, and its keys besides ``T``."""


def _message(name: str, text: str, properties: dict[str, Json], required: Iterable[str]) -> Json:
    payload = {"type": "object", "properties": properties, "required": list(required)}
    return {"name": name, "summary": text, "payload": payload}


def server_messages() -> dict[str, Json]:
    """What a gateway says, by ``T``."""
    found: dict[str, Json] = {}
    for kind, (text, own) in SAID.items():
        found[kind] = _message(kind, text, {"T": {"const": kind}, **own, "req_id": _REQ_ID}, ["T", *own])
    for kind, _, fields in protocol_kernel.MESSAGES:
        keys = [field[0] for field in fields]
        if kind in found:  # the same message, written from another record
            keys = [key for key in keys if key not in found[kind]["payload"]["properties"]]
            found[kind]["payload"]["properties"] |= {key: {} for key in keys}
            continue
        found[kind] = _message(kind, _HOW.get(kind, ""), {"T": {"const": kind}, **{key: {} for key in keys}}, ["T"])
    for kind, _, _ in protocol_kernel.MESSAGES[: protocol_kernel.LINE + 1]:
        found[kind]["payload"]["properties"] |= _STAMPS
    for kind, own in _SOMETIMES.items():
        found[kind]["payload"]["properties"] |= own
    return found


def client_messages() -> dict[str, Json]:
    """What a client says, by ``action``."""
    found = {}
    for action, fields in protocol.FIELDS.items():
        properties = {"action": {"const": action}, **{name: _CLIENT.get(name, {}) for name in fields}}
        required = ["action", *(("key", "secret") if action == "auth" else ())]
        found[action] = _message(action, f"{action} ...", properties | {"req_id": _REQ_ID}, required)
    return found


def bus_messages() -> dict[str, Json]:
    """What the bus carries, by channel: a msgpack map whose keys are always all there."""
    found = {}
    for channel, kind in CHANNELS.items():
        if kind in FIELDS:
            keys = ["V", "T", "S", *(key for key, *_ in FIELDS[kind])]
            found[channel] = _message(channel, f"topic {channel}.<SYMBOL>|", {key: {} for key in keys}, keys)
    return found


def _channel(address: str, text: str, messages: Sequence[str], server: str) -> Json:
    return {
        "address": address,
        "description": text,
        "servers": [{"$ref": f"#/servers/{server}"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }


def document(topology: Topology) -> Json:
    """The AsyncAPI document of a gateway of this topology."""
    heard = {f"client.{name}": message for name, message in client_messages().items()}
    said = {f"server.{name}": message for name, message in server_messages().items()}
    carried = {f"bus_{name.replace('.', '_')}": message for name, message in bus_messages().items()}
    both = [*heard, *said]
    publishers = topology.publishers()
    feeds = {"enum": ["sip", *(venue.feed for venue in topology.venues)]}
    channels = {
        "feed": _channel("/v2/{feed}", "Alpaca's dialect: every tick; `sip`, or a venue's feed", both, "gateway"),
        "stream": _channel("/stream", "the same, conflated at an interval", both, "gateway"),
    }
    channels["feed"]["parameters"] = {"feed": feeds}
    for name, message in carried.items():
        address = f"{message['name']}.{{symbol}}|{{venue}}"
        channels[name] = _channel(address, "two frames: topic, msgpack map", [name], "bus")
        channels[name]["parameters"] = {"symbol": {}, "venue": {"description": "a letter, or nothing"}}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Market data fabric", "version": __version__, "license": {"name": "MIT"}},
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {"host": "{host}", "protocol": "ws", "variables": {"host": {"default": "127.0.0.1:8080"}},
                        "description": "JSON, or msgpack with Content-Type: application/msgpack; arrays of messages"},
            "bus": {"host": "{host}", "protocol": "zmtp", "variables": {
                "host": {"default": publishers[0].endpoint.removeprefix("tcp://") if publishers else "127.0.0.1:5500"}},
                "description": "ZeroMQ PUB; `fabric endpoints TOPIC` tells the address of a topic"},
        },
        "channels": channels,
        "operations": {
            **{f"hear_{name}": _operation("send", name, said) for name in ("feed", "stream")},
            **{f"tell_{name}": _operation("receive", name, heard) for name in ("feed", "stream")},
            **{f"read_{name}": _operation("send", name, [name]) for name in carried},
        },
        "components": {"messages": {**heard, **said, **carried}},
    }  # fmt: skip


def _operation(action: str, channel: str, messages: Iterable[str]) -> Json:
    """What this application does on a channel."""
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }
