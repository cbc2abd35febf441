"""The gateway over real HTTP: routes, problem documents, limits of the server, readiness, and how it drains."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

from fabric import keys
from fabric.errors import StoreError
from fabric.records import KIND_NBBO, NULL, STATE_STALE
from fabric.topology import Access, Plan
from gateway import app
from gateway.auth import Credentials
from gateway.watchdog import Watchdog
from gateway_rig import Rig, ask, running


async def fetch(rig: Rig, path: str, **options: Any) -> HTTPResponse:
    url = f"http://127.0.0.1:{rig.port}{path}"
    return await AsyncHTTPClient(force_instance=True).fetch(url, raise_error=False, **options)


async def body(rig: Rig, path: str, status: int = 200, **options: Any) -> Any:
    response = await fetch(rig, path, **options)
    assert response.code == status, response.body
    expected = (
        "application/json" if status < 400 or path[:6] in ("/livez", "/ready", "/healt") else "application/problem+json"
    )
    assert response.headers["Content-Type"] == expected
    return json.loads(response.body)


async def raw(rig: Rig, request: bytes) -> bytes:
    """Send bytes as they are; return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    try:
        writer.write(request)
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def scenario(steps: Callable[[Rig], Awaitable[None]], **options: Any) -> None:
    """Run ``steps`` beside a running gateway."""

    async def play() -> None:
        async with running(**options) as rig:
            await steps(rig)

    asyncio.run(play())


# Data


def test_what_the_bus_brings_is_answered_at_once() -> None:
    async def steps(rig: Rig) -> None:
        rig.put(rig.nbbo())
        await rig.taken()
        response = await fetch(rig, "/quotes/AAPL")
        answer = json.loads(response.body)
        assert (answer["bid"], answer["ask"], answer["state"]) == (185.5, 185.52, "live")
        assert 0 <= answer["age_ms"] < 10_000
        assert response.headers["X-Data-Source"] == "memory"
        assert response.headers["Cache-Control"] == "no-store"
        assert rig.clients.rows == 1

        rig.put(rig.nbbo(seq=2, bid_px=NULL, ask_px=NULL, state=STATE_STALE))
        await rig.taken()
        stale = await body(rig, "/quotes/AAPL")
        assert (stale["bid"], stale["state"], stale["flags"]) == (185.5, "stale", ["stale"])

    scenario(steps)


def test_several_symbols_candles_names_and_the_topology() -> None:
    async def steps(rig: Rig) -> None:
        rig.put(rig.nbbo(), rig.nbbo("BRK.B"))
        await rig.taken()
        answer = await body(rig, "/quotes?symbols=BRK.B,AAPL,NOPE")
        assert [quote["symbol"] for quote in answer["quotes"]] == ["BRK.B", "AAPL"]
        assert answer["missing"] == [{"symbol": "NOPE", "code": "unknown_symbol"}]
        assert await body(rig, "/candles/AAPL?interval=5m&limit=3") == {
            "symbol": "AAPL",
            "interval": "5m",
            "candles": [],
            "older": None,
        }
        assert await body(rig, "/symbols?prefix=B") == {"symbols": ["BRK.B"], "total": 1}
        assert (await body(rig, "/symbols?order=busiest"))["total"] == 2
        assert (await body(rig, "/topology"))["nodes"][0]["up"] is None
        assert (await body(rig, "/v1/meta/conditions?date=2026-11-20"))["version"]
        assert (await body(rig, "/v1/meta/session"))["session"] in ("pre", "regular", "post", "closed")

    scenario(steps)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/quotes/NOPE", 404, "unknown_symbol"),
        ("/quotes/A%20B", 400, "bad_parameter"),
        ("/quotes/AAPL?interval=1m", 400, "bad_parameter"),
        ("/quotes", 400, "bad_parameter"),
        ("/quotes?symbols=A&symbols=B", 400, "bad_parameter"),
        ("/candles/NOPE", 404, "unknown_symbol"),
        ("/candles/AAPL?interval=2m", 400, "bad_parameter"),
        ("/candles/AAPL?limit=1000000000", 400, "bad_parameter"),
        ("/symbols?order=price", 400, "bad_parameter"),
        ("/symbols?limit=%ff", 400, "bad_request"),
        ("/nothing/here", 404, "not_found"),
        ("/page/../app.py", 404, "not_found"),
        ("/page/%2e%2e/app.py", 404, "not_found"),
    ],
)
def test_every_error_is_a_problem_document(path: str, status: int, code: str) -> None:
    async def steps(rig: Rig) -> None:
        problem = await body(rig, path, status)
        assert (problem["status"], problem["code"]) == (status, code)
        assert problem["type"] == f"urn:fabric:problem:{code}"
        assert {"title", "detail"} <= problem.keys()
        assert problem["instance"].startswith("/")

    scenario(steps)


