"""A hive's fetches over a source that does as it is told, with a clock of their own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import ModelStoreError
from rbee_runtime.hive.fetching import Fetching
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.sources import Listing, RemoteFile
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelSpec
from tests.unit.models.pulling import uninspected

CONTENT = b"x" * 1000
SPEC = ModelSpec(name="m", source="https://models.example/m.gguf")
FAKE = ModelSpec(name="f", source="fake:")


class Source:
    """Has one file; waits in the middle until told to go on, or fails as told."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.error: Exception | None = None
        self.opened = 0
        self.fails_midway = False
        self.sha256: str | None = None

    async def list(self) -> Listing:
        self.opened += 1
        if self.error is not None:
            raise self.error
        return Listing((RemoteFile("m.gguf", len(CONTENT), self.sha256, etag="1", locator="l"),))

    async def read(self, file: RemoteFile, *, offset: int) -> AsyncIterator[bytes]:
        yield CONTENT[offset:400] if offset < 400 else b""
        await self.go_on.wait()
        if self.fails_midway:
            raise ModelStoreError("gone")
        yield CONTENT[max(offset, 400) :]

    async def close(self) -> None: ...


def content(path: str) -> bytes:
    return Path(path).read_bytes()


class Case:
    def __init__(self, root: Path) -> None:
        self.now = 1000.0
        self.source = Source()
        self.changed = asyncio.Event()
        self.store = ModelStore(root, StoreSettings(spare=0))
        puller = Puller(
            self.store,
            clock=lambda: self.now,
            opener=lambda *_: self.source,
            inspect=uninspected,
        )
        self.fetching = Fetching(self.store, clock=lambda: self.now, changed=self.changed.set, puller=puller)

    async def look(self, *wanted: ModelSpec) -> None:
        await self.fetching.look(wanted or (SPEC,))

    async def settle(self) -> None:
        await asyncio.wait_for(self.changed.wait(), 10)
        self.changed.clear()
        await self.look()

    @property
    def state(self) -> str | None:
        return next((report.state for report in self.fetching.fetches), None)
