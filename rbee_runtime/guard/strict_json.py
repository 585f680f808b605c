"""JSON that has one meaning only: no name twice, no number without end, no depth without end."""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

DEPTH = 16
DIGITS = 18
"""Fits into 64 bits; the engines would read more in ways of their own."""


def loads(data: bytes) -> Any:
    """Return the value of a document, or raise ValueError with the end of a sentence that starts with the document."""
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=_broken,
            parse_constant=_broken,
        )
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error}") from None
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _look_into(value, DEPTH)
    return value


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"has {ascii(name)[:80]} twice in one object")
        found[name] = value
    return found


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"has a number of more than {DIGITS} digits")
    return int(digits)


def _broken(text: str) -> NoReturn:
    raise ValueError(f"has {text[:80]}, and only whole numbers are taken")


def _look_into(value: Any, left: int) -> None:
    if not isinstance(value, dict | list):
        return
    if left == 0:
        raise ValueError(_too_deep())
    for inner in value.values() if isinstance(value, dict) else value:
        _look_into(inner, left - 1)


def _too_deep() -> str:
    return f"is nested more than {DEPTH} levels deep"
