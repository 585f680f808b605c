"""What every launcher promises, run with the real worker and its fake engine.

A subclass gives the fixtures `launcher` and `place`: `place(id, **options)` writes the launch file where the launcher
expects it (the fake engine's options) and returns its path. Ids are unique per test.
"""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.last_words import sentence
from rbee_runtime.hive.launchers import Launcher, Phase, UnitStatus
from tests.unit.hive.waiting import until

Place = Callable[..., Path]
DIGEST = "0123456789abcdef"


def fresh_id() -> str:
    return f"contract-{secrets.token_hex(3)}"


def listed(launcher: Launcher, worker: str) -> Callable[[], Awaitable[UnitStatus | None]]:
    async def look() -> UnitStatus | None:
        return (await launcher.list()).get(worker)

    return look


async def reach(launcher: Launcher, worker: str, phase: Phase) -> UnitStatus:
    async def look() -> UnitStatus | None:
        status = await listed(launcher, worker)()
        return status if status is not None and status.phase is phase else None

    status = await until(look)
    assert status is not None
    return status


def process_of(status: UnitStatus) -> int:
    """Return the worker's pid; a signal to 0 would go to whoever runs these tests."""
    assert status.pid
    return status.pid


async def end(launcher: Launcher, worker: str) -> None:
    async def gone() -> bool:
        status = await listed(launcher, worker)()
        return status is None or not status.alive

    if not await gone():
        await launcher.stop(worker)
    await until(gone)
    await launcher.forget(worker)


class LauncherContract:
    async def test_a_worker_is_listed_from_start_to_forget(self, launcher: Launcher, place: Place) -> None:
        """A started worker runs under its id, a stopped one is not alive, a forgotten one is not listed."""
        worker = fresh_id()
        await launcher.start(worker, place(worker), DIGEST)
        status = await reach(launcher, worker, Phase.RUNNING)
        os.kill(process_of(status), 0)
        await end(launcher, worker)
        assert worker not in await launcher.list()

    async def test_there_is_never_a_second_copy(self, launcher: Launcher, place: Place) -> None:
        """Starting a worker that runs leaves the one process there is."""
        worker = fresh_id()
        await launcher.start(worker, place(worker), DIGEST)
        before = await reach(launcher, worker, Phase.RUNNING)
        # A launcher may refuse or do nothing.
        with contextlib.suppress(LauncherError):
            await launcher.start(worker, place(worker), DIGEST)
        after = await reach(launcher, worker, Phase.RUNNING)
        await end(launcher, worker)
        assert after.pid == before.pid

    @pytest.mark.parametrize(("fault", "status"), [("bad_model", 65), ("oom", 71)])
    async def test_the_exit_status_is_kept(self, launcher: Launcher, place: Place, fault: str, status: int) -> None:
        """A worker that ended by itself stays listed with its exit status until it is forgotten."""
        worker = fresh_id()
        await launcher.start(worker, place(worker, fail=fault), DIGEST)
        ended = await reach(launcher, worker, Phase.ENDED)
        await launcher.forget(worker)
        assert (ended.exit_status, ended.exit_signal) == (status, None)
        assert worker not in await launcher.list()

    async def test_a_signal_is_told_from_an_exit_status(self, launcher: Launcher, place: Place) -> None:
        """A killed worker is listed with the signal's number."""
        worker = fresh_id()
        await launcher.start(worker, place(worker), DIGEST)
        status = await reach(launcher, worker, Phase.RUNNING)
        os.kill(process_of(status), 9)
        ended = await reach(launcher, worker, Phase.ENDED)
        await launcher.forget(worker)
        assert (ended.exit_status, ended.exit_signal) == (None, 9)

    async def test_a_worker_that_does_not_react_is_killed(self, launcher: Launcher, place: Place) -> None:
        """A kill ends at once a worker that takes no signal any more, and it is listed as killed."""
        worker = fresh_id()
        await launcher.start(worker, place(worker), DIGEST)
        status = await reach(launcher, worker, Phase.RUNNING)
        os.kill(process_of(status), signal.SIGSTOP)
        await launcher.kill(worker)
        ended = await reach(launcher, worker, Phase.ENDED)
        await launcher.forget(worker)
        assert (ended.exit_status, ended.exit_signal) == (None, 9)

    async def test_logs_are_what_the_worker_wrote(self, launcher: Launcher, place: Place) -> None:
        """The last lines of the log name the reason of a failed start, in a form that the hive finds."""
        worker = fresh_id()
        await launcher.start(worker, place(worker, fail="bad_model"), DIGEST)
        await reach(launcher, worker, Phase.ENDED)
        text = await launcher.logs(worker, 5)
        await launcher.forget(worker)
        assert sentence(text)
        assert len(text.splitlines()) <= 5

    async def test_a_log_is_followed_until_it_is_closed(self, launcher: Launcher, place: Place) -> None:
        """Somebody who follows a worker that loads gets the line that it writes once it is ready."""
        worker = fresh_id()
        await launcher.start(worker, place(worker, load_s="1"), DIGEST)
        await reach(launcher, worker, Phase.RUNNING)
        async with contextlib.aclosing(launcher.follow(worker, 10)) as lines:
            async with asyncio.timeout(15):
                line = await anext(line async for line in lines if "event=ready" in line)
        await end(launcher, worker)
        assert "model=m" in line

    async def test_nothing_is_known_of_a_worker_that_never_was(self, launcher: Launcher) -> None:
        """An unknown worker is not listed, its stop, kill and forgetting do nothing, its log is one sentence."""
        worker = fresh_id()
        await launcher.stop(worker)
        await launcher.kill(worker)
        await launcher.forget(worker)
        with pytest.raises(LauncherError, match=worker):
            await launcher.logs(worker, 5)
        assert worker not in await launcher.list()
