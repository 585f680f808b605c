"""Logs of all workers in one stream: who is followed, from where, and again after what."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import cast

import pytest

from rbee_runtime.errors import LauncherError
from rbee_runtime.hive.launchers import Launcher
from rbee_runtime.hive.log_views import follow_all


class Logs:
    """Logs that end after what they hold, as those of containers; `asked` is every follow with its lines."""

    def __init__(self) -> None:
        self.held: dict[str, list[str]] = {}
        self.asked: list[tuple[str, int]] = []

    async def follow(self, worker: str, lines: int) -> AsyncGenerator[str, None]:
        self.asked.append((worker, lines))
        if worker not in self.held:
            raise LauncherError("no log yet")
        for line in self.held[worker]:
            yield line


async def heard(logs: Logs, pids: dict[str, int | None], count: int) -> list[str]:
    found: list[str] = []
    async with aclosing(follow_all(cast("Launcher", logs), lambda: pids, 10, every=0.01)) as lines, asyncio.timeout(5):
        async for line in lines:
            found.append(line)
            if len(found) == count:
                break
            if line == "a: begun":
                pids["a"], logs.held["a"] = 2, ["anew"]
            logs.held.setdefault("b", ["late"])
    return found


@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
async def test_a_log_that_comes_later_is_followed(late: bool) -> None:
    """A worker whose log is not there yet is asked again until it is, and from its beginning."""
    logs = Logs()
    logs.held = {"a": ["begun"]} if late else {"a": ["begun"], "b": ["late"]}
    found = await heard(logs, {"a": 1, "b": 1}, 3)
    assert sorted(found) == ["a: anew", "a: begun", "b: late"]
    assert {lines for _, lines in logs.asked} == {10}


async def test_a_log_that_ended_is_not_told_twice() -> None:
    """A worker that ended is asked once, and again only when another process writes."""
    logs = Logs()
    logs.held = {"a": ["done"], "b": ["other"]}
    pids: dict[str, int | None] = {"a": 1, "b": None}
    with suppress(TimeoutError):
        async with (
            aclosing(follow_all(cast("Launcher", logs), lambda: pids, 10, every=0.01)) as lines,
            asyncio.timeout(0.3),
        ):
            found = [line async for line in lines]
            pytest.fail(f"the stream ended after {found}")
    assert sorted(logs.asked) == [("a", 10), ("b", 10)]
