"""purge: remove rbee from hosts, also from those that the inventory lost; models are kept unless asked for."""

import argparse
from functools import partial
from pathlib import Path

from rbee_deploy import interrupt, remembered, uninstall
from rbee_deploy.asking import agreed
from rbee_deploy.cli import documents, running
from rbee_deploy.cli.arguments import Commands, command
from rbee_deploy.errors import DeployError
from rbee_deploy.here import Here
from rbee_deploy.inventory import PyinfraHost
from rbee_deploy.operations import ask, lease
from rbee_deploy.site import Site
from rbee_deploy.stages import Stage

ORPHANS = Path(__file__).with_name("orphans.py")

LOST: list[PyinfraHost] = []
"""What that inventory declares: pyinfra reads hosts from a file only."""


def register(commands: Commands) -> None:
    """Add the command."""
    text = "remove rbee from hosts: units, files, state; models stay unless asked"
    added = command(commands, "purge", _purge, text, limits=False)
    added.add_argument("hosts", nargs="*", metavar="HOST", help="which hosts")
    added.add_argument("--all", action="store_true", help="every host of the inventory")
    added.add_argument("--orphans", action="store_true", help="every host that the inventory had and lost")
    added.add_argument("--models", action="store_true", help="the model store as well, and rbee's users")
    added.add_argument("--yes", action="store_true", help="do not ask")


def _purge(options: argparse.Namespace) -> int:
    if options.orphans:
        return _purge_orphans(options)
    known = [item.name for item in options.site.hosts]
    unknown = [name for name in options.hosts if name not in known]
    if unknown:
        raise DeployError(
            f"{options.inventory} has no host {unknown[0]}; it has {', '.join(known)}, and --orphans are those it lost"
        )
    if bool(options.hosts) == options.all:
        raise DeployError("name the hosts to purge, or write --all for every host of the inventory")
    names = known if options.all else options.hosts
    _ask(options, names)
    return _go(running.limited(options, *names), options.models)


def _purge_orphans(options: argparse.Namespace) -> int:
    if options.hosts or options.all:
        raise DeployError("--orphans are hosts that the inventory lost; purge those that it has by another command")
    lost = remembered.orphans(options.site)
    if not lost:
        documents.tell(options, f"{options.inventory} has lost no host", hosts=[])
        return 0
    _ask(options, [item.name for item in lost])
    LOST[:] = remembered.pyinfra_hosts(options.site, lost)
    status = _go(argparse.Namespace(**{**vars(options), "inventory": str(ORPHANS), "limit": []}), options.models)
    gone = _purged()
    for name in gone:
        remembered.forget(options.site, name)
    kept = [item.name for item in lost if item.name not in gone]
    if status and kept:
        folder = options.site.secrets / "hosts"
        documents.advise(options, f"if {' or '.join(kept)} is no more, delete its folder in {folder}")
    return status


def _purged() -> list[str]:
    """Return the hosts of which nothing is left to keep: their notes are all that is known of them.

    None after Ctrl-C: the same command finds what is purged already as it should be, and forgets it then.
    """
    if interrupt.happened():
        return []
    return [here.declared.name for here in running.hosts() if here.host.connector_data.get(ask.DONE)]


def _ask(options: argparse.Namespace, names: list[str]) -> None:
    if not options.yes and not _agreed(names, models=options.models):
        raise DeployError("nothing was removed; --yes does not ask")


def _go(options: argparse.Namespace, models: bool) -> int:
    done = running.go(options, wanted=partial(_stages, models))
    said = {here.declared.name: here.host.connector_data.get(ask.ANSWER, []) for here in running.hosts()}
    lines = [f"{name}: {line}" for name, answer in said.items() for line in answer]
    documents.tell(options, *lines, hosts=[{"host": name, "notes": answer} for name, answer in said.items()])
    return done


def _agreed(names: list[str], *, models: bool) -> bool:
    what = "rbee and all its models" if models else "rbee, but not its models,"
    return agreed(f"Remove {what} from {', '.join(names)}?")


def _stages(models: bool, _site: Site) -> tuple[Stage, ...]:
    def purged(here: Here, name: str) -> object:
        guard = uninstall.only_of(here.site.name, here.declared)
        return ask.answered(name=name, script=lambda: f"{guard}\n{uninstall.script(here.declared, models=models)}")

    return (
        Stage("look", (("read it", lambda here, name: ask.looked(name=name, accept=here.rootless)),), quiet=True),
        Stage("lease", (("take it", lambda _here, name: lease.taken(name=name, needed=True)),)),
        Stage("purge", (("remove it", purged),)),
    )
