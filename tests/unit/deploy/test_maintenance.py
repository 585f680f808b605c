"""What is waited for while a host is maintained, and what happens when it does not come."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import StringCommand

from rbee_deploy import maintenance
from rbee_deploy.observed import Observed
from rbee_deploy.operations import maintain
from rbee_deploy.operations.maintain import Course
from rbee_deploy.operations.root import REFUSALS

LIVE = {"name": "gpu1", "state": "live", "follows": True, "drained": False}
READY = {"id": "m-1", "model": "m", "hive": "gpu1", "state": "ready", "in_flight": 0}


@pytest.mark.parametrize(
    ("workers", "hive", "left"),
    [
        ([READY, {**READY, "in_flight": 2}], {}, "2 workers left with 2 requests in flight"),
        ([{**READY, "in_flight": 1}], {}, "1 worker left with 1 request in flight"),
        ([{**READY, "hive": "gpu2"}], {}, ""),
        ([], {"follows": False}, "it has not heard yet that it is drained"),
        ([], {}, ""),
        ([READY], {"state": "lost"}, ""),
        ([{**READY, "in_flight": 1}], {"state": "suspect"}, "1 request in flight"),
    ],
)
def test_a_drained_hive_is_empty_without_workers_and_requests(
    workers: list[dict[str, Any]], hive: dict[str, Any], left: str
) -> None:
    """What is left is said in numbers; of a hive that is away only the requests count, for it stops nothing."""
    assert maintenance.load(workers, [{**LIVE, **hive}], "gpu1") == left


@pytest.mark.parametrize(
    ("rows", "missing"),
    [
        ([{}], ""),
        ([{"state": "starting"}], "m-1 is starting; m has 0 ready workers instead of 1"),
        ([{"state": None}], "m-1 is not reachable; m has 0 ready workers instead of 1"),
        ([{"hive": "gpu2", "state": "starting"}], "m has 0 ready workers instead of 1"),
        ([{"hive": "gpu2"}], ""),
        ([], "m has 0 ready workers instead of 1"),
    ],
)
def test_a_host_is_back_when_its_models_have_as_many_workers_as_before(
    rows: list[dict[str, Any]], missing: str
) -> None:
    """Workers that moved to another host count; one here that is not ready is named."""
    before = maintenance.served([READY], "gpu1")
    assert maintenance.missing([{**READY, **row} for row in rows], "gpu1", before) == missing


def fact(**changes: Any) -> Observed:
    """Return what a hive's host says that runs what it should."""
    raw = {
        "current": "/opt/rbee/releases/0.1.0-aa",
        "running": {"hive": {"digest": "d1", "release": "0.1.0-aa"}},
        "units": {"rbee-hive.service": {"active": "active"}},
        "paths": {"/etc/rbee/hive.digest": {"kind": "file", "sha256": hashlib.sha256(b"d1\n").hexdigest()}},
    }
    return Observed.parse({**raw, **changes})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, []),
        ({"units": {}}, ["rbee-hive.service is not there"]),
        ({"units": {"rbee-hive.service": {"active": "activating"}}}, ["rbee-hive.service is activating"]),
        (
            {"running": {"hive": {"digest": "d0", "release": "0.1.0-aa"}}},
            ["rbee-hive.service does not run what the last deploy brought (0.1.0-aa)"],
        ),
        (
            {"current": "/opt/rbee/releases/0.2.0-bb"},
            ["rbee-hive.service does not run what the last deploy brought (0.2.0-bb)"],
        ),
    ],
)
def test_a_host_runs_what_it_holds_or_says_why_not(changes: dict[str, Any], why: list[str]) -> None:
    """Its own link and digest decide, so that an inventory that has changed meanwhile does not matter."""
    assert maintenance.unready(fact(**changes), ["hive"]) == why


