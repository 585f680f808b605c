"""Tables of what the queen says; builders only, the commands print."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]

_GOOD = frozenset({"ready", "live"})
_BAD = frozenset({"lost", "unhealthy", "crash_loop", "unavailable", "exited"})

_PIDS = 4
"""Of one device in a table; `--json` has the rest."""


def _foreign_pids(device: Row) -> str:
    """Return the pids of processes that are no worker's, the largest first."""
    pids = [str(each["pid"]) for each in device.get("processes", ()) if each.get("worker") is None]
    more = [f"{len(pids) - _PIDS} more"] if len(pids) > _PIDS else []
    return ", ".join([*pids[:_PIDS], *more])


def _hive_state(row: Row) -> str:
    """Return what is known of a hive: one that is away has not heard that it shall drain, and its workers run on.

    One that was told on its own host needs another command to serve again than one that the queen drains.
    """
    state = str(row.get("state", ""))
    if not row.get("drained"):
        return f"{state}, drained on its host" if row.get("draining") else state
    return "drained" if state == "live" else f"{state}, to be drained"


def _worker_state(row: Row) -> str:
    """Return what a worker is, as its hive sees it, and what else there is to it."""
    ejected = {"open": "ejected", "half_open": "on trial"}.get(_text(row, "breaker"), "")
    outdated = "outdated" if row.get("outdated") else ""
    return ", ".join(part for part in (_text(row, "state") or _text(row, "intent"), ejected, outdated) if part)


_HIVES: tuple[Column, ...] = (
    ("HIVE", lambda row: _text(row, "name")),
    ("STATE", _hive_state),
    ("HEARD", lambda row: f"{row['heard']:.0f} s ago" if row.get("heard") is not None else "never"),
    ("WORKERS", lambda row: _text(row, "workers")),
    ("DEVICES", lambda row: ", ".join(_device(device) for device in row.get("devices", ()))),
    ("ENGINES", lambda row: ", ".join(row.get("engines", ()))),
    ("DETAIL", lambda row: _text(row, "detail")),
)
_WORKERS: tuple[Column, ...] = (
    ("WORKER", lambda row: _text(row, "id")),
    ("MODEL", lambda row: _text(row, "model")),
    ("HIVE", lambda row: _text(row, "hive")),
    ("STATE", _worker_state),
    ("BUSY", lambda row: f"{row.get('in_flight', 0)}/{row.get('slots', 0)}"),
    ("CONTEXT", lambda row: _text(row, "context")),
    ("UNIT", lambda row: _text(row, "unit")),
    ("RESTARTS", lambda row: _text(row, "restarts")),
    ("DETAIL", lambda row: _text(row, "detail") or _last_end(row)),
)
_MODELS: tuple[Column, ...] = (
    ("MODEL", lambda row: _text(row, "name") or _text(row, "id")),
    ("STATE", lambda row: _text(row, "state")),
    ("READY", lambda row: f"{row['ready']}/{row['workers']}" if "ready" in row else ""),
    ("WAITING", lambda row: _text(row, "waiting")),
    ("ENGINE", lambda row: _text(row, "engine")),
    ("SOURCE", lambda row: _text(row, "source")),
    ("ON DISK", lambda row: ", ".join(row.get("held", ()))),
    ("FETCHING", lambda row: "; ".join(fetch_line(fetch) for fetch in row.get("fetches", ()))),
    ("DETAIL", lambda row: "; ".join(row.get("missing", ()))),
)
_KEYS: tuple[Column, ...] = (
    ("ID", lambda row: _text(row, "id")),
    ("NAME", lambda row: _text(row, "name")),
    ("SCOPES", lambda row: ", ".join(row.get("scopes", ()))),
    ("MODELS", lambda row: ", ".join(row.get("models", ()))),
    ("LIMITS", lambda row: _limits(row.get("limits") or {})),
    ("PRIORITY", lambda row: _text(row, "priority")),
    ("EXPIRES", lambda row: "expired" if row.get("expired") else _moment(row, "expires")),
    ("LAST USED", lambda row: _moment(row, "used")),
)
_USAGE: tuple[Column, ...] = (
    ("DAY", lambda row: _text(row, "day")),
    ("KEY", lambda row: _text(row, "key")),
    ("NAME", lambda row: _text(row, "name")),
    ("MODEL", lambda row: _text(row, "model")),
    ("REQUESTS", lambda row: _text(row, "requests")),
    ("PROMPT TOKENS", lambda row: _text(row, "prompt_tokens")),
    ("ANSWER TOKENS", lambda row: _text(row, "answer_tokens")),
    ("ERRORS", lambda row: _text(row, "errors")),
    ("ESTIMATED", lambda row: _text(row, "estimated")),
)
_DEVICES: tuple[Column, ...] = (
    ("HIVE", lambda row: _text(row, "hive")),
    ("DEVICE", lambda row: _text(row, "id")),
    ("NAME", lambda row: _text(row, "name")),
    ("KIND", lambda row: _text(row, "kind")),
    ("STATE", lambda row: "ready" if row.get("healthy", True) else "unhealthy"),
    ("TOTAL", lambda row: gib(row, "total")),
    ("USED", lambda row: gib(row, "used")),
    ("FOREIGN", lambda row: gib(row, "foreign")),
    ("FOREIGN PIDS", _foreign_pids),
    ("RESERVED", lambda row: gib(row, "reserved")),
    ("MEASURED", lambda row: gib(row, "measured")),
    ("DETAIL", lambda row: _text(row, "detail")),
)
_COLUMNS = {
    "hives": _HIVES,
    "workers": _WORKERS,
    "models": _MODELS,
    "keys": _KEYS,
    "usage": _USAGE,
    "devices": _DEVICES,
}


