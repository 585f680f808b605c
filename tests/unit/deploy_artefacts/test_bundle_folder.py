"""A bundle is what it was made as, or nothing is taken from it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.bundle.folder import Bundle, problems, read, verified
from rbee_deploy.bundle.manifest import MANIFEST, MANIFEST_HASH, Kind
from rbee_deploy.errors import BundleError
from tests.unit.deploy_artefacts.bundles import bundle_of, flip, quiet, two_boxes


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return bundle_of(two_boxes(tmp_path), tmp_path / "bundle")


def said(folder: Path) -> list[str]:
    """Return the sentences with which a bundle is refused."""
    with pytest.raises(BundleError) as raised:
        verified(folder, say=quiet)
    return str(raised.value).splitlines()


def test_a_bundle_as_made_is_taken(bundle: Bundle) -> None:
    """Verified means read to the end: the same bundle, with the hash that was printed."""
    assert verified(bundle.folder, bundle.sha256, say=quiet) == bundle
    assert bundle.sha256 == hashlib.sha256((bundle.folder / MANIFEST).read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.IMAGE])
@pytest.mark.parametrize("offset", [0, -1])
def test_one_changed_byte_is_found(bundle: Bundle, kind: Kind, offset: int) -> None:
    """In a file of every kind, at its beginning and its end, in one sentence that names the file."""
    path = bundle.path(bundle.manifest.of_kind(kind)[0])
    flip(path, offset)
    assert said(bundle.folder) == [
        f"{path} is not what bundle.json says it is; copy the bundle again from where it was made"
    ]


@pytest.mark.parametrize("name", [MANIFEST, MANIFEST_HASH])
def test_a_changed_byte_of_the_manifest_is_found(bundle: Bundle, name: str) -> None:
    """Every byte counts, also where it means nothing."""
    size = (bundle.folder / name).stat().st_size
    for offset in range(min(size, 64)):
        flip(bundle.folder / name, offset)
        assert len(said(bundle.folder)) == 1
        flip(bundle.folder / name, offset)
    assert verified(bundle.folder, say=quiet)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def link(path: Path) -> None:
    moved = path.rename(path.parent.parent.parent / path.name)
    path.symlink_to(moved)


def link_folder(path: Path) -> None:
    moved = path.parent.rename(path.parent.parent.parent / "elsewhere")
    path.parent.symlink_to(moved)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (Path.unlink, "is missing"),
        (cut, "bytes, and bundle.json says"),
        (link, "is or lies behind a link"),
        (link_folder, "is or lies behind a link"),
        (folder_instead, "is no file"),
    ],
)
def test_a_file_that_is_not_as_made_is_named(bundle: Bundle, harm: Callable[[Path], None], words: str) -> None:
    """Each way to harm a file is told in its own words, and what is harmed is told for every file."""
    wrong = [bundle.path(entry) for entry in bundle.manifest.of_kind(Kind.ENGINE)]
    harm(wrong[0])
    sentences = problems(bundle)
    assert str(wrong[0]) in sentences[0]
    assert words in sentences[0]


def test_everything_that_is_wrong_is_said_at_once(bundle: Bundle) -> None:
    """One sentence per file, so that one more copy puts all of it right."""
    releases = [bundle.path(entry) for entry in bundle.manifest.of_kind(Kind.RELEASE)]
    flip(releases[0])
    releases[1].unlink()
    sentences = said(bundle.folder)
    assert [str(path) in sentence for path, sentence in zip(releases, sentences, strict=True)] == [True, True]


def test_what_is_not_of_the_bundle_is_said_and_not_used(bundle: Bundle) -> None:
    """A stray file is no tampering; it is named, for somebody may have meant it to count."""
    (bundle.folder / "releases" / "more.tar").write_text("x")
    lines: list[str] = []
    verified(bundle.folder, say=lines.append)
    assert lines[-1] == f"{bundle.folder}/releases/more.tar is not of the bundle and is not used"


def rewritten(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the manifest says, as somebody would who can also compute its hash."""
    manifest = json.loads((bundle.folder / MANIFEST).read_text())
    change(manifest)
    data = json.dumps(manifest).encode()
    (bundle.folder / MANIFEST).write_bytes(data)
    (bundle.folder / MANIFEST_HASH).write_text(f"{hashlib.sha256(data).hexdigest()}  {MANIFEST}\n")


