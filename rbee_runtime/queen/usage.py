"""What keys use, per model and day: counted in memory, written in batches.

A queen that leaves has no database any more while its last answers end. What they used it leaves in files beside it,
and the queen that has the database adds each of those once.
"""

import asyncio
import re
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Protocol

import msgspec

from rbee_runtime import durable, logs
from rbee_runtime.errors import RequestError, StateError
from rbee_runtime.protocol import decode
from rbee_runtime.queen.keys import Keys
from rbee_runtime.queen.records import UsageRow
from rbee_runtime.queen.store import Store

FLUSH_SECONDS = 5.0
"""At most so much is lost when a queen is killed."""

KEEP_DAYS = 400
"""A year and what is left of its month."""

MOST_ROWS = 20_000
"""Of one answer: a hundred keys with six models each for a month."""

_DAY_SECONDS = 86_400
_LEFT = re.compile(r"usage-\d+-\d+\.json")


class Count(Protocol):
    """Takes note of one try that is over."""

    def __call__(
        self, key: str, model: str, tokens: tuple[int, int], *, request: bool, error: bool, estimated: bool
    ) -> None:
        """Count prompt and answer tokens; `request`, `error` and `estimated` say what else to count, see UsageRow."""
        ...


def uncounted(key: str, model: str, tokens: tuple[int, int], *, request: bool, error: bool, estimated: bool) -> None:
    """Count nothing."""


class Usage:
    """The one counter of a queen."""

    def __init__(
        self, store: Store, keys: Keys, directory: Path, epoch: int, *, now: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._keys = keys
        self._directory = directory
        self._epoch = epoch
        self._now = now
        self._counts: dict[tuple[int, str, str], list[int]] = {}
        self._left = 0
        self._leaving = False
        self._swept = ""
        self._problem = ""

    def count(
        self, key: str, model: str, tokens: tuple[int, int], *, request: bool, error: bool, estimated: bool
    ) -> None:
        """Count one try that is over."""
        place = (int(self._now()) // _DAY_SECONDS, key, model)
        counts = self._counts.get(place)
        if counts is None:
            counts = self._counts[place] = [0, 0, 0, 0, 0]
        counts[0] += request
        counts[1] += tokens[0]
        counts[2] += tokens[1]
        counts[3] += error
        counts[4] += estimated

    def report(self, *, key: str = "", model: str = "", since: date, until: date) -> list[UsageRow]:
        """Return what was used from one day to another, both included, oldest first, or raise RequestError."""
        if self._leaving:
            raise RequestError(503, "this queen is leaving; ask again", kind="server_error", retry_after=1)
        first, last = since.isoformat(), until.isoformat()
        stored = self._store.usage(key=key, model=model, since=first, until=last, most=MOST_ROWS + 1)
        found = {(row.day, row.key, row.model): row for row in stored}
        for row in self._pending():
            if first <= row.day <= last and key in ("", row.key) and model in ("", row.model):
                place = (row.day, row.key, row.model)
                found[place] = found[place] + row if place in found else row
        if len(found) > MOST_ROWS:
            raise RequestError(400, f"that is more than {MOST_ROWS} rows; ask for fewer days, or one key or model")
        return [found[place] for place in sorted(found)]

    def flush(self) -> None:
        """Write what was counted since the last time; what cannot be written is kept for the next."""
        rows, used = self._pending(), self._keys.unwritten()
        if not rows and not used:
            return
        try:
            self._write(rows, used)
        except StateError as error:
            if str(error) != self._problem:
                logs.error("usage not saved", why=str(error))
            self._problem = str(error)
            return
        self._problem = ""
        self._counts.clear()
        self._keys.written(used)

    def leave(self) -> None:
        """Write once more; from now on the database is somebody else's."""
        self.flush()
        self._leaving = True

    async def run(self) -> None:
        """Write every few seconds and take over what others left, until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(FLUSH_SECONDS)

    def tick(self) -> None:
        """Do what is to be done every few seconds."""
        self.flush()
        if self._leaving:
            return
        try:
            self._take_over()
            self._forget()
        except (StateError, OSError) as error:
            logs.error("usage not kept up", why=str(error))

    def _pending(self) -> list[UsageRow]:
        return [UsageRow(_day(day), key, model, *counts) for (day, key, model), counts in self._counts.items()]

    def _write(self, rows: list[UsageRow], used: dict[str, int]) -> None:
        if not self._leaving:
            self._store.add_usage(rows, used)
        elif rows:
            name = f"usage-{self._epoch}-{self._left + 1}.json"
            durable.write(self._directory / name, msgspec.json.encode(rows))
            self._left += 1

    def _take_over(self) -> None:
        """Add what queens counted that had no database any more, each file once."""
        for file in sorted(self._directory.iterdir()):
            if _LEFT.fullmatch(file.name):
                self._store.add_usage(_rows(file), {}, source=file.name)
                durable.remove(file)
                self._store.drop_meta(file.name)

    def _forget(self) -> None:
        today = datetime.fromtimestamp(self._now(), UTC).date()
        if self._swept != today.isoformat():
            self._store.drop_usage((today - timedelta(days=KEEP_DAYS)).isoformat())
            self._swept = today.isoformat()


def _rows(file: Path) -> list[UsageRow]:
    try:
        return decode(file.read_bytes(), list[UsageRow])
    except (OSError, msgspec.DecodeError) as error:
        logs.error("usage that another queen left is lost", file=file.name, why=str(error))
        return []


def _day(number: int) -> str:
    return datetime.fromtimestamp(number * _DAY_SECONDS, UTC).date().isoformat()
