"""What happens in a fleet is told once, in the order in which it happens, with what people need to know of it."""

import json
from collections.abc import Callable

import httpx
import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.events import EventLog
from rbee_runtime.queen import watch_routes
from rbee_runtime.queen.history import EventKind, History, Moment
from rbee_runtime.queen.membership import LOST_SECONDS, SUSPECT_SECONDS, Presence
from rbee_runtime.queen.placement import Plan
from rbee_runtime.queen.records import Cause, Scope
from rbee_runtime.states import Observed
from tests.unit.hive.waiting import until
from tests.unit.queen.endpoint import endpoint
from tests.unit.queen.states import GIB, Fixture, fleet, model
from tests.unit.queen.test_policy import bearer

Maker = Callable[[FleetFile], Fixture]
Said = list[tuple[str, str, object]]


def told(q: Fixture, *kinds: str) -> Said:
    """Return kind, subject and what is new of each event."""
    news = ("change", "phase", "state")
    return [
        (event.kind, event.subject, next((event.data[name] for name in news if name in event.data), None))
        for event in q.controller.history.log.held()
        if not kinds or event.kind in kinds
    ]


def passes(q: Fixture, seconds: float) -> None:
    q.clock.now += seconds
    q.controller.reconcile()


def test_a_hive_comes_goes_and_comes_back(queen: Maker) -> None:
    """Joined, suspect, lost and back, drained and undrained: each once, and nothing while nothing changes."""
    q = queen(fleet(hives=("a",)))
    q.beat("a", "a")
    passes(q, SUSPECT_SECONDS)
    passes(q, 1)
    passes(q, LOST_SECONDS)
    q.beat("a")
    q.controller.set_drained("a", drained=True)
    q.controller.set_drained("a", drained=False)
    changes = ["joined", "suspect", "lost", "back", "drained", "undrained"]
    assert told(q, "hive_state") == [("hive_state", "a", change) for change in changes]


def test_a_worker_is_followed_from_its_placement_to_its_end(queen: Maker) -> None:
    """Where it is placed and why that is news, each state that its hive tells, whether it is reached, its release."""
    q = queen(fleet(model(), hives=("a",)))
    q.beat("a")
    worker = q.workers("a")[0]
    q.beat("a", state=Observed.STARTING)
    q.beat("a")
    q.controller.doubt(worker)
    q.controller.set_drained("a", drained=True)
    q.beat("a", state=Observed.DRAINING)
    assert told(q, "placement", "model_state", "worker_state")[:6] == [
        ("placement", worker, "placed"),
        ("model_state", "m", "placed"),
        ("worker_state", worker, ""),
        ("worker_state", worker, "starting"),
        ("worker_state", worker, "ready"),
        ("worker_state", worker, "ready"),
    ]
    states = [event.data for event in q.controller.history.log.held() if event.kind == "worker_state"]
    assert [state["reached"] for state in states[:4]] == [True, True, True, False]
    assert ("placement", worker, "released") in told(q)


def test_a_load_is_told_from_phase_to_phase(queen: Maker) -> None:
    """Each phase once, how it ended and after how long, which figures count, too."""
    q = queen(fleet(model(replicas_min=0), hives=("a",)))
    q.beat("a")
    q.controller.want("m", Cause.OPERATOR)
    q.clock.now += 3
    q.beat("a", state=Observed.STARTING)
    q.beat("a")
    q.controller.reconcile()
    phases = [phase for _, _, phase in told(q, "load_state")]
    assert (phases[0], phases[-1], len(phases)) == ("placing", "ready", len(set(phases)))
    taken = q.controller.history.loads["ready"]
    assert (sum(taken.counts), taken.total) == (1, 3.0)


def test_a_load_that_fails_is_told_with_its_reason(queen: Maker) -> None:
    """The load and its model, in the words that clients get."""
    files = [{"name": "f", "sha256": "0" * 64, "size": 90 * GIB}]
    q = queen(fleet(model(replicas_min=0, files=files), hives=("a",)))
    q.beat("a")
    q.controller.want("m")
    assert told(q, "load_state")[-1] == ("load_state", "m", "failed")
    failed = [event.data for event in q.controller.history.log.held() if event.data.get("change") == "failed"]
    assert failed == [{"change": "failed", "detail": q.controller.lifecycle.failure("m")}]


