"""`rootless`: what the units of a rootless Podman are, and what images need before there are any."""

import sys
from typing import Any

from rbee_deploy.activator.rootless import account, network, serving


def register(commands: Any) -> None:
    """Add the command to the activator's."""
    rootless = commands.add_parser("rootless", help="Podman of a user without rights; called by its units")
    steps = rootless.add_subparsers(required=True, metavar="STEP")
    known = {
        "prepare": (lambda _: account.prepare(), "make ready what the user needs who runs containers"),
        "serve": (lambda _: serving.serve(), "be Podman's API"),
        "network": (lambda _: sys.exit(network.hold()), "keep the network of workers, with the rules in it"),
        "rules": (lambda _: network.load(), "put the rules in force in it once more"),
    }
    for name, (function, text) in known.items():
        steps.add_parser(name, help=text).set_defaults(run=function)
