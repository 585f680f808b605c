"""Cells of tables that mean another thing than the word that the queen sent."""

from typing import Any

import pytest

from rbee_runtime.keeper.views import fetch_line, table


def cell(kind: str, column: str, **row: Any) -> str:
    """Return what one column shows of a row, "" if the column is left out."""
    built = table(kind, [row])
    return next((str(next(iter(each.cells))) for each in built.columns if each.header == column), "")


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"state": "ready", "detail": "", "last_exit": "killed"}, "last ended: killed"),
        ({"state": "ready", "detail": "", "last_exit": "bad_config"}, "last ended: bad_config"),
        ({"state": "ready", "detail": "", "last_exit": "asked"}, ""),
        ({"state": "ready", "detail": "", "last_exit": ""}, ""),
        (
            {"state": "backoff", "detail": "killed: signal 9 ended it", "last_exit": "killed"},
            "killed: signal 9 ended it",
        ),
    ],
)
def test_an_old_end_does_not_read_as_a_fault_of_now(row: dict[str, Any], shown: str) -> None:
    """Beside `ready` a reason is told as what it is, the last end, and one that was asked for not at all."""
    assert cell("workers", "DETAIL", id="w", **row) == shown


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"state": "ready", "outdated": False}, "ready"),
        ({"state": "ready", "outdated": True}, "ready, outdated"),
        ({"state": None, "intent": "placed", "outdated": True}, "placed, outdated"),
        ({"state": "ready"}, "ready"),
    ],
    ids=["current", "outdated", "being replaced", "an older queen"],
)
def test_a_worker_of_another_build_is_called_outdated(row: dict[str, Any], shown: str) -> None:
    """Beside its state, as it may serve well with it."""
    assert cell("workers", "STATE", id="w", **row) == shown


@pytest.mark.parametrize(
    ("breaker", "shown"),
    [("closed", "ready"), ("open", "ready, ejected"), ("half_open", "ready, on trial"), (None, "ready")],
)
def test_a_worker_that_gets_no_requests_is_called_ejected(breaker: str | None, shown: str) -> None:
    """Beside what its hive sees of it, which may be nothing wrong; an older queen says nothing."""
    assert cell("workers", "STATE", id="w", state="ready", breaker=breaker) == shown


def test_a_fetch_that_failed_is_shown_with_its_next_try() -> None:
    """Beside the reason stands for how long nothing happens."""
    fetch = {"hive": "h", "state": "failed", "detail": "answers 404", "next_try": 29.7}
    assert fetch_line(fetch) == "h: failed, next try in 30 s (answers 404)"


@pytest.mark.parametrize(
    ("processes", "shown"),
    [
        ([], ""),
        ([{"pid": 7, "memory": 5, "worker": "w"}], ""),
        ([{"pid": 9, "memory": 5}, {"pid": 7, "worker": "w"}, {"pid": 8, "worker": None}], "9, 8"),
        ([{"pid": pid} for pid in (5, 4, 3, 2, 1, 9)], "5, 4, 3, 2, 2 more"),
    ],
)
def test_who_else_is_on_a_device_is_named_by_pid(processes: list[dict[str, Any]], shown: str) -> None:
    """Workers are left out, and so is the tail of many."""
    assert cell("devices", "FOREIGN PIDS", id="G", processes=processes) == shown


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"state": "live", "drained": True}, "drained"),
        ({"state": "lost", "drained": True}, "lost, to be drained"),
        ({"state": "live", "draining": True}, "live, drained on its host"),
        ({"state": "suspect", "drained": True}, "suspect, to be drained"),
        ({"state": "suspect", "drained": False}, "suspect"),
    ],
)
def test_a_hive_that_is_away_is_not_called_drained(row: dict[str, Any], shown: str) -> None:
    """What was asked of a hive that has not heard it is told as a wish beside the state that is known."""
    assert cell("hives", "STATE", name="gpu1", **row) == shown
