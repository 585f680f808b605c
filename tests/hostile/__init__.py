"""What nobody may get anywhere with: names that are no names, and addresses that mean a host inside."""

import json
from pathlib import Path

_HERE = Path(__file__).parent

NAMES: dict[str, list[str]] = json.loads((_HERE / "names.json").read_text(encoding="utf-8"))
"""Four hundred, by what makes them hostile; none is the name of a model."""

ADDRESSES: list[str] = json.loads((_HERE / "addresses.json").read_text(encoding="utf-8"))
"""Forty, with `{port}` for that of a server on loopback that nobody may reach."""
