"""One prompt from the command line, and a load of many."""

import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rbee_runtime.keeper.bench import Load, Outcome, figures, percentile
from rbee_runtime.server import bind
from tests.unit.keeper.stand_in import StandIn, chat_stream
from tests.unit.keeper.test_cli import Keeper, keeper, queen, server
from tests.unit.queen.units import wait_until

__all__ = ["keeper", "queen", "server"]

ENDED = 'data: {"choices": [{"delta": {}, "finish_reason": "length"}]}\n\n'
STREAM = chat_stream("sweet ", "honey", tokens=7, end=f"{ENDED}data: [DONE]\n\n")


def test_an_answer_is_standard_output_alone(keeper: Keeper, queen: StandIn) -> None:
    """Every option reaches the model, and what was not typed is the model's own."""
    queen.stream = STREAM
    typed = ("--system", "Be brief.", "--max-tokens", "8", "--temperature", "0")
    assert keeper("infer", "toy", "hi", *typed) == (0, "sweet honey\n", "")
    body = queen.bodies[-1]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert (body["max_tokens"], body["temperature"]) == (8, 0.0)
    keeper("infer", "toy", "hi")
    assert not {"max_tokens", "temperature"} & queen.bodies[-1].keys()


def test_a_pipe_is_the_prompt(keeper: Keeper, queen: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `cat question | rbee-keeper infer toy`."""
    queen.stream = STREAM
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n"))
    assert keeper("infer", "toy")[0] == 0
    assert queen.bodies[-1]["messages"] == [{"role": "user", "content": "from a pipe\n"}]


def test_json_has_the_answer_and_its_numbers(keeper: Keeper, queen: StandIn) -> None:
    """One document, once the answer is whole."""
    queen.stream = STREAM
    found = json.loads(keeper("infer", "toy", "hi", "--json")[1])
    assert found.pop("seconds") >= found.pop("first_text_seconds") >= 0
    assert found == {
        "model": "toy", "text": "sweet honey", "finish_reason": "length", "tokens": 7, "prompt_tokens": None,
    }  # fmt: skip


class Slow:
    """A queen that says a word and then thinks; `open` counts its streams, `ended` those that were closed."""

    def __init__(self) -> None:
        self.began, self.ended = 0, 0

    async def answer(self, request: Request) -> Response:
        if request.url.path == "/v1/models":
            return JSONResponse({"data": []})
        return StreamingResponse(self._words(request), media_type="text/event-stream")

    async def _words(self, request: Request) -> AsyncIterator[str]:
        self.began += 1
        yield chat_stream("well", end="")
        while not await request.is_disconnected():
            yield ": ping\n\n"
        self.ended += 1


@contextmanager
def slow() -> Iterator[tuple[Slow, str]]:
    queen, listener = Slow(), bind("127.0.0.1", 0)
    app = Starlette(routes=[Route("/{path:path}", queen.answer, methods=["GET", "POST"])])
    run = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=run.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield queen, f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        run.should_exit = True
        thread.join()


@pytest.mark.parametrize(("command", "streams"), [(["infer", "toy", "hi"], 1), (["bench", "toy", "--clients", "3"], 3)])
def test_ctrl_c_closes_the_stream(command: list[str], streams: int) -> None:
    """The queen sees every connection go, so that workers have their places free; status 130, and no traceback."""
    with slow() as (queen, url):
        line = [sys.executable, "-m", "rbee_runtime.keeper.main", "--url", url, "--api-key", "k", *command]
        run = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: queen.began == streams)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=20)
        assert (run.returncode, said.strip()) == (130, "")
        wait_until(lambda: queen.ended == streams)


def test_a_bench_ends_with_a_line_for_programs(keeper: Keeper, queen: StandIn) -> None:
    """So many requests as were asked for, and figures for people before the last line."""
    queen.stream = STREAM
    status, out, _ = keeper("bench", "toy", "--clients", "2", "--requests", "5", "--max-tokens", "7")
    found = json.loads(out.splitlines()[-1])
    assert (status, found["bench"], found["requests"], found["tokens"], found["errors"]) == (0, "model", 5, 35, {})
    assert queen.calls.count("POST /v1/chat/completions") == 5
    for word in ("2 clients, 5 requests", "tokens/s", "p95", "errors        none"):
        assert word in out
    assert keeper("bench", "toy", "--requests", "1", "--json")[1].count("\n") == 1


def test_a_bench_with_errors_counts_them_and_fails(keeper: Keeper, queen: StandIn) -> None:
    """Each sentence with how often it came; the figures are there all the same."""
    queen.stream = 'data: {"error": {"message": "no slot"}}\n\n'
    status, out, err = keeper("bench", "toy", "--requests", "3")
    assert (status, json.loads(out.splitlines()[-1])["errors"]) == (1, {"there is no answer: no slot": 3})
    assert err == "rbee-keeper: 3 of 3 requests failed: there is no answer: no slot\n"


def test_figures_are_of_answers_alone() -> None:
    """A request that failed adds neither tokens nor a wait."""
    outcomes = [Outcome(10, 0.1, 1.0), Outcome(30, 0.3, 3.0), Outcome(error="no")]
    found = figures(Load("m", 2, 3, 64, "p"), outcomes, 4.0)
    assert (found["tokens_per_second"], found["requests_per_second"]) == (10.0, 0.5)
    assert found["ttft_seconds"] == {"p50": 0.2, "p95": 0.29}
    assert found["errors"] == {"no": 1}


@pytest.mark.parametrize(("values", "share", "found"), [([], 50, None), ([2.0], 95, 2.0), ([1.0, 2.0, 3.0], 50, 2.0)])
def test_percentiles_of_few_values(values: list[float], share: int, found: float | None) -> None:
    """None of nothing, and the value itself of one."""
    assert percentile(values, share) == found
