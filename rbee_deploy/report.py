"""The deploy's own report: one line per host and stage, what failed and what to do, on standard error.

Standard output stays pyinfra's, which is pure JSON with `--json`. Beside pyinfra's own account the report comes at the
end; where that is silent, each stage's lines come when the stage is over.
"""

import atexit
import itertools
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from pyinfra import logger
from pyinfra.context import ctx_state

from rbee_deploy import connection, interrupt
from rbee_deploy.activator.lost import WARNING
from rbee_deploy.facts.memo import COMMANDS
from rbee_deploy.operations.root import DIFFERENCES, FETCHES, NOTES, REFUSALS, WARNINGS
from rbee_deploy.recorder import Recorder

LOG_LINES = 10
AROUND_THE_LOG = 2
"""Lines before and after a unit's own: what did not become ready, and what was put back."""

MOST_DIFFERENCES = 8
_NEXT_COMMANDS = ("run the same command", "rbee-deploy ")
"""What stands in a sentence of ours that says by itself what to do: of a lease, of a freeze."""

ELSEWHERE = "rbee_stages_elsewhere"
"""Key of the stages that do not concern a host and so get no line."""


QUIET = "rbee_stages_quiet"
"""Key of the stages that get a line only where they are not without effect."""


class Verdict(StrEnum):
    """How a stage ended on a host."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    FELL_BACK = "fell back"
    FAILED = "failed"
    CUT_OFF = "cut off"
    PLANNED = "would change"
    DIFFERS = "differs"
    FETCHES = "fetches"
    HINT = "hint"


@dataclass
class Line:
    """One stage on one host; `notes` are sentences and log lines for a person, `seconds` None where nothing was run."""

    host: str
    stage: str
    seconds: float | None = None
    verdict: Verdict = Verdict.UNCHANGED
    notes: list[str] = field(default_factory=list)


def separator() -> str:
    """Return what stands between stage and step in an operation's name."""
    return ": "


def alone() -> None:
    """Silence pyinfra's own account, for the report says it shorter."""
    logger.addFilter(_is_no_narration)


def _is_alone() -> bool:
    return _is_no_narration in logger.filters


_NARRATORS = {"operations", "host", "root", "util"}


def _is_no_narration(record: logging.LogRecord) -> bool:
    """Keep warnings and errors that the report does not repeat, or say better: a file of known hosts is not there."""
    is_absence = isinstance(record.args, tuple) and any(isinstance(each, FileNotFoundError) for each in record.args)
    return record.levelno >= logging.WARNING and not is_absence and record.module not in _NARRATORS


def arm(state: Any) -> None:
    """Have the report printed when the run is over, however it ends."""
    if getattr(state, "rbee_recorder", None) is None:
        state.rbee_recorder = Recorder(_stage_began if _is_alone() else _nothing)
        state.rbee_shown = set()
        state.add_callback_handler(state.rbee_recorder)
        interrupt.arm()
        atexit.register(show, state)


def expect() -> None:
    """Have a report even of a run that never gets as far as the deploy, because no host could be reached."""
    demand_files(sys.argv[1:])
    interrupt.arm()
    connection.calm()
    atexit.register(lambda: show(ctx_state.get()))


def demand_files(words: Iterable[str]) -> None:
    """End a run of a file that is not there, be it the inventory or the deploy.

    pyinfra takes an inventory's name for a host's, says that it is none, and goes on without hosts to a good end. What
    comes behind `exec` is of the hosts.
    """
    for word in itertools.takewhile(lambda word: word not in {"exec", "--"}, words):
        if word.endswith(".py") and "=" not in word and not Path(word).is_file():
            sys.exit(f"there is no file {word}; see what is in {Path(word).parent} and run the command again")


def show(state: Any, stream: TextIO | None = None) -> None:
    """Print the report once, or what of it was not printed yet."""
    if state is None or not state.initialised or getattr(state, "rbee_reported", False):
        return
    state.rbee_reported = True
    try:
        lines = text(state)
    except SystemExit:
        # Ctrl-C while it looks for reasons, some seconds: the run is over already, and what is known is told.
        lines = text(state)
    for line in lines:
        print(line, file=stream or sys.stderr, flush=True)


def lines(state: Any) -> list[Line]:
    """Return what the report says of each stage and host, nothing where there was no run."""
    return [] if state is None else list(_lines(state))