class Told:
    """A queen's host whose connector answers from a script: a list of answers for each call, the last again."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.connector = SimpleNamespace(run_shell_command=self.run)
        self.connector_data: dict[str, Any] = {}

    def run(self, command: StringCommand, **_: Any) -> tuple[bool, Any]:
        name = str(command)
        self.asked.append(name)
        rows = self.answers[name]
        answer = rows.pop(0) if len(rows) > 1 else rows[0]
        if isinstance(answer, OSError):
            raise answer
        if answer is None:
            return False, SimpleNamespace(stdout="", stderr="the queen does not answer on port 8500")
        if isinstance(answer, str):
            return False, SimpleNamespace(stdout="", stderr=f"{answer}\n")
        return True, SimpleNamespace(stdout=json.dumps(answer), stderr="")


COMMANDS: Mapping[tuple[str, str], StringCommand] = {
    ("GET", "hives"): StringCommand("hives"),
    ("GET", "workers"): StringCommand("workers"),
    ("POST", "hives/gpu1/drain"): StringCommand("drain"),
    ("POST", "hives/gpu1/undrain"): StringCommand("undrain"),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll at once."""
    monkeypatch.setattr(maintain, "POLL_SECONDS", 0.01)


def test_a_drain_waits_for_requests(capsys: pytest.CaptureFixture[str]) -> None:
    """It is over when the last request has ended, each change is told, and what served before is remembered."""
    busy = [{**READY, "in_flight": 1}]
    queen = Told(hives=[[LIVE]], workers=[[READY], busy, busy, []], drain=[{}])
    course = Course("gpu1", seconds=5)
    assert maintain._drain(None, queen, dict(COMMANDS), course)
    assert (course.is_drained, course.before, queen.connector_data) == (True, {"m": 1}, {})
    assert capsys.readouterr().err.count("1 worker left with 1 request in flight") == 1


def test_a_host_that_was_drained_already_says_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    """Where an earlier maintenance stopped half-way, nobody is told that the host serves as it did before that."""
    queen = Told(hives=[[{**LIVE, "drained": True}]], workers=[[]], drain=[{}])
    assert maintain._drain(None, queen, dict(COMMANDS), Course("gpu1", seconds=5))
    assert "it was drained already: only what it gets now is waited for" in capsys.readouterr().err


def test_a_host_that_does_not_become_empty_is_left_drained() -> None:
    """After the time that was given the maintenance stops, says what is left and which command goes on."""
    queen = Told(hives=[[LIVE]], workers=[[{**READY, "in_flight": 1}]], drain=[{}])
    course = Course("gpu1", seconds=0.02)
    assert not maintain._drain(None, queen, dict(COMMANDS), course)
    assert queen.connector_data[REFUSALS] == [
        "it is not empty after 0 s (1 worker left with 1 request in flight); --seconds waits longer"
    ]
    assert not course.succeeded
    assert maintenance.advice("gpu1", "x.py", is_drained=course.is_drained) == (
        "gpu1 stays drained; put that right and run rbee-deploy maintain gpu1 -i x.py, "
        "or let it serve as it is by rbee-keeper undrain gpu1"
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "the queen does not answer on port 8500"),
        ([LIVE], ""),
        ("the queen refused GET hives: no key", ""),
        (OSError("reset by peer"), ""),
    ],
)
def test_a_dead_queen_is_told_from_one_who_may_give_work(answer: Any, why: str) -> None:
    """A host can be maintained while she is dead; one who refuses, or whose host cannot be asked, may not be."""
    assert maintain._silence(Told(hives=[answer]), dict(COMMANDS)) == why


def test_a_host_that_was_not_drained_and_is_not_heard_is_no_success() -> None:
    """Where she was dead before and answers afterwards, what she misses is the problem."""
    queen, course = Told(hives=[[{**LIVE, "state": "lost"}]]), Course("gpu1", seconds=0.02, is_kept_up=True)
    assert course.succeeded
    assert not maintain._resume(None, queen, dict(COMMANDS), course)
    assert (course.succeeded, "its hive is lost" in course.problem) == (False, True)


def test_a_queen_who_dies_before_it_is_drained_stops_it() -> None:
    """Nothing is done to a host that she may give work again at any time."""
    queen, course = Told(hives=[[LIVE]], workers=[[READY]], drain=[None]), Course("gpu1", seconds=5)
    assert not maintain._drain(None, queen, dict(COMMANDS), course)
    assert queen.connector_data[REFUSALS] == ["it is not drained: the queen does not answer on port 8500"]


