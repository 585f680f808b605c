"""Models that go into images: what is asked for, what is refused, and what a container of it serves."""

import hashlib
import os
from pathlib import Path

import pytest

from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import baking
from rbee_deploy.images.baking import Baked
from rbee_runtime import health_check
from rbee_runtime.protocol import WorkerLaunch, decode


def test_a_model_is_known_by_its_content(smol_model: Path) -> None:
    """The name is that of requests, the hash that of the file, and the tag has plain words."""
    baked = baking.asked(f"Org/SmolLM2:Q4_1={smol_model}")
    assert (baked.name, baked.file, baked.slug) == ("Org/SmolLM2:Q4_1", smol_model, "org-smollm2-q4-1")
    assert baked.sha256 == hashlib.sha256(smol_model.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("smol", r"--bake 'smol' is not of the form NAME=FILE\.gguf"),
        ("smol=", r"is not of the form NAME=FILE"),
        ("=FILE", r"model name '' is not allowed"),
        ("../x=FILE", r"model name '\.\./x' is not allowed"),
        ("smol=/nowhere/smol.gguf", r"--bake smol: /nowhere/smol\.gguf cannot be served: .*No such file"),
        ("smol=FILE", r"--bake smol: .*text\.gguf cannot be served: "),
    ],
)
def test_what_cannot_be_baked_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    """A wrong word, a name that is none, no file, or a file that is no model."""
    file = tmp_path / "text.gguf"
    file.write_text("no model at all")
    with pytest.raises(ArtefactError, match=said):
        baking.asked(text.replace("FILE", str(file)))


def test_two_models_have_two_tags() -> None:
    """Names that are the same in a tag are refused, as is one name twice."""
    one, other, same = (Baked(name, Path("/x"), "") for name in ("org/smol", "smol", "Org-Smol"))
    baking.check_apart([one, other])
    with pytest.raises(ArtefactError, match="'org/smol' and 'Org-Smol', which are the same in a tag: rename one"):
        baking.check_apart([one, other, same])


@pytest.mark.parametrize("links", [True, False])
def test_what_is_written_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """The file is there by its hash without a copy where that can be, and the launch file names it and no secret."""
    file, folder = tmp_path / "smol.gguf", tmp_path / "context"
    file.write_bytes(b"GGUF")
    folder.mkdir()
    if not links:
        monkeypatch.setattr(os, "link", _refuse)
    baking.write(folder, Baked("smol", file, "ab" * 32), "llama-cpp-1-cpu-00000000")
    inside = folder / "models" / f"sha256-{'ab' * 32}.gguf"
    assert inside.read_bytes() == b"GGUF"
    assert inside.samefile(file) is links
    launch = decode((folder / "launch.json").read_bytes(), WorkerLaunch)
    assert launch.model_path == f"/opt/rbee/models/{inside.name}"
    assert launch.engine_dir == "/opt/rbee/engines/llama-cpp-1-cpu-00000000"
    assert (launch.worker.model, launch.token) == ("smol", "$RBEE_WORKER_TOKEN")


def _refuse(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_health_is_asked_where_it_listens() -> None:
    """The check of the image reads the same launch file, and asks the wildcard address on loopback."""
    launch = baking.launch(Baked("smol", Path("/x"), ""), "engine")
    door = health_check.door_of("worker", {"host": launch.host, "port": launch.port, "tls_dir": launch.tls_dir})
    assert (door.host, door.port, door.tls) == ("127.0.0.1", 9000, False)
