"""What each model sees of requests, counted once for all of them. Pure."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from rbee_runtime.queen.records import Assignment
from rbee_runtime.queen.routing import Roster
from rbee_runtime.queen.scaling import Traffic
from rbee_runtime.states import Intent, Observed

Seen = Callable[[str], tuple[int, Traffic]]


def seen(
    entries: Iterable[Assignment],
    roster: Roster,
    *,
    busy: Collection[str],
    waiting: Callable[[str], int],
    loading: Collection[str],
) -> Seen:
    """Return what tells of a model how many workers it has, and its traffic; `busy` also counts others' requests."""
    mine: dict[str, list[Assignment]] = defaultdict(list)
    for entry in entries:
        mine[entry.spec.model].append(entry)

    def of(model: str) -> tuple[int, Traffic]:
        there = mine.get(model, [])
        ready = [entry for entry in there if entry.observed is Observed.READY]
        return len(there), Traffic(
            waiting=waiting(model),
            in_flight=sum(max(roster.in_flight(entry.id), int(entry.id in busy)) for entry in there),
            slots=sum(entry.capacity for entry in ready),
            ready=len(ready),
            loading=model in loading,
            gone=all(entry.intent is Intent.LOST for entry in there),
        )

    return of
