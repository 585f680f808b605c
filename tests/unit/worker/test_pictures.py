"""Pictures in a conversation: what is taken, in which order it reaches a server, and what is refused."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbee_runtime.errors import RequestError
from rbee_runtime.worker.engines import ChatRequest, Message, Picture
from rbee_runtime.worker.engines.pictures import BLIND, refuse_pictures
from rbee_runtime.worker.engines.served import asking, projectors
from rbee_runtime.worker.engines.served.dialects import Words
from rbee_runtime.worker.surface import anthropic, openai, responses
from rbee_runtime.worker.surface.pictures import MOST_PICTURES, from_url
from tests.encoder_model import encoder_model
from tests.pictures import base64_of, data_url, gif, png
from tests.projector_model import projector_model
from tests.unit.worker.serving import served

RED = Picture("image/png", base64_of(png()))


def in_chat(*urls: str, role: str = "user") -> ChatRequest:
    """Return a chat with pictures after a text, as OpenAI's client sends it."""
    parts = [{"type": "text", "text": "see "}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
    body = {"model": "m", "messages": [{"role": role, "content": [*parts, {"type": "text", "text": "there"}]}]}
    return openai.request_of(msgspec.convert(body, openai.ChatBody))


def in_response(url: str) -> ChatRequest:
    """Return the same as the Responses API has it."""
    parts = [
        {"type": "input_text", "text": "see "},
        {"type": "input_image", "image_url": url},
        {"type": "input_text", "text": "there"},
    ]
    body = {"model": "m", "input": [{"role": "user", "content": parts}]}
    return responses.request_of(msgspec.convert(body, responses.ResponsesBody))


def in_message(source: dict[str, str]) -> ChatRequest:
    """Return the same as Anthropic's client sends it."""
    parts = [{"type": "text", "text": "see "}, {"type": "image", "source": source}, {"type": "text", "text": "there"}]
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": parts}]}
    return anthropic.request_of(msgspec.convert(body, anthropic.MessagesBody))


@pytest.mark.parametrize(
    "request_",
    [
        in_chat(data_url(png())),
        in_response(data_url(png())),
        in_message({"type": "base64", "media_type": "image/png", "data": base64_of(png())}),
    ],
    ids=["chat", "responses", "messages"],
)
def test_a_picture_reaches_the_server_in_its_place(request_: ChatRequest) -> None:
    """Between the texts around it, by each route."""
    assert request_.messages[0] == Message("user", "see there", parts=("see ", RED, "there"))
    (sent,) = asking.chat_body("m", request_, Words())["messages"]
    url = {"url": f"data:image/png;base64,{RED.data}"}
    assert sent["content"] == [
        {"type": "text", "text": "see "},
        {"type": "image_url", "image_url": url},
        {"type": "text", "text": "there"},
    ]


def test_bytes_say_of_which_kind_a_picture_is() -> None:
    """Clients often say another."""
    assert from_url(data_url(gif(), "image/png"), "x").media == "image/gif"


BOMB = png()[:16] + (60_000).to_bytes(4, "big") * 2 + png()[24:]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://192.0.2.1/bee.png", "none is fetched"),
        ("file:///etc/passwd", "none is fetched"),
        ("data:image/png,abc", "none is fetched"),
        ("data:image/png;base64,####", "not in base64"),
        ("data:image/png;base64,é", "not in base64"),
        (data_url(b""), "no picture"),
        (data_url(b"<svg width='1' height='1'></svg>", "image/svg+xml"), "no picture"),
        (data_url(png()[:18]), "no picture"),
        (data_url(gif(0, 5)), "no picture"),
        (data_url(gif(30000, 30000)), "30000 x 30000 pixels, 32,000,000 are read at most"),
        (data_url(BOMB), "60000 x 60000 pixels"),
    ],
)
def test_what_is_no_picture_of_a_fit_size_is_refused(url: str, words: str) -> None:
    """With the field that holds it; nothing is fetched, and nothing is unpacked."""
    with pytest.raises(RequestError, match=words) as refusal:
        in_chat(url)
    assert (refusal.value.status, refusal.value.param) == (400, "messages[0].content")


@pytest.mark.parametrize("source", [{"type": "url", "url": "https://192.0.2.1/a.png"}, {"type": "file", "id": "f"}])
def test_pictures_of_other_sources_are_refused(source: dict[str, str]) -> None:
    """Anthropic's other ways of naming one."""
    with pytest.raises(RequestError, match="within the request, as base64"):
        in_message(source)


def many(count: int) -> dict[str, Callable[[], ChatRequest]]:
    """Return requests with so many small pictures, by route."""
    small = base64_of(png(1, 1))
    block = {"type": "image", "source": {"type": "base64", "data": small}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [block] * count}
    part = {"type": "input_image", "image_url": data_url(png(1, 1))}

    def message(blocks: list[Any]) -> ChatRequest:
        body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": blocks}]}
        return anthropic.request_of(msgspec.convert(body, anthropic.MessagesBody))

    def response(entry: dict[str, Any]) -> ChatRequest:
        return responses.request_of(msgspec.convert({"model": "m", "input": [entry]}, responses.ResponsesBody))

    return {
        "chat": lambda: in_chat(*[data_url(png(1, 1))] * count),
        "message": lambda: message([block] * count),
        "result": lambda: message([result]),
        "response": lambda: response({"role": "user", "content": [part] * count}),
        "output": lambda: response({"type": "function_call_output", "call_id": "c", "output": [part] * count}),
    }


