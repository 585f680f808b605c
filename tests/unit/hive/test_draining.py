"""The wish to be empty, over restarts."""

from pathlib import Path

import pytest

from rbee_runtime.errors import StateError
from rbee_runtime.hive.draining import DrainFlag


def test_the_wish_outlives_the_hive_until_it_is_taken_back(tmp_path: Path) -> None:
    """Set, read by the next hive, taken back, read by the one after."""
    DrainFlag(tmp_path).set(True)
    again = DrainFlag(tmp_path)
    assert again.is_set
    again.set(False)
    assert not DrainFlag(tmp_path).is_set


def test_a_wish_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    """A full or missing disk is told, and nothing is drained half."""
    folder = tmp_path / "state"
    folder.write_text("no folder")
    flag = DrainFlag(folder)
    with pytest.raises(StateError, match="cannot write"):
        flag.set(True)
    assert not flag.is_set
