"""What a host under maintenance still has to do, out of what the queen and the host say; pure."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from rbee_deploy.modes import role_units
from rbee_deploy.observed import Observed
from rbee_deploy.render import digest_path
from rbee_runtime import ports

Row = Mapping[str, Any]

_READY = "ready"


def load(workers: Sequence[Row], hives: Sequence[Row], name: str) -> str:
    """Return what a drained hive still does, "" once it has neither workers nor requests.

    One that is away stops no worker, so that only its requests are waited for.
    """
    mine = [row for row in workers if row["hive"] == name]
    requests = sum(row["in_flight"] for row in mine)
    if absence(hives, name):
        return f"{_count(requests, 'request')} in flight" if requests else ""
    if mine:
        return f"{_count(len(mine), 'worker')} left with {_count(requests, 'request')} in flight"
    follows = any(row["name"] == name and row["follows"] for row in hives)
    return "" if follows else "it has not heard yet that it is drained"


def absence(hives: Sequence[Row], name: str) -> str:
    """Return why a hive cannot be drained or given work now, "" while the queen hears it."""
    state = next((str(row["state"]) for row in hives if row["name"] == name), "unknown")
    return "" if state == "live" else f"its hive is {state} at the queen"


def is_drained(hives: Sequence[Row], name: str) -> bool:
    """Say whether a hive was drained before."""
    return any(row["name"] == name and row["drained"] for row in hives)


def served(workers: Sequence[Row], name: str) -> dict[str, int]:
    """Return, for each model that a hive has a worker of, how many workers of it are ready in the fleet."""
    models = {row["model"] for row in workers if row["hive"] == name}
    return {model: _ready(workers, model) for model in sorted(models)}


def missing(workers: Sequence[Row], name: str, before: Mapping[str, int]) -> str:
    """Return what keeps a hive from serving as it did before its maintenance, "" if it does."""
    late = [f"{row['id']} is {row['state'] or 'not reachable'}" for row in workers if _is_late(row, name)]
    fewer = [
        f"{model} has {_count(ready, 'ready worker')} instead of {wanted}"
        for model, wanted in before.items()
        if (ready := _ready(workers, model)) < wanted
    ]
    return "; ".join([*late, *fewer])


def _is_late(row: Row, name: str) -> bool:
    return bool(row["hive"] == name and row["state"] != _READY)


def _ready(workers: Sequence[Row], model: str) -> int:
    return sum(row["model"] == model and row["state"] == _READY for row in workers)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def unready(facts: Observed, played: Iterable[str]) -> list[str]:
    """Return why roles do not run what the host itself holds: its release link and its files of digests."""
    release = PurePosixPath(str(facts.raw.get("current") or "")).name
    return [reason for role in played for reason in _unready(facts, role, release)]


def _unready(facts: Observed, role: str, release: str) -> list[str]:
    services = [unit for unit in role_units(role).enabled if unit != ports.TARGET_UNIT]
    states = {unit: facts.unit(unit).active for unit in services}
    found = [f"{unit} is {state or 'not there'}" for unit, state in states.items() if state != "active"]
    digest, runs = facts.running(role)
    held = facts.paths.get(digest_path(role))
    wanted = held.sha256 if held is not None else ""
    if found:
        return found
    if runs != release or hashlib.sha256(f"{digest}\n".encode()).hexdigest() != wanted:
        return [f"{role_units(role).service} does not run what the last deploy brought ({release or 'no release'})"]
    return []


def advice(name: str, inventory: str, *, is_drained: bool, is_running: bool = False) -> str:
    """Return what to do after a maintenance that stopped half-way; `is_running`: its command was not seen to end."""
    if is_running:
        state = "stays drained" if is_drained else "is not drained"
        return (
            f"{name} {state}, and the command may still run there: the same command would run it once more. Look on "
            f"the host, and when it has ended run rbee-deploy maintain {name} -i {inventory}"
        )
    if not is_drained:
        return f"{name} is not drained; put that right and run the same command again"
    return (
        f"{name} stays drained; put that right and run rbee-deploy maintain {name} -i {inventory}, "
        f"or let it serve as it is by rbee-keeper undrain {name}"
    )
