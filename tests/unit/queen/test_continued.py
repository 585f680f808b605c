"""What the queen decides of streams that another worker goes on with: who may, and who pays."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.gateway.exchange import Outcome
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen import seating
from rbee_runtime.queen.desk import Journal
from rbee_runtime.queen.lines import SlotLease
from rbee_runtime.queen.records import KeyLimits
from rbee_runtime.states import Observed
from tests.unit.queen.states import Fixture, fleet, model
from tests.unit.queen.test_line_limits import key, taken
from tests.unit.queen.test_lines import code, line_up

Maker = Callable[[FleetFile], Fixture]


def pair(queen: Maker, **fields: Any) -> Fixture:
    """Return a queen with two ready workers of a model."""
    q = queen(fleet(model(replicas_min=2, slots=4, **fields), hives=("a", "b")))
    for _ in range(3):
        q.beat("a", "b")
    return q


def broken(lease: SlotLease) -> Ask:
    """End a lease whose worker has died, and return what is asked for then."""
    lease.settle(answered=False)
    lease.release()
    return Ask(lease._ask.key, "m", frozenset({lease.worker}), limit=10, revision=lease.revision)


@pytest.mark.parametrize("continues", [True, False])
def test_the_option_is_the_model_s(queen: Maker, *, continues: bool) -> None:
    """It holds as soon as the inventory says so, and for no other model."""
    q = queen(fleet(model(continues=not continues)))
    lines = line_up(q)
    assert lines.continues("m") is not continues
    q.controller.fleet.current = fleet(model(continues=continues))
    assert (lines.continues("m"), lines.continues("other")) == (continues, False)


def test_the_other_worker_of_the_model_goes_on(queen: Maker) -> None:
    """Both have the model's files, engine and options in common."""
    q = pair(queen)
    lines = line_up(q)
    first = taken(lines, Ask(key(q), "m"))
    second = taken(lines, broken(first))
    assert (second.worker != first.worker, second.revision) == (True, first.revision)
    assert first.revision


async def test_a_worker_of_another_revision_does_not(queen: Maker) -> None:
    """Where nobody else is left that is told at once, in a line as without one."""
    q = pair(queen)
    lines = line_up(q)
    asked = broken(taken(lines, Ask(key(q), "m")))
    assert await code(lines, msgspec.structs.replace(asked, revision="another")) == (503, "model_not_ready")


def test_a_revision_is_files_engine_and_options(queen: Maker) -> None:
    """Not the host or the build; of a worker with an older spec it is not known."""
    entry = next(iter(pair(queen).controller.assignments.values()))
    revision = seating.seat_of(entry, "http://x", usable=True).revision
    others = (
        replace(entry, content="other"),
        replace(entry, spec=msgspec.structs.replace(entry.spec, engine="other")),
        replace(entry, spec=msgspec.structs.replace(entry.spec, options={"tokens": 1})),
        replace(entry, observed=Observed.DRIFTED),
    )
    same = replace(entry, hive="z", spec=msgspec.structs.replace(entry.spec, id="z", build="z"))
    assert seating.seat_of(same, "http://x", usable=True).revision == revision
    found = {seating.seat_of(each, "http://x", usable=True).revision for each in others}
    assert (len(found), revision in found, "" in found) == (4, False, True)


def test_a_key_pays_once(queen: Maker) -> None:
    """One request, and the tokens of all parts, however many workers it took."""
    q = pair(queen)
    lines, counted = line_up(q), []
    lines.count = lambda *_, request, error, **__: counted.append((request, error))
    limited = key(q, limits=KeyLimits(requests_per_minute=10, tokens_per_minute=6000))
    second = taken(lines, broken(taken(lines, Ask(limited, "m", size=400, limit=100))))
    second.spent(100, 50)
    second.release()
    told = dict(lines.ratelimit_headers(limited))
    assert told[b"x-ratelimit-remaining-requests"] == b"9"
    assert told[b"x-ratelimit-remaining-tokens"] == b"5850"
    assert counted == [(True, True), (False, False)]


@pytest.mark.parametrize(("continued", "said"), [(0, []), (2, ["continued=2"])])
def test_the_log_says_how_often(continued: int, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Where it was, in the line of the request."""
    journal = Journal(lambda _seconds, _flush: None)
    journal.over(Outcome(path="/v1/chat/completions", status=200, attempts=3, continued=continued))
    journal.flush()
    words = capsys.readouterr().err.split()
    assert [word for word in words if word.startswith("continued")] == said
