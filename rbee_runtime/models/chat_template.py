"""Bounds of a chat template, a Jinja program out of a model: how long it is and how deep it nests.

Jinja's parser and compiler recurse with every bracket and block; this count is a loop. It is no parser: what Jinja
would refuse anyway may pass here.
"""

import re
from collections.abc import Sequence

from rbee_runtime.errors import ModelFormatError

MAX_SOURCE = 256 << 10
"""Characters of all templates of a model; the longest published ones have about 30,000."""

MAX_NESTING = 64
"""Blocks within blocks, and brackets within one tag; published templates stay below 20."""

_BLOCKS = frozenset({"if", "for", "macro", "call", "filter", "block", "with", "generation"})
_OPEN = re.compile(r"\{%[-+]?\s*(?P<word>\w*)|\{\{|\{#")
# A string that is never closed runs to the end, so that no character is looked at twice.
_INSIDE = re.compile(r"""'(?:[^'\\]|\\.)*+(?:'|\\?\Z)|"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|%\}|[()\[\]{}]""", re.DOTALL)


def check_templates(sources: Sequence[str], name: str) -> None:
    """Raise ModelFormatError if the templates of the file `name` are together too long or one nests too deep."""
    length = sum(map(len, sources))
    if length > MAX_SOURCE:
        raise ModelFormatError(f"{name} has a chat template of {length} characters, at most {MAX_SOURCE} are run")
    if max(map(_depth, sources), default=0) > MAX_NESTING:
        raise ModelFormatError(f"{name} has a chat template that nests more than {MAX_NESTING} deep")


def _depth(source: str) -> int:
    at = blocks = deepest = 0
    while opened := _OPEN.search(source, at):
        if opened[0] == "{#":
            at = source.find("#}", opened.end()) + 2
            if at < 2:
                break
            continue
        word = opened["word"] or ""
        blocks += 1 if word in _BLOCKS else -1 if word.startswith("end") and blocks else 0
        brackets, at = _tag(source, opened.end(), "}}" if opened[0] == "{{" else "%}")
        deepest = max(deepest, blocks, brackets)
    return deepest


def _tag(source: str, start: int, closer: str) -> tuple[int, int]:
    """Return how deep the brackets of the tag go, and where it ends."""
    brackets = deepest = 0
    for token in _INSIDE.finditer(source, start):
        text = token[0]
        if not brackets and source.startswith(closer, token.start()):
            return deepest, token.start() + 2
        if text in "([{":
            brackets += 1
            deepest = max(deepest, brackets)
        elif text[0] in ")]}%":
            brackets = max(0, brackets - 1)
    return deepest, len(source)
