"""The text of a stream so far, for another worker to go on with it when the first one is gone.

of a stream        what a break does to it
plain              another worker is asked to go on
lost               nothing: it ends with an error, as every other stream does
finished           the same: its text is whole, only the last events are missing

A stream begins plain. It is lost with anything but the plain text of one choice in it, or with too much of that, and
for good. What other workers send is written as if the first one had: its id, no second beginning, one count.
"""

from enum import StrEnum
from typing import Any, Final

import msgspec

from rbee_runtime.gateway import usage
from rbee_runtime.gateway.body import Body
from rbee_runtime.gateway.events import Events
from rbee_runtime.protocol import decode

JOINT: Final = b": continued\n\n"
"""Stands where another worker goes on; to clients it is a comment."""

MOST_TEXT = 64 * 1024
"""Characters: what a queen keeps of each such stream, and what a worker reads again."""

_END = b"\n\n"
_DONE = b"data: [DONE]"


class State(StrEnum):
    """What can become of a stream; see the table above."""

    PLAIN = "plain"
    LOST = "lost"
    FINISHED = "finished"


_S = State
TRANSITIONS: dict[State, frozenset[State]] = {
    _S.PLAIN: frozenset({_S.LOST, _S.FINISHED}),
    _S.LOST: frozenset(),
    _S.FINISHED: frozenset(),
}


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None

    @property
    def is_plain(self) -> bool:
        others = (self.reasoning_content, self.reasoning, self.refusal, self.tool_calls, self.function_call, self.audio)
        return not any(others)


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta = msgspec.field(default_factory=_Delta)
    text: str = ""
    logprobs: Any = None
    finish_reason: Any = None


class _Error(msgspec.Struct):
    message: str = ""
    type: str = ""


class _Chunk(msgspec.Struct):
    id: str = ""
    created: int = 0
    model: str = ""
    choices: list[_Choice] = []
    error: _Error | None = None


_CHUNKS = msgspec.json.Decoder(_Chunk)


