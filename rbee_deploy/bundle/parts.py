"""What a bundle is put together from."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy.bundle.manifest import Entry, Kind


@dataclass(frozen=True)
class Part:
    """An entry to be, and where its content comes from: a file of this machine or a text."""

    entry: Entry
    content: Path | str


def written(kind: Kind, name: str, path: str, text: str) -> Part:
    """Return the part for a text."""
    data = text.encode()
    entry = Entry(kind=kind, name=name, path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return Part(entry, text)
