"""Wait for the queen, who replaces the workers of upgraded hives; nothing depends on the waiting but the verdict."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, operation
from pyinfra.context import ctx_host

from rbee_deploy.operations.activate import activator
from rbee_deploy.operations.root import NOTES, WORKERS, as_root_command
from rbee_deploy.secrets import Secret

STAGE = "workers"
"""The stage that this is, for its line in the report."""


@dataclass(frozen=True)
class Door:
    """How the queen is asked on her own host: by the activator of a release, with a key."""

    release: str
    port: int
    tls: bool
    key: Secret
    seconds: float

    def words(self) -> tuple[str, ...]:
        """Return the options that say where she answers."""
        return ("--port", str(self.port), *(("--tls",) if self.tls else ()))


@operation()
def followed(queen: Callable[[], Door | None], releases: Callable[[], Mapping[str, str]]) -> Iterator[StringCommand]:
    """Wait until the workers of all hives that the run changed run their hives' releases, and note what they lack."""
    door = queen() if host.state.is_executing else None
    # Not asked where there is no door: it looks at every host.
    wanted = releases() if door is not None else {}
    if door is None or not wanted:
        host.noop("no worker is to be replaced")
        return
    pairs = [f"{name}={release}" for name, release in wanted.items()]
    script = activator(door.release, "workers", *door.words(), "--seconds", str(door.seconds), "--", *pairs)
    # Not yielded: it changes nothing, and what is yielded counts as a change of this host.
    _follow(ctx_host.get(), as_root_command(script, (door.key.reveal(),)))
    host.noop("somebody was asked about them")
    yield from ()


def _follow(mine: Any, command: StringCommand) -> None:
    succeeded, output = mine.connector.run_shell_command(command, **command.connector_arguments)
    answer = _parsed(output.stdout) if succeeded else None
    if answer is not None:
        mine.state.__dict__[WORKERS] = str(answer["problem"])
        note(mine, answer["problem"] or f"{answer['workers']} run what their hives have")
        return
    # A dead queen holds nobody up: she replaces workers when she is back.
    said = (output.stderr or "she said nothing").splitlines()[-1]
    note(mine, f"nobody could be asked about them: {said}")


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        return None
    return found if {"problem", "workers"} <= found.keys() else None


def note(host: Any, sentence: str) -> None:
    """Have the report say something beside the verdict of this stage."""
    host.connector_data.setdefault(NOTES, {}).setdefault(STAGE, []).append(sentence)
