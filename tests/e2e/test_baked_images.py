"""An image with a model inside, started by hand under each engine of containers, with nothing of rbee on the host."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee_deploy.images import baking, build, manifest
from rbee_deploy.images.build import Recipe
from rbee_deploy.images.manifest import Image
from tests.container_images import LIMITS, lab_images
from tests.e2e.fleets import wait_for
from tests.lab import Lab, LabHost

pytestmark = pytest.mark.lab

ENGINES = ("podman", "docker")
TOKEN = "a-token-of-some-length"
CONTEXT, IMAGES, ARCHIVE = "/srv/context", "/srv/images", "/srv/baked.tar"
SECONDS = 300.0
SECRETS = {
    "podman": "--secret token,type=env,target=RBEE_WORKER_TOKEN",
    "docker": "--volume /srv/token:/run/token:ro --env RBEE_WORKER_TOKEN_FILE=/run/token",
}
ASK = """\
import json, sys, urllib.request
body = {"model": "smol", "messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 8, "temperature": 0}
asked = urllib.request.Request(
    "http://127.0.0.1:9000/v1/chat/completions",
    json.dumps(body).encode(),
    {"content-type": "application/json", "x-rbee-token": sys.argv[1]},
)
print(json.load(urllib.request.urlopen(asked, timeout=60))["choices"][0]["message"]["content"])
"""


@pytest.fixture(scope="module")
def worker() -> Image:
    """Give the image of workers that the model goes into."""
    return next(image for image in manifest.read(lab_images()).images if image.name is baking.WORKER)


@pytest.fixture(scope="module")
def recipe(worker: Image) -> Recipe:
    """Give what it was built by."""
    return Recipe(version=worker.version, arch=worker.arch, options=LIMITS)


@pytest.fixture(scope="module")
def baked(smol_model: Path) -> baking.Baked:
    """Give the model."""
    return baking.asked(f"smol={smol_model}")


@pytest.fixture(scope="module")
def host(
    worker: Image, recipe: Recipe, baked: baking.Baked, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabHost]:
    """Give a host on which Podman has built the image by the product's command, and Docker has loaded it."""
    folder = tmp_path_factory.mktemp("context")
    folder.chmod(0o755)
    baking.write(folder, baked, worker.engine)
    binds = [(folder, CONTEXT, True), (lab_images(), IMAGES, True)]
    with Lab.create("baked") as lab:
        made = lab.add_host("box", image="containers", binds=binds)
        for command in (
            f"podman load --quiet --input {IMAGES}/{worker.archive}",
            shlex.join(build.bake_command(baked, recipe, CONTEXT)),
            shlex.join(build.save_command(recipe.tag(baking.WORKER, baked.slug), ARCHIVE)),
            f"docker load --quiet --input {ARCHIVE}",
            f"printf %s {TOKEN} >/srv/token && podman secret create token /srv/token",
        ):
            made.run(command, timeout=SECONDS)
        yield made


def start(engine: str, tag: str, *words: str) -> str:
    """Return the command that runs the image without rights, and without a place to write but one in memory."""
    fixed = ("--read-only --tmpfs /tmp --cap-drop all", *LIMITS, "--publish 127.0.0.1:9000:9000")
    return " ".join((engine, "run --name baked", *fixed, *words, tag))


@pytest.mark.parametrize("engine", ENGINES)
def test_it_serves_its_model_by_itself(host: LabHost, recipe: Recipe, baked: baking.Baked, engine: str) -> None:
    """One command, a token that is in no image, and an answer to whoever has it; its health is known."""
    tag = recipe.tag(baking.WORKER, baked.slug)
    host.run(start(engine, tag, "--detach", SECRETS[engine]), timeout=SECONDS)
    try:
        ready = f"{engine} logs baked 2>&1 | grep -q ready"
        wait_for("its model", lambda: host.run(ready, check=False).returncode == 0, seconds=SECONDS)
        assert host.run(f"python3 -c {shlex.quote(ASK)} {TOKEN}", timeout=SECONDS).stdout.strip()
        refused = host.run(f"python3 -c {shlex.quote(ASK)} another-token-of-some-length", check=False)
        assert "403" in refused.stderr
        (found,) = json.loads(host.run(f"{engine} image inspect {tag}").stdout)
        # Docker has it in the configuration, Podman beside.
        check = (found["Config"] | found)["Healthcheck"]["Test"]
        assert check[0] == "CMD"
        assert host.run(shlex.join([engine, "exec", "baked", *check[1:]])).returncode == 0
        labels = found["Config"]["Labels"]
        assert (labels["rbee.model"], labels["rbee.model.sha256"]) == ("smol", baked.sha256)
        assert labels["rbee.variant"] == "cpu"
        file = host.run(f"{engine} exec baked stat -c '%a %U' /opt/rbee/models/{baked.inside}").stdout
        assert file.split() == ["644", "root"]
    finally:
        host.run(f"{engine} rm --force baked")


@pytest.mark.parametrize("engine", ENGINES)
def test_nobody_serves_it_to_everybody(host: LabHost, recipe: Recipe, baked: baking.Baked, engine: str) -> None:
    """Without a token it does not start, and says what to set."""
    refused = host.run(start(engine, recipe.tag(baking.WORKER, baked.slug), "--rm"), check=False, timeout=SECONDS)
    assert refused.returncode == 64
    assert "set RBEE_WORKER_TOKEN, or RBEE_WORKER_TOKEN_FILE" in refused.stderr
