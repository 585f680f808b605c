"""Gives running workers whose record was lost a new one, from the launch file that they were started with."""

from collections.abc import Callable, Mapping

import msgspec

from rbee_runtime.hive import records
from rbee_runtime.hive.actions import Actions
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.scene import ModelState
from rbee_runtime.protocol import WorkerSpec


class Recovery:
    """Works in two steps: whose a process is, at once; what it takes, once its model was seen."""

    def __init__(self, held: records.Records, actions: Actions, *, boot: str) -> None:
        self._records = held
        self._actions = actions
        self._boot = boot

    def adopt(self, statuses: Mapping[str, UnitStatus]) -> None:
        """Put every running worker on record, so that it can be reached, adopted, and its model is known to be used."""
        for worker, status in statuses.items():
            launch = self._actions.launch_of(worker) if status.alive and not self._records[worker].spec else None
            if launch is not None:
                self._records.put(records.recovered(launch, boot=self._boot, basis=""))

    def presumed(self) -> dict[str, UnitStatus]:
        """Return the workers that ran when their records were written, for as long as the launcher tells nothing."""
        held = (self._records[worker] for worker in self._records)
        return {
            record.id: UnitStatus(record.id, Phase.RUNNING, spec=record.spec)
            for record in held
            if record.launched is not None and record.boot == self._boot
        }

    def complete(
        self,
        statuses: Mapping[str, UnitStatus],
        models: Mapping[str, ModelState],
        need: Callable[[WorkerSpec, ModelState | None], int],
    ) -> None:
        """Note what those may take whose model is known by now."""
        for worker in statuses:
            record = self._records[worker]
            model = models.get(record.model)
            if not records.is_recovered(record) or record.need or model is None or not model.size:
                continue
            launch = self._actions.launch_of(worker)
            if launch is not None:
                self._records.put(msgspec.structs.replace(record, need=need(launch.worker, model)))
