"""Which cases the short run tries where the full one tries all."""

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

import pytest

Case = TypeVar("Case")


def sample(config: pytest.Config, groups: Sequence[Sequence[Case]]) -> list[Case]:
    """Return one of each group: another one for every seed, and pytest-randomly prints the seed that it was."""
    chosen = random.Random(config.getoption("randomly_seed", 0))
    return [chosen.choice(group) for group in groups]


def left_out(config: pytest.Config, items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Return what the short run leaves out: what is marked `full`, and all cases but one of what is marked `one_of`."""
    found = list(items)
    cases: dict[str, list[str]] = {}
    for item in found:
        if item.get_closest_marker("one_of") is not None:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item.nodeid)
    # Each test by a draw of its own: those of both engines would else all try the same one.
    seed = config.getoption("randomly_seed", 0)
    chosen = {test: random.Random(f"{seed} {test}").choice(sorted(known)) for test, known in cases.items()}
    return [item for item in found if item.get_closest_marker("full") is not None or not _chosen(item, chosen)]


def _chosen(item: pytest.Item, chosen: dict[str, str]) -> bool:
    return chosen.get(item.nodeid.partition("[")[0], item.nodeid) == item.nodeid


def pairs(cases: list[Case]) -> list[list[Case]]:
    """Return neighbours as groups of two; an odd one out is alone."""
    return [cases[place : place + 2] for place in range(0, len(cases), 2)]