def test_a_known_symbol_without_a_quote_is_told_so() -> None:
    async def steps(rig: Rig) -> None:
        rig.runtime.symbols.intern("AAPL")
        assert (await body(rig, "/quotes/AAPL", 404))["code"] == "no_quote"

    scenario(steps)


@pytest.mark.parametrize("path", ["/quotes/AAPL", "/quotes/NOPE", "/readyz", "/candles/AAPL?follow=true", "/"])
def test_head_is_get_without_the_body(path: str) -> None:
    """What watches a service from outside asks so. A stream that was asked for is not begun."""

    async def steps(rig: Rig) -> None:
        rig.put(rig.nbbo("AAPL"), rig.bars("AAPL", 5, rig.runtime.clock.now_ns()))
        await rig.taken()
        head = await fetch(rig, path, method="HEAD")
        got = await fetch(rig, path.partition("?")[0])
        assert (head.code, head.body) == (got.code, b"")
        assert head.headers["Content-Type"] == got.headers["Content-Type"]

    scenario(steps)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_method_that_is_not_there_is_405_with_those_that_are(method: str) -> None:
    async def steps(rig: Rig) -> None:
        response = await fetch(rig, "/quotes/AAPL", method=method, allow_nonstandard_methods=True)
        assert (response.code, response.headers["Allow"]) == (405, "GET, HEAD")
        page = await fetch(rig, "/", method=method, allow_nonstandard_methods=True)
        assert (page.code, page.headers["Allow"]) == (405, "GET, HEAD")

    scenario(steps)


def test_an_address_that_asks_too_often_is_told_when_to_come_back() -> None:
    async def steps(rig: Rig) -> None:
        """Bad input 53."""
        answers = [await fetch(rig, "/symbols") for _ in range(2)]
        assert [(answer.code, answer.headers["RateLimit-Policy"]) for answer in answers] == [
            (200, '"address";q=2;w=2'),
            (200, '"address";q=2;w=2'),
        ]
        assert answers[0].headers["RateLimit"] == '"address";r=1;t=0'
        second = await fetch(rig, "/symbols")
        assert (second.code, second.headers["Retry-After"]) == (429, "1")
        assert second.headers["RateLimit"] == '"address";r=0;t=1'
        assert second.headers["X-RateLimit-Remaining"] == "0"
        assert json.loads(second.body)["code"] == "too_many_requests"
        assert (await fetch(rig, "/livez")).code == 200

    scenario(steps, address_requests=1)


def test_what_blocks_the_loop_is_in_the_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(app, "Watchdog", partial(Watchdog, blocked_after_s=0.1))

    async def steps(rig: Rig) -> None:
        asyncio.get_running_loop().call_soon(lambda: time.sleep(0.3))
        while "the loop turns again" not in caplog.text:
            await rig.clients.flushed()
        assert "time.sleep(0.3)" in caplog.text

    scenario(steps)


# The store


class FakeStore:
    def __init__(self, value: dict[str, Any] | None = None, error: StoreError | None = None) -> None:
        self.value, self.error, self.closed = value, error, False

    def quote(self, symbol: str) -> dict[str, Any] | None:
        if self.error:
            raise self.error
        return self.value

    def candle(self, symbol: str, interval: str) -> dict[str, Any] | None:
        return self.quote(symbol)

    def server_info(self) -> object:
        return self.quote("")

    def close(self) -> None:
        self.closed = True


