from pathlib import Path

import pytest

from rbee_runtime.config import StoreSettings
from rbee_runtime.models.store import ModelStore

from .places import CONTENT, Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    source = tmp_path / "operator" / "m.gguf"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    store = ModelStore(tmp_path / "models", StoreSettings(spare=0), clock=lambda: 10_000.0)
    return Place(store, tmp_path / "models", source)
