"""Which of the topology's machines this one is."""

import pytest

from fabric import machine

ELSEWHERE = "192.0.2.7"  # RFC 5737: never assigned


@pytest.mark.parametrize(
    ("address", "ours"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        (ELSEWHERE, False),
        ("no-such-host.invalid", False),
    ],
)
def test_an_address_is_ours_if_it_can_be_bound(address: str, ours: bool) -> None:
    assert machine.addressed([("elsewhere", ELSEWHERE), ("asked", address)]) == (("asked",) if ours else ())
