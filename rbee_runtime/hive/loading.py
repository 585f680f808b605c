"""How long a worker has been loading, and whether its load still goes on; pure, from what each look sees of it.

A worker that loads keeps its GPU's other workers waiting (`ledger.wait`), so one whose load has stopped is given up
long before the limit of all loads. Each is killed and tried again on the schedule, which frees card and turn.

what a look sees                                              what it means
the share that the worker tells has changed                   it goes on
memory of host or device has changed by 16 MiB                it goes on: weights come in, or compilers come and go
it has read files (major faults, or bytes by read calls)      it goes on: a slow disk is slow, not hung
only processor time, a tenth of a core or more                compiling or capturing graphs: enough for 15 minutes;
                                                              a thread that spins in a driver looks the same
none of these                                                 stuck, after 3 minutes
its processes cannot be read (no /proc, another namespace)    nothing is known: only the limit of all loads holds;
                                                              one older than the launch is somebody else's
the hive was not there to look (suspended, stalled, restarted) no time passes: seconds are those that looks witnessed
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rbee_runtime.devices import Scan
from rbee_runtime.hive.health import Health, witnessed
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.ledger import Ledger
from rbee_runtime.hive.records import WorkerRecord

LOAD_SECONDS = 1800.0
"""All that is not reading the model takes less: making room, compiling, warming up."""

SLOWEST_BYTES = 10e6
"""Per second: a busy network disk. A model that takes more than half an hour at that rate gets as long as it takes."""

STUCK_SECONDS = 180.0
"""Drivers that wake several cards take up to a minute, and network disks come back within two when they do at all."""

BUSY_SECONDS = 900.0
"""Engines that compile for a new card take up to ten minutes."""

BYTES_STEP = 16 * 1024**2
FAULTS_STEP = 64
CPU_SHARE = 0.1
"""Of a core. Our own probes cost a loading worker about a hundredth."""

CPU_SPELL = 30.0
"""Seconds over which processor time is averaged; over longer ones a wait would outweigh what is used now."""

START_SLACK = 1.0
"""Seconds; a process counts its start in ticks, rounded down."""

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Signs:
    """What one look sees: share told, bytes on host and devices, seconds of processor time, major faults, bytes read.

    `read` stays 0 for processes of another user, about which the kernel does not tell it.
    """

    loaded: float = 0.0
    memory: int = 0
    cpu: float = 0.0
    faults: int = 0
    read: int = 0


@dataclass(frozen=True)
class Load:
    """One load that runs, in witnessed seconds: `total`, `quiet` since any sign, `busy` since one that is not CPU time.

    `mark` is what was seen at the last sign, None before the first look that saw something; `at` the last look, `spell`
    the seconds since the processor time in `mark`.
    """

    at: float
    total: float = 0.0
    quiet: float = 0.0
    busy: float = 0.0
    spell: float = 0.0
    mark: Signs | None = None


class Loads:
    """Owns the loads that run, by worker."""

    def __init__(self, clock: Callable[[], float], *, proc: Path = Path("/proc")) -> None:
        self._clock = clock
        self._proc = proc
        self.held: dict[str, Load] = {}

    def tick(
        self,
        statuses: Mapping[str, UnitStatus],
        records: Mapping[str, WorkerRecord],
        *,
        health: Mapping[str, Health],
        scan: Scan | None,
        ledger: Ledger,
    ) -> None:
        """Look at every worker that loads, and forget the others."""
        before, now = self.held, self._clock()
        families = scan.workers if scan is not None else {}
        self.held = {}
        for worker, status in statuses.items():
            record, heard = records.get(worker) or WorkerRecord(id=worker), health.get(worker)
            if not _loads(status, record, heard):
                continue
            pids = families.get(status.pid, frozenset((status.pid,))) if status.pid is not None else ()
            signs = look(
                pids,
                loaded=heard.loaded if heard is not None else 0.0,
                devices=sum(ledger.memory(worker).values()),
                since=record.launched or 0.0,
                proc=self._proc,
            )
            self.held[worker] = watch(before.get(worker), signs, now=now)


def watch(before: Load | None, signs: Signs | None, *, now: float) -> Load:
    """Return the load after one more look; `signs` None is a worker whose processes cannot be seen."""
    if before is None:
        return Load(now, mark=signs)
    passed = witnessed(before.at, now)
    load = replace(before, at=now, total=before.total + passed)
    mark = before.mark
    if signs is None or mark is None or _moved(mark, signs):
        return replace(load, quiet=0.0, busy=0.0, spell=0.0, mark=signs)
    load = replace(load, quiet=load.quiet + passed, busy=load.busy + passed, spell=load.spell + passed)
    used = signs.cpu - mark.cpu
    # Children that end take their time with them, or hand it over all at once; either way something happened.
    used_much = used < 0 or used >= CPU_SHARE * max(load.spell, 1.0)
    if not used_much and load.spell < CPU_SPELL:
        return load
    return replace(load, quiet=0.0 if used_much else load.quiet, spell=0.0, mark=replace(mark, cpu=signs.cpu))


def verdict(load: Load | None, *, size: int = 0) -> str:
    """Return why the load of a model of `size` bytes (0 if unknown) is given up, or ""."""
    if load is None:
        return ""
    limit = max(LOAD_SECONDS, size / SLOWEST_BYTES)
    if load.total >= limit:
        return f"it was not ready after loading for {limit:.0f} s"
    if load.quiet >= STUCK_SECONDS:
        return f"its load has stopped: no progress, processor time, memory or disk reads for {STUCK_SECONDS:g} s"
    if load.busy >= BUSY_SECONDS:
        return f"its load has stopped: for {BUSY_SECONDS:g} s it used processor time and nothing else changed"
    return ""


def look(
    pids: Iterable[int], *, loaded: float, devices: int, since: float = 0.0, proc: Path = Path("/proc")
) -> Signs | None:
    """Return the signs of a worker's processes, or None if none of them can be read; `devices` is bytes on GPUs.

    `since` is when it was launched, in seconds since boot.
    """
    folders = [proc / str(pid) for pid in pids]
    found = [fields for folder in folders if (fields := _stat(folder / "stat"))]
    # Counted from the field after the name: 9 majflt, 11 utime, 12 stime, 13 and 14 those of ended children,
    # 19 starttime, 21 rss.
    strange = any(int(fields[19]) / _TICKS < since - START_SLACK for fields in found)
    if not found or strange:
        return None
    return Signs(
        loaded=loaded,
        memory=devices + sum(int(fields[21]) for fields in found) * _PAGE,
        cpu=sum(int(field) for fields in found for field in fields[11:15]) / _TICKS,
        faults=sum(int(fields[9]) for fields in found),
        read=sum(_read(folder / "io") for folder in folders),
    )


def _loads(status: UnitStatus, record: WorkerRecord, health: Health | None) -> bool:
    if not status.alive or status.phase is Phase.STOPPING or record.stop_asked is not None:
        return False
    # What answers that it is ready has loaded, also where its device keeps it out of rotation.
    return record.ready_since is None and not (health is not None and health.ready)


def _moved(mark: Signs, now: Signs) -> bool:
    more = max(abs(now.memory - mark.memory), abs(now.read - mark.read)) >= BYTES_STEP
    return now.loaded != mark.loaded or more or abs(now.faults - mark.faults) >= FAULTS_STEP


def _stat(path: Path) -> list[str]:
    try:
        fields = path.read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return []
    return fields if len(fields) > 21 else []


def _read(path: Path) -> int:
    try:
        return next((int(line[7:]) for line in path.read_text().splitlines() if line.startswith("rchar: ")), 0)
    except (OSError, ValueError):
        return 0
