"""An engine of containers by its own command, as far as units need it."""

import subprocess
import time

from rbee_deploy.activator import engines
from rbee_runtime import ports

COMMAND_SECONDS = 60.0
KILL_SECONDS = 10.0
_POLL_SECONDS = 0.1
_GONE = ("no such", "no container with")
"""What Docker and Podman say of a container that they do not have; any other failure says nothing of it."""

_STARTS = {engines.ROOTLESS: ("podman", "--remote", "--url", f"unix://{ports.PODMAN_SOCKET}")}
"""What starts a container elsewhere than below whoever asks, where the usual command would start it there."""

_AT_ONCE = {engines.ROOTLESS: ("--time=0", "--ignore")}
"""What Podman has to be told to end a container as Docker does, for root's it does not matter."""


class Engine:
    """Podman or Docker, by the names that generations have."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def command(self) -> tuple[str, ...]:
        """Return how its command begins."""
        return engines.command(self.name)

    @property
    def starting(self) -> tuple[str, ...]:
        """Return how its command begins that starts a container."""
        return _STARTS.get(self.name, self.command)

    def run(self, *words: str, seconds: float = COMMAND_SECONDS) -> "subprocess.CompletedProcess[str]":
        """Run its command; a status of 125 where it could not be run."""
        try:
            return subprocess.run(
                [*self.command, *words],
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=seconds,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return subprocess.CompletedProcess(words, 125, "", str(error))

    def remove(self, container: str) -> None:
        """End and remove a container at once; one that is gone is fine."""
        if self.name == engines.ROOTLESS:
            self._kill(container)
        self.run("rm", "--force", *_AT_ONCE.get(self.name, ()), container)

    def _kill(self, container: str) -> None:
        """End the first process of a container, and with it the container.

        Podman itself would end all processes of one that sees the host's, as the hive's does. It knows them by their
        control group, which is none of their own where the user has no bus, and then waits for ever.
        """
        deadline = time.monotonic() + KILL_SECONDS
        # One that has ended, or is gone, cannot be killed.
        while self.run("kill", "--signal=KILL", container).returncode == 0 and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start its command that starts a container, and let it run on."""
        return subprocess.Popen([*self.starting, *words])

    def attach(self, container: str) -> "subprocess.Popen[bytes]":
        """Have what a container writes come here."""
        return subprocess.Popen([*self.command, "attach", "--no-stdin", "--sig-proxy=false", container])

    def runs(self, container: str, *, seconds: float = COMMAND_SECONDS) -> bool | None:
        """Say whether a container runs; None while the engine does not answer."""
        done = self.run("container", "inspect", "--format", "{{.State.Running}}", container, seconds=seconds)
        if done.returncode == 0:
            return done.stdout.strip() == "true"
        return False if any(words in done.stderr.lower() for words in _GONE) else None
