"""Turns what the hive sees into events: compares the last snapshot with this one, so that no part has to remember to.

A worker that ended and was started again between two snapshots shows as a higher number of restarts.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rbee_runtime.events import EventLog
from rbee_runtime.hive.events import EventKind
from rbee_runtime.hive.metrics import Meters
from rbee_runtime.hive.wording import wording
from rbee_runtime.protocol import DesiredAck, DeviceReport, FetchReport, ModelReport, WorkerReport
from rbee_runtime.states import FetchState, Observed

PROGRESS_SECONDS = 1.0
"""Between two progress events of one model."""

_ENDED = frozenset({Observed.EXITED, Observed.BACKOFF, Observed.CRASH_LOOP, Observed.FETCHING})


@dataclass(frozen=True)
class Snapshot:
    """One moment of a hive; maps are by id or name."""

    workers: Mapping[str, WorkerReport] = field(default_factory=dict)
    models: Mapping[str, ModelReport] = field(default_factory=dict)
    fetches: Mapping[str, FetchReport] = field(default_factory=dict)
    devices: Mapping[str, DeviceReport] = field(default_factory=dict)
    ack: DesiredAck | None = None
    draining: bool = False


class Feed:
    """Publishes the differences; `run` follows fetches, all else is told to it."""

    def __init__(self, log: EventLog, meters: Meters, *, look: Callable[[], Snapshot]) -> None:
        self._log = log
        self._meters = meters
        self._look = look
        self._before = Snapshot()
        self._told: dict[str, int] = {}
        self._wake = asyncio.Event()

    def changed(self) -> None:
        """Compare at once: something changed."""
        now = self._look()
        before, self._before = self._before, now
        self._workers(before, now)
        self._models(before, now)
        self._fetches(before, now)
        self._devices(before, now)
        self._commands(before, now)
        self._meters.workers, self._meters.models = now.workers, now.models
        self._meters.fetches, self._meters.devices = now.fetches, now.devices
        if _busy(now):
            self._wake.set()

    async def run(self) -> None:
        """Follow the progress of fetches until cancelled; does nothing while there are none."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(PROGRESS_SECONDS)
            self._wake.clear()
            self.changed()
            self._progress()

    def _workers(self, before: Snapshot, now: Snapshot) -> None:
        for name, worker in now.workers.items():
            old = before.workers.get(name)
            if old is not None and _ended(old, worker):
                self._exited(worker)
            if old is None or _news(old) != _news(worker):
                said = {"model": worker.model, "state": worker.state.value, "detail": worker.detail}
                self._log.publish(EventKind.WORKER_STATE, name, **said)
        for name in before.workers.keys() - now.workers.keys():
            self._log.publish(EventKind.WORKER_STATE, name, model=before.workers[name].model, state="gone", detail="")

    def _exited(self, worker: WorkerReport) -> None:
        reason = worker.last_exit.value if worker.last_exit is not None else ""
        self._meters.exits[reason or "unknown"] = self._meters.exits.get(reason or "unknown", 0) + 1
        self._log.publish(
            EventKind.WORKER_EXIT,
            worker.id,
            model=worker.model,
            reason=reason,
            status=worker.exit_status,
            signal=worker.exit_signal,
            detail=worker.detail,
        )

    def _models(self, before: Snapshot, now: Snapshot) -> None:
        for name, model in now.models.items():
            old = before.models.get(name)
            if old is None or (old.files, old.revision) != (model.files, model.revision):
                self._model_state(name, FetchState.READY.value, size=model.size, revision=model.revision)
        for name in before.models.keys() - now.models.keys():
            self._model_state(name, "gone")

    def _fetches(self, before: Snapshot, now: Snapshot) -> None:
        for name, fetch in now.fetches.items():
            old = before.fetches.get(name)
            self._meters.fetched += max(0, fetch.done - (old.done if old is not None else 0))
            if old is None or old.state is not fetch.state:
                self._model_state(name, fetch.state.value, done=fetch.done, total=fetch.total, detail=fetch.detail)

    def _model_state(self, name: str, state: str, **more: object) -> None:
        self._log.publish(EventKind.MODEL_STATE, name, state=state, **more)

    def _progress(self) -> None:
        fetches = self._before.fetches
        self._told = {name: done for name, done in self._told.items() if name in fetches}
        for name, fetch in fetches.items():
            if fetch.state is FetchState.FETCHING and self._told.get(name, 0) != fetch.done:
                self._told[name] = fetch.done
                said = {"done": fetch.done, "total": fetch.total, "rate": fetch.rate, "eta": fetch.eta}
                self._log.publish(EventKind.MODEL_PROGRESS, name, **said)

    def _devices(self, before: Snapshot, now: Snapshot) -> None:
        for name, device in now.devices.items():
            old = before.devices.get(name)
            if old is None or (old.healthy, old.detail) != (device.healthy, device.detail):
                said = {"name": device.name, "healthy": device.healthy, "detail": device.detail}
                self._log.publish(EventKind.DEVICE_STATE, name, **said)
        for name in before.devices.keys() - now.devices.keys():
            gone = before.devices[name].name
            self._log.publish(EventKind.DEVICE_STATE, name, name=gone, healthy=False, detail="it is not there any more")

    def _commands(self, before: Snapshot, now: Snapshot) -> None:
        if now.ack is not None and now.ack != before.ack:
            self._log.publish(EventKind.DESIRED, epoch=now.ack.epoch, revision=now.ack.revision)
        if now.draining is not before.draining:
            self._log.publish(EventKind.DRAIN, draining=now.draining)


def _busy(now: Snapshot) -> bool:
    moving = {FetchState.WAITING, FetchState.FETCHING, FetchState.VERIFYING}
    return any(fetch.state in moving for fetch in now.fetches.values())


def _news(worker: WorkerReport) -> tuple[Observed, str]:
    return worker.state, wording(worker.state, worker.detail)


def _ended(old: WorkerReport, now: WorkerReport) -> bool:
    if now.restarts > old.restarts and old.state not in _ENDED:
        return True
    return old.state not in _ENDED and now.state in _ENDED
