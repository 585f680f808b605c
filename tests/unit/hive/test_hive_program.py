"""`rbee-hive` as a program: killed again and again, stopped, misconfigured."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml

from rbee_runtime.config import HiveConfig
from rbee_runtime.hive.launchers.process import ProcessLauncher
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelFile, ModelReport
from tests.unit.hive.conftest import Queen, desired, fake
from tests.unit.hive.launcher_contract import end
from tests.unit.hive.waiting import until

pytestmark = pytest.mark.slow

RELEASE = Path(sys.prefix).resolve().name
READY = "1 worker ready, queen not reachable"


MODULE = ("-m", "rbee_runtime.hive.main")
FIRST = """\
import ctypes, os
from rbee_runtime import running
from rbee_runtime.hive import main
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
running.FIRST = os.getpid()
main.main()
"""
"""A hive that believes itself the first process of a container, and gets orphans as that one does."""


@asynccontextmanager
async def program(
    file: Path, code: tuple[str, ...] = MODULE, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *code,
        "--config",
        str(file),
        env=os.environ | environment,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def file(settings: HiveConfig, tmp_path: Path) -> Path:
    plain = settings.model_dump(mode="json", exclude={"link_dir", "address"}) | {"port": settings.worker_ports[1]}
    plain["worker_ports"] = [settings.worker_ports[0], settings.worker_ports[1] - 1]
    path = tmp_path / "hive.yaml"
    path.write_text(yaml.safe_dump(plain))
    return path


@pytest.fixture
async def queen(settings: HiveConfig, file: Path) -> AsyncIterator[Queen]:
    """Return a queen that learns the token when the hive has written it; workers are ended at the end."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        yield Queen(f"http://127.0.0.1:{settings.worker_ports[1]}", client)
    launcher = ProcessLauncher(settings.state_dir)
    for worker in await launcher.list():
        await end(launcher, worker)


async def up(queen: Queen, settings: HiveConfig) -> None:
    async def ready() -> bool:
        try:
            return (await queen.get("/ready")).status_code == 200
        except httpx.HTTPError:
            return False

    await until(ready)
    queen.client.headers["x-rbee-token"] = (settings.state_dir / "link-token").read_text()


def handle(settings: HiveConfig, worker: str) -> dict[str, int]:
    found: dict[str, int] = json.loads((settings.state_dir / "process" / f"{worker}.handle.json").read_text())
    return found


async def test_a_hive_ends_while_it_reads_a_large_file(settings: HiveConfig, file: Path, queen: Queen) -> None:
    """Minutes' worth of bytes are being hashed for an API call and for a neighbour; SIGTERM does not wait for them."""
    store = ModelStore(settings.models_dir)
    store.layout.prepare()
    held = ModelFile(name="m.gguf", sha256="a" * 64, size=2**37)
    with store.layout.blob(held.sha256).open("wb") as blob:
        blob.truncate(held.size)
    store.commit(ModelReport(name="m", size=held.size, files=(held,)))
    async with program(file) as process:
        await up(queen, settings)
        calls = [
            queen.client.post(f"{queen._base}/api/v1/models/m/verify"),
            queen.get(f"/api/v1/blobs/sha256-{'a' * 64}/chunks"),
        ]
        asked = [asyncio.create_task(call) for call in calls]
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
        await asyncio.gather(*asked, return_exceptions=True)


async def test_workers_outlive_killed_hives(settings: HiveConfig, file: Path, queen: Queen) -> None:
    """SIGKILL at different moments: the worker keeps its pid and is adopted, and the state always loads."""
    pids = set()
    for number in range(3):
        async with program(file) as process:
            await up(queen, settings)
            if number == 0:
                await queen.put(desired(1, fake("w-1")))
            report = await until(lambda: queen.in_state("w-1", "ready"))
            pids.add(handle(settings, "w-1")["pid"])
            await asyncio.sleep(number * 0.07)
            process.send_signal(signal.SIGKILL)
            await process.wait()
    assert (len(pids), report["restarts"], report["last_exit"]) == (1, 0, None)


