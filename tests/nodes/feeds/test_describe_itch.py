"""ITCH for people: every type against the specification's tables as the tests have them; packets that do not add up."""

import random
from datetime import date

import pytest

import itch_tables
import lobster
from itch_tables import PRICE, TEXT
from nodes.feeds.describe_itch import Itch, is_itch
from nodes.feeds.trading_day import midnight_ns

NOON_NS = midnight_ns(date(2019, 12, 30)) + 43_200 * 10**9


@pytest.mark.parametrize("kind", itch_tables.FIELDS)
def test_the_fields_of_every_type_are_the_table_s(kind: str) -> None:
    for _, locate, _, time_ns, values in itch_tables.random_messages(random.Random(ord(kind)), 20, kind):
        found = Itch().message(itch_tables.assemble(kind, locate, time_ns, *values), 5, NOON_NS)
        assert (found["t"], found["sequence"]) == (midnight_ns(date(2019, 12, 30)) + time_ns, 5)
        shown = [value for name, value in found.items() if name not in ("t", "sequence", "type", "locate")]
        for (name, _, _, what), value in zip(itch_tables.FIELDS[kind], values, strict=True):
            if what == PRICE:
                assert isinstance(value, int)
                assert value / 10_000 in shown, name
            elif what == TEXT or isinstance(value, str):
                assert str(value).rstrip() in shown, name
            elif name in found:
                assert found[name] == (value / 10**8 if kind == "V" else value)


def test_a_packet_and_what_cannot_be_read() -> None:
    add = itch_tables.assemble("A", 7, 1, 9, "B", 100, "ZVZZT", 10_000)
    (packet,) = lobster.packets([add, b"zebra", add[:20], itch_tables.assemble("D", 7, 2, 9)])
    found = list(Itch().packet(packet, NOON_NS))
    assert [(m["sequence"], m["type"], m["symbol"]) for m in found] == [
        (1, "add", "ZVZZT"),
        (2, "unknown", None),
        (3, "malformed", None),
        (4, "delete", "ZVZZT"),
    ]
    heartbeat = packet[:18] + b"\0\0"
    assert [m["type"] for m in Itch().packet(heartbeat, 1)] == ["heartbeat"]


def test_which_packets_are_itch() -> None:
    (packet,) = lobster.packets([itch_tables.assemble("D", 7, 2, 9)] * 3)
    assert is_itch(packet)
    assert is_itch(packet[:18] + b"\xff\xff")
    assert not any(map(is_itch, (packet[:-1], packet + b"x", packet[:12], b"\xff" * 20, packet[:18] + b"\0\1a")))
