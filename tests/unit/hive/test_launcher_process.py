"""The process launcher: the contract, and what only it has to take care of."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers import Phase, identity, shim
from rbee_runtime.hive.launchers.process import ProcessLauncher
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec, encode
from tests.unit.damage import UNREADABLE
from tests.unit.hive.launcher_contract import DIGEST, LauncherContract, end, fresh_id, reach
from tests.unit.hive.waiting import until

pytestmark = pytest.mark.slow

ID = "w-1"
Script = Callable[[str], ProcessLauncher]


class TestProcessLauncher(LauncherContract):
    @pytest.fixture
    def launcher(self, tmp_path: Path) -> ProcessLauncher:
        return ProcessLauncher(tmp_path)

    @pytest.fixture
    def place(self, tmp_path: Path) -> Callable[..., Path]:
        def write(worker: str, **options: str) -> Path:
            spec = WorkerSpec(id=worker, model="m", engine="fake", options=dict(options))
            path = tmp_path / f"{worker}.json"
            path.write_bytes(encode(WorkerLaunch(worker=spec, host="127.0.0.1", port=0, token="t")))
            return path

        return write


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Return a function that makes a launcher whose workers run the given Python text."""

    def make(text: str) -> ProcessLauncher:
        command = (sys.executable, "-I", "-S", "-c", f"import os, signal, sys, time\n{text}")
        return ProcessLauncher(tmp_path, command=command, stop_seconds=0.5, log_bytes=10_000)

    return make


async def test_another_hive_finds_the_same_process(script: Script, tmp_path: Path) -> None:
    """A launcher object made later lists the worker with its pid and spec, as after a restart of the hive."""
    first = script("time.sleep(60)")
    await first.start(ID, Path("x"), DIGEST)
    before = await reach(first, ID, Phase.RUNNING)
    after = (await ProcessLauncher(tmp_path).list())[ID]
    await end(first, ID)
    assert (after.pid, after.spec) == (before.pid, DIGEST)


