"""Models on the disks of hives, from the command line."""

import io
import itertools
import json
from typing import Any

import httpx
import pytest

from rbee_runtime.errors import QueenCallError
from rbee_runtime.keeper.client import QueenClient
from rbee_runtime.keeper.progress import Meter, Step
from rbee_runtime.keeper.pulling import pulled
from rbee_runtime.keeper.settings import settle
from tests.unit.keeper.stand_in import TABLES, StandIn
from tests.unit.keeper.test_cli import Keeper, keeper, queen, server

__all__ = ["keeper", "queen", "server"]

MIB = 2**20
ASKED = {"hive": "a", "model": "m", "source": "hf:o/r", "held": False, "pulled": True}
NOT_YET: dict[str, Any] = {}
OLD = {"name": "m", "state": "ready", "source": "hf:o/older"}
WHOLE = {"name": "m", "state": "ready", "source": "hf:o/r", "size": 100 * MIB}


def coming(done: int, state: str = "fetching", **fields: object) -> dict[str, Any]:
    return {"name": "m", "state": state, "done": done * MIB, "total": 100 * MIB, "rate": 2 * MIB, **fields}


class Hive:
    """A queen whose hive has one model in these states one after the other; `{}` is none."""

    def __init__(self, *states: dict[str, Any]) -> None:
        self.calls: list[str] = []
        self._states = list(states)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(f"{request.method} {request.url.path}")
        if request.method != "GET":
            return httpx.Response(200, json=ASKED)
        state = self._states.pop(0)
        return httpx.Response(200, json=state) if state else httpx.Response(404, json={"error": {"message": "none"}})

    def pull(self, *, interrupted: bool = False) -> tuple[dict[str, Any], list[str]]:
        """Pull the model in time that goes by a second with each look; return what came and the lines of progress."""

        def sleep(_: float) -> None:
            if interrupted:
                raise KeyboardInterrupt

        out, ticks = io.StringIO(), itertools.count()
        settings = settle("http://127.0.0.1:1", "rbee_a_b", None, None)
        with QueenClient(settings, transport=httpx.MockTransport(self.answer)) as client, Meter(out) as meter:
            found = pulled(client, "a", "m", say=meter.show, sleep=sleep, clock=lambda: float(next(ticks)))
        return found, out.getvalue().splitlines()


def test_a_pull_is_followed_until_the_model_is_there() -> None:
    """A line for each state and each tenth, however often it is looked at; an older version is not taken for it."""
    hive = Hive(NOT_YET, OLD, coming(1), coming(2), coming(34, eta=33.0), coming(100, "verifying", rate=0), WHOLE)
    found, lines = hive.pull()
    assert found == {"hive": "a", **WHOLE}
    assert lines == [
        "m on a: waiting for the hive",
        "m on a: fetching 1 %, 2.0 MiB/s",
        "m on a: fetching 34 %, 2.0 MiB/s, 33 s left",
        "m on a: verifying 100 %",
    ]


def test_a_pull_is_asked_for_again() -> None:
    """A queen that starts meanwhile goes on with it."""
    hive = Hive(*[coming(1)] * 12, WHOLE)
    hive.pull()
    assert hive.calls.count("POST /api/v1/hives/a/models/m/pull") == 3


@pytest.mark.parametrize("state", ["failed", "disk_full", "quarantined"])
def test_a_pull_that_waiting_does_not_mend_is_over(state: str) -> None:
    """The reason is told, and the hive does not go on trying."""
    hive = Hive(coming(3, "partial", detail="reset by peer"), coming(3, state, detail="no room for 9 GiB"))
    with pytest.raises(QueenCallError, match="m did not come to a: no room for 9 GiB"):
        hive.pull()
    assert hive.calls[-1] == "DELETE /api/v1/hives/a/models/m/pull"


