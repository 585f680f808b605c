"""The container of a queen with its own hive: builders of commands only, nothing runs here.

It has the host's network, as it listens on loopback, and the state directory of a queen without a container at the same
path: either can follow the other, with its keys and its models.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rbee_runtime import ports
from rbee_runtime.errors import ConfigError

ENGINES = ("podman", "docker")
"""The first one that is there is taken."""

NAME = "rbee-queen"
STOP_SECONDS = 200
"""As long as the queen waits for its workers."""


@dataclass(frozen=True)
class Here:
    """What a container has from this machine: whose it is, and the folder of all state."""

    root: Path
    uid: int
    gid: int


def here() -> Here:
    """Return what is true of whoever runs this program."""
    return Here(ports.user_root(), os.getuid(), os.getgid())


def image_of(version: str) -> str:
    """Return the name that `rbee-deploy images` gives to the queen's image."""
    return f"localhost/rbee-queen:{version}"


def command(engine: str, image: str, options: Sequence[str], where: Here, *, detach: bool = False) -> list[str]:
    """Return the command that runs a queen with these options of rbee-queen, or raise ConfigError."""
    if "--attached-hive" not in options:
        raise ConfigError('--container goes with --attached-hive; a fleet says mode="container" in its inventory')
    root = Path(next(values(options, "--state-dir"), where.root)).resolve()
    root.mkdir(parents=True, exist_ok=True)
    mounts = [f"{root}:{root}:rw", *(f"{path}:{path}:ro" for path in _read(options, root))]
    return [
        *(engine, "run", "--rm", "--name", NAME, "--network", "host", "--stop-signal", "SIGINT"),
        *("--stop-timeout", str(STOP_SECONDS), "--user", f"{where.uid}:{where.gid}"),
        # Without root the container's own users are others, and files would be theirs. With root it has the host's; a
        # name space of users for it could not mount what belongs to the host's network.
        *(("--userns", "keep-id") if engine == "podman" and where.uid else ()),
        *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges"),  # noqa: S108
        # Files of a person's home have labels that no container may read.
        *("--security-opt", "label=disable", "--env", f"XDG_DATA_HOME={where.root.parent}"),
        *(word for mount in mounts for word in ("--volume", mount)),
        *(("--detach",) if detach else ()),
        image,
        *options,
    ]


def stop_command(engine: str) -> list[str]:
    """Return the command that stops it as Ctrl-C does."""
    return [engine, "stop", "--time", str(STOP_SECONDS), NAME]


def values(options: Sequence[str], name: str) -> Iterator[str]:
    """Yield the values of an option, written `--name VALUE` or `--name=VALUE`."""
    for place, word in enumerate(options):
        if word == name and place + 1 < len(options):
            yield options[place + 1]
        elif word.startswith(f"{name}="):
            yield word.partition("=")[2]


def _read(options: Sequence[str], root: Path) -> Iterator[Path]:
    """Yield what the container reads besides its state: files of models, and a folder of engines."""
    sources = (text.partition("=")[2] for text in values(options, "--model"))
    named = [Path(source.removeprefix("file:")) for source in sources if source.startswith("file:")]
    for path in dict.fromkeys([*named, *map(Path, values(options, "--engines-dir"))]):
        if not path.is_relative_to(root):
            yield path
