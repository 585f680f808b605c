"""Every route of the client endpoint has a policy, and the policy is what happens."""

import re
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from rbee_runtime.config import FleetFile
from rbee_runtime.gateway.routes import HOT
from rbee_runtime.queen import admin, policy
from rbee_runtime.queen.hive_calls import HiveCalls
from rbee_runtime.queen.keys import generate
from rbee_runtime.queen.records import Scope
from rbee_runtime.queen.status import Phase
from rbee_runtime.states import Observed
from tests.unit.queen.endpoint import endpoint
from tests.unit.queen.states import Fixture, fleet, model

Maker = Callable[[FleetFile], Fixture]

READ, WRITE, INFER = Scope.ADMIN_READ, Scope.ADMIN_WRITE, Scope.INFER
ADMIN_ROUTES: dict[tuple[str, str], Scope | None] = {
    ("GET", "/api/v1/hives"): READ,
    ("GET", "/api/v1/hives/{name}/devices"): READ,
    ("GET", "/api/v1/hives/{name}/models"): READ,
    ("GET", "/api/v1/hives/{name}/models/{model:path}"): READ,
    ("DELETE", "/api/v1/hives/{name}/models/{model:path}"): WRITE,
    ("POST", "/api/v1/hives/{name}/models/{model:path}/pull"): WRITE,
    ("DELETE", "/api/v1/hives/{name}/models/{model:path}/pull"): WRITE,
    ("POST", "/api/v1/hives/{name}/models/{model:path}/verify"): WRITE,
    ("GET", "/api/v1/hives/{name}/events"): READ,
    ("GET", "/api/v1/workers"): READ,
    ("GET", "/api/v1/workers/{worker}"): READ,
    ("GET", "/api/v1/workers/{worker}/logs"): READ,
    ("GET", "/api/v1/models"): READ,
    ("GET", "/api/v1/loads"): READ,
    ("GET", "/api/v1/models/{name:path}/explain"): READ,
    ("POST", "/api/v1/models/{name:path}/load"): WRITE,
    ("POST", "/api/v1/models/{name:path}/unload"): WRITE,
    ("POST", "/api/v1/workers/{worker}/move"): WRITE,
    ("POST", "/api/v1/hives/{name}/drain"): WRITE,
    ("POST", "/api/v1/hives/{name}/undrain"): WRITE,
    ("GET", "/api/v1/keys"): READ,
    ("POST", "/api/v1/keys"): WRITE,
    ("DELETE", "/api/v1/keys/{key_id}"): WRITE,
    ("GET", "/api/v1/usage"): READ,
    ("GET", "/api/v1/events"): READ,
    ("GET", "/api/v1/openapi.json"): READ,
    ("GET", "/metrics"): READ,
}
"""What each route of the admin application asks for."""

CLIENT_ROUTES: dict[tuple[str, str], Scope | None] = {
    ("GET", "/health"): None,
    ("GET", "/ready"): None,
    ("GET", "/v1/models"): INFER,
    ("GET", "/v1/models/"): INFER,
    **{("POST", path.decode()): INFER for path in HOT},
}
"""What each of the other rows of the policy asks for; HEAD goes with GET."""

ROUTES = ADMIN_ROUTES | CLIENT_ROUTES
FORGED = {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "forwarded": "for=127.0.0.1"}
HOLDERS: dict[str, tuple[Scope, ...]] = {"infer": (INFER,), "read": (READ,), "write": (WRITE,), "all": tuple(Scope)}


def admin_app(q: Fixture) -> FastAPI:
    return admin.build(q.controller, HiveCalls(q.controller, q.client, signature="1-0123456789abcdef"), q.usage)


def bearer(q: Fixture, *scopes: Scope) -> dict[str, str]:
    return {"authorization": f"Bearer {q.keys.create('t', scopes)[1]}"}


def nobodies(q: Fixture) -> dict[str, dict[str, str]]:
    """Return the headers of all that is no key."""
    ended, ended_key = q.keys.create("revoked", [INFER])
    q.keys.revoke(ended.id)
    _, over = q.keys.create("expired", Scope, expires=1)
    wrong = {"malformed": "Bearer rbee_x", "unknown": f"Bearer {generate()[0]}", "revoked": f"Bearer {ended_key}"}
    wrong |= {"expired": f"Bearer {over}", "cookie": "Basic cm9vdDpyb290"}
    return {"none": {}, "forged": FORGED, **{name: {"authorization": text} for name, text in wrong.items()}}


def expected(scope: Scope | None, holder: str) -> set[str]:
    """Return what a holder may be answered: "401", "403", or that it is let in."""
    if scope is None:
        return {"in"}
    if holder not in HOLDERS:
        return {"401"}
    return {"in"} if scope in HOLDERS[holder] else {"403"}


