"""topology.yaml -> frozen objects. What has been loaded is valid: nothing further down checks it again.

`load` reads the file once and reports every mistake at once, each as ``file:line:column: key: problem``.
A `Topology` is flat: feeds, exchanges, processor shards, gateways and the cache have all become `NodeSpec`s
in start order, with their ports given out, so the launcher and the nodes need not know how the file is laid out.

Every key, its unit and default: docs/topology.md. Text with positions comes from `topology_file.py`; here are the
keys, what they mean together, and what becomes of them.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from fabric.errors import UsageError
from fabric.topology.draft import VERSION, Draft
from fabric.topology.model import (
    CACHE_NODE,
    CLIENT_CHANNELS,
    FIRST_LETTERS,
    HISTORY_KEEP_NS,
    HISTORY_NODE,
    PARTICIPANTS,
    WIRES,
    WRITER_NODE,
    Access,
    BreakerSettings,
    CacheSettings,
    Curve,
    ExchangeSettings,
    FaultSettings,
    FeedSettings,
    Following,
    GatewaySettings,
    HistorySettings,
    JournalSettings,
    Limits,
    NodeSpec,
    Plan,
    ProcessorSettings,
    Publisher,
    Settings,
    Source,
    TokenSettings,
    Topology,
    Venue,
    may_publish,
)
from fabric.topology.replay import with_source
from fabric.topology.sections import JOURNAL_BYTES_MIN, LIMITS, METRICS_PORT, Overrides, curve_secret
from fabric.topology_file import Problems, Section, hint, parse, read

__all__ = [
    "CACHE_NODE",
    "CLIENT_CHANNELS",
    "FIRST_LETTERS",
    "HISTORY_KEEP_NS",
    "HISTORY_NODE",
    "JOURNAL_BYTES_MIN",
    "LIMITS",
    "METRICS_PORT",
    "PARTICIPANTS",
    "VERSION",
    "WIRES",
    "WRITER_NODE",
    "Access",
    "BreakerSettings",
    "CacheSettings",
    "Curve",
    "ExchangeSettings",
    "FaultSettings",
    "FeedSettings",
    "Following",
    "GatewaySettings",
    "HistorySettings",
    "JournalSettings",
    "Limits",
    "NodeSpec",
    "Plan",
    "ProcessorSettings",
    "Publisher",
    "Settings",
    "Source",
    "TokenSettings",
    "Topology",
    "Venue",
    "curve_secret",
    "endpoints",
    "load",
    "load_text",
    "may_publish",
    "with_source",
]


def load(path: Path | str, environment: Mapping[str, str] = os.environ) -> Topology:
    """Read and check a topology file; raises TopologyError with every mistake, UsageError for a bad variable."""
    return load_text(read(Path(path)), str(path), environment)


def load_text(text: str, path: str = "topology.yaml", environment: Mapping[str, str] = os.environ) -> Topology:
    """`load` for a text; ``path`` is what messages call it, and where paths in it start from."""
    problems = Problems(path)
    top = Section(parse(text, problems, environment))
    version = top.get("version")
    if version and version.content != str(VERSION):
        version.problem(f"this build knows version {VERSION} of the topology, found {version.content!r}")
        problems.check()
    draft = Draft(top, Overrides(environment), Path(path).parent)
    top.close()
    problems.check()
    return draft.topology(path)


def endpoints(topology: Topology, topic: str) -> tuple[str, ...]:
    """The addresses that a raw SUB socket must connect to for this topic prefix; raises UsageError if nobody has it."""
    found = tuple(p.endpoint for p in topology.publishers() if may_publish(p, topic))
    if found:
        return found
    channels = [*sorted({channel for p in topology.publishers() for channel in p.channels}), "node"]
    channel = next((c for c in channels if topic.startswith(f"{c}.")), "")
    if channel:
        raise UsageError(f"topic {topic!r}: no node publishes it, though {channel!r} is a channel of this topology")
    unknown = re.match(r"bar\.[^.]*|[^.]*", topic)
    assert unknown is not None  # the pattern matches the empty text
    raise UsageError(f"topic {topic!r}: no node publishes channel {unknown[0]!r}{hint(unknown[0], channels)}")