def test_what_memory_lacks_comes_from_the_store() -> None:
    store = FakeStore({"bid": 1.5, "ask": 1.6, "last": None, "ts": 60.0, "start": 60.0, "open": 1.0})

    async def steps(rig: Rig) -> None:
        response = await fetch(rig, "/quotes/MSFT")
        answer = json.loads(response.body)
        assert (response.headers["X-Data-Source"], answer["bid"], answer["state"]) == ("redis", 1.5, "stale")
        rig.put(rig.nbbo())
        await rig.taken()
        both = await fetch(rig, "/quotes?symbols=MSFT,AAPL")
        assert both.headers["X-Data-Source"] == "memory, redis"
        assert [quote["symbol"] for quote in json.loads(both.body)["quotes"]] == ["AAPL", "MSFT"]
        candles = (await body(rig, "/candles/MSFT"))["candles"]
        assert candles[0]["open"] == 1.0
        assert (await body(rig, "/candles/MSFT?start=61000000000", 404))["code"] == "unknown_symbol"

    scenario(steps, store=store)
    assert store.closed


def test_a_store_that_fails_fails_no_read_that_memory_can_answer() -> None:
    """Bad input 55."""

    async def steps(rig: Rig) -> None:
        empty = await fetch(rig, "/quotes/AAPL")
        assert (empty.code, empty.headers["Retry-After"]) == (503, "1")
        rig.put(rig.nbbo())
        await rig.taken()
        known = await fetch(rig, "/quotes/AAPL")
        assert (known.code, known.headers["X-Data-Source"]) == (200, "memory")
        assert (await body(rig, "/quotes/NOPE", 404))["code"] == "unknown_symbol"
        ready = await body(rig, "/readyz?verbose")
        assert ready["status"] == "degraded"
        assert "refused" in ready["checks"]["store"]["detail"]

    scenario(steps, store=FakeStore(error=StoreError("refused")))


# Health, metrics, the page


def test_health_and_its_alias() -> None:
    async def steps(rig: Rig) -> None:
        assert await body(rig, "/livez") == {"status": "ok"}
        rig.put(rig.link(1))
        await rig.taken()
        assert await body(rig, "/readyz") == await body(rig, "/healthz") == {"status": "ok"}
        checks = (await body(rig, "/healthz?verbose"))["checks"]
        assert checks["link nbbo"]["status"] == "ok"
        rig.put(rig.link(0))
        await rig.taken()
        assert await body(rig, "/readyz") == {"status": "degraded"}
        assert (await fetch(rig, "/readyz", method="HEAD")).code == 200

    scenario(steps)


def test_metrics_count_what_was_answered() -> None:
    async def steps(rig: Rig) -> None:
        await fetch(rig, "/quotes/NOPE")
        rig.put(rig.nbbo())
        await rig.taken()
        text = (await fetch(rig, "/metrics")).body.decode()
        assert 'fabric_http_requests_total{status="404"} 1.0' in text
        assert 'fabric_bad_frames_total{reason="truncated"} 2.0' in text
        assert "fabric_inbox_received_total 7.0" in text
        assert "fabric_latest_rows_nbbo_total 1.0" in text
        assert "fabric_fanout_clients 0.0" in text
        assert rig.runtime.reported["symbols"] == 1

    scenario(steps)


def test_the_page_is_served_with_a_policy_and_revalidated() -> None:
    async def steps(rig: Rig) -> None:
        page = await fetch(rig, "/")
        assert page.code == 200
        assert page.headers["Content-Type"].startswith("text/html")
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]
        assert "unsafe" not in page.headers["Content-Security-Policy"]
        assert "Server" not in page.headers
        again = await fetch(rig, "/", headers={"If-None-Match": page.headers["Etag"]})
        assert again.code == 304
        script = await fetch(rig, "/page/app.js")
        assert (script.code, script.headers["Content-Type"]) == (200, "text/javascript")
        assert (await body(rig, "/page/nothing.js", 404))["code"] == "not_found"

    scenario(steps)


# What Tornado itself refuses


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(
            b"GET /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", id="TE+CL"
        ),
        pytest.param(
            b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", id="two CL"
        ),
        pytest.param(b"GET /livez HTTP/1.1\r\n\r\n", id="no Host"),
        pytest.param(b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n", id="body too big"),
        pytest.param(
            b"POST /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: 7\r\n\r\n--x--\r\n",
            id="multipart",
        ),
    ],
)
def test_a_request_that_cannot_be_trusted_is_400(request_bytes: bytes) -> None:
    """Bad input 54, 57."""

    async def steps(rig: Rig) -> None:
        assert (await raw(rig, request_bytes)).startswith(b"HTTP/1.1 400 ")

    scenario(steps)


