"""Workers that a hive cannot start for want of memory or of their device."""

from collections.abc import Callable

import msgspec
import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.protocol import FetchReport
from rbee_runtime.queen.admission import Refusal, admit
from rbee_runtime.queen.outlook import MOST_LETTERS
from rbee_runtime.queen.records import Scope
from rbee_runtime.states import ExitReason, FetchState, Observed
from tests.unit.queen.states import Fixture, fleet, model

Queen = Callable[[FleetFile], Fixture]


def says(made: Fixture, hive: str, state: Observed, reason: ExitReason | None, detail: str = "no room") -> None:
    """Let a hive report its workers in a state with a reason."""
    report = made.report(hive, state)
    workers = tuple(msgspec.structs.replace(each, last_exit=reason, detail=detail) for each in report.workers)
    made.controller.heartbeat(msgspec.structs.replace(report, workers=workers))


@pytest.mark.parametrize(
    ("state", "reason", "moved"),
    [
        (Observed.EXITED, ExitReason.OUT_OF_MEMORY, True),
        (Observed.EXITED, ExitReason.DEVICE_LOST, True),
        (Observed.BACKOFF, ExitReason.OUT_OF_MEMORY, False),
        (Observed.CRASH_LOOP, ExitReason.DEVICE_LOST, False),
        (Observed.EXITED, ExitReason.BAD_MODEL, False),
    ],
)
def test_what_one_hive_gave_up_another_one_gets(queen: Queen, state: Observed, reason: ExitReason, moved: bool) -> None:
    """A worker that waits for its hive to change is placed elsewhere; what is still tried there, or bad, is not."""
    made = queen(fleet(model()))
    made.beat("a", "b", "c")
    (first,) = (entry.hive for entry in made.controller.assignments.values())
    says(made, first, state, reason)
    assert len({entry.hive for entry in made.controller.assignments.values()}) == (2 if moved else 1)


@pytest.mark.parametrize(
    ("first", "kept"), [("old", ["old"]), ("new", ["new"])], ids=["the old one serves", "the new one serves"]
)
def test_a_further_try_does_not_end_the_load_of_the_replacement(queen: Queen, first: str, kept: list[str]) -> None:
    """While a hive tries again what it gave up, the replacement loads on; the one that serves first stays."""
    made = queen(fleet(model(), hives=("a", "b")))
    made.beat("a", "b")
    (old,) = (entry.hive for entry in made.controller.assignments.values())
    names = {old: "old", "ab".replace(old, ""): "new"}
    for state in (Observed.EXITED, Observed.STARTING, Observed.EXITED, Observed.STARTING):
        says(made, old, state, ExitReason.OUT_OF_MEMORY)
        made.controller.reconcile()
        assert sorted(entry.hive for entry in made.controller.assignments.values()) == ["a", "b"]
    (serves,) = (hive for hive, name in names.items() if name == first)
    made.controller.heartbeat(made.report(serves, Observed.READY))
    made.controller.reconcile()
    assert [names[entry.hive] for entry in made.controller.assignments.values()] == kept


def test_when_no_hive_can_clients_are_told_at_once(queen: Queen) -> None:
    """A model whose workers all wait for memory is hopeless, with the hive's sentence; one replacement is hope."""
    made = queen(fleet(model(), hives=("a", "b")))
    made.beat("a", "b")
    says(made, "a", Observed.EXITED, ExitReason.OUT_OF_MEMORY)
    says(made, "b", Observed.STARTING, ExitReason.OUT_OF_MEMORY)
    assert made.controller.hopeless("m") == ""
    says(made, "b", Observed.EXITED, ExitReason.OUT_OF_MEMORY)
    assert "no room" in made.controller.hopeless("m")


def fetches(made: Fixture, hive: str, state: FetchState, said: str = "model m: wrong content") -> None:
    """Let a hive report that it waits for the model's files."""
    fetch = FetchReport(name="m", state=state, detail=said)
    report = made.report(hive, Observed.FETCHING, fetches=(fetch,))
    workers = tuple(msgspec.structs.replace(each, detail=fetch.detail) for each in report.workers)
    made.controller.heartbeat(msgspec.structs.replace(report, workers=workers))


@pytest.mark.parametrize(("state", "hopeless"), [(FetchState.QUARANTINED, True), (FetchState.FAILED, False)])
def test_files_that_are_wrong_are_told_at_once(queen: Queen, state: FetchState, hopeless: bool) -> None:
    """What a source has wrong stays wrong until somebody acts; one that is away may be back any moment."""
    made = queen(fleet(model(), hives=("a",)))
    made.beat("a")
    fetches(made, "a", state)
    said = "its files are not what they should be: model m: wrong content"
    assert made.controller.hopeless("m") == (said if hopeless else "")


def test_who_waits_in_vain_is_told_why(queen: Queen) -> None:
    """The refusal after the wait has the hive's sentence."""
    made = queen(fleet(model(), hives=("a",)))
    made.beat("a")
    fetches(made, "a", FetchState.FAILED)
    ask = Ask(made.keys.create("test", [Scope.INFER], ("*",))[0].id, "m")
    found = admit(ask, made.controller, queue_wait=1.0)
    assert isinstance(found, Refusal)
    assert str(found.error) == "m is not ready yet (a: model m: wrong content)"


@pytest.mark.parametrize("reason", [None, ExitReason.OUT_OF_MEMORY], ids=["may come", "hopeless"])
def test_who_waits_is_told_nothing_of_other_models(queen: Queen, reason: ExitReason | None) -> None:
    """A hive's sentence about memory names its other workers, which a key for one model need not know."""
    made = queen(fleet(model(), model("secret"), hives=("a",)))
    made.beat("a")
    other = next(entry.id for entry in made.controller.assignments.values() if entry.spec.model == "secret")
    says(made, "a", Observed.EXITED, reason, f"no room for m-000001 beside {other}, {other}-b and {other}")
    told = made.controller.absence("m"), made.controller.hopeless("m")
    said = "no room for m-000001 beside another worker, another worker-b and another worker"
    assert told == (f"a: {said}", f"its workers fail to start: {said}" if reason else "")


def test_what_many_hives_say_is_cut(queen: Queen) -> None:
    """Three stand for all, and none says more than a line."""
    names = tuple(f"h{number}" for number in range(5))
    made = queen(fleet(model(each_host=True), hives=names))
    made.beat(*names)
    for name in names:
        fetches(made, name, FetchState.FAILED, "x" * 1000)
    told, _, more = made.controller.absence("m").rpartition(" and ")
    assert [len(text.partition(": ")[2]) for text in told.split("; ")] == [MOST_LETTERS] * 3
    assert more == "2 more"
