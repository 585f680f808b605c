"""The deploy's own report: one line per host and stage, what failed and what to do, on standard error.

Standard output stays pyinfra's, which is pure JSON with `--json`.
"""

import atexit
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TextIO

from pyinfra.api.state import BaseStateCallback
from pyinfra.context import ctx_state

from rbee_deploy import connection
from rbee_deploy.facts.memo import COMMANDS
from rbee_deploy.operations.root import REFUSALS, WARNINGS

LOG_LINES = 10
ELSEWHERE = "rbee_stages_elsewhere"
"""Key of the stages that do not concern a host and so get no line."""


class Verdict(StrEnum):
    """How a stage ended on a host."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    FAILED = "failed"


@dataclass
class Line:
    """One stage on one host; `notes` are sentences and log lines for a person."""

    host: str
    stage: str
    seconds: float = 0.0
    verdict: Verdict = Verdict.UNCHANGED
    notes: list[str] = field(default_factory=list)


def separator() -> str:
    """Return what stands between stage and step in an operation's name."""
    return ": "


class Recorder(BaseStateCallback):
    """Notes how long each operation took on each host."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = {}
        self._begun: dict[tuple[str, str], float] = {}

    def operation_host_start(self, state: Any, host: Any, op_hash: str) -> None:
        """Note the start."""
        self._begun[host.name, op_hash] = time.monotonic()

    def operation_host_success(self, state: Any, host: Any, op_hash: str, retry_count: int = 0) -> None:
        """Note the end."""
        self._end(host, op_hash)

    def operation_host_error(
        self, state: Any, host: Any, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        """Note the end."""
        self._end(host, op_hash)

    def _end(self, host: Any, op_hash: str) -> None:
        key = host.name, op_hash
        self.seconds[key] = time.monotonic() - self._begun.get(key, time.monotonic())


def arm(state: Any) -> None:
    """Have the report printed when the run is over, however it ends."""
    if getattr(state, "rbee_recorder", None) is None:
        state.rbee_recorder = Recorder()
        state.add_callback_handler(state.rbee_recorder)
        atexit.register(show, state)


def expect() -> None:
    """Have a report even of a run that never gets as far as the deploy, because no host could be reached."""
    atexit.register(lambda: show(ctx_state.get()))


def show(state: Any, stream: TextIO | None = None) -> None:
    """Print the report once."""
    if state is None or not state.initialised or getattr(state, "rbee_reported", False):
        return
    state.rbee_reported = True
    for line in text(state):
        print(line, file=stream or sys.stderr, flush=True)


def text(state: Any) -> list[str]:
    """Return the report's lines."""
    lines = list(_lines(state))
    if not lines:
        return []
    width = max(len(line.host) for line in lines)
    stages = max(len(line.stage) for line in lines)
    rows = [row for line in lines for row in _row(line, width, stages)]
    return ["", *rows, *_counts(state, width)]


def _row(line: Line, width: int, stages: int) -> Iterator[str]:
    first, *rest = line.notes or [""]
    indent = " " * (width + stages + 25)
    head = f"{line.host:<{width}}  {line.stage:<{stages}}  {line.seconds:6.1f} s  {line.verdict:<9}"
    yield f"{head}  {first}".rstrip()
    yield from (f"{indent}{note}".rstrip() for note in rest)


def _counts(state: Any, width: int) -> Iterator[str]:
    for host in (host for host in _hosts(state) if host in state.activated_hosts):
        count = host.connector_data.get(COMMANDS, 0)
        yield f"{host.name:<{width}}  {count} remote command{'' if count == 1 else 's'}"


def _hosts(state: Any) -> Iterable[Any]:
    return [host for host in state.inventory if state.is_host_in_limit(host)]


def _lines(state: Any) -> Iterator[Line]:
    reasons = connection.sentences(host for host in _hosts(state) if host not in state.activated_hosts)
    for host in _hosts(state):
        if host.name in reasons:
            yield Line(host.name, "connect", verdict=Verdict.FAILED, notes=[reasons[host.name]])
        elif hasattr(state, "rbee_recorder"):
            yield from _stages(state, host)


def _stages(state: Any, host: Any) -> Iterator[Line]:
    current: Line | None = None
    if not state.is_executing and host.connector_data.get(REFUSALS):
        yield Line(host.name, "preflight", verdict=Verdict.FAILED, notes=host.connector_data[REFUSALS])
        return
    for op_hash in state.get_op_order():
        recorded = state.rbee_recorder.seconds.get((host.name, op_hash))
        data = state.ops[host].get(op_hash)
        if data is None or recorded is None:
            continue
        stage, _, step = next(iter(state.op_meta[op_hash].names)).partition(separator())
        if stage in host.connector_data.get(ELSEWHERE, ()):
            continue
        if current is None or current.stage != stage:
            if current is not None:
                yield current
            current = Line(host.name, stage, notes=list(host.connector_data.pop(WARNINGS, ())))
        _add(current, step, recorded, data.operation_meta, host)
    if current is not None:
        yield current


def _add(line: Line, step: str, seconds: float, meta: Any, host: Any) -> None:
    line.seconds += seconds
    if not meta.is_complete() or meta.did_error():
        line.verdict = Verdict.FAILED
        line.notes = host.connector_data.get(REFUSALS) or _said(meta, step, host.name)
    elif meta.did_change() and line.verdict is Verdict.UNCHANGED:
        line.verdict = Verdict.CHANGED


def _said(meta: Any, step: str, name: str) -> list[str]:
    output = meta._combined_output.output_lines if meta.is_complete() else []  # noqa: SLF001 - stdout alone is public
    last = [line for line in output if line.strip()][-LOG_LINES - 1 :]
    advice = "run the same command again; on the host, journalctl -u 'rbee-*' -n 50 says more"
    return [*(last or [f"could not {step} on {name}"]), advice]
