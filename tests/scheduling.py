"""Which tests run on one process: those of a file, and of files that share a deployed fleet."""

from xdist.scheduler import LoadScopeScheduling

SHARED = {
    "tests/faults/deploy/test_killed.py": "killed and drift",
    "tests/faults/deploy/test_drift.py": "killed and drift",
    "tests/faults/deploy/test_bad_release.py": "bad releases and accidents",
    "tests/faults/deploy/test_accidents.py": "bad releases and accidents",
}
"""Deploying the fleet of these takes a minute, and all four on one process would take longest of all."""


class ByFleet(LoadScopeScheduling):
    """Gives a process whole files, and whole groups of files."""

    def _split_scope(self, nodeid: str) -> str:
        """Return the group that a test belongs to."""
        file = nodeid.partition("::")[0]
        return SHARED.get(file, file)
