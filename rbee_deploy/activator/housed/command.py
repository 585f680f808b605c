"""`housed`: what the units of queen and hive in containers call."""

import argparse
import sys
from typing import Any

from rbee_deploy.activator.housed import attended, podman
from rbee_deploy.activator.housed.engine import Engine
from rbee_deploy.activator.housed.role import ROLES


def register(commands: Any) -> None:
    """Add the command to the activator's."""
    housed = commands.add_parser("housed", help="called by the units of queen and hive in containers")
    steps = housed.add_subparsers(required=True, metavar="STEP")
    known = {
        "prepare": (_prepare, "make ready what a container starts with", ("podman",)),
        "leave": (_leave, "have a container let go, and finish its open streams by itself", ("podman",)),
        "remove": (_remove, "end a container at once that a main process which was killed has left", attended.ENGINES),
        "run": (_run, "be the main process of a unit, whose container has these options", attended.ENGINES),
    }
    for name, (function, text, engines) in known.items():
        step = steps.add_parser(name, help=text)
        step.set_defaults(run=function)
        step.add_argument("role", choices=sorted(ROLES))
        step.add_argument("engine", choices=engines)
        if name in {"prepare", "run"}:
            step.add_argument("--credential", action="append", default=[], metavar="FILE", help="what to hand to it")
            step.add_argument("--show", action="append", default=[], metavar="FOLDER", help="to read, if it is there")
        if name == "run":
            step.add_argument("words", nargs="*", metavar="OPTION", help="of the engine's run, after --")


def _prepare(options: argparse.Namespace) -> None:
    podman.prepare(ROLES[options.role], options.credential, options.show)


def _leave(options: argparse.Namespace) -> None:
    podman.leave(ROLES[options.role])


def _remove(options: argparse.Namespace) -> None:
    Engine(options.engine).remove(ROLES[options.role].container)


def _run(options: argparse.Namespace) -> None:
    role = ROLES[options.role]
    sys.exit(attended.main_status(attended.run(options.engine, role, options.credential, options.show, options.words)))
