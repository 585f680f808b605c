"""The description of the admin API is valid, complete and typed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi.routing import APIRoute
from openapi_spec_validator import OpenAPIV31SpecValidator

from rbee_runtime.config import FleetFile
from rbee_runtime.errors import RequestError
from rbee_runtime.queen import admin_keys, laptop_routes, openapi
from rbee_runtime.queen.records import Scope
from rbee_runtime.states import FetchState, Observed
from tests.unit.queen.endpoint import endpoint
from tests.unit.queen.states import Fixture, fleet
from tests.unit.queen.test_policy import ADMIN_ROUTES, admin_app, bearer

Maker = Callable[[FleetFile], Fixture]
REFUSED = {"$ref": "#/components/schemas/ErrorAnswer"}


def described(q: Fixture) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(msgspec.json.encode(openapi.document(admin_app(q))))
    return found


@pytest.fixture
def document(queen: Maker) -> dict[str, Any]:
    return described(queen(fleet()))


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """A validator of the OpenAPI initiative's schema finds nothing, and a second description is the same."""
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_described(document: dict[str, Any]) -> None:
    """Each has a sentence, the scope that it asks for, typed answers, and refusals in the one form."""
    found = {(m.upper(), path): each for path, methods in document["paths"].items() for m, each in methods.items()}
    assert found.keys() == {(method, path.replace(":path", "")) for method, path in ADMIN_ROUTES}
    for (method, path), scope in ADMIN_ROUTES.items():
        operation = found[method, path.replace(":path", "")]
        assert operation["summary"][0].isupper()
        assert operation["security"] == [{"key": [scope]}]
        for status, answer in operation["responses"].items():
            schemas = [each["schema"] for each in answer.get("content", {}).values()]
            assert all(schemas)
            assert (schemas == [REFUSED]) is (int(status) >= 400)
        assert {"401", "403"} <= operation["responses"].keys()


def test_what_hives_answer_is_typed_as_they_type_it(document: dict[str, Any]) -> None:
    """Closed sets that both sides tell of have the same values, and no name means two things."""
    schemas = document["components"]["schemas"]
    for kind in (Observed, FetchState):
        assert set(schemas[kind.__name__]["enum"]) == {each.value for each in kind}
    assert schemas["HiveModel"]["properties"]["state"] == {"$ref": "#/components/schemas/FetchState"}


def test_no_route_is_left_out_of_the_tables(queen: Maker) -> None:
    """What answers with bytes of its own is typed by hand, and no row is about a route that is gone."""
    q = queen(fleet())
    app = admin_app(q)
    laptop_routes.register(app, q.controller, Path(), Path())
    there = {
        (method, route.path_format): route
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    plain = {key for key, route in there.items() if route.response_model is None and route.status_code != 204}
    assert plain == openapi.TOLD.keys()
    assert openapi.FAILURES.keys() <= there.keys()


@pytest.mark.parametrize(
    ("glob", "right"),
    [("*", True), ("a*", True), ("org/m?:q4", True), ("", False), ("a..b", False), ("/a", False), ("a b", False)],
)
def test_the_pattern_of_globs_says_what_is_taken(glob: str, right: bool) -> None:
    """A key for models that the description allows is made, one that it forbids is refused."""
    fits = re.search(admin_keys.GLOB, glob) is not None
    try:
        admin_keys._check_globs([glob])
    except RequestError:
        taken = False
    else:
        taken = True
    assert (fits, taken) == (right, right)


async def test_a_queen_serves_it(queen: Maker) -> None:
    """What is served is what was validated."""
    q = queen(fleet())
    async with endpoint(q) as c:
        assert (await c.get("/api/v1/openapi.json", headers=bearer(q, Scope.ADMIN_READ))).json() == described(q)


async def test_a_wrong_method_is_told_the_right_ones(queen: Maker) -> None:
    """405 names all methods of a path, whoever finds out, and a path that is not there is no wrong method."""
    q = queen(fleet())
    async with endpoint(q) as c:
        c.headers.update(bearer(q, *Scope))

        async def allowed(method: str, path: str) -> tuple[int, str]:
            answer: httpx.Response = await c.request(method, path)
            return answer.status_code, answer.headers.get("allow", "")

        assert await allowed("OPTIONS", "/api/v1/keys") == (405, "GET, POST")
        assert await allowed("PUT", "/api/v1/keys") == (405, "GET, POST")
        assert await allowed("PUT", "/v1/models") == (405, "GET, HEAD")
        assert await allowed("OPTIONS", "/api/v1/nothing") == (404, "")


@pytest.mark.parametrize(
    ("body", "media", "status"),
    [
        (b'{"name": "n"}', "application/json; charset=utf-8", 201),
        (b'{"name": "n"}', "text/plain", 415),
        (b"name=n", "application/x-www-form-urlencoded", 415),
        (b'{"name": "' + b"n" * 70_000 + b'"}', "application/json", 413),
        (b"[" * 60_000, "application/json", 400),
        (b'{"name": "n", "name": "m"}', "application/json", 201),
        (b'{"name": "\xff"}', "application/json", 400),
        (b'{"name": NaN}', "application/json", 400),
        (b'{"name": "n", "expires": 1e999}', "application/json", 400),
    ],
)
async def test_bodies_are_bounded_json(queen: Maker, body: bytes, media: str, status: int) -> None:
    """What a form of a web page could send, what is too much and what is no JSON is refused in the one form."""
    q = queen(fleet())
    async with endpoint(q) as c:
        headers = {**bearer(q, *Scope), "content-type": media}
        answer = await c.post("/api/v1/keys", headers=headers, content=body)
    assert answer.status_code == status
    assert status == 201 or set(answer.json()["error"]) == {"message", "type", "code", "param"}


@pytest.mark.parametrize(("day", "status"), [("2026-11-30", 200), ("0", 400), ("1700000000", 400), ("2026-13-01", 400)])
async def test_a_day_is_written_as_one(queen: Maker, day: str, status: int) -> None:
    """A number is no day, although it could be seconds since 1970."""
    q = queen(fleet())
    async with endpoint(q) as c:
        answer = await c.get(f"/api/v1/usage?until={day}", headers=bearer(q, Scope.ADMIN_READ))
    assert answer.status_code == status
