"""More models than fit, all of them asked for: how often they are loaded, and who waits."""

import sys

import pytest

from rbee_runtime.queen.eviction import MIN_RESIDENCY
from tests.unit.queen.simulator import Host, Nature, World, calm, world
from tests.unit.queen.states import GIB, model

NAMES = tuple(f"m{number}" for number in range(8))
NATURES = {name: Nature(size=GIB, need=9 * GIB, load=10) for name in NAMES}
FILES = [{"name": "f", "sha256": "0" * 64, "size": 7 * GIB}]
MINUTES, CARDS = 10, 2


async def alternating(it: World, every: float, seconds: float) -> float:
    """Ask for one model after the other for so long, and return for how many seconds that was."""
    await it.run(3)
    began = it.clock.now
    for turn in range(int(MINUTES * 60 / every)):
        it.ask(NAMES[turn % len(NAMES)], seconds)
        await it.run(every, step=min(every, 1.0))
    await calm(it)
    return it.clock.now - began


@pytest.mark.parametrize(("every", "seconds"), [(1.0, 3.0), (5.0, 20.0), (20.0, 2.0)], ids=["dense", "long", "sparse"])
async def test_8_models_on_a_host_for_2_do_not_thrash(
    every: float, seconds: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reloads are bounded by time, not by requests; nobody is cut off and everybody gets an answer."""
    models = [model(name, files=FILES, replicas_min=0, slots=8, load_wait=600.0) for name in NAMES]
    host = Host("a", {f"g{number}": 10 * GIB for number in range(CARDS)}, NATURES)
    with world(models, [host]) as it:
        took = await alternating(it, every, seconds)
        loads, bound = it.loads.total(), CARDS * took / MIN_RESIDENCY + CARDS
        refused = [each.outcome for each in it.requests if not each.outcome.startswith("m")]
        told = f"{len(it.requests)} requests, one each {every:g} s: {loads} loads in {took:.0f} s"
        with capsys.disabled():
            sys.stdout.write(f"\n{told}, at most {bound:.0f}\n")
        assert loads <= min(bound, len(it.requests))
        assert refused == []
