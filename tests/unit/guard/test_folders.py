"""Folders that workers see, looked at on the disk."""

import os
from pathlib import Path

import pytest

from rbee_runtime.errors import GuardError
from rbee_runtime.guard import folders, podman_words
from rbee_runtime.guard.config import EngineKind
from rbee_runtime.guard.worker_container import WorkerContainer
from tests.unit.guard.bodies import create_body, model
from tests.unit.guard.places import Places

CONFIG = EngineKind.PODMAN


def wanted(places: Places) -> WorkerContainer:
    return podman_words.read_container(create_body(places, CONFIG), places.config(CONFIG))


def test_a_models_own_files_may_be_seen(places: Places) -> None:
    """A path in an allowed folder, also one that leads to a file in another of them, is fine."""
    model(places).unlink()
    (places.models / "blob").write_text("weights")
    (places.cache / "hub/model").symlink_to(places.models / "blob")
    folders.check(wanted(places), places.config(CONFIG))


@pytest.mark.parametrize("target", ["/etc/hostname", "../../hive", "model"])
def test_a_path_that_leads_elsewhere_is_refused(places: Places, target: str) -> None:
    """A link out of the allowed folders is named with where it leads; one in a circle leads nowhere."""
    asked = wanted(places)
    model(places).unlink()
    (places.cache / "hub/model").symlink_to(target)
    if target == "model":
        folders.check(asked, places.config(CONFIG))
        return
    with pytest.raises(GuardError, match=r"/cache/hub/model' leads to '.*', which may not be mounted"):
        folders.check(asked, places.config(CONFIG))


def test_a_folder_that_is_a_link_is_refused(places: Places) -> None:
    """The settings name the real place, which nobody can exchange."""
    places.models.rename(places.root / "real")
    places.models.symlink_to(places.root / "real")
    with pytest.raises(GuardError, match="/models is a link or no folder"):
        folders.check(wanted(places), places.config(CONFIG))


def test_a_folder_that_everybody_can_exchange_is_refused(places: Places) -> None:
    """A folder above that everybody may write to would let a hive put another one in its place."""
    places.root.chmod(0o777)
    with pytest.raises(GuardError, match=r"who could exchange .*change its owner"):
        folders.check(wanted(places), places.config(CONFIG))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_the_hive_can_exchange_is_refused(places: Places) -> None:
    """So is one that lies in a folder of the hive's own user."""
    for path in (places.handover, places.root):
        os.chown(path, 12345, 12345)
    with pytest.raises(GuardError, match=f"{places.root} can be written to by the hive"):
        folders.check(wanted(places), places.config(CONFIG))


def test_a_hive_without_handover_has_nothing_to_exchange(places: Places) -> None:
    """Where there is no hand-over folder yet, its owner is not known and nothing else changes."""
    places.handover.rmdir()
    folders.check(wanted(places), places.config(CONFIG))
    assert Path(places.root).exists()
