"""Spares a launcher its question: as long as every process lives on that was there, the last answer still holds.

Asking systemd about 30 workers takes 45 ms of a core's time, half of it in systemd itself; looking at 30 processes
takes less than one.
"""

from collections.abc import Callable, Mapping

from rbee_runtime.hive.launchers import Phase, UnitStatus, identity

TRUSTED_SECONDS = 15.0
"""A worker that somebody else starts is seen by then; one that ends is seen at once."""

_SETTLED = frozenset({Phase.RUNNING, Phase.ENDED})


class LastAnswer:
    """What a launcher listed last, and how to see that it is out of date."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._statuses: Mapping[str, UnitStatus] = {}
        self._until = 0.0
        self._started: dict[int, int | None] = {}

    def keep(self, statuses: Mapping[str, UnitStatus]) -> Mapping[str, UnitStatus]:
        """Take note of a fresh answer and return it."""
        settled = all(status.phase in _SETTLED for status in statuses.values())
        pids = [status.pid for status in statuses.values() if status.alive]
        self._started = {pid: identity.start_time(pid) for pid in pids if pid is not None}
        # A worker on its way up or down, or without a process to look at, is asked about every time.
        holds = settled and None not in pids and None not in self._started.values()
        self._until = self._clock() + TRUSTED_SECONDS if holds else 0.0
        self._statuses = statuses
        return statuses

    def get(self) -> Mapping[str, UnitStatus] | None:
        """Return the last answer if it still holds."""
        if self._clock() >= self._until:
            return None
        same = all(identity.start_time(pid) == started for pid, started in self._started.items())
        return self._statuses if same else None

    def drop(self) -> None:
        """Trust nothing: something was just asked for."""
        self._until = 0.0
