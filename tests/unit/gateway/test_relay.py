"""What a client gets through the relay, over real sockets."""

import asyncio
import json

import pytest

from rbee_runtime.errors import NotTakenError, RequestError
from tests.unit.gateway.gateway import PATIENT, PLAIN, STREAM, Gate, gateway, limits
from tests.unit.gateway.upstream import (
    STREAM_HEAD,
    Call,
    Script,
    answer_json,
    drop,
    garbage,
    say_hello,
    until_hung_up,
    worker,
)
from tests.unit.hive.waiting import until


def error_events(text: str) -> list[dict[str, object]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith('data: {"error"')]
    return [json.loads(line)["error"] for line in lines]


async def unavailable(call: Call) -> None:
    await call.json(503, b"{}")


async def draining(call: Call) -> None:
    await call.json(503, b"{}", f"{NotTakenError.HEADER}: 1")


async def busy(call: Call) -> None:
    await call.json(429, b"{}", "retry-after: 7")


async def not_a_stream(call: Call) -> None:
    await call.json(200, b"<html>")


async def dies_within_the_second_event(call: Call) -> None:
    await call.write(STREAM_HEAD)
    await call.events('{"n":1}')
    await call.chunk(b'data: {"half')
    await asyncio.sleep(0.05)
    call.drop()


async def stops_without_done(call: Call) -> None:
    await call.write(STREAM_HEAD)
    await call.events('{"n":1}')
    await call.end()


async def falls_silent(call: Call) -> None:
    await call.write(STREAM_HEAD)
    await call.events('{"n":1}')
    await until_hung_up(call)


async def test_a_stream_passes_through_unchanged() -> None:
    """Events arrive byte for byte, with the worker's end of stream."""
    async with worker(say_hello) as w, gateway(Gate([w.url])) as g:
        answer = await g.post(STREAM)
        assert answer.text == 'data: {"n":1}\n\ndata: {"n":2}\n\ndata: [DONE]\n\n'
        assert g.gate.released == [w.url]
        assert g.gate.settled == [(w.url, True)]


async def test_the_worker_gets_the_body_but_not_the_clients_key() -> None:
    """The request body goes up unchanged; credentials of the client stay with the queen."""
    async with worker(answer_json) as w, gateway(Gate([w.url])) as g:
        await g.client.post(g.url, content=b'{"model":"m",  "x":1}', headers={"authorization": "Bearer secret"})
        assert w.calls[0].body == b'{"model":"m",  "x":1}'
        assert b"secret" not in w.calls[0].head


async def test_events_go_out_as_they_come() -> None:
    """The first event reaches the client while the worker still holds back the second."""
    proceed = asyncio.Event()

    async def slow(call: Call) -> None:
        await call.write(STREAM_HEAD)
        await call.events('{"n":1}')
        await proceed.wait()
        await call.events("[DONE]")
        await call.end()

    async with worker(slow) as w, gateway(Gate([w.url])) as g, g.client.stream("POST", g.url, json=STREAM) as answer:
        pieces = answer.aiter_text()
        assert await asyncio.wait_for(anext(pieces), 20) == 'data: {"n":1}\n\n'
        proceed.set()
        assert "".join([piece async for piece in pieces]) == "data: [DONE]\n\n"


@pytest.mark.parametrize("fault", [drop, garbage, unavailable, busy, not_a_stream])
async def test_a_fault_before_the_first_byte_moves_to_another_worker(fault: Script) -> None:
    """The client sees only the good answer, and the upstream was called once more."""
    async with worker(fault) as bad, worker(say_hello) as good, gateway(Gate([bad.url, good.url])) as g:
        answer = await g.post(STREAM)
        assert answer.status_code == 200
        assert answer.text.endswith("data: [DONE]\n\n")
        assert (len(bad.calls), len(good.calls)) == (1, 1)
        assert g.gate.released == [bad.url, good.url]


