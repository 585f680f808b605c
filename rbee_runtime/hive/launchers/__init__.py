"""Who owns worker processes: one interface by worker id, so that the supervisor never sees a pid or a unit name."""

import importlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, cast

from rbee_runtime.config import HiveConfig

_MAKERS = {
    "systemd": "rbee_runtime.hive.launchers.systemd",
    "process": "rbee_runtime.hive.launchers.process",
    "podman": "rbee_runtime.hive.launchers.around",
    "docker": "rbee_runtime.hive.launchers.around",
}
"""Who has the `launcher` function of each; the clients of container engines take seconds to import."""


class Phase(StrEnum):
    """What a launcher knows of a worker's process."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True)
class UnitStatus:
    """One worker's process.

    `spec` is the digest that it was started with where the launcher itself knows it. At most one of `exit_status` and
    `exit_signal` is set, and only once ended; both None then means that nobody saw the end. `out_of_memory` is the
    launcher's own knowledge, `said` one more sentence of it for a person.
    """

    worker: str
    phase: Phase
    pid: int | None = None
    spec: str | None = None
    exit_status: int | None = None
    exit_signal: int | None = None
    out_of_memory: bool = False
    said: str = ""

    @property
    def alive(self) -> bool:
        """Say whether there is a process, or one is about to be."""
        return self.phase is not Phase.ENDED


class Launcher(Protocol):
    """Starts, stops and lists workers; each method raises LauncherError with one sentence and never blocks the loop."""

    @property
    def poll_seconds(self) -> float:
        """Return how often `list` may be called when nothing happens."""

    async def list(self) -> Mapping[str, UnitStatus]:
        """Return every worker that runs or whose end is still on record, by id."""

    async def start(self, worker: str, launch_file: Path, spec: str) -> None:
        """Start a worker from its launch file; a second one under the same id is never started."""

    async def stop(self, worker: str) -> None:
        """Ask a worker to drain and end, and end it by force once its drain time is over; does not wait."""

    async def kill(self, worker: str) -> None:
        """End a worker that does not react at once, whatever it is doing; does not wait.

        Raises LauncherError also where only a gentler way was open, and takes that way.
        """

    async def forget(self, worker: str) -> None:
        """Drop what is on record of a worker that has ended."""

    async def logs(self, worker: str, lines: int) -> str:
        """Return the last `lines` lines that the worker wrote."""

    def follow(self, worker: str, lines: int) -> AsyncGenerator[str, None]:
        """Yield the last `lines` lines and each new one, until the caller closes it or no more can come."""


def build(config: HiveConfig) -> Launcher:
    """Return the launcher that the settings name; ConfigError."""
    module = importlib.import_module(_MAKERS[config.launcher])
    return cast("Launcher", module.launcher(config))
