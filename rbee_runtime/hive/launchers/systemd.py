"""Workers as instances of `rbee-worker@.service`: systemd is parent and logger, the hive owns restarts."""

import asyncio
import contextlib
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path

from rbee_runtime import ports
from rbee_runtime.config import HiveConfig
from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.launchers.unchanged import LastAnswer

CALL_SECONDS = 10.0
"""systemctl answers in milliseconds; a manager that is silent for longer is reported, not waited for."""

LINE_BYTES = 1024 * 1024
"""A longer line in a journal is no log line."""

_PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Job",
    "MainPID",
    "Result",
    "ExecMainCode",
    "ExecMainStatus",
)
_PREFIX, _SUFFIX = ports.WORKER_TEMPLATE.split("@")
_NOT_LOADED = "not loaded"
_CLD_EXITED, _CLD_KILLED, _CLD_DUMPED = "1", "2", "3"
_ALIVE = {
    "activating": Phase.STARTING,
    "active": Phase.RUNNING,
    "reloading": Phase.RUNNING,
    "refreshing": Phase.RUNNING,
    "deactivating": Phase.STOPPING,
}


def list_command() -> list[str]:
    """Return the one call that reads all workers."""
    pattern = f"{_PREFIX}@*{_SUFFIX}"
    return ["systemctl", "show", "--all", pattern, f"--property={','.join(_PROPERTIES)}"]


def action_command(verb: str, worker: str) -> list[str]:
    """Return a call that queues a job and returns, or `reset-failed`; never asks a person for a password."""
    options = ["--no-ask-password"] if verb == "reset-failed" else ["--no-ask-password", "--no-block"]
    return ["systemctl", *options, verb, ports.worker_unit(worker)]


def kill_command(worker: str) -> list[str]:
    """Return the call that ends a unit that does not react."""
    return ["systemctl", "--no-ask-password", "kill", "--signal=SIGKILL", ports.worker_unit(worker)]


def logs_command(worker: str, lines: int) -> list[str]:
    """Return the call that reads a worker's journal."""
    return ["journalctl", "--quiet", "--no-pager", "-o", "cat", "-n", str(lines), "-u", ports.worker_unit(worker)]


def follow_command(worker: str, lines: int) -> list[str]:
    """Return the call that reads a worker's journal and stays."""
    return [*logs_command(worker, lines), "--follow"]


def parse_show(text: str) -> dict[str, UnitStatus]:
    """Return the workers in the output of `list_command`: blocks of KEY=VALUE with an empty line between."""
    blocks = (dict(line.partition("=")[::2] for line in block.splitlines()) for block in text.split("\n\n"))
    found = (_status(block) for block in blocks if block.get("Id"))
    return {status.worker: status for status in found if status is not None}


def _status(unit: Mapping[str, str]) -> UnitStatus | None:
    worker = unit["Id"].removeprefix(f"{_PREFIX}@").removesuffix(_SUFFIX)
    state = unit.get("ActiveState", "")
    if unit.get("Job", "0") not in {"", "0"} and state in {"inactive", "failed"}:
        return UnitStatus(worker, Phase.STARTING, said="systemd has queued its start")
    if state in _ALIVE:
        return UnitStatus(worker, _ALIVE[state], pid=int(unit.get("MainPID") or 0) or None)
    if state == "failed":
        return _failed(worker, unit)
    # An inactive unit ended well; systemd unloads it when it likes, so that its being listed means nothing.
    return None


def _failed(worker: str, unit: Mapping[str, str]) -> UnitStatus:
    result, number = unit.get("Result", ""), int(unit.get("ExecMainStatus") or 0)
    said = "" if result in {"exit-code", "signal", "core-dump"} else f"systemd says {result}"
    killed = unit.get("ExecMainCode") in {_CLD_KILLED, _CLD_DUMPED}
    exited = unit.get("ExecMainCode") == _CLD_EXITED
    return UnitStatus(
        worker,
        Phase.ENDED,
        exit_status=number if exited else None,
        exit_signal=number if killed else None,
        out_of_memory=result == "oom-kill",
        said=said,
    )


