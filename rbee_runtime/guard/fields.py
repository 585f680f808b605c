"""Reading a JSON object field by field, so that what nobody asked for is found and refused by its name."""

import json
import re
from collections.abc import Collection
from typing import Any

from rbee_runtime.errors import GuardError


class Fields:
    """One object of a request; `where` is its path in the body, "" for the body itself."""

    def __init__(self, value: Any, where: str = "") -> None:
        if not isinstance(value, dict):
            raise GuardError(f"{where or 'the body'} is no object: send one")
        self._left: dict[str, Any] = dict(value)
        self._where = where

    def path(self, name: str) -> str:
        """Return the name of a field as it is told."""
        shown = name if re.fullmatch(r"[A-Za-z0-9_./-]{1,80}", name) else ascii(name)[:80]
        return f"{self._where}.{shown}" if self._where else shown

    def take(self, name: str) -> Any:
        """Return the value of a field, None if it is not there."""
        return self._left.pop(name, None)

    def same(self, name: str, wanted: Any) -> None:
        """Check that a field has exactly this value."""
        if not same(self.take(name), wanted):
            raise GuardError(f"{self.path(name)} is not what a worker's container has: set it to {json.dumps(wanted)}")

    def text(self, name: str, pattern: str) -> str:
        """Return a string of this form."""
        value = self.take(name)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise GuardError(f"{self.path(name)} is not of the form {pattern}: it is {_shown(value)}")
        return value

    def one_of(self, name: str, known: Collection[str]) -> str:
        """Return a string that is one of these."""
        value = self.take(name)
        if not isinstance(value, str) or value not in known:
            raise GuardError(f"{self.path(name)} is {_shown(value)}: use one of {', '.join(known)}")
        return value

    def whole(self, name: str, least: int, most: int) -> int:
        """Return a whole number within bounds."""
        value = self.take(name)
        if type(value) is not int or not least <= value <= most:
            raise GuardError(f"{self.path(name)} is {_shown(value)}: use a whole number of {least} to {most}")
        return value

    def items(self, name: str, *, fewest: int = 0, most: int) -> list[Any]:
        """Return a list of so many values, an empty one if it is not there."""
        value = self.take(name)
        found = [] if value is None else value
        if not isinstance(found, list) or not fewest <= len(found) <= most:
            raise GuardError(f"{self.path(name)} is not a list of {fewest} to {most} values")
        return found

    def objects(self, name: str, *, fewest: int = 0, most: int) -> list["Fields"]:
        """Return the objects of a list."""
        found = self.items(name, fewest=fewest, most=most)
        return [Fields(each, f"{self.path(name)}[{index}]") for index, each in enumerate(found)]

    def inner(self, name: str) -> "Fields":
        """Return an object within this one; one that is not there is empty."""
        value = self.take(name)
        return Fields({} if value is None else value, self.path(name))

    def end(self) -> None:
        """Check that what is left says nothing."""
        for name, value in self._left.items():
            if value:
                raise GuardError(f"{self.path(name)} is set, and no worker's container may have it: leave it out")


def same(value: Any, wanted: Any) -> bool:
    """Say whether two JSON values are equal, which true and 1 are not."""
    return json.dumps(value, sort_keys=True) == json.dumps(wanted, sort_keys=True)


def _shown(value: Any) -> str:
    return "not there" if value is None else ascii(value)[:80]
