"""Which cases the short run tries where the full one tries all."""

import random
from collections.abc import Sequence
from typing import TypeVar

import pytest

Case = TypeVar("Case")


def sample(config: pytest.Config, groups: Sequence[Sequence[Case]]) -> list[Case]:
    """Return one of each group: another one for every seed, and pytest-randomly prints the seed that it was."""
    chosen = random.Random(config.getoption("randomly_seed", 0))
    return [chosen.choice(group) for group in groups]


def pairs(cases: list[Case]) -> list[list[Case]]:
    """Return neighbours as groups of two; an odd one out is alone."""
    return [cases[place : place + 2] for place in range(0, len(cases), 2)]
