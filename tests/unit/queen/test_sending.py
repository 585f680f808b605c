"""Documents on their way to many hives, some of which do not answer."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from rbee_runtime import protocol
from rbee_runtime.config import FleetFile
from rbee_runtime.protocol import Desired, DesiredAck
from rbee_runtime.queen import desired
from tests.unit.hive.waiting import until
from tests.unit.queen.states import Fixture, fleet, model

Maker = Callable[[FleetFile], Fixture]


@dataclass
class Hives:
    """Takes documents as hives do, except that some are silent and some away, by their names."""

    silent: set[str] = field(default_factory=set)
    away: set[str] = field(default_factory=set)
    tries: Counter[str] = field(default_factory=Counter)
    took: list[tuple[str, int]] = field(default_factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        document = protocol.decode(request.content, Desired)
        self.tries[document.hive] += 1
        if document.hive in self.away:
            raise httpx.ConnectError("nobody is there")
        while document.hive in self.silent:  # noqa: ASYNC110 - a test lets it go on
            await asyncio.sleep(0.01)
        self.took.append((document.hive, document.revision))
        ack = DesiredAck(fleet=document.fleet, epoch=document.epoch, revision=document.revision)
        return httpx.Response(200, content=protocol.encode(ack))


@asynccontextmanager
async def sending(q: Fixture, hives: Hives, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Send the queen's documents to hives for the block."""
    async with httpx.AsyncClient(transport=httpx.MockTransport(hives)) as client:
        monkeypatch.setattr(q.documents, "_client", client)
        task = asyncio.create_task(q.documents.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def heard(q: Fixture, *names: str) -> None:
    for name in names:
        q.controller.heartbeat(q.report(name))


async def test_who_does_not_answer_holds_up_nobody_else(queen: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a hive is silent others get their document, and the next one after that."""
    q, hives = queen(fleet(model(each_host=True), hives=("a", "b"))), Hives(silent={"a"})
    async with sending(q, hives, monkeypatch):
        heard(q, "a", "b")
        await until(lambda: hives.took)
        first = q.documents.document("b").revision
        q.write(fleet(model(each_host=True, context=512), hives=("a", "b")))
        q.controller.fleet.poll()
        q.controller.reconcile()
        await until(lambda: ("b", first + 1) in hives.took, within=3)
        assert hives.tries["a"] == 1


async def test_what_changes_on_the_way_is_sent_behind(queen: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hive that took its time for a document gets the one that replaced it meanwhile."""
    q, hives = queen(fleet(model(each_host=True), hives=("a",))), Hives(silent={"a"})
    async with sending(q, hives, monkeypatch):
        heard(q, "a")
        await until(lambda: hives.tries["a"])
        first = q.documents.document("a").revision
        q.write(fleet(model(each_host=True, context=512), hives=("a",)))
        q.controller.fleet.poll()
        q.controller.reconcile()
        await asyncio.sleep(0.1)
        hives.silent.clear()
        await until(lambda: hives.took == [("a", first), ("a", first + 1)], within=3)


async def test_who_is_away_is_not_asked_with_every_change_elsewhere(
    queen: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried a few times, and then once more with each of its heartbeats."""
    monkeypatch.setattr(desired, "_RETRY_SECONDS", (0.02, 0.02, 0.02))
    q, hives = queen(fleet(model(each_host=True), hives=("a", "b"))), Hives(away={"a"})
    async with sending(q, hives, monkeypatch):
        heard(q, "a", "b")
        await until(lambda: hives.tries["a"] == 4)
        for context in (512, 256):
            hives.took.clear()
            q.write(fleet(model(context=context, hosts=("b",)), hives=("a", "b")))
            q.controller.fleet.poll()
            q.controller.reconcile()
            heard(q, "b")
            await until(lambda: hives.took)
        tried = hives.tries["a"]
        await asyncio.sleep(0.2)
        assert hives.tries["a"] == tried <= 8
        hives.away.clear()
        heard(q, "a")
        await until(lambda: any(name == "a" for name, _ in hives.took))


@pytest.mark.parametrize("away", [20, 40])
async def test_where_most_are_away_the_others_do_not_wait(
    queen: Maker, monkeypatch: pytest.MonkeyPatch, away: int
) -> None:
    """However many do not answer, whoever does gets a document at once."""
    names = [f"h{number:02}" for number in range(away)]
    q, hives = queen(fleet(model(each_host=True), hives=(*names, "z"))), Hives(silent=set(names))
    for name in names:
        q.documents._desk(name).problem = "it did not answer the last one"
    async with sending(q, hives, monkeypatch):
        heard(q, *names, "z")
        await until(lambda: any(name == "z" for name, _ in hives.took), within=3)
        assert sum(hives.tries[name] for name in names) == desired.MOST_DOUBTED
