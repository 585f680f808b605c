"""Hosts that may run bare where they cannot run in containers: when they do, and what is made of them then."""

from tests import unpatched  # noqa: F401, I001 - before what loads pyinfra

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rbee_deploy import fallback, falling_back, stages
from rbee_deploy.errors import ArtefactError, ProcessorError, SecretError, UnfitRunError
from rbee_deploy.facts.memo import observe_anew
from rbee_deploy.fallback import WHY
from rbee_deploy.here import Here
from rbee_deploy.inventory import host
from rbee_deploy.operations.root import REFUSALS
from rbee_deploy.packages import Need
from rbee_deploy.plan import Workshop
from rbee_deploy.render import FALLBACK, owned_files
from tests.unit.deploy.made_up_hosts import networks, silent
from tests.unit.deploy.sites import IMAGES, site_of, state_of
from tests.unit.deploy.test_preflight import GOOD

PODMAN = {"programs": {"podman": "5.4.2"}, "engine": ["answers"]}
MARK = {"paths": {FALLBACK: {"kind": "file"}}}


def here_of(tmp_path: Path, facts: dict[str, Any], **fields: Any) -> Here:
    """Return a host of the queen's that is to run in containers and has a fallback, as it was read."""
    box = host("box1", address="192.0.2.1", queen=True, **{"mode": "container", "fallback": "bare", **fields})
    site = replace(site_of(box, images=IMAGES), secrets_dir=str(tmp_path / "secrets"))
    raw = {**GOOD, "clock_unix": time.time(), **facts}
    item = SimpleNamespace(
        state=SimpleNamespace(), data={}, connector_data={}, get_fact=lambda *_words, **_named: raw, name="box1"
    )
    here = Here(item, site, site.hosts[0], Workshop(site))
    item.connector_data["rbee_asked"] = fallback.about(here.site, here.declared, here.workshop, password=False)
    return here


