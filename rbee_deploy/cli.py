"""rbee-deploy: thin calls around pyinfra; exit status 0 means done, 1 that something failed and was said."""

import pyinfra_cli  # noqa: F401, I001 - first, because it patches the standard library for gevent

import argparse
import io
import runpy
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import click
import pyinfra
from pyinfra.api.output import set_echo, set_formatter
from pyinfra.context import ctx_state
from pyinfra_cli.cli import cli as pyinfra_command
from pyinfra_cli.prints import print_run_json

from rbee_deploy import connection, interrupt, report
from rbee_deploy.authority import FleetAuthority
from rbee_deploy.bundle import commands as bundle_commands
from rbee_deploy.errors import DeployError
from rbee_deploy.inventory import Placement
from rbee_deploy.operations.root import REFUSALS
from rbee_deploy.site import Site
from rbee_runtime.command_line import Parser
from rbee_runtime.errors import ConfigError

DEPLOY = Path(__file__).with_name("deploy.py")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        options = _parser().parse_args(argv)
        bundle_commands.take(options)
        # pyinfra would show a mistake in the inventory as one of its own, so that is read here first.
        options.site = _site(options.inventory) if options.inventory else None
        status: int = options.run(options)
    except (DeployError, ConfigError) as error:
        sys.exit(str(error))
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="rbee-deploy", description="Bring hosts to what an inventory says.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("apply", _apply, "make every host what the inventory says"),
        ("plan", _plan, "say what apply would change"),
        ("api-key", _api_key, "say where the first API key is"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("-i", "--inventory", required=True, help="the inventory, a Python file")
        command.set_defaults(run=run)
        if name == "api-key":
            command.add_argument("--show", action="store_true", help="print the key itself")
        else:
            command.add_argument("--limit", action="append", default=[], metavar="HOST", help="only this host or group")
            command.add_argument("-v", "--verbose", action="store_true", help="pyinfra's own account as well")
            command.add_argument("--json", action="store_true", help="pure JSON on standard output")
            bundle_commands.add_options(command)
    bundle = commands.add_parser("bundle", help=bundle_commands.HELP, description=bundle_commands.HELP)
    bundle_commands.add_arguments(bundle)
    bundle.set_defaults(run=bundle_commands.run)
    return parser


def _apply(options: argparse.Namespace) -> int:
    return _pyinfra(options, "-y")


def _plan(options: argparse.Namespace) -> int:
    return _pyinfra(options, "--dry")


def _pyinfra(options: argparse.Namespace, mode: str) -> int:
    """Run pyinfra in this process, so that a run that it gives up still gets its report."""
    pyinfra.is_cli = True
    set_formatter(click.style)
    set_echo(click.echo)
    interrupt.arm()
    connection.calm()
    limits = [word for name in options.limit for word in ("--limit", name)]
    # What pyinfra says as JSON it does not say in words; without -v neither is wanted.
    quiet = not options.verbose and not options.json
    as_json = ["--json"] if options.json or quiet else []
    if not options.verbose:
        report.alone()
    with redirect_stdout(io.StringIO()) if quiet else nullcontext():
        status = _status([options.inventory, str(DEPLOY), mode, *limits, *as_json], json=options.json)
    state = ctx_state.get()
    report.show(state)
    if _initialised(state) and state.limit_hosts == []:
        raise DeployError(f"no host or group of {options.inventory} is called {' or '.join(options.limit)}")
    return 1 if status or _refused(state) else 0


def _status(arguments: list[str], *, json: bool) -> int:
    try:
        pyinfra_command.main(arguments, prog_name="rbee-deploy", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        _print_json(json)
        return 1
    except SystemExit as end:
        if isinstance(end.code, str):
            _print_json(json)
            raise
        return 1 if end.code else 0
    return 0


def _print_json(wanted: bool) -> None:
    """Print what pyinfra gives up without: a word of JSON, where no host is left or the run ended before it began."""
    if wanted and _initialised(ctx_state.get()):
        print_run_json(ctx_state.get(), dry=False)


def _initialised(state: Any) -> bool:
    return state is not None and bool(state.initialised)


def _refused(state: Any) -> bool:
    """Say whether a dry run met what a deploy would refuse; pyinfra itself calls every dry run a success."""
    return _initialised(state) and any(host.connector_data.get(REFUSALS) for host in state.inventory)


def _api_key(options: argparse.Namespace) -> int:
    site = options.site
    key, _ = FleetAuthority.open(site.secrets, site.name).first_api_key()
    print(key.reveal() if options.show else site.secrets / "api-key")
    return 0


def _site(inventory: str) -> Site:
    """Return the fleet that an inventory file declares."""
    if not Path(inventory).is_file():
        raise DeployError(f"there is no inventory file {inventory}; give one by -i")
    names = _names(inventory)
    groups = (value for value in names.values() if isinstance(value, list))
    for group in groups:
        for entry in group:
            placed = entry[1].get("rbee") if isinstance(entry, tuple) and len(entry) == 2 else None
            if isinstance(placed, Placement):
                return placed.site
    raise DeployError(f"{inventory} declares no fleet; begin with queen, hives = fleet(…)")


def _names(inventory: str) -> dict[str, Any]:
    """Run an inventory file; what goes wrong in it is named by its line there."""
    try:
        return runpy.run_path(inventory)
    except SyntaxError as error:
        raise DeployError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except DeployError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == inventory]
        where = f"{inventory}, line {lines[-1]}" if lines else inventory
        raise DeployError(f"{where}: {type(error).__name__}: {error}") from error
