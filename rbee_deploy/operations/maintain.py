"""Empty a host through the queen, do something to it, and have it serve again; what fails leaves it drained."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gevent
from paramiko import SSHException
from pyinfra import host
from pyinfra.api import FunctionCommand, StringCommand, operation
from pyinfra.api.exceptions import PyinfraError
from pyinfra.context import ctx_host

from rbee_deploy import advised, maintenance, queens
from rbee_deploy.facts.memo import observe_anew
from rbee_deploy.operations import lease
from rbee_deploy.operations.root import REFUSALS, as_root_command, refused
from rbee_deploy.operations.workers import Door
from rbee_deploy.queens import SilentError, UnansweredError

POLL_SECONDS = 1.0
EXIT_STATUS = "rbee exit status "
"""What a host prints before the exit status of the command of a maintenance: pyinfra tells only whether it failed."""

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"

_BROKEN = (OSError, EOFError, SSHException, PyinfraError)
"""What a connection to a host that goes down or is not up yet ends in."""


@dataclass
class Course:
    """One maintenance: what is wanted, and how far it came. Only the operations below change it.

    `status` is the command's exit status, None where it was not seen to end.
    """

    host: str
    command: str = ""
    reboot: bool = False
    seconds: float = 600.0
    before: dict[str, int] = field(default_factory=dict)
    output: list[str] = field(default_factory=list)
    status: int | None = None
    is_drained: bool = False
    is_running: bool = False
    problem: str = ""
    is_kept_up: bool = False
    is_back: bool = False

    @property
    def succeeded(self) -> bool:
        """Say whether the host is as it was; one that was never drained need not be given work again."""
        return self.is_kept_up and (self.is_back or not self.is_drained) and not self.problem


Ask = Callable[[str, str], Any]
"""Asks the queen: method and path."""


@operation()
def drained(queen: Callable[[], Door | None], course: Course) -> Iterator[FunctionCommand]:
    """Have the queen empty the course's host, and wait until it is; one who does not answer holds nobody up."""
    way = queen() if host.state.is_executing else None
    if way is None or not _is_reached(host.state, course.host):
        host.noop("nothing is to be drained here")
        return
    commands = _commands(way, course.host)
    if why := _silence(ctx_host.get(), commands):
        say(course.host, f"the queen could not be asked to drain it, so it is not drained: {why}")
        host.noop("it was not drained")
        return
    yield FunctionCommand(_drain, (commands, course), {})


@operation()
def kept_up(mine: bool, roles: tuple[str, ...], course: Course) -> Iterator[FunctionCommand]:
    """Run the command or reboot, and wait until the host runs what it ran."""
    if not mine or not host.state.is_executing:
        host.noop("another host is maintained")
        return
    if course.problem:
        yield from refused([f"left as it is: {course.problem}"])
        return
    if course.is_drained:
        yield FunctionCommand(_wait_for_workers, (course,), {})
    if course.command:
        yield FunctionCommand(_run, (as_root_command(with_status(course.command)), course), {})
    if course.reboot:
        yield FunctionCommand(_reboot, (as_root_command("systemctl --no-block reboot"), course), {})
    yield FunctionCommand(_verify, (roles, course), {})


@operation()
def resumed(queen: Callable[[], Door | None], course: Course) -> Iterator[FunctionCommand]:
    """Give the host work again once the queen hears its hive, and wait until its workers serve."""
    way = queen() if host.state.is_executing and course.is_kept_up else None
    if way is None:
        host.noop("nothing is to be given work again")
        return
    commands = _commands(way, course.host)
    if not course.is_drained and (why := _silence(ctx_host.get(), commands)):
        say(course.host, f"the queen could not be asked to give it work: {why}")
        host.noop("nobody gave it work")
        return
    yield FunctionCommand(_resume, (commands, course), {})


def _commands(way: Door, name: str) -> dict[tuple[str, str], StringCommand]:
    calls = (("GET", "hives"), ("GET", "workers"), ("POST", f"hives/{name}/drain"), ("POST", f"hives/{name}/undrain"))
    return {call: queens.asking(way, *call) for call in calls}


def _is_reached(state: Any, name: str) -> bool:
    return any(item.data.get("rbee").host.name == name for item in state.active_hosts)


def _silence(mine: Any, commands: dict[tuple[str, str], StringCommand]) -> str:
    """Return why the queen does not answer at all, "" where that is not known; not yielded, for asking is no change."""
    try:
        queens.answer(mine, commands["GET", "hives"])
    except SilentError as error:
        return str(error)
    except UnansweredError:
        # She is there and refuses, or nobody knows: she may go on giving the host work.
        return ""
    return ""


def _asking(host: Any, commands: dict[tuple[str, str], StringCommand]) -> Callable[[str, str], Any]:
    """Return what asks the queen by method and path; the commands were made where the host at hand is known."""
    return lambda method, path: queens.answer(host, commands[method, path])


def _drain(
    state: Any,  # noqa: ARG001 - pyinfra hands over both to a function that has both
    host: Any,
    commands: dict[tuple[str, str], StringCommand],
    course: Course,
) -> bool:
    ask = _asking(host, commands)

    def left() -> str:
        return maintenance.load(ask("GET", "workers"), ask("GET", "hives"), course.host)

    try:
        if maintenance.is_drained(ask("GET", "hives"), course.host):
            say(
                course.host,
                "it was drained already: only what it gets now is waited for, as nobody knows what it served",
            )
        course.before = maintenance.served(ask("GET", "workers"), course.host)
        ask("POST", f"hives/{course.host}/drain")
        course.is_drained = True
        say(course.host, "it is drained: it gets no more requests")
        if why := until(left, course, course.seconds):
            course.problem = f"it is not empty after {course.seconds:.0f} s ({why}); --seconds waits longer"
            return _failed(host, course.problem)
    except UnansweredError as error:
        what = "nobody knows whether it is empty" if course.is_drained else "it is not drained"
        course.problem = f"{what}: {error}"
        return _failed(host, course.problem)
    return True


