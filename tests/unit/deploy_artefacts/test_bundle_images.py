"""Images of containers in a bundle: which are taken along, and that a deploy takes them from there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.bundle.folder import problems, verified
from rbee_deploy.bundle.manifest import Kind
from rbee_deploy.bundle.source import Bundled
from rbee_deploy.errors import ArtefactError, BundleError
from rbee_deploy.images import manifest
from rbee_deploy.images.manifest import Image
from rbee_deploy.inventory import host
from rbee_deploy.plan import Workshop
from rbee_deploy.site import Site
from tests.unit.deploy.sites import IMAGE, ROLE_IMAGES, site_of
from tests.unit.deploy_artefacts.bundles import ARM, TRIXIE, bundle_of, flip, images_of, quiet

ALL = (*ROLE_IMAGES, IMAGE)
FOREIGN = replace(IMAGE, arch="aarch64", id=f"sha256:{'9' * 64}")
FOREIGN_QUEEN = replace(ROLE_IMAGES[0], arch="aarch64", id=f"sha256:{'7' * 64}")
PULLED = replace(IMAGE, repository="registry.example/rbee", digest=f"sha256:{'8' * 64}")


def boxes(folder: Path, images: Path, **fields: Any) -> Site:
    """Return a fleet of a bare queen and a hive that runs in some way."""
    queen = host("box1", address="192.0.2.1", queen=True, hive=False)
    hive = host("box2", address="192.0.2.2", **fields)
    return site_of(queen, hive, secrets_dir=str(folder / "secrets"), images=str(images), version="0.1.0")


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ({"mode": "container"}, {"hive", "worker-llama-cpp"}),
        ({"worker_runtime": "container"}, {"worker-llama-cpp"}),
        ({}, set()),
    ],
)
def test_a_bundle_has_the_images_that_its_hosts_get(tmp_path: Path, fields: dict[str, Any], taken: set[str]) -> None:
    """Their archives and what says which they are, no other image, and no engine where workers are containers."""
    site = boxes(tmp_path, images_of(tmp_path / "images", *ALL, FOREIGN), **fields)
    bundle = bundle_of(site, tmp_path / "bundle", TRIXIE)
    assert problems(bundle) == ()
    files = [entry.path for entry in bundle.manifest.of_kind(Kind.IMAGE)]
    assert {path.removeprefix("images/").rpartition("-x86_64-")[0] for path in files if path.endswith("tar")} == taken
    assert ("images/images.json" in files) is bool(taken)
    assert bool(bundle.manifest.of_kind(Kind.ENGINE)) is not bool(taken)


def test_hosts_get_their_images_out_of_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that others pull: there is no registry, and no folder of images, on the other side."""
    images = images_of(tmp_path / "images", *ROLE_IMAGES, PULLED)
    site = boxes(tmp_path, images, mode="container")
    made = bundle_of(site, tmp_path / "bundle", TRIXIE)
    for path in images.iterdir():
        path.unlink()
    bundled = Bundled(verified(made.folder, say=quiet))
    monkeypatch.setattr(Workshop, "_state", lambda self, *_: self)  # no certificates for a look at images
    found = Workshop(site, bundled)._images(site.hosts[1], TRIXIE)
    assert {image.id for image, _ in found} == {ROLE_IMAGES[1].id, PULLED.id}
    assert {path.parent for _, path in found if path is not None} == {made.folder / "images"}
    assert all(path is not None and path.read_text() == f"the image {image.id}" for image, path in found)


def test_a_bundle_without_images_says_so(tmp_path: Path) -> None:
    """What came into the inventory later is one sentence with the command that adds it."""
    images = images_of(tmp_path / "images", *ALL)
    bundle = bundle_of(boxes(tmp_path, images), tmp_path / "bundle", TRIXIE)
    site = boxes(tmp_path, images, mode="container")
    with pytest.raises(BundleError, match=r"has no images for the containers of fleet .*: run rbee-deploy bundle -i"):
        Bundled(bundle).images(site)


@pytest.mark.parametrize("there", [(), (FOREIGN,), (replace(IMAGE, version="0.0.9"),)])
def test_images_that_are_not_there_stop_the_bundle(tmp_path: Path, there: tuple[Any, ...]) -> None:
    """No bundle is made that a host could not be deployed from."""
    site = boxes(tmp_path, images_of(tmp_path / "images", *there), worker_runtime="container")
    with pytest.raises(ArtefactError, match=r"build it there|build them again"):
        bundle_of(site, tmp_path / "bundle", TRIXIE)
    assert not (tmp_path / "bundle").exists()


