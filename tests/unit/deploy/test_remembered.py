"""Hosts that an inventory lost: found again by what their deploys noted, and never mistaken for another."""

from tests import unpatched  # noqa: F401, I001 - before what loads pyinfra

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rbee_deploy import remembered, stages, uninstall
from rbee_deploy.errors import DeployError
from rbee_deploy.inventory import host, secret_command, secret_env, secret_file
from rbee_deploy.operations import noting
from rbee_deploy.site import Host, Site
from tests.unit.deploy.sites import site_of

QUEEN = host("box1", address="192.0.2.1", queen=True)


def fleet(folder: Path, *others: Host) -> Site:
    """Return a fleet with a queen and other hosts, whose secrets are in a folder."""
    (folder / "hosts").mkdir(exist_ok=True)
    return site_of(QUEEN, *others, secrets_dir=folder)


SOURCES = {
    "none": None,
    "env": secret_env("GPU1_SUDO"),
    "file": secret_file("/srv/sudo"),
    "command": secret_command(["pass", "show", "gpu1"]),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_lost_host_is_known_as_it_was_declared(kind: str, tmp_path: Path) -> None:
    """Address, login, models folder and where the sudo password comes from are kept, and no secret."""
    config = tmp_path / "ssh.conf"
    config.touch()
    fields: dict[str, Any] = {"ssh_user": "ops", "ssh_port": 2222, "ssh_config_file": config, "models_dir": "/data"}
    lost = host("gpu1", address="192.0.2.2", sudo_password=SOURCES[kind], **fields) if SOURCES[kind] else None
    lost = lost or host("gpu1", address="192.0.2.2", **fields)
    remembered.remember(fleet(tmp_path, lost), lost, activated=True)
    (found,) = remembered.orphans(fleet(tmp_path))
    assert replace(found, engines=lost.engines) == lost
    assert (tmp_path / "hosts" / "gpu1" / "connection.json").stat().st_mode & 0o777 == 0o600


def test_what_is_noted_already_is_not_written_again(tmp_path: Path) -> None:
    """A second deploy leaves the file alone; another address replaces it."""
    first = host("gpu1", address="192.0.2.2")
    remembered.remember(fleet(tmp_path, first), first, activated=True)
    path = tmp_path / "hosts" / "gpu1" / "connection.json"
    before = path.stat().st_ino
    remembered.remember(fleet(tmp_path, first), first, activated=True)
    assert path.stat().st_ino == before
    moved = host("gpu1", address="192.0.2.9")
    remembered.remember(fleet(tmp_path, moved), moved, activated=True)
    assert json.loads(path.read_text())["address"] == "192.0.2.9"


@pytest.mark.parametrize(
    ("moments", "activated"),
    [((), False), ((False,), False), ((True,), True), ((False, True), True), ((True, False), True)],
    ids=["never", "only set up", "activated", "set up and activated", "set up again"],
)
def test_a_host_that_was_only_set_up_is_lost_but_was_not_deployed(
    moments: tuple[bool, ...], activated: bool, tmp_path: Path
) -> None:
    """A purge has to find what there is of it; it runs nothing that asks for certificates."""
    lost = host("gpu1", address="192.0.2.2")
    for moment in moments:
        remembered.remember(fleet(tmp_path, lost), lost, activated=moment)
    assert remembered.has_any(fleet(tmp_path)) is activated
    assert len(remembered.orphans(fleet(tmp_path))) == bool(moments)


@pytest.mark.parametrize("text", ["{", '{"adress": "x"}', None], ids=["cut off", "of another kind", "of before"])
def test_a_note_that_says_nothing_of_it_is_of_a_deployed_host(text: str | None, tmp_path: Path) -> None:
    """So were all whose notes say no more than how they were reached; setting them up again makes them no less so."""
    lost = host("gpu1", address="192.0.2.2")
    remembered.remember(fleet(tmp_path, lost), lost, activated=False)
    path = tmp_path / "hosts" / "gpu1" / "connection.json"
    known = json.loads(path.read_text())
    del known["activated"]
    path.write_text(json.dumps(known) if text is None else text)
    assert remembered.has_any(fleet(tmp_path))
    remembered.remember(fleet(tmp_path, lost), lost, activated=False)
    assert json.loads(path.read_text())["activated"] is True


@pytest.mark.parametrize("runs", [True, False])
def test_a_host_is_noted_once_the_run_is_at_work_on_it(
    runs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan, and a run that is only prepared, note nothing."""
    lost = host("gpu1", address="192.0.2.2")
    item = SimpleNamespace(state=SimpleNamespace(is_executing=runs), noop=lambda _: None)
    monkeypatch.setattr(noting, "host", item)
    assert list(noting.noted._inner(site=fleet(tmp_path, lost), declared=lost, activated=False)) == []
    assert len(remembered.orphans(fleet(tmp_path))) == runs


@pytest.mark.parametrize("wanted", [stages.of, stages.preseed])
def test_a_host_is_noted_before_anything_is_put_on_it(wanted: Any, tmp_path: Path) -> None:
    """Nothing that fails later keeps what is there from a purge, nor what runs there from a rotation."""
    steps = [(stage.title, step) for stage in wanted(fleet(tmp_path)) for step, _ in stage.steps]
    assert steps.index(("setup", "note how it is reached")) == steps.index(("lease", "take it")) + 1
    deployed = [at for at, (title, _) in enumerate(steps) if title == "note"]
    activates = [at for at, (title, _) in enumerate(steps) if title.startswith("activate")]
    assert len(deployed) == bool(activates)
    assert max(deployed, default=-1) <= min(activates, default=-1)


def test_declared_and_renamed_hosts_are_not_lost(tmp_path: Path) -> None:
    """A host in the inventory is none, and neither is one whose address now has another name."""
    old = host("gpu1", address="192.0.2.2")
    remembered.remember(fleet(tmp_path, old), old, activated=True)
    assert remembered.orphans(fleet(tmp_path, old)) == ()
    assert remembered.orphans(fleet(tmp_path, host("big", address="192.0.2.2"))) == ()


def test_a_purged_host_is_forgotten(tmp_path: Path) -> None:
    """Its certificates and its note are deleted, and no other host's."""
    for declared in (QUEEN, host("gpu1", address="192.0.2.2")):
        remembered.remember(fleet(tmp_path), declared, activated=True)
    (tmp_path / "hosts" / "gpu1" / "hive.key").write_text("canary")
    remembered.forget(fleet(tmp_path), "gpu1")
    assert [path.name for path in (tmp_path / "hosts").iterdir()] == ["box1"]


class Vault:
    """A source of secrets that an operator wrote."""

    def read(self, *, whole: bool = False) -> Any:
        """Give nothing; it is never asked."""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "connection.json is damaged"),
        ('{"adress": "x", "sudo_password": []}', "connection.json is damaged"),
        (None, "where its sudo password came from is not on record"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(text: str | None, sentence: str, tmp_path: Path) -> None:
    """A damaged note, and one of a host whose password had a source of the operator's own, say what to do."""
    lost = host("gpu1", address="192.0.2.2", sudo_password=Vault())
    remembered.remember(fleet(tmp_path, lost), lost, activated=True)
    path = tmp_path / "hosts" / "gpu1" / "connection.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DeployError, match=sentence):
        remembered.orphans(fleet(tmp_path))


@pytest.mark.parametrize(
    ("name", "files", "goes_on"),
    [
        ("gpu1", {}, True),
        ("gpu1", {"hive.yaml": "fleet: test\nname: gpu1\n"}, True),
        ("123", {"hive.yaml": "fleet: test\nname: '123'\n"}, True),
        ("gpu1", {"hive.yaml": "fleet: test\nname: gpu11\n"}, False),
        ("gpu1", {"hive.yaml": "fleet: other\nname: gpu1\n"}, False),
        ("gpu1", {"hive.yaml": "fleet: test\nname: gpu1\n", "queen.yaml": "fleet: other\nname: gpu1\n"}, False),
    ],
)
def test_a_host_that_is_another_s_by_now_is_not_purged(
    name: str, files: dict[str, str], goes_on: bool, tmp_path: Path
) -> None:
    """The host itself says whose it is: a script for another name or fleet ends before it removes anything."""
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    script = uninstall.only_of("test", host(name)).replace("/etc/rbee", str(tmp_path))
    done = subprocess.run(["sh", "-c", f"{script}\necho on"], capture_output=True, text=True, check=False)
    assert done.stdout == ("on\n" if goes_on else "")
    assert goes_on or done.stderr.endswith("any more; nothing was removed\n")
