"""Random histories of a fleet, in virtual time: what must hold after every step holds, and the fleet recovers."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rbee_runtime.config import FleetModel
from rbee_runtime.errors import RequestError
from rbee_runtime.queen.explain import check_move
from rbee_runtime.queen.records import Cause
from tests.unit.queen.simulator import Host, Nature, World, calm, live, world
from tests.unit.queen.states import GIB, model

HISTORIES = int(os.environ.get("RBEE_HISTORIES", "150"))
"""`make fuzz-placement` has thousands, which find what is rare, in minutes."""

NATURES = {
    "small": Nature(size=GIB, need=2 * GIB, load=3),
    "wide": Nature(size=4 * GIB, need=6 * GIB, load=20),
    "kept": Nature(size=2 * GIB, need=4 * GIB, load=8),
    "other": Nature(size=2 * GIB, need=3 * GIB, load=8),
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
        model("other", files=files["other"], replicas_min=0, slots=1, **patient),
        model("kept", files=files["kept"], replicas_min=1, replicas_max=2, slots=2, **patient),
        model("broken", files=files["broken"], replicas_min=0, slots=1, **patient),
    ]


host = st.sampled_from(HOSTS)
names = st.sampled_from(sorted(NATURES))
ASKED = st.tuples(st.just("ask"), names, st.integers(1, 6), st.sampled_from([1.0, 45.0, 90.0]))
EVENTS = st.one_of(
    *(ASKED for _ in range(10)),
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
    st.tuples(st.just("move"), st.integers(0, 20)),
)
HISTORY = st.lists(st.tuples(EVENTS, st.sampled_from([0, 1, 3, 10, 35, 70])), min_size=3, max_size=16)


def happens(it: World, event: tuple[Any, ...]) -> None:
    """Let one thing happen."""
    kind, *rest = event
    if kind in {"slow", "late", "foreign"}:
        setattr(it.hosts[rest[0]], kind, rest[1])
    else:
        HAPPENINGS[kind](it, *rest)


def ask(it: World, name: str, count: int, seconds: float) -> None:
    for _ in range(count):
        it.ask(name, seconds)


def leave(it: World, number: int) -> None:
    waiting = [each for each in it.requests if not each.outcome]
    if waiting:
        waiting[number % len(waiting)].leave()


def mend(it: World, name: str) -> None:
    it.hosts[name].up = it.hosts[name].connected = True


def unload(it: World, name: str) -> None:
    declared = {each.name: each for each in it.declared.models}[name]
    if not declared.replicas_min:
        it.controller.lifecycle.unload(declared, waiting=it.lines.waiting(name))


def load(it: World, name: str) -> None:
    it.controller.lifecycle.want({each.name: each for each in it.declared.models}[name], Cause.OPERATOR)


def move(it: World, number: int) -> None:
    entries = list(it.controller.assignments.values())
    with contextlib.suppress(RequestError):
        if entries:
            entry = check_move(it.controller, entries[number % len(entries)].id, "")
            it.controller.lifecycle.move(entry, "")


HAPPENINGS: dict[str, Callable[..., object]] = {
    "ask": ask,
    "leave": leave,
    "crash": lambda it, name: it.hosts[name].crash(),
    "cut": lambda it, name: setattr(it.hosts[name], "connected", False),
    "mend": mend,
    "drain": lambda it, name: it.controller.set_drained(name, drained=True),
    "restart": World.restart_queen,
    "load": load,
    "unload": unload,
    "move": move,
}


async def lived(history: list[tuple[tuple[Any, ...], int]]) -> None:
    """Live through a history and a calm after it, and then ask for every model."""
    cards = {"a": {"a0": 8 * GIB}, "b": {"b0": 7 * GIB}, "c": {"c0": 3 * GIB}}
    hosts = [Host(name, cards[name], NATURES) for name in HOSTS]
    with world(models(), hosts) as it:
        await it.run(3)
        for event, pause in history:
            happens(it, event)
            await it.run(pause, step=1.0 if pause <= 10 else 5.0)
        await calm(it)
        while not live(it):
            await it.step()
        await it.run(100, step=5.0)
        for name, nature in NATURES.items():
            asked = it.ask(name)
            await calm(it)
            assert asked.outcome.startswith(f"{name}-") != nature.broken, asked.outcome


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
