"""What the API answers while a launcher is silent or a disk takes nothing: later, not never."""

import errno
from pathlib import Path

import pytest

from rbee_runtime import durable
from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers.process import ProcessLauncher
from rbee_runtime.hive.routes import ROUTES
from tests.unit.hive.conftest import Start, desired


async def test_a_log_that_cannot_be_asked_for_is_not_called_absent(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a worker without a log the answer is 404; while the launcher is silent it is 503 with a time."""
    _, queen = await start()
    absent = await queen.get("/api/v1/workers/w/logs")

    async def silent(*_: object) -> str:
        raise LauncherError("cannot read logs: docker does not answer")

    monkeypatch.setattr(ProcessLauncher, "logs", silent)
    unknown = await queen.get("/api/v1/workers/w/logs")
    assert (absent.status_code, absent.json()["error"]["code"]) == (404, "no_log")
    assert (unknown.status_code, unknown.headers["retry-after"]) == (503, "5")
    assert unknown.json()["error"]["message"] == "cannot read logs: docker does not answer"


@pytest.mark.parametrize("order", ["desired", "drain"])
async def test_an_order_that_cannot_be_kept_is_for_later(
    start: Start, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """With a full disk neither a document nor a drain is taken; the answer says why and when to ask again."""
    hive, queen = await start()

    def refuse(path: Path, data: bytes, mode: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_replace", refuse)
        if order == "desired":
            answer = await queen.put(desired(1))
        else:
            answer = await queen.client.post(f"http://127.0.0.1:{hive.config.port}/api/v1/drain", json={"drain": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "No space left on device" in answer.json()["error"]["message"]
    assert (hive.supervisor.document, hive.supervisor.draining) == (None, False)


def test_the_api_document_knows_these_refusals() -> None:
    """Every route that asks a launcher or writes state lists 503."""
    asked = {route.path for route in ROUTES if 503 in route.failures}
    assert asked >= {f"/api/v1/{name}" for name in ("desired", "drain", "logs", "workers/{worker}/logs")}
