"""What is on this host's disks, models and engines; a disk that hangs or fails holds nobody up."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from rbee_runtime import logs
from rbee_runtime.config import HiveConfig
from rbee_runtime.errors import RbeeError
from rbee_runtime.hive import engines
from rbee_runtime.hive.fetching import PATIENCE, Fetching, silent
from rbee_runtime.models.threads import Threads
from rbee_runtime.protocol import Desired

DISK_SECONDS = 10.0
"""Between looks at models and engines on disk, which only the deploy or a person changes."""


class Disk:
    """The last look; `trouble` is why it is not a recent one, or ""."""

    def __init__(
        self,
        config: HiveConfig,
        fetching: Fetching,
        *,
        clock: Callable[[], float],
        host: Callable[[], engines.HostFacts],
    ) -> None:
        self._engines_dir, self._chosen = config.engines_dir, config.engine_builds
        self._images = engines.in_images(config.containers.images) if config.in_containers else None
        self._fetching = fetching
        self._clock = clock
        self._host = host
        self._threads = Threads(1, "engine-look")
        self._due = self._begun = 0.0
        self._judged_by: engines.HostFacts | None = None
        self._looking_at = ""
        self._running: asyncio.Task[None] | None = None
        self.engines: Mapping[str, Path | None] = {}
        self.unfit: Mapping[str, str] = {}
        self.trouble = ""

    def due(self) -> None:
        """Look again at the next chance."""
        self._due = 0.0

    async def read(self, document: Desired | None, in_use: Collection[str]) -> None:
        """Look if it is time, and go on with what was known if the disk hangs or fails.

        `in_use` are the models that running workers were started with.
        """
        now = self._clock()
        if self._running is None and (now >= self._due or self._host() != self._judged_by):
            self._due, self._begun = now + DISK_SECONDS, now
            self._running = asyncio.create_task(self._look(document, in_use))
        if self._running is None:
            return
        # Counted from the start of the look: one that hangs costs the hive this time once, not at each turn.
        done, _ = await asyncio.wait({self._running}, timeout=max(0.0, self._begun + PATIENCE - now))
        if not done:
            self._say_silent(self._clock() - self._begun)
            return
        look, self._running = self._running, None
        try:
            look.result()
        except (RbeeError, OSError) as error:
            self._say(f"models and engines cannot be read: {error}")
        else:
            self._say("")

    async def close(self) -> None:
        """End a look that runs."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _look(self, document: Desired | None, in_use: Collection[str]) -> None:
        self._looking_at = f"the engines folder {self._engines_dir}"
        self._judged_by = self._host()
        found = self._images
        if found is None:
            found = await self._threads.run(engines.installed, self._engines_dir, self._judged_by, self._chosen)
        self._looking_at = f"the model store {self._fetching.store.layout.root}"
        self.engines, self.unfit = found.usable, found.unfit
        if document is None:
            await self._fetching.look((), in_use)
        else:
            await self._fetching.look(document.models, in_use, document.pins)

    def _say_silent(self, seconds: float) -> None:
        said = silent(self._looking_at, seconds)
        if not self.trouble.startswith(f"{self._looking_at} has not answered"):
            logs.warning("disk_silent", detail=said)
        self.trouble = said

    def _say(self, said: str) -> None:
        if said and said != self.trouble:
            logs.warning("disk_trouble", detail=said)
        elif self.trouble and not said:
            logs.info("disk_answers")
        self.trouble = said
