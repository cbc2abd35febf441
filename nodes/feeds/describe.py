"""What a capture file holds, message by message, for people: the names and fields of the specifications.

Separate from the decoders on purpose: it keeps every field, follows no sequence and has no state, so it shows a
file as it is, and what a decoder made of it can be held against it. One function a wire turns a payload into
messages; a payload that none of them knows is shown with its addresses and size.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from nodes.feeds import describe_itch, describe_pitch
from nodes.feeds.capture import Capture, is_capture
from nodes.feeds.iex import TYPE_NAMES
from nodes.feeds.itch_file import is_itch_file
from nodes.feeds.pitch_ascii import is_pitch_ascii

Message = dict[str, Any]
"""Keys ``t`` (ns since the epoch), ``sequence``, ``type``, ``symbol``, then the type's own fields in their order."""

_IEX_PROTOCOLS: Final = {0x8002: "TOPS 1.5", 0x8003: "TOPS 1.6", 0x8004: "DEEP 1.0", 0x8005: "DEEP+ 1.0"}
_IEX_HEADER: Final = struct.Struct("<BxHIIHHqqq")

# Name, offset, format of each field behind type (0), time (2) and, but for S, symbol (10); `price` is i64 / 10,000.
_PRICE: Final = "price"
_IEX_FIELDS: Final[dict[str, tuple[tuple[str, int, str], ...]]] = {
    "S": (("event", 1, "c"),),
    "D": (("flags", 1, "B"), ("round_lot", 18, "I"), ("adjusted_close", 22, _PRICE), ("luld_tier", 30, "B")),
    "H": (("status", 1, "c"), ("reason", 18, "4s")),
    "O": (("status", 1, "c"),),
    "P": (("status", 1, "B"), ("detail", 18, "c")),
    "I": (("interest", 1, "c"),),
    "E": (("event", 1, "c"),),
    "T": (("flags", 1, "B"), ("size", 18, "I"), ("price", 22, _PRICE), ("trade_id", 30, "q")),
    "B": (("flags", 1, "B"), ("size", 18, "I"), ("price", 22, _PRICE), ("trade_id", 30, "q")),
    "X": (("kind", 1, "c"), ("price", 18, _PRICE)),
    "A": (("auction", 1, "c"),),
    "Q": (
        ("flags", 1, "B"),
        ("bid_size", 18, "I"),
        ("bid", 22, _PRICE),
        ("ask", 30, _PRICE),
        ("ask_size", 38, "I"),
    ),
    "8": (("flags", 1, "B"), ("size", 18, "I"), ("price", 22, _PRICE)),
    "5": (("flags", 1, "B"), ("size", 18, "I"), ("price", 22, _PRICE)),
}


def describe(path: Path, counts: Counter[str]) -> Iterator[Message]:
    """Every message of a capture file, in its order; ``counts`` is kept by type; raises CaptureError.

    Recordings of ASCII PITCH and daily files of ITCH are none, and shown message by message too.
    """
    if not is_capture(path) and is_itch_file(path):
        yield from describe_itch.file_messages(path, counts)
        return
    itch = describe_itch.Itch()
    if is_pitch_ascii(path):
        yield from describe_pitch.lines(path, counts)
        return
    with Capture(path) as capture:
        for batch in capture:
            buffer, offsets, lengths, times, _ = batch.packets
            for i, (at, length, time_ns) in enumerate(
                zip(offsets.tolist(), lengths.tolist(), times.tolist(), strict=True)
            ):
                payload = buffer[at : at + length].tobytes()
                counts["packets"] += 1
                messages: Iterable[Message] = [_unknown(batch.addresses(i), payload, time_ns)]
                if _is_iex(payload):
                    messages = _iex(payload, time_ns)
                elif describe_itch.is_itch(payload):
                    messages = itch.packet(payload, time_ns)
                elif describe_pitch.is_pitch(payload):
                    messages = describe_pitch.packet(payload, time_ns)
                for message in messages:
                    counts[message["type"]] += 1
                    yield message
        counts.update({name: count for name, count in capture.counters().items() if name not in ("frames", "payloads")})


def _unknown(addresses: tuple[str, int, str, int], payload: bytes, time_ns: int) -> Message:
    source, source_port, target, target_port = addresses
    return {
        "t": time_ns,
        "sequence": None,
        "type": "udp",
        "symbol": None,
        "source": f"{source}:{source_port}",
        "target": f"{target}:{target_port}",
        "bytes": len(payload),
    }


def _is_iex(payload: bytes) -> bool:
    return (
        len(payload) >= _IEX_HEADER.size
        and payload[0] == 1
        and int.from_bytes(payload[2:4], "little") in _IEX_PROTOCOLS
    )


def _iex(payload: bytes, time_ns: int) -> Iterator[Message]:
    _, protocol, channel, session, size, count, _, sequence, _ = _IEX_HEADER.unpack_from(payload)
    feed = {"feed": _IEX_PROTOCOLS[protocol], "channel": channel, "session": session}
    if count == 0:
        yield {"t": time_ns, "sequence": sequence, "type": "heartbeat", "symbol": None, **feed}
    at, end = _IEX_HEADER.size, min(_IEX_HEADER.size + size, len(payload))
    for number in range(sequence, sequence + count):
        length = int.from_bytes(payload[at : at + 2], "little") if at + 2 <= end else end
        body = payload[at + 2 : at + 2 + length]
        if at + 2 + length > end:
            yield {
                "t": time_ns,
                "sequence": number,
                "type": "malformed",
                "symbol": None,
                **feed,
                "hex": payload[at:].hex(),
            }
            return
        yield _iex_message(body, number, time_ns)
        at += 2 + length


def _iex_message(body: bytes, sequence: int, time_ns: int) -> Message:
    kind = chr(body[0]) if body else ""
    fields = _IEX_FIELDS.get(kind)
    try:
        if fields is None:
            raise struct.error
        event_ns = struct.unpack_from("<q", body, 2)[0]
        values = {name: _value(body, at, code) for name, at, code in fields}
        symbol = _text(struct.unpack_from("<8s", body, 10)[0]) if kind != "S" else None
    except struct.error:
        name = "unknown" if fields is None else "malformed"
        return {"t": time_ns, "sequence": sequence, "type": name, "symbol": None, "hex": body.hex()}
    return {"t": event_ns, "sequence": sequence, "type": TYPE_NAMES[kind], "symbol": symbol, **values}


def _value(body: bytes, at: int, code: str) -> int | float | str:
    if code == _PRICE:
        price: int = struct.unpack_from("<q", body, at)[0]
        return price / 10_000
    value: int | bytes = struct.unpack_from(f"<{code}", body, at)[0]
    return _text(value) if isinstance(value, bytes) else value


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace").rstrip(" ")
