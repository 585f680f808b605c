"""A folder takes its place in one step, whatever ends the run that made it."""

from pathlib import Path

import pytest

from rbee_deploy.bundle import draft


def test_a_run_that_was_killed_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    """The earlier folder is back in its place before anything is looked for or removed."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "file").write_text("whole")
    folder.rename(tmp_path / ".bundle.old")
    (tmp_path / ".bundle.new").mkdir()
    with draft.taken(folder):
        assert (folder / "file").read_text() == "whole"
        with pytest.raises(RuntimeError), draft.replaced(folder):
            raise RuntimeError
    assert (folder / "file").read_text() == "whole"
