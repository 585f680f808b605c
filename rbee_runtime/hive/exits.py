"""Why a worker ended, and when it is tried again: pure functions over its record.

Delays are 1, 2, 4 … 300 s, ±20 %, counted anew after 600 s of health. Five failures within ten minutes are a crash
loop: said out loud, still tried on the same schedule.
"""

import hashlib
import signal

import msgspec

from rbee_runtime.hive.launchers import UnitStatus
from rbee_runtime.hive.records import WorkerRecord
from rbee_runtime.states import WORKER_EXIT_CODES, ExitReason

LONGEST_DELAY = 300.0
JITTER = 0.2
HEALTHY_SECONDS = 600.0
LOOP_WINDOW = 600.0
LOOP_FAILURES = 5
QUICK_PORT_CHANGES = 3
"""So many times in a row a taken port costs no delay; after that something else is wrong."""

PERMANENT = frozenset({ExitReason.BAD_MODEL, ExitReason.BAD_CONFIG})
"""Trying the same again gives the same: only a changed spec helps."""


SPEAKING = frozenset({*WORKER_EXIT_CODES, 70})
"""Exit statuses that `rbee-worker` ends with by itself, after one sentence on stderr; 70 is an engine that failed."""

SIGNAL_BASE = 128
"""Shells and container engines report an end by signal n as exit status 128 + n."""


def classify(status: UnitStatus | None) -> tuple[ExitReason, str]:
    """Return the reason of an end and one sentence; `None` is a worker that its launcher no longer knows."""
    if status is None:
        return ExitReason.ASKED, "it ended without an error, and not because this hive asked"
    if status.out_of_memory:
        return ExitReason.OUT_OF_MEMORY, "the kernel or systemd ended it for want of memory"
    number = ended_by(status)
    if number is not None:
        return ExitReason.KILLED, f"signal {number} ended it"
    if status.exit_status is None:
        return ExitReason.CRASHED, status.said or "it ended and nobody saw its exit status"
    if status.exit_status == 0:
        return ExitReason.ASKED, "it ended without an error, and not because this hive asked"
    reason = WORKER_EXIT_CODES.get(status.exit_status, ExitReason.CRASHED)
    return reason, "; ".join(part for part in (f"exit status {status.exit_status}", status.said) if part)


def ended_by(status: UnitStatus) -> int | None:
    """Return the signal that ended a worker, or None."""
    if status.exit_signal is not None:
        return status.exit_signal
    number = (status.exit_status or 0) - SIGNAL_BASE
    return number if 1 <= number <= signal.SIGRTMAX else None


def noted(record: WorkerRecord, status: UnitStatus | None, *, now: float) -> WorkerRecord:
    """Return the record after the end of the launch that it holds."""
    ended = msgspec.structs.replace(
        closed(record),
        exit_status=status.exit_status if status is not None else None,
        exit_signal=ended_by(status) if status is not None else None,
    )
    if record.stop_asked is not None and record.stop_as is None:
        return msgspec.structs.replace(ended, last_exit=ExitReason.ASKED, said="", next_try=now)
    reason, said = (record.stop_as, record.stop_said) if record.stop_as is not None else classify(status)
    if record.ready_since is not None and now - record.ready_since >= HEALTHY_SECONDS:
        ended = msgspec.structs.replace(ended, streak=0, failures=(), crash_loop=False, starved=0)
    return _failed(ended, reason, said, now)


def not_started(record: WorkerRecord, said: str, *, reason: ExitReason, now: float) -> WorkerRecord:
    """Return the record after a start that did not happen; it counts like a worker that ended at once."""
    return _failed(msgspec.structs.replace(closed(record), exit_status=None, exit_signal=None), reason, said, now)


def forgiven(record: WorkerRecord) -> WorkerRecord:
    """Return the record without what earlier failures mean for the next try."""
    return msgspec.structs.replace(
        record, streak=0, failures=(), crash_loop=False, next_try=0.0, blocked="", starved=0, had={}
    )


def wordless(record: WorkerRecord) -> bool:
    """Say whether a worker ended with a status before which it writes a sentence, and that is not on record yet."""
    if record.launched is not None or record.exit_status not in SPEAKING:
        return False
    return record.last_exit is not ExitReason.ASKED and record.said.startswith(f"exit status {record.exit_status}")


def told(record: WorkerRecord, sentence: str) -> WorkerRecord:
    """Return the record with the worker's own last sentence instead of its bare status."""
    return msgspec.structs.replace(record, said=f"{sentence} (exit status {record.exit_status})")


def closed(record: WorkerRecord) -> WorkerRecord:
    """Return the record without its launch and whatever was asked of it."""
    return msgspec.structs.replace(
        record,
        launched=None,
        ready_since=None,
        stop_asked=None,
        stop_as=None,
        stop_said="",
        stop_repeats=0,
        stranger_since=None,
    )


def _failed(ended: WorkerRecord, reason: ExitReason, said: str, now: float) -> WorkerRecord:
    recent = (*(at for at in ended.failures if now - at < LOOP_WINDOW), now)[-LOOP_FAILURES:]
    failed = msgspec.structs.replace(
        ended,
        last_exit=reason,
        said=said,
        streak=ended.streak + 1,
        failures=recent,
        crash_loop=ended.crash_loop or len(recent) >= LOOP_FAILURES,
        blocked=ended.attempt if reason in PERMANENT else "",
        starved=ended.starved + 1 if reason is ExitReason.OUT_OF_MEMORY else 0,
    )
    return msgspec.structs.replace(failed, next_try=now + delay(failed))


def delay(record: WorkerRecord) -> float:
    """Return seconds until the next try."""
    # A worker that found its port taken gets another one at once; a range without a free port needs a person.
    found = record.last_exit is ExitReason.PORT_TAKEN and record.exit_status is not None
    if found and record.streak <= QUICK_PORT_CHANGES:
        return 0.0
    plain = min(LONGEST_DELAY, 2.0 ** min(record.streak - 1, 16))
    return float(plain * (1 + JITTER * _spread(record)))


def _spread(record: WorkerRecord) -> float:
    """Return a number in -1..1 that differs between workers and tries, and is the same when asked again."""
    seed = hashlib.sha256(f"{record.id}/{record.streak}/{record.restarts}".encode()).digest()
    return int.from_bytes(seed[:4]) / 2**31 - 1
