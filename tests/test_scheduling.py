"""Which tests run on one process."""

from pathlib import Path

from tests.scheduling import SHARED

ROOT = Path(__file__).resolve().parent.parent


def test_files_that_ask_for_the_fleet_of_accidents_share_it() -> None:
    """The files that are named are those that ask for it, so that a new or renamed one does not deploy its own."""
    files = (ROOT / "tests" / "faults" / "deploy").glob("test_*.py")
    assert {str(file.relative_to(ROOT)) for file in files if "trio: Trio" in file.read_text()} == set(SHARED)
