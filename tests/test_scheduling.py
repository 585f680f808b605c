"""Which tests run on one process."""

from pathlib import Path

from tests.scheduling import SHARED

ROOT = Path(__file__).resolve().parent.parent


def test_files_that_share_a_fleet_are_there() -> None:
    """Every file that is named asks for the fleet, so that a renamed one does not deploy its own."""
    assert [name for name in SHARED if "trio: Trio" not in (ROOT / name).read_text()] == []