@pytest.fixture(autouse=True)
def fits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Have whatever is brought fit on the host, but for what a test says of a way."""
    said: dict[str, Any] = {}

    def room(here: Here) -> list[str]:
        answer = said.get(here.declared.mode, [])
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    monkeypatch.setattr(Here, "room", room)
    return said


OLD = {"programs": {"podman": "4.3.1"}}
NONE = {"programs": {}, "os_id": "debian", "os_version": "12"}
SILENT = {"programs": {"podman": "5.4.2"}, "engine": []}


@pytest.mark.parametrize(
    ("facts", "room", "why"),
    [
        (PODMAN, {}, ""),
        (NONE, {}, "it has no Podman 4.6 or newer; install"),
        (OLD, {}, "Podman 4.3.1 is older than 4.6"),
        (SILENT, {}, "podman is installed there and does not answer"),
        (PODMAN, {"container": ProcessorError("images.json has no image queen for aarch64")}, "images.json has no im"),
        (PODMAN, {"container": ArtefactError("the images in /i are of rbee 0.0.9; build them again")}, ""),
        (PODMAN, {"container": SecretError("registry_auth: there is no such file; write it")}, ""),
        (NONE, {"bare": ArtefactError("the engine cannot be built here")}, ""),
        (PODMAN, {"container": ["no room for images; make some"]}, "no room for images"),
        ({**NONE, "sudo": "refused"}, {}, ""),
        (NONE, {"bare": ["its glibc is too old; upgrade it"]}, ""),
        (PODMAN, {"bare": ["its glibc is too old; upgrade it"]}, ""),
    ],
)
def test_a_host_falls_back_only_where_that_helps(
    tmp_path: Path, fits: dict[str, Any], facts: dict[str, Any], room: dict[str, Any], why: str
) -> None:
    """What bars containers and not a bare host has it run bare; what bars both is told as for containers."""
    fits.update(room)
    here = here_of(tmp_path, facts)
    falling_back.choose(here, tries=True)
    assert here.host.connector_data.get(WHY, "").startswith(why)
    assert (here.declared.mode, WHY in here.host.connector_data) == (("bare", True) if why else ("container", False))
    assert here.declared in here.site.hosts
    assert here.workshop.site is here.site


@pytest.mark.parametrize(("engines", "refused"), [((), True), (("podman", ""), True), (("podman",), False)])
def test_one_slow_answer_ends_no_containers(tmp_path: Path, engines: tuple[str, ...], refused: bool) -> None:
    """A Podman that does not tell of itself in time keeps a host out of containers, and takes none out of them."""
    here = here_of(tmp_path, silent(*engines))
    falling_back.choose(here, tries=True)
    assert (here.declared.mode, fallback.said(here.host)) == ("container", [])
    assert [line.startswith("`podman info` fails") for line in here.problems()] == [True] * refused


@pytest.mark.parametrize(("first", "refused"), [(networks("netavark", "1.14.0"), False), (PODMAN, True)])
def test_what_podman_told_of_itself_once_holds_for_the_run(
    first: dict[str, Any], refused: bool, tmp_path: Path
) -> None:
    """Loading its images keeps the disk busy, and a host that was let through does not fail in the middle for that."""
    here = here_of(tmp_path, first)
    assert here.problems() == []
    here.host.get_fact = lambda *_words, **_named: {**GOOD, "clock_unix": time.time(), **silent()}
    observe_anew(here.host)
    assert len(here.problems()) == refused


def test_a_host_that_has_more_against_it_falls_back_for_that(tmp_path: Path) -> None:
    """What may pass by itself hides no other reason."""
    here = here_of(tmp_path, {**silent(), "worker_rules": {"tool": True, "broken": "no such table", "tables": []}})
    falling_back.choose(here, tries=True)
    assert here.host.connector_data[WHY].startswith("its kernel takes no rules about workers")


def test_a_host_without_a_fallback_never_takes_it(tmp_path: Path) -> None:
    """It is refused, and stays what the inventory says."""
    here = here_of(tmp_path, NONE, fallback=None)
    falling_back.choose(here, tries=True)
    assert here.declared.mode == "container"
    assert "it has no Podman" in here.problems()[0]


@pytest.mark.parametrize(("facts", "tries", "mode"), [(MARK, True, "container"), (MARK, False, "bare")])
def test_only_apply_tries_again(tmp_path: Path, facts: dict[str, Any], tries: bool, mode: str) -> None:
    """A host that did not get ready in containers is no drift for who only looks, and is named as what it is."""
    here = here_of(tmp_path, {**PODMAN, **facts})
    falling_back.choose(here, tries=tries)
    assert here.declared.mode == mode
    assert fallback.said(here.host) == (
        []
        if tries
        else [
            "it runs bare instead of in containers: it did not get ready there when apply last tried; apply tries again"
        ]
    )


def operation(*lines: str, failed: bool = True) -> Any:
    return SimpleNamespace(
        is_complete=lambda: True, did_error=lambda: failed, stderr_lines=list(lines), stdout_lines=[]
    )


@pytest.mark.parametrize(
    ("images", "activation", "why"),
    [
        (operation(failed=False), operation(failed=False), None),
        (
            operation(failed=False),
            operation("rbee-hive.service failed; its last lines:", "x"),
            "rbee-hive.service failed",
        ),
        (operation("no space left", "podman could not load it"), operation("it lacks"), "podman could not load it"),
        (operation(), operation(), "it did not get ready"),
        (operation("r does not answer: look"), operation("it lacks"), "r does not answer: look"),
    ],
)
def test_what_did_not_get_ready_runs_bare(tmp_path: Path, images: Any, activation: Any, why: str | None) -> None:
    """Only where its activation failed in this run, for the reason that came first."""
    here = here_of(tmp_path, PODMAN)
    falling_back.brought(here, images)
    falling_back.activated(here, activation)
    assert falling_back.settle(here) is (why is not None)
    assert here.host.connector_data.get(WHY) == why


DENIED = "the registry of r, asked for i, wants other credentials: give it registry_auth=… in fleet()"
OTHER = "what podman loaded is not the image i (sha256:1); build the images again"


@pytest.mark.parametrize(
    ("images", "activation", "refused", "said"),
    [
        (operation(failed=False), operation("left as it is"), ["left as it is: gpu2 could not go over"], "left as it"),
        (operation("no space", "podman could not load it"), operation(failed=False), [], "podman could not load it"),
        (operation(), operation(failed=False), [], "its images did not come"),
        (operation(failed=False), operation(failed=False), [], None),
        (operation(DENIED), operation("it lacks"), [], DENIED),
        (operation(OTHER), operation("it lacks"), [], OTHER),
    ],
    ids=["left because of another", "lacks an image of what runs", "says nothing of it", "well", "denied", "other"],
)
def test_what_is_no_reason_to_fall_back_fails_the_host(
    tmp_path: Path, images: Any, activation: Any, refused: list[str], said: str | None
) -> None:
    """A host that had to wait for another stays what it is, and so does one whose operator gave what none can use."""
    here = here_of(tmp_path, PODMAN)
    if refused:
        here.host.connector_data[REFUSALS] = refused
    falling_back.brought(here, images)
    falling_back.activated(here, activation)
    assert not falling_back.settle(here)
    assert here.declared.mode == "container"
    found = falling_back.unsettled(here)
    assert [line.startswith(said or "") for line in found] == ([True] if said is not None else [])


@pytest.mark.parametrize("given", ["bare", None])
def test_the_queen_falls_back_before_hives_are_touched(tmp_path: Path, given: str | None) -> None:
    """Hives need her; a fleet without a fallback has no such stages."""
    titles = [stage.title for stage in stages.of(here_of(tmp_path, PODMAN, fallback=given).site)]
    assert ("activate bare queen" in titles) is (given is not None)
    if given is not None:
        order = ["activate queen", "activate bare queen", "activate hives", "activate bare hives", "verify"]
        assert [title for title in titles if title in order] == order


def test_a_bare_host_of_a_fallback_is_marked(tmp_path: Path) -> None:
    """By a file, which it has beside what a bare host has, and which is asked for."""
    here = here_of(tmp_path, NONE)
    asked = here.host.connector_data["rbee_asked"]
    falling_back.choose(here, tries=True)
    bare = {file.path for file in owned_files(here.site, here.declared, state_of(here.site))}
    plain = replace(here.declared, fallback=None)
    assert bare - {file.path for file in owned_files(here.site, plain, state_of(here.site))} == {FALLBACK}
    assert bare <= {*asked.paths}
    assert asked.container_engine == "podman"


def test_both_ways_find_their_packages(tmp_path: Path) -> None:
    """Setup installs what either way needs as long as either may be gone."""
    here = here_of(tmp_path, PODMAN)
    assert {Need.PODMAN, Need.POLKIT} <= {*here.needs()}
    falling_back.take(here, "why")
    assert Need.PODMAN not in here.needs()


def test_a_folder_that_serves_no_host_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake at the operator's machine is one sentence before anything is asked of a host, fallback or not."""
    here = here_of(tmp_path, PODMAN)
    monkeypatch.setattr(Here, "of_context", classmethod(lambda _: here))
    monkeypatch.setattr("rbee_deploy.report.arm", lambda _: None)
    with pytest.raises(UnfitRunError, match="has no image queen for any processor"):
        stages.run()
