"""What the hive does about a worker: tables of situations."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from rbee_runtime.hive.decisions import Act, ModelState
from rbee_runtime.states import OBSERVED_TRANSITIONS, ExitReason, Observed
from tests.unit.hive.situations import (
    ABSENT,
    CRASHED,
    ENDED,
    FAILED,
    GOOD,
    HUNG,
    NOTHING,
    RECORD,
    RUNS,
    STOPS,
    TABLE,
    one,
    one_device,
    record,
)


@pytest.mark.parametrize("row", TABLE)
def test_each_situation_has_its_decision(row: str) -> None:
    """State and action follow the table."""
    changes, state, act = TABLE[row]
    decision = one(**changes)
    assert (decision.state, decision.act) == (state, act)


@pytest.mark.parametrize("row", [name for name, (_, state, _) in TABLE.items() if state is not Observed.READY])
def test_what_is_not_ready_says_why(row: str) -> None:
    """Each state but ready and a plain start or removal comes with a sentence."""
    decision = one(**TABLE[row][0])
    assert decision.said or decision.act in {Act.START, Act.FORGET} or decision.state is Observed.STARTING


def test_a_crash_is_counted_once() -> None:
    """The record that a decision returns has no open launch, so the next look does not count the same end again."""
    first = one(records=record(), statuses={"w": CRASHED})
    second = one(records={"w": first.record}, statuses={"w": CRASHED})
    assert (first.record.streak, second.record.streak) == (1, 1)


def test_a_new_spec_is_tried_at_once() -> None:
    """What failed under another spec neither delays nor marks the new one."""
    waiting = record(**FAILED, spec="old", next_try=1e6, streak=9, crash_loop=True)
    decision = one(records=waiting)
    assert (decision.act, decision.record.crash_loop, decision.record.streak) == (Act.START, False, 0)


def test_a_reboot_keeps_the_port_and_what_is_blocked() -> None:
    """A record of an earlier boot loses its times, not its port or the model that cannot be loaded."""
    decision = one(boot="b2", records=record(blocked=RECORD.attempt))
    assert (decision.act, decision.record.port, decision.record.launched) == (Act.NONE, 9000, None)


def test_a_stop_left_from_an_earlier_boot_is_void() -> None:
    """A worker that runs in this boot is not taken for stopping because of a request in the last one."""
    decision = one(boot="b2", records=record(stop_asked=5.0), statuses={"w": RUNS}, health={"w": GOOD})
    assert decision.state is Observed.READY


def test_a_life_follows_the_table_of_states() -> None:
    """Start, ready, release, drain: each step is one that the state table allows."""
    lives = [
        one(),
        one(records=record(), statuses={"w": RUNS}),
        one(records=record(), statuses={"w": RUNS}, health={"w": GOOD}),
        one(records=record(), statuses={"w": RUNS}, health={"w": GOOD}, desired=NOTHING),
        one(records=record(stop_asked=99.0), statuses={"w": STOPS}, health={"w": replace(GOOD, in_flight=1)}),
        one(records=record(stop_asked=99.0), statuses={"w": STOPS}),
        one(desired=NOTHING, records=ENDED),
    ]
    states = [decision.state for decision in lives]
    steps = [(a, b) for a, b in pairwise(states) if a is not b]
    assert all(b in OBSERVED_TRANSITIONS[a] for a, b in steps)


def test_a_worker_that_was_given_up_counts_as_failed() -> None:
    """The hive's own kill of a hung worker is a crash with its reason, not a wish, and is tried again in a second."""
    hung: dict[str, Any] = {"now": 1000.0, "records": record(ready_since=60.0), "statuses": {"w": RUNS}}
    killed = one(**hung, health={"w": HUNG})
    ended = one(now=1001.0, records={"w": killed.record}, statuses={"w": replace(CRASHED, exit_status=None)})
    assert (ended.record.last_exit, ended.record.streak, ended.record.stop_as) == (ExitReason.CRASHED, 1, None)
    assert "gave no answer for 120 s" in ended.said


@pytest.mark.parametrize("row", ["device lost, runs", "device lost, ended", "another worker found the device broken"])
def test_a_lost_device_is_the_reason(row: str) -> None:
    """A worker that its device keeps from serving reports that, running or not."""
    assert one(**TABLE[row][0]).reason is ExitReason.DEVICE_LOST


def test_memory_is_the_reason_with_its_numbers() -> None:
    """A worker that does not fit says what it needs and what is there, and reports the reason to the queen."""
    decision = one(needs={"w": 2 * 1024**3}, ledger=one_device(free=1000))
    assert decision.reason is ExitReason.OUT_OF_MEMORY
    assert "w needs 2.0 GiB on cpu and 0.0 GiB are free" in decision.said


def test_a_record_from_before_its_model_was_seen_takes_on_its_content() -> None:
    """A worker recovered while the document or the disk was away is adopted once the model is seen, not stopped."""
    running = {"statuses": {"w": RUNS}, "health": {"w": GOOD}}
    unseen = one(**running, records=record(basis=""), models={})
    assert (unseen.act, unseen.record.basis) == (Act.NONE, "")
    seen = one(**running, records={"w": unseen.record})
    assert (seen.state, seen.act, seen.record.basis) == (Observed.READY, Act.NONE, "c0/k")
    later = one(**running, records={"w": seen.record}, models={"m": ModelState(ready=True, basis="c1")})
    assert (later.state, later.act) == (Observed.DRIFTED, Act.STOP)


def test_a_kill_that_was_refused_is_repeated_and_told() -> None:
    """Every ten seconds it is tried again, and the worker's sentence has both why it was given up and the refusal."""
    given_up = record(stop_asked=95.0, stop_as=ExitReason.CRASHED, stop_said="it gave no answer for 120 s")
    scene = {"statuses": {"w": RUNS}, "refused": {"w": "cannot kill worker w: Access denied"}}
    waits = one(**scene, records=given_up)
    again = one(**scene, records={"w": waits.record}, now=105.0)
    assert (waits.act, again.act, again.record.stop_asked, again.record.stop_repeats) == (Act.NONE, Act.KILL, 105.0, 1)
    assert again.said.startswith("it gave no answer for 120 s; it could not be told to end: cannot kill worker w")
    assert one(**scene, records={"w": again.record}, now=106.0).act is Act.NONE


@pytest.mark.parametrize(
    ("models", "unseen", "said"),
    [
        ({"m": ABSENT}, "", "the wanted model m is not on this host's disk (being copied); it serves on"),
        ({}, "the disk hangs", "the wanted model m is not on this host's disk (the disk hangs); it serves on"),
        ({"m": ModelState(ready=True, basis="c1")}, "", "its model's content or its credentials changed"),
    ],
)
def test_a_model_that_is_gone_is_not_called_another_one(models: dict[str, ModelState], unseen: str, said: str) -> None:
    """A worker whose model is not on disk any more serves on and says that; only a model seen to differ changed."""
    running = {"records": record(), "statuses": {"w": RUNS}, "health": {"w": GOOD}}
    decision = one(**running, models=models, unseen=unseen)
    assert decision.said.startswith(said)
    assert (decision.act is Act.STOP) is (models == {"m": ModelState(ready=True, basis="c1")})
