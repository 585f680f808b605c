"""What clients are told of a model that has no worker to go to. Pure.

Hives explain themselves with the other workers on their devices. A key for one model need not know of any other.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rbee_runtime.brief import cut, few
from rbee_runtime.protocol import Heartbeat, WorkerReport
from rbee_runtime.queen.records import Assignment
from rbee_runtime.states import ExitReason, FetchState, Observed

PERMANENT = frozenset({ExitReason.BAD_MODEL, ExitReason.BAD_CONFIG, ExitReason.ENGINE_MISSING})
"""A hive does not try these again by itself."""

ELSEWHERE = frozenset({ExitReason.OUT_OF_MEMORY, ExitReason.DEVICE_LOST})
"""A hive does not try these again until its memory or its devices change; another hive may have both."""

MOST_HIVES, MOST_LETTERS = 3, 240


@dataclass(frozen=True)
class Standing:
    """One worker of a model, and what its hive said last, None if nothing yet."""

    entry: Assignment
    heard: Heartbeat | None

    @property
    def report(self) -> WorkerReport | None:
        """Return the worker as its hive saw it."""
        reports = self.heard.workers if self.heard is not None else ()
        return next((report for report in reports if report.id == self.entry.id), None)

    @property
    def quarantined(self) -> bool:
        """Say whether the files of its model are wrong where they come from."""
        fetches = self.heard.fetches if self.heard is not None else ()
        model = self.entry.spec.model
        return any(fetch.name == model and fetch.state is FetchState.QUARANTINED for fetch in fetches)

    @property
    def said(self) -> str:
        """Return why it is not ready, or its bare state, "" if nobody told."""
        if self.heard is None or self.report is None:
            return ""
        said = self.report.detail or self.report.state.value
        others = (each.id for each in self.heard.workers if each.model != self.entry.spec.model)
        # The longest first, as one id may begin another.
        for other in sorted(others, key=len, reverse=True):
            said = said.replace(other, "another worker")
        return cut(said, MOST_LETTERS)


def hopeless(standings: Sequence[Standing]) -> str:
    """Return why none of these will be ready without somebody's help, "" if one may be, or there is none."""
    if not standings:
        return ""
    if all(_needs_help(standing.report) for standing in standings):
        return f"its workers fail to start: {standings[0].said}"
    if all(standing.quarantined for standing in standings):
        return f"its files are not what they should be: {standings[0].said}"
    return ""


def absence(standings: Sequence[Standing]) -> str:
    """Return what keeps each of these from being ready now, by hive, "" where nobody knows."""
    ordered = sorted(standings, key=lambda standing: standing.entry.hive)
    told = [f"{standing.entry.hive}: {standing.said}" for standing in ordered if standing.said]
    return few(told, MOST_HIVES, joint="; ")


def stuck(reports: Mapping[str, WorkerReport | None], before: Collection[str]) -> frozenset[str]:
    """Return the workers that wait for memory or a device of their hive, and those that did and do not serve yet.

    Each further try there would otherwise end the load of their replacement.
    """
    return frozenset(
        worker
        for worker, report in reports.items()
        if (report is not None and report.state is Observed.EXITED and report.last_exit in ELSEWHERE)
        or (worker in before and (report is None or report.state is not Observed.READY))
    )


def _needs_help(report: WorkerReport | None) -> bool:
    if report is None:
        return False
    blocked = report.state is Observed.EXITED and report.last_exit in PERMANENT | ELSEWHERE
    return blocked or report.state is Observed.CRASH_LOOP
