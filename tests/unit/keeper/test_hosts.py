"""What `rbee-keeper` shows of single hosts: devices, one worker, its log, events, fetches."""

import json

import pytest

from tests.unit.keeper.stand_in import DEVICE, EVENTS, WORKER, StandIn
from tests.unit.keeper.test_cli import Keeper, keeper, queen, server

__all__ = ["keeper", "queen", "server"]


@pytest.mark.parametrize("arguments", [["devices"], ["devices", "gpu1"]])
def test_devices_are_listed(keeper: Keeper, queen: StandIn, arguments: list[str]) -> None:
    """Of all hives as last heard or of one as it is now: memory, who else takes it, and health."""
    status, out, _ = keeper(*arguments)
    assert status == 0
    for word in ("gpu1", "GPU-1", "Some GPU", "24.0 GiB", "3.0 GiB", "unhealthy"):
        assert word in out
    assert queen.calls == [["GET /api/v1/hives"], ["GET /api/v1/hives/gpu1/devices"]][len(arguments) - 1]
    assert json.loads(keeper(*arguments, "--json")[1]) == [{"hive": "gpu1", **DEVICE}]


def test_models_show_what_is_on_its_way(keeper: Keeper) -> None:
    """Progress, rate and time left per hive, and who has it already."""
    out = keeper("models")[1]
    for word in ("ON DISK", "gpu1: fetching 43 %, 12.5 MiB/s, 30 s left"):
        assert word in out


def test_workers_have_the_name_that_their_host_shows(keeper: Keeper) -> None:
    """The unit's name leads from a worker to systemctl on its host."""
    assert "rbee-worker@toy-1.service" in keeper("workers")[1]


def test_a_worker_is_explained(keeper: Keeper) -> None:
    """State, reason, next step, memory and exit of one worker; JSON has the same facts."""
    out = keeper("worker", "toy-1")[1]
    for word in ("backoff for 4 s", "crashed: boom", "in 7 s", "2.0 GiB on GPU-1", "(status 1)", "3 in a row", "gpu1"):
        assert word in out
    assert json.loads(keeper("worker", "toy-1", "--json")[1]) == WORKER


@pytest.mark.parametrize(
    ("options", "query"), [([], "lines=100"), (["-n", "5"], "lines=5"), (["--follow"], "lines=100&follow=1")]
)
def test_logs_are_shown_and_cannot_steer_the_terminal(keeper: Keeper, options: list[str], query: str) -> None:
    """Lines as they come, without control characters."""
    assert keeper("logs", "toy-1", *options) == (0, f"{query}\nline [31mtwo\n", "")


def test_past_events_are_listed(keeper: Keeper) -> None:
    """One line per event in order of time, from every hive that was heard."""
    lines = keeper("events")[1].splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines] == [
        "gpu1 worker_state toy-1 state=ready",
        "gpu1 model_state toy state=gone",
    ]
    assert [json.loads(line) for line in keeper("events", "gpu1", "--json")[1].splitlines()] == [
        {"hive": "gpu1", **event} for event in EVENTS
    ]


def test_followed_events_begin_with_what_is_known_and_end_with_a_reason(keeper: Keeper) -> None:
    """Nothing is missed between looking back and following, and a stream that ends does not look like silence."""
    status, out, err = keeper("events", "--follow", "--json")
    assert [json.loads(line)["subject"] for line in out.splitlines()] == ["toy-1", "to\x1by"]
    assert (status, "the events of hive gpu1 ended" in err) == (1, True)


@pytest.mark.parametrize("arguments", [["devices", "gone"], ["logs", "gone"], ["events", "gone"], ["worker", "gone"]])
def test_what_is_not_there_is_one_sentence(keeper: Keeper, arguments: list[str]) -> None:
    """The queen's own words, status 1."""
    assert keeper(*arguments) == (1, "", "rbee-keeper: the queen refused: there is no hive 'gone'\n")
