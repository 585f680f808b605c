"""maintain: empty a host, run a command there or reboot it, and have it serve again."""

import argparse
from collections.abc import Callable
from functools import partial

from rbee_deploy import interrupt, maintenance, queens
from rbee_deploy.cli import documents, running
from rbee_deploy.cli.arguments import Commands, command
from rbee_deploy.errors import DeployError
from rbee_deploy.here import Here
from rbee_deploy.operations import ask, lease, maintain
from rbee_deploy.operations.maintain import Course
from rbee_deploy.operations.workers import Door
from rbee_deploy.render import roles
from rbee_deploy.site import Host, Site
from rbee_deploy.stages import Stage

DEFAULT_SECONDS = 600.0


def register(commands: Commands) -> None:
    """Add the command."""
    text = "drain a host, run a command there or reboot it, verify what runs, and give it work again"
    added = command(commands, "maintain", _maintain, text, limits=False)
    added.add_argument("host", metavar="HOST", help="the host, as the inventory calls it")
    either = added.add_mutually_exclusive_group()
    either.add_argument("--reboot", action="store_true", help="reboot the host and wait until it is back")
    either.add_argument("--run", dest="shell", default="", metavar="COMMAND", help="run this as root by a shell there")
    waits = "how long each step may take: until it is empty, up again, serving (default: %(default)g)"
    added.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, metavar="N", help=waits)
    added.add_argument("--yes", action="store_true", help="reboot the queen's host although clients are refused then")


def _maintain(options: argparse.Namespace) -> int:
    site: Site = options.site
    target = next((item for item in site.hosts if item.name == options.host), None)
    if target is None:
        known = ", ".join(item.name for item in site.hosts)
        raise DeployError(f"{options.inventory} has no host {options.host}; it has {known}")
    if target.queen and options.reboot and not options.yes:
        raise DeployError(f"{target.name} is the queen's host, and clients are refused while it reboots; add --yes")
    course = Course(target.name, options.shell, options.reboot, options.seconds)
    if course.command or course.reboot:
        # Its own advice follows: what was begun on the host would be done once more.
        interrupt.means = "interrupted: what runs goes on running"
    names = dict.fromkeys((site.queen.name, target.name))
    running.go(running.limited(options, *names), wanted=partial(stages_of, course, target))
    documents.tell(options, host=target.name, drained=course.is_drained)
    documents.tell(options, output=course.output, exit_status=course.status)
    if course.succeeded:
        documents.tell(options, f"{target.name}: maintained, and as it was")
        return 0
    documents.advise(
        options,
        maintenance.advice(course.host, options.inventory, is_drained=course.is_drained, is_running=course.is_running),
    )
    return 1


def stages_of(course: Course, target: Host, _site: Site) -> tuple[Stage, ...]:
    """Return the stages of one maintenance; a host that is no hive has nothing to drain."""

    def way(here: Here) -> Door | None:
        return queens.door(here) if target.hive else None

    def mine(here: Here) -> bool:
        return here.declared.name == target.name

    return (
        Stage("look", (("read it", lambda here, name: ask.looked(name=name, accept=here.undeployed)),)),
        Stage(
            "lease", (("take it", lambda here, name: lease.taken(name=name, needed=mine(here))),), applies=_is(target)
        ),
        Stage(
            "drain",
            (("empty it", lambda here, name: maintain.drained(name=name, queen=partial(way, here), course=course)),),
            applies=lambda declared: declared.queen,
        ),
        Stage(
            "maintain",
            (
                (
                    "see that it runs",
                    lambda here, name: maintain.kept_up(name=name, mine=mine(here), roles=roles(target), course=course),
                ),
            ),
            applies=_is(target),
        ),
        Stage(
            "undrain",
            (
                (
                    "let it serve",
                    lambda here, name: maintain.resumed(name=name, queen=partial(way, here), course=course),
                ),
            ),
            applies=lambda declared: declared.queen,
        ),
    )


def _is(target: Host) -> Callable[[Host], bool]:
    return lambda declared: declared.name == target.name
