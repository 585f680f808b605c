"""What the hive remembers of each worker over its own restarts: `<state_dir>/records/<id>.json`.

Times are seconds since boot (CLOCK_BOOTTIME): they mean the same to every hive process of one boot, and `boot` says
which boot that was.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from rbee_runtime import durable, logs
from rbee_runtime.protocol import Message, WorkerLaunch, encode
from rbee_runtime.states import ExitReason


class WorkerRecord(Message, frozen=True, kw_only=True):
    """One worker.

    `spec` is the digest, `basis` the model and credentials and `stamp` the files that it was last launched with;
    `launched` is None while none of our launches is unaccounted for. `streak` counts failures since the last healthy
    spell, `failures` are the times of the recent ones, `blocked` is the attempt that must not be repeated as it was.
    `restarts` counts starts after an end, a reboot being none.
    """

    id: str
    boot: str = ""
    model: str = ""
    engine: str = ""
    context: int = 0
    slots: int = 1
    spec: str = ""
    basis: str = ""
    stamp: str = ""
    port: int = 0
    launched: float | None = None
    ready_since: float | None = None
    stop_asked: float | None = None
    restarts: int = 0
    streak: int = 0
    failures: tuple[float, ...] = ()
    crash_loop: bool = False
    next_try: float = 0.0
    last_exit: ExitReason | None = None
    said: str = ""
    blocked: str = ""

    @property
    def identity(self) -> str:
        """Return what must agree for a running worker to be adopted."""
        return f"{self.spec}/{self.basis}"

    @property
    def attempt(self) -> str:
        """Return what must differ for a start that failed for good to be tried again."""
        return f"{self.identity}/{self.stamp}"


class Records:
    """All records, written through to disk on change."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "records"
        self._held = {record.id: record for path in sorted(self._folder.glob("*.json")) if (record := _read(path))}

    def __getitem__(self, worker: str) -> WorkerRecord:
        """Return a record, empty if there is none."""
        return self._held.get(worker) or WorkerRecord(id=worker)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids on record."""
        return iter(tuple(self._held))

    def put(self, record: WorkerRecord) -> None:
        """Keep a record; writes only if it differs."""
        if self._held.get(record.id) != record:
            durable.write(self._path(record.id), encode(record))
            self._held[record.id] = record

    def drop(self, worker: str) -> None:
        """Forget a worker."""
        self._held.pop(worker, None)
        self._path(worker).unlink(missing_ok=True)

    def _path(self, worker: str) -> Path:
        return self._folder / f"{worker}.json"


def recovered(launch: WorkerLaunch, *, boot: str, basis: str) -> WorkerRecord:
    """Return the record of a running worker whose own was lost, from the launch file that it was started with."""
    spec = launch.worker
    return WorkerRecord(
        id=spec.id,
        boot=boot,
        model=spec.model,
        engine=spec.engine,
        context=spec.context,
        slots=spec.slots,
        spec=spec.digest(),
        basis=basis,
        port=launch.port,
        launched=0.0,
    )


def _read(path: Path) -> WorkerRecord | None:
    try:
        record = msgspec.json.decode(path.read_bytes(), type=WorkerRecord)
    except (OSError, msgspec.MsgspecError) as error:
        said = f"cannot be used ({error}): restart counts of that worker begin anew"
        logs.warning("state_file_damaged", file=path, detail=said)
        return None
    return record if record.id == path.stem else None
