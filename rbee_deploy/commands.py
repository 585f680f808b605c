"""Running a local command that may take minutes: signs of life while it runs, its last lines when it fails."""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from rbee_deploy.artefacts import Say
from rbee_deploy.errors import ArtefactError

_STEP = re.compile(rb"\[\d+/\d+\]")
SIGN_OF_LIFE = 10.0
"""Seconds between two lines of a command that still runs: short enough that nobody thinks it hangs."""


def run(
    command: Sequence[str],
    *,
    title: str,
    say: Say,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run `command` to its end, or raise ArtefactError with what it said last.

    Its output is shown only on failure; `environment` adds to the caller's own. Nothing survives an interrupt.
    """
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(  # its own group, so that compilers go with it
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            start_new_session=True,
        )
        try:
            status = _wait(process, output, title, say)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        if status != 0:
            raise ArtefactError(f"could not {title} (exit status {status}):\n{_last_lines(output)}")


def _wait(process: subprocess.Popen[bytes], output: IO[str], title: str, say: Say) -> int:
    start = time.monotonic()
    while True:
        try:
            return process.wait(timeout=SIGN_OF_LIFE)
        except subprocess.TimeoutExpired:
            say(f"{title}: {time.monotonic() - start:.0f} s{_step(output)}")


def _step(output: IO[str]) -> str:
    """Return how far a build says it is, as ` [17/86]`, or nothing."""
    size = os.fstat(output.fileno()).st_size
    tail = os.pread(output.fileno(), 4096, max(0, size - 4096))
    steps = _STEP.findall(tail)
    return f" {steps[-1].decode('ascii')}" if steps else ""


def _last_lines(output: IO[str], count: int = 10) -> str:
    output.seek(0)
    return "\n".join(f"  {line}" for line in output.read().splitlines()[-count:])
