"""The queen's figures for Prometheus, and what they cost a request."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families as families

from rbee_runtime.config import FleetFile
from rbee_runtime.gateway.exchange import GONE, Outcome
from rbee_runtime.queen.figures import MOST_ROWS, Figures
from rbee_runtime.queen.metrics import Meters
from rbee_runtime.queen.records import Scope
from rbee_runtime.states import Observed
from tests.unit.hive.waiting import until
from tests.unit.queen.endpoint import endpoint
from tests.unit.queen.states import Fixture, fleet, model
from tests.unit.queen.test_policy import bearer
from tests.unit.queen.whole import whole

Maker = Callable[[FleetFile], Fixture]
CHAT = "/v1/chat/completions"


def samples(text: str) -> dict[tuple[str, str], float]:
    found = [sample for family in families(text) for sample in family.samples]
    return {(s.name.removeprefix("rbee_queen_"), ",".join(s.labels.values())): s.value for s in found}


def exposed(q: Fixture, figures: Figures) -> dict[tuple[str, str], float]:
    return samples(Meters(q.controller, figures, lambda: 7).exposed()[0].decode())


def declared(queen: Maker) -> tuple[Fixture, Figures]:
    q = queen(fleet(model("m"), model("n", replicas_min=0)).model_copy(update={"aliases": {"also": "m"}}))
    return q, Figures(q.controller.fleet)


def test_each_request_is_counted_by_what_became_of_it(queen: Maker) -> None:
    """Route, model and status; tokens, tries, waits and times of what a worker answered; refusals by their code."""
    q, figures = declared(queen)
    good = Outcome(path=CHAT, model="m", status=200, attempts=3, sent=9, seconds=2.0, first=0.02, tokens=(10, 5))
    figures.over(good)
    figures.over(Outcome(path=CHAT, model="also", status=200, attempts=1, sent=9, seconds=0.2, stream=True, waited=4.0))
    figures.over(Outcome(path=CHAT, model="n", status=200, attempts=3, sent=9, seconds=9.0, stream=True, continued=2))
    figures.over(Outcome(path=CHAT, model="m", status=200, attempts=1, sent=9, stream=True, code=GONE))
    figures.over(Outcome(path=CHAT, model="n", status=429, code="queue_full", refused=True, sent=99))
    figures.over(Outcome(path=CHAT, status=401, code="invalid_api_key", refused=True))
    figures.asked("/api/v1/", 404)
    found = exposed(q, figures)
    expected = {
        ("requests_total", f"m,{CHAT},200"): 3, ("requests_total", f"n,{CHAT},429"): 1,
        ("requests_total", f",{CHAT},401"): 1, ("requests_total", ",/api/v1/,404"): 1,
        ("refusals_total", "queue_full"): 1, ("refusals_total", "invalid_api_key"): 1,
        ("streams_total", "done,m"): 1, ("streams_total", "client_gone,m"): 1, ("retries_total", "m"): 2,
        ("continuations_total", "m"): 0, ("continuations_total", "n"): 2,
        ("prompt_tokens_total", "m"): 10, ("completion_tokens_total", "m"): 5, ("request_seconds_count", "m"): 3,
        ("request_seconds_bucket", "0.25,m"): 2, ("time_to_first_byte_seconds_bucket", "0.025,m"): 3,
        ("queue_seconds_sum", "m"): 4, ("request_seconds_count", "n"): 1, ("open_requests", ""): 7,
    }  # fmt: skip
    assert {key: found.get(key) for key in expected} == expected


def test_the_state_of_the_fleet_is_counted(queen: Maker) -> None:
    """Hives by presence, workers by state, models by what clients can expect, memory as it is booked, events."""
    q, figures = declared(queen)
    q.beat("a")
    q.beat("a", state=Observed.STARTING)
    q.controller.set_drained("b", drained=True)
    found = exposed(q, figures)
    expected = {
        ("hives", "live"): 1, ("hives", "unknown"): 2, ("hives", "lost"): 0, ("hives_drained", ""): 1,
        ("models", "cold"): 1, ("queue", "m"): 0, ("in_flight", "m"): 0, ("problem", "database"): 0,
        ("ledger_bytes", "cpu,a,total"): 8 * 1024**3, ("ledger_bytes", "cpu,a,headroom"): 0.05 * 8 * 1024**3 // 1,
        ("load_seconds_count", "ready"): 0, ("event_readers", ""): 0, ("events_total", "hive_state"): 2,
    }  # fmt: skip
    assert {key: found.get(key) for key in expected} == expected
    assert sum(value for (name, _), value in found.items() if name == "workers") == len(q.controller.assignments)


def test_what_clients_call_models_makes_no_series(queen: Maker) -> None:
    """Ten thousand names that nobody declares are one; statuses and models beyond a bound are, too."""
    q, figures = declared(queen)
    for number in range(10_000):
        figures.over(Outcome(path=CHAT, model=f"x{number}", status=404, code="model_not_found", refused=True))
        figures.over(Outcome(path=CHAT, model="m", status=number, sent=1))
    assert len(dict(figures.requests())) <= 2 * MOST_ROWS + 2
    assert set(figures.models) == {"other", "m"}
    q.controller.fleet.current = fleet(model("x1"))
    figures.over(Outcome(path=CHAT, model="x1", status=200, sent=1))
    figures.over(Outcome(path=CHAT, model="x2", status=200, sent=1))
    assert set(figures.models) == {"other", "m"}


def test_counting_costs_a_request_little(queen: Maker) -> None:
    """Three millionths of a second at most, of the hundred and ten that a request has at 9,000 a second."""
    _, figures = declared(queen)
    outcome = Outcome(path=CHAT, model="m", status=200, attempts=1, sent=9, seconds=0.2, tokens=(1, 2), stream=True)

    def round_of(count: int) -> float:
        began = time.thread_time()
        for _ in range(count):
            figures.over(outcome)
        return (time.thread_time() - began) / count

    assert min(round_of(5000) for _ in range(20)) < 3e-6


async def test_a_key_that_may_look_scrapes(queen: Maker) -> None:
    """The text is Prometheus' own form, for `admin:read` as everything that tells of the fleet."""
    q, _ = declared(queen)
    async with endpoint(q) as c:
        answer = await c.get("/metrics", headers=bearer(q, Scope.ADMIN_READ))
        assert (await c.get("/metrics", headers=bearer(q, Scope.INFER))).status_code == 403
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert samples(answer.text)["hives", "unknown"] == 3


async def test_a_queen_counts_what_she_relays(tmp_path: Path) -> None:
    """A real answer of a real worker: its request, its stream, its tokens and how long it took, and its wait for it."""
    async with whole(tmp_path) as queen, httpx.AsyncClient(base_url=queen.url, headers=queen.headers, timeout=60) as c:
        body = {"model": "alias", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
        assert (await c.post(CHAT, json=body)).status_code == 200
        await until(lambda: not queen.serving._relay.open)
        found = samples((await c.get("/metrics")).text)
    assert found["requests_total", f"m,{CHAT},200"] == 1
    assert found["streams_total", "done,m"] == 1
    assert found["completion_tokens_total", "m"] == 3
    assert found["queue_seconds_count", "m"] == 1
    assert 0 < found["time_to_first_byte_seconds_sum", "m"] <= found["request_seconds_sum", "m"]
    assert (found["workers", "ready"], found["hives", "live"]) == (1, 1)
