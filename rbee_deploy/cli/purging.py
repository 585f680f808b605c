"""purge: remove rbee from hosts; models are kept unless they are named too."""

import argparse
import sys
from functools import partial

from rbee_deploy import uninstall
from rbee_deploy.cli import running
from rbee_deploy.cli.arguments import Commands, command
from rbee_deploy.errors import DeployError
from rbee_deploy.here import Here
from rbee_deploy.operations import ask, lease
from rbee_deploy.site import Site
from rbee_deploy.stages import Stage


def register(commands: Commands) -> None:
    """Add the command."""
    added = command(commands, "purge", _purge, "remove rbee from hosts: units, files, state; models stay unless asked")
    added.add_argument("hosts", nargs="*", metavar="HOST", help="which hosts")
    added.add_argument("--all", action="store_true", help="every host of the inventory")
    added.add_argument("--models", action="store_true", help="the model store as well, and rbee's users")
    added.add_argument("--yes", action="store_true", help="do not ask")


def _purge(options: argparse.Namespace) -> int:
    known = [item.name for item in options.site.hosts]
    unknown = [name for name in options.hosts if name not in known]
    if unknown:
        raise DeployError(f"{options.inventory} has no host {unknown[0]}; it has {', '.join(known)}")
    if bool(options.hosts) == options.all:
        raise DeployError("name the hosts to purge, or write --all for every host of the inventory")
    names = known if options.all else options.hosts
    if not options.yes and not _agreed(names, models=options.models):
        raise DeployError("nothing was removed; --yes does not ask")
    done = running.go(running.limited(options, *names), wanted=partial(_stages, options.models))
    for here in running.hosts():
        for line in here.host.connector_data.get(ask.ANSWER, ()):
            print(f"{here.declared.name}: {line}")
    return done


def _agreed(names: list[str], *, models: bool) -> bool:
    if not sys.stdin.isatty():
        return False
    what = "rbee and all its models" if models else "rbee, but not its models,"
    return input(f"Remove {what} from {', '.join(names)}? Type yes: ").strip() == "yes"


def _stages(models: bool, _site: Site) -> tuple[Stage, ...]:
    def purged(here: Here, name: str) -> object:
        return ask.answered(name=name, script=lambda: uninstall.script(here.declared, models=models))

    return (
        Stage("look", (("read it", lambda here, name: ask.looked(name=name, accept=here.rootless)),), quiet=True),
        Stage("lease", (("take it", lambda _here, name: lease.taken(name=name, needed=True)),)),
        Stage("purge", (("remove it", purged),)),
    )