async def test_a_plain_answer_that_breaks_off_moves_to_another_worker() -> None:
    """Nothing of an unfinished JSON answer reaches the client."""

    async def breaks_off(call: Call) -> None:
        await call.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{")
        call.drop()

    async with worker(breaks_off) as bad, worker(answer_json) as good, gateway(Gate([bad.url, good.url])) as g:
        assert (await g.post(PLAIN)).json() == {"ok": True}


async def test_at_most_two_retries() -> None:
    """After three workers failed the client gets 503 with Retry-After, whoever else there is."""
    async with worker(drop) as a, worker(drop) as b, worker(drop) as c, worker(answer_json) as d:
        async with gateway(Gate([a.url, b.url, c.url, d.url])) as g:
            answer = await g.post(PLAIN)
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert [len(each.calls) for each in (a, b, c, d)] == [1, 1, 1, 0]


async def test_a_spent_budget_forbids_retries() -> None:
    """Without budget the first failure is the answer."""
    async with worker(drop) as a, worker(answer_json) as b, gateway(Gate([a.url, b.url], budget=0)) as g:
        assert (await g.post(PLAIN)).status_code == 503
        assert not b.calls


async def test_a_crash_without_a_spare_is_told_at_once() -> None:
    """A worker that dies over a request costs the client one 503, without waiting for any limit."""
    async with worker(drop) as w, gateway(Gate([w.url])) as g:
        answer = await asyncio.wait_for(g.post(STREAM), PATIENT.first_byte / 2)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "worker_failed"


async def test_a_request_that_reached_nobody_gets_what_policy_says() -> None:
    """A refused connection is no failed try: the gate is asked as at first, so that it may wait or refuse."""
    async with gateway(Gate(["http://127.0.0.1:1"])) as g:
        answer = await g.post(STREAM)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "9")
        assert g.gate.settled == [("http://127.0.0.1:1", False)]


async def test_a_request_that_a_worker_did_not_take_gets_what_policy_says() -> None:
    """A worker that loads or ends is like one that refuses connections: nothing was done, so nothing has failed."""
    async with worker(draining) as w, gateway(Gate([w.url])) as g:
        answer = await g.post(STREAM)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "9")
        assert g.gate.urls == []
    async with worker(draining) as w, worker(say_hello) as good, gateway(Gate([w.url, good.url])) as g:
        assert "[DONE]" in (await g.post(STREAM)).text


@pytest.mark.parametrize("fault", [dies_within_the_second_event, stops_without_done, falls_silent])
async def test_a_stream_that_breaks_ends_in_one_error_event(fault: Script) -> None:
    """After the first byte: whole events, then one error event, no [DONE], no second worker."""
    bounds = limits(idle=1.0) if fault is falls_silent else PATIENT
    async with worker(fault) as bad, worker(say_hello) as good, gateway(Gate([bad.url, good.url]), bounds) as g:
        text = (await g.post(STREAM)).text
        assert text.startswith('data: {"n":1}\n\ndata: {"error"')
        assert len(error_events(text)) == 1
        assert "[DONE]" not in text
        assert not good.calls
        assert g.gate.settled == [(bad.url, False)]


async def test_a_workers_own_error_event_is_not_doubled() -> None:
    """A worker that ends its stream with an error event has said it."""

    async def says_so(call: Call) -> None:
        await call.write(STREAM_HEAD)
        await call.events('{"n":1}', '{"error":{"message":"engine died"}}')
        await call.end()

    async with worker(says_so) as w, gateway(Gate([w.url])) as g:
        assert [event["message"] for event in error_events((await g.post(STREAM)).text)] == ["engine died"]


async def test_a_refusal_of_the_worker_passes_through() -> None:
    """A 400 of the worker is the client's answer, body and status, without a retry."""

    async def refuses(call: Call) -> None:
        await call.json(400, b'{"error":{"message":"bad","param":"n"}}')

    async with worker(refuses) as a, worker(say_hello) as b, gateway(Gate([a.url, b.url])) as g:
        answer = await g.post(STREAM)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
        assert not b.calls