def _wait_for_workers(
    state: Any,  # noqa: ARG001
    host: Any,
    course: Course,
) -> bool:
    """Wait until the processes are gone of workers that the queen counts no more."""
    why = until(lambda: " ".join(observe_anew(host).workers), course, course.seconds)
    return not why or _failed(host, f"{why} did not end within {course.seconds:.0f} s; left as it is")


def with_status(command: str) -> str:
    """Return the script that runs a command in a shell of its own and prints its exit status last, as an error."""
    return f"sh -c {shlex.quote(command)}; status=$?; echo {shlex.quote(EXIT_STATUS)}$status >&2; exit $status"


def _run(
    state: Any,  # noqa: ARG001
    host: Any,
    command: StringCommand,
    course: Course,
) -> bool:
    say(course.host, "the command runs")
    course.is_running = True
    succeeded, output = host.connector.run_shell_command(command, **command.connector_arguments)
    course.is_running = False
    course.output, course.status = _output(output)
    for line in course.output:
        say(course.host, f"| {line}")
    how = "" if course.status is None else f" with exit status {course.status}"
    shown = "; its output is above" if course.output else " and printed nothing"
    return bool(succeeded) or _failed(host, f"the command failed{how}{shown}")


def _output(output: Any) -> tuple[list[str], int | None]:
    """Return what a command printed and its exit status, which may stand behind a last line without an end."""
    last = output.stderr_lines[-1] if output.stderr_lines else ""
    said, mark, status = last.rpartition(EXIT_STATUS)
    lines = list(output.output_lines)
    if not mark or not status.isdecimal():
        return lines, None
    # Standard output may come later, through a stream of its own.
    at = len(lines) - 1 - lines[::-1].index(last)
    return [*lines[:at], *([said] if said else []), *lines[at + 1 :]], int(status)


def _reboot(
    state: Any,  # noqa: ARG001
    host: Any,
    command: StringCommand,
    course: Course,
) -> bool:
    before = _boot_id(host)
    try:
        succeeded, output = host.connector.run_shell_command(command, **command.connector_arguments)
    except _BROKEN:
        succeeded, output = True, None
    if not succeeded and output is not None and output.stderr_lines:
        return _failed(host, f"it refused to reboot: {output.stderr_lines[-1]}")
    say(course.host, "it reboots")
    if why := until(lambda: _not_rebooted(host, before), course, course.seconds):
        return _failed(host, f"{why} after {course.seconds:.0f} s; see its console")
    # The lease went with /run.
    return lease.take_again(host) or _failed(host, "another deploy took it over while it rebooted")


def _not_rebooted(host: Any, before: str) -> str:
    try:
        host.connector.connect()
        return "it has not gone down" if _boot_id(host) == before else ""
    except _BROKEN:
        return "SSH does not answer"


def _boot_id(host: Any) -> str:
    succeeded, output = host.connector.run_shell_command(StringCommand(BOOT_ID), _timeout=20)
    if not succeeded or not output.stdout.strip():
        raise PyinfraError("it does not say which boot this is")
    return str(output.stdout.strip())


def _verify(
    state: Any,  # noqa: ARG001
    host: Any,
    roles: tuple[str, ...],
    course: Course,
) -> bool:
    why = until(lambda: "; ".join(maintenance.unready(observe_anew(host), roles)), course, course.seconds)
    course.is_kept_up = not why
    return not why or _failed(host, f"{why}; {advised.command('apply')} puts that right")


def _resume(
    state: Any,  # noqa: ARG001
    host: Any,
    commands: dict[tuple[str, str], StringCommand],
    course: Course,
) -> bool:
    ask = _asking(host, commands)

    def undrain() -> str:
        away = _tolerant(lambda: maintenance.absence(ask("GET", "hives"), course.host))
        if not away:
            ask("POST", f"hives/{course.host}/undrain")
        return away

    if why := until(lambda: _tolerant(undrain), course, course.seconds):
        course.problem = f"after {course.seconds:.0f} s {why}"
        return _failed(host, course.problem)
    course.is_drained, course.is_back = False, True
    say(course.host, "it gets requests again")
    late = until(
        lambda: _tolerant(lambda: maintenance.missing(ask("GET", "workers"), course.host, course.before)),
        course,
        course.seconds,
    )
    course.problem = late and f"its workers are not back after {course.seconds:.0f} s: {late}"
    return not late or _failed(host, course.problem)


def _tolerant(question: Callable[[], str]) -> str:
    """Return the answer, or why there is none: she may be starting on the very host that was maintained."""
    try:
        return question()
    except UnansweredError as error:
        return str(error)


def until(condition: Callable[[], str], course: Course, seconds: float) -> str:
    """Return "" once `condition` does, saying what it says in between, or the last of that after some seconds."""
    deadline, said = time.monotonic() + seconds, ""
    while why := condition():
        if time.monotonic() > deadline:
            return why
        if why != said:
            say(course.host, why)
        said = why
        gevent.sleep(POLL_SECONDS)
    return ""


def say(name: str, text: str) -> None:
    """Tell whoever waits how far it is."""
    print(f"{name}: {text}", file=sys.stderr, flush=True)  # noqa: T201 - progress, for a person


def _failed(host: Any, sentence: str) -> bool:
    host.connector_data.setdefault(REFUSALS, []).append(sentence)
    return False
