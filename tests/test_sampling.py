"""Which tests the short run leaves out."""

from dataclasses import dataclass
from typing import Any

from tests.sampling import left_out

WAYS = [f"tests/test_a.py::test_ways[{way}]" for way in ("bare", "docker", "podman")]


@dataclass(frozen=True)
class Item:
    """A test with at most one mark."""

    nodeid: str
    mark: str = ""

    def get_closest_marker(self, name: str) -> str | None:
        """Return the mark if it is this one."""
        return self.mark if self.mark == name else None


@dataclass(frozen=True)
class Config:
    """What pytest-randomly chose."""

    seed: int

    def getoption(self, name: str, default: int) -> int:
        """Return the seed."""
        return self.seed if name == "randomly_seed" else default


def left(seed: int, items: list[Any]) -> set[str]:
    """Return which tests are left out with a seed."""
    return {item.nodeid for item in left_out(Config(seed), items)}  # type: ignore[arg-type]


def test_one_case_is_left_of_a_test_that_says_so() -> None:
    """Every case has its seed, the order of tests chooses nothing, and what bears no such mark stays."""
    items = [Item("tests/test_a.py::test_long", "full"), *(Item(way, "one_of") for way in WAYS), Item("test_b[a]")]
    found = [left(seed, items) for seed in range(50)]
    assert found == [left(seed, items[::-1]) for seed in range(50)]
    assert all(each - {*WAYS} == {"tests/test_a.py::test_long"} for each in found)
    stays = [{*WAYS} - each for each in found]
    assert {len(each) for each in stays} == {1}
    assert set().union(*stays) == {*WAYS}
