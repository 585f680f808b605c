"""`python -m tests.lab`: hosts by hand."""

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.lab.claims import check_host_name
from tests.lab.errors import LabError
from tests.lab.host import LabHost
from tests.lab.images import ensure_image
from tests.lab.lab import Lab
from tests.lab.preconditions import ensure_packages, require_root
from tests.lab.recipes import RECIPES


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status."""
    options = _parser().parse_args(argv)
    try:
        COMMANDS[options.command](options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlab: interrupted; python -m tests.lab list says what is there", file=sys.stderr)
        return 130
    return 0


def up(options: argparse.Namespace) -> None:
    """Make a lab that stays and say how to reach its hosts; what fails leaves none."""
    for name in options.hosts:
        check_host_name(name)
        if options.hosts.count(name) > 1:
            raise LabError(f"{name} is named twice: give every host a name of its own")
    require_root()
    ensure_packages()
    lab = Lab.create(options.label, persistent=True)
    try:
        for name in options.hosts:
            lab.add_host(name, image=options.image, online=options.online)
    except BaseException:
        lab.destroy()
        raise
    show(lab)


def down(options: argparse.Namespace) -> None:
    """Remove labs by name, or all that were meant to stay."""
    names = options.labs or [lab.name for lab in Lab.list() if lab.state().persistent]
    labs = [Lab.open(name) for name in names]
    if labs:
        require_root()
    for lab in labs:
        lab.destroy()
        print(f"{lab.name} removed")


def list_labs(options: argparse.Namespace) -> None:
    """Print every lab and its hosts."""
    for lab in Lab.list():
        show(lab)


def ssh(options: argparse.Namespace) -> None:
    """Replace this process by ssh to one host."""
    host = Lab.open(options.lab).hosts.get(options.host)
    if host is None:
        raise LabError(f"lab {options.lab} has no host called {options.host}: see python -m tests.lab list")
    line = host.ssh_argv(" ".join(options.line) or None, user=options.user)
    os.execvp(line[0], line)


def clean(options: argparse.Namespace) -> None:
    """Remove what interrupted runs left."""
    require_root()
    for name in Lab.clean_stale():
        print(f"{name} removed")


def images(options: argparse.Namespace) -> None:
    """Build the base images that are not in the cache, all at once."""
    require_root()
    ensure_packages()
    with ThreadPoolExecutor() as pool:
        for tree in pool.map(ensure_image, options.images or RECIPES):
            print(tree)


def show(lab: Lab) -> None:
    """Print one lab."""
    state = lab.state()
    kind = "stays until removed" if state.persistent else f"of process {state.owner.pid}"
    print(f"{lab.name}  {state.label}  {state.subnet}  {kind}")
    for host in lab.hosts.values():
        print(f"  {host.name:<16} {host.address:<16} {'up' if host.is_running else 'off':<4} {host.record.image}")


COMMANDS = {"up": up, "down": down, "list": list_labs, "ssh": ssh, "clean": clean, "images": images}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    of = {name: commands.add_parser(name, help=function.__doc__) for name, function in COMMANDS.items()}
    of["up"].add_argument("hosts", nargs="+", help="names of the hosts to make")
    of["up"].add_argument("--label", default="by-hand")
    of["up"].add_argument("--image", default="trixie", choices=RECIPES)
    of["up"].add_argument("--online", action="store_true", help="let the hosts reach what this machine reaches")
    of["down"].add_argument("labs", nargs="*", help="default: every lab that stays")
    of["ssh"].add_argument("lab")
    of["ssh"].add_argument("host")
    of["ssh"].add_argument("line", nargs=argparse.REMAINDER, help="a command to run instead of a shell")
    of["ssh"].add_argument("--user", default=LabHost.ssh_user, help="before the names of lab and host")
    of["images"].add_argument("images", nargs="*", help="default: all")
    return parser
