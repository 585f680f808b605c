"""What each hive on a shared store uses, said on the disk, so that no other hive removes it.

uses/<slug>.<hive>        this hive has the model wanted or in a running worker; its time is the heartbeat
uses/<slug>.<hive>.pull   this hive is bringing the model; the content names the blobs that it counts on

absent → fresh     `keep` and `pull`, under locks/uses.lock, before the model is told ready or its blobs are counted on
fresh → fresh      `keep` every minute
fresh → absent     the model is not used any more, or the pull succeeded, or failed and will not be tried again
fresh → stale      LEASE_SECONDS without a heartbeat: the hive is gone, or cannot write the disk
stale → absent     whoever removes the model

Whoever removes a model holds the same lock, so that a lease is seen or its holder finds the model gone. A hive that
ends leaves its leases, because its workers go on; a store that a hive can only read has none of its: pin its models.
Clocks of the hosts may differ by less than LEASE_SECONDS.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from rbee_runtime.models import locks
from rbee_runtime.models.layout import Layout, sentences
from rbee_runtime.models.references import check_name, slug
from rbee_runtime.protocol import decode

LEASE_SECONDS = 3600.0
"""Longer than a hive may be away while its workers serve: an upgrade, a reboot, a repair."""

_PULL = "pull"


class _Lease(NamedTuple):
    slug: str
    holder: str
    pull: bool
    path: Path


class Leases:
    """Those of one store as `holder`, a name that no other process on it has. `clock` is unix seconds. Blocks."""

    def __init__(self, layout: Layout, holder: str, *, clock: Callable[[], float]) -> None:
        digest = hashlib.sha256(holder.encode()).hexdigest()[:8]
        self._holder = f"{slug(holder)}-{digest}"
        self._layout = layout
        self._clock = clock
        self._pulls: set[Path] = set()

    @property
    def lock(self) -> Path:
        """Return the lock under which leases are taken and models removed."""
        return self._layout.locks / "uses.lock"

    def keep(self, names: Collection[str], coming: Collection[str] = ()) -> None:
        """Hold leases on exactly these models, and on what is being pulled; ModelStoreError if that fails.

        `coming` are models that may still be pulled: what a try that failed counted on stays for the next one.
        """
        wanted, waiting = {self._path(name) for name in names}, {self._path(name, _PULL) for name in coming}
        if not wanted and not self._layout.uses.is_dir():
            return
        with locks.brief(self.lock):
            with sentences(f"cannot make {self._layout.uses}"):
                self._layout.uses.mkdir(mode=0o700, exist_ok=True)
            for path in wanted:
                self._write(path)
            wanted.update(pulls := (*self._pulls, *waiting))
            for path in pulls:
                self._beat(path)
            for lease in self._leases(fresh=False):
                if lease.holder == self._holder and lease.path not in wanted:
                    lease.path.unlink(missing_ok=True)

    def pull(self, name: str, blobs: Collection[str]) -> None:
        """Have these blobs (sha256s) stay until `pulled`, whatever happens to the models that they belong to."""
        path = self._path(name, _PULL)
        with locks.brief(self.lock):
            # In here, because `keep` removes what it does not find among them.
            self._pulls.add(path)
            # Also an empty list: of what an earlier try counted on, this one may have no use.
            self._write(path, blobs)

    def paused(self, name: str) -> None:
        """Leave what `pull` said to the next `keep`, which knows whether there will be another try."""
        self._pulls.discard(self._path(name, _PULL))

    def pulled(self, name: str) -> None:
        """Give up what `pull` said."""
        path = self._path(name, _PULL)
        self._pulls.discard(path)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

    def others(self) -> dict[str, str]:
        """Return which models other hives use: slug to holder."""
        return {lease.slug: lease.holder for lease in self._leases() if lease.holder != self._holder}

    def blobs(self) -> frozenset[str]:
        """Return the blobs that pulls count on, this hive's too."""
        found: set[str] = set()
        for lease in self._leases():
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                found.update(decode(lease.path.read_bytes(), list[str]) if lease.pull else ())
        return frozenset(found)

    def drop_all(self, name: str) -> None:
        """Remove what is left of every lease on a model that goes."""
        for lease in self._leases(fresh=False):
            if lease.slug == slug(name) and not lease.pull:
                lease.path.unlink(missing_ok=True)

    def _path(self, name: str, *more: str) -> Path:
        return self._layout.uses / ".".join((slug(check_name(name)), self._holder, *more))

    def _write(self, path: Path, blobs: Collection[str] | None = None) -> None:
        """Take or renew a lease; a list of blobs replaces what it said."""
        with sentences(f"cannot write {path}"):
            if blobs is not None or not path.exists():
                # Nothing has to outlast a crash: who comes back takes its leases anew.
                draft = path.with_name(f".{path.name}.{os.getpid()}")
                draft.write_bytes(msgspec.json.encode(sorted(blobs or ())))
                draft.replace(path)
            self._beat(path)

    def _beat(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (self._clock(), self._clock()))

    def _leases(self, *, fresh: bool = True) -> Iterator[_Lease]:
        for path in sorted(self._layout.uses.glob("[!.]*.*")):
            name, holder, *more = path.name.split(".")
            with contextlib.suppress(FileNotFoundError):
                if not fresh or self._clock() - path.stat().st_mtime < LEASE_SECONDS:
                    yield _Lease(name, holder, more == [_PULL], path)
