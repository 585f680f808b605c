"""Workers without systemd: a shim per worker that outlives the hive; for laptops and development.

Files per worker, in `<state_dir>/process/`: `.lock` (held by shim and worker: the guard against a second copy),
`.handle.json` (who runs: pids with start times, boot, spec), `.exit.json` (how it ended), `.stop` (a stop was asked).
"""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from rbee_runtime.config import HiveConfig
from rbee_runtime.errors import LauncherError, NoLogError
from rbee_runtime.hive.launchers import Phase, UnitStatus, identity
from rbee_runtime.hive.launchers.tail import Tail
from rbee_runtime.protocol import Message, decode, encode

STOP_SECONDS = 200.0
"""A worker drains for up to 180 s; what still runs then is killed."""

LOG_BYTES = 8 * 1024 * 1024
START_SECONDS = 20.0
"""The shim reports within milliseconds; more means that the machine is in serious trouble."""

_SHIM = Path(__file__).with_name("shim.py")
# A worker that saw these would talk to the hive's service manager instead of its own.
_NOT_INHERITED = {
    "NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC",
    "CREDENTIALS_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM", "MAINPID",
}  # fmt: skip


class Handle(Message, frozen=True, kw_only=True):
    """Who runs, as the shim wrote it; fields that a newer version adds are ignored."""

    worker: str
    boot: str
    pid: int
    started: int
    spec: str | None = None
    shim_pid: int = 0
    shim_started: int = 0
    schema: int = 1


class Exit(Message, frozen=True, kw_only=True):
    """How a worker ended, as the shim wrote it."""

    status: int | None = None
    signal: int | None = None


class _Order(Message, frozen=True, kw_only=True):
    """What the shim is told; see there."""

    worker: str
    spec: str
    argv: tuple[str, ...]
    folder: str
    log: str
    lock: int
    stop_seconds: float
    log_bytes: int


