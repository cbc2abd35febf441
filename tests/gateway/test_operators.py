"""Operators' paths against a launcher's socket: who may, what is asked, and what is said where nobody answers."""

import asyncio
import selectors
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fabric import keys
from fabric.clock import ManualClock
from fabric.control import ControlServer, RunFolder
from fabric.errors import FabricError
from fabric.topology import Access, Plan
from gateway.operators import ASK_EVERY_NS, Launcher, after
from gateway_rig import ask, running

SERIES = {"t": [1, 2, 3], "connections": [5, 6, 7], "hops": {"feed": {"p50_ms": [0.1, None, 0.3]}}}


class FakeLauncher:
    """Answers as the launcher does, and counts how often it was asked."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.asked: list[str] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request["do"])
        return {"text": "fabric_x 1\n"} if request["do"] == "metrics" else {"v": 1, "series": SERIES}


@contextmanager
def launched(path: Path) -> Iterator[FakeLauncher]:
    folder = RunFolder(path)
    folder.make()
    launcher = FakeLauncher(folder)
    with selectors.DefaultSelector() as selector:
        server = ControlServer(folder.socket_path(), selector, launcher.answer)
        over = threading.Event()

        def drive() -> None:
            while not over.is_set():
                for key, _ in selector.select(0.05):
                    key.data()

        thread = threading.Thread(target=drive)
        thread.start()
        try:
            yield launcher
        finally:
            over.set()
            thread.join()
            server.refuse()
            server.close()


def test_the_document_is_the_launchers_from_the_point_asked_for(tmp_path: Path) -> None:
    async def look() -> None:
        async with running(run_folder=str(launcher.folder.path)) as rig:
            assert (await ask(rig, "/v1/ops"))[1] == {"v": 1, "series": SERIES}
            assert (await ask(rig, "/v1/ops?since=2"))[1]["series"]["connections"] == [7]
            assert (await ask(rig, "/v1/ops?series=0"))[1] == {"v": 1, "series": None}
            status, text, headers = await ask(rig, "/v1/ops/metrics")
            assert (status, text, headers["Content-Type"].partition(";")[0]) == (200, b"fabric_x 1\n", "text/plain")

    with launched(tmp_path) as launcher:
        asyncio.run(look())


@pytest.mark.parametrize("launcher", ["", "ended"])
def test_without_a_launcher_it_says_so(tmp_path: Path, launcher: str) -> None:
    async def look() -> None:
        async with running(run_folder=str(tmp_path) if launcher else "") as rig:
            for path in ("/v1/ops", "/v1/ops/metrics"):
                status, problem, headers = await ask(rig, path)
                assert (status, problem["code"], headers["Retry-After"]) == (503, "no_launcher", "1")

    asyncio.run(look())


def test_only_operators_may_ask_where_there_are_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    secrets = {}
    for user, plan in (("olga", "ops"), ("alice", "full")):
        key, secret = keys.make(user, plan, time.time_ns())
        keys.add(path, key)
        secrets[user] = f"{key.id}.{secret}"

    async def look() -> None:
        access = Access(str(path), plans=(Plan(), Plan("ops", operator=True)))
        async with running(access=access, run_folder=str(launcher.folder.path)) as rig:
            for where in ("/v1/ops", "/v1/ops/metrics"):
                assert (await ask(rig, where))[0] == 401
                status, problem, _ = await ask(rig, where, X_API_Key=secrets["alice"])
                assert (status, problem["code"], problem["plan"]) == (403, "forbidden", "full")
                assert (await ask(rig, where, X_API_Key=secrets["olga"]))[0] == 200

    with launched(tmp_path / "run") as launcher:
        asyncio.run(look())


@pytest.mark.parametrize("query", ["since=yesterday", "since=nan", "series=2", "more=1"])
def test_a_wrong_parameter_is_named(query: str) -> None:
    async def look() -> None:
        async with running() as rig:
            status, problem, _ = await ask(rig, f"/v1/ops?{query}")
            assert (status, problem["parameter"]) == (400, query.partition("=")[0])

    asyncio.run(look())


def test_many_who_ask_at_once_are_one_question(tmp_path: Path) -> None:
    async def look() -> None:
        clock = ManualClock()
        asker = Launcher(str(launcher.folder.path), clock)
        await asyncio.gather(*(asker.operations() for _ in range(20)))
        assert launcher.asked == ["ops"]
        clock.advance(ASK_EVERY_NS)
        await asyncio.gather(*(asker.operations() for _ in range(20)))
        assert launcher.asked == ["ops", "ops"]
        asker.close()

    with launched(tmp_path) as launcher:
        asyncio.run(look())


def test_a_launcher_that_has_ended_is_an_error_and_asked_again(tmp_path: Path) -> None:
    async def look() -> None:
        clock = ManualClock()
        asker = Launcher(str(tmp_path), clock)
        with pytest.raises(FabricError):
            await asker.operations()
        with launched(tmp_path):
            clock.advance(ASK_EVERY_NS)
            assert (await asker.operations())["v"] == 1
        asker.close()

    asyncio.run(look())


def test_all_columns_are_cut_alike() -> None:
    assert after(SERIES, 1) == {"t": [2, 3], "connections": [6, 7], "hops": {"feed": {"p50_ms": [None, 0.3]}}}
    assert after(SERIES, 3)["t"] == []
    assert after(SERIES, 0) == SERIES
