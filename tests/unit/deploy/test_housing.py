"""Units of queen and hive in containers: what they may do, and what each Podman's Quadlet knows."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rbee_deploy import modes
from rbee_deploy.errors import InventoryError, RenderError
from rbee_deploy.inventory import host, model
from rbee_deploy.modes import ContainerEngine, Mode, Way
from rbee_deploy.render import OwnedFile, owned_files
from rbee_deploy.site import Site
from tests.unit.deploy.sites import IMAGES, housed, housed_by_docker, housed_without_root, site_of, state_of
from tests.unit.deploy.test_render import REWRITE

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "quadlet"
PODMANS = ("4.6.1", "4.9.3", "5.0.3", "5.4.2", "5.6.0", None)
SINCE = {
    **dict.fromkeys(("ContainerName", "Image", "User", "Group", "PodmanArgs", "Network", "Notify", "ReadOnly"), "4.4"),
    **dict.fromkeys(("NoNewPrivileges", "DropCapability", "Environment", "Volume", "Exec"), "4.4"),
    **dict.fromkeys(("Secret", "HealthCmd", "LogDriver"), "4.5"),
    "Pull": "4.6",
    "StopTimeout": "5.0",
}
"""Podman's release notes, as deploy-notes has them; an older Quadlet drops a unit with a key that it does not know."""

VARIANTS = [(site, podman) for site in (housed, housed_by_docker, housed_without_root) for podman in PODMANS]


def files_of(site: Site, name: str, podman: str | None) -> tuple[OwnedFile, ...]:
    here = next(item for item in site.hosts if item.name == name)
    return owned_files(site, here, state_of(site, podman=podman))


@pytest.mark.parametrize("podman", ["", "unknown"])
def test_nobody_guesses_which_podman_it_is(podman: str) -> None:
    """A Podman that does not say its version gets no units that it may not understand."""
    with pytest.raises(RenderError, match="does not say its version"):
        files_of(housed(), "box1", podman)


def role_units(site: Site, podman: str | None) -> dict[str, str]:
    """Return what starts the containers of queen and hive on each host of a fleet."""
    return {
        f"{here.name} {Path(file.path).name}": file.text()
        for here in site.hosts
        for file in files_of(site, here.name, podman)
        if re.search(r"/rbee-(queen|hive)\.(container|service)$", file.path)
    }


@pytest.mark.parametrize("podman", [version for version in PODMANS if version])
def test_quadlet_s_files_are_the_golden_ones(podman: str) -> None:
    """For each Podman, letter by letter, the files that were reviewed."""
    folder = GOLDEN / podman
    files = files_of(housed(), "box1", podman)
    found = {Path(file.path).name: file.text() for file in files if modes.is_quadlet(file.path)}
    if os.environ.get(REWRITE):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in found.items():
            (folder / name).write_text(text)
        pytest.fail(f"golden files written to {folder}: read them, then run without {REWRITE}")
    assert found == {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("podman", [version for version in PODMANS if version])
def test_no_quadlet_gets_a_key_that_it_does_not_know(podman: str) -> None:
    """A key newer than a host's Podman would make the unit vanish; the command's own option stands in for it."""
    numbers = [int(part) for part in podman.split(".")[:2]]
    for text in role_units(housed(), podman).values():
        if "[Container]" not in text:
            continue
        section = text.partition("[Container]")[2].partition("[Service]")[0]
        keys = {line.partition("=")[0] for line in section.splitlines() if "=" in line and not line.startswith("#")}
        late = {key for key in keys if [int(part) for part in SINCE[key].split(".")] > numbers}
        assert late == set()
        for option in ("pull", "health", "log", "stop", "secret"):
            assert re.search(rf"(?i){option}", section), option


def written(text: str) -> set[str]:
    """Return the folders of the host that a container may write."""
    volumes = [volume.split(":") for volume in re.findall(r"[Vv]olume=(\S+)", text)]
    options = [words.split(",") for words in re.findall(r"--mount=(\S+)", text)]
    mounts = [dict(part.partition("=")[::2] for part in parts) for parts in options]
    return {
        *(parts[0] for parts in volumes if "ro" not in parts[2:]),
        *(mount["source"] for mount in mounts if "readonly" not in mount),
    }


@pytest.mark.parametrize(("build", "podman"), VARIANTS)
def test_no_container_gets_more_than_its_own(build: object, podman: str) -> None:
    """In every variant: read-only, no right, no new ones, no engine's socket, and nothing to write but its own."""
    assert callable(build)
    for name, text in role_units(build(), podman).items():
        words = text.replace("=", " ").lower()
        assert re.search(r"readonly true|--read-only", words), name
        assert re.search(r"nonewprivileges true|no-new-privileges", words), name
        assert re.search(r"dropcapability all|--cap-drop all", words), name
        for bad in ("privileged true", "--privileged", "podman.sock", "docker.sock", "unconfined", "addcapability"):
            assert bad not in words, (name, bad)
        role = "queen" if "queen" in name else "hive"
        stores = {"/data/models", "/var/lib/rbee/models"}
        assert written(text) - stores == {f"/var/lib/rbee/{role}", f"/run/rbee-{role}"}, name
        assert len(written(text) & stores) == (role == "hive"), name
        if "queen" in name:
            assert "guard" not in text
            assert "pid=host" not in text


def test_a_role_without_its_image_is_not_rendered() -> None:
    """Before anything is brought to a host it is known what its containers are made of."""
    site = housed_by_docker()
    with pytest.raises(RenderError, match="host 'box1' has no image for its queen"):
        owned_files(site, site.hosts[0], replace(state_of(site), images=()))


@pytest.mark.parametrize(
    ("fields", "way"),
    [
        ({}, Way()),
        ({"engine": "docker"}, Way()),
        ({"worker_runtime": "container"}, Way(Mode.BARE, ContainerEngine.PODMAN)),
        ({"mode": "container"}, Way(Mode.CONTAINER, ContainerEngine.PODMAN)),
        ({"mode": "container", "engine": "docker"}, Way(Mode.CONTAINER, ContainerEngine.DOCKER)),
        ({"mode": "container", "rootless": True}, Way(Mode.CONTAINER, ContainerEngine.ROOTLESS)),
        ({"worker_runtime": "container", "rootless": True}, Way(Mode.BARE, ContainerEngine.ROOTLESS)),
        ({"mode": "container", "hive": False, "queen": True}, Way(Mode.CONTAINER, ContainerEngine.PODMAN)),
        ({"worker_runtime": "container", "hive": False, "queen": True}, Way()),
    ],
)
def test_one_word_says_how_a_host_runs(fields: dict[str, object], way: Way) -> None:
    """A hive in a container has its workers in containers too; a host without a hive has none."""
    assert host("box1", address="192.0.2.1", **fields).way == way


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "host 'box1': rootless is True, and nothing there runs in a container; write mode='container'"),
        ({"mode": "container", "engine": "docker"}, "host 'box1': rootless is True, and in this version only Podman"),
    ],
)
def test_what_cannot_do_without_root_is_refused(fields: dict[str, object], said: str) -> None:
    """Nobody takes a host for one without root that is none."""
    with pytest.raises(InventoryError, match=re.escape(said)):
        host("box1", address="192.0.2.1", rootless=True, **fields)


