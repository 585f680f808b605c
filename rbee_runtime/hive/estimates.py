"""What workers were seen to take at most, kept over restarts: `<state_dir>/estimates.json`."""

from pathlib import Path

import msgspec

from rbee_runtime import durable, logs
from rbee_runtime.errors import StateError
from rbee_runtime.hive import state_files
from rbee_runtime.protocol import Message, encode

SCHEMA = 1
GROWTH = 1.01
"""A peak that rose by less is not worth a write."""

SAVE_SECONDS = 30.0
MOST = 2000
"""Far more combinations than a host ever runs; beyond it the oldest go."""


class Peaks(Message, frozen=True, kw_only=True):
    """The file: bytes per device by `key`."""

    schema: int = SCHEMA
    peaks: dict[str, int] = msgspec.field(default_factory=dict)


def key(
    *, content: str, engine: str, context: int, slots: int, device: str, options: str = "", devices: int = 1
) -> str:
    """Return what memory depends on, with the device's name last.

    Model content, engine, tokens per sequence, sequences, how many devices share it, and a mark of the engine's
    options: all of them count, because only the engine knows which ones take memory. One device and no options is the
    form that files of earlier versions have.
    """
    launch = [part for part in (f"x{devices}" if devices > 1 else "", f"o-{options}" if options else "") if part]
    return "/".join([content, engine, str(context), str(slots), *launch, device])


class Estimates:
    """Peaks by key. A file that cannot be used costs what was learnt, a disk that cannot be written nothing.

    `trouble` is why the file is not followed, until it is written again, or "".
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "estimates.json"
        kept, self.trouble = state_files.read(
            self._path,
            Peaks,
            newest=SCHEMA,
            until_then="estimates of memory begin anew",
        )
        self._peaks = dict(kept.peaks) if kept is not None else {}
        self._changed = False
        self._due = 0.0

    def peak(self, name: str) -> int | None:
        """Return the most bytes that were seen, or None."""
        return self._peaks.get(name)

    def observe(self, name: str, size: int) -> None:
        """Take a measured size into account."""
        if size > self._peaks.get(name, 0) * GROWTH:
            self._peaks.pop(name, None)
            self._peaks[name] = size
            self._changed = True
            if len(self._peaks) > MOST:
                del self._peaks[next(iter(self._peaks))]

    def save(self, *, now: float) -> None:
        """Write what is new, at most every half minute."""
        if not self._changed or now < self._due:
            return
        self._due = now + SAVE_SECONDS
        try:
            durable.write(self._path, encode(Peaks(peaks=self._peaks)))
        except StateError as error:
            logs.warning("estimates_not_written", detail=error)
        else:
            self._changed = False
            self.trouble = ""
