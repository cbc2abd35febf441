"""Single values of the file: lines, servers, letters, bounds, with the mistakes that each may have."""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fabric.clock import MILLISECOND_NS, SECOND_NS
from fabric.errors import UsageError
from fabric.topology.model import (
    FIRST_LETTERS,
    RECOVERY,
    BreakerSettings,
    Curve,
    FaultSettings,
    JournalSettings,
    Limits,
)
from fabric.topology_file import Section, Value

ANSWERED_APART = ("cboe-pitch-2.41", "nyse-pillar")
"""Wires whose lost messages come on lines of their own."""
_OVER_TCP = ("nasdaq-itch-5.0",)
"""Wires whose lines may be SoupBinTCP."""
PREFIX = r"\*|(?:[A-Z0-9][!-)+-{}~]{0,15})?\*?"
_REDIS_URL = r"rediss?://(?:[^\s@/]*@)?(?:\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]+)(?::[0-9]{1,5})?(?:/[0-9]*)?|unix://(?:[^\s@/]*@)?/\S+"
KEY = r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}"
"""A CURVE key: 32 bytes in Z85 (ZeroMQ RFC 32)."""


def curve_secret(text: str) -> str | None:
    """The CURVE secret key in the text of a file: alone, or in a ZeroMQ certificate; None where there is none."""
    certificate = re.search(r'^\s*secret-key\s*=\s*"([^"\n]*)"', text, re.MULTILINE)
    found = certificate[1] if certificate else text.strip()
    return found if re.fullmatch(KEY, found) else None


def read_curve(folder: Path, secret: Value | None, public: Value | None, clients: Sequence[Value]) -> Curve | None:
    """The keys of a host; None where one of the pair is missing."""
    if secret is None or public is None:
        return None
    path = folder.resolve() / secret.text("a file name")
    return Curve(str(path), str(public.content), tuple(str(client.content) for client in clients))


@dataclass(frozen=True)
class Overrides:
    """Settings from environment variables, which win over the file."""

    environment: Mapping[str, str]

    def http_port(self) -> int | None:
        """Of the first gateway: FABRIC_PORT, else PORT."""
        for name in ("FABRIC_PORT", "PORT"):
            if text := self.environment.get(name):
                if re.fullmatch(r"[0-9]{1,5}", text) and 1 <= int(text) <= 65_535:
                    return int(text)
                raise UsageError(f"environment variable {name}: expected a port from 1 to 65535, found {text!r}")
        return None

    def redis_url(self) -> str:
        url = self.environment.get("REDIS_URL", "")
        if url and not re.fullmatch(_REDIS_URL, url):
            found = repr(url) if "@" not in url else "another text (not shown: it may hold a password)"
            raise UsageError(
                f"environment variable REDIS_URL: expected an address such as redis://127.0.0.1:6379, found {found}"
            )
        return url

    def chosen(self, name: str, options: Sequence[str], default: str) -> str:
        text = self.environment.get(name) or default
        if text not in options:
            raise UsageError(f"environment variable {name}: expected one of {', '.join(options)}, found {text!r}")
        return text


def read_letter_sets(at: Value, items: Sequence[Value]) -> tuple[str, ...]:
    """First letters of each shard; notes what is in none of them, or in two. One shard alone is no sharding.

    ``items`` are texts in a list (``shards: [A-H, ...]``) or entries whose keys are the letters (``{A-H: redis://...}``).
    """
    texts = [item.name or item.text("letters and digits such as A-H or Q-Z 0-9") for item in items]
    sets = [_letters(item, text) for item, text in zip(items, texts, strict=True)]
    doubled: dict[str, str] = {}  # the two shards -> what both have
    for i, letters in enumerate(sets):
        for j in range(i):
            if both := "".join(letter for letter in letters if letter in sets[j]):
                doubled[f"{texts[j]!r} and {texts[i]!r}"] = both
    for pair, both in doubled.items():
        at.name_problem(f"{_ranges(both)} is in two shards: {pair}")
    missing = _ranges("".join(letter for letter in FIRST_LETTERS if letter not in "".join(sets)))
    if missing and all(sets) and isinstance(at.content, list | dict):
        at.name_problem(f"no shard has {missing}; every letter and digit must be in one")
    return tuple(sets) if len(sets) > 1 else ("",)


