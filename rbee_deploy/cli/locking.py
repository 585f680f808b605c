"""lock: forbid deploys to hosts until further notice, allow them again, or say who is at work."""

import argparse
from functools import partial
from typing import Any

from rbee_deploy import lease
from rbee_deploy.cli import documents, looking, running
from rbee_deploy.cli.arguments import Commands, command
from rbee_deploy.errors import DeployError
from rbee_deploy.here import Here
from rbee_deploy.operations import ask
from rbee_deploy.site import Site
from rbee_deploy.stages import Stage


def register(commands: Commands) -> None:
    """Add the command."""
    text = "say which hosts are frozen or being deployed to; --freeze forbids deploys, --release allows them again"
    added = command(commands, "lock", _lock, text)
    either = added.add_mutually_exclusive_group()
    either.add_argument("--freeze", metavar="WHY", help="forbid deploys, with a reason that others will read")
    either.add_argument("--release", action="store_true", help="allow deploys again, whoever forbade them")


def _lock(options: argparse.Namespace) -> int:
    script = ""
    if options.freeze is not None and not options.freeze.strip():
        raise DeployError("--freeze needs a reason, which others will read")
    if options.freeze is not None:
        script = lease.freeze(lease.operator(), options.freeze)
    elif options.release:
        script = lease.thaw()
    done = running.go(options, wanted=partial(_stages, script))
    rows = [{**looking.row(here), "frozen_already": _was_frozen(here)} for here in running.hosts()]
    documents.tell(options, hosts=rows)
    width = max((len(row["host"]) for row in rows), default=0)
    for row in rows:
        documents.tell(options, lock_line(row, width))
    return done


def lock_line(row: dict[str, Any], width: int) -> str:
    """Return a host's line: who may not be disturbed there, and whose deploy is over without having ended."""
    first = "it was frozen already: the first freeze stands, and the new reason is not kept"
    kept = [first] if row["frozen_already"] else []
    said = [*(list(looking.holders(row)) or ["free"]), *kept, *looking.broken_off(row)]
    return f"{row['host']:<{width}}  {'; '.join(said)}"


def _was_frozen(here: Here) -> bool:
    """Say whether this run was to freeze a host and found it frozen."""
    return lease.FROZEN in here.host.connector_data.get(ask.ANSWER, ())


def _stages(script: str, site: Site) -> tuple[Stage, ...]:
    change = Stage("lock", (("set it", lambda _here, name: ask.answered(name=name, script=script)),), quiet=True)
    return (*looking.look(site), change, *looking.look(site, "look again"))