def test_ctrl_c_cancels_the_pull_at_the_hive_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """The queen is told, and the person that what came is kept."""
    hive = Hive(coming(3))
    with pytest.raises(KeyboardInterrupt):
        hive.pull(interrupted=True)
    assert hive.calls[-1] == "DELETE /api/v1/hives/a/models/m/pull"
    assert "the pull of m to a is cancelled; what came so far is kept" in capsys.readouterr().err


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves in its place, and control characters of a reason do not reach the terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out = Terminal()
    with Meter(out) as meter:
        meter.show(Step("m on a: fetching \x07", 43, 100, "43 %"))
    assert "m on a: fetching" in out.getvalue()
    assert "43 %" in out.getvalue()
    assert "━" in out.getvalue()
    assert "\x07" not in out.getvalue()


INTACT = {"name": "toy", "intact": True, "damaged": [], "detail": ""}
DAMAGED = {"name": "toy", "intact": False, "damaged": ["sha256-1"], "detail": "moved to quarantine"}


@pytest.mark.parametrize(
    ("typed", "status", "answer", "calls", "said"),
    [
        (("pull", "toy", "--hive", "b", "--no-wait"), 0, ASKED, ["POST hives/b/models/toy/pull"], "on its way to b"),
        (
            ("pull", "toy", "--no-wait"), 0, ASKED | {"held": True},
            ["GET hives", "POST hives/gpu1/models/toy/pull"], "toy is on the disk of gpu1",
        ),
        (("pull", "toy", "--cancel", "--hive", "b"), 0, ASKED, ["DELETE hives/b/models/toy/pull"], "is cancelled"),
        (
            ("pull", "toy", "--cancel", "--hive", "b"), 0, ASKED | {"pulled": False},
            ["DELETE hives/b/models/toy/pull"], "there is no pull of toy to b",
        ),
        (("rm", "toy"), 0, {}, ["GET models", "DELETE hives/gpu1/models/toy"], "toy is removed from gpu1"),
        (("rm", "a/b:c", "--hive", "b"), 0, {}, ["DELETE hives/b/models/a/b:c"], "a/b:c is removed from b"),
        (("verify", "toy"), 0, INTACT, ["GET models", "POST hives/gpu1/models/toy/verify"], "on gpu1 is intact"),
        (("verify", "toy", "--hive", "b"), 1, DAMAGED, ["POST hives/b/models/toy/verify"], "damaged: sha256-1: moved"),
        (("verify", "none"), 1, {}, ["GET models"], "the queen has no model 'none'; see rbee-keeper models"),
    ],
)  # fmt: skip
def test_each_command_asks_what_it_has_to(
    keeper: Keeper,
    queen: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    typed: tuple[str, ...],
    status: int,
    answer: dict[str, Any],
    calls: list[str],
    said: str,
) -> None:
    """One sentence says what became of it; with --json standard output is one document or nothing."""
    for kind in ("pull", "verify"):
        monkeypatch.setitem(TABLES, kind, answer)
    ended, out, err = keeper("models", *typed)
    assert (ended, said in out + err) == (status, True)
    assert [call.replace("/api/v1/", "") for call in queen.calls] == calls
    again, out, _ = keeper("models", *typed, "--json")
    assert (again, json.loads(out or "{}") is not None) == (status, True)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("live", ""),
        ("unknown", " as far as is known; not heard just now: gpu1; ask again in a moment"),
    ],
)
def test_who_has_a_model_may_not_be_known_yet(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, state: str, said: str
) -> None:
    """A queen that has just started has heard of nobody's disk."""
    monkeypatch.setitem(TABLES, "models", [{**TABLES["models"][0], "held": []}])
    monkeypatch.setitem(TABLES, "hives", [{**TABLES["hives"][0], "state": state}])
    assert keeper("models", "verify", "toy") == (1, "", f"rbee-keeper: no hive has toy on its disk{said}\n")


def test_a_hive_has_to_be_named_where_there_are_several(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched to a host that nobody chose."""
    monkeypatch.setitem(TABLES, "hives", [{"name": "a"}, {"name": "b"}])
    assert keeper("models", "pull", "toy") == (2, "", "rbee-keeper: --hive is missing: name one of a, b\n")
