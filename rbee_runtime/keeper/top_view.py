"""How `rbee-keeper top` looks; builders only, the command draws."""

from collections.abc import Callable, Sequence
from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rbee_runtime.keeper.client import Row
from rbee_runtime.keeper.output import MOST_LETTERS
from rbee_runtime.keeper.views import cell, gib, printable

Column = tuple[str, Callable[[Row], str]]

BAR = 20
"""Letters of a bar of memory."""

_MODELS: tuple[Column, ...] = (
    ("MODEL", lambda row: str(row["name"])),
    ("STATE", lambda row: str(row["state"])),
    ("READY", lambda row: f"{row['ready']}/{row['workers']}"),
    ("BUSY", lambda row: f"{row['in_flight']}/{row['slots']}"),
    ("WAITING", lambda row: str(row["waiting"] or 0)),
    ("TOKENS/S", lambda row: rate(row["tokens_per_second"])),
)
_WORKERS: tuple[Column, ...] = (
    ("WORKER", lambda row: str(row["id"])),
    ("MODEL", lambda row: str(row["model"])),
    ("HIVE", lambda row: str(row["hive"])),
    ("STATE", lambda row: str(row["state"] or "-")),
    ("BUSY", lambda row: f"{row['in_flight'] or 0}/{row['slots'] or 0}"),
    ("DETAIL", lambda row: str(row["detail"] or "")),
)
_DEVICES: tuple[Column, ...] = (
    ("HIVE", lambda row: str(row["hive"])),
    ("DEVICE", lambda row: str(row["id"])),
    ("NAME", lambda row: str(row["name"])),
    ("MEMORY", lambda row: bar(row["used"] or 0, row["total"] or 0)),
    ("USED", lambda row: f"{gib(row, 'used') or '0'} of {gib(row, 'total') or '?'}"),
    ("RESERVED", lambda row: gib(row, "reserved") or "0"),
    ("FOREIGN", lambda row: gib(row, "foreign") or "0"),
)


def screen(found: Row) -> Group:
    """Return one look as it is drawn; what does not fit on a terminal is cut off below."""
    parts: list[RenderableType] = [Text(headline(found), style="bold", no_wrap=True, overflow="ellipsis")]
    if found.get("problem"):
        parts.append(Text(printable(str(found["problem"])), style="red", no_wrap=True, overflow="ellipsis"))
    for columns, rows in ((_MODELS, found["models"]), (_WORKERS, found["workers"]), (_DEVICES, found["devices"])):
        if rows:
            parts += [Text(""), _table(columns, rows)]
    return Group(*parts)


def lines(found: Row) -> list[str]:
    """Return one look as plain lines of any length, for a pipe."""
    console = Console(width=MOST_LETTERS)
    with console.capture() as text:
        console.print(screen(found))
    return [line.rstrip() for line in text.get().splitlines()]


def headline(found: Row) -> str:
    """Return the fleet in a line."""
    moment = datetime.fromtimestamp(found["time"]).astimezone().strftime("%H:%M:%S")
    queen = printable(f"queen {found['queen']['version']} {found['queen']['status']}")
    speed = f"{rate(found['tokens_per_second'])} tokens/s"
    return f"{moment}  {queen}, {found['in_flight']} in flight, {found['waiting']} waiting, {speed}"


def rate(value: float | None) -> str:
    """Return a rate, or a dash while nobody knows it."""
    return "-" if value is None else f"{value:.1f}"


def bar(used: int, total: int) -> str:
    """Return `████░░░░ 50 %` of bytes."""
    if total <= 0:
        return ""
    share = min(1.0, used / total)
    full = round(share * BAR)
    return f"{'█' * full}{'░' * (BAR - full)} {100 * share:3.0f} %"


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    built = Table(box=None, pad_edge=False, header_style="bold")
    for title, _ in columns:
        built.add_column(title, no_wrap=True, overflow="ellipsis")
    for row in rows:
        built.add_row(*(cell(title, show(row)) for title, show in columns))
    return built