def _letters(item: Value, text: str) -> str:
    """``A-C X`` -> ``ABCX``; empty after a mistake, which is noted."""
    problem = item.name_problem if item.name else item.problem
    if text == "*":
        return FIRST_LETTERS
    if text and not re.fullmatch(r"(?:[A-Z0-9](?:-[A-Z0-9])?[ ,]*)+", text):
        problem(f"expected letters and digits such as A-H or Q-Z 0-9, found {text!r}")
        return ""
    letters = ""
    for first, last in re.findall(r"([A-Z0-9])(?:-([A-Z0-9]))?", text):
        last = last or first
        if first > last or first.isdigit() != last.isdigit():
            problem(f"{first}-{last} is not a range of letters or of digits")
            return ""
        letters += FIRST_LETTERS[FIRST_LETTERS.index(first) : FIRST_LETTERS.index(last) + 1]
    if len(set(letters)) < len(letters):
        problem(f"{text!r} names a letter twice")
    return letters


def _ranges(letters: str) -> str:
    """``ABCX`` -> ``A-C X``."""
    runs: list[list[str]] = []
    for letter in sorted(set(letters), key=FIRST_LETTERS.index):
        if runs and FIRST_LETTERS.index(runs[-1][-1]) + 1 == FIRST_LETTERS.index(letter) and letter != "0":
            runs[-1].append(letter)
        else:
            runs.append([letter])
    return " ".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


LIMITS: Mapping[str, tuple[str, int]] = {
    "symbols_max": ("", 16),
    "batch_max": ("", 16),
    "linger": ("time", 0),
    "queue_max": ("", 1),
    "message_bytes_max": ("bytes", 1_024),
    "repair_max": ("", 0),
    "stale_after": ("time", 10 * MILLISECOND_NS),
    "refresh_every": ("time", 10 * MILLISECOND_NS),
    "restarts_max": ("", 0),
    "restart_window": ("time", SECOND_NS),
    "drain": ("time", 0),
    "clients_max": ("", 1),
    "client_symbols_max": ("", 1),
    "candles_kept": ("", 1),
    "address_connections": ("", 1),
    "address_requests": ("", 1),
}
"""Key in the file -> unit and least value; a time becomes the field ``<key>_ns``."""


@dataclass(frozen=True)
class _Line:
    at: Value
    group: int
    host: str = ""
    port: int = 0
    interface: str = ""
    over_tcp: bool = False


def read_lines(value: Value, wire: str) -> list[_Line]:
    """Every line of a feed: an item of the list is one, or a list of those that carry the same messages."""
    found = []
    for group, item in enumerate(value.items()):
        if isinstance(item.content, list):
            if not item.content:
                item.expected('the lines of one group, such as ["udp://127.0.0.1:5490", "udp://127.0.0.1:5491"]')
            found += [_line(line, group, wire) for line in item.content]
        else:
            found.append(_line(item, group, wire))
    if not found and value.content is not None:
        value.problem("a feed needs at least one line to listen on")
    return found


def _line(value: Value, group: int, wire: str) -> _Line:
    text = value.content if isinstance(value.content, str) else ""
    if wire in _OVER_TCP and text.startswith("tcp:"):
        return _Line(value, group, *value.address("tcp", "tcp://127.0.0.1:5490"), over_tcp=True)
    if text.startswith("tcp:"):
        value.problem(
            f"only {' and '.join(_OVER_TCP)} comes over TCP; {wire or 'this wire'} over UDP: udp://127.0.0.1:5490"
        )
        return _Line(value, group)
    address, at, interface = text.partition("@")
    host, port = replace(value, content=address if text else value.content).address(
        "udp", "udp://127.0.0.1:5490, or udp://239.1.2.3:5000@eth0 for a multicast group"
    )
    if at and host and not (is_ip(host) and ipaddress.ip_address(host).is_multicast):
        value.problem(f"{host} is no multicast group: only such a one is joined on an interface (@{interface})")
    elif at and not re.fullmatch(r"[A-Za-z0-9_.:-]+", interface):
        value.problem(f"expected the address or name of an interface after the @, found {interface!r}")
    return _Line(value, group, host, port, interface)


