"""Random histories of a fleet, in virtual time: what must hold after every step holds, and the fleet recovers."""

import asyncio
import os
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rbee_runtime.config import FleetModel
from rbee_runtime.errors import RequestError
from rbee_runtime.queen.loads import Cause
from tests.unit.queen.simulator import Host, Nature, World, calm, live, world
from tests.unit.queen.states import GIB, model

HISTORIES = int(os.environ.get("RBEE_HISTORIES", "150"))
"""Thousands find what is rare, in minutes."""

NATURES = {
    "small": Nature(size=GIB, need=2 * GIB, load=3),
    "wide": Nature(size=4 * GIB, need=6 * GIB, load=20),
    "kept": Nature(size=2 * GIB, need=4 * GIB, load=8),
    "broken": Nature(size=GIB, need=2 * GIB, broken=True),
}
HOSTS = ("a", "b", "c")


def models() -> list[FleetModel]:
    """Return models of which not all fit at once, each with bounds of its own; the wide one needs more than it says."""
    files: Any = {name: [{"name": "f", "sha256": "0" * 64, "size": each.size}] for name, each in NATURES.items()}
    patient = {"load_wait": 120.0, "idle_ttl": 40.0}
    return [
        model("small", files=files["small"], replicas_min=0, replicas_max=3, slots=2, **patient),
        model("wide", files=files["wide"], replicas_min=0, slots=1, **patient),
        model("kept", files=files["kept"], replicas_min=1, replicas_max=2, slots=2, **patient),
        model("broken", files=files["broken"], replicas_min=0, slots=1, **patient),
    ]


host = st.sampled_from(HOSTS)
names = st.sampled_from(sorted(NATURES))
EVENTS = st.one_of(
    st.tuples(st.just("ask"), names, st.integers(1, 6), st.sampled_from([1.0, 10.0, 45.0])),
    st.tuples(st.just("leave"), st.integers(0, 20)),
    st.tuples(st.just("crash"), host),
    st.tuples(st.just("cut"), host),
    st.tuples(st.just("mend"), host),
    st.tuples(st.just("slow"), host, st.sampled_from([1.0, 8.0])),
    st.tuples(st.just("late"), host, st.sampled_from([0.0, 2.0, 12.0])),
    st.tuples(st.just("foreign"), host, st.sampled_from([0, 3 * GIB, 9 * GIB])),
    st.tuples(st.just("drain"), host),
    st.tuples(st.just("restart")),
    st.tuples(st.just("load"), names),
    st.tuples(st.just("unload"), names),
)
HISTORY = st.lists(st.tuples(EVENTS, st.sampled_from([0, 1, 3, 10, 35, 70])), min_size=3, max_size=16)


def happens(it: World, event: tuple[Any, ...]) -> None:
    """Let one thing happen."""
    kind, *rest = event
    declared = {each.name: each for each in it.declared.models}
    match kind, rest:
        case "ask", [name, count, seconds]:
            for _ in range(count):
                it.ask(name, seconds)
        case "leave", [number]:
            waiting = [each for each in it.requests if not each.outcome]
            if waiting:
                waiting[number % len(waiting)].leave()
        case "crash", [name]:
            it.hosts[name].crash()
        case "cut", [name]:
            it.hosts[name].connected = False
        case "mend", [name]:
            it.hosts[name].up = it.hosts[name].connected = True
        case "slow" | "late" | "foreign", [name, value]:
            setattr(it.hosts[name], kind, value)
        case "drain", [name]:
            it.controller.set_drained(name, drained=True)
        case "restart", []:
            it.restart_queen()
        case "load", [name]:
            it.controller.lifecycle.want(declared[name], Cause.OPERATOR)
        case "unload", [name] if not declared[name].replicas_min:
            it.controller.lifecycle.unload(declared[name])


async def lived(history: list[tuple[tuple[Any, ...], int]]) -> None:
    """Live through a history and a calm after it, and then ask for every model."""
    hosts = [
        Host("a", {"a0": 12 * GIB}, NATURES),
        Host("b", {"b0": 8 * GIB}, NATURES),
        Host("c", {"c0": 8 * GIB, "c1": 8 * GIB}, NATURES),
    ]
    with world(models(), hosts) as it:
        await it.run(3)
        for event, pause in history:
            happens(it, event)
            await it.run(pause, step=1.0 if pause <= 10 else 5.0)
        await calm(it)
        while not live(it):
            await it.step()
        await it.run(100, step=5.0)
        for name in NATURES:
            asked = it.ask(name)
            await calm(it)
            served = asked.outcome.startswith(f"{name}-")
            assert served != NATURES[name].broken, asked.outcome


@settings(
    max_examples=HISTORIES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # Shortening a history takes minutes; it is printed whole, and short as it is.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(HISTORY)
def test_whatever_happens_the_promises_hold(history: list[tuple[tuple[Any, ...], int]]) -> None:
    """No double load, no leased worker released, no card promised twice, everybody answered, and all serve again."""
    asyncio.run(lived(history))
