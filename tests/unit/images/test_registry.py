"""Images by way of a registry: what is pushed, what a host pulls, and what it says when that fails."""

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from rbee_deploy import _fields, uninstall
from rbee_deploy.activator import places
from rbee_deploy.images import pulling
from rbee_deploy.inventory import host
from rbee_deploy.modes import ContainerEngine
from tests.unit.deploy.sites import IMAGE

DIGEST = f"sha256:{'d' * 64}"
PUSHED = replace(IMAGE, repository="registry.example:5000/ops/rbee-worker-llama-cpp", digest=DIGEST)
SECRET = "canary-of-a-password"
ENGINE = """
import json, os, pathlib, sys
here = pathlib.Path({here!r})
with (here / "asked").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if "pull" in sys.argv:
    place = next(word for word in sys.argv if "config.json" in word or word.startswith("/run/") or "/tmp." in word)
    path = pathlib.Path(place)
    (here / "auth").write_text((path if path.is_file() else path / "config.json").read_text())
    said = json.loads((here / "fails").read_text())
    for where, words in said.items():
        if sys.argv[-1].startswith(where):
            sys.exit(words)
if "inspect" in sys.argv and (here / "other").exists():
    sys.exit(1)
"""


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a Podman and a Docker that note what they are asked, and fail for registries named in `fails`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "fails").write_text("{}")
    for name in ("podman", "docker"):
        (folder / name).write_text(f"#!{sys.executable}\n{textwrap.dedent(ENGINE.format(here=str(folder)))}")
        (folder / name).chmod(0o755)
    # The engine's user is not there, so its Podman is this one.
    as_user = f'while [ "$1" != podman ]; do shift; done; shift; exec {folder}/podman "$@"'
    for name, text in (("setpriv", as_user), ("id", "echo 991"), ("chgrp", f'printf "%s " "$@" >>{folder}/given; :')):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(places, "IMAGES", tmp_path / "deploy/images")
    return folder


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a host would, with credentials on its standard input."""
    given = json.dumps({"auths": {"registry.example:5000": {"auth": SECRET}}})
    return subprocess.run(["sh", "-c", script], input=given, capture_output=True, text=True, check=False)


def pulls(engines: Path) -> list[str]:
    return [line.split()[-1] for line in (engines / "asked").read_text().splitlines() if " --quiet " in f" {line} "]


@pytest.mark.parametrize("engine", ContainerEngine)
def test_an_image_is_pulled_by_its_digest_and_named_for_people(engine: ContainerEngine, engines: Path) -> None:
    """Credentials reach the engine in a file that is gone afterwards, and no command line."""
    before = set(Path("/run").glob("tmp.*"))
    done = run(pulling.pull(PUSHED, engine))
    assert (done.returncode, done.stderr) == (0, "")
    assert pulls(engines) == [f"{PUSHED.repository}@{DIGEST}"]
    asked = (engines / "asked").read_text()
    assert f"tag {PUSHED.id} {PUSHED.tag}" in asked
    assert SECRET in (engines / "auth").read_text()
    assert SECRET not in asked
    assert set(Path("/run").glob("tmp.*")) == before


def test_whoever_pulls_owns_nothing_that_root_uses(engines: Path) -> None:
    """Its group reads the credentials; what the engine says is written where it can put nothing in the way."""
    script = pulling.pull(PUSHED, ContainerEngine.ROOTLESS)
    assert run(script).returncode == 0
    assert "chown" not in script
    user, folder, file = (engines / "given").read_text().split()
    assert (user, file) == ("rbee-engine", f"{folder}/config.json")
    assert set(re.findall(r"\$auth/([a-z.]+)", script)) == {"config.json"}


def test_an_image_is_known_before_it_is_there(engines: Path, tmp_path: Path) -> None:
    """A purge finds what a deploy brought that got no further; asked twice it is noted once."""
    (engines / "other").touch()
    for _ in range(2):
        assert run(pulling.pull(PUSHED, ContainerEngine.PODMAN)).returncode == 1
    noted = tmp_path / "deploy/images"
    assert noted.read_text() == f"{PUSHED.id}\n"
    assert noted.parent.stat().st_mode & 0o777 == 0o700
    assert str(places.IMAGES) in uninstall.script(host("box1", address="10.0.0.1"), models=False)


def test_mirrors_are_asked_first(engines: Path) -> None:
    """The first that has the image is enough; what the others said does not matter then."""
    (engines / "fails").write_text(json.dumps({"10.0.0.5:5000/": "connection refused"}))
    done = run(pulling.pull(PUSHED, ContainerEngine.PODMAN, ("10.0.0.5:5000", "mirror.example/cache")))
    assert (done.returncode, done.stderr) == (0, "")
    assert pulls(engines) == [
        f"10.0.0.5:5000/ops/rbee-worker-llama-cpp@{DIGEST}",
        f"mirror.example/cache/ops/rbee-worker-llama-cpp@{DIGEST}",
    ]


FAILURES = {
    "Error: initializing source docker://x: unable to retrieve auth token: invalid username/password: unauthorized": (
        "wants other credentials: give it registry_auth=… in fleet()"
    ),
    "Error response from daemon: pull access denied for x": "wants other credentials",
    "Error: reading manifest sha256:dd in x: manifest unknown": "has no such image: push it there again",
    "Error: choosing an image from manifest list: no image found in image index for architecture amd64": (
        "has it for other processors only: build and push it for this one too"
    ),
    "no matching manifest for linux/amd64 in the manifest list entries": "has it for other processors only",
    "Error: writing blob: storing blob to file: write /var/tmp/x: no space left on device": "sent more than the disk",
    "Error: pinging container registry x: Get https://x/v2/: dial tcp 10.0.0.1:5000: connect: connection refused": (
        "does not answer: look at the network, or name a mirror"
    ),
    "dial tcp: lookup registry.example: no such host": "does not answer",
    "tls: failed to verify certificate: x509: certificate signed by unknown authority": "is not trusted: put its",
    "http: server gave HTTP response to HTTPS client": "is not trusted",
    "something new": "failed: something new",
}


@pytest.mark.parametrize("said", FAILURES)
@pytest.mark.parametrize("engine", ContainerEngine)
def test_what_goes_wrong_is_one_sentence(said: str, engine: ContainerEngine, engines: Path) -> None:
    """Which registry, which image, and what to do; the run fails there, and nothing was changed."""
    (engines / "fails").write_text(json.dumps({"registry.example": said}))
    done = run(pulling.pull(PUSHED, engine))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"the registry of {PUSHED.repository}@{DIGEST}, asked for {PUSHED.tag}, {FAILURES[said]}")
    assert " tag " not in (engines / "asked").read_text()


def test_another_image_under_that_digest_is_refused(engines: Path) -> None:
    """What was pulled has to be the image that was built."""
    (engines / "other").touch()
    done = run(pulling.pull(PUSHED, ContainerEngine.PODMAN))
    assert done.returncode == 1
    assert f"what podman pulled is not the image {PUSHED.tag} ({PUSHED.id})" in done.stderr


@pytest.mark.parametrize("text", ["10.0.0.5:5000", "mirror.example", "mirror.example/cache/x", "a:1/b-c_d.e"])
def test_registries_are_written_as_engines_do(text: str) -> None:
    """With or without a port or a path."""
    assert _fields.registries([text]) == (text,)


@pytest.mark.parametrize("text", ["https://mirror.example", "mirror.example/", "m/Upper", "a b", "$(x)", "-x", "m@sha"])
def test_what_is_no_registry_is_refused(text: str) -> None:
    """A scheme, an image or an option is none."""
    with pytest.raises(ValueError, match="is no registry; write it as engines do"):
        _fields.registries([text])
