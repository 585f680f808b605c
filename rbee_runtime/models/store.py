"""Models on this host's disk: what is there, what it is used for, and what goes.

A model is there if its manifest names blobs that exist with the right size; content is verified when it enters the
store and on demand. Everything here may take long on a network disk: call it from a thread.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from rbee_runtime import durable
from rbee_runtime.config import StoreSettings
from rbee_runtime.errors import DiskFullError, ModelInUseError, ModelStoreError, ReferenceFormError, StateError
from rbee_runtime.models import collect, digests, locks, room, sweep, views
from rbee_runtime.models.damage import Damaged
from rbee_runtime.models.layout import BLOB_MODE, Layout, sentences
from rbee_runtime.models.leases import LEASE_SECONDS, Leases
from rbee_runtime.models.pins import Pins
from rbee_runtime.models.references import check_file_name, check_name, identity, slug
from rbee_runtime.protocol import ModelFile, ModelReport, ModelSpec, decode, encode


class ModelStore:
    """One host's store, or one that several hosts share. `clock` is unix seconds.

    `holder` is who uses models here, as other hives on the same disk see it; "" is this process.
    """

    def __init__(
        self,
        root: Path,
        settings: StoreSettings | None = None,
        *,
        holder: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.layout = Layout(root)
        self.settings = settings or StoreSettings()
        holder = holder or f"{socket.gethostname()}-{os.getpid()}"
        self.leases = Leases(self.layout, holder, clock=clock)
        self.pins = Pins(self.layout, holder, self._write)
        self.claims = room.Claims()
        self._damaged = Damaged()
        self._clock = clock

    def path_of(self, file: ModelFile) -> Path:
        """Return where a file's content is, whether or not it is there."""
        return self.layout.blob(file.sha256)

    def engine_path(self, report: ModelReport) -> Path:
        """Return what an engine is given: a file, or a folder in which the files have their names."""
        return views.engine_path(self.layout, report, main=str(self.facts(report.name).get("main", "")))

    def find(self, spec: ModelSpec) -> ModelReport | None:
        """Return the model if it is complete, of this source and, where the spec names files, exactly those."""
        report = self._read(self.layout.manifest(spec.name))
        if report is None or report.name != spec.name or not self._complete(report):
            return None
        if spec.files:
            wanted = {(file.sha256, file.size) for file in spec.files}
            return report if wanted == {(file.sha256, file.size) for file in report.files} else None
        return report if report.source in {"", identity(spec.source)} else None

    def named(self, name: str) -> ModelReport | None:
        """Return the complete model of this name, or None."""
        report = self._read(self.layout.manifest(name))
        return report if report is not None and report.name == name and self._complete(report) else None

    def damage(self, name: str) -> str:
        """Return what the last look found wrong with the manifest of a model, "" for nothing."""
        return self._damaged.of(self.layout.manifest(name))

    def reports(self) -> tuple[ModelReport, ...]:
        """Return every complete model."""
        return tuple(report for report in self._all() if self._complete(report))

    def manifests(self) -> tuple[ModelReport, ...]:
        """Return every model that has a manifest, also where content is missing."""
        return tuple(self._all())

    def now(self) -> float:
        """Return the time in unix seconds."""
        return self._clock()

    def stamp(self, report: ModelReport) -> str:
        """Return a text that changes when a file of the model is written again; "" if one went away meanwhile."""
        try:
            stats = [self.path_of(file).stat() for file in report.files]
        except OSError:
            return ""
        return ",".join(f"{stat.st_ino}-{stat.st_mtime_ns}" for stat in stats)

    def facts(self, name: str) -> dict[str, Any]:
        """Return what the model's header says, as `formats` read it when it came; empty if unknown."""
        try:
            found = decode((self.layout.facts / f"{slug(check_name(name))}.json").read_bytes(), object)
        except (OSError, msgspec.MsgspecError):
            return {}
        return found if isinstance(found, dict) else {}

    def check_is_ours(self, name: str) -> None:
        """Raise ModelStoreError if the manifest that this name would have belongs to another model."""
        held = self._read(self.layout.manifest(name))
        if held is not None and held.name != name:
            raise ModelStoreError(
                f"models {name} and {held.name} would share {self.layout.manifest(name)}; rename one of them"
            )

    def commit(self, report: ModelReport, facts: object = None) -> None:
        """Make a model visible whose content is all there."""
        check_files(report.files)
        if len(report.files) > 1:
            views.build(self.layout, report)
        self._write(self.layout.facts / f"{slug(report.name)}.json", msgspec.json.encode(facts or {}))
        self.touch([report.name])
        self._write(self.layout.manifest(report.name), encode(report))

    def touch(self, names: Iterable[str]) -> None:
        """Note that these models are in use now; a store that cannot be written has nothing collected either."""
        # Also in a store that came ready-made: else a neighbour that shares it would take them for unused.
        with contextlib.suppress(OSError):
            self.layout.uses.mkdir(mode=0o700, exist_ok=True)
        for name in names:
            path = self.layout.uses / slug(check_name(name))
            with contextlib.suppress(OSError):
                path.touch(mode=0o600)
                os.utime(path, (self._clock(), self._clock()))

    def pin(self, name: str, *, pinned: bool) -> None:
        """Keep a model from collection, or stop that."""
        self.pins.by_person(name, pinned=pinned)

    def make_room(self, size: int, keep: Collection[str]) -> None:
        """Remove models until `size` bytes fit, or raise DiskFullError and remove none.

        What another hive uses stays, and so do the blobs that a pull counts on (see `leases.py`).
        """
        self.pins.known()
        with locks.brief(self.leases.lock):
            self._make_room(size, keep)

    def reserve(self, model: str, sizes: Mapping[str, int], keep: Collection[str]) -> None:
        """Make room for files that a pull of `model` brings, by their names on the way, until `claims.drop`."""
        if not sizes:
            return
        self.pins.known()
        with locks.brief(self.leases.lock):
            size = room.to_come(self.layout, sizes, self.claims.sizes())
            if size:
                self._make_room(size, keep, mine=sizes)
            self.claims.hold(model, sizes)

    def _make_room(self, size: int, keep: Collection[str], mine: Collection[str] = ()) -> None:
        """Do it for bytes that nothing claims yet; `mine` are files of which they are the rest."""
        # Leases first: a pull that ends in between has its manifest by the time these are read.
        leased = self.leases.blobs()
        reports, quota, claimed = tuple(self._all()), self.settings.quota, self.claims.sizes()
        short, limit = size + self.settings.spare - self.layout.free(), f"{self.settings.spare} bytes to spare"
        if (coming := room.to_come(self.layout, claimed, {}) - room.copied(self.layout)) > 0:
            short, limit = short + coming, f"{limit} and {coming} to come for other models"
        over = room.used(self.layout, reports, claimed) + size - quota if quota is not None else 0
        if over > max(short, 0):
            short, limit = over, f"the quota of {quota} bytes"
        if short <= 0:
            return
        rest, chosen = self._going(reports, keep, short, leased=leased, mine=mine)
        if not rest and not chosen:
            raise DiskFullError(
                f"{size} bytes do not fit in {self.layout.root} with {limit}: {short} are missing; "
                f"free space there, unpin or remove a model, or set models_dir to a larger disk{self._stray(reports)}",
                needed=size,
            )
        self._let_go(rest, chosen)

    def _stray(self, reports: Collection[ModelReport]) -> str:
        """Return what to know of files that are of no model, "" where there are none."""
        size, damage = sum(room.unnamed(self.layout, reports).values()), self._damaged.first()
        if not size:
            return ""
        later = "they go 15 minutes after they came, unless a pull counts on them"
        return f"; {size} bytes there may be of no model: {f'nobody can tell, because {damage}' if damage else later}"

    def collect(self, keep: Collection[str]) -> tuple[str, ...]:
        """Remove what is over the quota, as far as it may go; return the names of models."""
        self.pins.known()
        if self._over(tuple(self._all())) <= 0:
            return ()
        with locks.brief(self.leases.lock):
            # Read anew, and leases first as above: the lock may have been waited for while pulls ended.
            leased, reports = self.leases.blobs(), tuple(self._all())
            rest, chosen = self._going(reports, keep, self._over(reports), leased=leased, partly=True)
            self._let_go(rest, chosen)
        return tuple(report.name for report in chosen)

    def _over(self, reports: Sequence[ModelReport]) -> int:
        """Return by how many bytes the quota is passed, 0 or less for none."""
        quota = self.settings.quota
        return room.used(self.layout, reports, self.claims.sizes()) - quota if quota is not None else 0

    def _going(
        self,
        reports: Sequence[ModelReport],
        keep: Collection[str],
        needed: int,
        *,
        leased: Collection[str],
        mine: Collection[str] = (),
        partly: bool = False,
    ) -> tuple[list[Path], tuple[ModelReport, ...]]:
        """Return the leftovers and the models that go so that `needed` bytes come free; models only for the rest."""
        now, others = self._clock(), self.leases.others()
        held = {*mine, *self.claims.sizes(), *map(room.blob_key, leased)}
        rest: list[Path] = []
        for path, size in room.leftovers(self.layout, reports, wanted=keep, held=held, now=now):
            if needed <= 0:
                break
            rest.append(path)
            needed -= size
        if needed <= 0:
            return rest, ()
        used = {*keep, *(report.name for report in reports if slug(report.name) in others)}
        chosen = collect.victims(reports, keep=used, needed=needed, now=now, blobs=leased, partly=partly)
        return (rest, chosen) if chosen or partly else ([], ())

    def _let_go(self, rest: Iterable[Path], chosen: Iterable[ModelReport]) -> None:
        for path in rest:
            if path.parent == self.layout.partial:
                sweep.drop_part(self.layout, path)
            else:
                sweep.drop(path)
        for report in chosen:
            self._remove(report)

    def remove(self, name: str, in_use: Collection[str] = ()) -> int:
        """Remove a model and the content that no other one shares; return the bytes freed, or raise ModelStoreError."""
        if name in in_use:
            raise ModelInUseError(f"model {name} is in use by a worker; take it out of the inventory first")
        report = self._there(name)
        with locks.brief(self.leases.lock):
            holder = self.leases.others().get(slug(name))
            if holder is not None:
                raise ModelInUseError(
                    f"model {name} is in use by {holder}, which shares the store {self.layout.root}; take it out of "
                    f"that hive's models, or wait {LEASE_SECONDS / 60:g} minutes if that hive is gone for good"
                )
            return self._remove(report)

    def _remove(self, report: ModelReport) -> int:
        """Remove a model under the lock of the leases."""
        name = report.name
        with sentences(f"cannot remove model {name}"):
            # The manifest first: what has none is not there, whatever happens next.
            self.layout.manifest(name).unlink(missing_ok=True)
            for path in (self.layout.facts / f"{slug(name)}.json", self.layout.uses / slug(name)):
                path.unlink(missing_ok=True)
            self.leases.drop_all(name)
            views.drop(self.layout, name)
            # Leases first: a pull that ends in between has its manifest by the time these are read.
            shared = self.leases.blobs() | {file.sha256 for other in self._all() for file in other.files}
            return sum(self._dropped(file) for file in report.files if file.sha256 not in shared)

    def sweep(self) -> tuple[str, ...]:
        """Remove what interrupted work left here and no pull counts on; return the names."""
        # A store that no hive can write has nothing of the kind.
        if not os.access(self.layout.locks, os.W_OK):
            return ()
        with locks.brief(self.leases.lock):
            blobs = self.leases.blobs()
            return sweep.sweep(self.layout, self.manifests(), blobs=blobs, now=self._clock())

    def verify(self, name: str) -> tuple[str, ...]:
        """Hash every file of a model again; what is wrong goes to quarantine, and the model is then not there."""
        report = self._there(name)
        bad: list[str] = []
        for file in report.files:
            with sentences(f"cannot read {file.name} of model {name}"):
                blob = self.path_of(file)
                if blob.exists() and digests.sha256(blob, self.layout.threads.halted) == file.sha256:
                    continue
                bad.append(file.name)
                if blob.exists():
                    self.layout.prepare()
                    blob.replace(self.layout.quarantine / blob.name)
        return tuple(bad)

    def _there(self, name: str) -> ModelReport:
        """Return the model of this name, complete or not, or raise ModelStoreError."""
        report = self._read(self.layout.manifest(name))
        if report is None or report.name != name:
            raise ModelStoreError(f"model {name} is not in the store {self.layout.root}")
        return report

    def _dropped(self, file: ModelFile) -> int:
        (self.layout.chunks / f"sha256-{file.sha256}.json").unlink(missing_ok=True)
        try:
            self.path_of(file).unlink()
        except FileNotFoundError:
            return 0
        return file.size

    def _write(self, path: Path, data: bytes) -> None:
        try:
            durable.write(path, data, mode=BLOB_MODE)
        except StateError as error:
            raise ModelStoreError(str(error)) from error

    def _all(self) -> Iterable[ModelReport]:
        found = (self._read(path) for path in sorted(self.layout.manifests.glob("*.json")))
        return (report for report in found if report is not None)

    def _pins(self) -> frozenset[str]:
        try:
            return self.pins.known()
        except ModelStoreError:
            return frozenset()

    def _read(self, path: Path) -> ModelReport | None:
        try:
            report = decode(path.read_bytes(), ModelReport)
            check_name(report.name)
            check_files(report.files)
        except FileNotFoundError:
            self._damaged.sound(path)
            return None
        except (OSError, msgspec.MsgspecError, ReferenceFormError) as error:
            self._damaged.found(path, error)
            return None
        self._damaged.sound(path)
        return msgspec.structs.replace(
            report,
            source=identity(report.source),
            pinned=report.name in self._pins(),
            last_used=self._last_used(report),
        )

    def _last_used(self, report: ModelReport) -> float:
        for path in (self.layout.uses / slug(report.name), self.layout.manifest(report.name)):
            with contextlib.suppress(OSError):
                return path.stat().st_mtime
        return 0.0

    def _complete(self, report: ModelReport) -> bool:
        return bool(report.files) and all(self.has(file) for file in report.files)

    def has(self, file: ModelFile) -> bool:
        """Say whether a file's content is there."""
        try:
            return self.path_of(file).stat().st_size == file.size
        except OSError:
            return False


def check_files(files: Sequence[ModelFile]) -> None:
    """Raise ReferenceFormError unless hashes are hashes and the names of several files can become paths."""
    for file in files:
        if not digests.is_sha256(file.sha256):
            raise ReferenceFormError(f"{file.sha256[:100]!r} is not allowed as a sha256: it has 64 hex digits")
        if len(files) > 1:
            check_file_name(file.name)
