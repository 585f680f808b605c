"""The image of vLLM, built on a base with a made-up package of that name: ours goes beside what the base has."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rbee_deploy.images import build, context
from rbee_deploy.images.build import Recipe
from rbee_deploy.images.context import Parts
from rbee_deploy.images.kinds import Kind
from tests.container_images import BASE_TREE, BUILD_SECONDS, CONTEXT, LIMITS, NAME, parts
from tests.lab import Lab, LabHost, ensure_image
from tests.lab.recipes import BASE

pytestmark = pytest.mark.lab

WITH_VLLM = "localhost/base-with-vllm:lab"
PLACE = "/usr/local/lib/python3.13/dist-packages"
CONTAINERFILE = f"""\
FROM {NAME}
ENV PATH=/usr/local/gpu/bin:/usr/local/bin:/usr/bin:/bin
RUN mkdir -p {PLACE}/vllm {PLACE}/vllm-0.32.0.dist-info && echo "ANSWER = 42" >{PLACE}/vllm/__init__.py \\
    && printf "Metadata-Version: 2.1\\nName: vllm\\nVersion: 0.32.0\\n" >{PLACE}/vllm-0.32.0.dist-info/METADATA
"""
IMPORT = """\
from pathlib import Path
from rbee_runtime.worker.engines import artefact
found = artefact.activate(Path("/opt/rbee/engines/vllm-of-base"), "vllm")
import os, vllm
print(found.version, found.variant, vllm.ANSWER, os.environ["PATH"], os.getuid())
"""


def inside() -> Parts:
    """Return what goes into the image: the engine is that of its base."""
    return replace(parts(), engine=None)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabHost]:
    """Give a host that has the base, and what images are built from."""
    folder = tmp_path_factory.mktemp("context")
    folder.chmod(0o755)
    context.write(folder, inside())
    binds = [(folder, CONTEXT, True), (ensure_image(BASE.name), BASE_TREE, True)]
    with Lab.create("vllm") as lab:
        made = lab.add_host("builder", image="containers", binds=binds)
        made.run(f"tar -C {BASE_TREE} --one-file-system -c . | podman import --quiet - {NAME}", timeout=BUILD_SECONDS)
        yield made


def recipe(base: str) -> Recipe:
    """Return how the image is built on a base."""
    return Recipe(version="0.1.0", arch="x86_64", base=base, options=LIMITS)


def test_a_worker_finds_the_vllm_of_its_base(host: LabHost) -> None:
    """Without rights it runs our worker, has the packages of the base by its engine.json, and keeps the base's path."""
    host.run(
        f"podman build --quiet {' '.join(LIMITS)} --tag {WITH_VLLM} --file - .",
        input=CONTAINERFILE,
        timeout=BUILD_SECONDS,
    )
    made = recipe(WITH_VLLM)
    host.run(shlex.join(build.command(Kind.WORKER_VLLM, made, inside(), CONTEXT)), timeout=BUILD_SECONDS)
    run = f"podman run --rm --read-only --cap-drop all {' '.join(LIMITS)}"
    tag = made.tag(Kind.WORKER_VLLM)
    assert host.run(f"{run} {tag} --version").stdout.startswith("rbee ")
    said = host.run(f"{run} --entrypoint python {tag} -c {shlex.quote(IMPORT)}").stdout.split()
    path = "/opt/rbee/current/bin:/usr/local/gpu/bin:/usr/local/bin:/usr/bin:/bin"
    assert said == ["0.32.0", "base", "42", path, "65532"]
    manifest = host.run(f"{run} --entrypoint cat {tag} /opt/rbee/engines/vllm-of-base/engine.json").stdout
    program = json.loads(manifest)["program"]
    assert host.run(f"{run} --entrypoint {program} {tag} -c 'import vllm; print(vllm.ANSWER)'").stdout.split() == ["42"]


def test_a_base_without_it_ends_the_build(host: LabHost) -> None:
    """With the sentence that says what to name instead."""
    words = shlex.join(build.command(Kind.WORKER_VLLM, recipe(NAME), inside(), CONTEXT))
    refused = host.run(words, check=False, timeout=BUILD_SECONDS)
    assert refused.returncode != 0
    assert "the python3 of the base image finds no vllm" in refused.stdout + refused.stderr
