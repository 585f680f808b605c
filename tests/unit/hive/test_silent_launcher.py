"""A hive that starts while its container engine or systemd does not answer."""

from collections.abc import Mapping

import pytest

from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers import UnitStatus
from rbee_runtime.hive.launchers.process import ProcessLauncher
from tests.unit.hive.conftest import Start, desired, fake
from tests.unit.hive.waiting import until

SILENT = "cannot list its workers: docker does not answer"


async def test_workers_models_and_engines_are_shown_until_the_launcher_answers(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What serves is told ready by its own answers, what cannot start says why, and nothing is done about either."""
    first, queen = await start()
    await queen.put(desired(1, fake("serves")))
    await until(lambda: queen.in_state("serves", "ready"))
    pid = (await queen.worker("serves"))["unit"]
    await first.stop(stop_workers=False)

    async def down(_: ProcessLauncher) -> Mapping[str, UnitStatus]:
        raise LauncherError(SILENT)

    monkeypatch.setattr("rbee_runtime.hive.attached.FIRST_LOOK_SECONDS", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(ProcessLauncher, "list", down)
        second, queen = await start()
        await queen.put(desired(2, fake("serves"), fake("new")))
        await until(lambda: queen.in_state("serves", "ready"))
        info = (await queen.get("/api/v1/info")).json()
        new, known = await queen.worker("new"), second.supervisor.fetching.models["m"].ready
        ready = await queen.get("/ready")
    assert (new["state"], new["port"]) == ("backoff", 0)
    assert SILENT in new["detail"]
    assert info["engines"] == ["fake"]
    assert known
    assert SILENT in info["detail"]
    assert (ready.status_code, SILENT in ready.json()["detail"]) == (503, True)
    await until(lambda: queen.in_state("new", "ready"))
    assert (await queen.worker("serves"))["unit"] == pid