def mixed(folder: Path, *images: Image, queen: str = "container", **fields: Any) -> Site:
    """Return a fleet of a queen and a hive whose workers run in containers."""
    boxes = (
        host("box1", address="192.0.2.1", queen=True, hive=False, mode=queen),
        host("box2", address="192.0.2.2", worker_runtime="container", **fields),
    )
    named = str(images_of(folder / "images", *images))
    return site_of(*boxes, secrets_dir=str(folder / "secrets"), images=named, version="0.1.0")


OTHERS = r"no image worker-llama-cpp for aarch64 \(it has .*\): build it there with `rbee-deploy images`"


@pytest.mark.parametrize(
    ("queen", "processors", "sentence"),
    [
        ("bare", {}, f"{OTHERS}, or give --from-hosts if no host on aarch64 runs containers$"),
        ("bare", {"box1": "x86_64", "box2": "aarch64"}, f"{OTHERS}$"),
        ("container", {"box1": "x86_64", "box2": "aarch64"}, f"{OTHERS}$"),
        ("container", {}, r"no image queen for aarch64 .*, or give --from-hosts if no host on aarch64"),
    ],
)
def test_a_processor_without_images_stops_the_bundle(
    tmp_path: Path, queen: str, processors: dict[str, str], sentence: str
) -> None:
    """Also when there are those for another processor: nobody could add them on the other side."""
    site = mixed(tmp_path, *ALL, queen=queen)
    with pytest.raises(ArtefactError, match=sentence):
        bundle_of(site, tmp_path / "bundle", TRIXIE, ARM, processors=processors)
    assert not (tmp_path / "bundle").exists()


def test_a_host_without_images_for_any_processor_stops_the_bundle(tmp_path: Path) -> None:
    """Though other hosts have theirs for every one."""
    unlike = replace(IMAGE, arch="riscv64")
    site = mixed(tmp_path, ROLE_IMAGES[0], FOREIGN_QUEEN, unlike)
    with pytest.raises(ArtefactError, match=r"has no image worker-llama-cpp for x86_64 \("):
        bundle_of(site, tmp_path / "bundle", TRIXIE, ARM)


KNOWN = {"box1": "aarch64", "box2": "x86_64"}
MAY_LACK = ["no images for box2 if it is on aarch64"]


@pytest.mark.parametrize(
    ("fields", "processors", "taken", "said"),
    [
        ({"queen": "bare"}, KNOWN, {IMAGE}, []),
        ({}, KNOWN, {IMAGE, FOREIGN_QUEEN}, []),
        ({}, {}, {IMAGE, FOREIGN_QUEEN, ROLE_IMAGES[0]}, MAY_LACK),
        ({"queen": "bare", "mode": "container", "fallback": "bare"}, {}, {IMAGE, ROLE_IMAGES[1]}, MAY_LACK),
    ],
    ids=["its hosts are bare", "each host has its own", "a host may have none", "hosts can run bare"],
)
def test_what_hosts_can_do_without_stops_nothing(
    tmp_path: Path, fields: dict[str, Any], processors: dict[str, str], taken: set[Image], said: list[str]
) -> None:
    """All that is there for hosts is in the bundle, and what one of them may miss is said."""
    heard: list[str] = []
    site = mixed(tmp_path, *ALL, FOREIGN_QUEEN, **fields)
    made = bundle_of(site, tmp_path / "bundle", TRIXIE, ARM, processors=processors, say=heard.append)
    assert {image.id for image in manifest.read(made.folder / "images").images} == {image.id for image in taken}
    assert [line.partition(": ")[0] for line in heard if "images" in line] == said


def test_an_image_that_only_a_registry_has_stops_the_bundle(tmp_path: Path) -> None:
    """As with a release's images.json: the sentence says where the image is."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / manifest.NAME).write_text(manifest.text([PULLED]))
    site = boxes(tmp_path, tmp_path / "images", worker_runtime="container")
    with pytest.raises(ArtefactError, match=rf"only at {PULLED.repository}@{PULLED.digest}: pull it and save it"):
        bundle_of(site, tmp_path / "bundle", TRIXIE)
    assert not (tmp_path / "bundle").exists()


def test_a_changed_image_is_found(tmp_path: Path) -> None:
    """Before any host is asked anything, as any other file of a bundle."""
    site = boxes(tmp_path, images_of(tmp_path / "images", *ALL), worker_runtime="container")
    bundle = bundle_of(site, tmp_path / "bundle", TRIXIE)
    archive = next(entry for entry in bundle.manifest.of_kind(Kind.IMAGE) if entry.path.endswith("tar"))
    flip(bundle.path(archive))
    with pytest.raises(BundleError, match=r"is not what bundle\.json says it is"):
        verified(bundle.folder, say=quiet)