def roles_of(groups: tuple[int, ...]) -> str:
    """A for the first line of each group, B for the others."""
    return "".join("B" if group in groups[:i] else "A" for i, group in enumerate(groups))


def read_recovery(value: Value | None, wire: str) -> tuple[tuple[str, str, int], ...]:
    """The request servers of a feed, as (udp or tcp, host, port)."""
    if value is None:
        return ()
    schemes = RECOVERY.get(wire, ("udp", "tcp"))
    if not schemes:
        value.name_problem(f"the exchange of {wire} cannot be asked for lost messages")
        return ()
    found = []
    for item in value.items():
        text = item.content if isinstance(item.content, str) else ""
        scheme = next((scheme for scheme in schemes if text.startswith(f"{scheme}:")), schemes[0])
        example = " or ".join(f"{scheme}://127.0.0.1:5495" for scheme in schemes)
        found.append((scheme, *item.address(scheme, example)))
    if value.content in ("", []):
        value.problem("expected the address of at least one request server")
    if len({scheme for scheme, _, _ in found}) > 1:
        value.problem("all request servers of a feed are asked the same way: udp or tcp")
    return tuple(found)


def read_addresses(value: Value | None, scheme: str, expected: bool, problem: str) -> tuple[tuple[str, int], ...]:
    """Addresses of one scheme, where the wire has a use for them."""
    if value is None:
        return ()
    if not expected:
        value.name_problem(problem)
        return ()
    return tuple(item.address(scheme, f"{scheme}://127.0.0.1:5495") for item in value.items())


def read_login(value: Value | None) -> tuple[str, str]:
    """User and password."""
    if value is None:
        return "", ""
    section = Section(value)
    user, password = section.need("user", "me"), section.get("password")
    section.close()
    return (
        user.text("a name of at most 10 characters", r"[!-~]{1,10}") if user else "",
        password.text("a password of at most 10 characters", r"[!-~]{1,10}") if password else "",
    )


def read_breaker(value: Value | None, stale_after_ns: int) -> BreakerSettings:
    """When the circuit breaker of a feed opens."""
    default = BreakerSettings(silence_ns=min(BreakerSettings.silence_ns, stale_after_ns))
    if value is None:
        return default
    section = Section(value)
    found: dict[str, int] = {}
    for key in ("silence", "window", "skew", "backoff"):
        if duration := section.get(key):
            found[f"{key}_ns"] = duration.duration_ns(10 * MILLISECOND_NS, getattr(default, f"{key}_ns"))
    for key in ("gaps", "errors"):
        if count := section.get(key):
            found[f"{key}_max"] = count.integer(0, 1_000_000_000)
    section.close()
    return replace(default, **found)


def read_faults(value: Value) -> FaultSettings:
    """What a simulated exchange does wrong."""
    section = Section(value)
    found: dict[str, Any] = {}
    if lines := section.get("lines"):
        found["lines"] = lines.text("A, B or AB", "A|B|AB", FaultSettings.lines)
    for name in ("drop", "duplicate", "corrupt", "drop_both"):
        if share := section.get(name):
            found[name] = share.number(0, 0.0)
            if found[name] > 1:
                share.expected("a share from 0 to 1")
    for name in ("after", "for", "flap", "delay", "restart"):
        if duration := section.get(name):
            found[f"{name}_ns"] = duration.duration_ns(0, 0)
    if skew := section.get("skew"):
        found["skew_ns"] = round(skew.number(-3_600, 0.0) * SECOND_NS)
    if reorder := section.get("reorder"):
        found["reorder"] = reorder.integer(0, 1_000, "a number of packets")
    if mute := section.get("mute"):
        found["mute"] = mute.flag()
    section.close()
    return FaultSettings(**found)


