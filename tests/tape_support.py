"""What the tests of both consolidated tapes share: packets built by hand, rows as the plain reading has them."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import naive_iex
from fabric.records import (
    EVENT,
    KIND_QUOTE,
    KIND_STATUS,
    KIND_TRADE,
    NBBO,
    NULL,
    QUOTE,
    STATUS,
    TRADE,
    Rows,
    unpack,
)
from fabric.symbols import SymbolTable
from nodes.feeds import cta_block_kernel, moldudp64_kernel, tape_kernel
from nodes.feeds.rows_kernel import new_out
from nodes.feeds.tape import Tape
from nodes.feeds.wire import from_payloads
from nodes.feeds.wire_kernel import BLOCK

GROUPS = np.array([3])
RECV_NS = 77
DAY_S = 1_775_540_000  # 2026-04-07


def cta_block(
    *messages: bytes, sequence: int = 1, feed: bytes = b"Q", again: bytes = b"O", seconds: int = DAY_S, ns: int = 5
) -> bytes:
    """A block of the CTA plan, its checksum right; layout as in the specification."""
    body = b"".join(messages)
    size = 20 + len(body) + len(body) % 2
    head = struct.pack(">BH1s1sIBII", 2, size, feed, again, sequence, len(messages), seconds, ns)
    block = head + b"\0\0" + body + b"\0" * (len(body) % 2)
    return block[:18] + struct.pack(">H", sum(block) % 65_536) + block[20:]


def mold_packet(*messages: bytes, sequence: int = 1, session: bytes = b"SESSION001") -> bytes:
    """A MoldUDP64 packet."""
    head = session + struct.pack(">QH", sequence, len(messages))
    return head + b"".join(struct.pack(">H", len(message)) + message for message in messages)


def frame(kernel: Any, *payloads: bytes, recv_ns: int = RECV_NS) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """(buffer, blocks, counters) of packets on one line, framed by ``kernel``."""
    packets = from_payloads(list(payloads), recv_ns)
    blocks, counters = np.zeros(len(payloads) + 1, BLOCK), np.zeros(kernel.N_COUNTERS, np.int64)
    taken, made = kernel.frame(*packets, GROUPS, 0, blocks, counters)
    assert taken == len(payloads)
    return packets.buffer, blocks[:made], counters.tolist()


def decode(tape: Tape, *payloads: bytes) -> Rows:
    """All rows of these packets, copied."""
    kernel = cta_block_kernel if type(tape).__name__ == "Cta" else moldudp64_kernel
    buffer, blocks, _ = frame(kernel, *payloads)
    return joined(tape, buffer, blocks)[0]


def joined(tape: Tape, buffer: np.ndarray, blocks: np.ndarray) -> tuple[Rows, Rows]:
    """All rows, and all changes of the official NBBO, copied."""
    parts, official = [np.zeros(0, EVENT)], [np.zeros(0, NBBO)]
    for rows in tape.decode(buffer, blocks):
        parts.append(rows.copy())
        official.append(tape.official.copy())
    return np.concatenate(parts), np.concatenate(official)


def plainly(
    kernel: Callable[..., Any], buffer: np.ndarray, blocks: np.ndarray, symbols: SymbolTable, state: Any
) -> tuple[Rows, Rows]:
    """As `joined`, through any form of the kernel, compiled or not."""
    rows, log = np.zeros(4_096, EVENT), tape_kernel.new_log(np.zeros(4_096, NBBO))
    taken, n = kernel(buffer, blocks, 0, symbols.arrays, state, new_out(rows), log)
    assert taken == blocks.size
    return rows[:n], log.rows[: log.used[0]]


def as_dicts(symbols: SymbolTable, rows: Rows) -> list[dict[str, Any]]:
    """Rows of the bus as `naive_tape.NaiveTape` writes them."""
    return [_as_dict(symbols, row) for row in np.atleast_1d(rows)]


def _as_dict(symbols: SymbolTable, row: Any) -> dict[str, Any]:
    kind, name = row["kind"], symbols.name(int(row["symbol"]))
    found: dict[str, Any] = {"symbol": name, "venue": chr(row["venue"])}
    if kind == KIND_QUOTE:
        row = np.array([row], EVENT).view(QUOTE)[0]
        sides = {"bid": _side(row["bid_px"], row["bid_size"]), "ask": _side(row["ask_px"], row["ask_size"])}
        return {"kind": "quote", **found, **sides, "condition": unpack(row["condition"])}
    if kind == KIND_TRADE:
        row = np.array([row], EVENT).view(TRADE)[0]
        found |= {"kind": "trade", "price": _px(row["price"]), "size": int(row["size"])}
        found |= {"condition": unpack(row["condition"]), "mark": unpack(row["mark"])}
        return found | {"id": _or_none(row["trade_id"]), "original": _or_none(row["original_id"])}
    assert kind == KIND_STATUS
    row = np.array([row], EVENT).view(STATUS)[0]
    found |= {"kind": "status", "upper": _px(row["upper_px"]), "lower": _px(row["lower_px"])}
    found |= {key: unpack(row[key]) for key in ("trading", "reason", "indicator", "short_sale")}
    return found | {"lot": _or_none(row["round_lot"])}


def changes(symbols: SymbolTable, official: Rows) -> list[Any]:
    """Changes of the official NBBO as `naive_tape.NaiveTape` has them."""
    return [
        (
            symbols.name(int(row["symbol"])),
            int(row["exchange_seq"]),
            _side(row["bid_px"], row["bid_size"], row["bid_venue"]),
            _side(row["ask_px"], row["ask_size"], row["ask_venue"]),
        )
        for row in official
    ]


def _side(px: int, size: int, venue: int | None = None) -> Any:
    if px == NULL:
        assert size == NULL
        return None
    side = (_px(px), int(size))
    return side if venue is None else (*side, chr(venue))


def _px(px: int) -> int | None:
    return None if px == NULL else int(px) // 1_000


def _or_none(value: int) -> int | None:
    return None if value == NULL else int(value)


def manifest(folder: Path, prefix: str) -> Iterator[tuple[str, dict[str, int], list[bytes]]]:
    """(file, {type/length: count}, UDP payloads) of each recorded file whose path begins with ``prefix``."""
    for line in (folder / "MANIFEST.csv").read_text("latin-1").splitlines()[1:]:
        file, said = line.split(",")[0], line.rsplit(",", 1)[1]
        if file.startswith(prefix):
            counts = {part.rsplit("x", 1)[0]: int(part.rsplit("x", 1)[1]) for part in said.split()}
            yield file, counts, [payload for _, payload in naive_iex.udp_payloads(folder / file)]