def text(state: Any) -> list[str]:
    """Return the report's lines."""
    rows = _rows(state, list(_lines(state)))
    before = [""] if rows and not _is_alone() else []
    return [*before, *rows, *_counts(state)]


def _nothing(_state: Any, _op_hash: str) -> None:
    """Print nothing before the end."""


def _stage_began(state: Any, op_hash: str) -> None:
    """Print the lines of the stages that are over."""
    now = _stage_of(state, op_hash)
    if state.__dict__.get("rbee_stage") == now:
        # Nothing is over that was not over before the step before; looking costs a look at every step of every host.
        return
    state.rbee_stage = now
    for row in _rows(state, [line for line in _lines(state) if line.stage != now]):
        print(row, file=sys.stderr, flush=True)


def _rows(state: Any, lines: list[Line]) -> list[str]:
    """Return what is printed of the lines that were not printed before, aligned alike all through the run."""
    shown: set[tuple[str, str]] = getattr(state, "rbee_shown", set())
    fresh = [line for line in lines if (line.host, line.stage) not in shown]
    shown |= {(line.host, line.stage) for line in fresh}
    width = max((len(host.name) for host in _hosts(state)), default=0)
    titles = [_stage_of(state, op_hash) for op_hash in state.op_meta]
    stages = max(map(len, [*titles, *(line.stage for line in fresh)]), default=0)
    return [row for line in fresh for row in _row(line, width, stages)]


def _stage_of(state: Any, op_hash: str) -> str:
    return str(next(iter(state.op_meta[op_hash].names)).partition(separator())[0])


def _row(line: Line, width: int, stages: int) -> Iterator[str]:
    first, *rest = line.notes or [""]
    took = "" if line.seconds is None else f"{line.seconds:6.1f} s  "
    head = f"{line.host:<{width}}  {line.stage:<{stages}}  {took}{line.verdict:<{9 if took else 12}}"
    indent = " " * (len(head) + 2)
    yield f"{head}  {first}".rstrip()
    yield from (f"{indent}{note}".rstrip() for note in rest)


def _counts(state: Any) -> Iterator[str]:
    width = max((len(host.name) for host in _hosts(state)), default=0)
    for host in (host for host in _hosts(state) if host in state.activated_hosts):
        count = host.connector_data.get(COMMANDS, 0)
        yield f"{host.name:<{width}}  {count} remote command{'' if count == 1 else 's'}"


def _hosts(state: Any) -> Iterable[Any]:
    return [host for host in state.inventory if state.is_host_in_limit(host)]


def _reasons(state: Any, missed: list[Any]) -> dict[str, str]:
    """Return why hosts could not be reached: one second look for the whole run, since each may take seconds."""
    if not hasattr(state, "rbee_reasons"):
        state.rbee_reasons = {} if interrupt.happened() else connection.sentences(missed)
    reasons: dict[str, str] = state.rbee_reasons
    return reasons


def _lines(state: Any) -> Iterator[Line]:
    missed = [host for host in _hosts(state) if host not in state.activated_hosts]
    reasons = _reasons(state, missed)
    for host in _hosts(state):
        if host.name in reasons:
            yield Line(host.name, "connect", verdict=Verdict.FAILED, notes=[reasons[host.name]])
        elif host in missed:
            yield Line(host.name, "connect", verdict=Verdict.CUT_OFF, notes=["nothing was done there"])
        elif hasattr(state, "rbee_recorder"):
            yield from _stages(state, host)


def _stages(state: Any, host: Any) -> Iterator[Line]:
    """Yield a host's lines: of what was done, or of what would be."""
    if not state.is_executing and host.connector_data.get(REFUSALS):
        yield Line(host.name, "preflight", verdict=Verdict.FAILED, notes=host.connector_data[REFUSALS])
    elif not state.is_executing:
        yield from _planned(state, host)
    else:
        yield from _done(state, host)


