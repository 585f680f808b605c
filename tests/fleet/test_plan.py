"""What a plan announces of made-up hosts, against what apply would do there."""

from pathlib import Path

import pytest

from tests.fleet.test_fleet import run

pytestmark = pytest.mark.slow


def test_a_directory_alone_is_put_right_by_setup_alone(tmp_path: Path) -> None:
    """A mode that somebody changed announces no activation, which apply would not do; the difference is named."""
    done = run(tmp_path / "secrets", "check", faults={"box2": "closed"}, hosts=2)
    lines = [" ".join(line.split()) for line in done.stderr.splitlines()]
    assert (done.returncode, lines[:3]) == (
        2,
        [
            "@fake/box1 all unchanged",
            "@fake/box2 setup would change make directories",
            "@fake/box2 now differs /etc/rbee has mode 0700 instead of 0755",
        ],
    )
