"""Ask a host something as root, and keep its answer for whoever prints it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pyinfra import host
from pyinfra.api import FunctionCommand, StringCommand, operation

from rbee_deploy.elevation import Line
from rbee_deploy.facts.memo import observe
from rbee_deploy.operations.later import now
from rbee_deploy.operations.root import REFUSALS, as_root_command, refused

ANSWER = "rbee_answer"

DONE = "rbee_answered"
"""Key of whether the script that was last asked ended as it should; not there where nobody lived to see its end."""


@operation()
def looked(accept: Callable[[], list[str]] = list) -> Iterator[FunctionCommand]:
    """Read the host's state, and fail the host on what `accept` finds in it."""
    observe(host)
    found = accept() if host.state.is_executing else []
    if found:
        yield from refused(found)
    else:
        host.noop("it was looked at")


@operation()
def answered(
    script: str | Callable[[], str], lines: Callable[[], Iterable[Line]] | None = None
) -> Iterator[FunctionCommand]:
    """Run a script as root, with `lines` on its standard input, and keep what it prints; "" asks nothing."""
    text = now(script) if host.state.is_executing else ""
    if not text:
        host.noop("nothing is asked")
        return
    yield FunctionCommand(_ask, (as_root_command(text, lines() if lines is not None else None),), {})


def _ask(
    state: Any,  # noqa: ARG001 - pyinfra hands over both to a function that has both
    host: Any,
    command: StringCommand,
) -> bool:
    # An interrupt ends this greenlet while it waits: what an earlier script left must not stand for this one.
    host.connector_data.pop(DONE, None)
    succeeded, output = host.connector.run_shell_command(command, **command.connector_arguments)
    host.connector_data[ANSWER] = list(output.stdout_lines)
    host.connector_data[DONE] = bool(succeeded)
    if not succeeded:
        said = [line for line in (*output.stderr_lines, *output.stdout_lines) if line.strip()]
        host.connector_data.setdefault(REFUSALS, []).extend(said or ["it failed and said nothing"])
    return bool(succeeded)
