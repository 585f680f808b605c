"""What a hive calls the code that its workers run."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbee_runtime import running
from rbee_runtime.config import HiveConfig
from rbee_runtime.hive import reports
from rbee_runtime.hive.decisions import Decision
from rbee_runtime.hive.health import Health
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.ledger import Ledger
from rbee_runtime.hive.records import WorkerRecord, of_spec
from rbee_runtime.hive.supervisor import View
from rbee_runtime.protocol import WorkerReport, WorkerSpec
from rbee_runtime.states import Observed

RELEASE, ARTEFACT = "0.1.0-ab12cd34", "llama-cpp-0.3.36-cpu-x86_64_v3-11223344"
IMAGES = {"images": {"fake": {"image": "sha256:1"}, "llama-cpp": {"image": "sha256:2"}}}


@pytest.mark.parametrize(
    ("prefix", "release"),
    [(f"opt/rbee/releases/{RELEASE}", RELEASE), ("home/me/rbee/.venv", ""), ("releases", "")],
    ids=["installed", "a clone", "a folder of that name"],
)
def test_only_an_installed_release_has_an_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, release: str
) -> None:
    """Code that no deployer installed has no name that says what it is, so nothing is replaced for its sake."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / prefix))
    assert running.release() == release


@pytest.mark.parametrize(
    ("installed", "settings", "fake", "llama"),
    [
        (True, {}, RELEASE, f"{RELEASE}+{ARTEFACT}"),
        (False, {}, "", ARTEFACT),
        (True, {"containers": IMAGES}, RELEASE, f"{RELEASE}+{ARTEFACT}"),
        (True, {"launcher": "podman", "containers": IMAGES}, f"{RELEASE}+sha256:1", f"{RELEASE}+sha256:2+{ARTEFACT}"),
    ],
    ids=["a release", "a clone", "images that are not used", "images"],
)
def test_a_build_is_all_that_a_new_start_would_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
    settings: dict[str, Any],
    fake: str,
    llama: str,
) -> None:
    """Release, worker image and engine artefact are in it, as far as a worker has them."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "releases" / RELEASE if installed else tmp_path))
    config = HiveConfig.model_validate(settings)
    found = reports.builds(config, {"fake": None, "llama-cpp": tmp_path / ARTEFACT})
    assert found == {"fake": fake, "llama-cpp": llama}


OLD = WorkerSpec(id="w", model="m", engine="fake", build="b1")
NEW, OPEN = (msgspec.structs.replace(OLD, build=build) for build in ("b2", ""))


def reported(wanted: WorkerSpec, *, said: str) -> WorkerReport:
    """Return the report of a worker that runs the old spec while another one may be wanted."""
    record = of_spec(WorkerRecord(id="w", port=9000), OLD)
    view = View(Decision("w", Observed.READY, record), UnitStatus("w", Phase.RUNNING, pid=7), wanted, 0.0)
    health = {"w": Health(since=0.0, ready=True, spec=said)}
    (found,) = reports.workers({"w": view}, health, ledger=Ledger(), config=HiveConfig(), now=1.0)
    return found


@pytest.mark.parametrize("said", [OLD.digest(), OPEN.digest(), ""], ids=["itself", "an older worker", "nothing yet"])
@pytest.mark.parametrize("wanted", [OLD, OPEN], ids=["its build", "no build"])
def test_a_worker_that_agrees_is_told_as_what_is_wanted(wanted: WorkerSpec, said: str) -> None:
    """A queen that knows of no builds compares digests, and finds the one that it asked for."""
    report = reported(wanted, said=said)
    assert (report.spec, report.wanted) == (wanted.digest(), wanted.digest())


def test_a_worker_of_another_build_is_told_as_what_it_is() -> None:
    """Beside what runs stands what the hive knows to be wanted, so that the queen can tell whether it heard of that."""
    report = reported(NEW, said=OLD.digest())
    assert (report.spec, report.wanted) == (OLD.digest(), NEW.digest())
