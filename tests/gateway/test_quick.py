"""The short way to a quote is the usual one in all that a client sees, and in what is counted."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from fabric import keys
from fabric.topology import Access, Plan
from gateway import quick
from gateway_rig import Rig, ask, running

VARIES = ("date", "ratelimit", "etag")


def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave only the usual way."""
    monkeypatch.setattr(quick, "PREFIX", "never")


async def seen(rig: Rig, path: str, **headers: str) -> tuple[int, Any, dict[str, str]]:
    status, body, found = await ask(rig, path, **headers)
    found = {name: value for name, value in found.items() if name.lower() not in VARIES}
    if isinstance(body, dict) and "age_ms" in body:
        body["age_ms"] = 0
        del found["Content-Length"]
    return status, body, found


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/quotes/AAPL", "good", 200),
        ("/quotes/MSFT", "good", 404),  # known, without a quote
        ("/quotes/NOPE", "good", 404),
        ("/quotes/IBM", "good", 403),
        ("/quotes/AAPL", "wrong", 401),
        ("/quotes/AAPL", "", 401),
        ("/quotes/AAPL?x=1", "good", 400),
        ("/quotes/%41APL", "good", 200),
    ],
)
def test_both_ways_answer_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, key: str, status: int
) -> None:
    file = tmp_path / "keys.json"
    made, secret = keys.make("u", "some", 0)
    keys.add(file, made)
    access = Access(str(file), plans=(Plan("some", symbols=("A*", "M*", "N*")),))
    known = {"good": f"{made.id}.{secret}", "wrong": "FKX.wrong", "": ""}[key]
    headers = {"X_API_Key": known} if known else {}

    async def look() -> None:
        async with running(access=access) as rig:
            rig.put(rig.link(1), rig.nbbo("AAPL"), rig.nbbo("IBM"), rig.trade("MSFT"))
            await rig.taken()
            short = await seen(rig, path, **headers)
            counted = dict(rig.gateway._service.requests), dict(rig.gateway._service.reads)
            usual(monkeypatch)
            assert await seen(rig, path, **headers) == short
            assert short[0] == status
            twice = dict(rig.gateway._service.requests), dict(rig.gateway._service.reads)
            for before, after in zip(counted, twice, strict=True):
                assert {name: 2 * count for name, count in before.items()} == after

    asyncio.run(look())


def test_a_refusal_is_counted_once() -> None:
    """Bad input 53: two requests are let through, and each refusal costs one token at most."""

    async def look() -> None:
        async with running(address_requests=1) as rig:
            rig.put(rig.link(1), rig.nbbo("AAPL"))
            await rig.taken()
            answers = [await ask(rig, "/quotes/AAPL") for _ in range(3)]
            assert [status for status, _, _ in answers] == [200, 200, 429]
            assert [found["RateLimit"] for _, _, found in answers] == [
                '"address";r=1;t=0', '"address";r=0;t=0', '"address";r=0;t=1',
            ]  # fmt: skip
            assert answers[2][2]["Retry-After"] == "1"
            assert rig.gateway._service.rate_limited == 1

    asyncio.run(look())


def test_requests_that_come_at_once_are_answered_in_order() -> None:
    async def look() -> None:
        async with running() as rig:
            rig.put(rig.link(1), rig.nbbo("A"), rig.nbbo("B"))
            await rig.taken()
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            for name in ("A", "B", "NOPE", "A"):
                writer.write(f"GET /quotes/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            symbols = []
            for _ in range(4):
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                size = int(head.split("content-length: ")[1].split("\r\n")[0])
                symbols.append(json.loads(await reader.readexactly(size))["symbol"])
            assert symbols == ["A", "B", "NOPE", "A"]
            writer.write(b"GET /quotes/A HTTP/1.0\r\nHost: x\r\n\r\n")
            assert json.loads((await reader.read()).partition(b"\r\n\r\n")[2])["symbol"] == "A", "and then closed"
            writer.close()
            await writer.wait_closed()

    asyncio.run(look())
