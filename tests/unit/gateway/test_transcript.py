"""The text of a stream so far, and the rest of it by another worker, without any connection."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from rbee_runtime.gateway import usage
from rbee_runtime.gateway.body import parse
from rbee_runtime.gateway.continuation import transcript_of
from rbee_runtime.gateway.transcript import JOINT, MOST_TEXT, NotedEvents, State, Transcript

HI = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> Transcript:
    body = {"model": "m", "stream": True, "messages": [HI], **fields}
    found = transcript_of("/v1/chat/completions", parse(json.dumps(body).encode()))
    assert found is not None
    return found


def text(**fields: Any) -> Transcript:
    body = {"model": "m", "stream": True, "prompt": "Bees", **fields}
    found = transcript_of("/v1/completions", parse(json.dumps(body).encode()))
    assert found is not None
    return found


def event(delta: dict[str, Any], finish: str | None = None, name: str = "one", **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    said = {"id": name, "created": 1, "model": name, "choices": [choice], **more}
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def piece(said: str, name: str = "one") -> bytes:
    return event({"content": said}, name=name)


def line(said: str, finish: str | None = None, name: str = "one") -> bytes:
    choice = {"index": 0, "text": said, "logprobs": None, "finish_reason": finish}
    return b"data: " + json.dumps({"id": name, "created": 1, "model": name, "choices": [choice]}).encode() + b"\n\n"


def count(prompt: int, completion: int) -> bytes:
    told = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    told["prompt_tokens_details"] = {"cached_tokens": prompt}  # type: ignore[assignment]
    return b"data: " + json.dumps({"id": "two", "choices": [], "usage": told}).encode() + b"\n\n"


BEGIN = event({"role": "assistant", "content": ""})


def resumed(of: Transcript) -> dict[str, Any]:
    body = of.resumed()
    assert body is not None
    found: dict[str, Any] = json.loads(body.raw)
    assert body.limit == found.get("max_tokens", 0)
    return found


def test_the_first_worker_s_events_go_out_as_they_are() -> None:
    """But for what it tells the queen of its progress."""
    stream = chat()
    given = BEGIN + piece("a ") + usage.producing(1) + b": waiting\n\n" + piece("b") + b"data: [DONE]\n\n"
    assert stream.heard(given) == given.replace(usage.producing(1), b"")


def test_a_chat_is_gone_on_with_behind_its_messages() -> None:
    """The next worker gets the conversation, the text so far, and what is left of the tokens."""
    stream = chat(max_completion_tokens=10, temperature=0)
    stream.heard(BEGIN + piece("a ") + piece("b"))
    assert resumed(stream) == {
        "model": "m",
        "stream": True,
        "messages": [HI, {"role": "assistant", "content": "a b"}],
        "temperature": 0,
        "max_tokens": 8,
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


@pytest.mark.parametrize(("given", "left"), [({}, 14), ({"max_tokens": 3}, 1)])
def test_a_completion_is_gone_on_with_behind_its_prompt(given: dict[str, int], left: int) -> None:
    """Where its client set no limit OpenAI's own one holds for all parts together."""
    stream = text(**given)
    stream.heard(line(" hum") + line(" and"))
    assert resumed(stream) == {"model": "m", "stream": True, "prompt": "Bees hum and", "max_tokens": left}


def test_a_chat_without_a_limit_stays_without_one() -> None:
    """No number of tokens is made up."""
    stream = chat()
    stream.heard(BEGIN + piece("a"))
    assert "max_tokens" not in resumed(stream)


def test_tokens_are_counted_as_the_worker_tells_them() -> None:
    """A piece may be of several tokens; without a word of the worker it counts as one."""
    stream = chat(max_tokens=10)
    stream.heard(BEGIN + piece("🐝") + usage.producing(3) + piece("a"))
    assert resumed(stream)["max_tokens"] == 6


def test_a_stream_that_has_no_text_yet_is_asked_for_anew() -> None:
    """It is the same request, and has no second beginning."""
    stream = chat(max_tokens=4)
    stream.heard(BEGIN)
    assert resumed(stream)["messages"] == [HI]
    two = stream.heard(event({"role": "assistant", "content": ""}, name="two") + piece("a", "two"))
    assert json.loads(two.removeprefix(JOINT + b"data: ")) == json.loads(piece("a").removeprefix(b"data: "))


