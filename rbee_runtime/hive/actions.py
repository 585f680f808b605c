"""Carries out what was decided about one worker: launch file, record, launcher, in the order that survives a crash."""

import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from rbee_runtime import logs
from rbee_runtime.config import HiveConfig
from rbee_runtime.errors import LauncherError, PortsTakenError, StateError
from rbee_runtime.hive import exits, records, worker_ports
from rbee_runtime.hive.decisions import ModelState
from rbee_runtime.hive.launchers import Launcher, around, stopping
from rbee_runtime.hive.records import Records, WorkerRecord
from rbee_runtime.link import Link
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec, decode, encode
from rbee_runtime.states import ExitReason

SYSTEMD_CREDENTIALS = "$CREDENTIALS_DIRECTORY"
"""The unit's own folder; the worker expands it."""

LOOK_SECONDS = 0.1
"""Between looks at workers that end together with the hive, for which a person waits."""

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to


class Actions:
    """Start, stop and forget workers; a launcher's refusal becomes a failure on the worker's record.

    `refused` is why a worker could not be told to end, or not be forgotten, at the last try, by worker.
    """

    def __init__(
        self, config: HiveConfig, link: Link, launcher: Launcher, held: Records, *, clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._link = link
        self._launcher = launcher
        self._records = held
        self._clock = clock
        self._folder = config.state_dir / "workers"
        self.refused: dict[str, str] = {}

    @property
    def credentials(self) -> str:
        """Return a short mark of what workers are launched with; changes when they could no longer be called."""
        return hashlib.sha256(self._link.token.encode()).hexdigest()[:8] if self._link.token else "certificates"

    def url(self, port: int) -> str:
        """Return where this host reaches its own worker."""
        host = _WILDCARDS.get(self._config.address, self._config.address)
        if self._config.address in _WILDCARDS:
            host = around.own_address(self._config) or host
        return f"{self._link.scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def launch_of(self, worker: str) -> WorkerLaunch | None:
        """Return what a worker was last launched with, or None if its launch file is not usable."""
        try:
            return decode(self._path(worker).read_bytes(), WorkerLaunch)
        except (OSError, msgspec.MsgspecError):
            return None

    def launched_models(self) -> frozenset[str]:
        """Return the models of all launch files, which outlive the workers by a while."""
        launches = (self.launch_of(path.stem) for path in self._folder.glob("*.json"))
        return frozenset(launch.worker.model for launch in launches if launch is not None)

    def prepare(
        self, record: WorkerRecord, spec: WorkerSpec, model: ModelState, engines: Mapping[str, Path | None]
    ) -> WorkerRecord:
        """Choose the port and write the launch file and the record of a start; StateError, LauncherError."""
        self.refused.pop(spec.id, None)
        others = {self._records[worker].port for worker in self._records if worker != spec.id}
        # Only what the worker itself met there: a range without a free port says nothing about one port of it.
        met = record.last_exit is ExitReason.PORT_TAKEN and record.exit_status is not None
        refused = record.port if met else 0
        port = worker_ports.choose(
            self._config.address, self._config.worker_ports, taken=others, previous=record.port, refused=refused
        )
        launch = self._launch(spec, port, model, engines.get(spec.engine))
        self._records.keep(self._path(spec.id), encode(launch))
        # What it found broken is not where it goes now, and another worker may not be kept off that for it.
        elsewhere = record.last_exit is ExitReason.DEVICE_LOST and record.devices != spec.devices
        started = msgspec.structs.replace(
            records.of_spec(exits.closed(record), spec),
            basis=f"{model.basis}/{self.credentials}",
            stamp=model.stamp,
            port=port,
            launched=self._clock(),
            blocked="",
            last_exit=None if elsewhere else record.last_exit,
            restarts=record.restarts + (record.spec != "" and record.last_exit is not None),
        )
        # On disk before the process exists: a hive that dies in between finds a launch to account for, not a stranger.
        self._records.put(started)
        return started

    async def start(self, record: WorkerRecord) -> None:
        """Start a prepared worker."""
        logs.info("worker_start", worker=record.id, port=record.port, restarts=record.restarts)
        try:
            await self._launcher.start(record.id, self._path(record.id), record.spec)
        except (LauncherError, OSError) as error:
            self.failed(record, error)

    def failed(self, record: WorkerRecord, error: Exception) -> None:
        """Put a start that did not happen on record; it is tried again like any other failure."""
        logs.warning("worker_not_started", worker=record.id, detail=error)
        self._records.put(exits.not_started(record, str(error), reason=_reason(error), now=self._clock()))

    async def stop(self, worker: str, said: str) -> None:
        """Ask for a stop; a refusal is repeated by the next decisions."""
        logs.info("worker_stop", worker=worker, why=said)
        await self._tell(worker, self._launcher.stop, "worker_not_stopped")

    async def kill(self, worker: str, said: str) -> None:
        """End a worker that does not react, at once; a refusal is repeated by the next decisions."""
        logs.warning("worker_kill", worker=worker, why=said)
        await self._tell(worker, self._launcher.kill, "worker_not_killed")

    async def forget(self, worker: str) -> None:
        """Remove every trace of a worker that has ended; a refusal is told once and repeated by the next decisions."""
        try:
            await self._launcher.forget(worker)
        except (LauncherError, OSError) as error:
            if self.refused.get(worker) != str(error):
                self._refuse("worker_not_forgotten", worker, error)
            return
        with contextlib.suppress(StateError):
            self._records.keep(self._path(worker), None)
        self._records.drop(worker)
        self.refused.pop(worker, None)

    async def stop_all(self, *, within: float) -> None:
        """Ask every worker to stop, also one that no look has seen yet, and wait for that."""
        try:
            await stopping.stop_all(self._launcher, within=within, ask=self._end, clock=self._clock, every=LOOK_SECONDS)
        except (LauncherError, OSError) as error:
            logs.warning("workers_not_stopped", detail=error)

    async def _end(self, worker: str) -> None:
        self._records.put(msgspec.structs.replace(self._records[worker], stop_asked=self._clock()))
        await self.stop(worker, "the hive ends together with its workers")

    async def _tell(self, worker: str, order: Callable[[str], Awaitable[None]], event: str) -> None:
        self.refused.pop(worker, None)
        try:
            await order(worker)
        except (LauncherError, OSError) as error:
            self._refuse(event, worker, error)

    def _refuse(self, event: str, worker: str, error: Exception) -> None:
        logs.warning(event, worker=worker, detail=error)
        self.refused[worker] = str(error)

    def _launch(self, spec: WorkerSpec, port: int, model: ModelState, engine: Path | None) -> WorkerLaunch:
        directory = self._link.directory
        tls = SYSTEMD_CREDENTIALS if self._config.launcher == "systemd" else str(directory)
        # What lies in an image is no path of this host.
        folder = engine.resolve() if engine is not None and not self._config.in_containers else engine
        return WorkerLaunch(
            worker=spec,
            host=self._config.address,
            port=port,
            model_path=model.path,
            engine_dir=str(folder) if folder is not None else "",
            token=self._link.token,
            tls_dir=tls if directory is not None else "",
            fleet=self._link.fleet,
        )

    def _path(self, worker: str) -> Path:
        return self._folder / f"{worker}.json"


def _reason(error: Exception) -> ExitReason:
    return ExitReason.PORT_TAKEN if isinstance(error, PortsTakenError) else ExitReason.CRASHED
