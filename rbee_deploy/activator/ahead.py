"""Have the host fetch models before its hive goes over: by the release, settings and secrets that were staged."""

import subprocess
import sys
from collections.abc import Iterator

from rbee_deploy.activator import blobs
from rbee_deploy.activator.manifest import File, Generation
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports

PROGRAM = "rbee_runtime.hive.ahead"
_PREFIX = "LoadCredential="


def fetch(generation: Generation, models_dir: str, models: bytes) -> None:
    """Run the fetching as the hive's user and wait for it, or raise ActivationError with what it said.

    It has a unit of its own: what was begun is ended although the connection is lost, and is found by the next try.
    """
    done = subprocess.run(
        command(generation, models_dir), input=models, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise ActivationError(said or f"the models could not be fetched ahead (exit status {done.returncode})")


def command(generation: Generation, models_dir: str) -> list[str]:
    """Return the command line that fetches as a generation's hive would."""
    files = {file.path: file for file in generation.files}
    (unit,) = (file for path, file in files.items() if path.endswith(f"/{ports.HIVE_UNIT}"))
    named = _credentials(blobs.read(unit.sha256, secret=False).decode())
    settings = (
        f"User={ports.HIVE_USER}",
        "UMask=0027",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        f"ReadWritePaths={models_dir}",
        f"LoadCredential=hive.yaml:{_content(files[f'{ports.ETC}/hive.yaml'])}",
        *(f"LoadCredential={name}:{_content(files[path])}" for name, path in named),
    )
    properties = [word for setting in settings for word in ("-p", setting)]
    # Its name is new each time: one whose operator is gone may still be at work, and the store has them take turns.
    return ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", *properties, sys.executable, "-I", "-m", PROGRAM]


def _credentials(unit: str) -> Iterator[tuple[str, str]]:
    """Yield name and path of the credentials that a unit file names."""
    for line in unit.splitlines():
        if line.startswith(_PREFIX):
            name, _, path = line.removeprefix(_PREFIX).partition(":")
            yield name, path


def _content(file: File) -> str:
    return str(blobs.folder(secret=file.secret) / file.sha256)
