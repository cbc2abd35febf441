from pathlib import Path

import pytest

from fabric import environment
from fabric.environment import Environment
from fabric.errors import UsageError


def test_nothing_set_is_nothing_asked_for() -> None:
    assert environment.read({}) == Environment()


def test_set_to_nothing_is_not_set() -> None:
    names = ("FABRIC_PORT", "REDIS_URL", "FABRIC_RUN_DIR", "LOG_LEVEL", "LOG_FORMAT", "NO_COLOR", "FABRIC_DEBUG")
    assert environment.read(dict.fromkeys(names, "")) == Environment()


def test_all_of_them() -> None:
    given = {
        "FABRIC_PORT": "8081",
        "REDIS_URL": "redis://:secret@cache:6380/1",
        "FABRIC_RUN_DIR": "/run/fabric",
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": "JSON",
        "NO_COLOR": "1",
        "FABRIC_DEBUG": "1",
    }
    assert environment.read(given) == Environment(
        port=8081,
        redis_url="redis://:secret@cache:6380/1",
        run_dir=Path("/run/fabric"),
        log_level="DEBUG",
        log_format="json",
        color=False,
        debug=True,
    )


@pytest.mark.parametrize(
    "url", ["redis://localhost", "rediss://cache:6379/0", "unix:///run/redis.sock", "redis://[::1]:1"]
)
def test_addresses_of_redis(url: str) -> None:
    assert environment.read({"REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FABRIC_PORT", "abc"),
        ("FABRIC_PORT", "0"),
        ("FABRIC_PORT", "65536"),
        ("FABRIC_PORT", "-1"),
        ("FABRIC_PORT", "8080.0"),
        ("FABRIC_PORT", "٨"),
        ("REDIS_URL", "foo"),
        ("REDIS_URL", "http://localhost"),
        ("REDIS_URL", "redis://"),
        ("REDIS_URL", "redis://host:port"),
        ("REDIS_URL", "redis://[::1"),
        ("REDIS_URL", "unix://"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_what_cannot_be_used_is_named(name: str, value: str) -> None:
    """Bad input 61."""
    with pytest.raises(UsageError, match=f"^{name}: ") as raised:
        environment.read({name: value})
    assert repr(value) in str(raised.value)
    assert raised.value.exit_code == 2


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(UsageError) as raised:
        environment.read({"FABRIC_PORT": "abc", "REDIS_URL": "foo", "LOG_LEVEL": "x", "LOG_FORMAT": "y"})
    assert [line.split(":")[0] for line in str(raised.value).splitlines()] == [
        "FABRIC_PORT",
        "REDIS_URL",
        "LOG_LEVEL",
        "LOG_FORMAT",
    ]


def test_a_password_is_never_shown() -> None:
    with pytest.raises(UsageError) as raised:
        environment.read({"REDIS_URL": "redis:/:secret@host"})
    assert "secret" not in str(raised.value)