def test_a_header_that_is_too_long_closes_the_connection() -> None:
    """Bad input 57."""

    async def steps(rig: Rig) -> None:
        long = b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * app.HEADER_MAX + b"\r\n\r\n"
        assert await raw(rig, long) == b""

    scenario(steps)


@pytest.mark.parametrize(
    "sent", [b"", b"GET /livez HTTP/1.1\r\nHo", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1"]
)
def test_a_client_that_sends_slowly_is_cut(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(app, "IDLE_S", 0.1)

    async def steps(rig: Rig) -> None:
        assert await asyncio.wait_for(raw(rig, sent), 5) == b""

    scenario(steps)


# Start and stop


def test_not_ready_until_the_first_values_are_in() -> None:
    async def play() -> None:
        rig = Rig()
        rig.runtime.bus.whole = False
        rig.serving = asyncio.create_task(rig.gateway.serve(()))
        try:
            await rig.taken()
            assert await body(rig, "/readyz", 503) == {"status": "unready"}
            assert await body(rig, "/livez") == {"status": "ok"}
            assert not rig.runtime.is_ready.is_set()
            rig.runtime.bus.whole = True
            rig.put(rig.link(1))
            await rig.taken()
            assert await body(rig, "/readyz") == {"status": "ok"}
            assert rig.runtime.is_ready.is_set()
        finally:
            rig.runtime.stopped = True
            await rig.serving

    asyncio.run(play())


def test_a_stop_is_seen_by_the_balancer_first_then_told_to_the_clients() -> None:
    async def steps(rig: Rig) -> None:
        assert rig.serving is not None
        rig.clients.clients = 1
        rig.runtime.stopped = True
        while not rig.gateway.health.draining:
            await rig.clients.flushed()
        assert rig.clients.closed is None
        assert await body(rig, "/readyz", 503) == {"status": "unready"}
        while rig.clients.closed is None:
            await rig.clients.flushed()
        assert rig.clients.closed[0] == 1012
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", rig.port)
        assert not rig.serving.done()
        rig.clients.clients = 0  # the last one has gone: no need to wait any longer
        await asyncio.wait_for(rig.serving, 5)

    scenario(steps, drain_ns=30_000_000_000)


def test_a_client_that_does_not_go_delays_the_end_no_longer_than_the_drain() -> None:
    async def steps(rig: Rig) -> None:
        assert rig.serving is not None
        rig.clients.clients = 1
        rig.runtime.stopped = True
        await asyncio.wait_for(rig.serving, 5)

    scenario(steps)


def test_a_fault_of_the_pump_ends_the_gateway_and_is_not_swallowed() -> None:
    async def play() -> None:
        rig = Rig()

        def broken(_: object) -> None:
            raise ValueError("broken")

        rig.clients.apply = broken  # type: ignore[method-assign]
        rig.put(rig.nbbo())
        with pytest.raises(ValueError, match="broken"):
            await rig.gateway.serve(())

    asyncio.run(play())


@pytest.mark.parametrize(("hasty", "turns_a_look"), [(True, 1), (False, 2)])
def test_the_bus_is_looked_at_each_turn_only_in_haste(hasty: bool, turns_a_look: int) -> None:
    async def steps(rig: Rig) -> None:
        rig.clients.hasty = hasty
        await asyncio.sleep(0.05)
        flushes, looks = rig.clients.flushes, rig.runtime.bus.looks
        while rig.clients.flushes < flushes + 40:
            await rig.clients.flushed()
        assert 40 / turns_a_look - 4 <= rig.runtime.bus.looks - looks <= 40 / turns_a_look + 4

    scenario(steps)


def test_a_full_bus_does_not_keep_the_loop_from_its_clients() -> None:
    async def steps(rig: Rig) -> None:
        flushes = rig.clients.flushes
        count = 10 * app.BATCHES_PER_TURN
        rig.put(*[rig.nbbo(seq=seq + 1) for seq in range(count)])
        await rig.taken()
        assert rig.clients.flushes - flushes >= 10
        assert rig.latest.tables.counts[KIND_NBBO] == count

    scenario(steps)


# Access


BASIC = Plan("basic", feeds=("sip",), channels=("quotes",), symbols=("AAPL", "BRK*"), requests=1)


def guarded(folder: Path, **access: Any) -> tuple[dict[str, Any], str]:
    """The options of a gateway with one key, of the plan `basic`; and that key."""
    path = folder / "keys.json"
    key, secret = keys.make("alice", "basic", time.time_ns())
    keys.add(path, key)
    plans = (Plan(), BASIC, *access.pop("plans", ()))
    return {"access": Access(str(path), plans=plans, **access)}, f"{key.id}.{secret}"


def test_without_a_key_or_with_a_wrong_one_there_is_no_data(tmp_path: Path) -> None:
    """Bad input 52."""
    options, key = guarded(tmp_path)

    async def steps(rig: Rig) -> None:
        status, problem, headers = await ask(rig, "/topology")
        assert (status, problem["code"], headers["WWW-Authenticate"]) == (401, "unauthorized", 'Bearer realm="fabric"')
        for wrong in ("x", key + "x", "a.b.c"):
            status, problem, headers = await ask(rig, "/quotes/AAPL", Authorization=f"Bearer {wrong}")
            assert (status, problem["code"]) == (401, "unauthorized")
            assert headers["WWW-Authenticate"] == 'Bearer realm="fabric", error="invalid_token"'
        key_id, _, secret = key.partition(".")
        for right in (
            {"Authorization": f"Bearer {key}"},
            {"X_API_Key": key},
            {"APCA_API_KEY_ID": key_id, "APCA_API_SECRET_KEY": secret},
        ):
            assert (await ask(rig, "/v1/meta/conditions", **right))[0] in (200, 429)
        for path in ("/livez", "/readyz", "/metrics", "/", "/openapi.json"):
            assert (await ask(rig, path))[0] == 200, path
        assert "fabric_access_failures_total 3.0" in (await ask(rig, "/metrics"))[1].decode()

    scenario(steps, **options)


@pytest.mark.parametrize("name", ["key", "api_key", "apikey", "APCA-API-KEY-ID", "token", "access_token", "secret"])
def test_a_key_in_the_address_is_refused_whatever_it_is(tmp_path: Path, name: str) -> None:
    options, key = guarded(tmp_path)

    async def steps(rig: Rig) -> None:
        status, problem, _ = await ask(rig, f"/quotes/AAPL?{name}={key}")
        assert (status, problem["code"], problem["parameter"]) == (400, "secret_in_query", name)
        assert key.partition(".")[2] not in json.dumps(problem)

    scenario(steps, **options)


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("/quotes/MSFT", "symbol MSFT"),
        ("/quotes?symbols=AAPL,MSFT,BRK.B", "symbol MSFT"),
        ("/candles/AAPL", "channel bars"),
        ("/v2/stocks/AAPL/quotes/latest?feed=iex", "feed iex"),
        ("/v2/stocks/snapshots?symbols=AAPL", "channel trades"),
        ("/v2/stocks/bars?symbols=AAPL&timeframe=1Min", "channel bars"),
    ],
)
def test_what_is_not_in_the_plan_is_403_and_named(tmp_path: Path, path: str, missing: str) -> None:
    options, key = guarded(tmp_path)

    async def steps(rig: Rig) -> None:
        status, problem, _ = await ask(rig, path, X_API_Key=key)
        assert (status, problem["code"], problem["plan"]) == (403, "forbidden", "basic")
        assert problem["detail"] == f"not in the plan 'basic': {missing}"

    scenario(steps, **options)


