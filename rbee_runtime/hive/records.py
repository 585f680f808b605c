"""What the hive remembers of each worker over its own restarts: `<state_dir>/records/<id>.json`.

Times are seconds since boot (CLOCK_BOOTTIME): they mean the same to every hive process of one boot, and `boot` says
which boot that was.

A record that cannot be written is kept in memory and written later: workers go on, nothing is started meanwhile.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from rbee_runtime import durable, logs
from rbee_runtime.errors import StateError
from rbee_runtime.hive import state_files
from rbee_runtime.protocol import Message, WorkerLaunch, WorkerSpec, encode
from rbee_runtime.states import ExitReason

SCHEMA = 1
"""Files of a newer schema may mean something else by a known name, so they are not read."""


_UNKNOWN_LAUNCH = 0.0
"""When a worker was launched whose record was lost."""


class WorkerRecord(Message, frozen=True, kw_only=True):
    """One worker.

    `spec` is the digest, `basis` the model and credentials and `stamp` the files that it was last launched with;
    `launched` is None while none of our launches is unaccounted for. `streak` counts failures since the last healthy
    spell, `failures` are the times of the recent ones, `blocked` is the attempt that must not be repeated as it was.
    `restarts` counts starts after an end, a reboot being none. `stop_as` is what a stop counts as when the worker was
    given up (None: it was asked for), `stop_repeats` how often it was asked again; `stranger_since` is when a process
    was first seen of which nothing on this host says what it is. `options` marks the engine's options, `build` is
    the code that was asked for. `starved` counts ends for want of memory in a row; `need` is what it may take on
    each of its devices and `had` what was free there at its last start, bytes.
    """

    id: str
    schema: int = SCHEMA
    boot: str = ""
    model: str = ""
    engine: str = ""
    context: int = 0
    slots: int = 1
    options: str = ""
    spec: str = ""
    build: str = ""
    basis: str = ""
    stamp: str = ""
    port: int = 0
    launched: float | None = None
    ready_since: float | None = None
    stop_asked: float | None = None
    stop_as: ExitReason | None = None
    stop_said: str = ""
    stop_repeats: int = 0
    stranger_since: float | None = None
    restarts: int = 0
    streak: int = 0
    failures: tuple[float, ...] = ()
    crash_loop: bool = False
    next_try: float = 0.0
    last_exit: ExitReason | None = None
    exit_status: int | None = None
    exit_signal: int | None = None
    said: str = ""
    blocked: str = ""
    devices: tuple[str, ...] = ()
    need: int = 0
    starved: int = 0
    had: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Return what must agree for a running worker to be adopted."""
        return f"{self.spec}/{self.basis}"

    @property
    def attempt(self) -> str:
        """Return what must differ for a start that failed for good to be tried again."""
        return f"{self.identity}/{self.stamp}"


class Records:
    """All records, written through to disk on change, and the files of starts with them.

    `trouble` is why something is not on disk yet, or "".
    """

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / "records"
        read = {path: _read(path) for path in sorted(self._folder.glob("*.json"))}
        self._held = {record.id: record for record, _ in read.values() if record is not None}
        self._unread = {path: said for path, (_, said) in read.items() if said}
        self._waiting: dict[Path, bytes | None] = {}
        self.trouble = ""

    def __getitem__(self, worker: str) -> WorkerRecord:
        """Return a record, empty if there is none."""
        return self._held.get(worker) or WorkerRecord(id=worker)

    @property
    def unread(self) -> tuple[str, ...]:
        """Return why files are not followed that have neither been written again nor removed yet."""
        return tuple(self._unread.values())

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids on record."""
        return iter(tuple(self._held))

    def put(self, record: WorkerRecord) -> None:
        """Keep a record; writes only if it differs, and later if the disk refuses now."""
        if self._held.get(record.id) != record:
            self._held[record.id] = record
            self._write(record.id)

    def drop(self, worker: str) -> None:
        """Forget a worker."""
        self._held.pop(worker, None)
        self._write(worker)

    def retry(self) -> None:
        """Do what the disk refused so far, and see which files that were not followed a person has removed."""
        self._unread = {path: said for path, said in self._unread.items() if not _is_gone(path)}
        with contextlib.suppress(StateError):
            for path, data in sorted(self._waiting.items()):
                self.keep(path, data)

    def keep(self, path: Path, data: bytes | None) -> None:
        """Write a file, or remove it (None); StateError is a disk that refuses now and gets it at a later `retry`."""
        self._waiting[path] = data
        try:
            if data is None:
                durable.remove(path)
            else:
                durable.write(path, data)
        except StateError as error:
            if str(error) != self.trouble:
                logs.error("state_not_written", detail=error)
            self.trouble = str(error)
            raise
        del self._waiting[path]
        self._unread.pop(path, None)
        if self.trouble and not self._waiting:
            logs.info("state_written")
            self.trouble = ""

    def _write(self, worker: str) -> None:
        record = self._held.get(worker)
        with contextlib.suppress(StateError):
            self.keep(self._folder / f"{worker}.json", None if record is None else encode(record))


def options_mark(spec: WorkerSpec) -> str:
    """Return a short mark of an engine's options, "" for none; cache types and batch sizes are among them."""
    if not spec.options:
        return ""
    return hashlib.sha256(msgspec.json.encode(spec.options, order="sorted")).hexdigest()[:8]


def of_spec(record: WorkerRecord, spec: WorkerSpec) -> WorkerRecord:
    """Return the record of a launch with this spec."""
    return msgspec.structs.replace(
        record,
        model=spec.model,
        engine=spec.engine,
        context=spec.context,
        slots=spec.slots,
        options=options_mark(spec),
        spec=spec.digest(),
        build=spec.build,
        devices=spec.devices,
    )


def recovered(launch: WorkerLaunch, *, boot: str, basis: str) -> WorkerRecord:
    """Return the record of a running worker whose own was lost, from the launch file that it was started with.

    `basis` is "" while its model has not been seen; the first look at it settles that.
    """
    bare = WorkerRecord(id=launch.worker.id, boot=boot, basis=basis, port=launch.port, launched=_UNKNOWN_LAUNCH)
    return of_spec(bare, launch.worker)


def is_recovered(record: WorkerRecord) -> bool:
    """Say whether this is such a record, and still of the process that was running then."""
    return record.launched == _UNKNOWN_LAUNCH


def _is_gone(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        # On a disk that fails it is not known to be gone.
        return False
    return False


def _read(path: Path) -> tuple[WorkerRecord | None, str]:
    then = "restart counts of that worker begin anew; if no such worker is wanted any more, remove the file"
    record, said = state_files.read(path, WorkerRecord, newest=SCHEMA, until_then=then)
    if record is None or record.id == path.stem:
        return record, said
    return None, state_files.refused(path, f"is of worker {record.id!r}", then)
