"""apply, plan, check and preseed: the deploy itself, what it would change, and its first half."""

import argparse

from rbee_deploy import stages
from rbee_deploy.bundle import commands as bundle
from rbee_deploy.cli import running
from rbee_deploy.cli.arguments import Commands, command
from rbee_deploy.here import Here
from rbee_deploy.operations.root import DIFFERENCES

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
        added.add_argument("--json", action="store_true", dest="pyinfra_json", help="pure JSON on standard output")
        if run is _check:
            added.set_defaults(exits={DRIFT: "a host is not what the inventory says, and what differs was named"})


def _apply(options: argparse.Namespace) -> int:
    return running.go(options)


def _plan(options: argparse.Namespace) -> int:
    return running.go(options, dry=True)


def _check(options: argparse.Namespace) -> int:
    return running.go(options, dry=True) or (DRIFT if any(map(_differs, running.hosts())) else 0)


def _differs(here: Here) -> bool:
    """Say whether a host is not what the inventory says, or lacks something that an activation does not bring."""
    steps = here.host.state.ops[here.host].values()
    return bool(here.host.connector_data.get(DIFFERENCES)) or any(step.operation_meta.will_change for step in steps)


def _preseed(options: argparse.Namespace) -> int:
    return running.go(options, wanted=stages.preseed)