@pytest.mark.parametrize("route", many(0))
def test_every_route_bounds_the_number_of_pictures(route: str) -> None:
    """Also of those in results of tools."""
    assert many(MOST_PICTURES)[route]().messages
    with pytest.raises(RequestError, match=f"there are {MOST_PICTURES + 1} pictures"):
        many(MOST_PICTURES + 1)[route]()


def test_pictures_are_bounded_together() -> None:
    """Each may be large, but a server unpacks all of them at once."""
    large = data_url(gif(8000, 4000))
    assert in_chat(large, large)
    with pytest.raises(RequestError, match="96,000,000 pixels together, 64,000,000 are read"):
        in_chat(large, large, large)


def test_a_picture_of_many_parts_holds_up_nobody() -> None:
    """Its head is looked at so often and no more."""
    endless = b"\xff\xd8" + b"\xff\xe1\x00\x02" * 1_000_000
    begin = time.monotonic()
    with pytest.raises(RequestError, match="no picture"):
        in_chat(data_url(endless, "image/jpeg"))
    assert time.monotonic() - begin < 1


def test_pictures_have_a_number_and_a_place() -> None:
    """At most so many in a conversation, and none in the system's words."""
    assert len(in_chat(*[data_url(png(1, 1))] * MOST_PICTURES).messages[0].parts) == MOST_PICTURES + 2
    with pytest.raises(RequestError, match=f"there are {MOST_PICTURES + 1} pictures"):
        in_chat(*[data_url(png(1, 1))] * (MOST_PICTURES + 1))
    with pytest.raises(RequestError, match="belong into messages"):
        in_chat(data_url(png()), role="system")


@pytest.mark.parametrize("messages", [(Message("user", "a"),), (Message("user", "a"), Message("assistant", "b"))])
def test_a_model_of_text_refuses_pictures_alone(messages: tuple[Message, ...]) -> None:
    """A conversation without one is served."""
    refuse_pictures(messages, BLIND)
    with pytest.raises(RequestError, match="reads text only") as refusal:
        refuse_pictures((*messages, Message("user", "see", parts=("see", RED))), BLIND)
    assert (refusal.value.status, refusal.value.param) == (400, "messages")


async def test_a_picture_passes_the_front_over_http() -> None:
    """Up to the engine, of which the scripted one counts it as a word."""
    content: list[Any] = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": data_url(png())}}]
    async with served() as worker:
        plain = await worker.ask(messages=[{"role": "user", "content": "see"}])
        seen = await worker.ask(messages=[{"role": "user", "content": content}])
    counts = [answer.json()["usage"]["prompt_tokens"] for answer in (plain, seen)]
    assert counts[1] == counts[0] + 1


WIDTH = 32


def test_a_projector_beside_the_model_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that fits the model; among several the operator has to choose, and the model reads text until then."""
    model = encoder_model(tmp_path / "model.gguf")
    assert projectors.beside(model) is None
    projector_model(tmp_path / "mmproj-other.gguf", width=WIDTH * 2)
    assert projectors.beside(model) is None
    fitting = projector_model(tmp_path / "mmproj.gguf", width=WIDTH)
    (tmp_path / "model-00002-of-00002.gguf").write_bytes(b"a part")
    assert projectors.beside(model) == fitting
    projector_model(tmp_path / "mmproj-f16.gguf", width=WIDTH)
    assert projectors.beside(model) is None
    assert "mmproj-f16.gguf, mmproj.gguf" in capsys.readouterr().err


@pytest.mark.parametrize("other", [b"GGUF\xff", None])
def test_beside_another_model_no_projector_is_taken(tmp_path: Path, other: bytes | None) -> None:
    """Nor beside a file that cannot be read: it may be that one's."""
    model = encoder_model(tmp_path / "model.gguf")
    projector_model(tmp_path / "mmproj.gguf", width=WIDTH)
    assert projectors.beside(model) is not None
    if other is None:
        encoder_model(tmp_path / "other.gguf")
    else:
        (tmp_path / "other.gguf").write_bytes(other)
    assert projectors.beside(model) is None


def test_a_collection_of_models_is_not_searched(tmp_path: Path) -> None:
    """In a folder of many files nothing is guessed."""
    model = encoder_model(tmp_path / "model.gguf")
    projector_model(tmp_path / "mmproj.gguf", width=WIDTH)
    for index in range(projectors.MOST_FILES):
        (tmp_path / f"other-{index}.gguf").write_bytes(b"GGUF")
    assert projectors.beside(model) is None
    assert projectors.beside(tmp_path / "missing.gguf") is None
