"""Hosts that containers of rbee do not run on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee_deploy.images import manifest
from tests.container_images import lab_images
from tests.e2e.fleets import Fleet
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab


@pytest.mark.one_of
@pytest.mark.parametrize(
    "way", [{"mode": "container"}, {"worker_runtime": "container"}], ids=["queen and hive", "workers"]
)
def test_an_engine_that_is_too_old_is_a_sentence(way: dict[str, str]) -> None:
    """Debian 12 has Podman 4.3 and nothing newer: the host is refused before setup, and nothing of rbee comes to it."""
    with Lab.create("old") as lab:
        fleet = Fleet(lab)
        fleet.options["images"] = str(lab_images())
        fleet.declare(lab.add_host("box", image="bookworm"), queen=True, **way)
        done = fleet.deploy(check=False)
        (word,) = way
        out = "mode='bare'" if word == "mode" else "worker_runtime='process'"
        assert done.code == 1
        fix = "install Podman 4.6 or newer with netavark 1.7 or newer there"
        assert f"it has no Podman 4.6 or newer; {fix}, or write {out}" in done.errors
        assert lab.hosts["box"].run("ls -d /opt/rbee /etc/rbee", check=False).stdout == ""
        fleet.close()


def break_engine(host: LabHost) -> None:
    """Have whatever Podman runs there end at once."""
    host.run("mkdir -p /etc/containers/containers.conf.d")
    host.run("printf '[engine]\\nruntime=\"/bin/false\"\\n' >/etc/containers/containers.conf.d/broken.conf")


UNIT_FOLDERS = "/etc/systemd /etc/containers/systemd /run/systemd/system /run/systemd/generator"


def test_a_first_deploy_that_fails_leaves_no_unit() -> None:
    """Of queen and hive that do not get ready in containers nothing is left that could start, or that they were told.

    With the engine mended the same command brings the host up.
    """
    with Lab.create("first") as lab:
        fleet = Fleet(lab)
        fleet.options["images"] = str(lab_images())
        host = lab.add_host("box", image="containers")
        fleet.declare(host, queen=True, mode="container")
        fleet.models["echo"] = {"name": "echo", "source": "fake:tokens=3"}
        break_engine(host)
        done = fleet.rbee_deploy("apply")
        assert done.code == 1
        assert "there was no earlier release here: all that was placed is removed again" in done.errors
        assert host.run(f"find {UNIT_FOLDERS} -name '*rbee*'").stdout == ""
        assert host.run("systemctl list-units --all --plain --no-legend 'rbee*'").stdout == ""
        assert host.run("find /run -path '*rbee*' -not -path '/run/rbee-deploy*'").stdout == ""
        assert host.run("podman secret ls --quiet; podman ps --all --quiet").stdout == ""
        host.run("rm /etc/containers/containers.conf.d/broken.conf")
        fleet.deploy()
        assert answer(fleet, "echo")
        fleet.close()


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_a_stale_folder_of_images_is_an_error_and_no_reason_to_fall_back(stale: Fleet, command: str) -> None:
    """It lies on the operator's machine, and no host has to run another way for that: one sentence, nothing is done."""
    done = stale.rbee_deploy(command)
    assert done.code == 1
    assert "are of rbee 0.0.9, and this fleet gets" in done.errors
    assert "bare" not in done.errors
    assert "Traceback" not in done.errors
    assert stale.lab.hosts["box"].run("ls -d /opt/rbee /etc/rbee", check=False).stdout == ""


@pytest.fixture(scope="module")
def stale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Give a host with a fallback, and a folder of images that an earlier version has built."""
    images, folder = lab_images(), tmp_path_factory.mktemp("stale")
    for path in images.iterdir():
        (folder / path.name).symlink_to(path)
    known = json.loads((folder / manifest.NAME).read_text())
    (folder / manifest.NAME).unlink()
    entries = [{**entry, "version": "0.0.9"} for entry in known["images"]]
    (folder / manifest.NAME).write_text(json.dumps({"images": entries}))
    with Lab.create("stale") as lab:
        fleet = Fleet(lab)
        fleet.options["images"] = str(folder)
        fleet.declare(lab.add_host("box", image="containers"), queen=True, mode="container", fallback="bare")
        try:
            yield fleet
        finally:
            fleet.close()


@pytest.fixture(scope="module")
def fallen(smol_model: Path) -> Iterator[Fleet]:
    """Give a host of Debian 12 that may run bare, and one whose images are broken: each with a model of its own."""
    images = lab_images()
    with Lab.create("fallen") as lab:
        fleet = Fleet(lab)
        fleet.options["images"] = str(images)
        fleet.declare(lab.add_host("old", image="bookworm"), queen=True, mode="container", fallback="bare", engines=[])
        fleet.declare(lab.add_host("new", image="containers"), mode="container", fallback="bare")
        fleet.models["echo"] = {"name": "echo", "source": "fake:tokens=3", "hosts": ["old"]}
        fleet.models["smol"] = {"name": "smol", "source": f"file:{smol_model}", "hosts": ["new"], "context": 512}
        try:
            yield fleet
        finally:
            fleet.close()


def answer(fleet: Fleet, model: str) -> str:
    """Return what a model says."""
    fleet.wait_ready(model)
    asked = fleet.client().chat.completions.create(
        model=model, messages=[{"role": "user", "content": "hi"}], max_tokens=8, temperature=0
    )
    return asked.choices[0].message.content or ""


@pytest.mark.full
def test_a_fallback_serves_all_the_same(fallen: Fleet) -> None:
    """One host has no engine and another's containers do not get ready: both run bare by the same command, and say so.

    Nobody who looks finds a difference, apply tries again, and once what was in the way is gone it runs in containers.
    """
    new = fallen.lab.hosts["new"]
    break_engine(new)
    done = fallen.rbee_deploy("apply")
    assert done.code == 0, done.errors
    assert "it runs bare instead of in containers: it has no Podman 4.6 or newer" in done.errors
    assert "it runs bare instead of in containers: rbee-hive.service did not become ready" in done.errors
    assert answer(fallen, "echo")
    bare = answer(fallen, "smol")
    assert new.run("podman ps --quiet", check=False).stdout == ""
    checked = fallen.rbee_deploy("check")
    assert (checked.code, checked.errors.count("it runs bare instead of in containers")) == (0, 2), checked.errors
    assert fallen.rbee_deploy("status").output.count("runs bare instead of in containers") == 2
    again = fallen.rbee_deploy("apply")
    assert again.code == 0, again.errors
    assert answer(fallen, "smol") == bare
    new.run("rm /etc/containers/containers.conf.d/broken.conf")
    fallen.deploy()
    assert answer(fallen, "smol") == bare
    assert "rbee-hive" in new.run("podman ps --format '{{.Names}}'").stdout
    assert fallen.rbee_deploy("check").code == 0