def read_limits(value: Value | None) -> Limits:
    """Every bound, its default where the file gives none."""
    if value is None:
        return Limits()
    section = Section(value)
    given: dict[str, int] = {}
    for key, (unit, low) in LIMITS.items():
        field_name = f"{key}_ns" if unit == "time" else key
        default: int = getattr(Limits, field_name)
        if found := section.get(key):
            if unit == "time":
                given[field_name] = found.duration_ns(low, default)
            elif unit == "bytes":
                given[field_name] = found.size_bytes(low, default)
            else:
                given[field_name] = found.integer(low, 2**31 - 1, fallback=default)
    section.close()
    return Limits(**given)


JOURNAL_BYTES_MIN = 8 << 20
"""Room for some segments of a megabyte."""


def read_journal(value: Value | None, folder: Path) -> JournalSettings | None:
    """None where the file says ``journal: off``."""
    default = JournalSettings(str(folder / ".fabric" / "journal"))
    if value is None:
        return default
    if value.content == "off":
        return None
    section = Section(value)
    place, keep, size = section.get("folder"), section.get("keep"), section.get("bytes")
    sync, serve, in_place = section.get("sync"), section.get("serve"), section.get("in_place")
    section.close()
    return JournalSettings(
        str(folder / place.text("a folder")) if place else default.folder,
        keep.duration_ns(SECOND_NS, default.keep_ns) if keep else default.keep_ns,
        size.size_bytes(JOURNAL_BYTES_MIN, default.bytes_max) if size else default.bytes_max,
        sync.duration_ns(MILLISECOND_NS, default.sync_ns) if sync else default.sync_ns,
        serve.size_bytes(1 << 20, default.serve_bytes) if serve else default.serve_bytes,
        in_place.flag() if in_place else default.in_place,
    )


METRICS_PORT = 9464
"""Where Prometheus looks for an exporter of its own (its wiki, default port allocations)."""
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_FORMATS = ("text", "json")


def read_log(value: Value | None, overrides: Overrides) -> tuple[str, str]:
    """Level and format of what nodes print."""
    level = log_format = ""
    if value is not None:
        section = Section(value)
        given, given_format = section.get("level"), section.get("format")
        section.close()
        level = given.choice(_LEVELS, "level") if given else ""
        log_format = given_format.choice(_FORMATS, "format") if given_format else ""
    return (
        overrides.chosen("LOG_LEVEL", _LEVELS, level or "INFO"),
        overrides.chosen("LOG_FORMAT", _FORMATS, log_format or "text"),
    )


def read_metrics(value: Value | None) -> tuple[str, int] | None:
    """Address and port of the metrics of all nodes; None where none are served."""
    if value is None:
        return None
    section = Section(value)
    port, bind = section.need("port", str(METRICS_PORT)), section.get("bind")
    section.close()
    return (
        bind.text("an IP address", r"[0-9a-fA-F:.]+") if bind else "127.0.0.1",
        port.port() if port else METRICS_PORT,
    )


def read_prefix(value: Value) -> str:
    """A gateway's symbol prefix without its star; the empty one is every symbol."""
    text = value.text('a prefix of symbols such as A, BRK or "*"', PREFIX)
    return text.removesuffix("*")


def shortest(prefixes: Iterable[str]) -> tuple[str, ...]:
    """Without those that a shorter one covers: a SUB socket would match, and forward, twice."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not any(prefix.startswith(other) for other in kept):
            kept.append(prefix)
    return tuple(kept)


def read_redis_url(value: Value, what: str = "an address") -> str:
    """The address of a Redis server; a mistake does not repeat its password."""
    if not (isinstance(value.content, str) and re.fullmatch(_REDIS_URL, value.content)):
        if isinstance(value.content, str) and "@" in value.content:
            value.problem("expected an address such as redis://127.0.0.1:6379 (what was found may hold a password)")
        else:
            value.expected(f"{what} such as redis://127.0.0.1:6379")
        return ""
    return value.content


def is_ip(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(bind: str) -> bool:
    """Whether only this machine reaches it."""
    return is_ip(bind) and ipaddress.ip_address(bind).is_loopback


def bracketed(address: str) -> str:
    """An address as it stands before a port."""
    return f"[{address}]" if ":" in address else address
