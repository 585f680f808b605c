"""Keeps the ledger: brings scans, running workers and estimates together, tick by tick."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from rbee_runtime import logs
from rbee_runtime.devices import Scan
from rbee_runtime.errors import RbeeError
from rbee_runtime.hive import ledger as books
from rbee_runtime.hive.estimates import Estimates, key
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.ledger import CPU, Holder, Ledger, Look
from rbee_runtime.hive.records import WorkerRecord, options_mark
from rbee_runtime.hive.scene import ModelState
from rbee_runtime.models import estimate, needs
from rbee_runtime.models.facts import ModelFacts
from rbee_runtime.protocol import WorkerSpec

OVERHEAD = 1.1
"""Of a model that never ran here: its weights and a tenth for everything else."""

CPU_LOADS = max(2, (os.cpu_count() or 2) // 2)
CPU_TURN_SECONDS = 60.0
"""Starts at once cost processor time, so they are spread; a slow disk is no reason to wait for each other."""


STUBBORN_REPEATS = 6
STUBBORN_SECONDS = 300.0
"""A worker that does not end, after so many requests or so long after one that began, keeps no neighbour waiting any
more: its process may hang in a driver for ever. What it takes stays counted."""


class Memory:
    """Owns the ledger and the estimates; `devices` returns the latest scan, or None before the first."""

    def __init__(self, state_dir: Path, *, devices: Callable[[], Scan | None], clock: Callable[[], float]) -> None:
        self._estimates = Estimates(state_dir)
        self._devices = devices
        self._clock = clock
        self._look = Look(at=0.0)
        self.scan: Scan | None = None
        self.ledger = Ledger()

    @property
    def trouble(self) -> str:
        """Return why the estimates on disk are not followed, or ""."""
        return self._estimates.trouble

    def tick(self, statuses: Mapping[str, UnitStatus], records: Mapping[str, WorkerRecord]) -> None:
        """Take the latest scan and the running workers into account."""
        now, scan = self._clock(), self._devices()
        if scan is not None and scan is not self.scan:
            self._look = Look(at=now, scan=scan)
        self.scan = scan
        holders = _holders(statuses, records, now)
        self.ledger = books.advance(self.ledger, self._look, holders, now=now, cpu_limit=CPU_LOADS)
        for worker, device in self.ledger.assumed:
            said = f"no scan showed it within {books.RELEASE_SECONDS:g} s; it counts as free"
            logs.warning("memory_not_seen_free", worker=worker, device=device, detail=said)
        self._learn(records)

    def need(self, spec: WorkerSpec, model: ModelState | None) -> int:
        """Return the bytes that a worker may take on each of its devices; 0 if nothing is known."""
        if model is None:
            return 0
        devices = books.places(spec.devices)
        names = self._names(spec, options_mark(spec), model.basis, devices)
        known = [peak for name in names if (peak := self._estimates.peak(name)) is not None]
        if CPU in devices:
            # Mapped weights are page cache, which no measurement of a process shows; without them in memory it crawls.
            return max([guess(spec, model), *known])
        return max(known) if known else guess(spec, model)

    def _learn(self, records: Mapping[str, WorkerRecord]) -> None:
        for device, account in self.ledger.accounts.items():
            for worker, size in account.measured.items():
                record = records.get(worker)
                # One that still loads has not taken yet what it will, and its neighbour would be let in for that.
                if record is None or record.ready_since is None:
                    continue
                spec = WorkerSpec(
                    id=worker,
                    model=record.model,
                    engine=record.engine,
                    context=record.context,
                    slots=record.slots,
                    devices=record.devices,
                )
                for name in self._names(spec, record.options, record.basis.partition("/")[0], (device,)):
                    self._estimates.observe(name, size)
        self._estimates.save(now=self._clock())

    def _names(self, spec: WorkerSpec, options: str, content: str, devices: tuple[str, ...]) -> list[str]:
        named = {device.id: device.name for device in self.scan.devices} if self.scan is not None else {}
        return [
            key(
                content=content,
                engine=spec.engine,
                context=spec.context,
                slots=spec.slots,
                device=named[device],
                options=options,
                devices=len(books.places(spec.devices)),
            )
            for device in devices
            if device in named
        ]


def guess(spec: WorkerSpec, model: ModelState) -> int:
    """Return the bytes on each device by the model's own headers, or by the size of its files."""
    devices = books.places(spec.devices)
    more = needs.beside(spec.options, engine=spec.engine, in_memory=devices == (CPU,))
    try:
        facts = msgspec.convert(dict(model.facts), ModelFacts)
        found = estimate.memory(
            facts,
            context=spec.context,
            slots=spec.slots,
            engine=spec.engine,
            accelerated=devices != (CPU,),
            devices=len(devices),
            settings=needs.settings_of(spec.options, facts, engine=spec.engine),
        )
    except (msgspec.ValidationError, RbeeError):
        return int(model.size * OVERHEAD / len(devices)) + more
    return found.total + more


def _holders(statuses: Mapping[str, UnitStatus], records: Mapping[str, WorkerRecord], now: float) -> Iterator[Holder]:
    for worker, status in statuses.items():
        if not status.alive:
            continue
        record = records.get(worker) or WorkerRecord(id=worker)
        devices = books.places(record.devices)
        long = devices == (CPU,) and now - (record.launched or 0.0) >= CPU_TURN_SECONDS
        stubborn = _stubborn(record, now)
        yield Holder(
            worker,
            devices,
            record.need,
            pid=status.pid,
            loading=record.ready_since is None and not long and not stubborn,
            stopping=(status.phase is Phase.STOPPING or record.stop_asked is not None) and not stubborn,
        )


def _stubborn(record: WorkerRecord, now: float) -> bool:
    asked = record.stop_asked
    return record.stop_repeats >= STUBBORN_REPEATS or (asked is not None and now - asked >= STUBBORN_SECONDS)
