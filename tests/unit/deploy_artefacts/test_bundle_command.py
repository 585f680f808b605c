"""`rbee-deploy bundle` and `--bundle`, run as a person does."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rbee_deploy.bundle.folder import Bundle
from rbee_deploy.bundle.manifest import MANIFEST, MANIFEST_HASH, Kind
from tests.unit.deploy_artefacts.bundles import bundle_of, flip, two_boxes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent.parent
INVENTORY = """
from rbee_deploy.inventory import fleet, host, model

queen, hives = fleet(
    "test",
    secrets_dir="{folder}/secrets",
    hosts=[host("box1", address="127.0.0.1", ssh_port={port}, queen=True)],
    models=[model("smol", source="file:{folder}/smol.gguf"), model("bee", source="hf:acme/bee:*.gguf")],
)
"""


@dataclass
class Door:
    """A port at which an SSH server could be, and how often somebody came."""

    listener: socket.socket
    visits: list[object] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def watch(self) -> None:
        while True:
            try:
                visitor, where = self.listener.accept()
            except OSError:
                return
            self.visits.append(where)
            visitor.close()


@pytest.fixture
def door() -> Iterator[Door]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        door = Door(listener)
        watching = threading.Thread(target=door.watch)
        watching.start()
        yield door
        listener.shutdown(socket.SHUT_RDWR)
        watching.join(timeout=10)


@pytest.fixture
def bundle(tmp_path: Path, door: Door) -> Bundle:
    (tmp_path / "fleet.py").write_text(INVENTORY.format(folder=tmp_path, port=door.port))
    return bundle_of(two_boxes(tmp_path), tmp_path / "bundle")


def rbee_deploy(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it where there is no cache, no index and no home worth the name."""
    program = Path(sys.executable).with_name("rbee-deploy")
    nowhere = {"XDG_CACHE_HOME": str(folder / "no-cache"), "PIP_NO_INDEX": "1", "HOME": str(folder)}
    command = [str(program), *words]
    return subprocess.run(
        command, env={**os.environ, **nowhere}, capture_output=True, text=True, check=False, cwd=folder, timeout=120
    )


def apply(folder: Path, command: str = "apply", *words: str) -> subprocess.CompletedProcess[str]:
    return rbee_deploy(folder, command, "-i", "fleet.py", "--bundle", "bundle", *words)


def test_a_sound_bundle_is_verified_and_then_hosts_are_asked(bundle: Bundle, tmp_path: Path, door: Door) -> None:
    """The run gets as far as the host, with nothing on this machine but the bundle."""
    (tmp_path / "smol.gguf").unlink()
    done = apply(tmp_path)
    assert f"bundle {bundle.sha256[:12]} of rbee" in done.stderr
    assert "box1" in done.stderr
    assert "Traceback" not in done.stderr
    assert door.visits
    assert not (tmp_path / "no-cache").exists()


@pytest.mark.parametrize(
    ("command", "what"),
    [("apply", Kind.RELEASE), ("apply", Kind.MODEL), ("apply", MANIFEST), ("plan", MANIFEST_HASH)],
)
def test_a_tampered_bundle_stops_before_any_host_is_asked(
    bundle: Bundle, tmp_path: Path, door: Door, command: str, what: str
) -> None:
    """One changed byte is one sentence that names the file, exit status 1, and nobody connects anywhere."""
    path = bundle.path(bundle.manifest.of_kind(Kind(what))[0]) if what in set(Kind) else bundle.folder / what
    flip(path, 20)
    done = apply(tmp_path, command)
    assert (done.returncode, done.stdout) == (1, "")
    (sentence,) = done.stderr.splitlines()
    assert str(bundle.folder / (MANIFEST if what == MANIFEST_HASH else path.relative_to(bundle.folder))) in sentence
    assert door.visits == []


def test_verify_prints_the_hash_or_every_problem(bundle: Bundle, tmp_path: Path) -> None:
    """It needs no inventory; standard output is for a script."""
    done = rbee_deploy(tmp_path, "bundle", "--verify", "bundle", "--bundle-sha256", bundle.sha256)
    assert (done.returncode, done.stdout) == (0, f"bundle {bundle.sha256}\n")
    found = json.loads(rbee_deploy(tmp_path, "bundle", "--verify", "bundle", "--json").stdout)["result"]
    assert (found["sha256"], found["files"]) == (bundle.sha256, len(bundle.manifest.entries))
    for entry in bundle.manifest.of_kind(Kind.ENGINE):
        flip(bundle.path(entry))
    done = rbee_deploy(tmp_path, "bundle", "--verify", "bundle")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == len(bundle.manifest.of_kind(Kind.ENGINE))
