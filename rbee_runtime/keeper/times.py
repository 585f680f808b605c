"""Times as people type them: `10m`, `12h`, `30d`, or a date with or without a time of day."""

import re
from datetime import UTC, datetime

_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SPAN = re.compile(r"([1-9][0-9]{0,5})([mhdw])")


def span(text: str) -> int | None:
    """Return the seconds of `10m`, `12h`, `30d` or `2w`, None for anything else."""
    found = _SPAN.fullmatch(text)
    return int(found[1]) * _UNITS[found[2]] if found else None


def instant(text: str) -> int | None:
    """Return the Unix seconds of `2027-01-31` (its begin) or `2027-01-31T12:00`, UTC unless it says another zone."""
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int((given if given.tzinfo is not None else given.replace(tzinfo=UTC)).timestamp())
