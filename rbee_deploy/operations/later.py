"""Arguments of operations that are known only once the host has been read."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def now(value: T | Callable[[], T]) -> T:
    """Return the value, asking for it if it had to wait."""
    return value() if callable(value) else value
