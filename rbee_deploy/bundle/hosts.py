"""Asks the hosts of an inventory what they are, over pyinfra, and changes nothing there."""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import pyinfra
from pyinfra.context import ctx_state
from pyinfra_cli.cli import cli as pyinfra_command

from rbee_deploy import connection, packages, report
from rbee_deploy.artefacts import Target
from rbee_deploy.errors import BundleError
from rbee_deploy.here import Here
from rbee_deploy.site import Site

LOOK = Path(__file__).with_name("look.py")
FOUND = "rbee_target"


def look() -> None:
    """Note what the host at hand is; pyinfra runs this on every host."""
    here = Here.of_context()
    raw = here.facts.raw
    # The one that setup installs, where that of the host does not do.
    python = packages.python_to_be(raw)
    if python and raw.get("arch") and raw.get("glibc"):
        here.host.connector_data[FOUND] = Target(python=python, arch=str(raw["arch"]), glibc=str(raw["glibc"]))


def ask(inventory: str, site: Site) -> dict[str, Target]:
    """Return what each host of a fleet is, by its name; raises BundleError naming every host that does not say."""
    pyinfra.is_cli = True
    connection.calm()
    report.alone()
    with redirect_stdout(io.StringIO()):
        _run([inventory, str(LOOK), "--dry", "--json"])
    state: Any = ctx_state.get()
    if state is None or not state.initialised:
        raise BundleError(f"the hosts of {inventory} could not be asked; give --target")
    found = dict(_found(state))
    silent = [host.name for host in site.hosts if host.name not in found]
    if silent:
        raise BundleError(f"{', '.join(silent)} did not say what they are; turn them on, or give --target for them")
    return found


def _found(state: Any) -> Iterator[tuple[str, Target]]:
    for host in state.inventory:
        target = host.connector_data.get(FOUND)
        if target is not None:
            yield host.name, target


def _run(arguments: list[str]) -> None:
    try:
        pyinfra_command.main(arguments, prog_name="rbee-deploy", standalone_mode=False)
    except click.ClickException as error:
        raise BundleError(f"the hosts could not be asked: {error.format_message()}") from error
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
