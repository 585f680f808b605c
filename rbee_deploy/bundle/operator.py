"""The operator's part of a bundle: rbee-deploy itself, to be installed where there is no network."""

from collections.abc import Mapping
from pathlib import Path

from rbee_deploy import pins, wheels
from rbee_deploy.artefacts import Say, Target, cache_root, file_sha256, say_to_stderr
from rbee_deploy.own_wheel import own_wheel

WHEELS = "wheels"
REQUIREMENTS = "requirements.txt"
NOTE = "INSTALL"


def packages(target: Target, cache: Path | None = None, *, say: Say = say_to_stderr) -> tuple[Path, ...]:
    """Return the wheels of rbee and of all that rbee-deploy needs on an operator's machine of `target`."""
    root = cache or cache_root()
    folder = wheels.download(pins.read("deploy.txt", target), target, root, say=say)
    return tuple(sorted([own_wheel(None, root, say=say), *folder.glob("*.whl")], key=lambda path: path.name))


def texts(files: tuple[Path, ...], target: Target) -> Mapping[str, str]:
    """Return the files beside the wheels, by name: the pins by hash, and how to install them."""
    return {REQUIREMENTS: "".join(f"{_pinned(path)}\n" for path in files), NOTE: _note(target)}


def _pinned(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version} --hash=sha256:{file_sha256(wheel)}"


def _note(target: Target) -> str:
    return f"""\
rbee-deploy for a machine without a network (Python {target.python}, {target.arch}, glibc {target.glibc} or newer).
In the folder of this file:

    python3 -m venv ~/rbee-deploy
    ~/rbee-deploy/bin/pip install --no-index --find-links {WHEELS} --require-hashes -r {REQUIREMENTS}
    ~/rbee-deploy/bin/rbee-deploy bundle --verify ..
    ~/rbee-deploy/bin/rbee-deploy apply -i INVENTORY --bundle ..
"""
