"""Every route of the hive for every caller, generated from the one table."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from rbee_runtime.config import HiveConfig
from rbee_runtime.hive import attached, launchers
from rbee_runtime.hive.routes import POLICIES, ROUTES, ApiRoute
from rbee_runtime.link import Link, Role
from tests.unit import callers
from tests.unit.hive.conftest import FLEET

EXAMPLES = {"{worker}": "w-1", "{name:path}": "org/m:q4", "{blob}": f"sha256-{'0' * 64}"}


def example(route: ApiRoute) -> str:
    path = route.path
    for template, value in EXAMPLES.items():
        path = path.replace(template, value)
    return path


@pytest.fixture
async def hive(settings: HiveConfig, quick: None, tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """Start a hive over mutual TLS; return its address and the folder with everybody's certificates."""
    folder = callers.issue(tmp_path / "tls", FLEET, hive="h1")
    settings = settings.model_copy(update={"link_dir": folder, "address": "127.0.0.1"})
    running = await attached.start(settings, Link(Role.HIVE, FLEET, folder))
    yield f"https://127.0.0.1:{running.config.port}", folder
    await running.stop(stop_workers=True)


async def status(client: httpx.AsyncClient, method: str, url: str) -> int:
    async with client.stream(method, url) as answer:
        return answer.status_code


@pytest.mark.parametrize("caller", [who for who in callers.CALLERS if who not in callers.NO_TLS])
async def test_a_role_gets_its_routes_and_no_other(hive: tuple[str, Path], caller: str) -> None:
    """403 exactly where the table does not name the caller's role; the same for a route that does not exist."""
    base, folder = hive
    found, wanted = {}, {}
    async with callers.client(folder, caller) as client:
        for route in ROUTES:
            key = f"{route.method} {route.path}"
            found[key] = await status(client, route.method, base + example(route)) == 403
            wanted[key] = route.roles is not None and caller not in route.roles
        strange = [await status(client, "GET", base + path) for path in ("/api/v1/secret", "/secret", "/health/")]
    assert found == wanted
    assert strange == [404 if caller == "queen" else 403, 403, 403]


@pytest.mark.parametrize("caller", sorted(callers.NO_TLS))
async def test_a_bad_certificate_gets_no_answer_at_all(hive: tuple[str, Path], caller: str) -> None:
    """Without a valid certificate of the fleet's own authority not even health is told."""
    base, folder = hive
    for route in ROUTES:
        async with callers.client(folder, caller) as client:
            with pytest.raises((httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError)):
                await status(client, route.method, base + example(route))


async def test_the_app_has_the_tables_routes_and_no_other(
    settings: HiveConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A route that is added past the table, or that another row's policy would cover, fails here."""
    built: list[Route] = []
    monkeypatch.setattr("rbee_runtime.hive.app.Starlette", lambda **given: built.extend(given["routes"]))
    monkeypatch.setattr("rbee_runtime.hive.attached.HttpServer", lambda *_, **__: None)
    link = Link(Role.HIVE, FLEET, token="t")
    launcher = launchers.build(settings)
    attached.AttachedHive(settings, link, launcher, 0, digest="")
    have = {(method, each.path) for each in built for method in each.methods or () if method != "HEAD"}
    assert have == {(route.method, route.path) for route in ROUTES}
    for route in ROUTES:
        row = next(row for row in POLICIES if row.covers(example(route), route.method))
        assert row == route.policy, f"{route.method} {route.path}"


def test_only_health_and_readiness_are_for_anybody() -> None:
    """What a stranger may read is decided here, not by a slip in the table."""
    assert {route.path for route in ROUTES if route.roles is None} == {"/health", "/ready"}
    assert {route.path for route in ROUTES if route.roles is not None and Role.HIVE in route.roles} == {
        "/api/v1/blobs/{blob}",
        "/api/v1/blobs/{blob}/chunks",
        "/api/v1/manifests/{name:path}",
    }
