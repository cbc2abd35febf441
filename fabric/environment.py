"""The environment variables that a user may set, read and checked in one place.

A variable that is set to nothing counts as not set. None means not set: precedence is flag, environment,
topology, default. ``FABRIC_KERNEL_CACHE`` and ``FABRIC_WHEELHOUSE`` are needed before this module can be
imported and are read by `fabric/compiled.py` and `fabric/bootstrap.py`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fabric.errors import UsageError

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True)
class Environment:
    """What the user's environment asks for."""

    port: int | None = None  # FABRIC_PORT: HTTP port of the first gateway
    redis_url: str | None = None  # REDIS_URL: the cache, in place of the embedded one
    run_dir: Path | None = None  # FABRIC_RUN_DIR: in place of .fabric/ beside the topology
    log_level: str | None = None  # LOG_LEVEL
    log_format: str | None = None  # LOG_FORMAT
    color: bool = True  # unless NO_COLOR
    debug: bool = False  # FABRIC_DEBUG: show tracebacks


def read(variables: Mapping[str, str] = os.environ) -> Environment:
    """Read and check all of them; raises UsageError with one line for each that cannot be used."""
    given = {name: value for name, value in variables.items() if value}
    problems = []

    port = given.get("FABRIC_PORT")
    if port and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        problems.append(f"FABRIC_PORT: {port!r} is no port: expected a number from 1 to 65535")

    redis_url = given.get("REDIS_URL")
    if redis_url and not _is_redis_url(redis_url):
        shown = "what is set" if "@" in redis_url else repr(redis_url)  # it may hold a password
        problems.append(
            f"REDIS_URL: {shown} is no address of a server: expected redis://host:port/db, rediss:// or unix://"
        )

    log_level = given.get("LOG_LEVEL", "").upper() or None
    if log_level and log_level not in LOG_LEVELS:
        problems.append(f"LOG_LEVEL: {given['LOG_LEVEL']!r} is no level: expected one of {', '.join(LOG_LEVELS)}")

    log_format = given.get("LOG_FORMAT", "").lower() or None
    if log_format and log_format not in LOG_FORMATS:
        problems.append(f"LOG_FORMAT: {given['LOG_FORMAT']!r} is no format: expected one of {', '.join(LOG_FORMATS)}")

    if problems:
        raise UsageError("\n".join(problems))
    return Environment(
        port=int(port) if port else None,
        redis_url=redis_url,
        run_dir=Path(given["FABRIC_RUN_DIR"]) if "FABRIC_RUN_DIR" in given else None,
        log_level=log_level,
        log_format=log_format,
        color="NO_COLOR" not in given,
        debug="FABRIC_DEBUG" in given,
    )


def _is_redis_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # a port that is no number, a broken IPv6 address
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    return parts.scheme in ("redis", "rediss") and bool(parts.hostname) and port != 0
