"""A runtime for the program of a simulated exchange."""

from collections.abc import Callable
from types import SimpleNamespace

from fabric.clock import SystemClock
from fabric.topology import ExchangeSettings


class Listened:
    """A runtime that stops when the listener has heard enough, or after some reports."""

    def __init__(self, settings: ExchangeSettings, reports_max: int = 1_000) -> None:
        self.spec = SimpleNamespace(settings=settings)
        self.clock = SystemClock()
        self.detail = ""
        self.reports: list[dict[str, int | float | str]] = []
        self._reports_max = reports_max
        self.heard: Callable[[], bool] = lambda: False

    def ready(self, detail: str = "") -> None:
        self.detail = detail

    def stopping(self) -> bool:
        return self.heard() or len(self.reports) >= self._reports_max

    def report(self, counters: dict[str, int | float | str]) -> None:
        self.reports.append(counters)