def test_who_makes_room_is_told(queen: Maker) -> None:
    """An eviction names the worker, its host and the model that it makes room for."""
    q = queen(fleet(model(), hives=("a",)))
    q.beat("a")
    worker = q.workers("a")[0]
    q.controller.lifecycle.planned(q.controller.assignments, Plan((), {}, {}, evicted={worker: "big"}))
    event = q.controller.history.log.held()[-1]
    assert (event.kind, event.subject) == ("model_state", "m")
    assert event.data == {"change": "evicted", "worker": worker, "hive": "a", "room_for": "big"}


def test_a_key_is_told_without_its_secret(queen: Maker) -> None:
    """Who made it and what it opens; the key itself and its digest are in no event."""
    q = queen(fleet())
    root, _ = q.keys.create("root", Scope)
    record, key = q.keys.create("ann", [Scope.INFER], creator=root)
    q.keys.revoke(record.id)
    assert told(q, "key")[1:] == [("key", record.id, "created"), ("key", record.id, "revoked")]
    log = str(q.controller.history.log.held())
    assert (root.id in log, key[14:] in log, record.digest in log) == (True, False, False)


def test_a_plan_that_cannot_help_says_so_once(queen: Maker) -> None:
    """Models that lack workers, with the hosts' reasons; a frozen fleet, and its end."""
    history = History(EventLog("x"))
    for frozen in (False, True, True, False):
        history.planned({"m": ("a: no room",)}, frozen=frozen, settled=True)
    assert [(event.subject, event.data["change"]) for event in history.log.held()] == [
        ("m", "lacking"),
        ("", "frozen"),
        ("", "resumed"),
    ]


def test_others_can_tell_what_they_do() -> None:
    """Whoever decides something has one call to tell of it."""
    history = History(EventLog("x"))
    history.record(EventKind.EJECTION, "w-1", {"change": "ejected", "detail": "5 failures in a row"})
    assert history.log.held()[0].data == {"change": "ejected", "detail": "5 failures in a row"}


def test_what_a_queen_finds_at_her_start_is_no_news() -> None:
    """The first look tells nothing; one thousand hosts that are heard for the first time are one event each."""
    history = History(EventLog("x"))
    silent = {f"h{n}": (Presence.UNKNOWN, False) for n in range(1000)}
    history.look(Moment(silent))
    history.look(Moment(dict.fromkeys(silent, (Presence.LIVE, False))))
    history.look(Moment(dict.fromkeys(silent, (Presence.LIVE, False))))
    assert history.log.counts == {"hive_state": 1000}


async def test_events_are_a_list_or_a_stream_with_replay(queen: Maker) -> None:
    """A list for whoever asks for JSON; else events as they come, after the last one that a reader had."""
    q = queen(fleet(hives=("a", "b")))
    q.beat("a", "b")
    async with endpoint(q) as c:
        c.headers.update(bearer(q, Scope.ADMIN_READ))
        listed = (await c.get("/api/v1/events", headers={"accept": "application/json"})).json()
        first = f"{q.controller.history.log.incarnation}-{listed[0]['id']}"
        async with c.stream("GET", "/api/v1/events", headers={"last-event-id": first}) as answer:
            lines = answer.aiter_lines()
            assert (await anext(lines), answer.headers["content-type"][:17]) == (": still here", "text/event-stream")
            q.controller.set_drained("b", drained=True)
            data = []
            async for line in lines:
                data += [json.loads(line.removeprefix("data: "))] if line.startswith("data: ") else []
                if data and data[-1]["data"].get("change") == "drained":
                    break
    assert data[: len(listed) - 1] == listed[1:]


async def test_streams_are_counted_bounded_and_given_back(queen: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """One reader too many is told to come again; one that went away makes room."""
    monkeypatch.setattr(watch_routes, "MAX_READERS", 1)
    q = queen(fleet())
    async with endpoint(q) as c:
        c.headers.update(bearer(q, Scope.ADMIN_READ))
        async with c.stream("GET", "/api/v1/events") as answer:
            await anext(answer.aiter_lines())
            refused: httpx.Response = await c.get("/api/v1/events")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        await until(lambda: not q.controller.history.log.readers)
