"""`rbee-keeper events`: what happened in the fleet or on one host, and what happens from now on."""

import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any

import typer

from rbee_runtime.errors import ConfigError, QueenCallError, QueenUnreachableError
from rbee_runtime.keeper import completion as known
from rbee_runtime.keeper.client import QueenClient
from rbee_runtime.keeper.output import settings_of
from rbee_runtime.keeper.times import instant, span

Row = dict[str, Any]
Say = Callable[[str], None]

RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
"""A queen that restarts is back within a second; the last one counts from then on."""

_RESET = "reset"


def events(
    context: typer.Context,
    hive: Annotated[str, typer.Argument(metavar="HIVE", help="Of this hive only.", autocompletion=known.hives)] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens.")] = False,
    begin: Annotated[str, typer.Option("--since", help="Not before: 10m, 2h, 1d, or 2026-11-30T12:00 in UTC.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Show what happened in the fleet, or on one host: workers, models, devices."""
    first = since(begin, time.time())
    with QueenClient(settings_of(context)) as client:
        for event in happenings(client, hive, follow=follow, say=lambda line: typer.echo(line, err=True)):
            if float(event.get("time", 0)) >= first:
                typer.echo(json.dumps(event, ensure_ascii=False) if as_json else event_line(event))
                sys.stdout.flush()


EVERYTHING = "all-0"
"""An event id that no hive gave: it answers with all that it holds, then with what happens."""


def happenings(client: QueenClient, hive: str, *, follow: bool, say: Say) -> Iterator[Row]:
    """Yield the events that are still held, oldest first, and with `follow` what happens from now on.

    Without a hive they are the queen's, or those of all hives where the queen keeps none. `say` is told of gaps.
    """
    if not hive and (told := client.past_events()) is not None:
        yield from followed(client, say=say) if follow else told
        return
    names = [hive] if hive else [row["name"] for row in client.rows("hives") if row.get("url")]
    if not names:
        raise QueenCallError("no hive has been heard yet; see rbee-keeper hives")
    if follow:
        yield from _merged(client, names)
        return
    past = [{"hive": name, **event} for name in names for event in client.of_hive(name, "events")]
    yield from sorted(past, key=lambda event: float(event.get("time", 0)))


def followed(client: QueenClient, *, say: Say, sleep: Callable[[float], None] = time.sleep) -> Iterator[Row]:
    """Yield the fleet's events from the first that is held on, without an end: a stream that breaks is taken up again.

    What cannot be reached at the beginning raises QueenCallError, as does a queen that refuses.
    """
    last, waits, reached = EVERYTHING, iter(RETRY_SECONDS), False
    while True:
        why, asked = "the stream of events ended", last
        try:
            for event in client.events("", asked):
                last, waits, reached = event["name"] or last, iter(RETRY_SECONDS), True
                if event.get("kind") != _RESET:
                    yield event
                elif asked != EVERYTHING:
                    say("the queen began anew or holds some events no more: there may be a gap here")
        except QueenUnreachableError as error:
            if not reached:
                raise
            why = str(error)
        wait = next(waits, RETRY_SECONDS[-1])
        say(f"{why}; asking again in {wait:g} s")
        sleep(wait)


def since(text: str, now: float) -> float:
    """Return Unix seconds of `10m` (ago) or `2026-11-30T12:00`, 0 for "", or raise ConfigError."""
    if not text:
        return 0.0
    if (length := span(text)) is not None:
        return now - length
    if (given := instant(text)) is not None:
        return float(given)
    raise ConfigError(f"--since {text!r} is no time: write 10m, 2h, 1d, 2026-11-30 or 2026-11-30T12:00")


def event_line(event: Row) -> str:
    """Return `12:34:56 gpu1 worker_state toy-1 state=ready model=toy`."""
    moment = datetime.fromtimestamp(float(event.get("time", 0))).astimezone().strftime("%H:%M:%S")
    data = event.get("data") or {}
    pairs = [f"{name}={value}" for name, value in data.items() if value not in ("", None)]
    parts = [moment, event.get("hive", ""), event.get("kind", ""), event.get("subject", ""), *pairs]
    from rbee_runtime.keeper.views import printable  # noqa: PLC0415 - brings rich

    return printable(" ".join(str(part) for part in parts if part))


def _merged(client: QueenClient, names: list[str]) -> Iterator[Row]:
    """Yield the events of several hives as they come; one that breaks off ends it, naming the hive."""
    found: queue.SimpleQueue[Row | QueenCallError] = queue.SimpleQueue()

    def read(name: str) -> None:
        try:
            for event in client.events(name, EVERYTHING):
                if event.get("kind") != _RESET:
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
