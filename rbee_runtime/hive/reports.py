"""What the hive tells about itself: worker reports and the heartbeat, from the supervisor's views."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from rbee_runtime import __version__, ports, running
from rbee_runtime.brief import cut, few
from rbee_runtime.config import HiveConfig
from rbee_runtime.devices import Scan
from rbee_runtime.hive.health import Health
from rbee_runtime.hive.launchers.containers import container_name
from rbee_runtime.hive.ledger import Account, Ledger
from rbee_runtime.hive.supervisor import Supervisor, View
from rbee_runtime.link import Link
from rbee_runtime.protocol import DeviceReport, FetchReport, Heartbeat, WorkerReport
from rbee_runtime.states import FetchState, Observed

MOST_SENTENCES, MOST_LETTERS, MOST_NAMES = 3, 240, 5
"""In the one line of `systemctl status`; the API has all."""

_WAITING = frozenset({Observed.BACKOFF, Observed.CRASH_LOOP})
_FAILED = frozenset({FetchState.PARTIAL, FetchState.DISK_FULL, FetchState.QUARANTINED, FetchState.FAILED})


def workers(
    views: Mapping[str, View], health: Mapping[str, Health], *, ledger: Ledger, config: HiveConfig, now: float
) -> list[WorkerReport]:
    """Return one report per worker."""
    address = config.advertise
    built = (_worker(view, health.get(worker), ledger.memory(worker), address, now) for worker, view in views.items())
    return [msgspec.structs.replace(each, unit=_unit(config.launcher, views[each.id])) for each in built]


def _unit(launcher: str, view: View) -> str:
    """Return the name under which the tools of the host show a worker."""
    worker = view.decision.worker
    if launcher == "systemd":
        return ports.worker_unit(worker)
    if launcher == "process":
        return f"pid {view.status.pid}" if view.status is not None and view.status.pid else ""
    return container_name(worker)


def with_workers(scan: Scan | None, supervisor: Supervisor) -> tuple[DeviceReport, ...]:
    """Return the devices of a scan with what the workers of this hive mean for them; none before the first."""
    if scan is None:
        return ()
    faults, accounts = supervisor.faults, supervisor.ledger.accounts
    owners = _owners(scan, supervisor.views) if supervisor.reconciled.is_set() else None
    devices = (_device(each, accounts.get(each.id), faults.get(each.id, ())) for each in scan.devices)
    return tuple(_attributed(device, owners) for device in devices)


def _owners(scan: Scan, views: Mapping[str, View]) -> dict[int, str] | None:
    """Return the worker of each pid, None if the scan was not told of any that runs: all would look like others'."""
    mains = {view.status.pid: worker for worker, view in views.items() if view.status is not None and view.status.pid}
    if mains and not scan.workers:
        return None
    return {pid: mains[main] for main, family in scan.workers.items() if main in mains for pid in family}


def _attributed(device: DeviceReport, owners: Mapping[int, str] | None) -> DeviceReport:
    if owners is None:
        return msgspec.structs.replace(device, processes=())
    named = (msgspec.structs.replace(each, worker=owners.get(each.pid)) for each in device.processes)
    return msgspec.structs.replace(device, processes=tuple(named))


def _device(device: DeviceReport, account: Account | None, finders: tuple[str, ...]) -> DeviceReport:
    if account is not None:
        device = msgspec.structs.replace(
            device,
            reserved=account.reserved,
            measured=sum(account.measured.values()),
            foreign=account.foreign,
        )
    if finders and device.healthy:
        said = f"{finders[0]} found it broken; it counts as well again once {finders[0]} is ready on it"
        device = msgspec.structs.replace(device, healthy=False, detail=said)
    return device


def _worker(view: View, health: Health | None, memory: dict[str, int], address: str, now: float) -> WorkerReport:
    decision = view.decision
    record = decision.record
    alive = view.status is not None and view.status.alive
    wanted = view.wanted
    # What the engine made of the spec counts before what is on record, which is what was asked of it.
    heard = health or Health(since=now)
    spec = heard.spec or record.spec
    if wanted is not None and (not alive or wanted.agrees(spec, record.build)):
        spec = wanted.digest()
    return WorkerReport(
        id=decision.worker,
        model=record.model or (wanted.model if wanted is not None else ""),
        spec=spec,
        state=decision.state,
        engine=record.engine or (wanted.engine if wanted is not None else ""),
        address=address if record.port else "",
        port=record.port,
        context=heard.context or record.context or (wanted.context if wanted is not None else 0),
        slots=heard.slots or record.slots,
        in_flight=heard.in_flight,
        restarts=record.restarts,
        since=round(now - view.since, 3),
        detail=decision.said,
        last_exit=decision.reason or record.last_exit,
        exit_status=record.exit_status,
        exit_signal=record.exit_signal,
        next_try=round(max(0.0, record.next_try - now), 3) if decision.state in _WAITING else 0.0,
        memory=memory,
        wanted=wanted.digest() if wanted is not None else "",
        need=record.need,
    )


def heartbeat(
    config: HiveConfig,
    link: Link,
    supervisor: Supervisor,
    *,
    incarnation: str,
    scan: Scan | None,
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
        engines=tuple(supervisor.engines),
        builds=builds(config, supervisor.engines),
        devices=with_workers(scan, supervisor),
        draining=supervisor.draining,
        detail="; ".join(supervisor.troubles),
        models=supervisor.fetching.reports,
        fetches=supervisor.fetching.fetches,
        workers=tuple(
            workers(
                supervisor.views,
                supervisor.prober.health,
                ledger=supervisor.ledger,
                config=config,
                now=now,
            )
        ),
    )


def builds(config: HiveConfig, engines: Mapping[str, Path | None]) -> dict[str, str]:
    """Return what a worker of each engine runs if it is started now: our release, the worker image, the artefact."""
    images = {name: image.image for name, image in config.containers.images.items()} if config.in_containers else {}
    return {
        name: "+".join(part for part in (running.release(), images.get(name), folder.name if folder else "") if part)
        for name, folder in engines.items()
    }


def summary(supervisor: Supervisor, *, queen: str) -> str:
    """Return one line for `systemctl status`, such as `2 workers ready, 1 backoff, queen reachable`."""
    counts = Counter(view.decision.state.value for view in supervisor.views.values())
    ready = counts.pop("ready", 0)
    others = [f"{count} {state}" for state, count in sorted(counts.items())]
    alone = ["drained"] if supervisor.draining else []
    ways = shortened([*supervisor.troubles, *unfetched(supervisor.fetching.fetches)])
    return ", ".join([*alone, f"{ready} worker{'' if ready == 1 else 's'} ready", *others, f"queen {queen}", *ways])


def shortened(sentences: Sequence[str]) -> list[str]:
    """Return the first sentences, the long ones cut, and how many more there are: a line that a person can read."""
    more = len(sentences) - MOST_SENTENCES
    rest = [f"and {more} more: see `rbee-keeper models` and `rbee-keeper workers`"] if more > 0 else []
    return [*(cut(said, MOST_LETTERS) for said in sentences[:MOST_SENTENCES]), *rest]


def unfetched(fetches: Sequence[FetchReport]) -> list[str]:
    """Return one sentence for each reason why wanted models cannot be fetched now, with their names."""
    why: dict[str, list[str]] = {}
    for fetch in fetches:
        if fetch.state in _FAILED and fetch.detail:
            why.setdefault(fetch.detail.removeprefix(f"model {fetch.name}: "), []).append(fetch.name)
    return [f"model{'s' if len(names) > 1 else ''} {few(names, MOST_NAMES)}: {said}" for said, names in why.items()]
