"""Probes of a worker by a hive that is not always there to ask."""

import asyncio

import pytest

from rbee_runtime.hive import probes
from rbee_runtime.hive.health import Health
from rbee_runtime.hive.probes import Prober
from rbee_runtime.hive.worker_calls import Reply, WorkerCalls
from rbee_runtime.link import Link, Role
from tests.faults.rig import Clock

LINK = Link(Role.HIVE, "f", token="t")


class Slow(WorkerCalls):
    """Fails after `takes` seconds of the injected clock."""

    def __init__(self, clock: Clock, takes: float) -> None:
        super().__init__(LINK)
        self._clock = clock
        self._takes = takes

    async def get(self, base: str, path: str) -> Reply:
        self._clock.now += self._takes
        raise TimeoutError


@pytest.mark.parametrize(
    ("takes", "silent"),
    [(0.0, 2.0), (probes.DEADLINE_SECONDS, 2.5), (600.0, 0.0)],
    ids=["refused at once", "timed out", "the hive or the host stood still"],
)
async def test_a_failure_counts_unless_we_were_late_ourselves(takes: float, silent: float) -> None:
    """A probe that failed long after its deadline says nothing about the worker; any other is one failed probe."""
    clock = Clock()
    prober = Prober(LINK, clock=clock, changed=lambda: None)
    prober._calls = Slow(clock, takes)
    prober.aim({"w": "http://127.0.0.1:1"})
    prober.health["w"] = Health(since=clock.now, at=clock.now, ready=True)
    clock.now += probes.PROBE_SECONDS
    prober._start_due()
    await asyncio.gather(*(target.pending for target in prober._targets.values() if target.pending is not None))
    assert prober.health["w"].silent == silent
