"""Files of Quadlet on a host: tried before anything changes, and never shadowed by a unit file of before."""

from pathlib import Path

import pytest

from rbee_deploy.activator import activation, quadlets, units
from rbee_deploy.activator.activation import Told
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports
from tests.unit.deploy.activator.conftest import FakeSystemd, program, staged

ME = Told(by="anna@desk", why="because", run="run-1")

GENERATOR = """
import os, pathlib, sys
for path in pathlib.Path(os.environ["QUADLET_UNIT_DIRS"]).iterdir():
    print(f"quadlet-generator[1]: Loading source unit file {path}", file=sys.stderr)
    if "KillMode" in path.read_text():
        sys.exit(f'quadlet-generator[1]: converting "{path.name}": invalid KillMode')
    if "Odd" not in path.read_text():
        print(f"---{path.stem}.service---")
"""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[Container]\nKillMode=none",
            "makes no unit of .*rbee-queen.container: converting .*invalid KillMode; upgrade",
        ),
        ("[Container]\nOdd=1", "makes no unit of .*rbee-queen.container: it says nothing; upgrade it"),
        ("[Container]", ""),
    ],
)
def test_quadlet_is_asked_before_anything_changes(
    text: str, sentence: str, systemd: FakeSystemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of which the host's Podman makes no unit is refused with its words, and nothing was placed."""
    program(tmp_path, "generator", GENERATOR)
    monkeypatch.setattr(quadlets, "GENERATORS", (str(tmp_path / "generator"),))
    (ports.ETC / "systemd").mkdir(parents=True)
    wanted = staged("r1", {"systemd/rbee-queen.container": text})
    if not sentence:
        activation.activate(wanted.id, ME)
        return
    with pytest.raises(ActivationError, match=sentence):
        activation.activate(wanted.id, ME)
    assert not (ports.ETC / "systemd/rbee-queen.container").exists()
    assert systemd.restarts == []


def test_a_podman_without_its_generator_is_a_sentence(systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it no file becomes a unit."""
    monkeypatch.setattr(quadlets, "GENERATORS", ("/nonexistent/generator",))
    (ports.ETC / "systemd").mkdir(parents=True)
    wanted = staged("r1", {"systemd/rbee-queen.container": ""})
    with pytest.raises(ActivationError, match="generator of units is not on this host; install Podman's package anew"):
        activation.activate(wanted.id, ME)


def test_a_unit_made_of_another_file_is_not_shadowed_by_the_old_one(
    root: Path, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a unit file to Quadlet's: the old one is gone before systemd reads them; and is back if that fails."""
    monkeypatch.setattr(quadlets, "check", lambda _generation: None)
    (ports.ETC / "systemd").mkdir(parents=True)
    old, new = (ports.ETC / "systemd" / f"rbee-queen.{kind}" for kind in ("service", "container"))
    before = staged("r1", {"systemd/rbee-queen.service": "old", "systemd/other.service": "kept until the end"})
    activation.activate(before.id, ME)
    seen: list[tuple[bool, bool, bool]] = []
    register = systemd.register

    def looking(enabled: object) -> None:
        seen.append((old.exists(), new.exists(), (ports.ETC / "systemd/other.service").exists()))
        register(enabled)  # type: ignore[arg-type]

    monkeypatch.setattr(units, "register", looking)
    systemd.bad = {"r2"}
    with pytest.raises(ActivationError):
        activation.activate(staged("r2", {"systemd/rbee-queen.container": "new"}).id, ME)
    assert seen == [(False, True, True), (True, False, True)]
    assert old.read_text() == "old"
    activation.activate(staged("r3", {"systemd/rbee-queen.container": "new"}).id, ME)
    assert (old.exists(), new.read_text()) == (False, "new")
