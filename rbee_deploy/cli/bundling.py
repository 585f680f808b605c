"""bundle: one folder with all that hosts get."""

from rbee_deploy.bundle import commands as bundle
from rbee_deploy.cli.arguments import Commands


def register(commands: Commands) -> None:
    """Add the command."""
    added = commands.add_parser("bundle", help=bundle.HELP, description=bundle.HELP)
    bundle.add_arguments(added)
    added.set_defaults(run=bundle.run, exits={bundle.INTERRUPTED: "Ctrl-C; the folder is as it was"})
