"""bundle: one folder with all that hosts get."""

import argparse

from rbee_deploy.bundle import commands as bundle
from rbee_deploy.bundle import targets
from rbee_deploy.cli import documents
from rbee_deploy.cli.arguments import Commands


def register(commands: Commands) -> None:
    """Add the command."""
    added = commands.add_parser("bundle", help=bundle.HELP, description=bundle.HELP)
    bundle.add_arguments(added)
    added.set_defaults(run=_bundle, limit=[])


def _bundle(options: argparse.Namespace) -> int:
    made = bundle.run(options)
    documents.tell(
        options,
        f"bundle {made.sha256}",
        folder=str(made.folder),
        sha256=made.sha256,
        files=len(made.manifest.entries),
        bytes=made.size,
        targets=targets.described(made.manifest.targets),
    )
    return 0
