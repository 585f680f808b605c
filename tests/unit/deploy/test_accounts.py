"""Who exists on a host and which folders are whose."""

import pytest

from rbee_deploy import accounts
from rbee_deploy.site import Host
from tests.unit.deploy.sites import one_box, two_hosts

BOX = one_box().queen
QUEEN, GPU = two_hosts().hosts


@pytest.mark.parametrize(
    ("item", "expected"),
    [(BOX, {"rbee-queen", "rbee-hive", "rbee-worker"}), (QUEEN, {"rbee-queen"}), (GPU, {"rbee-hive", "rbee-worker"})],
)
def test_a_host_has_the_users_of_its_roles(item: Host, expected: set[str]) -> None:
    """Queen, hive and workers are three users, and a host has no user that it does not need."""
    assert {user.name for user in accounts.users(item)} == expected


def test_workers_share_models_with_the_hive_and_nothing_else() -> None:
    """Both are in the models group; only the hive reads the journal."""
    groups = {user.name: set(user.groups) for user in accounts.users(BOX)}
    assert groups == {
        "rbee-queen": set(),
        "rbee-hive": {"rbee-models", "systemd-journal"},
        "rbee-worker": {"rbee-models"},
    }


def test_state_is_closed_and_models_are_for_the_group() -> None:
    """State folders are 0700 of their owner, the store is 2750, credentials belong to root alone."""
    found = {item.path: (item.owner, item.group, item.mode) for item in accounts.directories(GPU)}
    assert found["/var/lib/rbee/hive/workers"] == ("rbee-hive", "rbee-hive", "0700")
    assert found["/home/me/models/blobs"] == ("rbee-hive", "rbee-models", "2750")
    assert found["/etc/rbee/credentials"] == ("root", "root", "0700")
    assert "/var/lib/rbee/queen" not in found


def test_parents_come_first() -> None:
    """Making directories in order never meets a missing parent of our own."""
    paths = [item.path for item in accounts.directories(BOX)]
    assert all(
        paths.index(parent) < index
        for index, path in enumerate(paths)
        for parent in paths
        if path.startswith(parent + "/")
    )
