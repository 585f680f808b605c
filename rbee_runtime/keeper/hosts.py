"""What single hosts say: devices, and one worker in full."""

from typing import Any

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


def _exit(report: Row) -> str:
    reason = report.get("last_exit") or ""
    status, number = report.get("exit_status"), report.get("exit_signal")
    how = f" (status {status})" if status is not None else f" (signal {number})" if number is not None else ""
    return f"{reason}{how}" if reason else ""