class ProcessLauncher:
    """Starts workers as processes of their own session."""

    poll_seconds = 1.0
    follow_seconds = 0.25

    def __init__(
        self,
        state_dir: Path,
        *,
        command: Sequence[str] = (sys.executable, "-m", "rbee_runtime.worker.main"),
        stop_seconds: float = STOP_SECONDS,
        log_bytes: int = LOG_BYTES,
    ) -> None:
        self._folder = state_dir / "process"
        self._logs = state_dir / "logs"
        self._command = tuple(command)
        self._stop_seconds = stop_seconds
        self._log_bytes = log_bytes
        self._starting: dict[str, asyncio.Future[None]] = {}

    async def list(self) -> Mapping[str, UnitStatus]:
        """Return every worker with a handle of this boot, with a lock that somebody holds, or just being started."""
        files = self._files()
        names = {name.removesuffix(kind) for kind in (".handle.json", ".lock") for name in files if name.endswith(kind)}
        found = (self._status(name, files) for name in sorted(names) if not name.startswith("."))
        known = {
            status.worker: status for status in found if status is not None and status.worker not in self._starting
        }
        return known | {worker: UnitStatus(worker, Phase.STARTING) for worker in self._starting}

    async def start(self, worker: str, launch_file: Path, spec: str) -> None:
        """Start a worker, unless one with this id runs."""
        if worker in self._starting:
            raise LauncherError(f"worker {worker} is being started; a second copy is not started")
        # Cancelling does not reach the thread, so that whoever ends the workers next has to see this one.
        starting = asyncio.ensure_future(asyncio.to_thread(self._start, worker, launch_file, spec))
        self._starting[worker] = starting
        starting.add_done_callback(partial(self._started, worker))
        await asyncio.shield(starting)

    def _started(self, worker: str, starting: asyncio.Future[None]) -> None:
        del self._starting[worker]
        if not starting.cancelled():
            # Whoever was cancelled while it waited does not ask for this any more.
            starting.exception()

    async def stop(self, worker: str) -> None:
        """Ask the shim to end its worker, or the worker itself if its shim is gone."""
        handle = self._handle(worker)
        if handle is None:
            return
        asked = identity.send(handle.shim_pid, handle.shim_started, handle.boot, signal.SIGTERM)
        if asked or identity.send(handle.pid, handle.started, handle.boot, signal.SIGTERM):
            self._file(worker, "stop").touch()

    async def kill(self, worker: str) -> None:
        """Kill exactly the recorded process; its shim notes the end."""
        handle = self._handle(worker)
        if handle is not None:
            identity.send(handle.pid, handle.started, handle.boot, signal.SIGKILL)

    async def forget(self, worker: str) -> None:
        """Remove the files of a worker that has ended; its log stays for whoever asks why."""
        status = self._status(worker, self._files())
        if status is not None and status.alive:
            raise LauncherError(f"worker {worker} still runs; stop it before it is forgotten")
        for kind in ("handle.json", "exit.json", "stop", "lock"):
            self._file(worker, kind).unlink(missing_ok=True)

    async def logs(self, worker: str, lines: int) -> str:
        """Return the end of the worker's log file."""
        try:
            with self._log(worker).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - self._log_bytes))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            raise NoLogError(_no_log(worker)) from None
        return "\n".join(text.splitlines()[-lines:])

    async def follow(self, worker: str, lines: int) -> AsyncGenerator[str, None]:
        """Yield the end of the log file and what is added to it, over cuts and restarts, until the caller closes it."""
        tail = Tail(self._log(worker))
        try:
            new = await asyncio.to_thread(tail.last, lines)
        except FileNotFoundError:
            raise NoLogError(_no_log(worker)) from None
        while True:
            for line in new:
                yield line
            await asyncio.sleep(self.follow_seconds)
            new = await asyncio.to_thread(tail.take)

    def _files(self) -> Collection[str]:
        try:
            with os.scandir(self._folder) as entries:
                return frozenset(entry.name for entry in entries)
        except FileNotFoundError:
            return frozenset()

    def _status(self, worker: str, files: Collection[str]) -> UnitStatus | None:
        """Return how a worker is; `files` spares a look for each that is seldom there."""
        handle = self._handle(worker)
        if handle is None:
            held = self._lock_is_held(worker)
            return UnitStatus(worker, Phase.STARTING, said="its handle file is missing") if held else None
        if handle.boot != identity.boot_id():
            return None
        if self._lives(handle):
            phase = Phase.STOPPING if f"{worker}.stop" in files else Phase.RUNNING
            return UnitStatus(worker, phase, pid=handle.pid, spec=handle.spec)
        identity.reap(handle.shim_pid, handle.shim_started, handle.boot)
        identity.reap(handle.pid, handle.started, handle.boot)
        # Not before the shim is gone, which notes the end and then lets go of the lock: the next start needs that.
        ended = self._exit(worker) or Exit()
        return UnitStatus(worker, Phase.ENDED, spec=handle.spec, exit_status=ended.status, exit_signal=ended.signal)

    @staticmethod
    def _lives(handle: Handle) -> bool:
        # Between the worker's end and the shim's note of it the shim alone is there.
        return identity.is_same(handle.pid, handle.started, handle.boot) or identity.is_same(
            handle.shim_pid, handle.shim_started, handle.boot
        )

    def _start(self, worker: str, launch_file: Path, spec: str) -> None:
        for folder in (self._folder, self._logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._file(worker, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(lock, worker)
            for kind in ("handle.json", "exit.json", "stop"):
                self._file(worker, kind).unlink(missing_ok=True)
            order = _Order(
                worker=worker,
                spec=spec,
                argv=(*self._command, "--spec", str(launch_file)),
                folder=str(self._folder),
                log=str(self._log(worker)),
                lock=lock,
                stop_seconds=self._stop_seconds,
                log_bytes=self._log_bytes,
            )
            self._run_shim(order)
        finally:
            os.close(lock)

    @staticmethod
    def _take(lock: int, worker: str) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LauncherError(f"worker {worker} already runs; a second copy is not started") from None

    def _run_shim(self, order: _Order) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
        with self._log(order.worker).open("ab") as log:
            try:
                subprocess.run(
                    [sys.executable, "-I", "-S", str(_SHIM), encode(order).decode()],
                    check=True,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(order.lock,),
                    timeout=START_SECONDS,
                )
            except (subprocess.SubprocessError, OSError) as error:
                raise LauncherError(
                    f"worker {order.worker} could not be started: {type(error).__name__}; see {order.log}"
                ) from error

    def _handle(self, worker: str) -> Handle | None:
        try:
            return decode(self._file(worker, "handle.json").read_bytes(), Handle)
        except (OSError, msgspec.MsgspecError):
            return None

    def _exit(self, worker: str) -> Exit | None:
        try:
            return decode(self._file(worker, "exit.json").read_bytes(), Exit)
        except (OSError, msgspec.MsgspecError):
            return None

    def _lock_is_held(self, worker: str) -> bool:
        try:
            lock = os.open(self._file(worker, "lock"), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def _file(self, worker: str, kind: str) -> Path:
        return self._folder / f"{worker}.{kind}"

    def _log(self, worker: str) -> Path:
        return self._logs / f"{worker}.log"


def _no_log(worker: str) -> str:
    return f"worker {worker} has no log on this host; it was never started here"


def launcher(config: HiveConfig) -> ProcessLauncher:
    """Return the launcher of a hive."""
    return ProcessLauncher(config.state_dir)
