"""Which routes are relayed, in which form errors come back, and what an answer is said to have cost."""

import asyncio
import json

import pytest

from rbee_runtime.errors import RequestError
from rbee_runtime.gateway.routes import HOT
from tests.unit.gateway.gateway import PLAIN, STREAM, Gate, gateway, limits
from tests.unit.gateway.upstream import STREAM_HEAD, Call, answer_json, worker

ANTHROPIC = "/v1/messages"


@pytest.mark.parametrize("path", sorted(path.decode() for path in HOT))
async def test_every_route_reaches_a_worker_by_its_own_name(path: str) -> None:
    """An alias is the gateway's affair: a worker sees the route that it has."""
    async with worker(answer_json) as w, gateway(Gate([w.url])) as g:
        assert (await g.client.post(g.at(path), json=PLAIN)).json() == {"ok": True}
        assert w.calls[0].head.startswith(f"POST {path.removeprefix('/openai')} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/v1/CHAT/completions", "/v1/chat%2Fcompletions", "//v1/x"])
async def test_a_path_is_matched_as_it_stands(path: str) -> None:
    """Nothing is decoded, joined or completed, so that two readers cannot see two routes."""
    async with worker(answer_json) as w, gateway(Gate([w.url])) as g:
        assert (await g.client.post(g.at(path), json=PLAIN)).text == "not relayed"
        assert not w.calls


async def test_clients_of_anthropic_get_errors_in_their_form() -> None:
    """A refusal has the type that their official client raises its exceptions by."""
    async with gateway(Gate([], refusal=RequestError(429, "too much", retry_after=7))) as g:
        answer = await g.client.post(g.at(ANTHROPIC), json=PLAIN)
        assert answer.json() == {"type": "error", "error": {"type": "rate_limit_error", "message": "too much"}}
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


async def test_their_streams_end_in_an_error_with_its_name() -> None:
    """What breaks after the first byte is an event of the kind that their client listens for."""

    async def breaks(call: Call) -> None:
        await call.write(STREAM_HEAD)
        await call.chunk(b'event: message_start\ndata: {"type":"message_start"}\n\n')
        call.drop()

    async with worker(breaks) as w, gateway(Gate([w.url])) as g:
        last = (await g.client.post(g.at(ANTHROPIC), json=STREAM)).text.split("\n\n")[-2]
        name, data = last.split("\n")
        assert name == "event: error"
        assert json.loads(data.removeprefix("data: "))["error"]["type"] == "overloaded_error"


async def test_they_hear_a_refusal_in_a_stream_that_began_to_wait() -> None:
    """Their client passes over an event without a name, and would see the end of an empty answer."""

    async def refuses(call: Call) -> None:
        await call.json(400, b'{"type":"error","error":{"type":"invalid_request_error","message":"no"}}')

    async with worker(refuses) as w, gateway(Gate([w.url], delay=0.5), limits(pings=0.05)) as g:
        last = (await g.client.post(g.at(ANTHROPIC), json=STREAM)).text.split("\n\n")[-2]
        assert last == ('event: error\ndata: {"type":"error","error":{"type":"invalid_request_error","message":"no"}}')


@pytest.mark.parametrize(
    "last",
    [
        b"data: [DONE]\n\n",
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
        b'event: response.incomplete\ndata: {"type":"response.incomplete"}\n\n',
    ],
)
async def test_each_kind_of_stream_has_its_own_end(last: bytes) -> None:
    """None of them is taken for one that broke off."""

    async def says(call: Call) -> None:
        await call.write(STREAM_HEAD)
        await call.chunk(b'data: {"n":1}\n\n')
        await call.chunk(last)
        await call.end()

    async with worker(says) as w, gateway(Gate([w.url])) as g:
        assert (await g.post(STREAM)).content == b'data: {"n":1}\n\n' + last
        assert g.gate.settled == [(w.url, True)]


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}, [(3, 5)]),
        ({"input_tokens": 3, "output_tokens": 5}, [(3, 5)]),
        ({"prompt_tokens": 3, "total_tokens": 3}, [(3, 0)]),
        (None, []),
        ("many", []),
    ],
)
async def test_a_whole_answer_says_what_it_cost(usage: object, tokens: list[tuple[int, int]]) -> None:
    """Each surface tells it in its own words; one that says nothing costs what was estimated."""

    async def says(call: Call) -> None:
        await call.json(200, json.dumps({"x": 1, "usage": usage}).encode())

    async with worker(says) as w, gateway(Gate([w.url])) as g:
        assert (await g.post(PLAIN)).json()["usage"] == usage
        assert g.gate.spent == tokens


