"""What single hosts say: devices, one worker in full, and what happened on them."""

import queue
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rbee_runtime.errors import QueenCallError
from rbee_runtime.keeper.client import QueenClient
from rbee_runtime.keeper.views import gib, printable

Row = dict[str, Any]


def devices_of(client: QueenClient, hive: str) -> list[Row]:
    """Return the devices of one hive as they are now, or of all as they were last heard."""
    if hive:
        return [{"hive": hive, **device} for device in client.of_hive(hive, "devices")]
    return [{"hive": row["name"], **device} for row in client.rows("hives") for device in row.get("devices", ())]


def explained(found: Row) -> str:
    """Return one worker as lines of `name: value`, without those that say nothing."""
    report, wanted = found.get("report") or {}, found.get("wanted") or {}
    memory = ", ".join(f"{gib(report['memory'], device)} on {device}" for device in report.get("memory") or {})
    lines = {
        "worker": report.get("id"),
        "host": found.get("host"),
        "unit": report.get("unit"),
        "state": f"{report.get('state', '?')} for {report.get('since', 0):.0f} s",
        "why": report.get("detail"),
        "next": found.get("next_step"),
        "model": report.get("model"),
        "engine": report.get("engine"),
        "address": f"{report['address']}:{report['port']}" if report.get("port") else "",
        "devices": ", ".join(wanted.get("devices") or ()),
        "memory": memory,
        "requests": f"{report.get('in_flight', 0)} of {report.get('slots', 0)} slots",
        "context": report.get("context"),
        "process": found.get("pid"),
        "restarts": report.get("restarts"),
        "last exit": _exit(report),
        "said": found.get("said"),
        "failures": f"{found['streak']} in a row" if found.get("streak") else "",
        "wanted": "" if found.get("wanted") else "no more, by the queen",
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {printable(str(text))}" for name, text in lines.items() if text)


EVERYTHING = "all-0"
"""An event id that no hive gave: it answers with all that it holds, then with what happens."""


def happenings(client: QueenClient, hive: str, *, follow: bool) -> Iterator[Row]:
    """Yield the events that hives still hold, oldest first, and with `follow` what happens from now on."""
    names = [hive] if hive else [row["name"] for row in client.rows("hives") if row.get("url")]
    if not names:
        raise QueenCallError("no hive has been heard yet; see rbee-keeper hives")
    if follow:
        yield from _merged(client, names)
        return
    past = [{"hive": name, **event} for name in names for event in client.of_hive(name, "events")]
    yield from sorted(past, key=lambda event: float(event.get("time", 0)))


def event_line(event: Row) -> str:
    """Return `12:34:56 gpu1 worker_state toy-1 state=ready model=toy`."""
    moment = datetime.fromtimestamp(float(event.get("time", 0))).astimezone().strftime("%H:%M:%S")
    data = event.get("data") or {}
    pairs = [f"{name}={value}" for name, value in data.items() if value not in ("", None)]
    parts = [moment, event.get("hive", ""), event.get("kind", ""), event.get("subject", ""), *pairs]
    return printable(" ".join(str(part) for part in parts if part))


def _exit(report: Row) -> str:
    reason = report.get("last_exit") or ""
    status, number = report.get("exit_status"), report.get("exit_signal")
    how = f" (status {status})" if status is not None else f" (signal {number})" if number is not None else ""
    return f"{reason}{how}" if reason else ""


def _merged(client: QueenClient, names: list[str]) -> Iterator[Row]:
    """Yield the events of several hives as they come; one that breaks off ends it, naming the hive."""
    found: queue.SimpleQueue[Row | QueenCallError] = queue.SimpleQueue()

    def read(name: str) -> None:
        try:
            for event in client.events(name, EVERYTHING):
                if event.get("kind") != "reset":
                    found.put({"hive": name, **event})
            found.put(QueenCallError(f"the events of hive {name} ended: it or the queen restarted; ask again"))
        except QueenCallError as error:
            found.put(error)

    for name in names:
        # They wait in the network for as long as the process lives, so they must not keep it alive.
        threading.Thread(target=read, args=(name,), daemon=True).start()
    while True:
        event = found.get()
        if isinstance(event, QueenCallError):
            raise event
        yield event