def _planned(state: Any, host: Any) -> Iterator[Line]:
    differences: list[str] | None = host.connector_data.get(DIFFERENCES)
    if differences is None:
        return
    steps: dict[str, list[str]] = {}
    for op_hash in _order(state):
        data = state.ops[host].get(op_hash)
        if data is not None and data.operation_meta.will_change:
            stage, _, step = next(iter(state.op_meta[op_hash].names)).partition(separator())
            steps.setdefault(stage, []).append(step)
    yield from (Line(host.name, stage, None, Verdict.PLANNED, [", ".join(names)]) for stage, names in steps.items())
    if hints := [hint for hint in host.connector_data.get(WARNINGS, ()) if not hint.startswith("its hive fetches")]:
        yield Line(host.name, "preflight", None, Verdict.HINT, hints)
    if fetches := host.connector_data.get(FETCHES):
        yield Line(host.name, "its hive", None, Verdict.FETCHES, fetches)
    if differences:
        more = len(differences) - MOST_DIFFERENCES
        rest = [f"and {more} more"] if more > 0 else []
        yield Line(host.name, "now", None, Verdict.DIFFERS, [*differences[:MOST_DIFFERENCES], *rest])
    elif not steps:
        yield Line(host.name, "all", None)


def _order(state: Any) -> list[str]:
    """Return the operations in their order; sorting them takes pyinfra long, and they are fixed once they run."""
    if not state.is_executing:
        return list(state.get_op_order())
    if not hasattr(state, "rbee_order"):
        state.rbee_order = list(state.get_op_order())
    order: list[str] = state.rbee_order
    return order


def _done(state: Any, host: Any) -> Iterator[Line]:
    lines: dict[str, Line] = {}
    for op_hash in _order(state):
        data, recorder = state.ops[host].get(op_hash), state.rbee_recorder
        cut_off = recorder.was_cut_off(host.name, op_hash)
        if data is None or not (cut_off or (host.name, op_hash) in recorder.seconds):
            continue
        stage, _, step = next(iter(state.op_meta[op_hash].names)).partition(separator())
        if stage in host.connector_data.get(ELSEWHERE, ()):
            continue
        notes = [*([] if lines else host.connector_data.get(WARNINGS, ())), *_notes(host, stage)]
        line = lines.setdefault(stage, Line(host.name, stage, 0.0, notes=notes))
        line.seconds = (line.seconds or 0.0) + recorder.since(host.name, op_hash)
        if cut_off:
            line.verdict, line.notes = Verdict.CUT_OFF, [step]
        else:
            _judge(line, data.operation_meta, host, ignored=_is_ignored(data))
    quiet = host.connector_data.get(QUIET, ())
    bad = {Verdict.FAILED, Verdict.CUT_OFF}
    yield from (line for line in lines.values() if line.stage not in quiet or line.verdict in bad)


def _is_ignored(data: Any) -> bool:
    """Say whether an operation may fail without failing its host, which has another way."""
    return bool(getattr(data, "global_arguments", {}).get("_ignore_errors"))


def _notes(host: Any, stage: str) -> list[str]:
    known: dict[str, list[str]] = host.connector_data.get(NOTES, {})
    return known.get(stage, [])


def _judge(line: Line, meta: Any, host: Any, *, ignored: bool) -> None:
    if ignored and meta.is_complete() and meta.did_error():
        # The host goes on, and what to do about it is said where it falls back.
        line.verdict, line.notes = Verdict.FELL_BACK, _said(meta, host.name)[:-1]
    elif not meta.is_complete() or meta.did_error():
        line.verdict = Verdict.FAILED
        line.notes = host.connector_data.get(REFUSALS) or _said(meta, host.name)
    elif meta.did_change():
        line.verdict = Verdict.CHANGED if line.verdict is Verdict.UNCHANGED else line.verdict
        line.notes += _warned(meta)


def _warned(meta: Any) -> list[str]:
    """Return what a host's activator warns of although it did what it was told."""
    output = meta._combined_output.output_lines  # noqa: SLF001 - stdout alone is public
    return [line.strip().removeprefix(WARNING) for line in output if line.strip().startswith(WARNING)]


def says_what_to_do(sentence: str) -> bool:
    """Say whether a sentence names the next command by itself."""
    return any(words in sentence for words in _NEXT_COMMANDS)


def _said(meta: Any, name: str) -> list[str]:
    """Return what a failed program said last and what to do; pyinfra does not tell how one ended that said nothing."""
    output = meta._combined_output.output_lines if meta.is_complete() else []  # noqa: SLF001 - stdout alone is public
    silent = (
        f"the program on {name} ended without a word (killed, out of memory, or the connection broke?); "
        "run the same command again; if it ends like that again, journalctl -n 50 on the host says more"
    )
    last = [line for line in output if line.strip()][-LOG_LINES - AROUND_THE_LOG :] or [silent]
    if says_what_to_do(last[-1]):
        return last
    return [*last, "put that right and run the same command again; on the host, journalctl -u 'rbee-*' -n 50 says more"]