class Transcript:
    """One stream: its text, its tokens, and what its client knows it by.

    `body` is what was asked for, of `limit` tokens at most (0: as many as there is room for). `joints` is how often
    another worker went on with it; one that is to is asked by now if it `is_joined`, and has to say that it does where
    this `needs_word`. `failure` is what a worker said of itself and its client did not get.
    """

    def __init__(self, body: Body, *, is_chat: bool, limit: int) -> None:
        self.joints = 0
        self.is_joined = self.needs_word = False
        self.failure = ""
        self._is_chat = is_chat
        self._body = body
        self._limit = limit
        self._state = State.PLAIN
        self._head: dict[str, Any] = {}
        self._texts: list[str] = []
        self._size = 0
        self._earlier = self._now = 0
        self._owes_joint = False

    @property
    def state(self) -> State:
        """Return what can become of it."""
        return self._state

    def lose(self) -> None:
        """Give up on it: it cannot be continued any more."""
        if self._state is State.PLAIN:
            self._enter(State.LOST)
            self._texts = []

    def resumed(self) -> Body | None:
        """Return what another worker is asked for now that one is gone, None if the stream cannot be continued."""
        if self._state is not State.PLAIN:
            return None
        text = "".join(self._texts)
        # Of a part of a character the tokens were counted, but nobody has it.
        self._earlier = self._earlier + self._now if text else 0
        self._now, self.failure = 0, ""
        self.is_joined = self._owes_joint = bool(self._head)
        self.needs_word = self._is_chat and bool(text)
        return self._with(text) if text else self._body

    def heard(self, events: bytes) -> bytes:
        """Take whole events of a worker; return what the client gets of them."""
        written = b"".join([self._written(event) for event in events.split(_END) if event])
        if written and self._owes_joint:
            self._owes_joint = False
            self.joints += 1
            return JOINT + written
        return written

    @property
    def _is_spent(self) -> bool:
        """Say whether the tokens that its client asked for are out already; no worker gives an end alone."""
        return 0 < self._limit <= self._earlier

    def _with(self, text: str) -> Body:
        fields = decode(self._body.raw, dict[str, msgspec.Raw])
        left = max(self._limit - self._earlier, 1) if self._limit else 0
        changes = self._behind_messages(fields, text) if self._is_chat else self._behind_prompt(fields, text)
        if left:
            fields.pop("max_completion_tokens", None)
            changes["max_tokens"] = left
        return msgspec.structs.replace(self._body, raw=msgspec.json.encode(fields | changes), limit=left)

    def _behind_messages(self, fields: dict[str, msgspec.Raw], text: str) -> dict[str, Any]:
        messages: list[Any] = list(decode(bytes(fields["messages"]), list[msgspec.Raw]))
        said = {"role": "assistant", "content": text}
        return {"messages": [*messages, said], "continue_final_message": True, "add_generation_prompt": False}

    def _behind_prompt(self, fields: dict[str, msgspec.Raw], text: str) -> dict[str, Any]:
        return {"prompt": decode(bytes(fields["prompt"]), str) + text}

    def _written(self, event: bytes) -> bytes:
        if event.startswith(b":"):
            return self._comment(event)
        if event == _DONE or (self._state is State.LOST and not self.is_joined):
            return event + _END
        try:
            chunk = _CHUNKS.decode(event.removeprefix(b"data: "))
        except msgspec.DecodeError:
            self.lose()
            return event + _END
        if chunk.error is not None:
            return self._failed(chunk.error, event)
        self._note(chunk)
        return self._as_first(event) if self.is_joined else event + _END

    def _comment(self, event: bytes) -> bytes:
        produced = usage.produced(event)
        if produced:
            self._now = produced
            return b""
        tokens = usage.told(event + _END)[1]
        return usage.telling(self._total(*tokens)) if tokens is not None and self.is_joined else event + _END

    def _failed(self, error: _Error, event: bytes) -> bytes:
        """Keep back a worker's word that it failed, while another one can go on."""
        if self._state is not State.PLAIN or error.type != "server_error":
            return event + _END
        self.failure = error.message or "it failed"
        return b""

    def _note(self, chunk: _Chunk) -> None:
        self._head = self._head or {"id": chunk.id, "created": chunk.created, "model": chunk.model}
        if self._state is not State.PLAIN or not chunk.choices:
            return
        choice = chunk.choices[0]
        if len(chunk.choices) > 1 or choice.index or choice.logprobs is not None or not choice.delta.is_plain:
            self.lose()
            return
        text = choice.delta.content if self._is_chat else choice.text
        if text and not self._is_spent:
            self._texts.append(text)
            self._size += len(text)
            self._now += 1
        if choice.finish_reason is not None:
            self._enter(State.FINISHED)
        elif self._size > MOST_TEXT:
            self.lose()

    def _as_first(self, event: bytes) -> bytes:
        """Return an event of another worker as the first one would have sent it, b"" for one too many."""
        found: dict[str, Any] = decode(event.removeprefix(b"data: "), dict[str, Any]) | self._head
        if found.get("usage"):
            found["usage"] = self._counted(found["usage"])
        if found.get("choices") and not self._joined_choice(found["choices"][0]):
            return b""
        return b"data: " + msgspec.json.encode(found) + _END

    def _joined_choice(self, choice: dict[str, Any]) -> bool:
        """Make a choice one of a stream that began elsewhere; say whether there is anything left in it."""
        said = choice.get("delta", {}) if self._is_chat else choice
        said.pop("role", None)
        if self._is_spent:
            said.update({"content": ""} if self._is_chat else {"text": ""})
            choice["finish_reason"] = choice.get("finish_reason") and "length"
        if choice.get("finish_reason") is not None:
            return True
        return any(said.values()) if self._is_chat else bool(said.get("text"))

    def _counted(self, told: dict[str, Any]) -> dict[str, Any]:
        prompt, completion = self._total(int(told.get("prompt_tokens", 0)), int(told.get("completion_tokens", 0)))
        counted = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return told | counted | _kept_within(told.get("prompt_tokens_details"), prompt)

    def _total(self, prompt: int, completion: int) -> usage.Tokens:
        """Return the tokens of all parts: what the last one read as a prompt is the prompt and the parts before."""
        return max(prompt - self._earlier, 0), self._earlier + (0 if self._is_spent else completion)

    def _enter(self, state: State) -> None:
        if state not in TRANSITIONS[self._state]:
            raise AssertionError(f"a stream cannot go from {self._state} to {state}")
        self._state = state


def _kept_within(details: Any, prompt: int) -> dict[str, Any]:
    """Return the details of a prompt, of which not more was cached than it has."""
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return {"prompt_tokens_details": details | {"cached_tokens": min(cached, prompt)}} if cached is not None else {}


class NotedEvents(Events):
    """Events of a worker, of which a transcript is kept."""

    def __init__(self, transcript: Transcript) -> None:
        super().__init__()
        self._transcript = transcript
        self._written = b""

    @property
    def done(self) -> bool:
        """Say whether the stream came to a proper end: a word of failure is none that another worker may make good."""
        return super().done and not self._transcript.failure

    @property
    def early(self) -> str:
        """Return how it came to another one."""
        failure = self._transcript.failure
        return f"it said so itself: {failure}" if failure else super().early

    @property
    def last(self) -> bytes:
        """Return what went out last."""
        return self._written

    def feed(self, piece: bytes) -> bytes:
        """Return what can go to the client now."""
        ready = super().feed(piece)
        if not ready or not self.plausible:
            return ready
        if self.torn:
            self._transcript.lose()
            return ready
        return self._note(ready)

    def rest(self) -> bytes:
        """Return what was held back."""
        held = super().rest()
        return self._note(held) if held else held

    def _note(self, events: bytes) -> bytes:
        written = self._transcript.heard(events)
        self._written = written or self._written
        return written


def reader_of(transcript: Transcript | None) -> Events:
    """Return what reads a worker's events; of a stream that is not to be continued it reads no more than ever."""
    return Events() if transcript is None else NotedEvents(transcript)
