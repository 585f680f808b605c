"""The Containerfile: clean, locked down, and of everything that the product builds from it."""

import re
import subprocess

import pytest

from rbee_deploy.images import baking, context
from rbee_deploy.images.kinds import Kind
from rbee_deploy.wheels import toolbox

TEXT = context.containerfile().read_text()
STAGE = re.compile(r"^FROM (\S+) AS (\S+)$", re.MULTILINE)


def instructions(stage: str) -> list[str]:
    """Return the instructions of a stage and of those that it is made from, joined lines as one."""
    parts = STAGE.split(TEXT.replace("\\\n", " "))
    stages = {parts[at + 1]: (parts[at], parts[at + 2].strip().splitlines()) for at in range(1, len(parts), 3)}
    found: list[str] = []
    while stage in stages:
        above, lines = stages[stage]
        found = [*(line for line in lines if not line.startswith("#")), *found]
        stage = above
    return found


def last(stage: str, word: str) -> str:
    """Return what an instruction that is in force says."""
    return [line for line in instructions(stage) if line.split()[0] == word][-1].partition(" ")[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", [context.CONTAINERFILE, baking.CONTAINERFILE])
def test_it_is_clean(name: str) -> None:
    """Hadolint has nothing to say."""
    linter = toolbox("lint-containers.txt") / "bin" / "hadolint"
    said = subprocess.run([linter, context.containerfile(name)], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize("kind", Kind)
def test_every_image_is_a_target_that_runs_without_rights(kind: Kind) -> None:
    """Each has an entry point, a health check, labels, and a numeric user that is not root."""
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", last(kind.value, "USER"))
    program = kind.value.partition("-")[0]
    assert last(kind.value, "ENTRYPOINT") == f'["rbee-{program}"]'
    assert last(kind.value, "HEALTHCHECK").endswith(f'CMD ["rbee-health", "{program}"]')
    labels = " ".join(line for line in instructions(kind.value) if line.startswith("LABEL"))
    for name in ("title", "description", "version", "revision", "licenses", "base.name"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert f'title="rbee-{kind.value}"' in labels


def test_an_image_with_a_model_is_that_of_its_worker() -> None:
    """It adds the file, how it is served and labels, and neither a user nor a program nor a secret."""
    text = context.containerfile(baking.CONTAINERFILE).read_text()
    words = [line.split()[0] for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert sorted(set(words)) == ["ARG", "CMD", "COPY", "FROM", "HEALTHCHECK", "LABEL"]
    assert "FROM ${WORKER}" in text
    assert "/opt/rbee/models/" in text


@pytest.mark.parametrize("stage", ["installed", "engine"])
def test_a_line_that_mounts_files_says_which(stage: str) -> None:
    """The digest is declared in the stage itself, or it would be empty and count for nothing."""
    lines = instructions(stage)
    (run,) = [at for at, line in enumerate(lines) if line.startswith("RUN")]
    (name,) = re.findall(r"\$\{(\w+_DIGEST)\}", lines[run])
    assert f'ARG {name}=""' in lines[:run]


def test_builds_need_no_network_and_keep_no_tools() -> None:
    """Everything comes from the context, and only what was installed goes into an image."""
    runs = [line for line in TEXT.splitlines() if line.startswith("RUN")]
    assert runs
    assert all("--network=none" in line and "--mount=type=bind,target=/context" in line for line in runs)
    assert all(re.search(r' "\$\{(RELEASE|ENGINE)_DIGEST\}"$', line) for line in runs)
    for kind in Kind:
        copied = [line for line in instructions(kind.value) if line.startswith(("COPY", "ADD"))]
        assert all(line.startswith("COPY --from=") for line in copied)
        assert not [line for line in instructions(kind.value) if line.startswith("RUN")]
