"""Brings the models of the desired document onto this host's disk, in its order, and says how far each is."""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from rbee_runtime import logs
from rbee_runtime.errors import (
    DiskFullError,
    ModelFormatError,
    ModelStoreError,
    QuarantinedError,
    RbeeError,
    ReferenceFormError,
)
from rbee_runtime.hive.decisions import ModelState
from rbee_runtime.hive.headers import Headers
from rbee_runtime.models.progress import Progress
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.references import Scheme, parse_source
from rbee_runtime.models.sources import TransientError
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import FetchReport, ModelReport, ModelSpec
from rbee_runtime.states import FETCH_TRANSITIONS, FetchState

AT_ONCE = 2
"""A second one, so that a small model need not wait for a download of hours.

Files of this host and the rest have so many each: a mounted disk that hangs then delays no download.
"""

TOUCH_SECONDS = 60.0
SWEEP_SECONDS = 3600.0

_AGAIN: dict[FetchState, tuple[float, float]] = {
    FetchState.PARTIAL: (30.0, 600.0),
    FetchState.FAILED: (30.0, 600.0),
    FetchState.DISK_FULL: (600.0, 600.0),
    FetchState.QUARANTINED: (3600.0, 86400.0),
}
"""Seconds until the first next try and at most, doubled in between. A full disk is tried as soon as there is room."""

PATIENCE = 5.0
"""Seconds; a disk that takes longer for a look hangs, and nobody waits for it any more."""

_LOCAL_MOST = 120.0
"""A `file:` source costs nothing to look at, and a person who has just put the file there waits for it."""


@dataclass
class _Fetch:
    """One model that is not there: its present task, or when it is tried again (monotonic seconds)."""

    spec: ModelSpec
    progress: Progress
    task: asyncio.Task[None] | None = None
    failures: int = 0
    next_try: float = 0.0
    needed: int = 0

    def move(self, state: FetchState) -> None:
        before = self.progress.state
        if state is not before and state not in FETCH_TRANSITIONS[before]:
            raise ValueError(f"model {self.spec.name} cannot go from {before} to {state}")
        self.progress.state = state


