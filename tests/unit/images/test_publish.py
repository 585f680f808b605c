"""Publishing images: the commands, what is written down, and what is refused."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from rbee_deploy.errors import ArtefactError
from rbee_deploy.images import manifest, publish
from rbee_deploy.images.kinds import Kind
from rbee_deploy.images.manifest import Image
from rbee_deploy.images.publish import Published

DIGEST = f"sha256:{'d' * 64}"
PODMAN = """\
#!{python}
import hashlib, json, sys
words = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(words) + "\\n")
if "--digestfile" in words and {answers}:
    with open(words[words.index("--digestfile") + 1], "w") as file:
        file.write("sha256:" + hashlib.sha256(words[-1].encode()).hexdigest())
"""


def image(kind: Kind, arch: str, version: str = "0.1.0") -> Image:
    return Image(
        name=kind,
        version=version,
        arch=arch,
        id=f"sha256:{(kind.value[0] + arch).encode().hex():0<64}",
        tag=kind.tag(version),
        release=f"{version}-aa",
        archive=f"{kind.value}.tar",
        sha256="b" * 64,
        size=7,
    )


def folder(where: Path, *images: Image) -> Path:
    where.mkdir()
    (where / manifest.NAME).write_text(manifest.text(images))
    for each in images:
        (where / each.archive).write_bytes(b"archive")
    return where


def podman(where: Path, monkeypatch: pytest.MonkeyPatch, *, answers: bool = True) -> Path:
    """Put a Podman in front that writes down what it is asked, and answers with digests of the names it pushes to."""
    log, program = where / "log", where / "bin" / "podman"
    program.parent.mkdir()
    program.write_text(PODMAN.format(python=sys.executable, log=str(log), answers=answers))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return log


def test_an_image_is_pushed_by_its_id() -> None:
    """In the format that it was built in, to a name without capitals; its tag says the processor."""
    where = publish.repository("Registry.Test/Owner/", image(Kind.QUEEN, "x86_64"))
    assert where == "registry.test/owner/rbee-queen"
    assert publish.push_command(image(Kind.QUEEN, "aarch64"), where, Path("/d")) == [
        *("podman", "push", "--quiet", "--format", "v2s2", "--digestfile", "/d"),
        *(image(Kind.QUEEN, "aarch64").id.removeprefix("sha256:"), f"docker://{where}:0.1.0-aarch64"),
    ]


def test_a_list_is_made_of_digests() -> None:
    """What was pushed is listed by its digest, and no tag that somebody moved meanwhile."""
    parts = [Published(name="rbee-queen", arch=arch, repository="r/rbee-queen", digest=DIGEST) for arch in ("a", "b")]
    create, push = publish.list_commands(parts, "0.1.0", Path("/d"))
    name = create[4]
    assert name.startswith("localhost/rbee-queen-list:0.1.0-")
    # A second try finds what the first has left, if that was of the same parts.
    assert create == ["podman", "manifest", "create", "--amend", name, *[f"docker://r/rbee-queen@{DIGEST}"] * 2]
    assert publish.list_commands(parts[:1], "0.1.0", Path("/d"))[0][4] != name
    assert push[-2:] == [name, "docker://r/rbee-queen:0.1.0"]
    assert {"--all", "--rm", "v2s2"} <= set(push)


def test_two_folders_become_one_list_for_each_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All images and lists are printed with their digests; `images.json` has the images, by digest and not by file."""
    log = podman(tmp_path, monkeypatch)
    one = folder(tmp_path / "one", image(Kind.QUEEN, "x86_64"), image(Kind.WORKER_LLAMA_CPP, "x86_64"))
    other = folder(tmp_path / "other", image(Kind.QUEEN, "aarch64"))
    assert publish.main(["--to", "r/o", "--out", str(tmp_path / "out"), str(one), str(other)]) == 0
    printed = [Published(**entry) for entry in json.loads(capsys.readouterr().out)]
    assert [(each.name, each.arch) for each in printed] == [
        *(("rbee-queen", ""), ("rbee-worker-llama-cpp", "")),
        *(("rbee-queen", "x86_64"), ("rbee-worker-llama-cpp", "x86_64"), ("rbee-queen", "aarch64")),
    ]
    assert len({each.digest for each in printed}) == 5
    written = manifest.read(tmp_path / "out").of(Kind.QUEEN, "aarch64")
    assert (written.repository, written.digest) == ("r/o/rbee-queen", printed[-1].digest)
    assert (written.archive, written.id) == ("", image(Kind.QUEEN, "aarch64").id)
    created = [words for words in map(json.loads, log.read_text().splitlines()) if words[:2] == ["manifest", "create"]]
    assert created[0][4:] == [printed[2].reference, printed[4].reference]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (image(Kind.HIVE, "x86_64", "0.2.0"), r"hold images of 0\.1\.0 and 0\.2\.0, which is no release: build all"),
        (
            image(Kind.QUEEN, "x86_64"),
            "more than one folder has the image rbee-queen:0.1.0 for x86_64: name one folder for each",
        ),
    ],
)
def test_folders_that_do_not_fit_are_refused(
    second: Image, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is pushed."""
    log = podman(tmp_path, monkeypatch)
    folders = [folder(tmp_path / "one", image(Kind.QUEEN, "x86_64")), folder(tmp_path / "two", second)]
    with pytest.raises(ArtefactError, match=said):
        publish.publish(folders, "r/o", tmp_path / "out", say=print)
    assert not log.exists()


def test_a_push_without_a_digest_is_no_push(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written down that nobody could verify; the command says so and fails."""
    podman(tmp_path, monkeypatch, answers=False)
    one = folder(tmp_path / "one", image(Kind.QUEEN, "x86_64"))
    assert publish.main(["--to", "r/o", "--out", str(tmp_path / "out"), str(one)]) == 1
    assert "podman pushed queen for x86_64 and gave '' as its digest" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_was_built_stays_known() -> None:
    """Only where an image is changes, not what it is."""
    built = image(Kind.QUEEN, "x86_64")
    entry = publish.entry(built, Published(name="rbee-queen", arch="x86_64", repository="r", digest=DIGEST))
    assert (
        dataclasses.replace(entry, archive=built.archive, sha256=built.sha256, size=7, repository="", digest="")
        == built
    )
