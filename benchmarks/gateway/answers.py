"""What is asked and what the mock workers answer, byte for byte, so that both ends agree without talking; pure.

How a worker is to answer stands in the prompt, the one place that every gateway passes on as it is.
"""

import json
import re
from dataclasses import dataclass
from functools import cache

MODELS = ("bench-a", "bench-b")
CHUNKS = 100
"""Tokens of a streamed answer that is not paced."""

WORD = " harbour"
"""Each token; an answer is checked by how many there are where its bytes are not those of the worker."""

DONE = b"data: [DONE]\n\n"
_ID, _CREATED = "chatcmpl-bench", 1700000000
_MARK = re.compile(rb"answer=(?:whole|stream):\d+:\d+")


@dataclass(frozen=True)
class Form:
    """The form of an answer: `chunks` tokens, one each `gap` milliseconds (0: all at once)."""

    stream: bool = False
    chunks: int = CHUNKS
    gap: int = 0

    @property
    def mark(self) -> str:
        """Return how a prompt asks for it."""
        return f"answer={'stream' if self.stream else 'whole'}:{self.chunks}:{self.gap}"


WHOLE, STREAM = Form(), Form(stream=True)


def wanted(body: bytes) -> Form | None:
    """Return the form that a request body asks for, None if it names none."""
    found = _MARK.search(body)
    return None if found is None else _form(found[0])


@cache
def _form(mark: bytes) -> Form:
    kind, chunks, gap = mark.decode().removeprefix("answer=").split(":")
    return Form(kind == "stream", int(chunks), int(gap))


def request(form: Form, *, port: int, key: str, model: str) -> bytes:
    """Return a whole HTTP request; without a key it has no Authorization."""
    body: dict[str, object] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are the assistant of a small harbour library."},
            {"role": "user", "content": f"Tell me when the reading room opens. {form.mark}"},
        ],
        "max_tokens": form.chunks,
        "temperature": 0,
    }
    if form.stream:
        # So that a gateway that counts tokens finds them, and one that would ask for them need not.
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    data = json.dumps(body).encode()
    headers = {
        "Host": f"127.0.0.1:{port}",
        **({"Authorization": f"Bearer {key}"} if key else {}),
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
    }
    lines = ["POST /v1/chat/completions HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join((*lines, "", "")).encode() + data


@cache
def body_of(form: Form) -> bytes:
    """Return the body of an answer without any framing."""
    return b"".join(events(form.chunks)) if form.stream else _whole(form.chunks)


@cache
def events(chunks: int) -> tuple[bytes, ...]:
    """Return a stream's events: one for each token, its usage, its end."""
    tokens = (_event(number, chunks) for number in range(chunks))
    return (*tokens, _data({**_head("chat.completion.chunk"), "choices": [], "usage": _usage(chunks)}), DONE)


def _event(number: int, chunks: int) -> bytes:
    delta: dict[str, str] = {"content": WORD} if number else {"role": "assistant", "content": WORD}
    finish = "stop" if number == chunks - 1 else None
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _data({**_head("chat.completion.chunk"), "choices": [choice]})


def _whole(chunks: int) -> bytes:
    message = {"role": "assistant", "content": WORD * chunks}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({**_head("chat.completion"), "choices": [choice], "usage": _usage(chunks)}).encode()


def _head(kind: str) -> dict[str, object]:
    return {"id": _ID, "object": kind, "created": _CREATED, "model": MODELS[0]}


def _usage(chunks: int) -> dict[str, int]:
    return {"prompt_tokens": 30, "completion_tokens": chunks, "total_tokens": 30 + chunks}


def _data(event: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def fault(form: Form, status: int, body: bytes, *, exact: bool) -> str:
    """Return what is wrong with an answer, or an empty string.

    `exact` is for gateways that pass bytes on as they come; of others the tokens are counted, and a stream has to end.
    """
    if status != 200:
        return f"status {status}: {body[:300]!r}"
    if exact:
        return "" if body == body_of(form) else f"{len(body)} bytes that are not the {len(body_of(form))} of the worker"
    if form.stream and not body.endswith(DONE):
        return f"a stream that ends with {body[-60:]!r}"
    words = body.count(WORD.encode())
    return "" if words == form.chunks else f"{words} tokens instead of {form.chunks}"