def test_a_host_serves_again_once_its_hive_is_heard() -> None:
    """It is not undrained before that, and a queen who starts on the same host is waited for."""
    gone = {**LIVE, "state": "lost"}
    queen = Told(hives=[None, [gone], [LIVE]], workers=[[], [READY]], undrain=[{}])
    course = Course("gpu1", seconds=5, before={"m": 1}, is_drained=True, is_kept_up=True)
    assert maintain._resume(None, queen, dict(COMMANDS), course)
    assert queen.asked == ["hives", "hives", "hives", "undrain", "workers", "workers"]
    assert course.succeeded


def test_workers_that_do_not_come_back_are_a_failure() -> None:
    """The host gets requests again, so that nothing is to be undrained, but the verdict is no."""
    queen = Told(hives=[[LIVE]], workers=[[{**READY, "state": "crash_loop"}]], undrain=[{}])
    course = Course("gpu1", seconds=0.02, before={"m": 1}, is_drained=True, is_kept_up=True)
    assert not maintain._resume(None, queen, dict(COMMANDS), course)
    assert "m-1 is crash_loop" in queen.connector_data[REFUSALS][0]
    assert (course.succeeded, course.is_drained) == (False, False)
    assert (
        maintenance.advice("gpu1", "x.py", is_drained=course.is_drained)
        == "gpu1 is not drained; put that right and run the same command again"
    )


def test_a_queen_who_refuses_stops_it() -> None:
    """One who is there and does not accept the key goes on giving the host work: nothing is done to it."""
    queen = Told(hives=["the queen refused GET hives: no valid API key was given"])
    course = Course("gpu1", "reboot", seconds=5)
    assert not maintain._drain(None, queen, dict(COMMANDS), course)
    assert queen.connector_data[REFUSALS] == [
        "it is not drained: the queen refused GET hives: no valid API key was given"
    ]
    assert not course.is_drained


class Shell:
    """A host whose connector runs commands here, and tells of how they end only whether they failed."""

    def __init__(self, cut: bool = False) -> None:
        self.cut = cut
        self.connector = SimpleNamespace(run_shell_command=self.run)
        self.connector_data: dict[str, Any] = {}

    def run(self, command: StringCommand, **_: Any) -> tuple[bool, Any]:
        done = subprocess.run(["sh", "-c", str(command)], capture_output=True, text=True, check=False, timeout=20)
        out, err = done.stdout.splitlines(), [] if self.cut else done.stderr.splitlines()
        return done.returncode == 0, SimpleNamespace(stderr_lines=err, output_lines=[*err, *out])


@pytest.mark.parametrize(
    ("command", "cut", "output", "status", "said"),
    [
        ("exit 3", False, [], 3, ["the command failed with exit status 3 and printed nothing"]),
        ("echo a; exit 3", False, ["a"], 3, ["the command failed with exit status 3; its output is above"]),
        ("printf b >&2; false", False, ["b"], 1, ["the command failed with exit status 1; its output is above"]),
        ("kill -9 $$", True, [], None, ["the command failed and printed nothing"]),
        ("echo 'it''s'; true", False, ["its"], 0, []),
    ],
)
def test_how_a_command_ended_is_said(
    command: str, cut: bool, output: list[str], status: int | None, said: list[str]
) -> None:
    """Its exit status is in the sentence and in the data, and output is spoken of where there is some."""
    host, course = Shell(cut=cut), Course("gpu1", command)
    assert maintain._run(None, host, StringCommand(maintain.with_status(command)), course) is (not said)
    assert (course.output, course.status, host.connector_data.get(REFUSALS, [])) == (output, status, said)


def test_a_command_that_was_not_seen_to_end_is_not_advised_to_be_passed_over() -> None:
    """Giving the host work again, which the advice is otherwise, would be in the middle of it."""
    said = maintenance.advice("gpu1", "x.py", is_drained=True, is_running=True)
    assert said.startswith("gpu1 stays drained, and the command may still run there: ")
    assert "when it has ended run rbee-deploy maintain gpu1 -i x.py" in said