def test_a_users_rate_is_its_own(tmp_path: Path) -> None:
    """Bad input 53."""
    options, key = guarded(tmp_path, public="full")

    async def steps(rig: Rig) -> None:
        rig.put(rig.nbbo())
        await rig.taken()
        answers = [await ask(rig, "/quotes/AAPL", X_API_Key=key) for _ in range(3)]
        assert [status for status, _, _ in answers] == [200, 200, 429]
        assert answers[0][2]["RateLimit"] == '"user";r=1;t=0'
        _, problem, headers = answers[2]
        assert (headers["Retry-After"], headers["RateLimit"]) == ("1", '"user";r=0;t=1')
        assert headers["RateLimit-Policy"] == '"user";q=2;w=2'
        assert problem["detail"] == "more than 1 requests a second of this user"
        assert (await ask(rig, "/quotes/AAPL"))[0] == 200

    scenario(steps, **options)


def test_a_ticket_is_made_by_post_for_who_is_let_in(tmp_path: Path) -> None:
    """Bad input 54."""
    options, key = guarded(tmp_path)

    async def steps(rig: Rig) -> None:
        assert (await ask(rig, "/v1/ticket", "post"))[0] == 401
        status, found, headers = await ask(rig, "/v1/ticket", "post", X_API_Key=key)
        assert (status, found["expires_in_s"], headers["Cache-Control"]) == (201, 30, "no-store")
        grant = rig.door.identify(Credentials(found["ticket"], ticket=True), "")
        assert (grant.user, grant.plan) == ("key alice", BASIC)
        status, _, headers = await ask(rig, "/v1/ticket", X_API_Key=key)
        assert (status, headers["Allow"]) == (405, "POST")

    scenario(steps, **options)


