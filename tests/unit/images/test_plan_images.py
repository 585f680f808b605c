"""Which images of a folder a host gets."""

from dataclasses import replace
from pathlib import Path

import pytest

from rbee_deploy.artefacts import Target
from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import manifest
from rbee_deploy.images.kinds import Kind
from rbee_deploy.inventory import host
from rbee_deploy.plan import Workshop
from tests.unit.deploy.sites import IMAGE, ROLE_IMAGES, site_of

CPU = replace(IMAGE, variant="cpu")
CUDA = replace(IMAGE, variant="cuda12", id=f"sha256:{'d' * 64}")
BAKED = replace(CPU, model="smol", id=f"sha256:{'e' * 64}")
VLLM = replace(CPU, name=Kind.WORKER_VLLM, variant="", id=f"sha256:{'f' * 64}")


@pytest.mark.parametrize("engines", [("llama-cpp",), ()])
@pytest.mark.parametrize(("there", "worker"), [((BAKED, CUDA, VLLM, CPU), CPU), ((BAKED, CUDA, VLLM), CUDA)])
def test_a_host_gets_what_it_runs(
    tmp_path: Path, engines: tuple[str, ...], there: tuple[manifest.Image, ...], worker: manifest.Image
) -> None:
    """Its roles, and of the workers the usual variant or else the only one; no model of others, no engine of others."""
    images = [replace(image, archive=f"{image.id[-4:]}.tar") for image in (*ROLE_IMAGES, *there)]
    for image in images:
        (tmp_path / image.archive).write_bytes(b"")
    (tmp_path / manifest.NAME).write_text(manifest.text(images))
    box = host("box1", address="192.0.2.1", queen=True, mode="container", engines=engines)
    site = site_of(box, images=str(tmp_path), version="0.1.0")
    found = Workshop(site)._images(site.hosts[0], Target())
    assert [image.id for image, _ in found] == [*(image.id for image in ROLE_IMAGES), worker.id]


OLD = [replace(image, version="0.0.9") for image in (*ROLE_IMAGES, CPU)]
ELSEWHERE = [replace(image, arch="aarch64") for image in (*ROLE_IMAGES, CPU)]


@pytest.mark.parametrize(
    ("there", "mode", "said"),
    [
        ((*ROLE_IMAGES, CPU), "container", None),
        (ELSEWHERE, "container", None),
        ((*OLD, *ELSEWHERE), "container", None),
        (OLD, "container", "are of rbee 0.0.9, and this fleet gets 0.1.0: build them again"),
        (OLD, "bare", None),
        ((*ROLE_IMAGES,), "container", "has no image worker-llama-cpp for x86_64"),
        ((), "container", r"has no image queen for any processor \(it has none\)"),
        ((*ROLE_IMAGES, replace(CPU, archive="gone.tar")), "container", r"gone\.tar is not there"),
    ],
)
def test_a_folder_that_serves_no_host_is_known_before_any_is_reached(
    tmp_path: Path, there: tuple[manifest.Image, ...], mode: str, said: str | None
) -> None:
    """Of another version, or without an image or a file; for which processors it has them is for each host to tell."""
    images = [image if image.archive else replace(image, archive="x.tar") for image in there]
    (tmp_path / "x.tar").write_bytes(b"")
    (tmp_path / manifest.NAME).write_text(manifest.text(images))
    box = host("box1", address="192.0.2.1", queen=True, mode=mode)
    site = site_of(box, images=str(tmp_path), version="0.1.0")
    if said is None:
        Workshop(site).check_images(site.hosts[0])
    else:
        with pytest.raises(ArtefactError, match=said):
            Workshop(site).check_images(site.hosts[0])
