"""A hive with real workers: follow, report, restart, adopt, release."""

import asyncio
import hashlib
import os
import signal
from pathlib import Path

import msgspec
import pytest

from rbee_runtime.config import HiveConfig
from rbee_runtime.errors import ConfigError, StateError
from rbee_runtime.hive.launchers import identity
from rbee_runtime.protocol import WorkerSpec
from tests.unit.hive.conftest import Start, desired, fake
from tests.unit.hive.waiting import until
from tests.unit.models.gguf_builder import gguf

pytestmark = pytest.mark.slow


def pid_of(state: Path, worker: str) -> int:
    return int(msgspec.json.decode((state / "process" / f"{worker}.handle.json").read_bytes())["pid"])


async def test_a_worker_is_started_reported_and_released(start: Start) -> None:
    """A desired worker becomes ready at the reported port; once it is no longer wanted nothing of it is left."""
    hive, queen = await start()
    spec = fake("w-1", load_s="0.5")
    assert (await queen.put(desired(1, spec))).json() == {"fleet": "t", "epoch": 1, "revision": 1}
    report = await until(lambda: queen.in_state("w-1", "ready"))
    assert (report["spec"], report["address"], report["restarts"]) == (spec.digest(), "127.0.0.1", 0)
    info = await queen.client.get(f"http://127.0.0.1:{report['port']}/info")
    assert info.json()["spec"] == spec.digest()
    await queen.put(desired(2))
    await until(lambda: queen.absent("w-1"))
    state = hive.config.state_dir
    left = [path.name for path in state.rglob("*w-1*") if path.parent.name != "logs"]
    assert left == []


async def test_a_restarted_hive_adopts_its_workers(start: Start) -> None:
    """A second hive on the same state reports the same process ready, without a restart, before any queen speaks."""
    first, queen = await start()
    await queen.put(desired(1, fake("w-1")))
    before = await until(lambda: queen.in_state("w-1", "ready"))
    pid = pid_of(first.config.state_dir, "w-1")
    await first.stop(stop_workers=False)
    _, queen = await start()
    after = await until(lambda: queen.in_state("w-1", "ready"))
    assert (after["port"], after["restarts"], pid_of(first.config.state_dir, "w-1")) == (before["port"], 0, pid)


@pytest.mark.parametrize("lost", ["records", "desired.json"])
async def test_lost_state_does_not_cost_a_worker(start: Start, lost: str) -> None:
    """Without records or document the running worker is kept and, once wanted again, adopted as it is."""
    first, queen = await start()
    await queen.put(desired(1, fake("w-1")))
    await until(lambda: queen.in_state("w-1", "ready"))
    state = first.config.state_dir
    pid = pid_of(state, "w-1")
    await first.stop(stop_workers=False)
    for path in [state / lost, *(state / lost).glob("*")]:
        if path.is_file():
            path.write_text("{")
    _, queen = await start()
    await until(lambda: queen.in_state("w-1", "ready", "orphan"))
    await queen.put(desired(2, fake("w-1")))
    report = await until(lambda: queen.in_state("w-1", "ready"))
    assert (report["restarts"], pid_of(state, "w-1")) == (0, pid)


async def test_a_changed_spec_replaces_the_process(start: Start) -> None:
    """A worker that runs an older spec ends and comes back with the new one, on its port."""
    hive, queen = await start()
    await queen.put(desired(1, fake("w-1")))
    before = await until(lambda: queen.in_state("w-1", "ready"))
    pid = pid_of(hive.config.state_dir, "w-1")
    changed = fake("w-1", tokens="7")
    await queen.put(desired(2, changed))

    async def replaced() -> bool:
        report = await queen.in_state("w-1", "ready")
        return report.get("spec") == changed.digest()

    await until(replaced)
    report = await queen.worker("w-1")
    assert (report["port"], report["last_exit"]) == (before["port"], "asked")
    assert pid_of(hive.config.state_dir, "w-1") != pid
    assert identity.start_time(pid) is None


