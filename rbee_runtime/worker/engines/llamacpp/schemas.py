"""JSON schemas as grammars, by the converter that comes with llama-cpp-python.

What a grammar cannot hold an answer to is refused by name: an answer that fails a schema is worse than none.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from rbee_runtime.errors import EngineLoadError, RequestError

MAX_BYTES, MAX_DEPTH, MAX_GRAMMAR = 262144, 64, 1 << 20
"""Of a schema (that of many tools is one), and characters of the grammar that it becomes: one of hundreds of kilobytes
is slow for every token."""

ANY_OBJECT = '{"type":"object"}'

_ANY_CHARACTER, _CHARACTER = r'char ::= [^"\\] |', r'char ::= [^"\\\x7F\x00-\x1F] |'
"""The converter lets strings hold line ends as they are, which no reader of JSON takes."""

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


def grammar_of(schema: str) -> str:
    """Return GBNF for the JSON of a schema, or raise RequestError (400) that says which part of it cannot be."""
    if len(schema) > MAX_BYTES:
        raise _wrong(f"a schema has at most {MAX_BYTES} characters, this one has {len(schema)}")
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise _wrong("the schema is no JSON, or nested too deeply") from error
    for keyword in _keywords(parsed, 0):
        if keyword in _UNENFORCED:
            raise _wrong(f"{keyword!r} cannot be held to by this engine; leave it out and check the answer for it")
    try:
        grammar = str(_converter()(schema))
    except RecursionError as error:
        raise _wrong("the schema is nested too deeply") from error
    except MemoryError:
        raise
    except Exception as error:  # the converter says what is wrong by whatever comes to hand
        raise _wrong(f"the schema cannot be read: {' '.join(str(error).split())[:200] or 'it is damaged'}") from error
    grammar = grammar.replace(_ANY_CHARACTER, _CHARACTER)
    if len(grammar) > MAX_GRAMMAR:
        raise _wrong(f"the schema becomes a grammar of {len(grammar)} characters, at most {MAX_GRAMMAR} are taken")
    return grammar


def _keywords(part: Any, depth: int, *, named: bool = False) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise _wrong(f"the schema is nested more than {MAX_DEPTH} deep")
    if isinstance(part, list):
        for each in part:
            yield from _keywords(each, depth + 1)
    elif isinstance(part, dict):
        for key, value in part.items():
            if not named:
                yield key
            if named or key not in ("enum", "const", "default", "examples", "required"):
                yield from _keywords(value, depth + 1, named=not named and key in _NAMES)


@cache
def _converter() -> Callable[[str], str]:
    """Return the library's function, from its file alone: the package would load llama.cpp into this process."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise EngineLoadError("llama-cpp-python is not installed")
    spec = importlib.util.spec_from_file_location("llama_grammar", Path(found.origin).parent / "llama_grammar.py")
    if spec is None or spec.loader is None:
        raise EngineLoadError("llama-cpp-python has no llama_grammar.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    converter: Callable[[str], str] = module.json_schema_to_gbnf
    return converter


def _wrong(message: str) -> RequestError:
    return RequestError(400, message)
