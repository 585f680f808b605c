"""The workflows of releases and checks: sound as GitHub reads them, with no right and no code that is not asked for."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbee_deploy.engine_builds import BUILDS
from rbee_deploy.images.kinds import USUAL
from rbee_deploy.wheels import tool_environment, toolbox

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
USES = re.compile(r"^ *-? *uses: (\S+)(?: # (v\d+(?:\.\d+)+))?$", re.MULTILINE)
PINNED = re.compile(r"[\w.-]+(?:/[\w.-]+)+@[0-9a-f]{40}")
OWN = "$/.github/workflows/"
WRITES = {
    ("release", "publish"): {"packages"},
    ("release", "sign"): {"attestations", "id-token", "packages"},
    ("release", "package"): {"attestations", "id-token"},
    ("release", "assets"): {"contents"},
}
"""What jobs may change; all others read."""


def workflow(path: Path) -> dict[Any, Any]:
    """Return a workflow; its key `on` is True, as YAML has it."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


JOBS = [
    pytest.param(path.stem, name, job, id=f"{path.stem}-{name}")
    for path in FILES
    for name, job in workflow(path)["jobs"].items()
]
STEPS = [
    pytest.param(step, id=f"{path.stem}-{name}-{at}")
    for path in FILES
    for name, job in workflow(path)["jobs"].items()
    for at, step in enumerate(job.get("steps", []))
]


@pytest.mark.parametrize(("file", "name", "job"), JOBS)
def test_what_fetches_code_may_change_nothing(file: str, name: str, job: dict[str, Any]) -> None:
    """An action may be pinned and still run what it downloads: signing and publishing are no place for one."""
    uses = [step.get("uses", "").partition("/")[0] for step in job.get("steps", [])]
    assert not ("anchore" in uses and (file, name) in WRITES)


def release() -> dict[str, Any]:
    """Return the jobs of a release."""
    jobs = workflow(ROOT / ".github" / "workflows" / "release.yml")["jobs"]
    assert isinstance(jobs, dict)
    return jobs


def before(job: str) -> Iterator[str]:
    """Yield all jobs that have to succeed before one starts."""
    needs = release()[job].get("needs", [])
    for name in [needs] if isinstance(needs, str) else needs:
        yield name
        yield from before(name)


@pytest.mark.slow
def test_the_linter_has_nothing_to_say() -> None:
    """Zizmor, at its most severe and without a network, finds no injection, no wide right and no loose action."""
    linter = toolbox("lint-workflows.txt") / "bin" / "zizmor"
    command = [str(linter), "--offline", "--no-progress", "--quiet", "--persona", "auditor", str(ROOT / ".github")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout


@pytest.mark.slow
def test_they_are_what_github_reads() -> None:
    """Each keeps the schema of workflows, which the checker carries along."""
    files = [str(path) for path in FILES]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *files]
    environment = tool_environment(toolbox("lint-workflows.txt"))
    said = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_action_is_pinned(path: Path) -> None:
    """By the hash of a commit, with the version beside it; workflows of this repository come from the same commit."""
    text = path.read_text(encoding="utf-8")
    found = USES.findall(text)
    assert len(found) == text.count("uses:") > 0
    loose = [name for name, version in found if not name.startswith(OWN) and not (PINNED.fullmatch(name) and version)]
    assert loose == []


def test_one_version_of_each_action() -> None:
    """The same action is the same commit everywhere."""
    names = {name for path in FILES for name, _version in USES.findall(path.read_text(encoding="utf-8"))}
    actions = [name.partition("@")[0] for name in names]
    assert len(actions) == len(set(actions))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_workflow_hands_rights_on(path: Path) -> None:
    """A workflow itself has none, and two of the same kind do not run at once."""
    found = workflow(path)
    assert found["permissions"] == {}
    assert found["concurrency"]["group"]


@pytest.mark.parametrize(("file", "name", "job"), JOBS)
def test_a_job_has_the_rights_that_it_needs(file: str, name: str, job: dict[str, Any]) -> None:
    """Each job lists its rights, and changes only what it is for."""
    rights = job["permissions"]
    assert {right for right, level in rights.items() if level == "write"} == WRITES.get((file, name), set())
    assert "uses" in job or job["timeout-minutes"] <= 60


@pytest.mark.parametrize("step", STEPS)
def test_a_step_runs_what_stands_there(step: dict[str, Any]) -> None:
    """No expression becomes part of a script: values come as variables, which a shell does not read as code."""
    assert "${{" not in step.get("run", "")
    assert "${{" not in step.get("uses", "")
    assert "github.event." not in str(step)