class Fetching:
    """State of each model that the document names; `changed` is called when one of them moves on."""

    def __init__(
        self,
        store: ModelStore,
        *,
        clock: Callable[[], float],
        changed: Callable[[], None],
        puller: Puller | None = None,
    ) -> None:
        self.store = store
        self._headers = Headers(store)
        self._clock = clock
        self._changed = changed
        self._puller = puller or Puller(store, clock=clock)
        self._turns = {here: asyncio.Semaphore(AT_ONCE) for here in (True, False)}
        self._fetches: dict[str, _Fetch] = {}
        self._kept: frozenset[str] = frozenset()
        self._unpinned: set[str] = set()
        self._unleased = False
        self._leased: frozenset[str] = frozenset()
        self._touched = self._swept = float("-inf")
        self._begun: float | None = None
        self._free: int | None = None
        self._damage: dict[str, str] = {}
        self.models: dict[str, ModelState] = {}
        self.reports: tuple[ModelReport, ...] = ()

    @property
    def fetches(self) -> tuple[FetchReport, ...]:
        """Return how far each model is that is wanted and not there."""
        return tuple(self._report(fetch) for fetch in self._fetches.values())

    def _report(self, fetch: _Fetch) -> FetchReport:
        found = fetch.progress.report()
        after = fetch.next_try - self._clock() if found.state in _AGAIN and fetch.task is None else 0.0
        detail = self.silence or self._told(found.name, found.detail)
        return replace(found, detail=detail, next_try=round(max(0.0, after), 3))

    def _told(self, name: str, detail: str) -> str:
        """Return what is said of a model that is not there, after what is wrong with its manifest."""
        return "; ".join(text for text in (self._damage.get(name, ""), detail) if text)

    @property
    def silence(self) -> str:
        """Return for how long the disk has not answered the look that runs, "" while that is not yet long."""
        seconds = self._clock() - self._begun if self._begun is not None else 0.0
        return silent(f"the model store {self.store.layout.root}", seconds) if seconds >= PATIENCE else ""

    def free(self) -> int:
        """Return the free bytes that the last look found, or raise ModelStoreError if it found no disk."""
        if self._free is None:
            raise ModelStoreError(f"the free space of {self.store.layout.root} is not known")
        return self._free

    async def look(
        self, wanted: Sequence[ModelSpec], in_use: Collection[str] = (), pins: Collection[str] | None = None
    ) -> None:
        """Compare the disk with what is wanted and start what is missing; does not wait for it.

        `in_use` are names of models that workers run with: like the wanted ones they are never collected. `pins` are
        the names that the inventory pins on any host, None where nobody said.
        """
        self._kept = frozenset({*in_use, *(spec.name for spec in wanted)})
        self._begun = self._clock()
        try:
            found, self.reports = await self.store.layout.threads.looks.run(self._read_disk, wanted, pins)
        finally:
            self._begun = None
        await self._forget({spec.name: spec for spec in wanted if spec.name not in found})
        self.models = {spec.name: self._state(spec, found.get(spec.name)) for spec in wanted}

    def retry(self, name: str) -> bool:
        """Try a model that could not be fetched again at once, whatever the schedule says; False if none waits."""
        fetch = self._fetches.get(name)
        if fetch is None:
            return False
        fetch.next_try, fetch.failures = float("-inf"), 0
        self._changed()
        return True

    async def close(self) -> None:
        """Stop every fetch and whatever reads whole files; what came so far is kept for the next start."""
        self.store.layout.threads.halted.set()
        await self._forget({})

    def _read_disk(
        self, wanted: Sequence[ModelSpec], pins: Collection[str] | None
    ) -> tuple[dict[str, ModelState], tuple[ModelReport, ...]]:
        now, kept = self._clock(), self._kept
        self._free = self._measured()
        here = frozenset(name for name in kept if self.store.layout.manifest(name).exists())
        if now - self._touched >= TOUCH_SECONDS or here - self._leased:
            # Before it is told ready: from here on no hive on the same disk removes it. Any may be on its way as well,
            # since its manifest may be of another version than the wanted one.
            self._lease(here, kept)
        if now - self._touched >= TOUCH_SECONDS:
            self._touched = now
            self._look_after(kept)
        found = {spec.name: self.store.find(spec) for spec in wanted}
        self._damage = {name: self.store.damage(name) for name, report in found.items() if report is None}
        for spec in wanted:
            if found[spec.name] is not None:
                self._pin(spec.name, pinned=spec.pin)
        for name in self._unwanted_pins(pins):
            self._pin(name, pinned=False)
        ready = {name: self._ready(report) for name, report in found.items() if report is not None}
        return ready, self._headers.tell(self.store.reports())

    def _unwanted_pins(self, pins: Collection[str] | None) -> frozenset[str]:
        if pins is None:
            return frozenset()
        try:
            return self.store.pins.of_inventory().difference(pins)
        except RbeeError:
            # Said where a wanted model is to be pinned; who cannot read pins removes nothing.
            return frozenset()

    def _pin(self, name: str, *, pinned: bool) -> None:
        try:
            self.store.pins.by_inventory(name, pinned=pinned)
        except RbeeError as error:
            # A store that cannot be written loses nothing either; its models serve.
            if name not in self._unpinned:
                logs.warning("model_pin_not_set", model=name, pin=pinned, detail=error)
            self._unpinned.add(name)

    def _lease(self, here: frozenset[str], coming: frozenset[str]) -> None:
        self._leased = here
        try:
            self.store.leases.keep(here, coming)
        except RbeeError as error:
            # A store that cannot be written serves; the docstring of `leases` says what that means for neighbours.
            if not self._unleased:
                logs.warning("model_store_not_leased", detail=error)
            self._unleased = True
        else:
            self._unleased = False

    def _measured(self) -> int | None:
        try:
            return self.store.layout.free()
        except ModelStoreError:
            return None

    def _look_after(self, kept: frozenset[str]) -> None:
        """Note what is in use, and let go what is over the quota or was abandoned."""
        try:
            self.store.touch(kept)
            for name in self.store.collect(kept):
                logs.info("model_collected", model=name)
            if self._touched - self._swept >= SWEEP_SECONDS:
                self._swept = self._touched
                self.store.sweep()
        except RbeeError as error:
            logs.warning("model_store_not_tidied", detail=error)

    def _ready(self, report: ModelReport) -> ModelState:
        path = str(self.store.engine_path(report))
        return ModelState(
            ready=True,
            path=path,
            basis=_content(report),
            stamp=self.store.stamp(report),
            size=report.size,
            facts=self.store.facts(report.name),
        )

    async def _forget(self, missing: dict[str, ModelSpec]) -> None:
        """Stop what is not wanted any more, or wanted otherwise."""
        gone = [name for name, fetch in self._fetches.items() if not _is_same(missing.get(name), fetch.spec)]
        for name, fetch in self._fetches.items():
            fetch.spec = missing.get(name, fetch.spec)
        if gone:
            self._claimed_less()
        tasks = [task for name in gone if (task := self._fetches.pop(name).task) is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            # Those that wait for a disk which hangs end when it answers, and nothing waits for them.
            await asyncio.wait(tasks, timeout=PATIENCE)

    def _claimed_less(self) -> None:
        """Try those again that did not fit: what another fetch had claimed may be theirs now."""
        for fetch in self._fetches.values():
            if fetch.progress.state is FetchState.DISK_FULL:
                fetch.next_try = min(fetch.next_try, self._clock())

    def _state(self, spec: ModelSpec, found: ModelState | None) -> ModelState:
        if found is not None:
            return found
        try:
            scheme = parse_source(spec.source).scheme
        except ReferenceFormError as error:
            return ModelState(ready=False, said=str(error))
        if scheme is Scheme.FAKE:
            return ModelState(ready=True, basis=_short(spec.source))
        fetch = self._fetches.setdefault(spec.name, _Fetch(spec, Progress(spec.name, self._clock)))
        if fetch.task is None and self._is_due(fetch):
            fetch.move(FetchState.WAITING)
            fetch.task = asyncio.create_task(self._fetch(fetch))
        return ModelState(ready=False, said=self._told(spec.name, _said(fetch.progress)))

    def _is_due(self, fetch: _Fetch) -> bool:
        if fetch.progress.state is FetchState.DISK_FULL and fetch.needed and self._has_room(self._free, fetch.needed):
            return True
        return self._clock() >= fetch.next_try

    def _has_room(self, free: int | None, needed: int) -> bool:
        """Say whether the disk has room; where it had when it was refused, a quota is full, and room says nothing."""
        return free is not None and free >= needed + self.store.settings.spare

    async def _fetch(self, fetch: _Fetch) -> None:
        progress = fetch.progress = Progress(fetch.spec.name, self._clock)
        try:
            async with self._turns[_is_here(fetch.spec)]:
                await self._puller.pull(fetch.spec, keep=self._kept, progress=progress)
        except RbeeError as error:
            await self._failed(fetch, error)
        except Exception as error:  # noqa: BLE001 - a surprise of some client library is this model's trouble alone
            await self._failed(fetch, ModelStoreError(f"model {fetch.spec.name}: {type(error).__name__}: {error}"))
        else:
            fetch.move(FetchState.READY)
            logs.info("model_ready", model=fetch.spec.name, bytes=progress.done)
        finally:
            fetch.task = None
        self._changed()

    async def _failed(self, fetch: _Fetch, error: RbeeError) -> None:
        progress = fetch.progress
        state = _outcome(error, progress)
        if state not in FETCH_TRANSITIONS[progress.state]:
            # Such as a source that is gone just when wrong content is to be fetched again.
            state = FetchState.FAILED
        fetch.move(state)
        if progress.detail != str(error):
            logs.warning("model_not_taken_in", model=fetch.spec.name, state=state, detail=error)
        progress.detail = str(error)
        first, most = _AGAIN[state]
        if _is_here(fetch.spec):
            first, most = min(first, _LOCAL_MOST), min(most, _LOCAL_MOST)
        if isinstance(error, DiskFullError):
            free = await self.store.layout.threads.work.run(self._measured)
            fetch.needed = 0 if self._has_room(free, error.needed) else error.needed
        else:
            fetch.needed = 0
            self._claimed_less()
        fetch.next_try = self._clock() + min(most, first * 2**fetch.failures)
        fetch.failures = min(fetch.failures + 1, 16)


def silent(what: str, seconds: float) -> str:
    """Return the sentence about a disk that hangs; it changes only every ten seconds, because each change is told."""
    told = seconds if seconds < 10 else seconds // 10 * 10
    return f"{what} has not answered for {told:.0f} s"


def _is_here(spec: ModelSpec) -> bool:
    return parse_source(spec.source).scheme is Scheme.FILE


def _is_same(wanted: ModelSpec | None, fetched: ModelSpec) -> bool:
    """Say whether it is the same content; who else has it changes while it comes, and counts for the next try."""
    return wanted is not None and replace(wanted, pin=fetched.pin, holders=fetched.holders) == fetched


def _outcome(error: RbeeError, progress: Progress) -> FetchState:
    if isinstance(error, DiskFullError):
        return FetchState.DISK_FULL
    # Fetching it again would bring the same, so it waits as long as wrong content does.
    if isinstance(error, QuarantinedError) or (isinstance(error, ModelFormatError) and _is_judged(progress)):
        return FetchState.QUARANTINED
    return FetchState.PARTIAL if isinstance(error, TransientError) and progress.done else FetchState.FAILED


def _is_judged(progress: Progress) -> bool:
    return progress.state is FetchState.VERIFYING


def _said(progress: Progress) -> str:
    name, report = progress.name, progress.report()
    if progress.state in {FetchState.WAITING, FetchState.VERIFYING}:
        return f"model {name} is {progress.state.value}"
    if progress.state is not FetchState.FETCHING:
        return progress.detail
    share = f": {100 * report.done // report.total} % of {report.total / 1e6:.0f} MB" if report.total else ""
    left = f", {report.eta:.0f} s left" if report.eta is not None else ""
    return f"model {name} is being fetched and verified{share}{left}"


def _content(report: ModelReport) -> str:
    return _short(",".join(sorted(file.sha256 for file in report.files)))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
