"""Put files in place atomically; their content travels on standard input only."""

import base64
import shlex
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from pyinfra import host
from pyinfra.api import StringCommand, operation

from rbee_deploy.drift import file_differs
from rbee_deploy.facts.memo import observe
from rbee_deploy.operations.later import now
from rbee_deploy.operations.root import as_root_command
from rbee_deploy.render import OwnedFile

LOCK = "/run/rbee-deploy.lock"
LOCK_SECONDS = 60
"""Two operators at once write one after the other; a file takes milliseconds."""

END = "end of content"
"""Follows the content, so that a connection that breaks in between leaves the old file."""


def script(file: OwnedFile) -> str:
    """Return the script that reads the content from its input and moves it over the target in one step."""
    path = PurePosixPath(file.path)
    target, draft = shlex.quote(str(path)), shlex.quote(str(path.with_name(f".{path.name}.rbee-new")))
    return " && ".join(
        (
            f"exec 9>>{LOCK}",
            f"flock -w {LOCK_SECONDS} 9",
            "umask 077",
            "IFS= read -r content",
            "IFS= read -r end",
            f'[ "$end" = {shlex.quote(END)} ]',
            f'printf %s "$content" | base64 -d >{draft}',
            f"chown {shlex.quote(f'{file.owner}:{file.group}')} {draft}",
            f"chmod {shlex.quote(file.mode)} {draft}",
            # A host that loses power now has the old file or the new one, not an empty one.
            f"sync -- {draft}",
            f"mv -fT {draft} {target}",
        )
    )


def command(file: OwnedFile) -> StringCommand:
    """Return the command that places one file."""
    return as_root_command(script(file), (base64.b64encode(file.text().encode()).decode(), END))


@operation()
def files(files: list[OwnedFile] | Callable[[], list[OwnedFile]]) -> Iterator[StringCommand]:
    """Give every file its content, owner and mode; a digest file comes last, when all that it stands for is there."""
    found = observe(host).paths
    stale = [file for file in now(files) if file_differs(file, found.get(file.path))]
    for file in stale:
        yield command(file)
    if not stale:
        host.noop("every file is as it should be")


@operation()
def absent(paths: list[str] | Callable[[], list[str]]) -> Iterator[StringCommand]:
    """Remove what an earlier inventory placed, once no unit that systemd knows names it."""
    found = observe(host).paths
    left = [path for path in now(paths) if path in found]
    if not left:
        host.noop("nothing of an earlier inventory is left")
        return
    yield as_root_command(shlex.join(("rm", "-f", "--", *left)))
