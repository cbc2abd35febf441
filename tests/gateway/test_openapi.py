"""The OpenAPI document against the standard, the routes, the handlers' parameters and their real answers."""

import asyncio
import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from tornado.web import Application, RequestHandler

from gateway import openapi
from gateway_rig import ask, running

DOCUMENT = openapi.document()
NOT_REST = (r"/()$", r"/page/(.+)$")
SPEC = "urn:spec"
REGISTRY: Any = Registry().with_resource(SPEC, Resource(DOCUMENT, DRAFT202012))


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {(path, method): found for path, methods in DOCUMENT["paths"].items() for method, found in methods.items()}


def test_it_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []
    names = [found["operationId"] for found in operations().values()]
    assert len(names) == len(set(names))


def routes(application: Application) -> dict[tuple[str, str], type[RequestHandler]]:
    """What the application serves, as path and method of the document."""
    found = {}
    for rule in application.wildcard_router.rules:
        pattern = rule.matcher.regex.pattern  # type: ignore[attr-defined]
        if pattern in NOT_REST:
            continue
        alternatives = re.search(r"\((?:\?:)?((?:\w+\|)+\w+)\)", pattern)
        for choice in alternatives[1].split("|") if alternatives else [""]:
            path = pattern.replace(alternatives[0], choice) if alternatives else pattern
            path = path.rstrip("$").replace("([^/]+)", "{symbol}").replace("\\", "")
            for method in ("get", "post", "put", "delete", "patch"):
                if getattr(rule.target, method) is not getattr(RequestHandler, method):
                    found[path, method] = rule.target
    return found


def test_every_route_and_method_is_in_it_and_nothing_else() -> None:
    async def look() -> None:
        async with running() as rig:
            assert set(routes(rig.gateway.application(()))) == set(operations())

    asyncio.run(look())


def filled(path: str) -> str:
    return path.replace("{symbol}", "AAPL")


def parameters_of(operation: dict[str, Any]) -> set[str]:
    return {found["name"] for found in operation.get("parameters", ()) if found["in"] == "query"}


def test_the_handlers_take_its_parameters_and_no_other() -> None:
    async def look() -> None:
        async with running() as rig:
            for (path, method), operation in operations().items():
                status, answer, _ = await ask(rig, f"{filled(path)}?nonsense=1", method)
                if path in ("/livez", "/readyz", "/healthz", "/metrics"):  # a probe is never refused for its query
                    assert status in (200, 503)
                    continue
                assert (status, answer["parameter"]) == (400, "nonsense"), path
                assert set(answer["allowed"]) == parameters_of(operation), path

    asyncio.run(look())


QUERIES = {"symbols": "AAPL,NOPE", "timeframe": "1Min"}


def test_real_answers_fit_its_schemas() -> None:
    async def look() -> None:
        async with running() as rig:
            rig.put(rig.nbbo("AAPL"), rig.trade("AAPL", price=10**9, size=1), rig.bars("AAPL", 3, 10**18))
            await rig.taken()
            for (path, method), operation in operations().items():
                if path.startswith("/v1/ops"):  # needs a launcher: test_operators.py
                    continue
                needed = [found["name"] for found in operation.get("parameters", ()) if found["required"]]
                query = "&".join(f"{name}={QUERIES[name]}" for name in needed if name in QUERIES)
                status, answer, headers = await ask(rig, f"{filled(path)}?{query}", method)
                media = headers["Content-Type"].partition(";")[0]
                described = operation["responses"][str(status)]["content"][media]["schema"]
                assert status < 300, (path, answer)
                if media == "application/json":
                    check(described, answer)

    asyncio.run(look())


def check(schema: dict[str, Any], value: Any) -> None:
    """``schema`` as it stands in the document, where references begin at its root."""
    text = json.dumps(schema).replace('"#/', f'"{SPEC}#/')
    Draft202012Validator(json.loads(text), registry=REGISTRY).validate(value)


@pytest.mark.parametrize("path", ["/quotes/NOPE", "/candles/AAPL?interval=2m", "/quotes/AAPL?key=x"])
def test_errors_are_the_problems_that_it_describes(path: str) -> None:
    async def look() -> None:
        async with running() as rig:
            status, answer, headers = await ask(rig, path)
            media = headers["Content-Type"]
            operation = DOCUMENT["paths"][re.sub("/(AAPL|NOPE).*", "/{symbol}", path)]["get"]
            check(operation["responses"][str(status)]["content"][media]["schema"], answer)

    asyncio.run(look())


def test_a_schema_that_is_not_kept_is_noticed() -> None:
    with pytest.raises(Exception, match="'total' is a required property"):
        check({"$ref": "#/components/schemas/Symbols"}, {"symbols": []})
