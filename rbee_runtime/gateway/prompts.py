"""What can be told of a prompt without its model's tokenizer: how it begins, and how many tokens it has at least."""

from typing import Any

import msgspec

from rbee_runtime.protocol import decode

NOTHING = msgspec.Raw(b"")

OPENING_BYTES = 32 * 1024
"""Prompts that differ only behind that have a beginning in common that is worth finding again."""

COUNTED_BYTES = 256 * 1024
"""Shorter bodies are not counted: they fit into any context that a model is served with, as far as is sure."""

LETTERS_PER_TOKEN = 256
"""No tokenizer is known with a token of so many letters: the longest are some 128 dashes. White space is not counted,
as some take any amount of it for one token."""


class _Message(msgspec.Struct):
    role: Any = None
    content: Any = None


def opening(system: msgspec.Raw, rest: msgspec.Raw) -> bytes:
    """Return the first bytes of a prompt as they came, the system's part in front where it has a field of its own."""
    # A copy: whoever keeps it in mind is not to keep the whole body.
    own = bytes(memoryview(rest)[:OPENING_BYTES])
    return bytes(memoryview(system)[:OPENING_BYTES]) + own if system else own


def floor(messages: msgspec.Raw, prompt: msgspec.Raw) -> int:
    """Return how many tokens a prompt has for sure, 0 if that cannot be told.

    What users say is counted alone: templates leave out some of what assistants said, pictures have few tokens, and of
    several prompts each has a context of its own.
    """
    try:
        if messages:
            said = decode(bytes(messages), list[_Message])
            return sum(_letters(each.content) for each in said if each.role == "user") // LETTERS_PER_TOKEN
        return _of_prompt(decode(bytes(prompt), Any)) if prompt else 0
    except msgspec.DecodeError:
        return 0


def _of_prompt(prompt: Any) -> int:
    if isinstance(prompt, str):
        return _letters(prompt) // LETTERS_PER_TOKEN
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        return len(prompt)
    return max((_of_prompt(each) for each in prompt), default=0) if _is_several(prompt) else 0


def _is_several(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(isinstance(each, (str, list)) for each in prompt)


def _letters(content: Any) -> int:
    """Return how many letters of a message are no white space."""
    if isinstance(content, str):
        return len(content) - sum(content.count(space) for space in " \n\t\r")
    if isinstance(content, list):
        return sum(_letters(part.get("text")) for part in content if isinstance(part, dict))
    return 0
