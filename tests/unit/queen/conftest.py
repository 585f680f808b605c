"""A controller over a real store."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rbee_runtime.config import FleetFile
from tests.unit.queen.states import Fixture


@pytest.fixture
def queen(tmp_path: Path) -> Iterator[Callable[[FleetFile], Fixture]]:
    """Give a maker of controllers; what it made is closed afterwards."""
    made: list[Fixture] = []

    def make(declared: FleetFile) -> Fixture:
        made.append(Fixture(tmp_path / "state", declared))
        return made[-1]

    yield make
    for each in made:
        each.store.close()
