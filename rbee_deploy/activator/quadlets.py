"""Quadlet's files, tried with the host's own generator before any of them is placed: it drops what it cannot parse."""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rbee_deploy.activator import blobs
from rbee_deploy.activator.manifest import File, Generation
from rbee_deploy.activator.units import ActivationError

SUFFIX = ".container"
GENERATORS = ("/usr/lib/systemd/system-generators/podman-system-generator", "/usr/libexec/podman/quadlet")
SECONDS = 30.0


def check(generation: Generation) -> None:
    """Raise ActivationError unless the generator makes a unit of each of a generation's files."""
    wanted = [file for file in generation.files if file.path.endswith(SUFFIX)]
    if wanted:
        with tempfile.TemporaryDirectory(prefix="rbee-quadlet-") as scratch:
            for file in wanted:
                (Path(scratch) / Path(file.path).name).write_bytes(blobs.read(file.sha256, secret=False))
            _judge(wanted, _dry_run(scratch))


def _dry_run(folder: str) -> "subprocess.CompletedProcess[str]":
    generator = next((path for path in GENERATORS if Path(path).is_file()), None)
    if generator is None:
        raise ActivationError("podman's generator of units is not on this host; install Podman's package anew")
    try:
        return _run(generator, folder)
    except subprocess.TimeoutExpired as error:
        raise ActivationError(f"{generator} took longer than {SECONDS:.0f} s; run the deploy again") from error


def _run(generator: str, folder: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [generator, "--dryrun"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={"QUADLET_UNIT_DIRS": folder, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        timeout=SECONDS,
    )


def _judge(wanted: Sequence[File], done: "subprocess.CompletedProcess[str]") -> None:
    for file in wanted:
        name = Path(file.path).name
        if f"---{name.removesuffix(SUFFIX)}.service---" not in done.stdout or done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if name in line and "Loading source" not in line]
            why = said[0].partition(": ")[2] if said else "it says nothing"
            raise ActivationError(f"podman on this host makes no unit of {file.path}: {why}; upgrade it")
