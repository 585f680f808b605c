"""What a hive tells of what happens: what the feed makes of snapshots, and the route that streams it."""

import asyncio
import json

import msgspec
import pytest

from rbee_runtime.events import EventLog
from rbee_runtime.hive.feed import Feed, Snapshot
from rbee_runtime.hive.metrics import Meters
from rbee_runtime.protocol import DesiredAck, DeviceProcess, DeviceReport, Event, FetchReport, ModelReport, WorkerReport
from rbee_runtime.states import ExitReason, FetchState, Observed
from tests.unit.hive.conftest import Start, desired, fake
from tests.unit.hive.waiting import until


def worker(state: Observed, **fields: object) -> WorkerReport:
    return WorkerReport(id="w-1", model="m", spec="s", state=state, **fields)  # type: ignore[arg-type]


def device(*, healthy: bool = True, memory: int = 4) -> DeviceReport:
    taken = (DeviceProcess(pid=9, memory=memory),)
    return DeviceReport(id="GPU-1", kind="cuda", name="g", total=8, used=0, healthy=healthy, processes=taken)


def fetch(state: FetchState, done: int = 0) -> FetchReport:
    return FetchReport(name="m", state=state, done=done, total=100)


CRASHED = worker(Observed.BACKOFF, last_exit=ExitReason.CRASHED, exit_status=1, restarts=1)
STEPS: list[tuple[Snapshot, Snapshot, list[str]]] = [
    (Snapshot(), Snapshot(workers={"w-1": worker(Observed.STARTING)}), ["worker_state"]),
    (
        Snapshot(workers={"w-1": worker(Observed.READY)}),
        Snapshot(workers={"w-1": CRASHED}),
        ["worker_exit", "worker_state"],
    ),
    (
        Snapshot(workers={"w-1": worker(Observed.STARTING)}),
        Snapshot(workers={"w-1": worker(Observed.STARTING, restarts=1)}),
        ["worker_exit"],
    ),
    (Snapshot(workers={"w-1": CRASHED}), Snapshot(workers={"w-1": CRASHED}), []),
    (Snapshot(workers={"w-1": CRASHED}), Snapshot(), ["worker_state"]),
    (Snapshot(), Snapshot(fetches={"m": fetch(FetchState.FETCHING)}), ["model_state"]),
    (
        Snapshot(fetches={"m": fetch(FetchState.FETCHING, 1)}),
        Snapshot(fetches={"m": fetch(FetchState.FETCHING, 9)}),
        [],
    ),
    (Snapshot(), Snapshot(models={"m": ModelReport(name="m", size=1)}), ["model_state"]),
    (Snapshot(models={"m": ModelReport(name="m", size=1)}), Snapshot(), ["model_state"]),
    (Snapshot(devices={"GPU-1": device()}), Snapshot(devices={"GPU-1": device(healthy=False)}), ["device_state"]),
    (Snapshot(devices={"GPU-1": device()}), Snapshot(devices={"GPU-1": device(memory=5)}), []),
    (Snapshot(devices={"GPU-1": device()}), Snapshot(), ["device_state"]),
    (Snapshot(), Snapshot(ack=DesiredAck(fleet="t", epoch=1, revision=2)), ["desired"]),
    (Snapshot(), Snapshot(draining=True), ["drain"]),
]


@pytest.mark.parametrize(("before", "after", "kinds"), STEPS)
def test_a_difference_is_an_event(before: Snapshot, after: Snapshot, kinds: list[str]) -> None:
    """Each change of state is told once, in the order cause first; what did not change is not told."""
    moments = iter([before, after])
    made = EventLog("abc")
    feed = Feed(made, Meters(), look=lambda: next(moments))
    feed.changed()
    told = len(made.held())
    feed.changed()
    assert [event.kind for event in made.held()[told:]] == kinds


async def test_progress_is_told_once_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only while bytes come, and never for a model that stands still."""
    monkeypatch.setattr("rbee_runtime.hive.feed.PROGRESS_SECONDS", 0.01)
    dones = iter([10, 10, 30])
    made = EventLog("abc")
    look = lambda: Snapshot(fetches={"m": fetch(FetchState.FETCHING, next(dones, 30))})  # noqa: E731 - one line
    feed = Feed(made, Meters(), look=look)
    feed.changed()
    running = asyncio.create_task(feed.run())

    def told() -> list[object]:
        return [event.data["done"] for event in made.held() if event.kind == "model_progress"]

    await until(lambda: 30 in told())
    await asyncio.sleep(0.1)
    running.cancel()
    assert told() == [10, 30]


async def test_the_api_streams_events(start: Start) -> None:
    """A stream has ids, kinds and data; coming back with an id replays what was missed; a list has the same."""
    _, queen = await start()
    await queen.put(desired(1, fake("w-1")))
    await until(lambda: queen.in_state("w-1", "ready"))
    listed = (await queen.client.get(f"{queen._base}/api/v1/events", headers={"accept": "application/json"})).json()
    kinds = {(event["kind"], event["data"].get("state")) for event in listed}
    assert {("worker_state", "ready"), ("desired", None), ("device_state", None)} <= kinds
    lines: list[str] = []
    headers = {"last-event-id": "none-0"}
    async with queen.client.stream("GET", f"{queen._base}/api/v1/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            lines.append(line)
            if sum(each.startswith("data: ") for each in lines) > len(listed):
                break
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert (lines[0], data[0]["kind"], data[1:]) == (": still here", "reset", listed)
    assert msgspec.convert(data[-1], Event).id == int(lines[-3].removeprefix("id: ").split("-")[1])


async def test_a_stopping_hive_ends_its_streams(start: Start) -> None:
    """An open stream ends in order, so that a reader holds up neither a restart nor itself."""
    hive, queen = await start()
    async with queen.client.stream("GET", f"{queen._base}/api/v1/events") as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == ": still here"
        stopping = asyncio.create_task(hive.stop(stop_workers=False))
        assert [line async for line in lines if line] == []
        await asyncio.wait_for(stopping, 30)
