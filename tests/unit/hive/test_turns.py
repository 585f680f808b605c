"""Whose turn it is to start, over whole scenes."""

from dataclasses import replace

import pytest

from rbee_runtime.hive.decisions import Act, decide
from rbee_runtime.hive.ledger import Account, Holder, Ledger
from rbee_runtime.hive.records import WorkerRecord
from rbee_runtime.hive.scene import ModelState, Scene
from rbee_runtime.protocol import Desired, WorkerSpec
from rbee_runtime.states import Observed


def scene(*places: tuple[str, ...], ledger: Ledger, need: int = 0, cpu: bool = False) -> Scene:
    """Return a scene in which workers a, b, c … want to start, each on its devices."""
    specs = tuple(
        WorkerSpec(id=chr(97 + number), model="m", engine="fake", devices=() if cpu else devices)
        for number, devices in enumerate(places)
    )
    return Scene(
        now=10.0,
        boot="b",
        desired=Desired(fleet="f", epoch=1, revision=1, workers=specs),
        models={"m": ModelState(ready=True)},
        engines=frozenset({"fake"}),
        ledger=ledger,
        needs={spec.id: need for spec in specs},
    )


def cards(*names: str, total: int = 100, limit: int = 1, **fields: object) -> Ledger:
    return Ledger({name: Account(name, total, 0, 0, limit, **fields) for name in names})  # type: ignore[arg-type]


def started(found: Scene) -> list[str]:
    return [decision.worker for decision in decide(found) if decision.act is Act.START]


@pytest.mark.parametrize(
    ("places", "ledger", "need", "starts"),
    [
        ((("G1",), ("G1",), ("G2",)), cards("G1", "G2"), 0, ["a", "c"]),
        ((("G1", "G2"), ("G2",), ("G1",)), cards("G1", "G2"), 0, ["a"]),
        ((("G1",), ("G1",)), cards("G1", holders=(Holder("x", ("G1",), 0, 1, loading=True),)), 0, []),
        ((("G1",), ("G1",)), cards("G1", limit=9), 60, ["a"]),
        ((("G1",), ("G1",)), cards("G1", limit=9), 50, ["a", "b"]),
        ((("G9",), ("G9",)), cards("G1"), 60, ["a", "b"]),
    ],
    ids=["one per card", "all its cards", "one loads already", "memory is promised once", "both fit", "card not known"],
)
def test_starts_of_one_moment_take_turns(
    places: tuple[tuple[str, ...], ...], ledger: Ledger, need: int, starts: list[str]
) -> None:
    """At most one worker loads on a GPU, and what one start was promised no other one gets."""
    assert started(scene(*places, ledger=ledger, need=need)) == starts


def test_on_the_processor_a_bounded_number_starts() -> None:
    """Three workers without a device of their own start two at a time."""
    assert started(scene((), (), (), ledger=cards("cpu", limit=2), cpu=True)) == ["a", "b"]


def test_who_waits_is_in_backoff_and_says_for_whom() -> None:
    """The state is one that the queen knows, the sentence names the neighbour."""
    waiting = decide(scene(("G1",), ("G1",), ledger=cards("G1")))[1]
    assert (waiting.state, waiting.said) == (Observed.BACKOFF, "waits its turn: a loads on G1")


def test_who_failed_last_goes_last() -> None:
    """A worker that crashes again and again does not keep its neighbours from the card."""
    found = scene(("G1",), ("G1",), ledger=cards("G1"))
    assert started(replace(found, records={"a": WorkerRecord(id="a", boot="b", next_try=9.0)})) == ["b"]


def test_a_start_notes_what_was_free() -> None:
    """The record of a start has the estimate and the free memory that a later failure is compared with."""
    (decision,) = decide(scene(("G1",), ledger=cards("G1"), need=30))
    assert (decision.record.need, decision.record.had) == (30, {"G1": 100})


def test_one_that_waits_for_memory_tells_what_it_needs() -> None:
    """The queen has room made for that, not for what she thought."""
    (waits,) = decide(scene(("G1",), ledger=cards("G1", total=100), need=160))
    assert (waits.state, waits.record.need) == (Observed.BACKOFF, 160)
