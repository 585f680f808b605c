"""A store, a puller without real pauses, and specs of what a faulty server has."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rbee_runtime.config import StoreSettings
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelSpec

from .faulty_server import FaultyServer

CONTENT = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(256 * 1024))
"""8 MiB that no two places of are alike."""

DIGEST = hashlib.sha256(CONTENT).hexdigest()


def uninspected(files: Sequence[tuple[str, Path]], *, allow_pickle: bool) -> object:
    return {"files": len(files)}


@dataclass
class Pulling:
    root: Path
    settings: dict[str, Any] = field(default_factory=dict)
    pauses: list[float] = field(default_factory=list)

    @property
    def store(self) -> ModelStore:
        changed = {"plain_http_hosts": ("127.0.0.1",), "spare": 0, **self.settings}
        return ModelStore(self.root, StoreSettings(**changed))

    def puller(self, **changes: Any) -> Puller:
        return Puller(self.store, **{"sleep": self.sleep, "inspect": uninspected, **changes})

    async def sleep(self, seconds: float) -> None:
        if seconds >= 1:
            self.pauses.append(seconds)
        await asyncio.sleep(0.001)

    def names(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.root / folder).glob("*"))

    def visible(self) -> list[str]:
        return self.names("blobs") + self.names("manifests")


def spec(server: FaultyServer, sha256: str = DIGEST, name: str = "m") -> ModelSpec:
    return ModelSpec(name=name, source=server.url() + (f"#sha256={sha256}" if sha256 else ""))
