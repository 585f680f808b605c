"""What browsers are told: nothing, unless the inventory names the page."""

from collections.abc import Callable

import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.queen.records import Scope
from tests.unit.queen.endpoint import endpoint
from tests.unit.queen.states import Fixture, fleet, model

Maker = Callable[[FleetFile], Fixture]

PAGE, OTHER = "https://chat.example.org", "https://elsewhere.example.org"
ASKS = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
ROUTES = [("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/openai/v1/models")]


@pytest.mark.parametrize(
    ("pages", "origin", "allowed"), [((), PAGE, False), ((PAGE,), PAGE, True), ((PAGE,), OTHER, False)]
)
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_only_pages_that_are_named_may_read_answers(
    queen: Maker, method: str, path: str, pages: tuple[str, ...], origin: str, *, allowed: bool
) -> None:
    """An answer names the page that may have it, and no other page, be it relayed, refused or our own."""
    async with endpoint(queen(fleet(model())), pages=pages) as c:
        answer = await c.request(method, path, headers={"origin": origin}, json={})
    assert answer.status_code == 401
    assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
    assert answer.headers.get("vary") == ("origin" if pages else None)


@pytest.mark.parametrize(("origin", "status"), [(PAGE, 204), (OTHER, 405)])
async def test_a_browser_may_ask_before_it_sends(queen: Maker, origin: str, status: int) -> None:
    """It is told methods and headers without a key, which it does not send with the question."""
    async with endpoint(queen(fleet(model())), pages=(PAGE,)) as c:
        answer = await c.options("/v1/chat/completions", headers={"origin": origin, **ASKS})
    assert answer.status_code == status
    told = {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}
    assert told.get("access-control-allow-headers") == ("authorization, *" if status == 204 else None)
    assert told.get("access-control-allow-methods") == ("POST" if status == 204 else None)


async def test_without_pages_there_is_no_such_question(queen: Maker) -> None:
    """As for every method that a route does not take."""
    async with endpoint(queen(fleet(model()))) as c:
        assert (await c.options("/v1/models", headers={"origin": PAGE, **ASKS})).status_code == 405


async def test_models_are_listed_under_the_alias_too(queen: Maker) -> None:
    """`/openai/v1` is the same API."""
    q = queen(fleet(model()))
    async with endpoint(q) as c:
        mine = {"authorization": f"Bearer {q.keys.create('t', [Scope.INFER])[1]}"}
        assert (await c.get("/openai/v1/models", headers=mine)).json()["data"][0]["id"] == "m"
        assert (await c.get("/openai/v1/models/m", headers=mine)).json()["id"] == "m"
        assert (await c.get("/openai/api/v1/keys", headers=mine)).status_code == 404
