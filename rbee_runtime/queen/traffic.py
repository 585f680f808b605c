"""What each model sees of requests, as its workers tell. Pure."""

from collections import Counter
from collections.abc import Callable, Collection

from rbee_runtime.queen.assigned import Assigned
from rbee_runtime.queen.routing import Roster
from rbee_runtime.queen.scaling import Traffic

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
    flights: Counter[str] = Counter()
    for worker in busy:
        if worker in assigned:
            flights[assigned[worker].spec.model] += max(roster.in_flight(worker), 1)

    def of(model: str) -> tuple[int, Traffic]:
        there = assigned.summary(model)
        return there.count, Traffic(
            waiting=waiting(model),
            in_flight=flights[model],
            slots=there.slots,
            ready=there.ready,
            loading=model in loading,
            gone=there.gone,
        )

    return of