async def test_a_killed_worker_comes_back_after_its_delay(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is reported while the hive waits, and the count of restarts afterwards."""
    monkeypatch.setattr("rbee_runtime.hive.exits.delay", lambda _: 5.0)  # long enough to be seen on a busy machine
    hive, queen = await start()
    await queen.put(desired(1, fake("w-1")))
    await until(lambda: queen.in_state("w-1", "ready"))
    os.kill(pid_of(hive.config.state_dir, "w-1"), signal.SIGKILL)
    waiting = await until(lambda: queen.in_state("w-1", "backoff"))
    assert "killed: signal 9" in waiting["detail"]
    report = await until(lambda: queen.in_state("w-1", "ready"))
    assert (report["restarts"], report["last_exit"]) == (1, "killed")


async def test_a_worker_is_reported_with_what_its_engine_made_of_the_spec(start: Start) -> None:
    """Requests are routed by the slots that there are, not by those that were asked for."""
    _, queen = await start()
    await queen.put(desired(1, WorkerSpec(id="w-1", model="m", engine="fake", slots=16, options={"slots": 2})))
    assert (await until(lambda: queen.in_state("w-1", "ready")))["slots"] == 2


async def test_a_bad_model_is_not_tried_again_until_the_spec_changes(start: Start) -> None:
    """The worker stays down with its reason; a corrected spec starts at once."""
    _, queen = await start()
    await queen.put(desired(1, fake("w-1", fail="bad_model")))
    down = await until(lambda: queen.in_state("w-1", "exited"))
    await asyncio.sleep(1.5)
    still = await queen.worker("w-1")
    assert (down["last_exit"], still["state"], still["restarts"]) == ("bad_model", "exited", 0)
    await queen.put(desired(2, fake("w-1")))
    assert await until(lambda: queen.in_state("w-1", "ready"))


async def test_a_taken_port_is_replaced(start: Start) -> None:
    """When somebody listens on the worker's port at its next start, it gets another one and becomes ready."""
    hive, queen = await start()
    await queen.put(desired(1, fake("w-1")))
    before = await until(lambda: queen.in_state("w-1", "ready"))
    await hive.stop(stop_workers=True)
    taker = await asyncio.start_server(lambda *_: None, "127.0.0.1", before["port"])
    async with taker:
        _, queen = await start()
        await queen.put(desired(1, fake("w-1")))
        after = await until(lambda: queen.in_state("w-1", "ready"))
    assert after["port"] != before["port"]


async def test_a_hive_that_ended_with_its_workers_begins_empty(start: Start, settings: HiveConfig) -> None:
    """What an earlier run served is not started again unless the queen, who may want another model now, says so."""
    hive, queen = await start()
    await queen.put(desired(5, fake("w-1")))
    await until(lambda: queen.in_state("w-1", "ready"))
    await hive.stop(stop_workers=True)
    _, queen = await start()
    await until(lambda: queen.in_state("w-1", "exited"))
    stale = await queen.put(desired(4, fake("w-1")))
    await queen.put(desired(5, fake("w-2")))
    assert await until(lambda: queen.in_state("w-2", "ready"))
    assert (stale.status_code, (settings.state_dir / "desired.json").exists()) == (409, True)


async def test_a_model_that_is_not_here_is_told_and_awaited(start: Start, tmp_path: Path) -> None:
    """A worker waits in fetching with a sentence while its file is missing; nothing is started."""
    _, queen = await start()
    document = desired(1, fake("w-1"), sources={"m": f"file:{tmp_path}/later.gguf"})
    await queen.put(document)
    report = await until(lambda: queen.in_state("w-1", "fetching"))
    report = await until(lambda: _said(queen, "is not a file here"))
    assert "run the deploy to pre-seed it" in report["detail"]


async def test_the_log_of_a_worker_that_never_started_says_why(start: Start, tmp_path: Path) -> None:
    """Who looks for what it wrote is told what keeps it, and of one that nobody knows only that."""
    _, queen = await start()
    await queen.put(desired(1, fake("w-1"), sources={"m": f"file:{tmp_path}/later.gguf"}))
    await until(lambda: _said(queen, "is not a file here"))
    found, unknown = await queen.get("/api/v1/workers/w-1/logs"), await queen.get("/api/v1/workers/w-2/logs")
    said = "worker w-1 wrote nothing, because it has not been started yet: "
    followed = await queen.get("/api/v1/workers/w-1/logs?follow=1")
    assert (found.status_code, followed.status_code, unknown.status_code) == (404, 404, 404)
    assert found.json()["error"]["message"].startswith(said)
    assert followed.json() == found.json()
    assert "it was never started here" in unknown.json()["error"]["message"]


async def _said(queen: object, text: str) -> dict[str, str]:
    report: dict[str, str] = await queen.worker("w-1")  # type: ignore[attr-defined]
    return report if text in report.get("detail", "") else {}


async def test_a_file_model_is_taken_in_and_served(start: Start, tmp_path: Path) -> None:
    """The file of this host enters the store, is reported, and the worker then starts with its path."""
    source = tmp_path / "m.gguf"
    content = gguf()
    source.write_bytes(content)
    hive, queen = await start()
    await queen.put(desired(1, fake("w-1"), sources={"m": f"file:{source}"}))
    await until(lambda: queen.in_state("w-1", "ready"))
    (model,) = (await queen.get("/api/v1/models")).json()
    launch = msgspec.json.decode((hive.config.state_dir / "workers" / "w-1.json").read_bytes())
    assert (model["name"], launch["model_path"].endswith(hashlib.sha256(content).hexdigest())) == ("m", True)


async def test_a_hung_worker_leaves_rotation_and_returns(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process is not ready within the limit, and ready again after it goes on; it is not restarted."""
    monkeypatch.setattr("rbee_runtime.hive.health.SILENCE_SECONDS", 1.0)
    hive, queen = await start()
    await queen.put(desired(1, fake("w-1")))
    await until(lambda: queen.in_state("w-1", "ready"))
    pid = pid_of(hive.config.state_dir, "w-1")
    os.kill(pid, signal.SIGSTOP)
    try:
        report = await until(lambda: queen.in_state("w-1", "starting"))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "does not answer" in report["detail"]
    report = await until(lambda: queen.in_state("w-1", "ready"))
    assert (report["restarts"], pid_of(hive.config.state_dir, "w-1")) == (0, pid)


async def test_many_equal_documents_start_one_worker(start: Start) -> None:
    """Fifty concurrent requests get equal answers and one process."""
    hive, queen = await start()
    answers = await asyncio.gather(*(queen.put(desired(1, fake("w-1"))) for _ in range(50)))
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, answers[0].text)}
    await until(lambda: queen.in_state("w-1", "ready"))
    assert len(list((hive.config.state_dir / "process").glob("*.handle.json"))) == 1


async def test_a_second_hive_on_the_same_state_is_refused(start: Start) -> None:
    """Two hives never own the same workers."""
    await start()
    with pytest.raises(StateError, match="another hive runs on"):
        await start()


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"launcher": "systemd"}, "needs link_dir"), ({"address": "192.0.2.1"}, "cannot listen on|needs link_dir")],
)
async def test_without_certificates_a_hive_stays_on_loopback(start: Start, changes: dict[str, str], said: str) -> None:
    """Settings that would put a token-only hive on the network are refused in a sentence."""
    with pytest.raises(ConfigError, match=said):
        await start(**changes)


async def test_a_drained_host_empties_itself_and_stays_empty(start: Start) -> None:
    """The workers end, a restarted hive starts none, and the end of the drain brings them back."""
    first, queen = await start()
    await queen.put(desired(1, fake("w-1")))
    await until(lambda: queen.in_state("w-1", "ready"))
    await first.supervisor.drain(True)
    await until(lambda: queen.in_state("w-1", "exited"))
    await first.stop(stop_workers=False)
    second, queen = await start()
    report = await until(lambda: queen.in_state("w-1", "exited"))
    assert ("drained" in report["detail"], second.summary.startswith("drained, 0 workers ready")) == (True, True)
    await second.supervisor.drain(False)
    report = await until(lambda: queen.in_state("w-1", "ready"))
    assert report["last_exit"] == "asked"


async def test_out_of_memory_is_tried_once_more(start: Start) -> None:
    """The second end in a row for want of memory is the last until something changes, and the queen hears so."""
    _, queen = await start()
    await queen.put(desired(1, fake("w-1", fail="oom")))
    report = await until(lambda: queen.in_state("w-1", "exited"))
    assert (report["last_exit"], report["exit_status"], report["restarts"]) == ("out_of_memory", 71, 1)
    assert "tried twice" in report["detail"]
    await queen.put(desired(2, fake("w-1")))
    assert await until(lambda: queen.in_state("w-1", "ready"))


async def test_a_failed_worker_says_why_in_its_own_words(start: Start) -> None:
    """The sentence that it wrote last is in its report, in all that is known of it, and still there after a restart."""
    first, queen = await start()
    await queen.put(desired(1, fake("w-1", tokens="abc")))
    told = await until(lambda: _said(queen, "a fake engine's option is wrong"))
    assert (told["last_exit"], "(exit status 64)" in told["detail"]) == ("bad_config", True)
    await first.stop(stop_workers=False)
    _, queen = await start()
    again = await until(lambda: queen.in_state("w-1", "exited"))
    known = (await queen.get("/api/v1/workers/w-1")).json()
    assert "a fake engine's option is wrong" in again["detail"]
    assert "a fake engine's option is wrong" in known["said"]


async def test_the_first_look_knows_the_models_of_workers_without_a_record(start: Start, tmp_path: Path) -> None:
    """A model whose worker runs on is in use for the disk's very first look, whatever state was lost."""
    first, queen = await start()
    await queen.put(desired(1, fake("w-1")))
    await until(lambda: queen.in_state("w-1", "ready"))
    state = first.config.state_dir
    await first.stop(stop_workers=False)
    for path in [state / "desired.json", *(state / "records").glob("*")]:
        path.unlink()
    second, queen = await start()
    report = await queen.worker("w-1")
    assert second.supervisor.fetching._kept == {"m"}
    assert report["state"] in {"starting", "orphan"}
