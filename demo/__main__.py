"""`python -m demo up|add|down|packages|build`."""

import argparse
import os
import shutil
import sys

from demo import build, laptop
from demo.story import DemoError, Story
from rbee_deploy.errors import DeployError
from tests.lab import LabError

NO_ROOT = (
    "not root, so no throw-away hosts: the same answer from this machine alone "
    "(sudo make demo shows the deploy to two hosts)"
)


def up() -> None:
    """Show the whole path, or the single-machine one where root is missing."""
    story = Story()
    if os.geteuid() != 0:
        story.tell(NO_ROOT)
        laptop.run_laptop(story)
        return
    from demo.fleet import run_fleet  # noqa: PLC0415 - the lab is for Linux and root only

    run_fleet(story)


def add() -> None:
    """Make one more host for the fleet that runs."""
    if os.geteuid() != 0:
        raise DemoError("hosts need root: run the command with sudo")
    from demo.fleet import add_host  # noqa: PLC0415 - as above

    add_host(Story(), _options().name)


def down() -> None:
    """Remove hosts, fleet secrets and state of the demo; caches stay."""
    story = Story()
    if os.geteuid() == 0:
        from demo.fleet import remove_fleet  # noqa: PLC0415 - as above

        remove_fleet(story)
    laptop.end_previous()
    shutil.rmtree(laptop.folder(), ignore_errors=True)
    story.tell("nothing of the demo is left but the caches")


def packages() -> None:
    """Install the Debian packages that hosts and the compiler need and this machine lacks; needs root."""
    from demo.hosts import install_packages  # noqa: PLC0415 - as above

    install_packages(Story())


def make_artefacts() -> None:
    """Make everything expensive into the cache."""
    for made in build.build_all():
        print(f"in the cache: {getattr(made, 'archive', made)}", flush=True)


COMMANDS = {
    "up": up,
    "add": add,
    "down": down,
    "packages": packages,
    "build": make_artefacts,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("name", nargs="?", default="gpu2", help="for add: the new host's name")
    return parser.parse_args()


def main() -> int:
    """Run one command and return the exit status."""
    try:
        COMMANDS[_options().command]()
    except (DemoError, DeployError, LabError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; make demo goes on from here, make demo-down removes it", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
