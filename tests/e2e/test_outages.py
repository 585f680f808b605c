"""Hosts are rebooted and lose power in any order; their workers come back without a deploy."""

import time
from collections.abc import Callable

import openai
import pytest

from tests.e2e.fleets import Fleet, wait_for
from tests.e2e.test_restarts import settled_pids

pytestmark = pytest.mark.lab

OUTAGES = {
    "GPU host rebooted": ["reboot gpu1"],
    "GPU host loses power": ["hard_stop gpu1", "boot gpu1"],
    "queen loses power": ["hard_stop queen", "boot queen"],
    "all lose power, GPU host back first": ["hard_stop queen", "hard_stop gpu1", "boot gpu1", "boot queen"],
    "all lose power, queen back first": ["hard_stop gpu1", "hard_stop queen", "boot queen", "boot gpu1"],
}


def answered(fleet: Fleet) -> str | None:
    """Return an answer of the real model, None where the queen asks to try again."""
    try:
        answer = fleet.client().chat.completions.create(
            model="smol", messages=[{"role": "user", "content": "hi"}], max_tokens=4
        )
    except openai.InternalServerError:
        return None
    return answer.choices[0].message.content or "nothing"


@pytest.mark.parametrize("outage", OUTAGES)
def test_workers_are_back_without_a_deploy(
    deployed: Fleet, outage: str, record_property: Callable[[str, object], None]
) -> None:
    """After the outage every model answers again, and nobody had to do anything."""
    for step in OUTAGES[outage]:
        action, _, name = step.partition(" ")
        getattr(deployed.lab.hosts[name], action)()
    begun = time.monotonic()
    deployed.wait_ready("smol")
    deployed.wait_ready("slow", 2)
    # The queen may take a connection from before the outage for a living one, and say 503 with Retry-After once.
    assert wait_for("an answer", lambda: answered(deployed)) is not None
    record_property("seconds_until_serving", round(time.monotonic() - begun, 1))


def test_workers_are_restored_while_the_queen_is_away(deployed: Fleet) -> None:
    """A GPU host that loses power brings its workers back from its own records, without a queen."""
    gpu = deployed.lab.hosts["gpu1"]
    wanted = len(settled_pids(deployed, gpu))
    deployed.queen.hard_stop()
    try:
        gpu.hard_stop()
        gpu.boot()
        listing = "systemctl list-units 'rbee-worker@*' --state=active --no-legend"
        wait_for("every worker", lambda: gpu.run(listing).stdout.count("rbee-worker@") == wanted)
    finally:
        deployed.queen.boot()
    deployed.wait_ready("slow", 2)
