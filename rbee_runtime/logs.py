"""One line per event on stderr: `level event key=value …`, for journalctl and grep; never prompts, never secrets."""

import contextlib
import json
import logging
import re
import sys
from collections.abc import Callable

STACK_SECONDS = 0.05
"""A person who follows a log does not see the difference; a request costs one write less."""

_MARKS = ("rbee_", "hf_", "sk-", "earer ", "PRIVATE KEY")
_SECRETS = re.compile(
    r"(rbee_[a-z0-9]{8}_|hf_|sk-|[Bb]earer (?!rbee_))[A-Za-z0-9_.~+/=-]{16,}"
    r"|(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)
"""Keys of ours and of others: clients put them into paths and into names of models, and errors repeat those."""

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@%+,*-]+")


def info(event: str, **fields: object) -> None:
    """Report something that went as it should."""
    _write("info", event, fields)


def warning(event: str, **fields: object) -> None:
    """Report something that a person may want to look at."""
    _write("warning", event, fields)


def error(event: str, **fields: object) -> None:
    """Report something that a person has to look at."""
    _write("error", event, fields)


class Stack:
    """Lines of which there are thousands a second, written in one piece some moments later."""

    def __init__(self, later: Callable[[float, Callable[[], None]], object]) -> None:
        self._later = later
        self._lines: list[str] = []

    def add(self, text: str) -> None:
        """Take one line, whose values are quoted where they have to be."""
        if not self._lines:
            self._later(STACK_SECONDS, self.flush)
        self._lines.append(text)

    def flush(self) -> None:
        """Write what there is."""
        lines, self._lines = self._lines, []
        if lines:
            _put("\n".join(lines))


def line(level: str, event: str, fields: dict[str, object]) -> str:
    """Return one event as text; values with spaces or control characters are quoted as JSON."""
    pairs = [f"{name}={quoted(value)}" for name, value in fields.items() if value is not None and value != ""]
    return " ".join([level, f"event={quoted(event)}", *pairs])


def capture_libraries(level: int = logging.WARNING) -> None:
    """Let what libraries log come out in the same form."""
    logging.basicConfig(handlers=[_Handler()], level=level, force=True)
    logging.getLogger("rbee_runtime").setLevel(logging.INFO)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        fields: dict[str, object] = {"logger": record.name, "message": record.getMessage(), "trace": trace}
        _write(record.levelname.lower(), "library", fields)


def _write(level: str, event: str, fields: dict[str, object]) -> None:
    _put(line(level, event, fields))


def _put(text: str) -> None:
    text = without_secrets(text)
    # In one piece: engines of containers would take the end of a line that comes by itself for a line of its own.
    with contextlib.suppress(OSError):
        # Whoever read it may be gone, of a process that lives on for its open streams.
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def without_secrets(text: str) -> str:
    """Return a text in which keys are hidden but for the part that says which one it is."""
    # The search of the whole pattern costs as much as all else that is done for a line, and few have any of these.
    if not any(mark in text for mark in _MARKS):
        return text
    return _SECRETS.sub(lambda found: f"{found[1] or found[2]}***", text)


def quoted(value: object) -> str:
    """Return a value as it stands in a line: spaces and control characters make it JSON."""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
