"""The recordings of tests/recordings/devices, played back."""

import json
from pathlib import Path
from typing import Any

from rbee_runtime.devices import recorded
from rbee_runtime.devices.reading import Reading, Workers

FOLDER = Path(__file__).resolve().parents[2] / "recordings" / "devices"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def raw(name: str) -> Any:
    """Return the raw readings of a recording of one kind."""
    return recorded.load(FOLDER / f"{name}.json")[0]["raw"]


def played(name: str, workers: Workers | None = None) -> Reading:
    """Return what the probe makes of a recording of one kind."""
    (entry,) = recorded.load(FOLDER / f"{name}.json")
    return recorded.play(entry["kind"], entry["raw"], workers or {})


def copied(name: str, to: Path) -> dict[str, Any]:
    """Write a recording to a file that may be changed, and return its content."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_bytes())
    to.write_text(json.dumps(content))
    return content
