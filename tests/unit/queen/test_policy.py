"""Every route of the client endpoint has a policy, and the policy is what happens."""

import re
from collections.abc import Callable

import pytest
from fastapi.routing import APIRoute

from rbee_runtime.config import FleetFile
from rbee_runtime.gateway.routes import HOT
from rbee_runtime.queen import admin, policy
from rbee_runtime.queen.hive_calls import HiveCalls
from rbee_runtime.queen.records import Scope
from rbee_runtime.queen.status import Phase
from tests.unit.queen.endpoint import endpoint
from tests.unit.queen.states import Fixture, fleet, model

Maker = Callable[[FleetFile], Fixture]

ADMIN_ROUTES = {
    ("GET", "/api/v1/hives"),
    ("GET", "/api/v1/hives/{name}/devices"),
    ("GET", "/api/v1/hives/{name}/models"),
    ("GET", "/api/v1/hives/{name}/events"),
    ("GET", "/api/v1/workers"),
    ("GET", "/api/v1/workers/{worker}"),
    ("GET", "/api/v1/workers/{worker}/logs"),
    ("GET", "/api/v1/models"),
    ("POST", "/api/v1/hives/{name}/drain"),
    ("POST", "/api/v1/hives/{name}/undrain"),
    ("GET", "/api/v1/keys"),
    ("POST", "/api/v1/keys"),
    ("DELETE", "/api/v1/keys/{key_id}"),
}
HOT_ROUTES = {
    ("GET", policy.HEALTH),
    ("GET", policy.READY),
    ("GET", policy.MODELS),
    ("GET", f"{policy.MODEL}m"),
    *(("POST", path.decode()) for path in HOT),
}


def registered(q: Fixture) -> set[tuple[str, str]]:
    found = admin.build(q.controller, HiveCalls(q.controller, q.client)).routes
    return {(method, route.path) for route in found if isinstance(route, APIRoute) for method in route.methods or ()}


def bearer(q: Fixture, *scopes: Scope) -> dict[str, str]:
    return {"authorization": f"Bearer {q.keys.create('t', scopes)[1]}"}


async def test_every_registered_route_has_a_row(queen: Maker) -> None:
    """A new route without a policy fails here, and the admin API has no route beyond these."""
    routes = registered(queen(fleet(model())))
    assert routes == ADMIN_ROUTES
    rows = {path: policy.row_for(path) for _, path in routes | HOT_ROUTES}
    assert all(rows.values())
    assert {row.scope for _, path in ADMIN_ROUTES if (row := rows[path]) is not None} == {Scope.ADMIN}


@pytest.mark.parametrize(("method", "path"), sorted(ADMIN_ROUTES | HOT_ROUTES))
async def test_a_route_is_open_to_its_scope_only(queen: Maker, method: str, path: str) -> None:
    """No key: 401; a key of the other scope: 403; forwarded headers change nothing."""
    q = queen(fleet(model(), hives=()))
    row = policy.row_for(path)
    assert row is not None
    other = Scope.INFER if row.scope is Scope.ADMIN else Scope.ADMIN
    forged = {"x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1", "forwarded": "for=127.0.0.1"}
    async with endpoint(q) as c:
        statuses = [
            (await c.request(method, path, headers=headers, json={})).status_code
            for headers in (forged, bearer(q, other), bearer(q, *Scope))
        ]
    assert statuses[:2] == ([401, 403] if row.scope else [200, 200])
    assert statuses[2] not in (401, 403)


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/metrics", "/v1/complete", "/api/v1", "//health"])
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
        admin_key = bearer(q, Scope.ADMIN)
        made = (await c.post("/api/v1/keys", headers=admin_key, json={"name": "n", "models": ["x*"]})).json()
        theirs = {"authorization": f"Bearer {made['key']}"}
        assert (await c.get("/v1/models/m", headers=theirs)).status_code == 404


async def test_keys_are_made_listed_and_revoked(queen: Maker) -> None:
    """The key is in the answer to its making and nowhere else."""
    q = queen(fleet(model()))
    headers = bearer(q, Scope.ADMIN)
    async with endpoint(q) as c:
        made = (await c.post("/api/v1/keys", headers=headers, json={"name": "n", "models": ["m*"]})).json()
        listed = (await c.get("/api/v1/keys", headers=headers)).text
        assert made["id"] in listed
        assert made["key"] not in listed
        mine = {"authorization": f"Bearer {made['key']}"}
        assert (await c.get("/v1/models", headers=mine)).json()["data"][0]["id"] == "m"
        assert (await c.delete(f"/api/v1/keys/{made['id']}", headers=headers)).status_code == 204
        assert (await c.get("/v1/models", headers=mine)).status_code == 401


@pytest.mark.parametrize(
    "body",
    [{}, {"name": ""}, {"name": "n", "scopes": ["root"]}, {"name": "n", "model": []}, {"name": "n", "models": ["a b"]}],
)
async def test_a_wrong_admin_body_is_one_sentence(queen: Maker, body: dict[str, object]) -> None:
    """Bad input makes no key."""
    q = queen(fleet(model()))
    headers = bearer(q, Scope.ADMIN)
    async with endpoint(q) as c:
        answer = await c.post("/api/v1/keys", headers=headers, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(q.keys.active()) == 1


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
    q = queen(fleet(model(replicas_min=0)))
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
        c.headers.update(bearer(q, Scope.ADMIN))
        refused = await c.post("/api/v1/hives/a/drain")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert [hive["drained"] for hive in (await c.get("/api/v1/hives")).json()] == [False]


async def test_looking_writes_no_log(queen: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    """Reads that people and tools repeat every second leave no line; refusals and changes do."""
    q = queen(fleet(hives=("a",)))
    async with endpoint(q) as c:
        c.headers.update(bearer(q, Scope.ADMIN))
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
        key = q.keys.create("t", [Scope.INFER, Scope.ADMIN])[1]
        assert (await c.get(path, headers={"x-api-key": key})).status_code == status