def test_what_another_worker_sends_is_of_the_first_one_s_stream() -> None:
    """One comment at the joint, the first id, no second role, and one end."""
    stream = chat()
    stream.heard(BEGIN + piece("a "))
    resumed(stream)
    assert stream.heard(event({"role": "assistant", "content": ""}, name="two")) == b""
    out = stream.heard(piece("b", "two")) + stream.heard(event({}, "stop", "two") + b"data: [DONE]\n\n")
    assert out.count(JOINT) == 1
    said = [json.loads(each.removeprefix(b"data: ")) for each in out.removeprefix(JOINT).split(b"\n\n")[:2]]
    assert [each["id"] for each in said] == ["one", "one"]
    assert [each["choices"][0]["delta"] for each in said] == [{"content": "b"}, {}]
    assert (out.endswith(b"data: [DONE]\n\n"), stream.joints) == (True, 1)


def test_usage_is_that_of_all_parts() -> None:
    """The prompt of the first, the tokens of each; what was cached is no more than that prompt."""
    stream = chat()
    stream.heard(BEGIN + piece("a ") + piece("b "))
    resumed(stream)
    out = stream.heard(piece("c", "two") + usage.telling((12, 1)) + count(12, 1))
    told = json.loads(out.split(b"data: ")[-1])["usage"]
    assert (told["prompt_tokens"], told["completion_tokens"], told["total_tokens"]) == (10, 3, 13)
    assert told["prompt_tokens_details"] == {"cached_tokens": 10}
    assert usage.told(out)[1] == (10, 3)


def test_a_third_part_counts_both_before() -> None:
    """Its prompt is what both wrote."""
    stream = text(max_tokens=9)
    stream.heard(line(" a"))
    resumed(stream)
    stream.heard(line(" b", name="two") + line(" c", name="two"))
    assert resumed(stream) == {"model": "m", "stream": True, "prompt": "Bees a b c", "max_tokens": 6}
    assert usage.told(stream.heard(line(" d", "stop", "three") + usage.telling((4, 1))))[1] == (1, 4)
    assert stream.joints == 2


@pytest.mark.parametrize(
    ("make", "said", "end"),
    [(chat, piece, event({}, "stop", "two")), (text, line, line("", "stop", "two"))],
)
def test_a_spent_budget_leaves_the_end_alone(
    make: Callable[..., Transcript], said: Callable[..., bytes], end: bytes
) -> None:
    """Another worker is asked for a token, as none gives an end alone; nobody sees or pays it."""
    stream = make(max_tokens=2)
    stream.heard(said("a ") + said("b"))
    assert resumed(stream)["max_tokens"] == 1
    out = stream.heard(said("c", name="two") + end + usage.telling((12, 1)))
    assert (b'"length"' in out, b'"c"' in out, usage.told(out)[1]) == (True, False, (10, 2))


@pytest.mark.parametrize(
    "given",
    [
        event({"tool_calls": [{"index": 0}]}),
        event({"reasoning_content": "hm"}),
        event({"content": "a"}, choices=[{"index": 1, "delta": {"content": "a"}}]),
        event({"content": "a"}, choices=[{"index": 0, "delta": {"content": "a"}, "logprobs": {}}]),
        event({"content": 5}),
        b"data: {\n\n",
        b"event: x\ndata: 1\n\n",
        piece("a" * (MOST_TEXT + 1)),
    ],
)
def test_what_is_not_plain_text_or_too_much_is_lost(given: bytes) -> None:
    """It goes out as it is, and so does all behind it; the stream cannot be continued any more."""
    stream = chat()
    assert stream.heard(BEGIN + piece("a") + given) == BEGIN + piece("a") + given
    assert stream.heard(piece("b")) == piece("b")
    assert (stream.state, stream.resumed()) == (State.LOST, None)


def test_half_an_event_that_is_out_already_is_lost() -> None:
    """Nobody could go on within it."""
    stream = chat()
    events = NotedEvents(stream)
    events.feed(BEGIN + piece("a"))
    half = b"data: " + b"x" * MOST_TEXT
    assert (events.feed(half), events.torn, stream.state) == (half, True, State.LOST)


def test_a_finished_text_is_not_continued() -> None:
    """Only the last events are missing."""
    stream = chat()
    stream.heard(BEGIN + piece("a") + event({}, "stop"))
    assert (stream.state, stream.resumed()) == (State.FINISHED, None)


FAILED = b'data: {"error":{"message":"the engine is gone","type":"server_error"}}\n\n'


def test_a_worker_s_word_that_it_failed_is_a_break() -> None:
    """Its client does not get it while another worker can go on; what is the request's fault it gets."""
    for state, given, done in (("plain", FAILED, False), ("plain", FAILED.replace(b"server_", b"x_"), True)):
        stream = chat()
        events = NotedEvents(stream)
        events.feed(BEGIN + piece("a"))
        assert events.feed(given) == (b"" if not done else given)
        assert (stream.state, events.done) == (state, done)
    lost = chat()
    events = NotedEvents(lost)
    lost.lose()
    assert (events.feed(FAILED), events.done) == (FAILED, True)
