"""What a JSON schema may be and have, for engines that hold answers to it by grammars of llama.cpp.

What such a grammar cannot hold an answer to is refused by name: an answer that fails a schema is worse than none.
"""

import json
from collections.abc import Iterator
from typing import Any

from rbee_runtime.errors import RequestError

MAX_BYTES, MAX_DEPTH = 262144, 64
"""Of a schema; that of many tools is one."""

_UNENFORCED = frozenset(
    {
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies"),
        *("patternProperties", "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties"),
        *("uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems", "$dynamicRef"),
    }
)
_NAMES = frozenset({"properties", "$defs", "definitions"})
"""Below these, keys are names that the client chose and no keywords."""


def checked(schema: str) -> Any:
    """Return the schema as JSON, or raise RequestError (400) that says which part of it cannot be held to."""
    if len(schema) > MAX_BYTES:
        raise wrong(f"a schema has at most {MAX_BYTES} characters, this one has {len(schema)}")
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise wrong("the schema is no JSON, or nested too deeply") from error
    for keyword in _keywords(parsed, 0):
        if keyword in _UNENFORCED:
            raise wrong(f"{keyword!r} cannot be held to by this engine; leave it out and check the answer for it")
    return parsed


def _keywords(part: Any, depth: int, *, named: bool = False) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise wrong(f"the schema is nested more than {MAX_DEPTH} deep")
    if isinstance(part, list):
        for each in part:
            yield from _keywords(each, depth + 1)
    elif isinstance(part, dict):
        for key, value in part.items():
            if not named:
                yield key
            if named or key not in ("enum", "const", "default", "examples", "required"):
                yield from _keywords(value, depth + 1, named=not named and key in _NAMES)


def wrong(message: str) -> RequestError:
    """Return the refusal of a schema."""
    return RequestError(400, message)
