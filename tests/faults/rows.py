"""The tables of faults that a part of rbee has to bear: `PART_rows.yaml`, the one place of promises and figures."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PARTS = tuple(sorted(file.name.removesuffix("_rows.yaml") for file in Path(__file__).parent.glob("*_rows.yaml")))
FULL = os.environ.get("RBEE_FAULTS") == "full"
"""Set by `make faults-PART`: rows wait as long as they promise."""


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


def read(part: str = "hive") -> dict[str, Row]:
    """Return every row of a part's table by id."""
    file = Path(__file__).with_name(f"{part}_rows.yaml")
    return {name: Row(name, **_tuples(fields)) for name, fields in yaml.safe_load(file.read_text()).items()}


def row(name: str, part: str = "hive") -> Row:
    """Return one row."""
    return read(part)[name]


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "full": tuple(fields["full"]), "short": tuple(fields.get("short", fields["full"]))}
