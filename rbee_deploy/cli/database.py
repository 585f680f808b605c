"""backup and restore: the queen's database (keys, drained hosts, where workers are) as one file of the operator."""

import argparse
import base64
import contextlib
import json
import sqlite3
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rbee_deploy.cli import documents, running
from rbee_deploy.cli.arguments import Commands, command
from rbee_deploy.errors import DeployError
from rbee_deploy.here import Here
from rbee_deploy.history import Past
from rbee_deploy.operations import activate, ask, lease
from rbee_deploy.private_files import write_private_bytes
from rbee_deploy.site import Site
from rbee_deploy.stages import Stage

WIDTH = 76
"""Characters of base64 in a line, as everybody writes it."""


def register(commands: Commands) -> None:
    """Add the commands."""
    text = "write the queen's database into a file, and prove that it can be read"
    backup = command(commands, "backup", _backup, text, limits=False)
    backup.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="the file; it must not exist")
    text = "put a backup in place of the queen's database, and restart the queen"
    restore = command(commands, "restore", _restore, text, limits=False)
    restore.add_argument("file", type=Path, metavar="FILE", help="what backup wrote")


def _backup(options: argparse.Namespace) -> int:
    if options.output.exists():
        raise DeployError(f"{options.output} exists; name another file")
    if not options.output.absolute().parent.is_dir():
        raise DeployError(f"there is no folder {options.output.absolute().parent}; make it, or name another file")
    done = running.go(_at_the_queen(options), wanted=partial(_stages, _ask_backup))
    answers = [here.host.connector_data.get(ask.ANSWER) for here in running.hosts()]
    lines = next((answer for answer in answers if answer), None)
    if done or lines is None:
        return done or 1
    content = base64.b64decode("".join(lines))
    tables = proven(content)
    write_private_bytes(options.output, content)
    rows = ", ".join(f"{n} {name}" for name, n in tables.items())
    said = f"{options.output}: {len(content)} bytes, sound; {rows}"
    documents.tell(options, said, file=str(options.output), bytes=len(content), tables=tables)
    return 0


def proven(content: bytes) -> dict[str, int]:
    """Return how many rows each table of a backup has, or raise DeployError when it cannot be restored."""
    with tempfile.NamedTemporaryFile(suffix=".db") as scratch:
        Path(scratch.name).write_bytes(content)
        try:
            with contextlib.closing(sqlite3.connect(scratch.name)) as db:
                verdict = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
                tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
                names = [row[0] for row in tables.fetchall()]
                counts = {name: db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}  # noqa: S608
        except sqlite3.Error as error:
            raise DeployError(f"the backup is no database that can be used: {error}") from error
    if verdict != "ok" or not {"meta", "keys"} <= counts.keys():
        known = ", ".join(counts) or "none"
        raise DeployError(f"the backup is not the database of a queen ({verdict}; tables: {known})")
    return counts


def _restore(options: argparse.Namespace) -> int:
    try:
        content = options.file.read_bytes()
    except OSError as error:
        raise DeployError(f"cannot read {options.file}: {error.strerror}; name a file that backup wrote") from error
    documents.tell(options, file=str(options.file), bytes=len(content), tables=proven(content))
    status = running.go(_at_the_queen(options), wanted=partial(_stages, partial(_ask_restore, content)))
    if not status:
        answers = (here.host.connector_data.get(ask.ANSWER) for here in running.hosts())
        _tell_of_keys(options, next((answer for answer in answers if answer), None))
    return status


_BECAME = {
    "valid again": ("it was revoked after the backup was made", "rbee-keeper keys revoke {id} ends it"),
    "gone": ("it was made after the backup", "whoever uses it needs another one, by rbee-keeper keys create"),
}
"""Why a key is what it is after a restore, and what to do about it."""


def _tell_of_keys(options: argparse.Namespace, answer: list[str] | None) -> None:
    """Say what a restore did to keys, and where the database before it is."""
    if answer is None:
        # The activator of an older release.
        advice = "look through rbee-keeper keys list: keys that were revoked since the backup are valid again"
        documents.tell(options, advice, advice=advice)
        return
    told = json.loads(answer[-1])
    documents.tell(options, kept=told["kept"], keys=told["keys"])
    for key in told["keys"]:
        why, do = _BECAME[key["became"]]
        advice = do.format(**key)
        documents.tell(options, f"key {key['id']} ({key['name']}) is {key['became']}: {why}; {advice}", advice=advice)
    if told["kept"]:
        documents.tell(options, f"what was there before is {told['kept']} on the queen's host")


def _at_the_queen(options: argparse.Namespace) -> argparse.Namespace:
    return running.limited(options, options.site.queen.name)


Ask = Callable[[Here, str], Any]


def _stages(step: Ask, _site: Site) -> tuple[Stage, ...]:
    return (
        Stage("look", (("read it", lambda here, name: ask.looked(name=name, accept=here.undeployed)),)),
        Stage("lease", (("take it", lambda _here, name: lease.taken(name=name, needed=True)),)),
        Stage("database", (("ask for it", step),)),
    )


def _ask_backup(here: Here, name: str) -> Any:
    return ask.answered(name=name, script=lambda: activate.activator(_release(here), "backup"))


def _ask_restore(content: bytes, here: Here, name: str) -> Any:
    text = base64.b64encode(content).decode()
    lines = [text[at : at + WIDTH] for at in range(0, len(text), WIDTH)]
    words = ("restore", *activate.told("restore a backup"))
    return ask.answered(
        name=name, script=lambda: activate.apart(activate.activator(_release(here), *words)), lines=lambda: lines
    )


def _release(here: Here) -> str:
    now = Past.of(here.facts.deploy).now
    return now.release if now is not None else ""