class SystemdLauncher:
    """Drives the template unit by systemctl; a polkit rule allows the hive's user these verbs on these units."""

    poll_seconds = 2.0

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._last = LastAnswer(clock)

    async def list(self) -> Mapping[str, UnitStatus]:
        """Return all workers that systemd has loaded, in one call, or in none while their processes just go on."""
        known = self._last.get()
        if known is not None:
            return known
        return self._last.keep(parse_show(await _run(list_command(), "list its workers")))

    async def start(self, worker: str, launch_file: Path, spec: str) -> None:  # noqa: ARG002 - the unit names its file
        """Queue the start."""
        await self._act("start", worker, f"start worker {worker}")

    async def stop(self, worker: str) -> None:
        """Queue the stop; the unit's TimeoutStopSec covers the drain."""
        await self._act("stop", worker, f"stop worker {worker}")

    async def kill(self, worker: str) -> None:
        """Kill every process of the unit; where that is refused, queue its stop, which ends by force too."""
        try:
            await _run(kill_command(worker), f"kill worker {worker}")
        except LauncherError as error:
            if _NOT_LOADED not in str(error):
                raise await self._stopped_instead(worker, error) from error
        finally:
            self._last.drop()

    async def _stopped_instead(self, worker: str, error: LauncherError) -> LauncherError:
        # The rules of a host that was set up earlier may allow to start and stop only.
        try:
            await self.stop(worker)
        except LauncherError as second:
            return LauncherError(f"{error}; {second}; run the deploy again, or end it as root")
        return LauncherError(f"{error}; its stop is queued instead, which kills it once its stop time is over")

    async def forget(self, worker: str) -> None:
        """Let systemd unload a failed unit."""
        try:
            await self._act("reset-failed", worker, f"reset worker {worker}")
        except LauncherError as error:
            if _NOT_LOADED not in str(error):
                raise

    async def _act(self, verb: str, worker: str, purpose: str) -> None:
        try:
            await _run(action_command(verb, worker), purpose)
        finally:
            self._last.drop()

    async def logs(self, worker: str, lines: int) -> str:
        """Return the end of the unit's journal."""
        text = await _run(logs_command(worker, lines), f"read the journal of worker {worker}")
        if not text.strip():
            raise LauncherError(
                f"the journal shows nothing of worker {worker}: either it wrote nothing, or this user may not read the "
                f"journal; run `sudo journalctl -u {ports.worker_unit(worker)}` on the host"
            )
        return text.rstrip("\n")

    async def follow(self, worker: str, lines: int) -> AsyncGenerator[str, None]:
        """Yield from the unit's journal, which outlives the worker, until the caller closes it."""
        process = await _begin(follow_command(worker, lines), f"read the journal of worker {worker}")
        output = process.stdout
        try:
            while output is not None and (line := await output.readline()):
                yield line.decode(errors="replace").rstrip("\n")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def launcher(config: HiveConfig) -> SystemdLauncher:  # noqa: ARG001 - units are named alike on every host
    """Return the launcher of a hive."""
    return SystemdLauncher()


async def _begin(command: list[str], purpose: str, *, stderr: int = asyncio.subprocess.DEVNULL) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            limit=LINE_BYTES,
        )
    except OSError as error:
        raise LauncherError(f"cannot {purpose}: {command[0]} is not usable: {error.strerror}") from error


async def _run(command: list[str], purpose: str) -> str:
    process = await _begin(command, purpose, stderr=asyncio.subprocess.PIPE)
    try:
        out, err = await asyncio.wait_for(process.communicate(), CALL_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise LauncherError(f"cannot {purpose}: {command[0]} gave no answer in {CALL_SECONDS:g} s") from None
    if process.returncode:
        said = " ".join(err.decode(errors="replace").split()) or f"exit status {process.returncode}"
        raise LauncherError(f"cannot {purpose}: {said}")
    return out.decode(errors="replace")
