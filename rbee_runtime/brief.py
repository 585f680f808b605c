"""Sentences of a bounded length: for people who read one line of many things."""

from collections.abc import Sequence


def cut(text: str, letters: int) -> str:
    """Return a text, its end left out where it is longer."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def few(texts: Sequence[str], most: int, *, joint: str = ", ") -> str:
    """Return the first texts and how many more there are: `a, b and 3 more`."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return joint.join(texts[:most]) + more
