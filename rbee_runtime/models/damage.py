"""Manifests that are there and cannot be used: who looks every few seconds says so once per file and change."""

import threading
from pathlib import Path

from rbee_runtime import logs


class Damaged:
    """What is wrong with manifests of one store, as the last look at each found it."""

    def __init__(self) -> None:
        self._said: dict[Path, tuple[object, str]] = {}
        self._lock = threading.Lock()

    def of(self, manifest: Path) -> str:
        """Return the sentence about a manifest, "" if nothing is wrong with it."""
        with self._lock:
            return self._said.get(manifest, (None, ""))[1]

    def first(self) -> str:
        """Return the sentence about one manifest, "" if nothing is wrong with all of them."""
        with self._lock:
            return next((said for _, said in self._said.values()), "")

    def sound(self, manifest: Path) -> None:
        """Note that a manifest can be used, or is not there."""
        with self._lock:
            self._said.pop(manifest, None)

    def found(self, manifest: Path, error: Exception) -> None:
        """Note what is wrong with a manifest, and log it where that is news."""
        if isinstance(error, OSError):
            what, hint = f"cannot be read ({error.strerror})", "mend the disk or the owner of the file"
        else:
            what, hint = f"is damaged ({error})", "remove the file if the model is not wanted any more"
        said = f"the manifest {manifest} {what}, so that its model is fetched again where its source has it; {hint}"
        news = (_stamp(manifest), said)
        with self._lock:
            known, self._said[manifest] = self._said.get(manifest), news
        if known != news:
            logs.warning("model_manifest_damaged", detail=said)


def _stamp(path: Path) -> object:
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)
