"""Options that several commands have."""

import argparse
from collections.abc import Callable
from typing import Any

Commands = Any
"""What argparse's add_subparsers returns; its class is private."""

EXITS = {
    0: "done, or nothing was to be done",
    1: "something failed and was said: a wrong word, a refused or unreached host, a release that was put back, Ctrl-C",
}
"""Exit statuses of every command; one that has more of its own sets them as its default `exits`."""


def command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    *,
    limits: bool = True,
    hosts: bool = True,
) -> argparse.ArgumentParser:
    """Add a command; `hosts` says that it runs on hosts, `limits` that a person may choose which by an option.

    It is one that brings nothing to hosts, until it gets the options of a bundle.
    """
    added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    added.add_argument("-i", "--inventory", required=True, help="the inventory, a Python file")
    added.set_defaults(run=run, limit=[], verbose=False, new_authority=False, brings=False)
    if limits:
        added.add_argument("--limit", action="append", default=[], metavar="HOST", help="only this host or group")
    if hosts:
        added.add_argument("-v", "--verbose", action="store_true", help="pyinfra's own account as well")
    return added
