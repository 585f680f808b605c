"""The table of faults that a hive has to bear: `hive_rows.yaml`, the one place of promises and figures."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("hive_rows.yaml")
FULL = os.environ.get("RBEE_FAULTS") == "full"
"""Set by `make faults-hive`: rows wait as long as they promise."""


@dataclass(frozen=True)
class Row:
    """One fault. `full` and `short` are pytest node ids; `figures` what the tests compare with."""

    id: str
    promise: str
    full: tuple[str, ...]
    short: tuple[str, ...]
    figures: dict[str, Any] = field(default_factory=dict)

    def figure(self, name: str) -> Any:
        """Return a figure, the one of the short run where it has its own."""
        return self.figures[name] if FULL else self.figures.get(f"short_{name}", self.figures[name])


def read(file: Path = FILE) -> dict[str, Row]:
    """Return every row by id."""
    return {name: Row(name, **_tuples(fields)) for name, fields in yaml.safe_load(file.read_text()).items()}


def row(name: str) -> Row:
    """Return one row."""
    return read()[name]


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "full": tuple(fields["full"]), "short": tuple(fields.get("short", fields["full"]))}