async def test_a_start_that_nobody_waits_for_is_listed(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hive that ends in the middle of a start sees that worker, and can end it as soon as it runs."""
    launcher, go_on = script("time.sleep(60)"), threading.Event()
    start = launcher._start
    monkeypatch.setattr(launcher, "_start", lambda *given: go_on.wait(10) and start(*given))
    starting = asyncio.create_task(launcher.start(ID, Path("x"), DIGEST))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait({starting})
    before = (await launcher.list())[ID].phase
    go_on.set()
    running = await reach(launcher, ID, Phase.RUNNING)
    assert (before, running.spec) == (Phase.STARTING, DIGEST)
    await end(launcher, ID)


async def test_a_worker_leaves_the_session_of_its_hive(script: Script) -> None:
    """Neither shim nor worker is in our session or has our process as parent, so that our end is not theirs."""
    launcher = script("time.sleep(60)")
    await launcher.start(ID, Path("x"), DIGEST)
    pid = (await reach(launcher, ID, Phase.RUNNING)).pid or 0
    session = os.getsid(pid)
    await end(launcher, ID)
    assert session == pid
    assert session != os.getsid(0)


async def test_a_stop_is_enforced(script: Script, tmp_path: Path) -> None:
    """A worker that ignores SIGTERM is killed when its drain time is over, without the hive."""
    launcher = script("signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)")
    await launcher.start(ID, Path("x"), DIGEST)
    await until(lambda: launcher._log(ID).read_text())
    shim_pid = json.loads((tmp_path / "process" / f"{ID}.handle.json").read_text())["shim_pid"]
    # Its drain time passes only once we have looked.
    os.kill(shim_pid, signal.SIGSTOP)
    await launcher.stop(ID)
    phase = (await launcher.list())[ID].phase
    os.kill(shim_pid, signal.SIGCONT)
    assert phase is Phase.STOPPING
    assert (await reach(launcher, ID, Phase.ENDED)).exit_signal == signal.SIGKILL


async def test_a_used_pid_is_neither_adopted_nor_signalled(script: Script, tmp_path: Path) -> None:
    """A handle whose pid now belongs to somebody else is an ended worker; a stop does not touch the stranger."""
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    handle = {"worker": ID, "boot": identity.boot_id(), "pid": stranger.pid, "started": 1, "spec": DIGEST}
    (tmp_path / "process").mkdir()
    (tmp_path / "process" / f"{ID}.handle.json").write_text(json.dumps(handle))
    launcher = script("")
    status = (await launcher.list())[ID]
    await launcher.stop(ID)
    alive = identity.start_time(stranger.pid) is not None
    stranger.kill()
    await stranger.wait()
    assert (status.phase, status.exit_status, status.exit_signal) == (Phase.ENDED, None, None)
    assert alive


async def test_a_handle_of_an_earlier_boot_means_nothing(script: Script, tmp_path: Path) -> None:
    """After a reboot no worker is listed, whoever has its pid."""
    (tmp_path / "process").mkdir()
    handle = {"worker": ID, "boot": "earlier", "pid": os.getpid(), "started": identity.start_time(os.getpid())}
    (tmp_path / "process" / f"{ID}.handle.json").write_text(json.dumps(handle))
    assert await script("").list() == {}


async def test_a_handle_of_a_newer_version_is_understood(script: Script, tmp_path: Path) -> None:
    """Unknown fields and a higher schema number do not keep a worker from being adopted."""
    launcher = script("time.sleep(60)")
    await launcher.start(ID, Path("x"), DIGEST)
    path = tmp_path / "process" / f"{ID}.handle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 9, "colour": "blue"}))
    status = await reach(launcher, ID, Phase.RUNNING)
    await end(launcher, ID)
    assert status.spec == DIGEST


async def test_a_handle_of_the_previous_version_is_understood(script: Script, tmp_path: Path) -> None:
    """A handle with no more than the fields that the first version wrote is adopted, and its worker can be stopped."""
    launcher = script("time.sleep(60)")
    await launcher.start(ID, Path("x"), DIGEST)
    path = tmp_path / "process" / f"{ID}.handle.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({key: whole[key] for key in ("worker", "boot", "pid", "started")}))
    status = await reach(launcher, ID, Phase.RUNNING)
    await end(launcher, ID)
    assert (status.pid, status.spec) == (whole["pid"], None)


WAITS_FOR_CUTS = """
for n in range(1500):
    print(f"line {n:06}", flush=True)
    while n in (1000, 1450) and not os.path.exists(f"{folder}/{n}"):
        time.sleep(0.01)
time.sleep(60)
"""


async def cut(folder: Path, shim: int) -> None:
    """Have the front of a log that is over its limit cut off now, if the shim has not just done so by itself."""
    os.kill(shim, signal.SIGCHLD)
    await until(lambda: log_size(folder) <= 10_000)


async def test_an_end_in_the_middle_of_a_look_is_seen_with_its_status(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that ends between the look for the note of its end and the look at its process has its exit status."""
    launcher = script("time.sleep(60)")
    await launcher.start(ID, Path("x"), DIGEST)
    await reach(launcher, ID, Phase.RUNNING)
    note = tmp_path / "process" / f"{ID}.exit.json"
    with monkeypatch.context() as patch:
        patch.setattr(identity, "is_same", lambda *_: note.write_text('{"status": 73}') and False)
        seen = (await launcher.list())[ID]
    note.unlink()
    await end(launcher, ID)
    assert (seen.phase, seen.exit_status) == (Phase.ENDED, 73)


async def test_an_end_is_seen_only_when_the_next_start_can_have_the_lock(script: Script, tmp_path: Path) -> None:
    """A worker whose end its shim has noted is not called ended while that shim still holds the lock."""
    launcher = script("time.sleep(60)")
    await launcher.start(ID, Path("x"), DIGEST)
    await reach(launcher, ID, Phase.RUNNING)
    note = tmp_path / "process" / f"{ID}.exit.json"
    note.write_text('{"status": 0}')
    seen = (await launcher.list())[ID]
    note.unlink()
    await end(launcher, ID)
    assert seen.phase is Phase.RUNNING
    await launcher.start(ID, Path("x"), DIGEST)
    await end(launcher, ID)


async def test_a_log_is_followed_over_a_cut(script: Script, tmp_path: Path) -> None:
    """A follower misses no line and sees none twice although the log's front half is cut off meanwhile."""
    launcher = script(f"folder = {str(tmp_path)!r}\n{WAITS_FOR_CUTS}")
    launcher.follow_seconds = 0.02
    await launcher.start(ID, Path("x"), DIGEST)
    handle = json.loads((tmp_path / "process" / f"{ID}.handle.json").read_text())
    seen: list[str] = []
    async with contextlib.aclosing(launcher.follow(ID, 1500)) as lines, asyncio.timeout(30):
        async for line in lines:
            seen.append(line)
            if line in {"line 001000", "line 001450"}:
                await cut(tmp_path, handle["shim_pid"])
                (tmp_path / f"{int(line[5:])}").touch()
            if line == "line 001499":
                break
    await end(launcher, ID)
    assert seen == [f"line {n:06}" for n in range(1500)]


def log_size(folder: Path) -> int:
    return (folder / "logs" / f"{ID}.log").stat().st_size


def test_a_cut_loses_nothing_that_is_written_meanwhile() -> None:
    """A log whose front is cut again and again ends with every line up to the last, on a disk that can cut in place."""
    # Not in memory, where some systems keep the folder for tests and files have no such cut.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        log = Path(folder) / "log"
        log.touch()
        enough, last = threading.Event(), [0]

        def write() -> None:
            with log.open("ab", buffering=0) as writer:
                while last[0] < 50_000 or not enough.is_set():
                    last[0] += 1
                    writer.write(b"%09d\n" % last[0])

        thread = threading.Thread(target=write)
        thread.start()
        cuts = 0
        while thread.is_alive():
            before = log.stat().st_size
            shim._bound_log(log, 10_000)
            cuts += log.stat().st_size < before
            if cuts > 1:
                enough.set()
        thread.join()
        kept = [int(line) for line in log.read_text().splitlines()[1:]]
    assert kept == list(range(kept[0], last[0] + 1))


@pytest.mark.parametrize("damage", UNREADABLE)
async def test_a_damaged_handle_is_no_reason_for_a_second_copy(script: Script, tmp_path: Path, damage: bytes) -> None:
    """While the worker holds its lock it is listed, and a second start is refused."""
    launcher = script("time.sleep(60)")
    await launcher.start(ID, Path("x"), DIGEST)
    path = tmp_path / "process" / f"{ID}.handle.json"
    good = path.read_bytes()
    path.write_bytes(damage)
    status = (await launcher.list())[ID]
    with pytest.raises(LauncherError, match="already runs"):
        await launcher.start(ID, Path("x"), DIGEST)
    path.write_bytes(good)
    await end(launcher, ID)
    assert (status.alive, status.pid) == (True, None)


async def test_a_worker_outlives_its_shim(script: Script, tmp_path: Path) -> None:
    """With the shim killed the worker is still listed and can be stopped; how it ended is then unknown."""
    launcher = script("time.sleep(60)")
    await launcher.start(ID, Path("x"), DIGEST)
    handle = json.loads((tmp_path / "process" / f"{ID}.handle.json").read_text())
    os.kill(handle["shim_pid"], signal.SIGKILL)
    await until(lambda: identity.start_time(handle["shim_pid"]) is None)
    assert (await launcher.list())[ID].phase is Phase.RUNNING
    await launcher.stop(ID)
    ended = await reach(launcher, ID, Phase.ENDED)
    assert (ended.exit_status, ended.exit_signal) == (None, None)


async def test_a_log_stays_bounded(script: Script, tmp_path: Path) -> None:
    """A worker that writes without end keeps its newest lines and no more than the limit and a little."""
    launcher = script("for n in range(2000): print(f'line {n:06}', flush=True)\ntime.sleep(60)")
    await launcher.start(ID, Path("x"), DIGEST)
    log = launcher._log(ID)
    await until(lambda: "line 001999" in log.read_text())
    # The shim looks every few seconds, and whenever its worker's signal wakes it.
    handle = json.loads((tmp_path / "process" / f"{ID}.handle.json").read_text())
    os.kill(handle["shim_pid"], signal.SIGCHLD)
    await until(lambda: 0 < log.stat().st_size <= 10_000 and "line 001999" in log.read_text())
    tail = await launcher.logs(ID, 2)
    await end(launcher, ID)
    assert tail == "line 001998\nline 001999"


async def test_the_service_manager_of_the_hive_is_not_the_workers(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What systemd told the hive by environment does not reach workers."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    monkeypatch.setenv("LISTEN_FDS", "1")
    launcher = script("print(sorted({'NOTIFY_SOCKET', 'LISTEN_FDS'} & set(os.environ)), flush=True)")
    await launcher.start(ID, Path("x"), DIGEST)
    await reach(launcher, ID, Phase.ENDED)
    assert await launcher.logs(ID, 1) == "[]"


async def test_a_program_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    """A start that cannot happen names the log and leaves no worker."""
    launcher = ProcessLauncher(tmp_path, command=("/nowhere/python",))
    with pytest.raises(LauncherError, match=f"worker {ID} could not be started"):
        await launcher.start(ID, Path("x"), DIGEST)
    assert not [status for status in (await launcher.list()).values() if status.alive]


async def test_a_running_worker_is_not_forgotten(script: Script) -> None:
    """Forgetting needs an end first."""
    launcher = script("time.sleep(60)")
    await launcher.start(fresh := fresh_id(), Path("x"), DIGEST)
    with pytest.raises(LauncherError, match="still runs"):
        await launcher.forget(fresh)
    await end(launcher, fresh)


def test_a_worker_that_outlives_its_kill_costs_no_processor_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that hangs in a driver may stay for ever; its shim goes on looking at its usual pace."""
    waits: list[float] = []

    def wait(_: object, seconds: float) -> signal.struct_siginfo | None:
        waits.append(seconds)
        return None if len(waits) > 1 else signal.struct_siginfo((signal.SIGTERM, 0, 0, 0, 0, 0, 0))

    monkeypatch.setattr(signal, "sigtimedwait", wait)
    monkeypatch.setattr(os, "waitpid", lambda *_: (7, 0) if len(waits) == 4 else (0, 0))
    monkeypatch.setattr(os, "kill", lambda *_: None)
    shim._watch({"log": str(tmp_path / "log"), "log_bytes": 1, "stop_seconds": 0.0}, 7)
    assert waits == [shim.LOOK_SECONDS] * 4