@pytest.mark.parametrize("cut", [0, 3, 15, 20, 37])
async def test_a_worker_tells_what_a_stream_cost_and_clients_do_not_see_it(cut: int) -> None:
    """The line is asked for by a header, counts, and goes no further."""
    told = b': usage 12 34\n\ndata: {"choices":[]}\n\ndata: [DONE]\n\n'

    async def says(call: Call) -> None:
        await call.write(STREAM_HEAD)
        await call.chunk(b'data: {"n":": usage 1 1"}\n\n')
        for part in filter(None, (told[:cut], told[cut:])):
            # Each comes in a piece of its own.
            await asyncio.sleep(0.05)
            await call.chunk(part)
        await call.end()

    async with worker(says) as w, gateway(Gate([w.url])) as g:
        text = (await g.post(STREAM)).text
        assert text == 'data: {"n":": usage 1 1"}\n\ndata: {"choices":[]}\n\ndata: [DONE]\n\n'
        assert g.gate.spent == [(12, 34)]
        assert b"x-rbee-usage: 1" in w.calls[0].head


async def test_another_server_tells_it_in_its_last_event_or_not() -> None:
    """It is not asked in our way, and what its stream says at the end counts."""

    async def says(call: Call) -> None:
        await call.write(STREAM_HEAD)
        await call.chunk(b'data: {"usage":{"prompt_tokens":2,"completion_tokens":4,"details":{"x":1}}}\n\n')
        await call.chunk(b"data: [DONE]\n\n")
        await call.end()

    async with worker(says) as w, gateway(Gate([w.url]).into("m", "")) as g:
        await g.post(STREAM)
        assert b"x-rbee-usage" not in w.calls[0].head
        assert g.gate.spent == [(2, 4)]


@pytest.mark.parametrize("status", [400, 404, 422, 429])
async def test_a_refusal_of_a_worker_costs_nothing(status: int) -> None:
    """Whatever was expected of the answer."""

    async def refuses(call: Call) -> None:
        await call.json(status, b'{"error":{"message":"no"}}')

    async with worker(refuses) as w, gateway(Gate([w.url])) as g:
        await g.post(PLAIN)
        assert g.gate.spent == [(0, 0)]


async def test_a_worker_gets_its_models_own_name() -> None:
    """Whatever its client calls it; everything else stays as it was written."""
    async with worker(answer_json) as w, gateway(Gate([w.url], aliases={"gpt-4o-mini": "m"})) as g:
        await g.client.post(g.url, content=b'{"model":"gpt-4o-mini",  "n": 1.0}')
        assert w.calls[0].body == b'{"model":"m","n":1.0}'
        assert g.outcomes[0].model == "gpt-4o-mini"


@pytest.mark.parametrize("path", [b.decode() for b, route in HOT.items() if not route.streams])
async def test_where_nothing_streams_no_worker_is_blamed_for_it(path: str) -> None:
    """A client that asks for a stream of embeddings gets what its worker says, and the worker stays in use."""
    async with worker(answer_json) as w, gateway(Gate([w.url])) as g:
        assert (await g.client.post(g.at(path), json=STREAM)).json() == {"ok": True}
        assert g.gate.settled == [(w.url, True)]


async def test_what_a_worker_says_of_its_own_host_goes_no_further() -> None:
    """Neither to which pages it would show its answers, nor what a browser is to keep."""
    own = ("access-control-allow-origin: *", "set-cookie: a=b", "strict-transport-security: max-age=9", "x-other: 1")

    async def says(call: Call) -> None:
        await call.json(200, b"{}", *own)

    async with worker(says) as w, gateway(Gate([w.url])) as g:
        assert set((await g.post(PLAIN)).headers) == {
            "content-length", "content-type", "date", "x-other", "x-request-id",
        }  # fmt: skip
