"""The desired-state digest: one hash over everything whose change restarts a role."""

import hashlib
import json
from collections.abc import Iterable
from typing import Protocol


class Digestible(Protocol):
    """A file as the digest sees it; a secret shows its version, never its text."""

    @property
    def path(self) -> str:
        """Where it lies."""

    @property
    def fingerprint(self) -> str:
        """What changes when its content, owner or mode does."""


def desired_digest(role: str, release: str, files: Iterable[Digestible]) -> str:
    """Return the digest (32 hex digits) of a role: its release and the files that it reads at start.

    The order of `files` does not matter. Hot files must not be among them.
    """
    parts = {"role": role, "release": release, "files": sorted((file.path, file.fingerprint) for file in files)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
