"""What `python -m demo` runs: `up`, `add NAME`, `down`, `packages` or `build`."""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence

from demo import build, laptop
from demo.story import DemoError, Story
from rbee_deploy.artefacts import CACHE_VARIABLE
from rbee_deploy.errors import DeployError
from rbee_runtime.command_line import Parser
from rbee_runtime.errors import ConfigError
from tests.lab import LabError
from tests.lab.places import labs_root

NO_ROOT = (
    "not root, so no throw-away hosts: the same answer from this machine alone "
    "(sudo make demo shows the deploy to two hosts)"
)


def up(_options: argparse.Namespace) -> None:
    """Show the whole path, or the single-machine one where root is missing."""
    story = Story()
    if os.geteuid() != 0:
        story.tell(NO_ROOT)
        laptop.run_laptop(story)
        return
    from demo.fleet import run_fleet  # noqa: PLC0415 - the lab is for Linux and root only

    run_fleet(story)


def add(options: argparse.Namespace) -> None:
    """Make one more host for the fleet that runs."""
    if os.geteuid() != 0:
        raise DemoError("hosts need root: run the command with sudo")
    from demo.fleet import add_host  # noqa: PLC0415 - as above

    add_host(Story(), options.name)


def down(_options: argparse.Namespace) -> None:
    """Remove hosts, fleet secrets and state of the demo; caches stay."""
    from demo.fleet import remove_fleet  # noqa: PLC0415 - as above

    story, mine = Story(), laptop.folder()
    laptop.end_previous()
    shutil.rmtree(mine, ignore_errors=True)
    remove_fleet(story)
    if mine.exists():
        raise DemoError(f"cannot remove {mine}, which holds files of another user: remove it with sudo")
    story.tell(f"nothing of the demo is left in {labs_root()} and {mine}; the caches stay")


def packages(_options: argparse.Namespace) -> None:
    """Install the Debian packages that hosts and the compiler need and this machine lacks; needs root."""
    from demo.hosts import install_packages  # noqa: PLC0415 - as above

    install_packages(Story())


def make_artefacts(_options: argparse.Namespace) -> None:
    """Make everything expensive into the cache."""
    # Ended by `up`: as by Ctrl-C, so that the compiler, whose group is its own, ends with it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    for made in build.build_all():
        print(f"in the cache: {getattr(made, 'archive', made)}", flush=True)


COMMANDS = {
    "up": up,
    "add": add,
    "down": down,
    "packages": packages,
    "build": make_artefacts,
}


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    try:
        options = _parser().parse_args(argv)
    except ConfigError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        COMMANDS[options.command](options)
    except (DemoError, DeployError, LabError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        moved = f"{CACHE_VARIABLE} says where the cache is"
        print(f"demo: cannot use {error.filename}: {error.strerror}; {moved}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    of = {name: commands.add_parser(name, help=function.__doc__) for name, function in COMMANDS.items()}
    of["add"].add_argument("name", nargs="?", default="gpu2", help="the new host's name (default: %(default)s)")
    return parser
