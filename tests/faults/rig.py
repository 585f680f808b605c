"""A supervisor without its API: on an injected clock with scripted workers, or on the real one with real workers."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbee_runtime.config import HiveConfig
from rbee_runtime.devices import Scan
from rbee_runtime.hive import reports
from rbee_runtime.hive.launchers import Launcher, Phase, UnitStatus
from rbee_runtime.hive.loading import Loads
from rbee_runtime.hive.supervisor import Supervisor
from rbee_runtime.link import Link, Role
from rbee_runtime.protocol import Desired, ModelSpec, WorkerReport, WorkerSpec

FLEET = "faults"


@dataclass
class Clock:
    """Seconds that pass only when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class ScriptedLauncher:
    """Workers that do as `ends` says: an exit status at once, or None to run; `starts` are (worker, time)."""

    clock: Clock
    ends: int | None = None
    starts: list[tuple[str, float]] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    statuses: dict[str, UnitStatus] = field(default_factory=dict)
    poll_seconds = 2.0

    async def list(self) -> Mapping[str, UnitStatus]:
        return dict(self.statuses)

    async def start(self, worker: str, launch_file: Path, spec: str) -> None:
        self.starts.append((worker, self.clock.now))
        phase = Phase.RUNNING if self.ends is None else Phase.ENDED
        self.statuses[worker] = UnitStatus(worker, phase, pid=4000 + len(self.starts), spec=spec, exit_status=self.ends)

    async def stop(self, worker: str) -> None:
        self.statuses.pop(worker, None)

    async def kill(self, worker: str) -> None:
        self.killed.append(worker)
        self.statuses[worker] = UnitStatus(worker, Phase.ENDED, exit_signal=9)

    async def forget(self, worker: str) -> None:
        self.statuses.pop(worker, None)

    async def logs(self, worker: str, lines: int) -> str:
        return ""

    async def follow(self, worker: str, lines: int) -> AsyncGenerator[str, None]:
        nothing: tuple[str, ...] = ()
        for line in nothing:
            yield line


@dataclass
class Rig:
    """One supervisor; `scan` is what it hears of devices."""

    supervisor: Supervisor
    launcher: Launcher
    clock: Any
    config: HiveConfig
    scan: Scan | None = None

    def report(self, worker: str) -> WorkerReport | None:
        """Return what the queen would be told."""
        found = reports.workers(
            self.supervisor.views,
            self.supervisor.prober.health,
            ledger=self.supervisor.ledger,
            config=self.config,
            now=self.clock(),
        )
        return next((report for report in found if report.id == worker), None)

    async def simulate(self, seconds: float, *, step: float = 0.0) -> None:
        """Let time pass on the injected clock, one look after the other."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            await self.tick()
            pause = self.supervisor._pause()
            self.clock.now += min(pause, step) if step else pause

    async def tick(self) -> None:
        """Look, decide and act once."""
        self.supervisor._event.clear()
        self.supervisor._answer_requests()
        await self.supervisor._tick()

    async def follow(self, document: Desired) -> None:
        """Have a document followed."""
        asked = asyncio.create_task(self.supervisor.follow(document))
        await asyncio.sleep(0)
        await self.tick()
        await asked

    async def close(self) -> None:
        """Let go of what the supervisor holds."""
        await self.supervisor._last_words.close()
        await self.supervisor._disk.close()
        await self.supervisor.fetching.close()


def rig(config: HiveConfig, launcher: Launcher, clock: Any) -> Rig:
    """Return a supervisor on these settings, with a token instead of certificates."""
    link = Link(Role.HIVE, FLEET, token="token")
    made: Rig
    supervisor = Supervisor(config, link, launcher, boot="boot", clock=clock, devices=lambda: made.scan)
    # Scripted workers have made-up pids, under which this machine may run something else.
    supervisor._loads = Loads(clock, proc=config.state_dir / "proc")
    made = Rig(supervisor, launcher, clock, config)
    return made


def settings(folder: Path, ports: tuple[int, int]) -> HiveConfig:
    """Return the settings of a hive that keeps everything in one folder."""
    return HiveConfig(
        fleet=FLEET,
        name="h1",
        address="127.0.0.1",
        state_dir=folder / "state",
        run_dir=folder / "run",
        models_dir=folder / "models",
        engines_dir=folder / "engines",
        launcher="process",
        worker_ports=ports,
    )


def document(revision: int, *workers: WorkerSpec) -> Desired:
    """Return a document with these workers of the fake engine."""
    models = tuple(ModelSpec(name=name, source="fake:") for name in sorted({spec.model for spec in workers}))
    return Desired(fleet=FLEET, epoch=1, revision=revision, workers=workers, models=models)


def worker(name: str, *devices: str, **options: Any) -> WorkerSpec:
    """Return a spec for the fake engine."""
    return WorkerSpec(id=name, model="m", engine="fake", devices=devices, options=options)
