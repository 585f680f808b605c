"""What `/health` and `/ready` say about this process."""

from dataclasses import dataclass
from enum import StrEnum

from rbee_runtime import __version__


class Phase(StrEnum):
    """Where a serving process is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass
class Status:
    """Set by the serving process, read by its routes. `digest` is the desired-state digest read at start."""

    epoch: int
    digest: str = ""
    phase: Phase = Phase.STARTING

    @property
    def draining(self) -> bool:
        """Say whether connections end after their current answer."""
        return self.phase is Phase.DRAINING

    def health(self) -> dict[str, object]:
        """Return the body of `/health`."""
        return {"status": "ok", "digest": self.digest, "version": __version__, "epoch": self.epoch}
