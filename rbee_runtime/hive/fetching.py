"""Brings the models of the desired document onto this host's disk, one at a time, and says how far each is."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from rbee_runtime import logs
from rbee_runtime.errors import RbeeError, ReferenceFormError
from rbee_runtime.hive.decisions import ModelState
from rbee_runtime.models.references import Scheme, parse_source
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelReport, ModelSpec

RETRY_SECONDS = 30.0
"""A missing file or a full disk is looked at again after this; a person has to act in between."""


class Fetching:
    """State of each model that the document names; `changed` is called when one of them moves on."""

    def __init__(self, store: ModelStore, *, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._changed = changed
        # One thread: hashing is bound by the disk, and must leave the pool that serves everything else alone.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="model-store")
        self._running: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, tuple[ModelSpec, str, float]] = {}
        self.models: dict[str, ModelState] = {}
        self.reports: tuple[ModelReport, ...] = ()

    async def look(self, wanted: Sequence[ModelSpec]) -> None:
        """Compare the disk with what is wanted and start what is missing; does not wait for it."""
        found, self.reports = await asyncio.to_thread(self._read_disk, wanted)
        self.models = {spec.name: self._state(spec, found.get(spec.name)) for spec in wanted}

    async def close(self) -> None:
        """Leave running copies to their thread; what they leave behind is swept by their own clean-up."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read_disk(self, wanted: Sequence[ModelSpec]) -> tuple[dict[str, ModelState], tuple[ModelReport, ...]]:
        found = {spec.name: self._store.find(spec) for spec in wanted}
        ready = {name: self._ready(report) for name, report in found.items() if report is not None}
        return ready, self._store.reports()

    def _ready(self, report: ModelReport) -> ModelState:
        path = str(self._store.path_of(report.files[0]))
        return ModelState(ready=True, path=path, basis=_content(report), stamp=self._store.stamp(report))

    def _state(self, spec: ModelSpec, found: ModelState | None) -> ModelState:
        if found is not None:
            return found
        try:
            scheme = parse_source(spec.source).scheme
        except ReferenceFormError as error:
            return ModelState(ready=False, said=str(error))
        if scheme is Scheme.FAKE:
            return ModelState(ready=True, basis=_short(spec.source))
        return ModelState(ready=False, said=self._fetch(spec))

    def _fetch(self, spec: ModelSpec) -> str:
        """Start to fetch unless that runs or failed just now; return one sentence about it."""
        failed = self._failed.get(spec.name)
        if failed is not None and failed[0] == spec and self._clock() < failed[2]:
            return failed[1]
        if spec.name not in self._running:
            task = asyncio.create_task(self._adopt(spec))
            self._running[spec.name] = task
            task.add_done_callback(lambda _: self._running.pop(spec.name, None))
        return f"model {spec.name} is being copied and verified"

    async def _adopt(self, spec: ModelSpec) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._store.adopt, spec)
        except RbeeError as error:
            self._fail(spec, error)
        else:
            self._failed.pop(spec.name, None)
        self._changed()

    def _fail(self, spec: ModelSpec, error: RbeeError) -> None:
        before = self._failed.get(spec.name)
        if before is None or before[1] != str(error):
            logs.warning("model_not_taken_in", model=spec.name, detail=error)
        self._failed[spec.name] = (spec, str(error), self._clock() + RETRY_SECONDS)


def _content(report: ModelReport) -> str:
    return _short(",".join(sorted(file.sha256 for file in report.files)))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
