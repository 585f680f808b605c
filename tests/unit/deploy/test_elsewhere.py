"""Models and images that are not on this machine: who brings nothing to hosts needs none, behind an air gap as well."""

from tests import unpatched  # noqa: F401, I001 - before the command line, which loads pyinfra

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy import cli, sources
from rbee_deploy.artefacts import Target
from rbee_deploy.errors import ArtefactError
from rbee_deploy.inventory import host, model
from rbee_deploy.plan import Workshop
from rbee_deploy.sources import Nothing
from rbee_deploy.site import Site
from tests.unit.deploy.sites import site_of
from tests.unit.deploy_artefacts.bundles import bundle_of, two_boxes

WHOLE = """
from rbee_deploy.inventory import fleet, host, model
queen, hives = fleet(
    hosts=[host("q", address="192.0.2.1", queen=True{more})],
    models=[model("m", source={source!r})],
    secrets_dir={secrets!r},
    {fields}
)
"""
GONE = {
    "a model": {"source": "file:/nowhere/m.gguf", "more": "", "fields": ""},
    "images": {"source": "fake:tokens=3", "more": ", mode='container'", "fields": "images='/nowhere/images'"},
}

WORDS: dict[str, tuple[list[str], bool]] = {
    "apply": ([], True),
    "plan": ([], True),
    "check": ([], True),
    "preseed": ([], True),
    "bundle": (["-o", "new"], True),
    "rotate": (["certificates"], True),
    "rollback": ([], False),
    "status": ([], False),
    "audit": ([], False),
    "api-key": ([], False),
    "lock": ([], False),
    "maintain": (["q"], False),
    "export": (["compose", "-o", "new"], False),
    "backup": (["-o", "new"], False),
    "restore": (["old"], False),
    "adopt": (["q"], False),
    "purge": (["q"], False),
}
"""What is typed with each command that has an inventory, and whether it brings things of this machine to hosts."""


def words(folder: Path, command: str, gone: str) -> list[str]:
    """Return a command line about a fleet of which something is not here."""
    inventory = folder / "fleet.py"
    inventory.write_text(WHOLE.format(secrets=str(folder / "secrets"), **GONE[gone]))
    return [command, *WORDS[command][0], "-i", str(inventory)]


def reached(monkeypatch: pytest.MonkeyPatch, typed: list[str], *, refused: bool) -> list[Site]:
    """Run a command as far as its own code, and return the fleets that it was given."""
    seen: list[Site] = []
    read = cli._read

    def parsed(line: Any) -> argparse.Namespace:
        options = read(line)
        options.run = run
        return options

    def run(options: argparse.Namespace) -> int:
        seen.append(options.site)
        return 0

    monkeypatch.setattr(cli, "_read", parsed)
    with pytest.raises(SystemExit, match="/nowhere/") if refused else nullcontext():
        cli.main(typed)
    return seen


def test_every_command_with_an_inventory_is_told_apart() -> None:
    """Each is in the table above, so that a new one has to say which it is."""
    (commands,) = (each.choices for each in cli.parser()._actions if isinstance(each, argparse._SubParsersAction))
    with_inventory = {
        name for name, parser in commands.items() if any("-i" in each.option_strings for each in parser._actions)
    }
    assert with_inventory == set(WORDS)


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("command", WORDS)
def test_only_who_brings_things_needs_them_here(
    command: str, gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deploy without them is refused; a look, a purge or a rollback goes on, and leaves the process as it was."""
    before = sources.chosen()
    brings = WORDS[command][1]
    sites = reached(monkeypatch, words(tmp_path, command, gone), refused=brings)
    assert len(sites) == (0 if brings else 1)
    assert sources.chosen() is before


@pytest.mark.parametrize("what", ["certificates", "api-key"])
def test_a_rotation_takes_them_from_a_bundle(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it deploys with its secrets is that of the bundle, where nothing else is there to deploy."""
    bundle_of(two_boxes(tmp_path), tmp_path / "bundle")
    typed = [*words(tmp_path, "rotate", "a model"), "--bundle", str(tmp_path / "bundle")]
    typed[1] = what
    assert len(reached(monkeypatch, typed, refused=False)) == 1


def test_a_host_is_asked_about_without_models_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What every command asks of a host at first takes nothing that is to be brought there."""
    monkeypatch.setattr(sources._Choice, "source", Nothing())
    box = host("q", address="192.0.2.1", queen=True, mode="container", fallback="bare")
    site = site_of(
        box,
        models=(model("m", source="file:/nowhere/m.gguf"),),
        secrets_dir=str(tmp_path),
        images="/nowhere/images",
    )
    assert "/etc/rbee/queen.yaml" in Workshop(site, sources.chosen()).paths(box)


@pytest.mark.parametrize(
    "asked",
    [
        lambda source, target, _site: source.release("0.1.0", target),
        lambda source, target, _site: source.uv(target),
        lambda source, target, _site: source.engine("llama-cpp", "cpu", target),
        lambda source, _target, site: source.images(site),
    ],
    ids=["release", "uv", "engine", "images"],
)
def test_who_brings_nothing_builds_nothing(asked: Any) -> None:
    """A command that is not to bring anything fails in a sentence where it would build or fetch something."""
    site = site_of(host("q", address="192.0.2.1", queen=True))
    with pytest.raises(ArtefactError, match=r"^this command brings nothing to hosts, and wanted "):
        asked(Nothing(), Target(python="3.13", arch="x86_64", glibc="2.41"), site)
