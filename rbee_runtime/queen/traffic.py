"""What each model sees of requests, as its workers tell. Pure."""

from collections.abc import Callable, Collection

from rbee_runtime.queen.assigned import Assigned
from rbee_runtime.queen.routing import Roster
from rbee_runtime.queen.scaling import Traffic
from rbee_runtime.states import Intent, Observed

Seen = Callable[[str], tuple[int, Traffic]]


def seen(
    assigned: Assigned,
    roster: Roster,
    *,
    busy: Collection[str],
    waiting: Callable[[str], int],
    loading: Collection[str],
) -> Seen:
    """Return what tells of a model how many workers it has, and its traffic; `busy` also counts others' requests."""

    def of(model: str) -> tuple[int, Traffic]:
        there = assigned.of(model)
        ready = [entry for entry in there if entry.observed is Observed.READY]
        return len(there), Traffic(
            waiting=waiting(model),
            in_flight=sum(max(roster.in_flight(entry.id), 1) for entry in there if entry.id in busy),
            slots=sum(entry.capacity for entry in ready),
            ready=len(ready),
            loading=model in loading,
            gone=all(entry.intent is Intent.LOST for entry in there),
        )

    return of
