"""An engine of containers by its own command, as far as units need it."""

import subprocess

COMMAND_SECONDS = 60.0
_GONE = ("no such", "no container with")
"""What Docker and Podman say of a container that they do not have; any other failure says nothing of it."""


class Engine:
    """Podman or Docker."""

    def __init__(self, command: str) -> None:
        self.command = command

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run its command; a status of 125 where it could not be run."""
        try:
            return subprocess.run(
                [self.command, *words],
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=COMMAND_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return subprocess.CompletedProcess(words, 125, "", str(error))

    def runs(self, container: str) -> bool | None:
        """Say whether a container runs; None while the engine does not answer."""
        done = self.run("container", "inspect", "--format", "{{.State.Running}}", container)
        if done.returncode == 0:
            return done.stdout.strip() == "true"
        return False if any(words in done.stderr.lower() for words in _GONE) else None
