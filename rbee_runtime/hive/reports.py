"""What the hive tells about itself: worker reports and the heartbeat, from the supervisor's views."""

from collections import Counter
from collections.abc import Mapping

from rbee_runtime import __version__
from rbee_runtime.config import HiveConfig
from rbee_runtime.hive.health import Health
from rbee_runtime.hive.supervisor import Supervisor, View
from rbee_runtime.link import Link
from rbee_runtime.protocol import DeviceReport, Heartbeat, WorkerReport


def workers(views: Mapping[str, View], health: Mapping[str, Health], *, address: str, now: float) -> list[WorkerReport]:
    """Return one report per worker."""
    return [_worker(view, health.get(worker), address, now) for worker, view in views.items()]


def _worker(view: View, health: Health | None, address: str, now: float) -> WorkerReport:
    decision = view.decision
    record = decision.record
    running = view.status is not None and view.status.alive
    wanted = view.wanted
    spec = record.spec if running or wanted is None else wanted.digest()
    return WorkerReport(
        id=decision.worker,
        model=record.model or (wanted.model if wanted is not None else ""),
        spec=(health.spec if health is not None else "") or spec,
        state=decision.state,
        engine=record.engine or (wanted.engine if wanted is not None else ""),
        address=address if record.port else "",
        port=record.port,
        context=record.context or (wanted.context if wanted is not None else 0),
        slots=record.slots,
        in_flight=health.in_flight if health is not None else 0,
        restarts=record.restarts,
        since=round(now - view.since, 3),
        detail=decision.said,
        last_exit=record.last_exit,
    )


def heartbeat(
    config: HiveConfig,
    link: Link,
    supervisor: Supervisor,
    *,
    incarnation: str,
    devices: tuple[DeviceReport, ...],
    now: float,
) -> Heartbeat:
    """Return the heartbeat of this moment."""
    ack = supervisor.ack
    host = f"[{config.advertise}]" if ":" in config.advertise else config.advertise
    return Heartbeat(
        hive=config.name,
        incarnation=incarnation,
        url=f"{link.scheme}://{host}:{config.port}",
        epoch=ack.epoch,
        revision=ack.revision,
        version=__version__,
        engines=supervisor.engine_names,
        devices=devices,
        models=supervisor.fetching.reports,
        workers=tuple(workers(supervisor.views, supervisor.prober.health, address=config.advertise, now=now)),
    )


def summary(supervisor: Supervisor, *, queen: str) -> str:
    """Return one line for `systemctl status`, such as `2 workers ready, 1 backoff, queen reachable`."""
    counts = Counter(view.decision.state.value for view in supervisor.views.values())
    ready = counts.pop("ready", 0)
    others = [f"{count} {state}" for state, count in sorted(counts.items())]
    return ", ".join([f"{ready} worker{'' if ready == 1 else 's'} ready", *others, f"queen {queen}"])
