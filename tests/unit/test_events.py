"""What happened, in order: replay, reset, and readers that stall."""

import asyncio

import pytest

from rbee_runtime.events import EventLog
from rbee_runtime.hive.events import EventKind


def log(keep: int = 8) -> EventLog:
    return EventLog("abc", clock=lambda: 5.0, keep=keep, keep_alive=0.01)


def filled(count: int, keep: int = 8) -> EventLog:
    made = log(keep)
    for number in range(count):
        made.publish(EventKind.WORKER_STATE, f"w-{number + 1}")
    return made


async def first(made: EventLog, last: str, count: int) -> list[str]:
    """Return what a reader gets, up to `count` events or the first silence."""
    seen: list[str] = []
    async for event in made.follow(last):
        if event is None or len(seen) == count:
            break
        seen.append(event.subject or event.kind)
    return seen


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("", []),
        ("abc-3", ["w-4", "w-5"]),
        ("abc-5", []),
        ("abc-0", ["w-1", "w-2", "w-3", "w-4", "w-5"]),
        ("abc-6", ["reset", "w-1", "w-2", "w-3", "w-4", "w-5"]),
        ("old-3", ["reset", "w-1", "w-2", "w-3", "w-4", "w-5"]),
        ("abc-x", ["reset", "w-1", "w-2", "w-3", "w-4", "w-5"]),
    ],
)
async def test_a_reader_goes_on_where_it_was(last: str, expected: list[str]) -> None:
    """What was missed comes in order; an id that says nothing here brings a reset and all that is held."""
    assert await first(filled(5), last, 20) == expected


async def test_what_is_too_old_is_a_reset() -> None:
    """The ring forgets; the reader is told instead of missing events silently."""
    made = filled(20, keep=8)
    assert await first(made, "abc-11", 20) == ["reset", *(f"w-{number}" for number in range(13, 21))]
    assert await first(made, "abc-12", 20) == [f"w-{number}" for number in range(13, 21)]


async def test_a_reader_that_stalls_is_let_go() -> None:
    """One that takes nothing while the ring turns over ends; another one is not disturbed."""
    made = filled(1)
    slow, fast = made.follow("abc-0"), made.follow("abc-0")
    assert [(await anext(slow)).subject, (await anext(fast)).subject] == ["w-1", "w-1"]  # type: ignore[union-attr]
    for number in range(40):
        made.publish(EventKind.DRAIN, f"{number}")
        assert (await anext(fast)).subject == f"{number}"  # type: ignore[union-attr]
    with pytest.raises(StopAsyncIteration):
        await anext(slow)
    await fast.aclose()


async def test_an_event_wakes_a_reader_and_silence_gives_signs_of_life() -> None:
    """A waiting reader gets a new event at once, and None now and then while nothing happens."""
    made = EventLog("abc", keep_alive=30)
    reading = asyncio.create_task(first(made, "", 1))
    await asyncio.sleep(0)
    made.publish(EventKind.DRAIN, "now")
    made.publish(EventKind.DRAIN, "then")
    assert await asyncio.wait_for(reading, 10) == ["now"]
    assert await anext(log().follow()) is None
