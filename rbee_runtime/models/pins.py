"""Models that stay on disk whatever needs room, and who wants that: a person, or the inventories of some hives.

pins.json             all of them
pins-inventory.json   those that no person pinned, each with the hives whose inventories say `pin`

What a person pins is theirs until a person unpins it; the rest goes with the last inventory that says so.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models import locks
from rbee_runtime.models.layout import Layout
from rbee_runtime.models.references import check_name
from rbee_runtime.protocol import decode

T = TypeVar("T")


class Pins:
    """Those of one store as the hive `holder` sees them. `write` makes a file last, or raises ModelStoreError."""

    def __init__(self, layout: Layout, holder: str, write: Callable[[Path, bytes], None]) -> None:
        self._layout = layout
        self._holder = holder
        self._write = write

    def known(self) -> frozenset[str]:
        """Return the pinned names, or raise ModelStoreError: who cannot read them must remove and overwrite nothing."""
        return frozenset(_read(self._layout.pins, list[str], []))

    def by_person(self, name: str, *, pinned: bool) -> None:
        """Pin a model until a person unpins it, or unpin it."""
        check_name(name)
        if (name in self.known()) == pinned and name not in self._asked():
            return
        with locks.brief(self._lock):
            asked, pins = self._asked(), self.known()
            if asked.pop(name, None) is not None:
                self._note(asked)
            self._set(pins, name, pinned=pinned)

    def by_inventory(self, name: str, *, pinned: bool) -> None:
        """Pin a model while this hive's inventory says so; what a person pinned stays as it is."""
        if self._is_said(name, pinned=pinned):
            return
        with locks.brief(self._lock):
            if self._is_said(name, pinned=pinned):
                return
            asked, pins = self._asked(), self.known()
            others = set(asked.pop(name, ())) - {self._holder}
            # Said before it is pinned and until after it is not, so that an accident in between is put right.
            if pinned:
                self._note({**asked, name: sorted({*others, self._holder})})
            self._set(pins, name, pinned=pinned or bool(others))
            if not pinned:
                self._note({**asked, **({name: sorted(others)} if others else {})})

    def of_inventory(self) -> frozenset[str]:
        """Return the names that this hive's inventory pins."""
        return frozenset(name for name, holders in self._asked().items() if self._holder in holders)

    @property
    def _lock(self) -> Path:
        return self._layout.locks / "pins.lock"

    def _is_said(self, name: str, *, pinned: bool) -> bool:
        asked = self._asked().get(name)
        if not pinned:
            return asked is None or self._holder not in asked
        return name in self.known() and (asked is None or self._holder in asked)

    def _asked(self) -> dict[str, list[str]]:
        return _read(self._layout.pins_asked, dict[str, list[str]], {})

    def _note(self, asked: dict[str, list[str]]) -> None:
        self._write(self._layout.pins_asked, msgspec.json.encode(asked, order="sorted"))

    def _set(self, pins: frozenset[str], name: str, *, pinned: bool) -> None:
        if (name in pins) != pinned:
            self._write(self._layout.pins, msgspec.json.encode(sorted(pins | {name} if pinned else pins - {name})))


def _read(path: Path, kind: type[T], otherwise: T) -> T:
    try:
        return decode(path.read_bytes(), kind)
    except FileNotFoundError:
        return otherwise
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelStoreError(f"cannot read {path}: {error}; mend or remove it") from error
