"""Exit classification and the schedule of tries."""

from typing import Any

import pytest

from rbee_runtime.hive import exits
from rbee_runtime.hive.launchers import Phase, UnitStatus
from rbee_runtime.hive.records import WorkerRecord
from rbee_runtime.states import WORKER_EXIT_CODES, ExitReason


def ended(**fields: object) -> UnitStatus:
    return UnitStatus("w", Phase.ENDED, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("status", "reason"), WORKER_EXIT_CODES.items())
def test_every_exit_status_of_the_worker_has_its_reason(status: int, reason: ExitReason) -> None:
    """The table of the worker's exit statuses is the one that the hive reads."""
    assert exits.classify(ended(exit_status=status))[0] is reason


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (ended(exit_signal=9), ExitReason.KILLED),
        (ended(exit_signal=9, out_of_memory=True), ExitReason.OUT_OF_MEMORY),
        (ended(exit_status=70), ExitReason.CRASHED),
        (ended(exit_status=137), ExitReason.KILLED),
        (ended(exit_status=137, out_of_memory=True), ExitReason.OUT_OF_MEMORY),
        (ended(exit_status=255), ExitReason.CRASHED),
        (ended(exit_status=0), ExitReason.ASKED),
        (ended(), ExitReason.CRASHED),
        (None, ExitReason.ASKED),
    ],
)
def test_other_ends_are_told_apart(status: UnitStatus | None, reason: ExitReason) -> None:
    """Signals, the kernel's memory killer, unknown statuses and clean ends each have a reason and a sentence."""
    found, said = exits.classify(status)
    assert (found, bool(said)) == (reason, True)


def fail(record: WorkerRecord, *, at: float, status: int = 70, ready_for: float | None = None) -> WorkerRecord:
    ready = None if ready_for is None else at - ready_for
    running = WorkerRecord(**{**_fields(record), "launched": at, "ready_since": ready})
    return exits.noted(running, ended(exit_status=status), now=at)


def _fields(record: WorkerRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def test_delays_double_up_to_five_minutes_with_jitter() -> None:
    """Try n waits 2^(n-1) s, at most 300 s, within ±20 %."""
    record, waits = WorkerRecord(id="w"), []
    for number in range(12):
        record = fail(record, at=1000.0 * number)
        waits.append(record.next_try - 1000.0 * number)
    for number, wait in enumerate(waits):
        plain = min(300.0, 2.0**number)
        assert plain * 0.8 <= wait <= plain * 1.2


def test_a_worker_that_never_starts_is_tried_at_most_twelve_times_in_ten_minutes() -> None:
    """Start attempts of a worker that ends at once stay bounded."""
    record, now, tries = WorkerRecord(id="w"), 0.0, 0
    while now < 600:
        record = fail(record, at=now)
        now, tries = record.next_try, tries + 1
    assert 6 <= tries <= 12


def test_five_failures_in_ten_minutes_are_a_crash_loop_until_health_returns() -> None:
    """The mark comes with the fifth failure, stays while the worker fails, and goes after 600 s of health."""
    record, marks = WorkerRecord(id="w"), []
    for at in (0, 10, 20, 30, 40, 900, 1800):
        record = fail(record, at=float(at))
        marks.append(record.crash_loop)
    assert marks == [False, False, False, False, True, True, True]
    healed = fail(record, at=3000.0, ready_for=600.0)
    assert (healed.crash_loop, healed.streak) == (False, 1)


def test_failures_far_apart_are_no_crash_loop() -> None:
    """Five failures with eleven minutes between them are five separate troubles."""
    record = WorkerRecord(id="w")
    for number in range(6):
        record = fail(record, at=660.0 * number)
    assert not record.crash_loop


def test_a_taken_port_costs_no_delay_at_first() -> None:
    """Three new ports are tried at once; after that the usual schedule holds."""
    record, waits = WorkerRecord(id="w"), []
    for _ in range(4):
        record = fail(record, at=50.0, status=98)
        waits.append(record.next_try - 50.0)
    assert waits[:3] == [0, 0, 0]
    assert waits[3] > 5


def test_a_stop_that_was_asked_is_no_failure() -> None:
    """An end that the hive asked for leaves streak and crash loop alone and may be followed by a start at once."""
    asked = WorkerRecord(id="w", launched=1.0, stop_asked=5.0, streak=2)
    record = exits.noted(asked, ended(exit_signal=9), now=9.0)
    assert (record.last_exit, record.streak, record.next_try, record.stop_asked) == (ExitReason.ASKED, 2, 9.0, None)


@pytest.mark.parametrize(("status", "blocked"), [(65, "s/b/f"), (64, "s/b/f"), (71, ""), (70, "")])
def test_what_cannot_get_better_by_itself_is_marked(status: int, blocked: str) -> None:
    """A bad model or setting blocks exactly the attempt that failed."""
    record = fail(WorkerRecord(id="w", spec="s", basis="b", stamp="f"), at=1.0, status=status)
    assert record.blocked == blocked


def test_the_signal_of_an_end_is_on_record() -> None:
    """Status and signal are kept for the queen, whichever way the launcher tells them."""
    direct, by_status = (
        exits.noted(WorkerRecord(id="w", launched=1.0), ended(**how), now=2.0)
        for how in ({"exit_signal": 11}, {"exit_status": 139})
    )
    assert (direct.exit_status, direct.exit_signal) == (None, 11)
    assert (by_status.exit_status, by_status.exit_signal) == (139, 11)


def test_ends_for_want_of_memory_are_counted_in_a_row() -> None:
    """Two in a row are two; another end in between begins anew."""
    counts, record = [], WorkerRecord(id="w")
    for status in (71, 71, 70, 71):
        record = fail(record, at=1.0, status=status)
        counts.append(record.starved)
    assert counts == [1, 2, 0, 1]


def test_a_range_without_free_ports_follows_the_usual_schedule() -> None:
    """Nothing is gained by trying that again at once."""
    record = exits.not_started(WorkerRecord(id="w"), "no free port", reason=ExitReason.PORT_TAKEN, now=50.0)
    assert (record.last_exit, record.next_try > 50.5) == (ExitReason.PORT_TAKEN, True)
