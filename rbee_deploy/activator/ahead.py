"""Have the host fetch models before its hive goes over: by the release, settings and secrets that were staged."""

import subprocess
import sys
from collections.abc import Iterator, Mapping

from rbee_deploy.activator import blobs
from rbee_deploy.activator.manifest import File, Generation
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports

PROGRAM = "rbee_runtime.hive.ahead"
_CREDENTIAL = "LoadCredential"
_TAKEN = {
    *("User", "UMask", "NoNewPrivileges", "CapabilityBoundingSet", "PrivateTmp", "PrivateMounts"),
    *("ProtectSystem", "ProtectHome", "ReadWritePaths", "BindPaths", "BindReadOnlyPaths"),
}
"""Settings of the hive's unit by which it reaches its store and the caches of others, and no more."""


def fetch(generation: Generation, models: bytes) -> None:
    """Run the fetching as the hive's user and wait for it, or raise ActivationError with what it said.

    It has a unit of its own: what was begun is ended although the connection is lost, and is found by the next try.
    """
    done = subprocess.run(
        command(generation), input=models, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise ActivationError(said or f"the models could not be fetched ahead (exit status {done.returncode})")


def command(generation: Generation) -> list[str]:
    """Return the command line that fetches as a generation's hive would."""
    files = {file.path: file for file in generation.files}
    (unit,) = (file for path, file in files.items() if path.endswith(f"/{ports.HIVE_UNIT}"))
    settings = _settings(blobs.read(unit.sha256, secret=False).decode(), files)
    config = f"{_CREDENTIAL}=hive.yaml:{_content(files[f'{ports.ETC}/hive.yaml'])}"
    properties = [word for setting in (*settings, config) for word in ("-p", setting)]
    # Its name is new each time: one whose operator is gone may still be at work, and the store has them take turns.
    return ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", *properties, sys.executable, "-I", "-m", PROGRAM]


def _settings(unit: str, files: Mapping[str, File]) -> Iterator[str]:
    """Yield what a unit file says, with its credentials from where they were staged."""
    for line in unit.splitlines():
        key, _, value = line.partition("=")
        if key == _CREDENTIAL:
            name, _, path = value.partition(":")
            yield f"{key}={name}:{_content(files[path])}"
        elif key in _TAKEN:
            yield line


def _content(file: File) -> str:
    return str(blobs.folder(secret=file.secret) / file.sha256)
