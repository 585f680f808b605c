"""When a sentence is news: many count seconds or bytes or name other workers, and another figure or name is none."""

import re

from rbee_runtime.states import Observed

_WORKER = r"[\w.-]+-[0-9a-f]{6}\b"
_CHANGING = re.compile(rf"{_WORKER}(?:, {_WORKER})*|\d+(?:\.\d+)?")


def wording(state: Observed, sentence: str) -> str:
    """Return what of a sentence is news: all but figures and ids of workers, and nothing of what a start meets."""
    return "" if state is Observed.STARTING else _CHANGING.sub("#", sentence)
