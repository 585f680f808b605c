"""What a folder of images says of itself, and what of it cannot be used."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest

from rbee_deploy.errors import ArtefactError, ProcessorError
from rbee_deploy.images import manifest
from rbee_deploy.images.kinds import Kind, served_by
from rbee_deploy.images.manifest import Image
from tests.unit.deploy.sites import IMAGE as WORKER_IMAGE

IMAGE = replace(WORKER_IMAGE, archive="worker.tar", sha256="b" * 64, size=7)


def folder(where: Path, *images: Image) -> Path:
    """Write the description of images, and a file for the one."""
    (where / manifest.NAME).write_text(manifest.text(images))
    (where / IMAGE.archive).write_bytes(b"archive")
    return where


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every field survives, and the image is found by its kind and processor, its file beside."""
    images = manifest.read(folder(tmp_path, IMAGE))
    assert images.of(Kind.WORKER_LLAMA_CPP, "x86_64") == IMAGE
    assert images.archive(IMAGE) == tmp_path / "worker.tar"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (None, r"is no folder of images: cannot read .*; make one with `rbee-deploy images --out"),
        ("", "is damaged"),
        ("[]", "is damaged"),
        ('{"images": [{}]}', "is damaged"),
        (json.dumps({"images": [{**dataclasses.asdict(IMAGE), "id": "latest"}]}), "'latest' is not the id of an image"),
        (json.dumps({"images": [{**dataclasses.asdict(IMAGE), "archive": "../x"}]}), "not the name of a file in it"),
        (json.dumps({"images": [{**dataclasses.asdict(IMAGE), "name": "toaster"}]}), "is damaged"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path: Path, damage: str | None, said: str) -> None:
    """It names the file and what to do."""
    if damage is not None:
        (tmp_path / manifest.NAME).write_text(damage)
    with pytest.raises(ArtefactError, match=said):
        manifest.read(tmp_path)


def test_what_is_missing_in_a_folder_is_named(tmp_path: Path) -> None:
    """Another processor, which is the host's; an image for none, or a file not copied along, or not all of it."""
    images = manifest.read(folder(tmp_path, IMAGE))
    with pytest.raises(ProcessorError, match=r"has no image worker-llama-cpp for aarch64 \(it has .* for x86_64\)"):
        images.of(Kind.WORKER_LLAMA_CPP, "aarch64")
    with pytest.raises(ArtefactError, match="has no image queen for x86_64") as caught:
        images.of(Kind.QUEEN, "x86_64")
    assert type(caught.value) is ArtefactError
    (tmp_path / IMAGE.archive).write_bytes(b"arch")
    with pytest.raises(ArtefactError, match=r"worker\.tar is not as long as .*images\.json says: copy it there whole"):
        images.archive(IMAGE)
    (tmp_path / IMAGE.archive).unlink()
    with pytest.raises(ArtefactError, match=r"worker\.tar is not there: build the images"):
        images.archive(IMAGE)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (
            {"repository": "registry.example/rbee", "digest": f"sha256:{'8' * 64}"},
            r"only at registry\.example/rbee@sha256:8{64}: pull it and save it as a file there .*, or build the images",
        ),
        ({}, r"has the image worker-llama-cpp for x86_64 and names no file of it: build the images here"),
    ],
)
def test_an_image_without_a_file_says_where_it_is(tmp_path: Path, where: dict[str, str], said: str) -> None:
    """Its folder is there, and to build it again is not all that can be done."""
    pulled = replace(IMAGE, archive="", sha256="", size=0, **where)  # type: ignore[arg-type]
    with pytest.raises(ArtefactError, match=said):
        manifest.read(folder(tmp_path, pulled)).archive(pulled)


def test_workers_are_started_from_workers_images_only() -> None:
    """An image of workers serves its engine and the built-in one, the others none."""
    served = {kind: served_by(kind) for kind in Kind}
    workers = {Kind.WORKER_LLAMA_CPP: ("fake", "llama-cpp"), Kind.WORKER_VLLM: ("fake", "vllm")}
    assert served == {Kind.QUEEN: (), Kind.HIVE: ()} | workers


CUDA = dataclasses.replace(IMAGE, variant="cuda12", id=f"sha256:{'c' * 64}")
VULKAN = dataclasses.replace(IMAGE, variant="vulkan", id=f"sha256:{'d' * 64}")
BAKED = dataclasses.replace(IMAGE, model="smol", model_sha256="e" * 64, id=f"sha256:{'e' * 64}")


@pytest.mark.parametrize(
    ("images", "chosen"),
    [((BAKED, CUDA, IMAGE), IMAGE), ((VULKAN, CUDA, IMAGE), IMAGE), ((BAKED, CUDA), CUDA)],
)
def test_a_host_gets_the_usual_variant(tmp_path: Path, images: tuple[Image, ...], chosen: Image) -> None:
    """Another one only where the folder has no more than that, and never one with a model inside."""
    assert manifest.read(folder(tmp_path, *images)).of(Kind.WORKER_LLAMA_CPP, "x86_64") == chosen


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ((CUDA, VULKAN), r"for cuda12 and vulkan, and none for cpu: have each of them in a folder of its own"),
        ((BAKED,), r"has no image worker-llama-cpp for x86_64"),
    ],
)
def test_no_variant_is_guessed(tmp_path: Path, images: tuple[Image, ...], said: str) -> None:
    """Two unusual ones, or one that has its model inside, are a sentence."""
    with pytest.raises(ArtefactError, match=said):
        manifest.read(folder(tmp_path, *images)).of(Kind.WORKER_LLAMA_CPP, "x86_64")


@pytest.mark.parametrize(("kind", "variant"), [(Kind.WORKER_LLAMA_CPP, "cpu"), (Kind.QUEEN, "")])
def test_a_folder_of_before_there_were_variants_is_read(tmp_path: Path, kind: Kind, variant: str) -> None:
    """Its worker is the one for processors, and nothing in it has a model inside."""
    entry = dataclasses.asdict(dataclasses.replace(IMAGE, name=kind))
    old = {name: value for name, value in entry.items() if name not in {"variant", "model", "model_sha256"}}
    (tmp_path / manifest.NAME).write_text(json.dumps({"images": [old]}))
    found = manifest.read(tmp_path).of(kind, "x86_64")
    assert (found.variant, found.model, found.model_sha256) == (variant, "", "")