def entry_with(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["entries"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (entry_with(path="../outside"), "names a file outside its folder releases/: '../outside'"),
        (entry_with(path="releases/../../outside"), "names a file outside its folder"),
        (entry_with(path="/etc/passwd"), "names a file outside its folder releases/: '/etc/passwd'"),
        (entry_with(path="releases//x"), "names a file outside its folder"),
        (entry_with(path="releases/"), "names a file outside its folder"),
        (entry_with(path="models/x"), "names a file outside its folder releases/"),
        (entry_with(path="releases/.hidden"), "names a file outside its folder"),
        (entry_with(path="releases/a\nb"), "names a file outside its folder"),
        (entry_with(sha256="AB" * 32), "has no hash and size for a file"),
        (entry_with(sha256=""), "has no hash and size for a file"),
        (entry_with(size=-1), "has no hash and size for a file"),
        (entry_with(kind="surprise"), "is no manifest of a bundle"),
        (entry_with(size="many"), "is no manifest of a bundle"),
        (lambda m: m["entries"][1].update(path=m["entries"][0]["path"], kind="release"), "says two things of a file"),
        (lambda m: m.pop("entries"), "is no manifest of a bundle"),
        (lambda m: m.update(schema=2), "is of schema 2 and this rbee-deploy reads 1: use the rbee-deploy that is in"),
        (lambda m: m.update(schema=2, entries="of another form"), "is of schema 2"),
    ],
)
def test_a_manifest_that_no_rbee_made_is_refused(
    bundle: Bundle, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    """Whoever can also compute hashes still cannot lead out of the bundle or confuse who reads it."""
    rewritten(bundle, change)
    (sentence,) = said(bundle.folder)
    assert words in sentence


def test_images_are_held_to_the_manifest_too(bundle: Bundle) -> None:
    """A container image in a bundle is verified as every other file is."""
    content = b"an OCI archive"
    image = {"kind": "image", "name": "registry.example/rbee:1", "path": "images/rbee.tar", "size": len(content)}
    image["sha256"] = hashlib.sha256(content).hexdigest()
    rewritten(bundle, lambda manifest: manifest["entries"].append(image))
    assert "images/rbee.tar is missing" in said(bundle.folder)[0]
    (bundle.folder / "images").mkdir()
    (bundle.folder / "images" / "rbee.tar").write_bytes(content)
    assert verified(bundle.folder, say=quiet).manifest.of_kind(Kind.IMAGE)[0].name == "registry.example/rbee:1"
    flip(bundle.folder / "images" / "rbee.tar")
    assert "images/rbee.tar is not what bundle.json says it is" in said(bundle.folder)[0]


def test_a_pin_holds_off_another_bundle(bundle: Bundle) -> None:
    """A bundle that somebody made anew verifies, but not under the hash that was printed for the first."""
    rewritten(bundle, lambda manifest: manifest.update(made="later"))
    assert verified(bundle.folder, say=quiet).sha256 != bundle.sha256
    with pytest.raises(BundleError, match=f"and not {bundle.sha256}: take the one that you mean, or correct the hash"):
        verified(bundle.folder, bundle.sha256, say=quiet)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (shutil.rmtree, "is no bundle: it has no bundle.json"),
        (lambda folder: (folder / MANIFEST_HASH).unlink(), "is no bundle: it has no bundle.json.sha256"),
        (lambda folder: folder_instead(folder / MANIFEST), "is no file of a bundle"),
        (lambda folder: os.truncate(folder / MANIFEST, (16 << 20) + 1), "is no file of a bundle"),
    ],
)
def test_a_folder_that_is_no_bundle_is_one_sentence(bundle: Bundle, harm: Callable[[Path], None], words: str) -> None:
    """It says which folder, and what it lacks."""
    harm(bundle.folder)
    (sentence,) = said(bundle.folder)
    assert sentence.startswith(str(bundle.folder))
    assert words in sentence


def test_a_bundle_may_be_moved(bundle: Bundle, tmp_path: Path) -> None:
    """Nothing in it says where it lies."""
    moved = shutil.copytree(bundle.folder, tmp_path / "stick" / "anywhere")
    assert verified(moved, bundle.sha256, say=quiet).sha256 == read(moved).sha256
    assert str(tmp_path) not in (moved / "operator" / "INSTALL").read_text()