@pytest.mark.parametrize("body", [STREAM, PLAIN], ids=["stream", "plain"])
async def test_a_client_that_leaves_ends_the_upstream_call(body: dict[str, object]) -> None:
    """After the client's close the worker sees its own connection closed, and the slot is free."""

    async def endless(call: Call) -> None:
        await call.write(STREAM_HEAD)
        await until_hung_up(call)

    async with worker(endless) as w, gateway(Gate([w.url])) as g:
        asking = asyncio.create_task(g.post(body))
        await until(lambda: w.calls)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.wait_for(w.closed.wait(), 20)
        await asyncio.wait_for(g.relay.wait_idle(), 20)
        assert g.gate.released == [w.url]


async def test_a_worker_that_never_answers_hits_the_first_byte_limit() -> None:
    """A hanging worker is given up after its limit and another one answers."""
    bounds = limits(first_byte=1.0)
    async with (
        worker(until_hung_up) as hung,
        worker(answer_json) as good,
        gateway(Gate([hung.url, good.url]), bounds) as g,
    ):
        assert (await g.post(PLAIN)).json() == {"ok": True}


async def test_a_client_that_takes_no_bytes_is_cut() -> None:
    """A stalled reader frees its slot after the stall limit, and the worker is not blamed."""

    async def flood(call: Call) -> None:
        await call.write(STREAM_HEAD)
        while True:
            await call.events("x" * 60_000)

    async with worker(flood) as w, gateway(Gate([w.url]), limits(stall=0.3)) as g:
        host, port = g.url.split("/")[2].split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        body = b'{"model":"m","stream":true}'
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await asyncio.wait_for(w.closed.wait(), 20)
        await asyncio.wait_for(g.relay.wait_idle(), 20)
        writer.close()
        assert g.gate.released == [w.url]
        assert (w.url, False) not in g.gate.settled


async def test_a_waiting_stream_gets_pings_and_then_its_answer() -> None:
    """A stream that waits for a worker gets 200 and comment lines, which clients ignore."""
    async with worker(say_hello) as w, gateway(Gate([w.url], delay=0.25), limits(pings=0.1)) as g:
        text = (await g.post(STREAM)).text
        assert text.startswith(": waiting\n\n")
        assert text.endswith("data: [DONE]\n\n")


async def test_a_refusal_after_pings_is_an_error_event_with_retry_after() -> None:
    """Once the status is out, a refusal says in the event when to come back."""
    refusal = RequestError(503, "not ready", retry_after=10)
    async with gateway(Gate([], delay=0.5, refusal=refusal), limits(pings=0.1)) as g:
        answer = await g.post(STREAM)
        assert answer.status_code == 200
        assert [event["retry_after"] for event in error_events(answer.text)] == [10]


async def test_a_worker_may_still_fail_after_pings() -> None:
    """Pings are not bytes of the answer: another worker may still step in."""

    async def late_drop(call: Call) -> None:
        await asyncio.sleep(0.2)
        call.drop()

    bounds = limits(pings=0.1)
    async with worker(late_drop) as bad, worker(say_hello) as good, gateway(Gate([bad.url, good.url]), bounds) as g:
        text = (await g.post(STREAM)).text
        assert text.startswith(": waiting\n\n")
        assert text.endswith("data: [DONE]\n\n")


async def test_cut_ends_a_stream_with_an_error_event() -> None:
    """What cannot be waited for at a restart is told, not dropped."""
    async with (
        worker(falls_silent) as w,
        gateway(Gate([w.url])) as g,
        g.client.stream("POST", g.url, json=STREAM) as answer,
    ):
        pieces = answer.aiter_text()
        assert await anext(pieces) == 'data: {"n":1}\n\n'
        g.relay.cut()
        events = error_events("".join([piece async for piece in pieces]))
        assert [event["code"] for event in events] == ["queen_restarting"]
        assert g.gate.released == [w.url]


async def test_a_long_plain_answer_streams_through() -> None:
    """An answer over the hold-back limit arrives whole."""
    body = b'{"x":"' + b"y" * 3_000_000 + b'"}'

    async def long(call: Call) -> None:
        await call.json(200, body)

    async with worker(long) as w, gateway(Gate([w.url])) as g:
        assert (await g.post(PLAIN)).content == body
