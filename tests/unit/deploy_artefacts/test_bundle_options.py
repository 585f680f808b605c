"""What is wrong with the words after `rbee-deploy` about bundles is said before anything is touched."""

import argparse
from pathlib import Path

import pytest

from rbee_deploy import sources
from rbee_deploy.bundle import commands
from rbee_deploy.bundle.folder import Bundle
from rbee_deploy.bundle.source import Bundled
from rbee_deploy.errors import BundleError, InventoryError
from rbee_deploy.inventory import model
from rbee_deploy.site import Site
from rbee_deploy.sources import Built
from tests.unit.deploy_artefacts.bundles import ARM, BOOKWORM, TRIXIE, bundle_of, two_boxes


@pytest.fixture(autouse=True)
def _choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave the choice of this process as it was."""
    monkeypatch.setattr(sources._Choice, "source", Built())
    monkeypatch.chdir(tmp_path)


def parsed(command: str, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    if command == "bundle":
        commands.add_arguments(parser)
        parser.set_defaults(run=commands.run)
    else:
        commands.add_options(parser)
        parser.set_defaults(run=None)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["apply", "--bundle", "nowhere"], "nowhere is no bundle: it has no bundle.json"),
        (["apply", "--bundle-sha256", "ab"], "--bundle-sha256 is of a bundle: give its folder by --bundle"),
        (["apply", "--bundle", "bundle", "--bundle-sha256", "ab"], "and not ab: take the one that you mean"),
        (["bundle"], "a bundle needs an inventory and a folder: rbee-deploy bundle -i INVENTORY -o DIR"),
        (["bundle", "-i", "fleet.py"], "a bundle needs an inventory and a folder"),
        (["bundle", "-o", "new"], "a bundle needs an inventory and a folder"),
        (["bundle", "-i", "fleet.py", "-o", "new", "--target", "slackware"], "'slackware' in the target"),
        (["bundle", "-i", "fleet.py", "-o", "new", "--operator", "slackware"], "'slackware' in the target"),
        (["bundle", "-i", "fleet.py", "-o", "mine"], "mine is there and is no whole bundle: move it away"),
        (["bundle", "--verify", "nowhere"], "nowhere is no bundle: it has no bundle.json"),
    ],
)
def test_wrong_words_are_one_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    """Nothing is chosen, and no folder comes to be."""
    site = two_boxes(tmp_path)
    bundle_of(site, tmp_path / "bundle")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_text("x")
    options = parsed(*words)
    options.site = site if getattr(options, "inventory", None) else None
    with pytest.raises(BundleError) as raised:
        commands.take(options) if words[0] == "apply" else commands.run(options)
    assert sentence in str(raised.value)
    assert not (tmp_path / "new").exists()
    assert isinstance(sources.chosen(), Built)


def test_a_run_with_a_bundle_takes_all_from_it(tmp_path: Path) -> None:
    """Also models whose file the operator does not have, which the inventory refuses otherwise."""
    bundle = bundle_of(two_boxes(tmp_path), tmp_path / "bundle")
    with pytest.raises(InventoryError):
        model("gone", source="file:/nowhere/gone.gguf")
    commands.take(parsed("apply", "--bundle", "bundle", "--bundle-sha256", bundle.sha256.upper()))
    assert sources.chosen() == Bundled(bundle)
    assert model("gone", source="file:/nowhere/gone.gguf").copied


@pytest.mark.parametrize("command", ["apply", "bundle"])
def test_a_run_without_one_builds_as_ever(command: str) -> None:
    """The choice is only made where somebody makes it."""
    commands.take(parsed(command))
    assert sources.chosen() == Built()


def test_an_interrupt_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of minutes that a person ends leaves no folder and no traceback."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "make", interrupted)
    options = parsed("bundle", "-i", "fleet.py", "-o", "new")
    options.site = two_boxes(tmp_path)
    with pytest.raises(BundleError, match=f"^interrupted: {tmp_path}/new is as it was; [^\\n]*$"):
        commands.run(options)


def test_only_who_holds_the_folder_looks_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a target named, which ones it is made for is open until no other run can change the bundle."""
    bundle = bundle_of(two_boxes(tmp_path), tmp_path / "bundle")
    bundle.folder.rename(tmp_path / ".bundle.old")  # where a killed run left it
    asked: list[object] = []

    def noted(_site: Site, targets: object, *_: object, **__: object) -> Bundle:
        asked.append(targets)
        return bundle

    monkeypatch.setattr(commands, "make", noted)
    options = parsed("bundle", "-i", "fleet.py", "-o", "bundle")
    options.site = two_boxes(tmp_path)
    assert commands.run(options) == bundle
    assert asked == [()]


def test_what_hosts_say_is_known_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their kinds are targets beside those that are named, and which processor is whose is not lost."""
    said: dict[str, object] = {}

    def noted(_site: Site, targets: object, *_: object, processors: object) -> Bundle:
        said.update(targets=targets, processors=processors)
        return bundle

    site = two_boxes(tmp_path)
    bundle = bundle_of(site, tmp_path / "bundle")
    monkeypatch.setattr(commands, "make", noted)
    monkeypatch.setattr(commands, "_asked", lambda _: {"box1": BOOKWORM, "box2": ARM})
    options = parsed("bundle", "-i", "fleet.py", "-o", "bundle", "--target", "python=3.13,arch=x86_64,glibc=2.41")
    options.site = site
    commands.run(options)
    assert said == {
        "targets": (TRIXIE, BOOKWORM, ARM),
        "processors": {"box1": "x86_64", "box2": "aarch64"},
    }
