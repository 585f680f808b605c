"""What fails in the gateway itself ends one request, with an answer and a line in the log."""

import asyncio
from typing import Any

import pytest

from rbee_runtime.gateway.attempt import Attempt
from rbee_runtime.gateway.events import Events
from tests.unit.gateway.gateway import PLAIN, STREAM, Desk, Gate, Gateway, Slot, gateway
from tests.unit.gateway.upstream import say_hello, worker


def fails(*_arguments: object, **_named: object) -> None:
    raise KeyError("w")


async def ended(g: Gateway) -> None:
    """Wait until no request is under way and see that none holds a worker."""
    await asyncio.wait_for(g.relay.wait_idle(), 5)
    assert len(g.gate.released) == sum(outcome.attempts for outcome in g.outcomes)


async def test_a_fault_of_ours_is_an_answer(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """And a line in the log, not a request without an end."""
    monkeypatch.setattr(Gate, "at_once", fails)
    async with gateway(Gate([])) as g:
        assert (await asyncio.wait_for(g.post(PLAIN), 5)).status_code == 500
    assert "nobody foresaw" in caplog.text


@pytest.mark.parametrize(
    ("whose", "what", "body", "delay"),
    [
        (Desk, "take", PLAIN, 0.0),
        (Gate, "resolve", PLAIN, 0.0),
        (Gate, "lease", PLAIN, 0.01),
        (Attempt, "begin", PLAIN, 0.01),
        (Attempt, "_unfit", PLAIN, 0.0),
        (Events, "feed", STREAM, 0.0),
    ],
)
async def test_wherever_it_is(
    whose: type, what: str, body: Any, delay: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before, between and behind the tries; a worker is not blamed for it, and another one not asked."""
    monkeypatch.setattr(whose, what, fails)
    async with worker(say_hello) as w, gateway(Gate([w.url], delay=delay)) as g:
        answer = await asyncio.wait_for(g.post(body), 5)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "queen_failed")
        await ended(g)
        assert (g.gate.settled, len(w.calls) <= 1) == ([], True)
    assert caplog.text.count("nobody foresaw") == 1


async def test_a_fault_behind_an_answer_holds_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client has its answer; the slot is free again."""
    monkeypatch.setattr(Slot, "settle", fails)
    async with worker(say_hello) as w, gateway(Gate([w.url])) as g:
        assert (await asyncio.wait_for(g.post(STREAM), 5)).text.endswith("[DONE]\n\n")
        await ended(g)
        assert g.outcomes[0].problem == "the queen failed at this request"
