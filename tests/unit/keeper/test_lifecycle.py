"""Loading, unloading, moving and explaining models from the command line."""

import io
import json
from typing import Any

import httpx
import pytest

from rbee_runtime.errors import QueenCallError
from rbee_runtime.keeper.client import QueenClient
from rbee_runtime.keeper.lifecycle import loaded, told
from rbee_runtime.keeper.progress import Meter
from rbee_runtime.keeper.settings import settle
from tests.unit.keeper.stand_in import TABLES, StandIn
from tests.unit.keeper.test_cli import Keeper, keeper, queen, server

__all__ = ["keeper", "queen", "server"]

GIB = 1024**3
EXPLAINED: dict[str, Any] = {
    "summary": "m is not loaded",
    "wanted": 1,
    "ready": 0,
    "workers": [{"id": "m-1", "hive": "a", "devices": ["g0"], "state": "starting", "why": "stays: not ready yet"}],
    "places": [
        {"hive": "a", "fits": True, "chosen": True, "needs": 2 * GIB, "devices": ["g0"], "evicts": ["other-1"]},
        {
            "hive": "b",
            "fits": False,
            "reason": "needs \x1b2.0 GiB",
            "passes": True,
            "shielded": {"other-2": "with requests"},
            "ledger": [{"id": "g1", "total": 8 * GIB, "reserved": 7 * GIB, "free": GIB}],
        },
    ],
}


def client(*answers: dict[str, Any]) -> QueenClient:
    """Return a client whose queen gives these answers one after the other."""
    left = list(answers)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=left.pop(0)))
    return QueenClient(settle("http://127.0.0.1:1", "rbee_a_b", None, None), transport=transport)


def load_of(*answers: dict[str, Any], wait: bool = True) -> tuple[dict[str, Any], list[str]]:
    out = io.StringIO()
    with client(*answers) as queen, Meter(out) as meter:
        found = loaded(queen, "m", wait=wait, say=meter.show, sleep=lambda _: None)
    return found, out.getvalue().splitlines()


def job(phase: str, detail: str = "") -> dict[str, Any]:
    return {"ready": 0, "load": {"phase": phase, "detail": detail}}


def test_a_load_is_followed_until_the_model_serves() -> None:
    """Each change is one line."""
    found, said = load_of(job("placing"), job("loading", "40 %"), job("loading", "40 %"), {"ready": 1, "load": None})
    assert (found["ready"], said) == (1, ["m is placing", "m is loading: 40 %"])


def test_a_load_that_fails_is_an_error_with_its_reason() -> None:
    """It says what the queen says."""
    with pytest.raises(QueenCallError, match="m was not loaded: no room"):
        load_of(job("placing"), job("failed", "no room"))


def test_nobody_has_to_wait_for_a_load() -> None:
    """One call, and whatever it says."""
    assert load_of(job("placing"), wait=False)[0] == job("placing")


def test_an_explanation_has_workers_hosts_and_numbers() -> None:
    """It is text without control characters, a line for each thing."""
    assert told(EXPLAINED).splitlines() == [
        "m is not loaded",
        "",
        "workers:",
        "  m-1 on a (g0), starting: stays: not ready yet",
        "",
        "one more worker (0 of 1 serve):",
        "  a: yes, 2.0 GiB on g0; other-1 would go (the best place)",
        "  b: no, needs 2.0 GiB (may pass)",
        "    g1: total 8.0 GiB, reserved 7.0 GiB, measured 0, foreign 0, headroom 0, free 1.0 GiB",
        "    other-2 stays: with requests",
    ]


@pytest.mark.parametrize(
    ("typed", "call", "kind", "answer", "says"),
    [
        (("models", "load", "org/m:q4", "--no-wait"), "POST /api/v1/models/org/m:q4/load", "load", {}, "being loaded"),
        (("models", "unload", "m"), "POST /api/v1/models/m/unload", "unload", {"workers": 0}, "m is unloaded"),
        (("models", "unload", "m"), "POST /api/v1/models/m/unload", "unload", {"workers": 2}, "2 of its workers"),
        (("explain", "m"), "GET /api/v1/models/m/explain", "explain", EXPLAINED, "m is not loaded"),
        (("move", "m-1", "b"), "POST /api/v1/workers/m-1/move", "move", {"hive": "a"}, "from a to b"),
        (("move", "m-1"), "POST /api/v1/workers/m-1/move", "move", {"hive": "a"}, "to the best other hive"),
    ],
)
def test_each_command_is_one_call(
    keeper: Keeper,
    queen: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    typed: tuple[str, ...],
    call: str,
    kind: str,
    answer: dict[str, Any],
    says: str,
) -> None:
    """What the queen says is told in a sentence, or as it is with --json; names of models may hold a slash."""
    monkeypatch.setitem(TABLES, kind, answer)
    status, out, _ = keeper(*typed)
    assert (status, queen.calls, says in out) == (0, [call], True)
    assert json.loads(keeper(*typed, "--json")[1]) == answer


def test_models_alone_lists_them(keeper: Keeper) -> None:
    """As `models ls` does."""
    assert keeper("models")[1] == keeper("models", "ls")[1] != ""
