"""rbee-deploy: exit status 0 means done, 1 that something failed and was said, 2 that a host differs (check)."""

import pyinfra_cli  # noqa: F401, I001 - first, because it patches the standard library for gevent

import argparse
import sys
from collections.abc import Sequence

from rbee_deploy import advised, sources
from rbee_deploy.bundle import commands as bundle
from rbee_deploy.cli import (
    adopting,
    applying,
    bundling,
    database,
    documents,
    exporting,
    going_back,
    imaging,
    inventories,
    locking,
    looking,
    maintaining,
    purging,
    rotating,
)
from rbee_deploy.errors import DeployError
from rbee_runtime import __version__
from rbee_runtime.command_line import Parser
from rbee_runtime.errors import ConfigError

FAMILIES = (
    applying,
    going_back,
    looking,
    locking,
    maintaining,
    rotating,
    bundling,
    imaging,
    exporting,
    database,
    adopting,
    purging,
    documents,
)
"""Modules whose `register` adds commands, in the order of the help; the last adds an option to all of them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; what it cannot do is a SystemExit with a sentence."""
    words = sys.argv[1:] if argv is None else argv
    try:
        options = _read(words)
        return documents.answered(options, _run) if options.document else _run(options)
    except (DeployError, ConfigError) as error:
        sys.exit(str(error))


def _read(words: Sequence[str]) -> argparse.Namespace:
    try:
        return parser().parse_args(words)
    except ConfigError as error:
        documents.refused(words, error)
        raise


def _run(options: argparse.Namespace) -> int:
    before = sources.chosen()
    try:
        bundle.take(options)
        return _run_on(options)
    finally:
        # For whoever calls `main` again in this process.
        sources.choose(before)


def _run_on(options: argparse.Namespace) -> int:
    # pyinfra would show a mistake in the inventory as one of its own, so that is read here first.
    options.site = None
    if options.inventory:
        advised.inventory = options.inventory
        declared = inventories.read(options.inventory)
        declared.refuse_unknown(options.limit)
        options.site = declared.site
    status: int = options.run(options)
    return status


def parser() -> Parser:
    """Return the parser of every command."""
    made = Parser(prog="rbee-deploy", description="Bring hosts to what an inventory says.")
    made.add_argument("--version", action="version", version=f"rbee {__version__}")
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for family in FAMILIES:
        family.register(commands)
    return made
