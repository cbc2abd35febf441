"""The hop from a gateway to its clients; the others need logs: tests/system/test_recovery.py, test_replay_logged.py."""

from typing import Any

import pytest

from fabric import audit

REPORT = {
    "books_offered": 100, "books_delivered": 40, "books_replaced": 30, "books_missed": 10, "books_withheld": 1,
    "books_resumed": 4, "books_left": 7, "books_pending": 8, "clients": 3,
}  # fmt: skip


def books(**changes: int) -> list[audit.Hop]:
    nodes: list[dict[str, Any]] = [
        {"name": "web", "report": {**REPORT, **changes}}, {"name": "nbbo-1", "report": {"accepted": 5}},
    ]  # fmt: skip
    return audit.to_clients({"nodes": nodes})


def test_what_a_gateway_counted_is_a_hop() -> None:
    assert books() == [audit.Hop("web", "clients", 100, 44, told=10, replaced=30, dropped=8, in_flight=8)]
    assert books()[0].balanced


@pytest.mark.parametrize("name", [name for name in REPORT if name not in ("books_offered", "clients")])
def test_a_message_too_few_or_too_many_is_seen_wherever_it_is(name: str) -> None:
    (short,) = books(**{name: REPORT[name] - 1})
    (long,) = books(**{name: REPORT[name] + 1})
    assert (short.unexplained, short.twice, short.balanced) == (1, 0, False)
    assert (long.unexplained, long.twice, long.balanced) == (0, 1, False)