def test_every_route_is_in_the_table(queen: Maker) -> None:
    """A new route of the application, or a new row of the policy, fails here until somebody says whose it is."""
    routes = (route for route in admin_app(queen(fleet(model()))).routes if isinstance(route, APIRoute))
    assert {(method, route.path) for route in routes for method in route.methods or ()} == ADMIN_ROUTES.keys()
    rows = [row for row in policy.POLICY if row.path not in (policy.ADMIN, policy.METRICS)]
    assert {(method, row.path) for row in rows for method in row.methods - {"HEAD"}} == CLIENT_ROUTES.keys()


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_is_open_to_its_scope_only(queen: Maker, method: str, path: str) -> None:
    """No key, or one that is none: 401; one of another scope: 403; forged headers change nothing; HEAD is as GET."""
    q = queen(fleet(model(), hives=()))
    holders = nobodies(q) | {name: bearer(q, *scopes) for name, scopes in HOLDERS.items()}
    seen: dict[str, set[str]] = {name: set() for name in holders}
    async with endpoint(q) as c:
        for name, headers in holders.items():
            for each in (method, *(["HEAD"] if method == "GET" else [])):
                async with c.stream(each, path, headers=headers, json={}) as answer:
                    status = answer.status_code
                assert status < 500
                seen[name].add(str(status) if status in (401, 403) else "in")
    assert seen == {name: expected(ROUTES[method, path], name) for name in holders}


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
async def test_other_methods_open_nothing(queen: Maker, method: str) -> None:
    """A method that no row has is refused, whatever key comes with it."""
    q = queen(fleet(model()))
    async with endpoint(q) as c:
        for _, path in ROUTES:
            assert (await c.request(method, path, headers=bearer(q, *Scope))).status_code == 405


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/metrics/", "/v1/complete", "/api/v1", "//health"])
async def test_what_no_row_covers_is_not_there(queen: Maker, path: str) -> None:
    """Unknown routes are 404 in OpenAI's shape even with every scope."""
    q = queen(fleet(model()))
    async with endpoint(q) as c:
        answer = await c.get(f"http://{c.base_url.netloc.decode()}{path}", headers=bearer(q, *Scope))
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_route"


async def test_one_model_is_shown_to_keys_that_may_use_it(queen: Maker) -> None:
    """A declared model is shown by name; one that is not declared, or not for this key, is not found."""
    q = queen(fleet(model()))
    async with endpoint(q) as c:
        mine = bearer(q, Scope.INFER)
        assert (await c.get("/v1/models/m", headers=mine)).json()["id"] == "m"
        assert (await c.get("/v1/models/other", headers=mine)).json()["error"]["code"] == "model_not_found"
        admin_key = bearer(q, *Scope)
        made = (await c.post("/api/v1/keys", headers=admin_key, json={"name": "n", "models": ["x*"]})).json()
        theirs = {"authorization": f"Bearer {made['key']}"}
        assert (await c.get("/v1/models/m", headers=theirs)).status_code == 404


async def test_readiness_follows_the_phase(queen: Maker) -> None:
    """/ready is 200 only while serving; /health stays 200 and names the digest."""
    q = queen(fleet(model()))
    expected = {Phase.STARTING: 503, Phase.READY: 200, Phase.DRAINING: 503}
    for phase, status in expected.items():
        async with endpoint(q, phase) as c:
            assert (await c.get("/ready")).status_code == status
            assert (await c.get("/health")).json()["digest"] == "d1"


async def test_a_leaving_queen_closes_its_connections_politely(queen: Maker) -> None:
    """While it drains, each answer says `connection: close`."""
    async with endpoint(queen(fleet(model())), Phase.DRAINING) as c:
        assert (await c.get("/health")).headers["connection"] == "close"


async def test_a_request_id_is_kept_or_made(queen: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    """A sane id comes back and is in the log; another one is replaced."""
    async with endpoint(queen(fleet(model()))) as c:
        assert (await c.get("/v1/models", headers={"x-request-id": "abc-1"})).headers["x-request-id"] == "abc-1"
        made = [(await c.get("/v1/models", headers={"x-request-id": "a b"})).headers["x-request-id"] for _ in range(2)]
        assert all(re.fullmatch("[0-9a-f]{8}-[0-9a-f]+", each) for each in made)
        assert made[0] != made[1]
    assert "id=abc-1" in capsys.readouterr().err


async def test_the_log_holds_neither_prompt_nor_key(queen: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    """One line per request, without what nobody should read."""
    q = queen(fleet(model(), hives=("a",)))
    q.beat("a")
    q.beat("a", state=Observed.CRASH_LOOP)
    headers = bearer(q, Scope.INFER)
    body = {"model": "m", "messages": [{"role": "user", "content": "SECRET"}]}
    async with endpoint(q) as c:
        assert (await c.post("/v1/chat/completions", headers=headers, json=body)).status_code == 503
    lines = [line for line in capsys.readouterr().err.splitlines() if "event=request" in line]
    assert len(lines) == 1
    assert "SECRET" not in lines[0]
    assert headers["authorization"][-20:] not in lines[0]


async def test_a_leaving_queen_takes_no_changes(queen: Maker) -> None:
    """Its database is the next one's: a change is refused with a time to ask again, a look is answered."""
    q = queen(fleet(hives=("a",)))
    async with endpoint(q, Phase.DRAINING) as c:
        c.headers.update(bearer(q, *Scope))
        refused = await c.post("/api/v1/hives/a/drain")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert [hive["drained"] for hive in (await c.get("/api/v1/hives")).json()] == [False]


async def test_looking_writes_no_log(queen: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    """Reads that people and tools repeat every second leave no line; refusals and changes do."""
    q = queen(fleet(hives=("a",)))
    async with endpoint(q) as c:
        c.headers.update(bearer(q, READ, WRITE))
        await c.get("/api/v1/workers")
        await c.get("/v1/models")
        await c.post("/api/v1/hives/a/drain")
    said = [line for line in capsys.readouterr().err.splitlines() if "event=request" in line]
    assert ["path=/v1/models status=403" in said[0], "path=/api/v1/hives/a/drain" in said[1]] == [True, True]
    assert len(said) == 2


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 200), ("/api/v1/keys", 401)])
async def test_anthropics_header_shows_a_key_wherever_models_are_used(queen: Maker, path: str, status: int) -> None:
    """Their client lists models with it; the admin API is none of its business."""
    q = queen(fleet(model()))
    async with endpoint(q) as c:
        key = q.keys.create("t", list(Scope))[1]
        assert (await c.get(path, headers={"x-api-key": key})).status_code == status
