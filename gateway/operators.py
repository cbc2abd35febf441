"""What operators ask a gateway: `GET /v1/ops`, whose data the launcher of this machine keeps (`fabric.operations`).

The launcher is asked over its Unix socket, in a thread and at most `ASK_EVERY_NS` often: whoever asks in between gets
the last answer. Who may ask: everyone at an open gateway, else the users whose plan says ``operator: true``.
"""

import asyncio
import bisect
import math
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from fabric import metrics
from fabric.clock import SECOND_NS, Clock
from fabric.control import Control, RunFolder
from fabric.errors import FabricError
from gateway.rest import DataHandler, JsonObject, Problem, Service, bad_parameter

_T = TypeVar("_T")
ASK_EVERY_NS = SECOND_NS // 4
TIMEOUT_S = 2.0
RETRY_AFTER_S = 1
_ALONE = "this gateway runs without a launcher"


class Launcher:
    """Asks the launcher, for all who ask this gateway."""

    def __init__(self, run_folder: str, clock: Clock) -> None:
        """``run_folder``: empty where this gateway runs without a launcher."""
        self._folder = RunFolder(Path(run_folder)) if run_folder else None
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "launcher")
        self._asked_ns = -(1 << 62)
        self._answer: asyncio.Future[JsonObject] | None = None

    async def operations(self) -> JsonObject:
        """The whole document, at most `ASK_EVERY_NS` old. Raises FabricError where nobody answers."""
        if self._folder is None:
            raise FabricError(_ALONE)
        now_ns = self._clock.monotonic_ns()
        if self._answer is None or (self._answer.done() and now_ns - self._asked_ns >= ASK_EVERY_NS):
            self._asked_ns = now_ns
            self._answer = asyncio.get_running_loop().run_in_executor(self._thread, self._ask, "ops")
        return await asyncio.shield(self._answer)

    async def metrics(self) -> str:
        """What all nodes of this machine count, for Prometheus. Raises FabricError where nobody answers."""
        if self._folder is None:
            raise FabricError(_ALONE)
        answer = await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, "metrics")
        return str(answer["text"])

    def _ask(self, what: str) -> JsonObject:
        assert self._folder is not None
        with Control(self._folder, TIMEOUT_S) as control:
            return control.ask(what, since=0)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def after(series: JsonObject, since_s: float) -> JsonObject:
    """The points of `fabric.operations`' series that are later than ``since_s``."""
    first = bisect.bisect_right(series["t"], since_s)

    def cut(columns: Any) -> Any:
        if isinstance(columns, dict):
            return {name: cut(column) for name, column in columns.items()}
        return columns[first:]

    return {name: cut(columns) for name, columns in series.items()}


class _OperatorHandler(DataHandler):
    """For operators only."""

    def initialize(self, service: Service, launcher: Launcher) -> None:  # type: ignore[override]
        super().initialize(service)
        self._launcher = launcher

    async def ask(self, awaited: Awaitable[_T]) -> _T:
        """What the launcher answers. Raises Problem 503 where it does not."""
        try:
            return await awaited
        except FabricError as error:
            raise Problem(503, "no_launcher", str(error), retry_after=RETRY_AFTER_S) from error

    def prepare(self) -> None:
        super().prepare()
        if not (self.service.door.open or self.grant.plan.operator):
            detail = f"the plan {self.grant.plan.name!r} is not an operator's (operator: true)"
            raise Problem(403, "forbidden", detail, plan=self.grant.plan.name)


class MergedMetricsHandler(_OperatorHandler):
    """``GET /v1/ops/metrics``: of all nodes of this machine, in Prometheus' text format."""

    async def get(self) -> None:
        self.parameters()
        text = await self.ask(self._launcher.metrics())
        self.set_header("Content-Type", metrics.CONTENT_TYPE)
        self.finish(text)


class OperationsHandler(_OperatorHandler):
    """``GET /v1/ops?since=&series=``"""

    async def get(self) -> None:
        parameters = self.parameters("since", "series")
        since_s = _seconds("since", parameters.get("since", "0"))
        if parameters.get("series", "1") not in ("0", "1"):
            raise bad_parameter("series", parameters["series"], ["0", "1"])
        found = await self.ask(self._launcher.operations())
        series = None if parameters.get("series") == "0" else after(found["series"], since_s)
        self.answer(found | {"series": series})


def _seconds(parameter: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds):
        return seconds
    raise bad_parameter(parameter, text, "a time in seconds since the epoch")
