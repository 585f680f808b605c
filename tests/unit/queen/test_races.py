"""The races that other schedulers on demand shipped, each as it was met, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rbee_runtime.queen.eviction import MIN_RESIDENCY, STARVED_SECONDS
from rbee_runtime.queen.loads import Phase
from rbee_runtime.states import Observed
from tests.unit.queen.simulator import Host, Nature, World, calm, placed, world
from tests.unit.queen.states import GIB, model

NATURES = {name: Nature(size=GIB, need=5 * GIB, load=8) for name in ("m", "n")}
"""One of both fits on the card."""

TTL = 60.0


@asynccontextmanager
async def one_card(**fields: Any) -> AsyncIterator[World]:
    """Give a host with room for one of two models, heard of already."""
    files = [{"name": "f", "sha256": "0" * 64, "size": 3 * GIB}]
    models = [model(name, files=files, replicas_min=0, slots=2, idle_ttl=TTL, **fields) for name in NATURES]
    with world(models, [Host("a", {"g": 8 * GIB}, NATURES)]) as it:
        await it.run(2)
        yield it


async def served(it: World, name: str) -> str:
    """Ask for a model, wait until it serves and is idle, and return its worker."""
    asked = it.ask(name)
    while not asked.outcome:
        await it.step()
    await it.run(2)
    return asked.outcome


@pytest.mark.parametrize("early", [0, 1, 2])
async def test_a_request_in_the_moment_of_an_unload_is_answered(early: int) -> None:
    """A state read and then acted on: whoever asks in the seconds in which the idle time ends gets an answer."""
    async with one_card() as it:
        await served(it, "m")
        while (there := placed(it, "m")) and it.controller.situation().uses[there[0].id].idle < TTL - early:
            await it.step()
        asked = [it.ask("m", 5.0)]
        await it.step()
        asked.append(it.ask("m", 5.0))
        await calm(it)
        assert all(each.outcome.startswith("m-") for each in asked)


async def test_nobody_is_a_victim_while_it_loads_or_before_its_first_byte() -> None:
    """A victim picked too early: from its placement until 30 s after it is ready a worker makes room for nobody."""
    async with one_card() as it:
        first, second = it.ask("m", 2.0), it.ask("n", 1.0)
        states: list[Observed | None] = []
        while not second.outcome:
            await it.step()
            states += [entry.observed for entry in placed(it, "m")]
        assert first.outcome.startswith("m-")
        assert states.count(Observed.READY) >= MIN_RESIDENCY
        assert states[-1] is Observed.READY
        assert it.loads == {"m": 1, "n": 1}


async def test_a_load_goes_on_when_the_client_that_began_it_leaves() -> None:
    """A load tied to one client: the next one finds it loaded, and it was loaded once."""
    async with one_card() as it:
        asked = it.ask("m")
        await it.run(3)
        asked.leave()
        await it.run(10)
        assert [entry.observed for entry in placed(it, "m")] == [Observed.READY]
        assert (await served(it, "m")).startswith("m-")
        assert it.loads["m"] == 1


async def test_a_load_outlives_the_queen_that_began_it() -> None:
    """The next queen goes on with it, though nobody asks it."""
    async with one_card() as it:
        it.ask("m")
        await it.run(1)
        it.restart_queen()
        assert [job.phase for job in it.controller.lifecycle.jobs.values()] == [Phase.LOADING]
        await it.run(20)
        assert [entry.observed for entry in placed(it, "m")] == [Observed.READY]
        assert (it.loads["m"], it.controller.lifecycle.jobs) == (1, {})


async def test_memory_that_comes_back_late_is_waited_for() -> None:
    """A driver that gives memory back late: the next worker starts when it is there, without evicting anybody else."""
    async with one_card() as it:
        await served(it, "m")
        await it.run(MIN_RESIDENCY)
        it.hosts["a"].late = 20.0
        asked, began = it.ask("n"), it.clock.now
        while not asked.outcome:
            await it.step()
        assert asked.outcome.startswith("n-")
        assert it.clock.now - began >= 20.0
        assert (it.loads, it.evicted) == ({"m": 1, "n": 1}, 1)


async def test_500_requests_at_once_are_one_load() -> None:
    """Whoever comes first has it loaded, everybody else waits for the same worker."""
    async with one_card() as it:
        it.controller.fleet.current = it.controller.fleet.current.model_copy(
            update={"models": tuple(each.model_copy(update={"slots": 64}) for each in it.declared.models)}
        )
        asked = [it.ask("m") for _ in range(500)]
        await asyncio.sleep(0)
        await calm(it)
        assert {each.outcome.partition("-")[0] for each in asked} == {"m"}
        assert it.loads["m"] == 1


async def test_who_waits_for_a_worker_that_empties_itself_gets_the_next_one() -> None:
    """While it still has requests its model is not loaded twice, and once it is gone it is loaded again."""
    async with one_card(load_wait=600.0) as it:
        await served(it, "m")
        long = [it.ask("m", 100.0) for _ in range(2)]
        await it.run(MIN_RESIDENCY)
        long.append(it.ask("n", 1.0))
        await it.run(STARVED_SECONDS + 5)
        assert it.controller.situation().retiring == {placed(it, "m")[0].id}
        long.append(it.ask("m"))
        await it.run(5)
        assert list(it.controller.lifecycle.jobs) == ["n"]
        await calm(it)
        assert [each.outcome[:2] for each in long] == ["m-", "m-", "n-", "m-"]
        assert it.loads == {"m": 2, "n": 1}
