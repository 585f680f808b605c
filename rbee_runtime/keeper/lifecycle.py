"""Loads and explanations as people see them."""

import time
from collections.abc import Callable

from rbee_runtime.errors import QueenCallError
from rbee_runtime.keeper.client import QueenClient, Row
from rbee_runtime.keeper.progress import Step
from rbee_runtime.keeper.views import fetch_line, gib, printable

POLL_SECONDS = 1.0
"""A load takes seconds at least, and a person watches."""


def loaded(
    client: QueenClient,
    model: str,
    *,
    wait: bool,
    say: Callable[[Step], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Row:
    """Return the answer to a load, with `wait` the one that says that the model serves; `say` is told how far it is.

    A load that fails raises QueenCallError. Whoever stops waiting changes nothing about the load.
    """
    found = client.load(model)
    while wait and not found.get("ready"):
        load = found.get("load") or {}
        if load.get("phase") == "failed":
            raise QueenCallError(f"{model} was not loaded: {load.get('detail', '')}")
        say(_step(client, model, load))
        sleep(POLL_SECONDS)
        explained = client.explain(model)
        found = {**found, "ready": explained.get("ready", 0), "load": explained.get("load")}
    return found


def _step(client: QueenClient, model: str, load: Row) -> Step:
    """Return how far a load is, and of its files how much the hive that has most of them has."""
    line = load_line(model, load)
    if load.get("phase") != "fetching":
        return Step(line)
    rows = (row for row in client.rows("models") if row.get("name") == model)
    fetches = [fetch for row in rows for fetch in row.get("fetches", ())]
    best = max(fetches, key=lambda fetch: int(fetch.get("done") or 0), default=None)
    if best is None:
        return Step(line)
    done, total = int(best.get("done") or 0), int(best.get("total") or 0)
    return Step(f"{model} is fetching", done, total, f"on {fetch_line(best)}")


def load_line(model: str, load: Row) -> str:
    """Return how far a load is."""
    detail = f": {load['detail']}" if load.get("detail") else ""
    return printable(f"{model} is {load.get('phase', 'waiting for its workers')}{detail}")


def told(found: Row) -> str:
    """Return an explanation as lines: the sentence, the workers, what every hive says, and the numbers of devices."""
    lines = [str(found.get("summary", "")), ""]
    if found.get("workers"):
        lines += ["workers:", *(f"  {_worker(each)}" for each in found["workers"]), ""]
    lines.append(f"one more worker ({found.get('ready', 0)} of {found.get('wanted', 0)} serve):")
    for place in found.get("places", ()):
        lines.append(f"  {_place(place)}")
        lines += [f"    {_device(each)}" for each in place.get("ledger", ())]
        lines += [f"    {worker} stays: {why}" for worker, why in place.get("shielded", {}).items()]
    return "\n".join(printable(line) for line in lines)


def _worker(each: Row) -> str:
    devices = ", ".join(each.get("devices", ()))
    return (
        f"{each.get('id')} on {each.get('hive')} ({devices}), {each.get('state') or 'not seen'}: {each.get('why', '')}"
    )


def _place(place: Row) -> str:
    if not place.get("fits"):
        return f"{place.get('hive')}: no, {place.get('reason')}" + (" (may pass)" if place.get("passes") else "")
    goes = f"; {', '.join(place['evicts'])} would go" if place.get("evicts") else ""
    chosen = " (the best place)" if place.get("chosen") else ""
    devices = ", ".join(place.get("devices", ()))
    return f"{place.get('hive')}: yes, {gib(place, 'needs') or 'nothing'} on {devices}{goes}{chosen}"


def _device(each: Row) -> str:
    parts = ("total", "reserved", "measured", "foreign", "headroom", "free")
    return f"{each.get('id')}: " + ", ".join(f"{name} {gib(each, name) or '0'}" for name in parts)
