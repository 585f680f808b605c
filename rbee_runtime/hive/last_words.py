"""What a worker itself said about its end: the one sentence that it writes last, from the launcher's log.

Only ends with a status that `rbee-worker` chose are looked up: it writes its sentence right before, so the last one in
the log belongs to this end and not to an earlier life.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from rbee_runtime import logs
from rbee_runtime.brief import cut
from rbee_runtime.errors import RbeeError
from rbee_runtime.hive import exits
from rbee_runtime.hive.launchers import Launcher
from rbee_runtime.hive.records import Records, WorkerRecord

PREFIX = "rbee-worker: "
LINES = 40
"""The sentence is the worker's last line; the service manager adds a few of its own, and the next life may begin."""

LONGEST = 300
SETTLE_SECONDS = 0.5
"""A journal shows a line a moment after it was written, and until then the last one of an earlier end."""

ANSWER_SECONDS = 5.0
AT_ONCE = 4


def sentence(text: str) -> str:
    """Return the last sentence that a worker wrote, on one line and cut to a bounded length, or ""."""
    found = next((line for line in reversed(text.splitlines()) if line.startswith(PREFIX)), "")
    plain = "".join(char if char.isprintable() else " " for char in found.removeprefix(PREFIX))
    return cut(" ".join(plain.split()), LONGEST)


class LastWords:
    """Looks up each end once, in the background; `changed` is called when a record has its sentence."""

    def __init__(
        self, launcher: Launcher, records: Records, *, changed: Callable[[], None], settle: float = SETTLE_SECONDS
    ) -> None:
        self._launcher = launcher
        self._records = records
        self._changed = changed
        self._settle = settle
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._asked: dict[str, tuple[float, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def tick(self, records: Mapping[str, WorkerRecord]) -> None:
        """Begin to look up the ends that are new; after a restart of the hive, those that it did not get to."""
        self._asked = {worker: ends for worker, ends in self._asked.items() if worker in records}
        for worker, record in records.items():
            if exits.wordless(record) and self._asked.get(worker) != record.failures:
                self._asked[worker] = record.failures
                task = asyncio.create_task(self._ask(record))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End the look-ups that run."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, record: WorkerRecord) -> None:
        await asyncio.sleep(self._settle)
        text = ""
        # A log that nobody may read costs the sentence and nothing else; who asks for the log itself hears why.
        with contextlib.suppress(RbeeError, OSError, TimeoutError):
            async with self._turns, asyncio.timeout(ANSWER_SECONDS):
                text = await self._launcher.logs(record.id, LINES)
        said = sentence(text)
        now = self._records[record.id]
        if said and (now.failures, now.exit_status) == (record.failures, record.exit_status):
            logs.info("worker_said", worker=record.id, detail=said)
            self._records.put(exits.told(now, said))
            self._changed()
