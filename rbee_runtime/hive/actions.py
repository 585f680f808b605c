"""Carries out what was decided about one worker: launch file, record, launcher, in the order that survives a crash."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from rbee_runtime import durable, logs
from rbee_runtime.config import HiveConfig
from rbee_runtime.errors import LauncherError, PortsTakenError, StateError
from rbee_runtime.hive import exits, worker_ports
from rbee_runtime.hive.decisions import ModelState
from rbee_runtime.hive.launchers import Launcher, around
from rbee_runtime.hive.records import Records, WorkerRecord, options_mark
from rbee_runtime.link import Link
from rbee_runtime.protocol import WorkerLaunch, WorkerSpec, encode
from rbee_runtime.states import ExitReason

SYSTEMD_CREDENTIALS = "$CREDENTIALS_DIRECTORY"
"""The unit's own folder; the worker expands it."""

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound to


class Actions:
    """Start, stop and forget workers; a launcher's refusal becomes a failure on the worker's record.

    `refused` is why a worker could not be told to end at the last try, by worker.
    """

    def __init__(
        self, config: HiveConfig, link: Link, launcher: Launcher, records: Records, *, clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._link = link
        self._launcher = launcher
        self._records = records
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
            return msgspec.json.decode(self._path(worker).read_bytes(), type=WorkerLaunch)
        except (OSError, msgspec.MsgspecError):
            return None

    def prepare(
        self, record: WorkerRecord, spec: WorkerSpec, model: ModelState, engines: Mapping[str, Path | None]
    ) -> WorkerRecord:
        """Choose the port and write the launch file and the record of a start; StateError, LauncherError."""
        self.refused.pop(spec.id, None)
        others = {self._records[worker].port for worker in self._records if worker != spec.id}
        refused = record.port if record.last_exit is ExitReason.PORT_TAKEN else 0
        port = worker_ports.choose(
            self._config.address, self._config.worker_ports, taken=others, previous=record.port, refused=refused
        )
        durable.write(self._path(spec.id), encode(self._launch(spec, port, model, engines.get(spec.engine))))
        started = msgspec.structs.replace(
            record,
            model=spec.model,
            engine=spec.engine,
            context=spec.context,
            slots=spec.slots,
            options=options_mark(spec),
            spec=spec.digest(),
            basis=f"{model.basis}/{self.credentials}",
            stamp=model.stamp,
            port=port,
            launched=self._clock(),
            ready_since=None,
            stop_asked=None,
            stop_as=None,
            stop_said="",
            stop_repeats=0,
            devices=spec.devices,
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
        self.refused.pop(worker, None)
        try:
            await self._launcher.stop(worker)
        except (LauncherError, OSError) as error:
            self._refuse("worker_not_stopped", worker, error)

    async def kill(self, worker: str, said: str) -> None:
        """End a worker that does not react, at once; a refusal is repeated by the next decisions."""
        logs.warning("worker_kill", worker=worker, why=said)
        self.refused.pop(worker, None)
        try:
            await self._launcher.kill(worker)
        except (LauncherError, OSError) as error:
            self._refuse("worker_not_killed", worker, error)

    async def forget(self, worker: str) -> None:
        """Remove every trace of a worker that has ended."""
        try:
            await self._launcher.forget(worker)
        except (LauncherError, OSError) as error:
            logs.warning("worker_not_forgotten", worker=worker, detail=error)
            return
        try:
            durable.remove(self._path(worker))
        except StateError as error:
            self._records.refused(error)
        self._records.drop(worker)
        self.refused.pop(worker, None)

    def _refuse(self, event: str, worker: str, error: Exception) -> None:
        logs.warning(event, worker=worker, detail=error)
        self.refused[worker] = str(error)

    def _launch(self, spec: WorkerSpec, port: int, model: ModelState, engine: Path | None) -> WorkerLaunch:
        directory = self._link.directory
        tls = SYSTEMD_CREDENTIALS if self._config.launcher == "systemd" else str(directory)
        return WorkerLaunch(
            worker=spec,
            host=self._config.address,
            port=port,
            model_path=model.path,
            engine_dir=str(engine.resolve()) if engine is not None else "",
            token=self._link.token,
            tls_dir=tls if directory is not None else "",
            fleet=self._link.fleet,
        )

    def _path(self, worker: str) -> Path:
        return self._folder / f"{worker}.json"


def _reason(error: Exception) -> ExitReason:
    return ExitReason.PORT_TAKEN if isinstance(error, PortsTakenError) else ExitReason.CRASHED
