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
    _demand_ends(parsed)
    return parsed


def _demand_ends(schema: Any) -> None:
    """Refuse a part that is defined by itself alone: llama.cpp follows such a circle until its process ends."""
    done: set[int] = set()
    for start in _parts(schema):
        path: list[tuple[dict[str, Any], Iterator[Any]]] = [(start, _meant(start, schema))]
        on_path = {id(start)}
        while path:
            part, following = path[-1]
            follower = next((each for each in following if isinstance(each, dict)), None)
            if follower is None:
                path.pop()
                on_path.discard(id(part))
                done.add(id(part))
            elif id(follower) in on_path:
                raise wrong("a part of the schema is defined by itself alone, by $ref, allOf, anyOf or oneOf")
            elif id(follower) not in done:
                on_path.add(id(follower))
                path.append((follower, _meant(follower, schema)))


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _parts(each)


def _meant(part: dict[str, Any], schema: Any) -> Iterator[Any]:
    """Yield the parts of which each has to be known before anything is known of this one."""
    ref = part.get("$ref")
    if isinstance(ref, str) and ref.startswith("#"):
        yield _target(ref, schema)
    for key in ("allOf", "anyOf", "oneOf"):
        found = part.get(key)
        if isinstance(found, list):
            yield from found


def _target(ref: str, schema: Any) -> Any:
    found = schema
    for key in ref.removeprefix("#").split("/")[1:]:
        name = key.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict):
            found = found.get(name)
        else:
            return None
    return found


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
