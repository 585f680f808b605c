"""Commands that run as root on the host at hand."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, StringCommand

from rbee_deploy import lease
from rbee_deploy.elevation import Line, as_root, stdin
from rbee_deploy.facts.memo import PASSWORD
from rbee_deploy.secrets import Secret

LEASE = "rbee_lease"
"""The id of the run that holds the host's lease; while it does, every command makes sure that it still has it."""

RUN = "rbee_run"
"""Of a run's state: its id."""

WORKERS = "rbee_workers_problem"
"""Of a run's state: why workers do not come up on what it brought."""

REFUSALS = "rbee_refusals"
NOTES = "rbee_notes"
"""Sentences by stage that stand beside its verdict."""

WARNINGS = "rbee_warnings"
FETCHES = "rbee_fetches"
"""Models that the host's hive gets by itself, for the report of a dry run."""

DIFFERENCES = "rbee_differences"
"""What a dry run found to differ, for the report."""


def as_root_command(script: str, lines: Iterable[Line] | None = None) -> StringCommand:
    """Return the command that runs `script` as root with `lines` on its standard input; they are never shown."""
    password: Secret | None = host.connector_data.get(PASSWORD)
    given = stdin(lines, password=password)
    arguments = {} if given is None else {"_stdin": given}
    run: str | None = host.connector_data.get(LEASE)
    fenced = f"{lease.held(run)}\n{script}" if run is not None else script
    return StringCommand(as_root(fenced, password=password is not None, given=given is not None), **arguments)


def refused(sentences: Sequence[str]) -> Iterator[FunctionCommand]:
    """Yield the command that fails the host and says why, one sentence each; nothing is sent to it.

    A dry run gets the sentences and no command, for it would count as a change.
    """
    if host.state.is_executing:
        yield FunctionCommand(_refuse, tuple(sentences), {})
    else:
        _refuse(host.state, host, *sentences)


def _refuse(
    state: Any,  # noqa: ARG001 - pyinfra hands over both to a function that has both
    host: Any,
    *sentences: str,
) -> bool:
    known = host.connector_data.setdefault(REFUSALS, [])
    fresh = [sentence for sentence in sentences if sentence not in known]
    known.extend(fresh)
    for sentence in fresh:
        logger.error(f"{host.print_prefix}{sentence}")
    return False
