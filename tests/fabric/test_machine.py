"""What is asked of the machine: which of the topology's it is, and who holds a port."""

import socket
import subprocess
import sys

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


def test_who_holds_a_port_is_told_in_one_line() -> None:
    """A command line may have line ends: `python -c` with a program."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        number = held.getsockname()[1]
        program = "import sys\nsys.stdin.read()\n"
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, pass_fds=(held.fileno(),)
        ) as process:
            held.close()
            said = machine.holder(number)
            process.communicate(b"")
    assert said == f"pid {process.pid} ({sys.executable} -c import sys sys.stdin.read())"
