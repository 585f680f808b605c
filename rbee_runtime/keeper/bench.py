"""`rbee-keeper bench`: a bounded load on one model of the fleet, and what its clients saw."""

import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from rbee_runtime.errors import QueenCallError
from rbee_runtime.keeper import completion as known
from rbee_runtime.keeper.client import Piece, QueenClient, Row
from rbee_runtime.keeper.infer import said, taken
from rbee_runtime.keeper.output import settings_of
from rbee_runtime.keeper.settings import Settings

PROMPT = "Tell me about bees, in many words."
MOST_CLIENTS = 256
"""Each is a thread and a connection of this process; a load beyond that measures this program."""

MOST_REQUESTS = 100_000


@dataclass(frozen=True)
class Load:
    """What is asked: so many clients, each with one request at a time, until all requests are done."""

    model: str
    clients: int
    requests: int
    max_tokens: int
    prompt: str


@dataclass(frozen=True)
class Outcome:
    """What became of one request: tokens, seconds until the first text and until its end, or why there is no answer."""

    tokens: int = 0
    first: float | None = None
    seconds: float = 0.0
    error: str = ""


def bench(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.", autocompletion=known.models)],
    clients: Annotated[int, typer.Option(min=1, max=MOST_CLIENTS, help="How many ask at the same time.")] = 4,
    requests: Annotated[int, typer.Option(min=1, max=MOST_REQUESTS, help="How many requests in all.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="The length of an answer at most.")] = 64,
    prompt: Annotated[str, typer.Option(help="What they say.")] = PROMPT,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON line alone.")] = False,
) -> None:
    """Load one model and show tokens/s and waits; the last line is JSON. Ctrl-C ends every request."""
    said("", prompt)
    load = Load(model, min(clients, requests), requests, max_tokens, prompt)
    settings = settings_of(context)
    with QueenClient(settings) as client:
        # A fleet that is away, or that refuses the key, is no figure about a model.
        client.served_models()
    start = time.monotonic()
    outcomes = run(settings, load)
    found = figures(load, outcomes, time.monotonic() - start)
    if not as_json:
        show(found)
    typer.echo(json.dumps({"bench": "model", **found}))
    if found["errors"]:
        first = next(iter(found["errors"]))
        raise QueenCallError(f"{sum(found['errors'].values())} of {len(outcomes)} requests failed: {first}")


def run(settings: Settings, load: Load) -> list[Outcome]:
    """Send the requests and return what became of each. KeyboardInterrupt ends those that are open."""
    stop, done, turns = threading.Event(), list[Outcome](), iter(range(load.requests))
    lock = threading.Lock()

    def client() -> None:
        with QueenClient(settings) as queen:
            while not stop.is_set():
                with lock:
                    if next(turns, None) is None:
                        return
                done.append(_ask(queen, load, stop))

    # They may wait for a model that loads, so they must not keep the process alive.
    threads = [threading.Thread(target=client, daemon=True) for _ in range(load.clients)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
    return done


def figures(load: Load, outcomes: Sequence[Outcome], seconds: float) -> Row:
    """Return what a load showed: rates over its whole time, percentiles over the requests that were answered."""
    good = [each for each in outcomes if not each.error]
    tokens = sum(each.tokens for each in good)
    firsts = sorted(each.first for each in good if each.first is not None)
    return {
        "model": load.model,
        "clients": load.clients,
        "requests": len(outcomes),
        "seconds": round(seconds, 3),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if seconds > 0 else 0.0,
        "requests_per_second": round(len(good) / seconds, 2) if seconds > 0 else 0.0,
        "ttft_seconds": {"p50": percentile(firsts, 50), "p95": percentile(firsts, 95)},
        "request_seconds": {
            "p50": percentile(sorted(each.seconds for each in good), 50),
            "p95": percentile(sorted(each.seconds for each in good), 95),
        },
        "errors": dict(Counter(each.error for each in outcomes if each.error)),
    }


def percentile(ordered: Sequence[float], share: int) -> float | None:
    """Return a percentile of sorted values in seconds, None of nothing."""
    if not ordered:
        return None
    cuts = statistics.quantiles(ordered, n=100, method="inclusive") if len(ordered) > 1 else [ordered[0]] * 99
    return round(cuts[share - 1], 4)


def show(found: Row, say: Callable[[str], None] = typer.echo) -> None:
    """Print what a load showed as a table."""
    waits = found["ttft_seconds"], found["request_seconds"]
    rows = {
        "model": found["model"],
        "load": f"{found['clients']} clients, {found['requests']} requests, {found['seconds']:.1f} s",
        "tokens": f"{found['tokens']}, {found['tokens_per_second']} tokens/s",
        "requests": f"{found['requests_per_second']} requests/s",
        "first text": f"p50 {_seconds(waits[0]['p50'])}, p95 {_seconds(waits[0]['p95'])}",
        "whole answer": f"p50 {_seconds(waits[1]['p50'])}, p95 {_seconds(waits[1]['p95'])}",
        "errors": "; ".join(f"{count} times {error}" for error, count in found["errors"].items()) or "none",
    }
    for name, text in rows.items():
        say(f"{name:<12}  {text}")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"


def _ask(queen: QueenClient, load: Load, stop: threading.Event) -> Outcome:
    """Send one request; once `stop` is set its stream is closed, and the worker hears of it."""
    pieces = queen.chat(load.model, said("", load.prompt), max_tokens=load.max_tokens, temperature=0)
    try:
        answer = taken(_until(stop, pieces))
    except QueenCallError as error:
        return Outcome(error=str(error))
    return Outcome(answer.tokens, answer.first, answer.seconds)


def _until(stop: threading.Event, pieces: Iterator[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        yield piece
        if stop.is_set():
            return