def test_without_root_the_same_units_start_what_another_user_runs() -> None:
    """Queen and hive wait for Podman's API, the guard knows whose it is, and its socket has the one path."""
    files = {Path(file.path).name: file.text() for file in files_of(housed_without_root(), "box1", "5.4.2")}
    for role in ("queen", "hive"):
        unit = files[f"rbee-{role}.service"]
        assert f"housed run {role} podman-rootless " in unit
        assert re.search(r"^Wants=.*rbee-podman\.service", unit, re.MULTILINE)
        assert re.search(r"^After=.*rbee-podman\.service", unit, re.MULTILINE)
        assert "--log-driver=k8s-file" in unit
        assert "docker" not in unit.lower()
    guard = json.loads(files["guard.json"])
    assert (guard["engine"], guard["engine_user"]) == ("podman", "rbee-engine")
    assert guard["engine_socket"] == "/run/rbee-podman/podman.sock"
    assert "launcher: podman\n" in files["hive.yaml"]
    assert "rootless serve" in files["rbee-podman.service"]
    assert "rootless network" in files["rbee-network.service"]
    assert "PartOf=rbee-podman.service" in files["rbee-guard.service"]


def test_a_queen_alone_counts_on_the_api_too() -> None:
    """Without a hive there is no guard and no network of workers, and the engine's unit all the same."""
    way = Way(Mode.CONTAINER, ContainerEngine.ROOTLESS)
    units = modes.role_units("queen", way)
    assert units.helpers == ("rbee-podman.service",)
    assert "rbee-guard.service" not in units.enabled


def test_a_model_that_cannot_be_shown_is_refused() -> None:
    """The folder of a model on the host has to be one that a unit file can name."""
    box = host("box1", address="192.0.2.1", queen=True, mode="container")
    odd = model("odd", source="file:/srv/my models/x.gguf", preseed=False)
    with pytest.raises(
        InventoryError, match="model 'odd': it lies in '/srv/my models' on the hosts, which host 'box1'"
    ):
        site_of(box, images=IMAGES, models=(odd,))


def test_every_file_of_every_way_is_known_to_the_purge() -> None:
    """What one way places, a purge removes, whatever the host's way is by then."""
    paths = set(modes.every_file())
    for build in (housed, housed_by_docker, housed_without_root):
        site = build()
        for here in site.hosts:
            units = {file.path for file in files_of(site, here.name, "5.4.2") if file.is_unit}
            assert units <= paths