def table(kind: str, rows: Sequence[Row]) -> Table:
    """Return a table of one kind of rows; columns that would be empty are left out."""
    used = [column for column in _COLUMNS[kind] if not rows or any(column[1](row) for row in rows)]
    built = Table(box=None, pad_edge=False, header_style="bold")
    for title, _ in used:
        built.add_column(title, overflow="fold", no_wrap=title in ("STATE", "READY", "BUSY"))
    for row in rows:
        built.add_row(*(cell(title, show(row)) for title, show in used))
    return built


def queen_line(url: str, health: Row) -> str:
    """Return one line about the queen itself."""
    version = f", version {health['version']}" if health.get("version") else ""
    return f"queen at {url}: {health.get('status', 'answers')}{version}"


def fetch_line(fetch: Row) -> str:
    """Return how far a model is on its way to one hive: `gpu1: fetching 43 %, 12.0 MiB/s, 30 s left`."""
    again = f", next try in {fetch['next_try']:.0f} s" if fetch.get("next_try") else ""
    why = f" ({fetch['detail']})" if fetch.get("detail") else ""
    numbers = fetch_numbers(fetch)
    mark = " " if fetch.get("total") else ", "
    far = f"{mark}{numbers}" if numbers else ""
    return f"{fetch.get('hive', '?')}: {fetch.get('state', '?')}{far}{again}{why}"


def fetch_numbers(fetch: Row) -> str:
    """Return `43 %, 12.0 MiB/s, 30 s left`, or as much of it as is known."""
    total, rate, eta = fetch.get("total") or 0, fetch.get("rate") or 0, fetch.get("eta")
    share = f"{100 * (fetch.get('done') or 0) / total:.0f} %" if total else ""
    speed = f"{rate / 2**20:.1f} MiB/s" if rate else ""
    left = f"{eta:.0f} s left" if eta is not None else ""
    return ", ".join(filter(None, (share, speed, left)))


def gib(row: Row, name: str) -> str:
    """Return bytes as GiB; "" for none, so that a column of nothing is left out."""
    value = row.get(name) or 0
    return f"{value / 2**30:.1f} GiB" if value else ""


def printable(text: str) -> str:
    """Return text of a model without control characters, which could steer the reader's terminal."""
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())


def _limits(limits: Row) -> str:
    """Return `4 at a time, 60 requests/min`; "" for none."""
    units = {"concurrency": "at a time", "requests_per_minute": "requests/min", "tokens_per_minute": "tokens/min"}
    return ", ".join(f"{limits[name]} {unit}" for name, unit in units.items() if limits.get(name) is not None)


def _moment(row: Row, name: str) -> str:
    """Return Unix seconds as the time on this machine's clock; "" for never."""
    seconds = row.get(name) or 0
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M") if seconds else ""


def _last_end(row: Row) -> str:
    """Return how a worker ended last, unless somebody asked for that; the bare reason would read as a fault of now."""
    reason = _text(row, "last_exit")
    return f"last ended: {reason}" if reason not in {"", "asked"} else ""


def cell(title: str, text: str) -> Text:
    """Return what one column shows of a row: one line, a state in its colour."""
    good, bad = text in _GOOD, text in _BAD
    style = "green" if good else "red" if bad else ""
    return Text(" ".join(printable(text).splitlines()), style=style if title == "STATE" else "")


def _device(device: Row) -> str:
    return f"{device.get('name') or device.get('id', '?')} {device.get('total', 0) / 2**30:.0f} GiB"


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value)
