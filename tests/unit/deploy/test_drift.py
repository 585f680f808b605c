"""Converged is one definition: what counts as a difference between a host and its plan."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rbee_deploy import drift
from rbee_deploy.accounts import Directory, User
from rbee_deploy.inventory import host
from rbee_deploy.modes import BARE, units_elsewhere
from rbee_deploy.observed import Observed
from rbee_deploy.render import OwnedFile
from rbee_deploy.secrets import Secret
from rbee_runtime.worker_bridge import TABLES

FILE = OwnedFile("/etc/rbee/queen.yaml", "fleet: a\n", group="rbee-queen", mode="0640")
SECRET = OwnedFile("/etc/rbee/credentials/queen.key", Secret("canary"), mode="0600")
FOLDER = Directory("/etc/rbee/credentials", mode="0700")
QUEEN = drift.role("queen", host("box1", queen=True), "d1", "0.1.0-aa")
UNITS = ("rbee-queen.socket", "rbee-queen.service")


def converged() -> dict[str, Any]:
    """Return the fact of a host that is as it should be."""
    up = {"load": "loaded", "active": "active", "file_state": "enabled"}
    owned = {"kind": "file", "owner": "root"}
    return {
        "running": {"queen": {"digest": "d1", "release": "0.1.0-aa"}},
        "units": {name: dict(up) for name in UNITS},
        "listeners": {8500: "systemd", 8501: "systemd"},
        "paths": {
            FILE.path: {**owned, "mode": "0640", "group": "rbee-queen", "sha256": FILE.sha256},
            SECRET.path: {**owned, "mode": "0600", "group": "root", "sha256": SECRET.sha256},
            FOLDER.path: {"kind": "directory", "mode": "0700", "owner": "root", "group": "root"},
        },
    }


def found(fact: dict[str, Any]) -> list[str]:
    """Return the differences."""
    return drift.found(Observed.parse(fact), [QUEEN], [FILE, SECRET], [FOLDER], UNITS)


def test_a_converged_host_has_no_differences() -> None:
    """What runs, lies and is enabled as planned is not mentioned."""
    assert found(converged()) == []


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "digest": (lambda f: f["running"]["queen"].update(digest="d0"), "runs digest d0 instead of d1"),
    "release": (
        lambda f: f["running"]["queen"].update(release="0.0.9-bb"),
        "runs release 0.0.9-bb instead of 0.1.0-aa",
    ),
    "not ready": (lambda f: f["running"].clear(), "runs no digest instead of d1"),
    "stopped": (lambda f: f["units"][UNITS[1]].update(active="failed"), "rbee-queen.service is failed"),
    "no socket": (lambda f: f["units"].pop(UNITS[0]), "rbee-queen.socket is not there"),
    "old port": (lambda f: f["listeners"].pop(8501), "nothing listens on port 8501"),
    "content": (lambda f: f["paths"][FILE.path].update(sha256="00"), "/etc/rbee/queen.yaml has other content"),
    "secret gone": (lambda f: f["paths"].pop(SECRET.path), "/etc/rbee/credentials/queen.key is not there"),
    "readable": (lambda f: f["paths"][SECRET.path].update(mode="0644"), "queen.key has mode 0644 instead of 0600"),
    "owner": (lambda f: f["paths"][FILE.path].update(owner="ops"), "belongs to ops:rbee-queen instead of root:rbee-q"),
    "link": (lambda f: f["paths"][FILE.path].update(kind="link"), "/etc/rbee/queen.yaml is a link instead of a file"),
    "no folder": (lambda f: f["paths"].pop(FOLDER.path), "/etc/rbee/credentials is not there"),
    "file for folder": (lambda f: f["paths"][FOLDER.path].update(kind="file"), "is a file instead of a directory"),
    "open folder": (lambda f: f["paths"][FOLDER.path].update(mode="0755"), "credentials has mode 0755 instead of 0700"),
    "disabled": (lambda f: f["units"][UNITS[1]].update(file_state="disabled"), "rbee-queen.service is not enabled"),
    "not made": (
        lambda f: f["units"][UNITS[1]].update(file_state="", load="not-found"),
        "systemd knows no rbee-queen.service",
    ),
    "masked": (
        lambda f: f["units"][UNITS[1]].update(file_state="masked", load="masked"),
        "rbee-queen.service is masked",
    ),
    "reload": (lambda f: f["units"][UNITS[1]].update(need_reload=True), "systemd holds an old rbee-queen.service"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_one_difference(name: str) -> None:
    """Each thing that can be wrong is found, and named in words that say what."""
    damage, said = DAMAGES[name]
    fact = converged()
    damage(fact)
    assert any(said in line for line in found(fact)), found(fact)
    assert "canary" not in str(found(fact))


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        ({"drop_ins": ["/etc/systemd/system/rbee-hive.service.d/mine.conf"]}, "mine.conf changes how a unit"),
        (
            {"drop_ins": ["/etc/containers/systemd/rbee-queen.container.d/mine.conf"]},
            "delete it, run systemctl daemon-reload and restart rbee-queen.service",
        ),
        (
            {"units": {"rbee-hive.service": {"active": "active", "file_state": "generated"}}},
            "remove /etc/containers/systemd/rbee-hive.container and run systemctl daemon-reload",
        ),
        ({"units": {"rbee-hive.service": {"active": "active"}}}, "systemctl disable --now rbee-hive.service"),
        ({"units": {"rbee-hive.service": {"active": "inactive", "file_state": "enabled"}}}, "should not run on this"),
    ],
)
def test_what_a_person_left_is_named(fact: dict[str, Any], said: str) -> None:
    """A drop-in for our units, or a role that moved to another host, is one sentence with the way out."""
    (sentence,) = drift.foreign(Observed.parse(fact), units_elsewhere(("queen",), BARE))
    assert said in sentence


def test_a_unit_that_is_generated_is_not_to_be_disabled() -> None:
    """Each unit that cannot be disabled has a sentence of its own beside those that can, although it does not run."""
    units = {
        "rbee-guard.service": {"active": "active", "file_state": "enabled"},
        "rbee-hive.service": {"active": "inactive", "file_state": "generated"},
    }
    plain, generated = drift.foreign(Observed.parse({"units": units}), units_elsewhere(("queen",), BARE))
    assert plain.endswith("run systemctl disable --now rbee-guard.service there")
    assert generated.startswith("rbee-hive.service should not run on this host any more; run systemctl stop")
    assert "disable" not in generated


def test_a_file_of_an_earlier_inventory_is_a_difference() -> None:
    """What the inventory dropped and the host still has is named; what is gone is not."""
    fact, gone = Observed.parse(converged()), "/etc/rbee/credentials/hf-token"
    said = drift.found(fact, [QUEEN], [FILE], [FOLDER], UNITS, [SECRET.path, gone])
    assert said == [f"{SECRET.path} is still there"]


HIVE = User("rbee-hive", "rbee hive", ("rbee-models", "systemd-journal"), ("video",))


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ({}, ["there is no user rbee-hive"]),
        ({"rbee-hive": ["rbee-hive", "rbee-models"]}, ["user rbee-hive is not in group systemd-journal"]),
        ({"rbee-hive": ["rbee-models", "systemd-journal", "docker"]}, []),
    ],
)
def test_a_user_has_the_groups_that_it_needs(users: dict[str, list[str]], said: list[str]) -> None:
    """One that is missing, or out of a group, is named; a group that the host lacks or one more is no difference."""
    assert drift.user_drift(HIVE, Observed.parse({"users": users})) == said


def test_a_group_that_came_with_a_driver_is_joined() -> None:
    """What is needed only where it is there is named once it is there."""
    fact = {"users": {"rbee-hive": ["rbee-models", "systemd-journal"]}, "groups": ["video"]}
    assert drift.user_drift(HIVE, Observed.parse(fact)) == ["user rbee-hive is not in group video"]


@pytest.mark.parametrize("damage", ["", "content", "stopped", "open folder"])
def test_a_missing_record_is_said_only_where_nothing_else_differs(damage: str) -> None:
    """Every change of a configuration is another generation; beside what is different that tells nobody anything."""
    fact = {**converged(), "deploy": {"current": "g1"}}
    if damage:
        DAMAGES[damage][0](fact)
    said = drift.found(Observed.parse(fact), [QUEEN], [FILE, SECRET], [FOLDER], UNITS, generation="g2")
    (phrase,) = said
    assert (phrase == "the deploy is not on record there") is (damage == "")
    assert DAMAGES.get(damage, (None, phrase))[1] in phrase


def test_a_role_that_was_never_there_is_not_mentioned() -> None:
    """Units that systemd does not know, or that are switched off, need nobody."""
    off = {"rbee-hive.service": {"load": "not-found", "active": "inactive"}, "rbee.target": {"active": "active"}}
    assert drift.foreign(Observed.parse({"units": off}), units_elsewhere(("queen",), BARE)) == []


def test_a_hive_has_no_sockets_to_watch() -> None:
    """Only the role with socket units is held to its ports; a hive's own process opens its port."""
    hive = drift.role("hive", host("box1"), "d1", "0.1.0-aa")
    assert (hive.sockets, hive.listens) == ((), ())
    assert replace(hive, digest="d2") != hive


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        ({}, []),
        ({"releases": ["0.1.0-aa"], "engines": ["llama-1"]}, []),
        ({"releases_damaged": ["0.1.0-aa"]}, ["release 0.1.0-aa on this host is damaged"]),
        ({"engines_damaged": ["llama-1"]}, ["engine llama-1 on this host is damaged"]),
        ({"releases_damaged": ["0.0.9-bb"], "engines_damaged": ["llama-0"]}, []),
    ],
)
def test_what_is_damaged_is_named(fact: dict[str, Any], said: list[str]) -> None:
    """The release and engines that the host should have are named when somebody changed them; others are not."""
    assert drift.damaged(Observed.parse(fact), "0.1.0-aa", ["llama-1"]) == said


