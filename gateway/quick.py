"""The short way to the quote of one symbol, which REST is asked most: past Tornado's handler, not past our rules.

A handler object, its coroutine and its headers one by one cost as much as all the rest of such an answer. So a plain
``GET /quotes/{symbol}`` that memory can answer is answered from here; whatever else it turns out to be (a refusal, a
symbol that only Redis knows, a mistake) is given to its handler, with what has been counted already.
"""

from functools import lru_cache
from typing import Any

import msgspec
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, HTTPServerRequest, ResponseStartLine, format_timestamp
from tornado.web import Application

from fabric.clock import SECOND_NS
from gateway.rest import SAFE_HEADERS, Admission, Problem, QuoteHandler, Service, admit, entitle, quote

PREFIX = "/quotes/"
_OK = ResponseStartLine("HTTP/1.1", 200, "OK")


class Routes(Application):
    """The routes of a gateway, with the short way."""

    def __init__(self, rules: list[Any], service: Service, **settings: Any) -> None:
        super().__init__(rules, **settings)
        self._service = service

    def find_handler(self, request: HTTPServerRequest, **options: Any) -> Any:
        """What takes a request."""
        if request.method == "GET" and not request.query and request.path.startswith(PREFIX):
            symbol = request.path[len(PREFIX) :]
            if self._service.latest.find(symbol) > 0:
                return _Quote(self, self._service, request, symbol)
        return super().find_handler(request, **options)


class _Quote(HTTPMessageDelegate):
    """One such request."""

    def __init__(self, routes: Routes, service: Service, request: HTTPServerRequest, symbol: str) -> None:
        self._routes = routes
        self._service = service
        self._request = request
        self._symbol = symbol

    def finish(self) -> None:
        """It has come whole."""
        service = self._service
        admitted: Admission | Problem | None = None
        try:
            admitted = admit(service, self._request)
            entitle(admitted.grant, "quotes", [self._symbol])
            found = quote(service.latest_of(admitted.grant), self._symbol, service.clock.now_ns())
        except Problem as problem:
            parts = {"service": service, "admitted": admitted or problem}
            usual = self._routes.get_handler_delegate(self._request, QuoteHandler, parts, [self._symbol.encode()])
            usual.finish()
            return
        service.reads["stale" if found["state"] == "stale" else "memory"] += 1
        service.requests[200] = service.requests.get(200, 0) + 1
        self._write(msgspec.json.encode(found), admitted)

    def _write(self, body: bytes, admitted: Admission) -> None:
        headers = HTTPHeaders(SAFE_HEADERS)
        headers.update(admitted.headers)
        headers["X-Data-Source"] = "memory"
        headers["Date"] = _date(self._service.clock.now_ns() // SECOND_NS)
        headers["Content-Length"] = str(len(body))
        connection = self._request.connection
        assert connection is not None
        connection.write_headers(_OK, headers, body)
        connection.finish()


@lru_cache(2)
def _date(second: int) -> str:
    return format_timestamp(second)
