"""Running workers whose records were lost."""

from pathlib import Path

from rbee_runtime.hive.actions import Actions
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.records import Records, WorkerRecord
from rbee_runtime.hive.recovery import Recovery
from rbee_runtime.hive.scene import ModelState
from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec, encode
from tests.faults.rig import FLEET, Clock, ScriptedLauncher, settings

RUNS = {"w": UnitStatus("w", Phase.RUNNING, pid=7)}
SPEC = WorkerSpec(id="w", model="m", engine="fake", options={"cache": "q8_0"})


def recovery(folder: Path) -> tuple[Recovery, Records]:
    config, clock = settings(folder, (21000, 21003)), Clock()
    held = Records(config.state_dir)
    actions = Actions(config, Link(Role.HIVE, FLEET, token="t"), ScriptedLauncher(clock), held, clock=clock)
    (config.state_dir / "workers").mkdir(parents=True)
    (config.state_dir / "workers" / "w.json").write_bytes(
        encode(WorkerLaunch(worker=SPEC, host="127.0.0.1", port=21001))
    )
    return Recovery(held, actions, boot="b"), held


def needed(spec: WorkerSpec, model: ModelState | None) -> int:
    return model.size + len(spec.options) if model is not None else 0


def test_a_recovered_worker_counts_with_its_estimate_once_its_model_was_seen(tmp_path: Path) -> None:
    """First its identity, so that it is adopted; then what it may take, which no measurement shows on a processor."""
    found, held = recovery(tmp_path)
    found.adopt(RUNS)
    assert (held["w"].model, held["w"].spec, held["w"].need) == ("m", SPEC.digest(), 0)
    found.complete(RUNS, {}, needed)
    assert held["w"].need == 0
    found.complete(RUNS, {"m": ModelState(ready=True, size=500)}, needed)
    assert held["w"].need == 501


def test_what_is_on_record_stays_as_it_is(tmp_path: Path) -> None:
    """A worker with a record is neither adopted anew nor given another estimate."""
    found, held = recovery(tmp_path)
    record = WorkerRecord(id="w", model="m", spec="s", launched=5.0)
    held.put(record)
    found.adopt(RUNS)
    found.complete(RUNS, {"m": ModelState(ready=True, size=500)}, needed)
    assert held["w"] == record