@pytest.mark.parametrize(
    ("active", "fact", "said"),
    [
        ("active", {}, []),
        ("active", {"worker_rules": {"tables": list(TABLES)}}, []),
        ("active", {"worker_rules": {"tables": TABLES[:1]}}, ["rbee-network.service has lost its rules"]),
        ("active", {"worker_rules": {"tables": []}}, ["rbee-network.service has lost its rules"]),
        ("failed", {"worker_rules": {"tables": [], "changed": True}}, ["rbee-network.service is failed"]),
        ("active", {"worker_rules": {"tables": list(TABLES), "changed": False}}, []),
        (
            "active",
            {"worker_rules": {"tables": list(TABLES), "changed": True}},
            ["rules in force are not those of /etc/rbee/workers.nft"],
        ),
        ("active", {"worker_rules": {"tables": [], "changed": True}}, ["rbee-network.service has lost its rules"]),
        ("active", {"worker_rules": {"tables": list(TABLES), "marked": True}}, []),
        (
            "active",
            {"worker_rules": {"tables": list(TABLES), "changed": True, "marked": False}},
            ["rbee-network.service could not put its rules in force again"],
        ),
        (
            "active",
            {"worker_rules": {"tables": [], "marked": False}},
            ["rbee-network.service has lost its rules"],
        ),
        ("active", {"worker_rules": {"tables": list(TABLES), "shut": False}}, []),
        (
            "active",
            {"worker_rules": {"tables": list(TABLES), "shut": True}},
            ["Docker on this host forwards nothing to workers of Podman"],
        ),
    ],
)
def test_rules_that_somebody_changed_are_missed(active: str, fact: dict[str, Any], said: list[str]) -> None:
    """A unit that has put rules in force looks active without them; what is not up needs no second word."""
    facts = Observed.parse({"units": {"rbee-network.service": {"active": active}}, **fact})
    assert drift.down(facts, ["rbee-network.service"]) == said
