"""Tables of a running topology, in terminals of any width."""

from typing import Any

import pytest

from fabric.cli import tables


def status(**report: int | str) -> dict[str, Any]:
    """Of one node that reports ``report``."""
    node = {"name": "redis-writer", "state": "ready", "pid": 4_194_304, "uptime_s": 360_009.0, "restarts": 10}
    usage = {"cpu_percent": 100.5, "rss_bytes": 9_999_000_000, "rates": {"written": 1_234_567.0}, "detail": ""}
    return {"nodes": [node | usage | {"report": report}]}


@pytest.mark.parametrize("width", [80, 120, 160, 200])
def test_counters_are_readable_at_any_width_and_nothing_is_cut(width: int) -> None:
    long = status(gaps=12, lost=0, published=123_456_789, written=987_654_321, keys=20_000, server="127.0.0.1:6379")
    text = tables.render(tables.nodes(long, width), coloured=False, width=width)
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    for shown in ("redis-writer", "4194304", "100:00:09", "1,234,567", "100.5", "9999", "gaps=12", "keys=20,000"):
        assert shown in text.split()
    lines = [line for line in text.splitlines() if "=" in line]
    assert lines[0].split("gaps=")[1:]  # losses come first
    assert len(lines) <= 2


def test_a_node_without_counters_has_no_empty_line_below() -> None:
    assert "counters" not in tables.render(tables.nodes(status(), 80), coloured=False, width=80)


def test_an_output_that_is_no_terminal_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.__stdout__", None)
    assert tables.terminal_width() == tables.WIDTH
    monkeypatch.setenv("COLUMNS", "77")
    assert tables.terminal_width() == 77
