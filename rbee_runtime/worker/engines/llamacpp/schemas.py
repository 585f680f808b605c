"""JSON schemas as grammars, by the converter that comes with llama-cpp-python."""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path

from rbee_runtime.errors import EngineLoadError
from rbee_runtime.worker.engines.schema_bounds import checked, wrong

MAX_GRAMMAR = 1 << 20
"""Characters of the grammar that a schema becomes: one of hundreds of kilobytes is slow for every token."""

ANY_OBJECT = '{"type":"object"}'

_ANY_CHARACTER, _CHARACTER = r'char ::= [^"\\] |', r'char ::= [^"\\\x7F\x00-\x1F] |'
"""The converter lets strings hold line ends as they are, which no reader of JSON takes."""


def grammar_of(schema: str) -> str:
    """Return GBNF for the JSON of a schema, or raise RequestError (400) that says which part of it cannot be."""
    checked(schema)
    try:
        grammar = str(_converter()(schema))
    except RecursionError as error:
        raise wrong("the schema is nested too deeply") from error
    except MemoryError:
        raise
    except Exception as error:  # the converter says what is wrong by whatever comes to hand
        raise wrong(f"the schema cannot be read: {' '.join(str(error).split())[:200] or 'it is damaged'}") from error
    grammar = grammar.replace(_ANY_CHARACTER, _CHARACTER)
    if len(grammar) > MAX_GRAMMAR:
        raise wrong(f"the schema becomes a grammar of {len(grammar)} characters, at most {MAX_GRAMMAR} are taken")
    return grammar


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
