"""One line per event on stderr: `level event key=value …`, for journalctl and grep; never prompts, never secrets.

Or, for collectors of logs, a JSON object: `time`, `level`, `event`, and the fields as they are.
"""

import contextlib
import json
import logging
import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

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


class LogFormat(StrEnum):
    """What a line looks like."""

    LINES = "lines"
    JSON = "json"


@dataclass
class _Settings:
    form: LogFormat = LogFormat.LINES
    now: Callable[[], float] = time.time


_SETTINGS = _Settings()


def write_as(form: LogFormat, *, now: Callable[[], float] = time.time) -> None:
    """Have all lines from now on in this form; `now` is seconds since the epoch."""
    _SETTINGS.form, _SETTINGS.now = form, now


def is_json() -> bool:
    """Say whether lines are JSON objects."""
    return _SETTINGS.form is LogFormat.JSON


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
    if is_json():
        return _object(level, event, fields)
    pairs = [f"{name}={quoted(value)}" for name, value in fields.items() if value is not None and value != ""]
    return " ".join([level, f"event={quoted(event)}", *pairs])


def _object(level: str, event: str, fields: dict[str, object]) -> str:
    """Return one event as a JSON object, without secrets: afterwards they would take its end with them."""
    moment = datetime.fromtimestamp(_SETTINGS.now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told: dict[str, object] = {"time": moment, "level": level, "event": without_secrets(event)}
    for name, value in fields.items():
        if value is not None and value != "":
            told.setdefault(name, _bare(value))
    return json.dumps(told, ensure_ascii=False)


def _bare(value: object) -> object:
    if isinstance(value, float):
        # What JSON has no number for would make the line unreadable.
        return round(value, 3) if math.isfinite(value) else str(value)
    return value if isinstance(value, bool | int) else without_secrets(str(value))


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
    text = text if is_json() else without_secrets(text)
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
