"""JSON schemas that clients send: bounded here, whichever engine holds an answer to them."""

from typing import Any

import msgspec

from rbee_runtime.worker.surface.generation import invalid

MOST_CHARACTERS, MOST_DEPTH = 262144, 64


def schema_text(schema: Any, where: str, *, most: int = MOST_CHARACTERS, param: str | None = None) -> str:
    """Return a schema as text, or raise RequestError (400) where it is too long or too deep."""
    if _deeper(schema, MOST_DEPTH):
        raise invalid(f"{where}: a schema is nested at most {MOST_DEPTH} deep", param or where)
    text = msgspec.json.encode(schema).decode()
    if len(text) > most:
        raise invalid(f"{where}: {len(text)} characters of schema, at most {most} are taken", param or where)
    return text


def _deeper(value: Any, depth: int) -> bool:
    """Say whether a value is nested more than so deep; not by recursion, which has an end of its own."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
