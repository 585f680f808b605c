"""Run pyinfra in this process over some stages, so that a run that it gives up still gets its report."""

import argparse
import io
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import click
import pyinfra
from pyinfra.api.output import set_echo, set_formatter
from pyinfra.context import ctx_state
from pyinfra_cli.cli import cli as pyinfra_command

from rbee_deploy import connection, interrupt, report, stages
from rbee_deploy.here import HERE, Here
from rbee_deploy.operations.root import REFUSALS
from rbee_deploy.preflight.trust import NEW_AUTHORITY_DATA
from rbee_deploy.site import Site
from rbee_deploy.stages import Stage

DEPLOY = Path(__file__).parent.parent / "deploy.py"

_NOBODY_LEFT = "No hosts remaining!"
"""What pyinfra ends with when every host has failed; the report has said of each why."""

Stages = Callable[[Site], tuple[Stage, ...]]


def go(options: argparse.Namespace, *, wanted: Stages = stages.of, dry: bool = False) -> int:
    """Run the stages on every host that the options name; return 0, or 1 if something failed and was said."""
    stages.chosen = wanted
    stages.tries = not dry
    status = _pyinfra(options, "--dry" if dry else "-y")
    return 1 if status or _refused(ctx_state.get()) else 0


def state() -> Any:
    """Return what pyinfra knows of the run, None before there is one."""
    found = ctx_state.get() if ctx_state.isset() else None
    return found if _initialised(found) else None


def hosts() -> Iterator[Here]:
    """Yield the hosts of the run that is over which were reached, in the order of the inventory."""
    state = ctx_state.get()
    if _initialised(state):
        known = {item: item.connector_data.get(HERE) for item in state.inventory if state.is_host_in_limit(item)}
        found = {here.declared.name: here for here in known.values() if isinstance(here, Here)}
        site = next(iter(found.values())).site if found else None
        yield from (found[item.name] for item in (site.hosts if site is not None else ()) if item.name in found)


def limited(options: argparse.Namespace, *names: str) -> argparse.Namespace:
    """Return the same options for these hosts alone."""
    return argparse.Namespace(**{**vars(options), "limit": list(names)})


def _pyinfra(options: argparse.Namespace, mode: str) -> int:
    pyinfra.is_cli = True
    set_formatter(click.style)
    set_echo(click.echo)
    interrupt.arm()
    connection.calm()
    limits = [word for name in options.limit for word in ("--limit", name)]
    data = ["--data", f"{NEW_AUTHORITY_DATA}=true"] if options.new_authority else []
    if not options.verbose:
        report.alone()
    # What pyinfra says as JSON it does not say in words; without -v neither is wanted.
    with nullcontext() if options.verbose else redirect_stdout(io.StringIO()):
        words = [] if options.verbose else ["--json"]
        status = _status([options.inventory, str(DEPLOY), mode, *limits, *data, *words])
    state = ctx_state.get()
    report.show(state)
    return status


def _status(arguments: list[str]) -> int:
    try:
        pyinfra_command.main(arguments, prog_name="rbee-deploy", standalone_mode=False)
    except click.ClickException as error:
        if error.message != _NOBODY_LEFT:
            error.show()
        return 1
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        return 1 if end.code else 0
    return 0


def _initialised(state: Any) -> bool:
    return state is not None and bool(state.initialised)


def _refused(state: Any) -> bool:
    """Say whether a dry run met what a deploy would refuse; pyinfra itself calls every dry run a success."""
    return _initialised(state) and any(host.connector_data.get(REFUSALS) for host in state.inventory)
