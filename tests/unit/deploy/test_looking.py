"""What status and lock say of a host: what runs, what was begun and did not end, and who may not be disturbed."""

from tests import unpatched  # noqa: F401, I001 - before the command line, which loads pyinfra

from types import SimpleNamespace
from typing import Any, cast

import pytest

from rbee_deploy import lease
from rbee_deploy.cli import locking, looking
from rbee_deploy.here import Here
from rbee_deploy.history import Past, Step
from rbee_deploy.inventory import host

SINCE = "2026-01-02T03:04:05Z"
FREEZE = {"by": "ann@desk", "since": SINCE, "why": "audit"}
FROZEN = f"frozen by ann@desk since {SINCE}: audit"
BROKEN_OFF = f"a deploy by bob@vm since {SINCE} broke off"


def row(age: float | None = None, **changes: Any) -> dict[str, Any]:
    """Return a host that runs what it should; `age` is that of the lease that lies there, None without one."""
    held = None if age is None else {"age": age, "id": "run1", "by": "bob@vm", "since": SINCE}
    up = {"host": "gpu1", "release": "0.1.0-aa", "since": 0, "units": {"rbee-hive.service": "active"}, "workers": 1}
    none = {"cut_off": False, "activating": False, "otherwise": "", "fallback": None}
    return {**up, **none, "lease": held, "freeze": None, **changes}


@pytest.mark.parametrize(
    ("found", "status", "lock"),
    [
        (row(), "up", "free"),
        (row(3), f"up; bob@vm is at work since {SINCE}", f"bob@vm is at work since {SINCE}"),
        (row(lease.STALE_SECONDS), f"up; {BROKEN_OFF}", f"free; {BROKEN_OFF}"),
        (row(-7200), f"up; {BROKEN_OFF}", f"free; {BROKEN_OFF}"),
        (
            row(69, units={"rbee-hive.service": "failed"}, cut_off=True),
            f"rbee-hive.service is failed; its last activation was cut off: run apply; {BROKEN_OFF}",
            f"free; {BROKEN_OFF}",
        ),
        (row(freeze=FREEZE), f"up; {FROZEN}", FROZEN),
        (row(activating=True), "up; an activation goes on there", "free"),
        (row(fallback="bare"), "up; runs bare instead of in containers: apply tries again", "free"),
    ],
)
def test_a_deploy_that_died_is_not_at_work(found: dict[str, Any], status: str, lock: str) -> None:
    """A lease without a sign of life keeps nobody away and is called broken off, beside whether the host is up."""
    assert looking.status_line(found, 4).partition("1 worker  ")[2] == status
    assert locking.lock_line({**found, "frozen_already": False}, 4) == f"gpu1  {lock}"


BARE, PODMAN, OLD = (
    Step("g", "r", 0),
    Step("g", "r", 0, images=("i",), engine="podman"),
    Step("g", "r", 0, images=("i",)),
)


@pytest.mark.parametrize(
    ("now", "fields", "said"),
    [
        (BARE, {}, ""),
        (None, {"mode": "container"}, ""),
        (PODMAN, {"mode": "container"}, ""),
        (OLD, {"mode": "container", "engine": "docker"}, ""),
        (PODMAN, {}, "in containers of podman, and the inventory says without"),
        (OLD, {}, "in containers, and the inventory says without"),
        (PODMAN, {"worker_runtime": "container", "engine": "docker"}, "of podman, and the inventory says docker"),
        (BARE, {"mode": "container", "rootless": True}, "without containers, and the inventory says podman-rootless"),
    ],
)
def test_a_host_that_runs_another_way_is_not_said_to_be_without_workers(
    now: Step | None, fields: dict[str, Any], said: str
) -> None:
    """What the inventory's way asks for cannot be seen of a host that runs otherwise, and that is what is told."""
    here = cast("Here", SimpleNamespace(declared=host("box1", address="192.0.2.1", queen=True, **fields)))
    found = looking.otherwise(here, Past((now,) if now else ()))
    assert (said in found, bool(said)) == (True, bool(found))
    line = looking.status_line(row(otherwise=found), 4)
    assert ("workers not counted" in line, "1 worker" in line) == (bool(said), not said)


def test_the_first_freeze_stands_and_whoever_comes_second_hears_it() -> None:
    """Who froze the host, since when and why is said, and that the new reason is not kept."""
    said = locking.lock_line({**row(freeze=FREEZE), "frozen_already": True}, 4)
    assert said == f"gpu1  {FROZEN}; it was frozen already: the first freeze stands, and the new reason is not kept"
