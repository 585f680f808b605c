"""Every route of the queen's link listener for every caller, generated from its table."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.link import Link, Role
from rbee_runtime.queen import link_app
from rbee_runtime.queen.status import Status
from tests.unit import callers
from tests.unit.queen.states import Fixture, fleet, model
from tests.unit.queen.test_link import listening

Maker = Callable[[FleetFile], Fixture]
CALLS = [
    (method, row.path.replace("{name}", "a"), row.roles) for row in link_app.ROUTES for method in sorted(row.methods)
]


@pytest.mark.parametrize("caller", callers.CALLERS)
async def test_a_role_gets_its_routes_and_no_other(queen: Maker, tmp_path: Path, caller: str) -> None:
    """403 exactly where the table does not name the role; no answer at all without a valid certificate."""
    q = queen(fleet(model(), hives=("a",)))
    folder = callers.issue(tmp_path / "tls", "f", hive="a")
    link = Link(Role.QUEEN, "f", folder)
    async with (
        listening(link_app.build(q.controller, link, Status(1)), link) as url,
        callers.client(folder, caller) as client,
    ):
        for method, path, roles in CALLS:
            if caller in callers.NO_TLS:
                with pytest.raises((httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError)):
                    await client.request(method, url + path)
                continue
            allowed = roles is None or caller in roles
            assert ((await client.request(method, url + path)).status_code != 403) is allowed
    assert not q.controller.membership.members


def test_every_route_has_a_policy_of_its_own() -> None:
    """The gate finds each route's own row first, and a stranger may read health alone."""
    for row in link_app.ROUTES:
        for method in row.methods:
            assert next(each for each in link_app.POLICIES if each.covers(row.path, method)) == row
    assert [row.path for row in link_app.POLICIES if row.roles is None] == ["/health"]
