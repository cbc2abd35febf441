"""A YAML file as text with positions: what `topology` reads settings from, and where every mistake is noted.

YAML's own types are not used: `yaml.safe_load` makes True of the ticker ON, 10 of 012 and 960 of 16:00, and lets
a second `port:` win in silence. Every scalar stays text, each value knows its line and column, and the reader
methods (`integer`, `duration_ns`, ...) say what they expected. A mistake is noted in `Problems` and a fallback is
returned, so that one run finds them all.
"""

import difflib
import ipaddress
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from fabric.errors import TopologyError

BYTES_MAX = 1 << 20
VALUES_MAX = 20_000
"""Aliases are counted each time they are used, so a file of nested aliases ends here and not in memory."""
DEPTH_MAX = 32

_UNITS_NS = {"us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3_600 * 10**9, "d": 86_400 * 10**9}
_UNITS_BYTES = {"": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
_VARIABLE = re.compile(r"(\$?)\$\{([^}]*)\}?")
_REFERENCE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


@dataclass
class Problems:
    """The mistakes found so far in the file at ``path``."""

    path: str
    _found: list[tuple[int, int, str]] = field(default_factory=list)

    def add(self, line: int, column: int, key: str, problem: str) -> None:
        """Note a mistake at ``line``:``column``, both from 1; the same one twice is noted once."""
        entry = (line, column, f"{self.path}:{line}:{column}: {key + ': ' if key else ''}{problem}")
        if entry not in self._found:
            self._found.append(entry)

    def check(self) -> None:
        """Raise TopologyError with all mistakes in the order of the file, if there are any."""
        if self._found:
            raise TopologyError([text for _, _, text in sorted(self._found)])


@dataclass(frozen=True)
class Value:
    """One value of the file. ``content`` is None when its mistake has been noted already."""

    problems: Problems
    name: str  # its own key; empty for an item of a list
    key: str  # path from the top: gateways.web.reads[2]
    at: tuple[int, int]  # line and column of the value
    name_at: tuple[int, int]  # of its key, in a mapping; of the value itself elsewhere
    content: "str | list[Value] | dict[str, Value] | None"

    @property
    def where(self) -> str:
        """The place of the key, as messages name it: ``line 7:3``."""
        return f"line {self.name_at[0]}:{self.name_at[1]}"

    def problem(self, text: str) -> None:
        """Note a mistake of this value."""
        self.problems.add(*self.at, self.key, text)

    def name_problem(self, text: str) -> None:
        """Note a mistake of this value's key."""
        self.problems.add(*self.name_at, self.key, text)

    def expected(self, what: str) -> None:
        """Note that ``what`` was expected, and what was found instead."""
        if isinstance(self.content, str):
            self.problem(f"expected {what}, found {repr(self.content) if self.content else 'nothing'}")
        elif self.content is not None:
            self.problem(f"expected {what}, found a {'list' if isinstance(self.content, list) else 'mapping'}")

    def text(self, what: str = "text", pattern: str = r".+", fallback: str = "") -> str:
        """The scalar as it is written; ``pattern`` is what all of it must match."""
        if isinstance(self.content, str) and re.fullmatch(pattern, self.content, re.DOTALL):
            return self.content
        self.expected(what)
        return fallback

    def choice(self, options: Sequence[str], what: str, fallback: str = "") -> str:
        """One of ``options``."""
        if isinstance(self.content, str) and self.content in options:
            return self.content
        if isinstance(self.content, str):
            self.problem(f"unknown {what} {self.content!r}{hint(self.content, options)}")
        else:
            self.expected(what)
        return fallback

    def integer(self, low: int, high: int, what: str = "a whole number", fallback: int = 0) -> int:
        """A whole number in [low, high]; ``50_000`` is one too."""
        written = re.fullmatch(r"-?[0-9]+(_[0-9]+)*", self._scalar())
        if written and low <= (number := int(written[0])) <= high:
            return number
        self.expected(f"{what} from {low} to {high}")
        return fallback

    def port(self) -> int:
        """A TCP or UDP port."""
        return self.integer(1, 65_535, "a port")

    def number(self, low: float, fallback: float) -> float:
        """A finite number of at least ``low``."""
        try:
            number = float(self.content) if isinstance(self.content, str) else math.nan
        except ValueError:
            number = math.nan
        if math.isfinite(number) and number >= low:
            return number
        self.expected(f"a number of at least {low:g}")
        return fallback

    def flag(self) -> bool:
        """``true`` or ``false``."""
        if self.content not in ("true", "false"):
            self.expected("true or false")
        return self.content == "true"

    def duration_ns(self, low_ns: int, fallback: int) -> int:
        """A time with its unit, as 500ms, 2.5s or 1m; in nanoseconds, at least ``low_ns``."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h|d)", self._scalar())
        if match and (duration := round(float(match[1]) * _UNITS_NS[match[2]])) >= low_ns:
            return duration
        self.expected(f"a time of at least {low_ns / 1e6:g}ms with its unit, such as 500ms, 2.5s or 1m")
        return fallback

    def size_bytes(self, low: int, fallback: int) -> int:
        """A size such as 256mb; a kb is 1,024 bytes, as in Redis."""
        match = re.fullmatch(r"([0-9]+)(kb|mb|gb|)", self._scalar().lower())
        if match and (size := int(match[1]) * _UNITS_BYTES[match[2]]) >= low:
            return size
        self.expected(f"a size of at least {low} bytes, such as 256mb")
        return fallback

    def address(self, scheme: str, example: str) -> tuple[str, int]:
        """Host and port of ``scheme://host:port``; an IPv6 host stands in brackets."""
        match = re.fullmatch(scheme + r"://(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]@]+):([0-9]+)", self._scalar())
        if match and 1 <= int(match[2]) <= 65_535 and is_host(host := match[1].strip("[]")):
            return host, int(match[2])
        self.expected(f"an address such as {example}")
        return "", 0

    def items(self) -> "list[Value]":
        """The items of a list; what was left empty is an empty list."""
        if isinstance(self.content, list):
            return self.content
        if self.content != "":
            self.expected("a list")
        return []

    def entries(self) -> "Mapping[str, Value]":
        """The entries of a mapping; what was left empty is an empty mapping."""
        if isinstance(self.content, dict):
            return self.content
        if self.content != "":
            self.expected("a mapping")
        return {}

    def _scalar(self) -> str:
        return self.content if isinstance(self.content, str) else ""


class Section:
    """A mapping with known keys. Those that were asked for are known; `close` notes all others."""

    def __init__(self, value: Value) -> None:
        self.value = value
        self._entries = value.entries()
        self._known: list[str] = []

    def get(self, key: str) -> Value | None:
        """The value of ``key``, if the file gives one."""
        self._known.append(key)
        return self._entries.get(key)

    def need(self, key: str, example: str) -> Value | None:
        """The value of ``key``; that it is missing is a mistake."""
        found = self.get(key)
        if found is None and self.value.content is not None:
            self.value.name_problem(f"{key!r} is missing; an example: {key}: {example}")
        return found

    def entries(self, key: str) -> Iterator[Value]:
        """The entries of the mapping at ``key``, in the order of the file."""
        found = self.get(key)
        return iter(found.entries().values() if found else ())

    def items(self, key: str) -> list[Value]:
        """The items of the list at ``key``."""
        found = self.get(key)
        return found.items() if found else []

    def close(self) -> None:
        """Note every key that nobody asked for."""
        for key, value in self._entries.items():
            if key not in self._known:
                value.name_problem(f"unknown key {key!r}{hint(key, self._known)}")


def is_host(text: str) -> bool:
    """Whether this may be an address: what looks like an IP address is one, and anything else is a name."""
    if re.fullmatch(r"[0-9.]+|.*:.*", text) is None:
        return True
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def hint(word: str, options: Iterable[str]) -> str:
    """What was probably meant by ``word``, or all there is to choose from, as the end of a message."""
    options = list(dict.fromkeys(options))
    close = difflib.get_close_matches(word, options, 1) or [o for o in options if o.lower() == word.lower()]
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is {', '.join(options)}" if options else ""


def read(path: Path) -> str:
    """The text of the file; raises TopologyError that says why there is none."""
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES_MAX + 1)
        if len(raw) > BYTES_MAX:
            raise TopologyError([f"{path}: the file is larger than {BYTES_MAX} bytes"])
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise TopologyError([f"{path}: {error.strerror or error}"]) from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise TopologyError([f"{path}:{line}:1: byte {error.start} is not UTF-8 text"]) from error


def parse(text: str, problems: Problems, environment: Mapping[str, str]) -> Value:
    """Turn YAML into a tree of values with ``${NAME}`` filled in; raises TopologyError where there is no tree."""
    try:
        root = yaml.compose(text, yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        assert mark is not None  # scanner, parser and composer all give one of the two
        advice = "; indent with spaces, not with tabs" if "\\t" in str(error.problem) else ""
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        problems.add(mark.line + 1, mark.column + 1, "", f"not YAML: {reason}{advice}")
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = len(before) - before.rfind("\n")
        problems.add(before.count("\n") + 1, column, "", f"not YAML: character {error.character:#x} is not allowed")
    except RecursionError:
        problems.add(1, 1, "", f"nested deeper than {DEPTH_MAX} levels")
    else:
        if not isinstance(root, yaml.MappingNode):
            problems.add(1, 1, "", f"expected a mapping, found {_kind(root)}")
        else:
            return _Builder(problems, environment).build(root)
    problems.check()
    raise AssertionError("a problem was noted above")


class _Builder:
    """Walks the tree once; the counters bound what aliases can multiply."""

    def __init__(self, problems: Problems, environment: Mapping[str, str]) -> None:
        self._problems = problems
        self._environment = environment
        self._values = 0

    def build(self, root: yaml.Node) -> Value:
        return self._value(root, "", "", _place(root), 0)

    def _value(self, node: yaml.Node, name: str, key: str, name_at: tuple[int, int], depth: int) -> Value:
        self._values += 1
        if self._values > VALUES_MAX or depth > DEPTH_MAX:
            bound = f"more than {VALUES_MAX} values" if depth <= DEPTH_MAX else f"nested deeper than {DEPTH_MAX} levels"
            self._problems.add(*_place(node), key, f"{bound}, with every alias counted where it is used")
            self._problems.check()
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rpartition(":")[2] not in ("str", "seq", "map"):
            self._problems.add(*_place(node), key, f"tags such as {node.tag!r} have no meaning here")
        content: str | list[Value] | dict[str, Value] | None
        if isinstance(node, yaml.MappingNode):
            content = self._mapping(node, key, depth)
        elif isinstance(node, yaml.SequenceNode):
            content = [
                self._value(child, "", f"{key}[{i}]", _place(child), depth + 1) for i, child in enumerate(node.value)
            ]
        else:
            content = self._filled(node, key)
        return Value(self._problems, name, key, _place(node), name_at, content)

    def _mapping(self, node: yaml.MappingNode, key: str, depth: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problems.add(*_place(key_node), key, "a key must be plain text")
                continue
            name = key_node.value
            path = f"{key}.{name}" if key else name
            value = self._value(value_node, name, path, _place(key_node), depth + 1)
            if name in found:
                value.name_problem(f"given twice; first at {found[name].where}")
            else:
                found[name] = value
        return found

    def _filled(self, node: yaml.Node, key: str) -> str | None:
        """The scalar with its ``${NAME}`` and ``${NAME:-default}`` filled in; ``$${`` is ``${``. None on a mistake."""
        problem = ""

        def fill(match: re.Match[str]) -> str:
            nonlocal problem
            if match[1]:
                return match[0][1:]
            reference = _REFERENCE.fullmatch(match[2])
            if reference is None or not match[0].endswith("}"):
                problem = f"expected ${{NAME}} or ${{NAME:-default}}, found {match[0]!r}"
                return ""
            if reference[2] is not None:
                return self._environment.get(reference[1]) or reference[2]
            if reference[1] not in self._environment:
                problem = f"environment variable {reference[1]} is not set, and ${{{reference[1]}}} gives no default"
            return self._environment.get(reference[1], "")

        filled = _VARIABLE.sub(fill, node.value)
        if not problem:
            return filled
        self._problems.add(*_place(node), key, problem)
        return None


def _kind(root: yaml.Node | None) -> str:
    if root is None:
        return "nothing"
    return "a list" if isinstance(root, yaml.SequenceNode) else "text"


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
