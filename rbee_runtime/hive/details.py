"""Why a worker is in its state and what happens next, for a person who asks about this one."""

from collections.abc import Iterable

from rbee_runtime.hive.answers import WorkerDetail
from rbee_runtime.hive.scene import Act, Decision
from rbee_runtime.hive.supervisor import Supervisor
from rbee_runtime.protocol import FetchReport, WorkerReport
from rbee_runtime.states import Observed

_NEXT = {
    Observed.FETCHING: "it is started once its model is on this host's disk",
    Observed.STARTING: "it takes requests once its model is loaded",
    Observed.READY: "it takes requests",
    Observed.DRAINING: "it stops once its requests are answered",
    Observed.STOPPING: "it is about to end",
    Observed.BACKOFF: "it is started as soon as it need not wait any more",
    Observed.DRIFTED: "it is stopped and started with the new spec",
    Observed.ORPHAN: "it is stopped once the queen's document says that it is not wanted",
}


def detail(host: str, report: WorkerReport, supervisor: Supervisor, *, now: float) -> WorkerDetail:
    """Return all that is known of a worker that the supervisor has; `now` by the supervisor's clock."""
    view = supervisor.views[report.id]
    health = supervisor.prober.health.get(report.id)
    record = view.decision.record
    silent = health.silent_since if health is not None else None
    return WorkerDetail(
        host=host,
        report=report,
        wanted=view.wanted,
        pid=view.status.pid if view.status is not None else None,
        phase=view.status.phase.value if view.status is not None else "",
        next_step=_next_step(view.decision, report, supervisor.fetching.fetches),
        streak=record.streak,
        recent_failures=len(record.failures),
        blocked=bool(record.blocked),
        silent=None if silent is None else round(now - silent, 3),
        said=record.said or (health.said if health is not None else ""),
    )


def _next_step(decision: Decision, report: WorkerReport, fetches: Iterable[FetchReport]) -> str:
    if decision.record.blocked:
        return "it is not tried again until its spec or its model changes"
    if decision.act is Act.START:
        return "it is being started"
    if report.next_try > 0:
        return f"it is started again in {report.next_try:.0f} s"
    after = next((fetch.next_try for fetch in fetches if fetch.name == report.model), 0.0)
    if decision.state is Observed.FETCHING and after:
        return f"its model is fetched again in {after:.0f} s, and at once when its source in the inventory changes"
    return _NEXT.get(decision.state, "")
