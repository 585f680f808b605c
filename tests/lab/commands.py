"""Run one system command and turn its failure into one sentence."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence

from tests.lab.errors import LabError

# Long enough for apt-get on a slow line; everything else ends in seconds.
SLOW_S = 900.0
QUICK_S = 60.0
QUOTED_LINES = 5


def output(argv: Sequence[str], *, timeout: float = QUICK_S, env: Mapping[str, str] | None = None) -> str:
    """Return the command's standard output; raise LabError with its last words if it fails."""
    try:
        done = subprocess.run(
            argv, check=True, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, env=env
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{shlex.join(argv)} did not end within {timeout:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise LabError(f"{shlex.join(argv)} failed with {error.returncode}: {last_words(error)}") from error
    return done.stdout


def succeeds(argv: Sequence[str]) -> bool:
    """Run the command for its effect and say whether it worked; for clean-up and probes."""
    try:
        output(argv)
    except LabError:
        return False
    return True


def last_words(error: subprocess.CalledProcessError) -> str:
    """Join the last lines that a failed command printed."""
    lines = f"{error.stdout or ''}\n{error.stderr or ''}".strip().splitlines()
    return " | ".join(lines[-QUOTED_LINES:]) or "no output"