@pytest.mark.parametrize("step", [step for step in STEPS if "actions/checkout@" in str(step.values)])
def test_a_checkout_leaves_no_token(step: dict[str, Any]) -> None:
    """What runs after a checkout cannot push."""
    assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize(
    ("job", "needed"),
    [
        ("publish", {"settings", "checks", "wheel", "images"}),
        ("sign", {"checks", "publish"}),
        ("package", {"checks", "wheel", "sign"}),
        ("assets", {"publish", "sign", "package"}),
    ],
)
def test_nothing_is_published_before_it_was_tested(job: str, needed: set[str]) -> None:
    """Tests come before pushing, signatures before the package index, and assets last."""
    assert needed <= set(before(job))


def test_images_are_built_for_both_processors() -> None:
    """All of them where the engine has a build, and elsewhere all that need none, by the product's command."""
    rows = release()["images"]["strategy"]["matrix"]["include"]
    assert {row["arch"] for row in rows} == {"x86_64", "aarch64"}
    compiled = {build.arch for build in BUILDS.values()}
    for row in rows:
        wanted = [kind for kind in USUAL if row["arch"] in compiled or not kind.engine]
        words = " ".join(f"--only {kind.value}" for kind in wanted)
        assert row["only"] == ("" if wanted == list(USUAL) else words)
    scripts = [step.get("run", "") for step in release()["images"]["steps"]]
    assert any("rbee-deploy images --out images" in script for script in scripts)
    assert not any(re.search(r"(?:podman|docker|buildah) (?:build|buildx)", script) for script in scripts)


def test_no_registry_is_named() -> None:
    """Where images go is a setting of the repository, and the package index is the action's own."""
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    assert re.findall(r"https?://|[\w-]+\.(?:io|com|org)\b", text) == []
    assert {login["registry"] for _, login in LOGINS} == {"${{ vars.REGISTRY }}"}


LOGINS = [
    (name, step["with"])
    for name, job in release().items()
    for step in job.get("steps", [])
    if step.get("uses", "").startswith("docker/login-action@")
]


def test_what_publishes_or_signs_waits_for_the_same_person() -> None:
    """Every job that changes something or logs in is held by the one environment, and no other job has its secrets."""
    changing = {name for file, name in WRITES if file == "release"}
    gated = {name: job["environment"] for name, job in release().items() if "environment" in job}
    assert gated == dict.fromkeys({*changing, *(name for name, _ in LOGINS)}, "release")
    secret = {name for name, job in release().items() if "secrets." in str(job) or "github.token" in str(job)}
    assert secret <= gated.keys()


@pytest.mark.parametrize(("name", "login"), LOGINS, ids=[name for name, _ in LOGINS])
def test_a_token_of_github_is_for_its_own_registry(name: str, login: dict[str, str]) -> None:
    """Another registry has tokens of its own, and what only reads has one that may not write."""
    kind = "REGISTRY_TOKEN" if release()[name]["permissions"].get("packages") == "write" else "REGISTRY_READ_TOKEN"
    assert login["password"] == f"${{{{ vars.REGISTRY_IS_GITHUBS == 'yes' && github.token || secrets.{kind} }}}}"


BASE = f"python@sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("job", "settings", "status"),
    [
        ("settings", {"BASE_IMAGE": BASE}, 0),
        ("settings", {"BASE_IMAGE": BASE, "REGISTRY": "registry.test"}, 1),
        ("settings", {"BASE_IMAGE": "python:3.13-slim-trixie"}, 1),
        ("settings", {"BASE_IMAGE": BASE, "REGISTRY_IS_GITHUBS": "yes"}, 1),
        ("settings", {}, 1),
        ("publish", {"REGISTRY": "registry.test", "MAY_LOG_IN": "true"}, 0),
        ("publish", {"REGISTRY": "registry.test", "MAY_LOG_IN": "false"}, 1),
        ("publish", {"MAY_LOG_IN": "true"}, 1),
    ],
)
def test_settings_are_looked_at_first(job: str, settings: dict[str, str], status: int) -> None:
    """A base without a digest, or a registry that the environment does not say, ends a release with one sentence."""
    step = next(step for step in release()[job]["steps"] if step.get("name", "").startswith("Look "))
    environment = {**dict.fromkeys(step["env"], ""), **settings}
    command = ["bash", "-e", "-c", step["run"]]
    said = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert said.returncode == status
    assert [line.split("the ")[0] for line in said.stdout.splitlines()] == ["::error::"] * status