async def test_a_worker_that_ended_meanwhile_is_told_and_restarted(
    settings: HiveConfig, file: Path, queen: Queen
) -> None:
    """An exit while the hive was away is reported with its signal, and the worker comes back."""
    async with program(file) as process:
        await up(queen, settings)
        await queen.put(desired(1, fake("w-1")))
        await until(lambda: queen.in_state("w-1", "ready"))
        process.kill()
        await process.wait()
    os.kill(handle(settings, "w-1")["pid"], signal.SIGKILL)
    async with program(file):
        await up(queen, settings)
        report = await until(lambda: queen.in_state("w-1", "ready"))
    assert (report["last_exit"], report["restarts"]) == ("killed", 1)


async def test_a_stopped_hive_says_so_and_leaves_workers(
    settings: HiveConfig, file: Path, queen: Queen, tmp_path: Path
) -> None:
    """SIGTERM ends the hive with status 0 in time; the service manager heard of readiness and end; workers serve."""
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(tmp_path / "notify"))
    heard.setblocking(False)
    lines: list[str] = []
    async with program(file, NOTIFY_SOCKET=str(tmp_path / "notify")) as process:
        await up(queen, settings)
        await queen.put(desired(1, fake("w-1")))

        # What nobody reads would block the hive: a socket holds few messages.
        async def report_once_told() -> dict[str, Any]:
            lines.extend(iter(lambda: _next(heard), ""))
            found = await queen.in_state("w-1", "ready")
            return found if any(READY in line for line in lines) else {}

        report = await until(report_once_told)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
    said = "\n".join([*lines, *iter(lambda: _next(heard), "")])
    heard.close()
    assert (await queen.client.get(f"http://127.0.0.1:{report['port']}/ready")).status_code == 200
    assert all(part in said for part in (READY, "WATCHDOG=1"))
    assert 0 <= said.find("READY=1") < said.find("STOPPING=1")


async def test_the_first_process_of_a_container_takes_its_workers_along(
    settings: HiveConfig, file: Path, queen: Queen
) -> None:
    """Nothing would outlive it: workers end in their order before it does, and ended ones leave no zombie meanwhile."""
    async with program(file, ("-c", FIRST)) as process:
        await up(queen, settings)
        await queen.put(desired(1, fake("w-1")))
        await until(lambda: queen.in_state("w-1", "ready"))
        before = handle(settings, "w-1")
        os.kill(before["pid"], signal.SIGKILL)

        async def came_back() -> bool:
            return bool(await queen.in_state("w-1", "ready")) and handle(settings, "w-1")["pid"] != before["pid"]

        await until(came_back)
        await until(lambda: gone(before["shim_pid"]))
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
    told = json.loads((settings.state_dir / "process" / "w-1.exit.json").read_text())
    assert gone(handle(settings, "w-1")["pid"])
    assert (told["status"], told["signal"]) == (0, None)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def _next(channel: socket.socket) -> str:
    try:
        return channel.recv(4096).decode()
    except BlockingIOError:
        return ""


async def test_running_json_tells_what_runs(settings: HiveConfig, file: Path, queen: Queen) -> None:
    """Once ready, the run directory names the process, its release and version, readable by anybody."""
    async with program(file) as process:
        await up(queen, settings)
        path = settings.run_dir / "running.json"
        await until(path.exists)
        facts = msgspec.json.decode(path.read_bytes())
        assert (facts["pid"], facts["release"]) == (process.pid, RELEASE)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fleet: [", "is not YAML"),
        ("flet: x", "did you mean 'fleet'"),
        ("typoo: x", "unknown field 'typoo'; remove it there, or run the deploy again, which writes the file anew"),
        ("launcher: lxc", "launcher"),
        ("address: 192.0.2.7\nlauncher: process", "needs link_dir"),
        ("link_dir: /nowhere", "cannot load the hive certificate"),
    ],
)
async def test_wrong_settings_are_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    """The program ends at once with a non-zero status and a single line that says what to change."""
    path = tmp_path / "hive.yaml"
    path.write_text(f"{text}\nstate_dir: {tmp_path}/state\nport: 0\n")
    async with program(path) as process:
        _, err = await asyncio.wait_for(process.communicate(), 60)
    lines = err.decode().splitlines()
    assert process.returncode in {1, 64}
    assert len(lines) == 1
    assert lines[0].startswith("rbee-hive: ")
    assert said in lines[0]
