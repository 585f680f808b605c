"""Waiting for workers that the queen replaces: what ends it, and what does not."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from rbee_deploy.activator.queen import SILENT_SECONDS, Outcome, Queen, follow
from rbee_deploy.activator.units import ActivationError

RELEASES = {"a": "0.2.0-b"}
HIVES = [{"name": "a", "state": "live", "builds": {"fake": "0.2.0-b"}}]


def row(state: str | None = "ready", **fields: Any) -> dict[str, Any]:
    return {"id": "m-1", "hive": "a", "state": state, "detail": "", "outdated": False, "renewed": False, **fields}


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Queen]:
    """Return a queen who says of workers one thing after the other, the last for ever; an error is raised."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def make(*answers: list[dict[str, Any]] | Exception) -> Queen:
        left = list(answers)

        def call(_queen: Queen, _method: str, path: str) -> Any:
            if path == "hives":
                return HIVES
            answer = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(Queen, "call", call)
        return Queen(8500, "key")

    return make


AWAY = ActivationError("the queen does not answer on port 8500: refused")
OLD, COMING = row(outdated=True), row("starting", outdated=True, renewed=True)
CASES: dict[str, tuple[list[Any], Outcome]] = {
    "all run it": ([[row()]], Outcome(workers=1)),
    "they come up": ([[OLD], [COMING], [row()]], Outcome(workers=1)),
    "she restarts meanwhile": ([[OLD], *[AWAY] * 20, [row()]], Outcome(workers=1)),
    "one failed for weeks and gets it": (
        [[row("crash_loop", outdated=True)], [row("crash_loop")]],
        Outcome(workers=1),
    ),
    "one that served before fails": (
        [[OLD], [row("crash_loop", outdated=True, renewed=True)]],
        Outcome("worker m-1 on a is crash_loop"),
    ),
    "one never comes": ([[COMING]], Outcome("worker m-1 on a is starting")),
    "one ends again and again": (
        [[row("backoff", outdated=True, renewed=True)]],
        Outcome("worker m-1 on a is backoff"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_ends_the_wait(says: Callable[..., Queen], case: str) -> None:
    """Workers that run what they should end it well; only one that this run broke, or time, ends it badly."""
    answers, outcome = CASES[case]
    assert follow(says(*answers), RELEASES, 1800.0) == outcome


@pytest.mark.parametrize("answers", [[AWAY], [[OLD], AWAY]])
def test_a_queen_who_stays_away_is_told(says: Callable[..., Queen], answers: list[Any]) -> None:
    """One who never answered holds nobody up; one who did is waited for a minute, and not for half an hour."""
    with pytest.raises(ActivationError, match="does not answer"):
        follow(says(*answers), RELEASES, 1800.0)
    assert time.monotonic() < 2 * SILENT_SECONDS
