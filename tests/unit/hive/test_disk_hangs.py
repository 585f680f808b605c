"""A model disk that does not answer: the hive goes on, says so, and recovers by itself."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbee_runtime.config import HiveConfig
from rbee_runtime.hive.disk import Disk
from rbee_runtime.hive.engines import HostFacts
from rbee_runtime.hive.fetching import Fetching
from rbee_runtime.models.layout import Layout
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import Desired, ModelFile, ModelReport, ModelSpec
from tests.unit.hive.conftest import Queen, Start, desired, fake
from tests.unit.hive.waiting import until

SPEC = ModelSpec(name="m", source="https://models.example/m.gguf")
WANTED = Desired(fleet="f", epoch=1, revision=1, models=(SPEC,))


class Hang:
    """Every look at free space hangs while it is `on`; `stuck` is how many threads are in one."""

    def __init__(self) -> None:
        self._answers = threading.Event()
        self.stuck = 0
        self.off()

    def on(self) -> None:
        self._answers.clear()

    def off(self) -> None:
        self._answers.set()

    def wait(self) -> None:
        self.stuck += 1
        self._answers.wait(300)
        self.stuck -= 1


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hang]:
    found, real = Hang(), Layout.free

    def free(layout: Layout) -> int:
        found.wait()
        return real(layout)

    monkeypatch.setattr(Layout, "free", free)
    yield found
    found.off()


class Case:
    """A disk with a fake clock."""

    def __init__(self, root: Path) -> None:
        self.now = 1000.0
        self.fetching = Fetching(ModelStore(root / "models"), clock=lambda: self.now, changed=lambda: None)
        host = HostFacts("x86_64", "2.36")
        self.disk = Disk(
            HiveConfig(engines_dir=root / "engines"), self.fetching, clock=lambda: self.now, host=lambda: host
        )

    async def read(self, seconds: float) -> float:
        """Look after so many seconds more; returns how long that took in real ones."""
        self.now += seconds
        started = time.monotonic()
        await self.disk.read(WANTED, ())
        return time.monotonic() - started


@pytest.fixture
async def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr("rbee_runtime.hive.disk.PATIENCE", 1.0)
    (tmp_path / "models").mkdir()
    return Case(tmp_path)


async def test_a_hanging_disk_is_waited_for_once(case: Case, hang: Hang, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread is spent on it however long it hangs, later turns do not wait, and its age is told."""
    hang.on()
    await case.read(0)
    assert "models has not answered for 0 s" in case.disk.trouble
    # Whoever waited for the disk again would now wait for a minute.
    monkeypatch.setattr("rbee_runtime.hive.disk.PATIENCE", 60.0)
    for seconds, told in ((70, "70 s"), (20, "90 s"), (300, "390 s")):
        assert await case.read(seconds) < 30
        assert case.disk.trouble.endswith(f"models has not answered for {told}")
        assert case.fetching.silence == case.disk.trouble
    assert hang.stuck == 1
    hang.off()
    await until(lambda: hang.stuck == 0)
    await until(lambda: case.disk._running is not None and case.disk._running.done())
    await case.read(1)
    assert (case.disk.trouble, case.fetching.silence) == ("", "")
    await case.fetching.close()


async def test_stuck_threads_of_a_store_leave_those_of_the_process(case: Case, hang: Hang) -> None:
    """With every thread of the store stuck, looks at other things by threads are as quick as ever."""
    hang.on()
    layout = case.fetching.store.layout
    stuck = [layout.threads.work.submit(layout.free) for _ in range(40)]
    await case.read(0)
    await until(lambda: hang.stuck > 1)
    assert await asyncio.wait_for(asyncio.to_thread(int), 5) == 0
    assert hang.stuck < 15
    hang.off()
    await asyncio.gather(*map(asyncio.wrap_future, stuck))
    await case.disk.close()
    await case.fetching.close()


async def test_the_hive_answers_and_watches_while_its_store_hangs(
    start: Start, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are seen to end and come back, the API answers with the reason, and all is well again afterwards."""
    for module in ("disk", "fetching", "model_views"):
        monkeypatch.setattr(f"rbee_runtime.hive.{module}.PATIENCE", 0.3)
    monkeypatch.setattr("rbee_runtime.hive.disk.DISK_SECONDS", 0.2)
    hive, queen = await start()
    seed(hive.supervisor.fetching.store)
    await queen.put(desired(1, fake("w-1")))
    await until(lambda: queen.in_state("w-1", "ready"))
    hang.on()
    said = await until(lambda: hive.supervisor.fetching.silence)
    pid = (await queen.get("/api/v1/workers/w-1")).json()["pid"]
    assert [each["name"] for each in (await queen.get("/api/v1/models")).json()] == ["m/held"]
    refused = await queen.client.post(f"{queen._base}/api/v1/models/m/held/verify")
    assert (refused.status_code, refused.json()["error"]["message"][:20]) == (503, said[:20])
    assert "has not answered for" in (await queen.get("/api/v1/info")).json()["detail"]
    kill(pid)
    await until(lambda: restarted(queen, pid))
    assert hang.stuck == 1
    hang.off()
    await until(lambda: hive.supervisor.troubles == ())


def seed(store: ModelStore) -> None:
    """Put a model there as a deploy does."""
    file = ModelFile(name="m.gguf", sha256="a" * 64, size=1)
    store.layout.prepare()
    store.layout.blob(file.sha256).write_bytes(b"x")
    store.commit(ModelReport(name="m/held", size=1, files=(file,)))


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


async def restarted(queen: Queen, pid: int) -> bool:
    found = (await queen.get("/api/v1/workers/w-1")).json()
    return bool(found["report"]["state"] == "ready" and found["pid"] != pid)
