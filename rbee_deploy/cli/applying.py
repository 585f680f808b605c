"""apply, plan, check and preseed: the deploy itself, what it would change, and its first half."""

import argparse

from pyinfra_cli.prints import build_plan_json, build_results_json

from rbee_deploy import advised, stages
from rbee_deploy.bundle import commands as bundle
from rbee_deploy.cli import documents, running
from rbee_deploy.cli.arguments import Commands, command
from rbee_deploy.errors import DeployError
from rbee_deploy.here import Here
from rbee_deploy.operations.root import DIFFERENCES
from rbee_deploy.preflight.trust import NEW_AUTHORITY

_NEW_AUTHORITY_HELP = "let hosts that were deployed with another authority go over to the one in secrets_dir"

DRIFT = 2
"""Exit status of `check` for a host that is not what the inventory says."""


def register(commands: Commands) -> None:
    """Add the commands."""
    for name, run, text in (
        ("apply", _apply, "make every host what the inventory says"),
        ("plan", _plan, "say what apply would change"),
        ("check", _check, "exit with 2 if a host is not what the inventory says, and name what differs"),
        ("preseed", _preseed, "bring release, engines and models to hosts; nothing that is in use changes"),
    ):
        added = command(commands, name, run, text)
        bundle.add_options(added)
        added.add_argument(NEW_AUTHORITY, action="store_true", help=_NEW_AUTHORITY_HELP)
        if run is _check:
            added.set_defaults(exits={DRIFT: "a host is not what the inventory says, and what differs was named"})


def _apply(options: argparse.Namespace) -> int:
    if options.new_authority and options.limit:
        raise DeployError(
            f"{NEW_AUTHORITY} is for a whole fleet: a host and a queen of two authorities refuse each other; "
            "leave --limit out, hosts that went over already stay as they are"
        )
    return _told(options, running.go(options))


def _plan(options: argparse.Namespace) -> int:
    return _told(options, running.go(options, dry=True), dry=True)


def _check(options: argparse.Namespace) -> int:
    status = _told(options, running.go(options, dry=True), dry=True)
    differing = [here.declared.name for here in running.hosts() if _differs(here)]
    if status or not differing:
        return status
    documents.conclude(
        options,
        problem=f"not what {options.inventory} says: {', '.join(differing)}",
        advice=f"`{advised.command('apply')}` puts them right, `{advised.command('plan')}` says how",
    )
    return DRIFT


def _differs(here: Here) -> bool:
    """Say whether a host is not what the inventory says, or lacks something that an activation does not bring."""
    steps = here.host.state.ops[here.host].values()
    return bool(here.host.connector_data.get(DIFFERENCES)) or any(step.operation_meta.will_change for step in steps)


def _preseed(options: argparse.Namespace) -> int:
    return _told(options, running.go(options, wanted=stages.preseed))


def _told(options: argparse.Namespace, status: int, *, dry: bool = False) -> int:
    """Keep pyinfra's own account for the document: the plan and, where it was gone through, what came of it."""
    state = running.state()
    if state is not None:
        documents.tell(options, plan=build_plan_json(state), **({} if dry else {"results": build_results_json(state)}))
    return status
