from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from fabric.cli.top import screen, spark
from fabric.operations import Operations
from fabric.topology import load_text

TEXT = """
venues: {V: {}}
feeds:
  iex: {wire: iex-tops-1.6, venues: V, lines: ["udp://127.0.0.1:5490"]}
cache: {server: off}
"""


def document(**node: Any) -> dict[str, Any]:
    fresh = {
        "name": "iex", "role": "feed", "state": "ready", "ready": True, "pid": 1, "uptime_s": 5.0, "restarts": 0,
        "cpu_percent": 1.0, "rss_bytes": 1, "report_age_s": 0.5, "report": {}, "rates": {"published": 1_234.0},
    }  # fmt: skip
    operations = Operations(load_text(TEXT, "t.yaml", {}))
    operations.tick([fresh | node], 1)
    return operations.document({"state": "ready", "nodes": [fresh | node]}, 60.0, 0, 0, 0.0)


def shown(found: dict[str, Any], width: int) -> str:
    text = StringIO()
    Console(file=text, width=width, no_color=True).print(screen(found, width))
    return text.getvalue()


def test_a_sparkline_goes_from_nothing_to_the_greatest() -> None:
    assert spark([0, 7, None, 3.5, 1]) == "▁█ ▅▂"
    assert spark([None, 0, 0]) == " ▁▁"
    assert spark([]) == ""
    assert spark(list(range(100)), width=3) == "███"


@pytest.mark.parametrize("width", [80, 110, 160])
def test_every_width_shows_hops_nodes_and_what_is_the_matter(width: int) -> None:
    text = shown(document(report={"line": "stale", "breaker_reason": "silence"}), width)
    for word in (
        "processor",
        "total",
        "iex",
        "1,234",
        "Cache hit ratio",
        "(over 90)",
        "(under 10,000)",
        "stale",
        "p99, ",
    ):
        assert word in text
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text, "nothing is cut off"
