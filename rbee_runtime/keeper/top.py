"""`rbee-keeper top`: the fleet at a glance, again and again."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

import typer

from rbee_runtime.errors import QueenCallError
from rbee_runtime.keeper.client import QueenClient, Row
from rbee_runtime.keeper.output import settings_of

WINDOW_SECONDS = 30.0
"""The queen writes usage down every few seconds; a rate over less would jump between nothing and double."""

Tokens = dict[str, int]


@dataclass
class Rates:
    """Tokens/s of each model from what the queen counted; None before there are two looks. Times are monotonic."""

    window: float = WINDOW_SECONDS
    _looks: deque[tuple[float, Tokens]] = field(default_factory=deque)

    def look(self, now: float, counted: Tokens) -> dict[str, float] | None:
        """Take in how many tokens there were by now, and return the rates since the oldest look of the window."""
        if self._looks and sum(counted.values()) < sum(self._looks[-1][1].values()):
            # Another day, or a queen with another database.
            self._looks.clear()
        self._looks.append((now, counted))
        while len(self._looks) > 2 and now - self._looks[1][0] >= self.window:
            self._looks.popleft()
        then, before = self._looks[0]
        if now <= then:
            return None
        return {model: round((count - before.get(model, 0)) / (now - then), 1) for model, count in counted.items()}


def top(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Show it one time and end, as in a pipe.")] = False,
    every: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per look.")] = False,
) -> None:
    """Watch the fleet: models, workers, what is in flight, tokens/s, memory of devices. Ctrl-C ends it."""
    with QueenClient(settings_of(context)) as client:
        rates = Rates()
        first = look(client, rates)
        live = sys.stdout.isatty() and not once
        if as_json:
            _print_json(client, rates, first, every, again=not once)
        elif live:
            _watch(client, rates, first, every)
        else:
            _print_once(first)


def look(client: QueenClient, rates: Rates, *, clock: Callable[[], float] = time.monotonic) -> Row:
    """Return the fleet at this moment; tokens/s are None where they are not known yet or not for this key."""
    health = client.health()
    hives, workers, models = (client.rows(kind) for kind in ("hives", "workers", "models"))
    today = datetime.now(UTC).date().isoformat()
    speeds = rates.look(clock(), counted(client.usage({"since": today})))
    return {
        "time": round(time.time(), 3),
        "queen": {"status": health.get("status", ""), "version": health.get("version", "")},
        "in_flight": sum(int(row.get("in_flight") or 0) for row in workers),
        "waiting": sum(int(row.get("waiting") or 0) for row in models),
        "tokens_per_second": None if speeds is None else round(sum(speeds.values()), 1),
        "models": [_model(row, workers, speeds) for row in models],
        "workers": [_picked(row, "id", "model", "hive", "state", "in_flight", "slots", "detail") for row in workers],
        "devices": [
            {
                "hive": hive.get("name"),
                **_picked(device, "id", "name", "total", "used", "reserved", "measured", "foreign"),
            }
            for hive in hives
            for device in hive.get("devices", ())
        ],
    }


def counted(usage: Iterable[Row]) -> Tokens:
    """Return how many tokens models have made, of all keys."""
    found: Tokens = {}
    for row in usage:
        found[row["model"]] = found.get(row["model"], 0) + int(row.get("answer_tokens") or 0)
    return found


def _model(row: Row, workers: Sequence[Row], speeds: dict[str, float] | None) -> Row:
    mine = [worker for worker in workers if worker.get("model") == row.get("name")]
    speed = None if speeds is None else speeds.get(str(row.get("name")), 0.0)
    return {
        **_picked(row, "name", "state", "ready", "workers", "waiting"),
        "in_flight": sum(int(worker.get("in_flight") or 0) for worker in mine),
        "slots": sum(int(worker.get("slots") or 0) for worker in mine),
        "tokens_per_second": speed,
    }


def _picked(row: Row, *names: str) -> Row:
    return {name: row.get(name) for name in names}


def _print_json(client: QueenClient, rates: Rates, found: Row, every: float, *, again: bool) -> None:
    while True:
        typer.echo(json.dumps(found, ensure_ascii=False))
        sys.stdout.flush()
        if not again:
            return
        time.sleep(every)
        found = look(client, rates)


def _print_once(found: Row) -> None:
    from rbee_runtime.keeper.top_view import lines  # noqa: PLC0415 - brings rich

    for line in lines(found):
        typer.echo(line)


def _watch(client: QueenClient, rates: Rates, found: Row, every: float) -> None:
    """Draw until Ctrl-C; a queen that does not answer for a while leaves what was last seen, and a sentence."""
    from rich.live import Live  # noqa: PLC0415 - rich is slow to import

    from rbee_runtime.keeper.top_view import screen  # noqa: PLC0415 - brings rich

    with Live(screen(found), screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(screen(found), refresh=True)
            time.sleep(every)
            try:
                found = look(client, rates)
            except QueenCallError as error:
                found = {**found, "problem": str(error)}
