import hashlib
import os
from pathlib import Path

import pytest

from rbee_deploy import artefacts, model_files
from rbee_deploy.errors import ArtefactError
from rbee_deploy.inventory import model
from rbee_runtime.protocol import ModelFile


def gguf(folder: Path, content: bytes = b"GGUF one") -> Path:
    path = folder / "m.gguf"
    path.write_bytes(content)
    return path


def test_a_file_source_is_described_by_content(tmp_path: Path) -> None:
    """Name, size and hash are those of the file."""
    described = model_files.describe(f"file:{gguf(tmp_path)}", tmp_path / "cache")
    assert described == ModelFile(name="m.gguf", size=8, sha256=hashlib.sha256(b"GGUF one").hexdigest())


def test_an_unchanged_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look at gigabytes costs a stat."""
    path = gguf(tmp_path)
    first = model_files.describe(f"file:{path}", tmp_path / "cache")
    monkeypatch.setattr(model_files, "file_sha256", lambda _path: pytest.fail("hashed again"))
    assert model_files.describe(f"file:{path}", tmp_path / "cache") == first


@pytest.mark.parametrize("replace", [True, False], ids=["renamed over", "written in place"])
def test_a_changed_file_is_hashed_anew(tmp_path: Path, *, replace: bool) -> None:
    """Other content of the same size is noticed by inode or mtime."""
    path = gguf(tmp_path)
    before = model_files.describe(f"file:{path}", tmp_path / "cache")
    stat = path.stat()
    fresh = tmp_path / "fresh" if replace else path
    fresh.write_bytes(b"GGUF two")
    os.utime(fresh, ns=(stat.st_atime_ns, stat.st_mtime_ns + (0 if replace else 1)))
    fresh.replace(path)
    assert model_files.describe(f"file:{path}", tmp_path / "cache").sha256 != before.sha256


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("file:/nowhere/m.gguf", "the model file /nowhere/m.gguf is not there; correct the source in the inventory"),
        ("file:/", "the model file / is not there"),
        ("file:m.gguf", "needs an absolute path"),
        ("fake:slots=1", "only file: sources can be pre-seeded"),
        ("ftp:x", "not of a known form"),
    ],
)
def test_a_source_without_a_file_is_one_sentence(source: str, sentence: str, tmp_path: Path) -> None:
    """Each wrong source says what is wrong and what to edit."""
    with pytest.raises(ArtefactError) as raised:
        model_files.describe(source, tmp_path)
    assert sentence in str(raised.value)


@pytest.mark.engine
def test_the_lab_model_is_a_gguf_file(smol_model: Path) -> None:
    """The pinned package gives the model under its own name, and whole."""
    assert smol_model.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert smol_model.read_bytes()[:4] == b"GGUF"
    assert smol_model.parent.parent == artefacts.cache_root()


def test_a_footprint_is_the_estimate_of_one_worker() -> None:
    """A real model's header gives weights and cache for its context; what is no model gives nothing."""
    path = model_files.lab_model()
    small, large = (
        model_files.footprint(model("m", source=f"file:{path}", context=context), [(path.name, path)])
        for context in (512, 2048)
    )
    assert small is not None
    assert large is not None
    assert path.stat().st_size < small < large
    assert model_files.footprint(model("m", source=f"file:{path}"), [("x.gguf", Path(__file__))]) is None
