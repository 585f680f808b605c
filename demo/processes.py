"""Child processes of the demo: they end with it."""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1
"""prctl(2)."""

STOP_SECONDS = 60.0
"""A queen with an attached hive stops its workers first, also one that loads; after this it is killed."""


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: IO[bytes] | int | None = None,
    stop_by: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a running child in a process group of its own, which is stopped when the block is left.

    `output` gets both of its streams; None leaves them ours.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        env={**os.environ, **(environment or {})},
        cwd=cwd,
        start_new_session=True,
        preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call, and the demo has one thread here
    )
    try:
        yield child
    finally:
        _stop(child, stop_by)


def _end_with_parent() -> None:
    """Ask the kernel to end this child when the demo is killed in a way that runs no clean-up."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(child: subprocess.Popen[bytes], stop_by: signal.Signals) -> None:
    for number in (stop_by, signal.SIGKILL):
        if child.poll() is not None:
            return
        os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=STOP_SECONDS)
