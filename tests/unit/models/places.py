"""A store, and a model file of the operator beside it."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from rbee_runtime.models.pull import Puller
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelFile, ModelReport, ModelSpec

from .pulling import uninspected

CONTENT = b"GGUF" + bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILE = ModelFile(name="m.gguf", sha256=DIGEST, size=len(CONTENT))
CONTENT_FOLDERS = ("blobs", "manifests", "partial", "quarantine", "views")


class Place(NamedTuple):
    store: ModelStore
    root: Path
    source: Path

    def spec(self, **changes: Any) -> ModelSpec:
        spec = ModelSpec(name="org/m:q4", source=f"file:{self.source}", files=(FILE,))
        return msgspec.structs.replace(spec, **changes)

    async def take_in(self, spec: ModelSpec) -> ModelReport:
        return await Puller(self.store, inspect=uninspected).pull(spec)

    def files(self) -> list[str]:
        return sorted(p.name for name in CONTENT_FOLDERS for p in (self.root / name).rglob("*") if p.is_file())

    def add(self, name: str, size: int, used: float) -> None:
        """Put a model of `size` bytes there that was last used at `used`."""
        digest = hashlib.sha256(name.encode()).hexdigest()
        self.store.layout.prepare()
        self.store.layout.blob(digest).write_bytes(bytes(size))
        self.store.commit(ModelReport(name=name, size=size, files=(ModelFile(name="f", sha256=digest, size=size),)))
        os.utime(self.root / "uses" / name, (used, used))


def wrong(**changes: Any) -> tuple[ModelFile, ...]:
    return (msgspec.structs.replace(FILE, **changes),)