@pytest.mark.parametrize(
    ("content_type", "sent", "status"),
    [
        ("text/plain", b"x", 415),
        ("application/json", b"{}", 201),
        ("application/json", b"[]", 400),
        ("application/json", b"{", 400),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 400),
    ],
)
def test_a_body_is_what_it_may_be(content_type: str, sent: bytes, status: int) -> None:
    """Bad input 54."""

    async def steps(rig: Rig) -> None:
        answer = await fetch(rig, "/v1/ticket", method="POST", body=sent, headers={"Content-Type": content_type})
        assert answer.code == status

    scenario(steps)


def test_caches_keep_what_cannot_change_and_nothing_else(tmp_path: Path) -> None:
    async def steps(rig: Rig) -> None:
        rig.put(rig.nbbo(), rig.bars("AAPL", 3, 10**18))
        await rig.taken()
        for path in ("/candles/AAPL?end=2100-01-01", "/v1/meta/conditions", "/openapi.json", "/asyncapi.json"):
            status, _, headers = await ask(rig, path)
            assert (status, headers["Cache-Control"].partition("=")[0]) == (200, "public, max-age")
            tag = headers["ETag"]
            for known in (tag, f'"x", W/{tag}', "*"):
                status, body_, headers = await ask(rig, path, If_None_Match=known)
                assert (status, body_, headers["ETag"]) == (304, b"", tag)
            assert (await ask(rig, path, If_None_Match='"x"'))[0] == 200
        for path in ("/candles/AAPL", "/quotes/AAPL", "/symbols"):
            assert (await ask(rig, path))[2]["Cache-Control"] == "no-store"

    scenario(steps)


def test_with_keys_only_the_browsers_own_cache_keeps_anything(tmp_path: Path) -> None:
    options, key = guarded(tmp_path)

    async def steps(rig: Rig) -> None:
        _, _, headers = await ask(rig, "/v1/meta/conditions", X_API_Key=key)
        assert headers["Cache-Control"] == "private, max-age=3600"
        assert "Authorization" in headers["Vary"]

    scenario(steps, **options)


def test_a_hangup_reads_the_keys_again(tmp_path: Path) -> None:
    options, _ = guarded(tmp_path)

    async def steps(rig: Rig) -> None:
        late, secret = keys.make("bob", "full", time.time_ns())
        keys.add(tmp_path / "keys.json", late)
        os.kill(os.getpid(), signal.SIGHUP)
        await rig.clients.flushed()
        while rig.door.counters()["keys"] != 2:
            await rig.clients.flushed()
        assert (await ask(rig, "/topology", X_API_Key=f"{late.id}.{secret}"))[0] == 200

    scenario(steps, **options)


def test_the_codes_of_conditions_are_by_tape() -> None:
    async def steps(rig: Rig) -> None:
        _, found, _ = await ask(rig, "/v1/meta/conditions")
        assert (found["trades"]["A"]["O"], found["trades"]["C"]["O"]) == (
            "Market Center Opening Trade",
            "Opening Prints",
        )
        assert all(set(found[kind]) == {"A", "B", "C"} for kind in ("trades", "quotes"))

    scenario(steps)
